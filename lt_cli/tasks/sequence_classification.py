"""What a text, or a pair of texts, is: one class, several classes, or a score."""

import math
from abc import abstractmethod
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MetricCollection

from lt_cli.backbones.base import EncoderBackbone
from lt_cli.data.base import Batch, DataModule
from lt_cli.data.labels import LabeledData, Labels, OneLabel, Score, SeveralLabels
from lt_cli.errors import UserError
from lt_cli.metrics import (
    accuracy,
    label_macro_f1,
    label_micro_f1,
    macro_f1,
    mean_squared_error,
    pearson,
    spearman,
    subset_accuracy,
)
from lt_cli.optim import OptimizerFactory, ScheduleFactory, WarmupCosine
from lt_cli.tasks.base import MetricFactories, Stage, Task
from lt_cli.tasks.class_report import ClassReport
from lt_cli.tasks.class_weights import ClassWeights, class_weights_of
from lt_cli.tasks.heads import DIGITS, by_name, check_parts, linear_head
from lt_cli.tasks.pooling import Pooling, pooled


class _SequenceTask(Task):
    """What the three kinds share: pooled features, dropout and a linear head.

    Attributes:
        labels_class: The kind of labels that it is for.
    """

    backbone: EncoderBackbone
    labels_class: type[Labels]

    def __init__(
        self,
        backbone: EncoderBackbone,
        optimizer: OptimizerFactory,
        schedule: ScheduleFactory | None,
        layer_decay: float,
        pooling: Pooling,
        dropout: float,
        metrics: MetricFactories,
    ) -> None:
        """Stores its parts; the head comes with the labels."""
        super().__init__(backbone, optimizer, schedule, layer_decay)
        check_parts(dropout=dropout)
        self.pooling, self.metric_factories = pooling, metrics
        self.dropout = nn.Dropout(dropout)
        if self.monitor[0].removeprefix("val/") not in metrics:
            self.monitor = ("val/loss", "min")

    def problems(self, data: DataModule) -> list[str]:
        """Sizes, and whether the labels are of the task's kind."""
        if not isinstance(data, LabeledData):
            name, wanted = type(data).__name__, "lt_cli.data.labeled_text.LabeledText"
            return [f"{type(self).__name__} needs data of texts with labels, such as {wanted}, not {name}"]
        found = super().problems(data)
        if not isinstance(data.labels, self.labels_class):
            found.append(
                f"{type(self).__name__} needs labels of another kind than {type(data.labels).__name__}: "
                f"add --data.labels=lt_cli.data.labels.{self.labels_class.__name__}"
            )
        return found

    @property
    def labels(self) -> Labels:
        """The data's, which ``problems`` has seen to be there."""
        assert isinstance(self.data, LabeledData)
        return self.data.labels

    def make_head(self, num_outputs: int) -> None:
        """A linear head, and the metrics."""
        self.head = linear_head(self.backbone.embed_dim, num_outputs)
        self.make_metrics(self.metric_factories, num_outputs)

    def scores(self, batch: Batch) -> Tensor:
        """What the head says of each row.

        Shape:
            - output: (B, C), float32
        """
        mask = batch["attention_mask"]
        features = self.backbone(batch["input_ids"], attention_mask=mask, token_type_ids=batch["token_type_ids"])
        return self.head(self.dropout(pooled(features, mask, self.pooling))).float()  # type: ignore[no-any-return]

    def step(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        """The loss, and the scores for the metrics."""
        scores = self.scores(batch)
        return self.loss(scores, batch["labels"], stage) | {"scores": scores, "labels": batch["labels"]}

    @abstractmethod
    def loss(self, scores: Tensor, labels: Tensor, stage: Stage) -> dict[str, Tensor]:
        """``loss``, and ``weight`` where it is no mean over rows."""


class SequenceClassification(_SequenceTask):
    """One of several classes for each text or pair of texts (Devlin et al. 2018, https://arxiv.org/abs/1810.04805).

    Logs ``loss``, in validation and test without smoothing or weights, and the metrics. test prints a table of the
    classes and draws the confusion matrix. predict writes the likeliest class in the label's place.

    Args:
        backbone: An encoder: our own, or any model of Hugging Face.
        optimizer: Built from the parameter groups; norms, biases and embeddings do not decay.
        schedule: Built from the optimiser and the run's number of optimiser steps; null keeps the learning rate.
        layer_decay: Factor of the learning rate from each block of the backbone to the one below it; 1 for the same
            everywhere.
        pooling: Which feature stands for a text: the first token's, the mean, or the last token's, for causal models.
        dropout: Probability of dropping an element of that feature, in training.
        label_smoothing: Part of a label that is shared out among all classes, in training (Szegedy et al. 2015,
            https://arxiv.org/abs/1512.00567).
        class_weights: Weight of each class in the training loss: balanced, the inverse of its share of the rows; a
            mapping of class names, of which those not named weigh 1; or null for none.
        metrics: Functions of the number of classes that make torchmetrics; logged under their names. Without an
            ``accuracy`` among them, the lowest loss says which checkpoint is best.
        probabilities: Whether predict also writes every class's probability.
    """

    monitor: tuple[str, Literal["min", "max"]] = ("val/accuracy", "max")
    labels_class = OneLabel

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
        class_weights: ClassWeights = None,
        metrics: MetricFactories = {"accuracy": accuracy, "macro_f1": macro_f1},  # noqa: B006  # never written to
        probabilities: bool = False,
    ) -> None:
        """Stores its parts; the head comes with the labels."""
        super().__init__(backbone, optimizer, schedule, layer_decay, pooling, dropout, metrics)
        check_parts(label_smoothing=label_smoothing)
        self.label_smoothing, self.class_weights, self.probabilities = label_smoothing, class_weights, probabilities

    def build(self, data: DataModule) -> None:
        """The head, the metrics, and the weights of the classes."""
        assert isinstance(self.labels, OneLabel)
        self.make_head(len(self.labels.names))
        weights = class_weights_of(self.class_weights, self.labels.names, self.labels.counts)
        self.loss_weights: Tensor | None
        self.register_buffer("loss_weights", weights, persistent=False)
        self.report = ClassReport(len(self.labels.names))

    def uninformed_loss(self) -> tuple[str, float]:
        """That of any class being as likely as another."""
        assert isinstance(self.labels, OneLabel)
        return "ln C", math.log(len(self.labels.names))

    def loss(self, scores: Tensor, labels: Tensor, stage: Stage) -> dict[str, Tensor]:
        """Cross entropy, in nats."""
        if stage != "train":
            return {"loss": F.cross_entropy(scores, labels)}
        loss = F.cross_entropy(scores, labels, self.loss_weights, label_smoothing=self.label_smoothing)
        return (
            {"loss": loss} if self.loss_weights is None else {"loss": loss, "weight": self.loss_weights[labels].sum()}
        )

    def update_metrics(self, metrics: MetricCollection, outputs: dict[str, Tensor], batch: Batch) -> None:
        """Metrics, and the report of the test."""
        super().update_metrics(metrics, outputs, batch)
        if metrics.prefix == "test/":
            self.report.update(outputs["scores"].argmax(-1), outputs["labels"])

    def on_test_epoch_end(self) -> None:
        """Writes the report too."""
        super().on_test_epoch_end()
        assert isinstance(self.labels, OneLabel)
        self.report.write(self.trainer, self.labels.names)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Columns ``index``, ``label``, and ``probabilities`` of all classes where they are wanted."""
        assert isinstance(self.labels, OneLabel)
        likely = self.scores(batch).softmax(-1)
        columns: dict[str, Any] = {"index": batch["index"]}
        columns["label"] = [self.labels.values[i] for i in likely.argmax(-1).tolist()]
        if self.probabilities:
            columns["probabilities"] = by_name(self.labels.names, likely)
        return columns


class MultiLabelClassification(_SequenceTask):
    """Any number of classes for each text or pair of texts, each decided for itself.

    Logs ``loss``, the binary cross entropy in nats per class, and the metrics. predict writes the list of classes in
    the label's place.

    Args:
        backbone: An encoder: our own, or any model of Hugging Face.
        optimizer: Built from the parameter groups; norms, biases and embeddings do not decay.
        schedule: Built from the optimiser and the run's number of optimiser steps; null keeps the learning rate.
        layer_decay: Factor of the learning rate from each block of the backbone to the one below it; 1 for the same
            everywhere.
        pooling: Which feature stands for a text: the first token's, the mean, or the last token's, for causal models.
        dropout: Probability of dropping an element of that feature, in training.
        threshold: Probability from which predict says that a text is of a class; the metrics' own is 0.5.
        metrics: Functions of the number of classes that make torchmetrics; logged under their names. Without a
            ``micro_f1`` among them, the lowest loss says which checkpoint is best.
        probabilities: Whether predict also writes every class's probability.
    """

    monitor: tuple[str, Literal["min", "max"]] = ("val/micro_f1", "max")
    labels_class = SeveralLabels

    def __init__(
        self,
        *,
        backbone: EncoderBackbone,
        optimizer: OptimizerFactory = torch.optim.AdamW,
        schedule: ScheduleFactory | None = WarmupCosine,
        layer_decay: float = 1.0,
        pooling: Pooling = "mean",
        dropout: float = 0.1,
        threshold: float = 0.5,
        metrics: MetricFactories = {  # noqa: B006  # never written to
            "micro_f1": label_micro_f1,
            "macro_f1": label_macro_f1,
            "subset_accuracy": subset_accuracy,
        },
        probabilities: bool = False,
    ) -> None:
        """Stores its parts; the head comes with the labels."""
        super().__init__(backbone, optimizer, schedule, layer_decay, pooling, dropout, metrics)
        if not 0 < threshold < 1:
            raise UserError(f"threshold ({threshold}) must be above 0 and below 1")
        self.threshold, self.probabilities = threshold, probabilities

    def build(self, data: DataModule) -> None:
        """The head and the metrics."""
        assert isinstance(self.labels, SeveralLabels)
        self.make_head(len(self.labels.names))

    def loss(self, scores: Tensor, labels: Tensor, stage: Stage) -> dict[str, Tensor]:
        """Binary cross entropy, in nats per class."""
        return {"loss": F.binary_cross_entropy_with_logits(scores, labels)}

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Columns ``index``, ``label`` (a list), and ``probabilities`` of all classes where they are wanted."""
        assert isinstance(self.labels, SeveralLabels)
        likely, values = self.scores(batch).sigmoid(), self.labels.values
        columns: dict[str, Any] = {"index": batch["index"]}
        chosen = (likely >= self.threshold).tolist()
        columns["label"] = [[value for value, yes in zip(values, row, strict=True) if yes] for row in chosen]
        if self.probabilities:
            columns["probabilities"] = by_name(self.labels.names, likely)
        return columns


