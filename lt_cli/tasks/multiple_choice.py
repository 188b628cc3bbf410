"""Which of several choices is right.

B: rows, C: choices of a row, at most, S: sequences, one for each choice of the batch.
"""

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lt_cli.backbones.base import EncoderBackbone
from lt_cli.data.base import Batch, DataModule
from lt_cli.data.choice_rows import MultipleChoiceData
from lt_cli.optim import OptimizerFactory, ScheduleFactory, WarmupCosine
from lt_cli.tasks.base import Stage, Task
from lt_cli.tasks.heads import DIGITS, check_parts, linear_head
from lt_cli.tasks.pooling import Pooling, pooled


class MultipleChoice(Task):
    """Scores each choice of a row with its text, and takes the best (SWAG in Devlin et al. 2018, https://arxiv.org/abs/1810.04805).

    The softmax is over a row's own choices, however many they are. Logs ``loss``, the cross entropy in nats, in
    validation and test without smoothing, and ``accuracy``. predict writes the label of the best choice in the label's
    place, as the training rows have labels.

    Args:
        backbone: An encoder: our own, or any model of Hugging Face.
        optimizer: Built from the parameter groups; norms, biases and embeddings do not decay.
        schedule: Built from the optimiser and the run's number of optimiser steps; null keeps the learning rate.
        layer_decay: Factor of the learning rate from each block of the backbone to the one below it; 1 for the same
            everywhere.
        pooling: Which feature stands for a text with a choice: the first token's, the mean, or the last token's, for
            causal models.
        dropout: Probability of dropping an element of that feature, in training.
        label_smoothing: Part of a label that is shared out among a row's choices, in training (Szegedy et al. 2015,
            https://arxiv.org/abs/1512.00567).
        probabilities: Whether predict also writes the probability of each choice, in the row's order.
    """

    monitor: tuple[str, Literal["min", "max"]] = ("val/accuracy", "max")
    backbone: EncoderBackbone

    def __init__(
        self,
        *,
        backbone: EncoderBackbone,
        optimizer: OptimizerFactory = torch.optim.AdamW,
        schedule: ScheduleFactory | None = WarmupCosine,
        layer_decay: float = 1.0,
        pooling: Pooling = "mean",
        dropout: float = 0.1,
        label_smoothing: float = 0.0,
        probabilities: bool = False,
    ) -> None:
        """Stores its parts, and makes a head of one score."""
        super().__init__(backbone, optimizer, schedule, layer_decay)
        check_parts(dropout=dropout, label_smoothing=label_smoothing)
        self.pooling, self.label_smoothing, self.probabilities = pooling, label_smoothing, probabilities
        self.dropout = nn.Dropout(dropout)
        # without a bias: what all choices have more is nothing to a softmax
        self.head = linear_head(backbone.embed_dim, 1, bias=False)

    def problems(self, data: DataModule) -> list[str]:
        """Sizes, and whether there are choices."""
        if not isinstance(data, MultipleChoiceData):
            name = type(data).__name__
            return [f"{type(self).__name__} needs data of choices, such as lt_cli.data.choices.ChoiceData, not {name}"]
        return super().problems(data)

    def uninformed_loss(self) -> tuple[str, float]:
        """That of any choice of a row being as likely as another."""
        assert isinstance(self.data, MultipleChoiceData)
        counts = self.data.choice_counts
        mean = sum(rows * math.log(number) for number, rows in counts.items()) / sum(counts.values())
        return "ln C" if len(counts) == 1 else "mean of ln C", mean

    def scores(self, batch: Batch) -> Tensor:
        """The score of each choice, and -inf where a row has fewer.

        Shape:
            - output: (B, C), float32
        """
        mask, is_choice = batch["attention_mask"], batch["is_choice"]
        features = self.backbone(batch["input_ids"], attention_mask=mask, token_type_ids=batch["token_type_ids"])
        scores = self.head(self.dropout(pooled(features, mask, self.pooling))).float().squeeze(1)
        place = is_choice.flatten().cumsum(0).sub(1).clamp(min=0).view_as(is_choice)  # of each choice in the batch
        return scores[place].masked_fill(~is_choice, float("-inf"))  # type: ignore[no-any-return]

    def step(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        """Cross entropy over each row's choices, in nats, and the share of rows whose best choice is right."""
        scores, labels = self.scores(batch), batch["labels"]
        log_likely = scores.log_softmax(-1)
        losses = -log_likely.gather(1, labels[:, None]).squeeze(1)
        if stage == "train" and self.label_smoothing:
            is_choice = batch["is_choice"]
            spread = -log_likely.masked_fill(~is_choice, 0.0).sum(1) / is_choice.sum(1)
            losses = torch.lerp(losses, spread, self.label_smoothing)
        return {"loss": losses.mean(), "accuracy": (scores.argmax(-1) == labels).float().mean()}

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Columns ``index``, ``choice``, the number of the best, and ``probabilities`` where they are wanted."""
        scores = self.scores(batch)
        columns: dict[str, Any] = {"index": batch["index"], "choice": scores.argmax(-1).tolist()}
        if self.probabilities:
            rows = zip(scores.softmax(-1).tolist(), batch["is_choice"].sum(1).tolist(), strict=True)
            columns["probabilities"] = [[round(value, DIGITS) for value in likely[:count]] for likely, count in rows]
        return columns
