"""What tasks share that write a text for each row: the loss of known texts, search and sampling, scores."""

from abc import abstractmethod
from typing import Any, ClassVar, NamedTuple

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torchmetrics import Metric

from lt_cli.backbones.base import LanguageBackbone
from lt_cli.beam_search import BeamSearch, beam_search
from lt_cli.data.base import Batch, DataModule
from lt_cli.data.targets import TargetData
from lt_cli.dtensors import shares_out
from lt_cli.errors import UserError
from lt_cli.generation import Decoder, Sampling, continue_prompts
from lt_cli.losses import IGNORE, label_smoothing_cost, linear_cross_entropy
from lt_cli.optim import OptimizerFactory, ScheduleFactory
from lt_cli.tasks.base import Stage, Task
from lt_cli.tasks.heads import DIGITS, check_parts


class Beginning(NamedTuple):
    """What the texts of a batch begin with.

    Attributes:
        decoder: Continues them.
        prompts: (B, T), at least one token each; what lies beyond a prompt's length is not read.
        lengths: Of the prompts.
    """

    decoder: Decoder
    prompts: Tensor
    lengths: list[int]


class WritingTask(Task):
    """A task that writes a text for each row; a subclass says from what, and how texts are scored.

    Args:
        backbone: What predicts the tokens of texts.
        optimizer: Built from the parameter groups; norms, biases and embeddings do not decay.
        schedule: Built from the optimiser and the run's number of optimiser steps; None keeps the learning rate.
        label_smoothing: Part of a token's label that is shared out among all tokens, in training.
        search: How the likeliest text is looked for; None where it is drawn.
        sampling: How tokens are drawn where there is no search.
        max_new_tokens: Tokens of a text, at most, the end token included.
        generate_in_validation: Whether validation writes texts too.
        scores: Whether predict also writes each text's ``score``, the mean log probability of its tokens in nats.

    Attributes:
        needed_data: Which data the task is for, for messages.

    Raises:
        UserError: If a number is out of its range, or there is not one of search and sampling.
    """

    backbone: LanguageBackbone
    needed_data: ClassVar[str]

    def __init__(
        self,
        *,
        backbone: LanguageBackbone,
        optimizer: OptimizerFactory,
        schedule: ScheduleFactory | None,
        label_smoothing: float,
        search: BeamSearch | None,
        sampling: Sampling | None,
        max_new_tokens: int,
        generate_in_validation: bool,
        scores: bool,
    ) -> None:
        """Stores its parts."""
        super().__init__(backbone, optimizer, schedule)
        check_parts(label_smoothing=label_smoothing)
        if max_new_tokens < 1:
            raise UserError(f"max_new_tokens ({max_new_tokens}) must be at least 1")
        if (search is None) == (sampling is None):
            said, cure = ("null", "add --model.sampling={}") if search is None else ("given", "add --model.search=null")
            raise UserError(f"search and sampling are both {said}, and one of them says how to write: {cure}")
        if search is not None and search.min_new_tokens > max_new_tokens:
            raise UserError(
                f"search.min_new_tokens ({search.min_new_tokens}) must be at most max_new_tokens ({max_new_tokens})"
            )
        self.label_smoothing, self.search, self.sampling = label_smoothing, search, sampling
        self.max_new_tokens, self.generate_in_validation, self.scores = max_new_tokens, generate_in_validation, scores

    @abstractmethod
    def features_of(self, batch: Batch, labels: Tensor) -> Tensor:
        """The features that speak of each token of texts, all of which are known.

        Shape:
            - labels: (B, T), int64, IGNORE behind the shorter ones
            - output: (B, T, D)
        """

    @abstractmethod
    def beginning(self, batch: Batch) -> Beginning:
        """What the texts of a batch begin with."""

    @abstractmethod
    def make_score(self) -> Metric:
        """What scores texts against the data's ``references``."""

    @property
    def targets(self) -> TargetData:
        """The data, which ``problems`` has seen to have targets."""
        assert isinstance(self.data, TargetData)
        return self.data

    def problems(self, data: DataModule) -> list[str]:
        """Sizes, and whether the processes can write."""
        if not isinstance(data, TargetData):
            return [f"{type(self).__name__} needs data such as {self.needed_data}, not {type(data).__name__}"]
        found = super().problems(data)
        if data.end_id >= self.backbone.vocab_size:
            found.append(
                f"the token {data.end_id} ends the data's targets, and the backbone knows {self.backbone.vocab_size}: "
                f"add --model.backbone.init_args.{self.backbone.sizes_at}vocab_size={data.end_id + 1}"
            )
        return found + self._unwritable()

    def _unwritable(self) -> list[str]:
        trainer = self._trainer
        if trainer is None or trainer.world_size == 1:
            return []
        trains_or_validates = trainer.state.fn in ("fit", "validate")
        if trains_or_validates and not self.generate_in_validation:
            return []
        return unwritable(trainer, "add --model.generate_in_validation=false, or " if trains_or_validates else "")

    def build(self, data: DataModule) -> None:
        """The metrics of what is written."""
        stages: tuple[Stage, ...] = ("val", "test") if self.generate_in_validation else ("test",)
        self.make_metrics({"texts": lambda _: self.make_score()}, 0, stages)

    def step(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        """Mean negative log likelihood of the targets' tokens."""
        return self.loss_of(self.features_of(batch, batch["labels"]), batch["labels"], stage)

    def loss_of(self, features: Tensor, labels: Tensor, stage: Stage) -> dict[str, Tensor]:
        """Mean negative log likelihood of tokens, smoothed in training."""
        matrix, bias = self.backbone.output_matrix()
        loss = linear_cross_entropy(features, matrix, bias, labels)
        if stage == "train" and self.label_smoothing:
            loss = loss + self.label_smoothing * label_smoothing_cost(features, matrix, bias, labels)
        return {"loss": loss, "weight": (labels != IGNORE).sum()}

    def of_loss(self, loss: Tensor, stage: Stage) -> dict[str, Tensor]:
        """Perplexity, where the loss is without smoothing."""
        return {} if stage == "train" and self.label_smoothing else {"perplexity": loss.exp()}

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Columns ``index``, ``target``, and ``score`` where it is wanted."""
        written = self.write(batch)
        columns: dict[str, Any] = {"index": batch["index"], "target": self.texts(written)}
        if self.scores:
            columns["score"] = self._scores(batch, written)
        return columns

    def write(self, batch: Batch) -> list[list[int]]:
        """The tokens of a text for each row, the end token included where there is one."""
        decoder, prompts, lengths = self.beginning(batch)
        end_id, most = self.targets.end_id, self.max_new_tokens
        if self.search is not None:
            found = beam_search(decoder, prompts, lengths, most, self.search, end_id)
            return [hypothesis.tokens for hypothesis in found]
        assert self.sampling is not None
        rows = batch["index"].tolist()
        return continue_prompts(
            decoder, prompts, lengths, most, self.sampling, rows, lambda tokens: tokens[-1] == end_id
        )

    def texts(self, written: list[list[int]]) -> list[str]:
        """Without the end token, which a tokenizer may have a text for."""
        end_id = self.targets.end_id
        return [self.targets.decode(tokens[:-1] if tokens[-1:] == [end_id] else tokens) for tokens in written]

    def _scores(self, batch: Batch, written: list[list[int]]) -> list[float]:
        """The mean log probability of each text's tokens; 0 where it has none."""
        labels = torch.full((len(written), max(1, *map(len, written))), IGNORE)
        for row, tokens in zip(labels, written, strict=True):
            row[: len(tokens)] = torch.tensor(tokens, dtype=torch.int64)
        labels = labels.to(self.device)
        features = self.features_of(batch, labels)
        matrix, bias = self.backbone.output_matrix()
        with torch.no_grad():
            nats = [linear_cross_entropy(x, matrix, bias, y) for x, y in zip(features, labels, strict=True)]
        return [round(-loss.item(), DIGITS) + 0.0 for loss in nats]


def unwritable(trainer: Trainer, cure: str) -> list[str]:
    """Who shares out the weights needs those of the others once a token, and texts are not equally long."""
    if not shares_out(trainer.strategy):
        return []
    name = type(trainer.strategy).__name__
    return [
        f"texts are not written by processes that share out the weights ({name}), as each needs them as often as "
        f"its own texts are long: {cure}use --trainer.strategy=ddp, or --trainer.devices=1"
    ]