class SequenceRegression(_SequenceTask):
    """A score for each text or pair of texts, such as how alike two sentences are (STS-B, https://arxiv.org/abs/1708.00055).

    The head predicts scores in standard deviations of the training rows', so that the learning rate does not depend on
    their unit. Logs ``loss``, the mean squared error in that unit, and the metrics in the scores' own.

    Args:
        backbone: An encoder: our own, or any model of Hugging Face.
        optimizer: Built from the parameter groups; norms, biases and embeddings do not decay.
        schedule: Built from the optimiser and the run's number of optimiser steps; null keeps the learning rate.
        layer_decay: Factor of the learning rate from each block of the backbone to the one below it; 1 for the same
            everywhere.
        pooling: Which feature stands for a text: the first token's, the mean, or the last token's, for causal models.
        dropout: Probability of dropping an element of that feature, in training.
        metrics: Functions of the number of outputs, 1, that make torchmetrics; logged under their names. Without a
            ``pearson`` among them, the lowest loss says which checkpoint is best.
    """

    monitor: tuple[str, Literal["min", "max"]] = ("val/pearson", "max")
    labels_class = Score

    def __init__(
        self,
        *,
        backbone: EncoderBackbone,
        optimizer: OptimizerFactory = torch.optim.AdamW,
        schedule: ScheduleFactory | None = WarmupCosine,
        layer_decay: float = 1.0,
        pooling: Pooling = "mean",
        dropout: float = 0.1,
        metrics: MetricFactories = {  # noqa: B006  # never written to
            "pearson": pearson,
            "spearman": spearman,
            "mean_squared_error": mean_squared_error,
        },
    ) -> None:
        """Stores its parts; the head comes with the labels."""
        super().__init__(backbone, optimizer, schedule, layer_decay, pooling, dropout, metrics)

    def build(self, data: DataModule) -> None:
        """The head and the metrics."""
        self.make_head(1)

    def scores(self, batch: Batch) -> Tensor:
        """The score of each row, in its own unit, (B,)."""
        assert isinstance(self.labels, Score)
        return super().scores(batch).squeeze(1) * self.labels.deviation + self.labels.mean

    def loss(self, scores: Tensor, labels: Tensor, stage: Stage) -> dict[str, Tensor]:
        """Mean squared error, in standard deviations."""
        assert isinstance(self.labels, Score)
        return {"loss": F.mse_loss(scores, labels) / self.labels.deviation**2}

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Columns ``index`` and ``label``, the score."""
        return {
            "index": batch["index"],
            "label": [float(f"{score:.{DIGITS}g}") for score in self.scores(batch).tolist()],
        }
