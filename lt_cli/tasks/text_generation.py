"""Writes a text for each text: summaries, translations, answers."""

from typing import Any, Literal

import torch
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from torch import Tensor
from torchmetrics import MetricCollection

from lt_cli.backbones.base import Seq2SeqBackbone
from lt_cli.beam_search import BeamSearch, beam_search
from lt_cli.data.base import Batch, DataModule
from lt_cli.data.targets import TargetData
from lt_cli.errors import UserError
from lt_cli.generation import Conditioned, Sampling, continue_prompts
from lt_cli.losses import IGNORE, label_smoothing_cost, linear_cross_entropy
from lt_cli.optim import OptimizerFactory, ScheduleFactory, WarmupCosine
from lt_cli.tasks.base import Stage, Task
from lt_cli.tasks.heads import DIGITS, check_parts
from lt_cli.text_metrics import GenerationScores


class TextGeneration(Task):
    """Writes the target of each source, token by token (Sutskever et al. 2014, https://arxiv.org/abs/1409.3215).

    Logs ``loss`` in nats per token of the targets and ``perplexity``, in validation and test without smoothing; and of
    what it writes there itself, ``rouge1``, ``rouge2``, ``rougeL`` and ``bleu`` against the data's texts. predict puts
    what it writes in the target's place.

    The best checkpoint is that with the highest ``rougeL``: what is wanted are good texts, and the loss, which sees
    each token after the data's own, often rises while they still get better. It is that with the highest ``bleu`` where
    ``bleu_tokenize`` says zh or char, as ROUGE's words stand between spaces; and that with the lowest loss where
    validation writes no texts.

    Args:
        backbone: An encoder-decoder.
        optimizer: Built from the parameter groups; norms, biases and embeddings do not decay.
        schedule: Built from the optimiser and the run's number of optimiser steps; null keeps the learning rate.
        label_smoothing: Part of a token's label that is shared out among all tokens, in training (Szegedy et al. 2015,
            https://arxiv.org/abs/1512.00567).
        search: How the likeliest text is looked for; null where it is drawn.
        sampling: How tokens are drawn where there is no search; the same row is always drawn alike.
        max_new_tokens: Tokens of a text, at most, the end token included.
        generate_in_validation: Whether validation writes texts too, which takes far longer than the loss; one with
            ``trainer.limit_val_batches`` writes fewer.
        bleu_tokenize: How BLEU finds words: sacreBLEU's default, one that knows Unicode's punctuation, one for
            Chinese, characters, or spaces only, for text that has tokens already.
        scores: Whether predict also writes each text's ``score``, the mean log probability of its tokens in nats.

    Raises:
        UserError: If a number is out of its range, or there is not one of search and sampling.
    """

    backbone: Seq2SeqBackbone

    def __init__(
        self,
        *,
        backbone: Seq2SeqBackbone,
        optimizer: OptimizerFactory = torch.optim.AdamW,
        schedule: ScheduleFactory | None = WarmupCosine,
        label_smoothing: float = 0.0,
        search: BeamSearch | None = BeamSearch(),  # noqa: B008  # frozen
        sampling: Sampling | None = None,
        max_new_tokens: int = 128,
        generate_in_validation: bool = True,
        bleu_tokenize: Literal["13a", "intl", "zh", "char", "none"] = "13a",
        scores: bool = False,
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
        self.max_new_tokens, self.generate_in_validation = max_new_tokens, generate_in_validation
        self.bleu_tokenize, self.scores = bleu_tokenize, scores
        score = "bleu" if bleu_tokenize in ("zh", "char") else "rougeL"
        self.monitor = (f"val/{score}", "max") if generate_in_validation else ("val/loss", "min")

    @property
    def targets(self) -> TargetData:
        """The data, which ``problems`` has seen to have targets."""
        assert isinstance(self.data, TargetData)
        return self.data

    def problems(self, data: DataModule) -> list[str]:
        """Sizes, and whether the processes can write."""
        if not isinstance(data, TargetData):
            name = type(data).__name__
            return [f"TextGeneration needs data such as lt_cli.data.text_to_text.TextToText, not {name}"]
        found = super().problems(data)
        room = self.backbone.max_target_len
        if data.max_target_len > room:
            found.append(
                f"the data has targets of {data.max_target_len} tokens, the backbone takes {room}: "
                f"add --data.max_target_len={room}, or --model.backbone.init_args.max_target_len={data.max_target_len}"
            )
        if self.max_new_tokens > room:
            found.append(
                f"max_new_tokens ({self.max_new_tokens}) must be at most the backbone's max_target_len ({room}): "
                f"add --model.max_new_tokens={room}"
            )
        if data.end_id >= self.backbone.vocab_size:
            found.append(
                f"the token {data.end_id} ends the data's targets, and the backbone knows {self.backbone.vocab_size}: "
                f"add --model.backbone.init_args.vocab_size={data.end_id + 1}"
            )
        return found + self._unwritable()

    def _unwritable(self) -> list[str]:
        """Who shares out the weights needs those of the others once a token, and texts are not equally long."""
        trainer = self._trainer
        if trainer is None or not isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy):
            return []
        trains_or_validates = trainer.state.fn in ("fit", "validate")
        if trainer.world_size == 1 or (trains_or_validates and not self.generate_in_validation):
            return []
        cure = "add --model.generate_in_validation=false, or " if trains_or_validates else ""
        name = type(trainer.strategy).__name__
        return [
            f"texts are not written by processes that share out the weights ({name}), as each needs them as often as "
            f"its own texts are long: {cure}use --trainer.strategy=ddp, or --trainer.devices=1"
        ]

    def build(self, data: DataModule) -> None:
        """The metrics of what is written."""
        stages: tuple[Stage, ...] = ("val", "test") if self.generate_in_validation else ("test",)
        self.make_metrics({"texts": lambda _: GenerationScores(self.bleu_tokenize)}, 0, stages)

    def step(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        """Mean negative log likelihood of the targets' tokens."""
        labels = batch["labels"]
        features = self._features(batch, labels)
        matrix, bias = self.backbone.output_matrix()
        loss = linear_cross_entropy(features, matrix, bias, labels)
        if stage == "train" and self.label_smoothing:
            loss = loss + self.label_smoothing * label_smoothing_cost(features, matrix, bias, labels)
        return {"loss": loss, "weight": (labels != IGNORE).sum()}

    def of_loss(self, loss: Tensor, stage: Stage) -> dict[str, Tensor]:
        """Perplexity, where the loss is without smoothing."""
        return {} if stage == "train" and self.label_smoothing else {"perplexity": loss.exp()}

    def _features(self, batch: Batch, labels: Tensor) -> Tensor:
        """Of each token of the targets, which the decoder sees one place later."""
        before = torch.full_like(labels, self.backbone.start_id)
        before[:, 1:] = labels[:, :-1].clamp(min=0)  # what is ignored comes last, and the decoder does not look ahead
        return self.backbone(  # type: ignore[no-any-return]
            batch["input_ids"], attention_mask=batch["attention_mask"], decoder_input_ids=before
        )

    def update_metrics(self, metrics: MetricCollection, outputs: dict[str, Tensor], batch: Batch) -> None:
        """Writes the texts, and adds their scores."""
        metrics.update(self._texts(self._write(batch)), batch["references"])

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Columns ``index``, ``target``, and ``score`` where it is wanted."""
        written = self._write(batch)
        columns: dict[str, Any] = {"index": batch["index"], "target": self._texts(written)}
        if self.scores:
            columns["score"] = self._scores(batch, written)
        return columns

    def _write(self, batch: Batch) -> list[list[int]]:
        """The tokens of a text for each source, the end token included where there is one."""
        decoder = Conditioned(self.backbone, batch["input_ids"], batch["attention_mask"])
        lengths, end_id, most = [1] * len(decoder.start), self.targets.end_id, self.max_new_tokens
        if self.search is not None:
            found = beam_search(decoder, decoder.start, lengths, most, self.search, end_id)
            return [hypothesis.tokens for hypothesis in found]
        assert self.sampling is not None
        rows = batch["index"].tolist()
        return continue_prompts(
            decoder, decoder.start, lengths, most, self.sampling, rows, lambda tokens: tokens[-1] == end_id
        )

    def _texts(self, written: list[list[int]]) -> list[str]:
        """Without the end token, which a tokenizer may have a text for."""
        end_id = self.targets.end_id
        return [self.targets.decode(tokens[:-1] if tokens[-1:] == [end_id] else tokens) for tokens in written]

    def _scores(self, batch: Batch, written: list[list[int]]) -> list[float]:
        """The mean log probability of each text's tokens; 0 where it has none."""
        labels = torch.full((len(written), max(1, *map(len, written))), IGNORE)
        for row, tokens in zip(labels, written, strict=True):
            row[: len(tokens)] = torch.tensor(tokens, dtype=torch.int64)
        labels = labels.to(self.device)
        features = self._features(batch, labels)
        matrix, bias = self.backbone.output_matrix()
        with torch.no_grad():
            nats = [linear_cross_entropy(x, matrix, bias, y) for x, y in zip(features, labels, strict=True)]
        return [round(-loss.item(), DIGITS) + 0.0 for loss in nats]
