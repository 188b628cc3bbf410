"""What each word of a sentence is: a named entity, a part of speech, a chunk."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from lt_cli.backbones.base import EncoderBackbone
from lt_cli.data.base import Batch, DataModule
from lt_cli.data.token_labels import TokenLabels, TokenLabelsData
from lt_cli.metrics import accuracy, macro_f1
from lt_cli.optim import OptimizerFactory, ScheduleFactory, WarmupCosine
from lt_cli.reports import span_table
from lt_cli.tasks.base import Stage, Task
from lt_cli.tasks.class_report import ClassReport
from lt_cli.tasks.class_weights import ClassWeights, class_weights_of
from lt_cli.tasks.heads import by_name, check_parts, linear_head
from lt_cli.text_metrics import SpanScores, TokenAccuracy


class TokenClassification(Task):
    """One of several classes for each word, of whose tokens the first stands for it (Devlin et al. 2018, section 5.3).

    https://arxiv.org/abs/1810.04805. Logs ``loss`` in nats per word, in validation and test without smoothing or
    weights, and ``accuracy``, the share of words whose class is right. Where labels are spans, also ``span_precision``,
    ``span_recall`` and ``span_f1``, as conlleval and seqeval count them, and the best checkpoint has the highest
    span_f1; otherwise ``macro_f1`` of the classes, and the best has the highest accuracy. test prints a table of the
    spans' types, or of the classes, and draws the classes' confusion matrix. predict writes labels in the scheme of the
    data.

    Args:
        backbone: An encoder: our own, or any model of Hugging Face.
        optimizer: Built from the parameter groups; norms, biases and embeddings do not decay.
        schedule: Built from the optimiser and the run's number of optimiser steps; null keeps the learning rate.
        layer_decay: Factor of the learning rate from each block of the backbone to the one below it; 1 for the same
            everywhere.
        dropout: Probability of dropping an element of a word's feature, in training.
        label_smoothing: Part of a label that is shared out among all classes, in training (Szegedy et al. 2015,
            https://arxiv.org/abs/1512.00567).
        class_weights: Weight of each class in the training loss: balanced, the inverse of its share of the words; a
            mapping of class names, in BIO where labels are spans, of which those not named weigh 1; or null for none.
        probabilities: Whether predict also writes every class's probability, for each word.
    """

    backbone: EncoderBackbone
    monitor: tuple[str, Literal["min", "max"]] = ("val/span_f1", "max")

    def __init__(
        self,
        *,
        backbone: EncoderBackbone,
        optimizer: OptimizerFactory = torch.optim.AdamW,
        schedule: ScheduleFactory | None = WarmupCosine,
        layer_decay: float = 1.0,
        dropout: float = 0.1,
        label_smoothing: float = 0.0,
        class_weights: ClassWeights = None,
        probabilities: bool = False,
    ) -> None:
        """Stores its parts; the head comes with the labels."""
        super().__init__(backbone, optimizer, schedule, layer_decay)
        check_parts(dropout=dropout, label_smoothing=label_smoothing)
        self.dropout = nn.Dropout(dropout)
        self.label_smoothing, self.class_weights, self.probabilities = label_smoothing, class_weights, probabilities

    def problems(self, data: DataModule) -> list[str]:
        """Sizes, and whether words have labels."""
        if not isinstance(data, TokenLabelsData):
            name, wanted = type(data).__name__, "lt_cli.data.labeled_tokens.LabeledTokens"
            return [f"{type(self).__name__} needs data of words with labels, such as {wanted}, not {name}"]
        return super().problems(data)

    @property
    def labels(self) -> TokenLabels:
        """The data's, which ``problems`` has seen to be there."""
        assert isinstance(self.data, TokenLabelsData)
        return self.data.token_labels

    def build(self, data: DataModule) -> None:
        """The head, the metrics, and the weights of the classes."""
        names, types = self.labels.names, self.labels.types
        self.head = linear_head(self.backbone.embed_dim, len(names))
        weights = class_weights_of(self.class_weights, names, self.labels.counts)
        self.loss_weights: Tensor | None
        self.register_buffer("loss_weights", weights, persistent=False)
        self.report = ClassReport(len(names))
        self.has_spans = bool(types)

        def of_spans(num_classes: int) -> Metric:
            return SpanScores(types)

        def of_words(num_classes: int) -> Metric:
            return TokenAccuracy()

        if self.has_spans:
            self.make_metrics({"accuracy": of_words, "spans": of_spans}, len(names))
        else:
            self.monitor = ("val/accuracy", "max")
            self.make_metrics({"accuracy": accuracy, "macro_f1": macro_f1}, len(names))

    def uninformed_loss(self) -> tuple[str, float]:
        """That of any class being as likely as another."""
        return "ln C", math.log(len(self.labels.names))

    def scores(self, batch: Batch) -> Tensor:
        """What the head says of each word of the batch's rows, one row after the other.

        Shape:
            - output: (W, C), float32
        """
        mask = batch["attention_mask"]
        features = self.backbone(batch["input_ids"], attention_mask=mask, token_type_ids=batch["token_type_ids"])
        of_words = features[batch["word_sequence"], batch["word_position"]]
        return self.head(self.dropout(of_words)).float()  # type: ignore[no-any-return]

    def step(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        """Cross entropy, in nats per word, and the scores for the metrics."""
        scores, labels = self.scores(batch), batch["labels"]
        outputs = {"scores": scores, "labels": labels, "weight": batch["num_words"].sum()}
        if stage != "train":
            return outputs | {"loss": F.cross_entropy(scores, labels)}
        if self.loss_weights is not None:
            outputs["weight"] = self.loss_weights[labels].sum()
        loss = F.cross_entropy(scores, labels, self.loss_weights, label_smoothing=self.label_smoothing)
        return outputs | {"loss": loss}

    def by_row(self, classes: Tensor, batch: Batch) -> list[list[Any]]:
        """Classes of words as the data calls them, row by row."""
        values = self.labels.values
        return [[values[i] for i in row] for row in _split(classes.tolist(), batch["num_words"].tolist())]

    def update_metrics(self, metrics: MetricCollection, outputs: dict[str, Tensor], batch: Batch) -> None:
        """Metrics of classes, or of the spans that they spell, and the report of the test."""
        likeliest = outputs["scores"].argmax(-1)
        if self.has_spans:
            metrics.update(self.by_row(likeliest, batch), self.by_row(outputs["labels"], batch))
        else:
            metrics.update(likeliest, outputs["labels"])
        if metrics.prefix == "test/":
            self.report.update(likeliest, outputs["labels"])

    def on_test_epoch_end(self) -> None:
        """Writes the report too."""
        table = None
        if self.has_spans:
            spans = self.metrics["test_metrics"]["spans"]  # type: ignore[index]
            table = span_table(spans.counts_by_type(), self.labels.types)
        super().on_test_epoch_end()
        self.report.write(self.trainer, self.labels.names, table)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Columns ``index``, ``labels``, a list, and where they are wanted ``probabilities`` of each word's classes."""
        likely = self.scores(batch).softmax(-1)
        columns = {"index": batch["index"], "labels": self.by_row(likely.argmax(-1), batch)}
        if self.probabilities:
            columns["probabilities"] = _split(by_name(self.labels.names, likely), batch["num_words"].tolist())
        return columns


def _split(values: Sequence[Any], sizes: Sequence[int]) -> list[list[Any]]:
    """Consecutive parts."""
    parts, start = [], 0
    for size in sizes:
        parts.append(list(values[start : start + size]))
        start += size
    return parts
