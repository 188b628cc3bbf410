"""Dialogue about a video: answers questions, from the video and from what was said before."""

import math
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torchmetrics import MetricCollection

from lt_cli.backbones.base import VideoTextBackbone
from lt_cli.beam_search import BeamSearch
from lt_cli.coco_scores import CocoScores
from lt_cli.data.base import Batch, DataModule
from lt_cli.data.targets import TargetData
from lt_cli.errors import UserError
from lt_cli.generation import Sampling, VectorPrompts
from lt_cli.losses import IGNORE
from lt_cli.optim import OptimizerFactory, ScheduleFactory, WarmupCosine
from lt_cli.tasks.base import Stage
from lt_cli.tasks.heads import linear_head
from lt_cli.tasks.writing import Beginning, WritingTask


@runtime_checkable
class VideoData(Protocol):
    """What the task asks of its data beside targets.

    Batches have ``token_type_ids`` of the sources, ``video`` (B, F, V) and ``num_frames`` (B,), the places of a row
    that are frames; the kind of a source's last token is also that of the answer.

    Attributes:
        num_segments: Kinds of places.
    """

    num_segments: int

    @property
    def video_dim(self) -> int | None:
        """Numbers in a frame; None before ``setup``."""
        ...


class VideoDialogue(WritingTask):
    """Answers questions about a video (Alamri et al. 2019, https://arxiv.org/abs/1901.09107).

    What it learns is the answers, and, with the weight ``frame_weight``, to foretell each frame from those before it
    (Li et al. 2020, https://arxiv.org/abs/2002.00163). Logs ``loss`` in nats per token of the answers, ``perplexity``,
    and ``frame_loss``, the mean square error of a frame's numbers; and of the answers that it writes itself, the scores
    of COCO: ``bleu1`` to ``bleu4``, ``meteor``, ``rougeL`` and ``cider`` against all right answers. predict puts what
    it writes in the last answer's place.

    The best checkpoint is that with the highest ``cider``, which the challenges rank by; and that with the lowest loss
    where validation writes no answers.

    Args:
        backbone: A text model that reads frames too.
        optimizer: Built from the parameter groups; norms, biases and embeddings do not decay.
        schedule: Built from the optimiser and the run's number of optimiser steps; null keeps the learning rate.
        frame_weight: Factor of the frames' loss beside the answers'; 0 leaves it out.
        label_smoothing: Part of a token's label that is shared out among all tokens, in training (Szegedy et al. 2015,
            https://arxiv.org/abs/1512.00567).
        search: How the likeliest answer is looked for; null where it is drawn.
        sampling: How tokens are drawn where there is no search; the same row is always drawn alike.
        max_new_tokens: Tokens of an answer, at most, the end token included.
        generate_in_validation: Whether validation writes answers too, which takes far longer than the loss; one with
            ``trainer.limit_val_batches`` writes fewer.
        synonyms: Whether METEOR also takes synonyms for the same word; nltk must have WordNet for it.
        scores: Whether predict also writes each answer's ``score``, the mean log probability of its tokens in nats.

    Raises:
        UserError: If a number is out of its range, or there is not one of search and sampling.
    """

    backbone: VideoTextBackbone
    needed_data = "lt_cli.data.video_dialogs.VideoDialogs"

    def __init__(
        self,
        *,
        backbone: VideoTextBackbone,
        optimizer: OptimizerFactory = torch.optim.AdamW,
        schedule: ScheduleFactory | None = WarmupCosine,
        frame_weight: float = 1.0,
        label_smoothing: float = 0.0,
        search: BeamSearch | None = BeamSearch(num_beams=5, min_new_tokens=5, length_penalty=0.3),  # noqa: B008  # frozen
        sampling: Sampling | None = None,
        max_new_tokens: int = 20,
        generate_in_validation: bool = False,
        synonyms: bool = False,
        scores: bool = False,
    ) -> None:
        """Stores its parts, and draws the head that foretells frames."""
        super().__init__(
            backbone=backbone,
            optimizer=optimizer,
            schedule=schedule,
            label_smoothing=label_smoothing,
            search=search,
            sampling=sampling,
            max_new_tokens=max_new_tokens,
            generate_in_validation=generate_in_validation,
            scores=scores,
        )
        if not 0 <= frame_weight < math.inf:
            rule = "must be a finite number of at least 0, which leaves the frames' loss out"
            raise UserError(f"frame_weight ({frame_weight}) {rule}")
        self.synonyms = synonyms
        self.other_losses = {"frame_loss": frame_weight} if frame_weight else {}
        self.frame_head = linear_head(backbone.embed_dim, backbone.video_dim) if frame_weight else None
        self.monitor = ("val/cider", "max") if generate_in_validation else ("val/loss", "min")

    def problems(self, data: DataModule) -> list[str]:
        """Sizes of tokens and frames, and whether the processes can write."""
        if not isinstance(data, VideoData):
            return [f"VideoDialogue needs data such as {self.needed_data}, not {type(data).__name__}"]
        found, backbone = super().problems(data), self.backbone
        for name, wanted, known in (
            ("video_dim", data.video_dim, backbone.video_dim),
            ("num_segments", data.num_segments, backbone.num_segments),
        ):
            if wanted not in (None, known):
                what = "numbers in a frame" if name == "video_dim" else "kinds of places in a row"
                trains = self._trainer is None or self._trainer.state.fn == "fit"
                cure = (
                    f"add --model.backbone.init_args.{name}={wanted}"
                    if trains
                    else "give it those that it learned with"
                )
                found.append(f"the data has {wanted} {what}, the backbone {known}: {cure}")
        if isinstance(data, TargetData) and self.max_new_tokens > (room := data.max_target_len):
            found.append(
                f"max_new_tokens ({self.max_new_tokens}) must be at most the data's max_target_len ({room}), which is "
                f"kept free for answers: add --model.max_new_tokens={room}, or --data.max_target_len="
                f"{self.max_new_tokens}"
            )
        return found

    def make_score(self) -> CocoScores:
        """BLEU, METEOR, ROUGE-L and CIDEr."""
        return CocoScores(self.synonyms)

    def update_metrics(self, metrics: MetricCollection, outputs: dict[str, Tensor], batch: Batch) -> None:
        """Writes the answers, and adds them to what is scored."""
        metrics.update(self.texts(self.write(batch)), batch["references"], batch["index"])

    def step(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        """Mean negative log likelihood of the answers' tokens, and mean square error of the frames foretold."""
        labels = batch["labels"]
        features, places = self._read(batch, labels)
        outputs = self.loss_of(_at(features, places - 1), labels, stage)
        return outputs if self.frame_head is None else outputs | self._frame_loss(features, batch)

    def _frame_loss(self, features: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Of all frames but each video's first; padding has no part in it."""
        assert self.frame_head is not None
        video, counts = batch["video"], batch["num_frames"]
        is_foretold = torch.arange(1, video.shape[1], device=video.device) < counts[:, None]
        foretold = self.frame_head(features[:, : video.shape[1] - 1])
        errors = (foretold.float() - video[:, 1:].float()).square().mean(-1)
        weight = is_foretold.sum()
        return {
            "frame_loss": errors.masked_fill(~is_foretold, 0).sum() / weight.clamp(min=1),
            "frame_loss_weight": weight,
        }

    def features_of(self, batch: Batch, labels: Tensor) -> Tensor:
        """See WritingTask."""
        features, places = self._read(batch, labels)
        return _at(features, places - 1)

    def _read(self, batch: Batch, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Features of rows with texts right behind them, as wide as the longest, and the places of the texts' tokens.

        Shape:
            - labels: (B, T)
            - features: (B, W, D), W at most S + T
            - places: (B, T); what is ignored may have any
        """
        prompts = self._prompts(batch)
        lengths = batch["attention_mask"].sum(1)
        places = lengths[:, None] + torch.arange(labels.shape[1], device=labels.device)
        # what is ignored comes last, and nothing before it looks ahead
        answers = self.backbone.embed_tokens(labels.clamp(min=0), token_type_ids=_last_kind(batch).expand_as(labels))
        rows = torch.cat([prompts, torch.zeros_like(answers)], dim=1)
        rows = rows.scatter(1, places[..., None].expand_as(answers), answers)
        width = int((lengths + (labels != IGNORE).sum(1)).max())
        return self.backbone.read(rows[:, :width]), places.clamp(max=width)

    def _prompts(self, batch: Batch) -> Tensor:
        return self.backbone.embed(
            batch["input_ids"],
            token_type_ids=batch["token_type_ids"],
            video=batch["video"],
            num_frames=batch["num_frames"],
        )

    def beginning(self, batch: Batch) -> Beginning:
        """The rows; what is written behind them is of the kind of their last tokens."""
        lengths, kinds = batch["attention_mask"].sum(1), int(_last_kind(batch)[0])

        def embed(tokens: Tensor) -> Tensor:
            return self.backbone.embed_tokens(tokens, token_type_ids=torch.full_like(tokens, kinds))

        decoder = VectorPrompts(self.backbone, self._prompts(batch), lengths, embed)
        return Beginning(decoder, batch["input_ids"], lengths.tolist())


def _last_kind(batch: Batch) -> Tensor:
    """The kind of each row's last token, (B, 1)."""
    ends = batch["attention_mask"].sum(1, keepdim=True) - 1
    kinds: Tensor = batch["token_type_ids"].gather(1, ends)
    return kinds


def _at(features: Tensor, places: Tensor) -> Tensor:
    """Features (B, S, D) at places (B, T)."""
    return features.gather(1, places[..., None].expand(-1, -1, features.shape[-1]))
