"""What a row is: one class, several classes, or a score, from one feature of it.

B: rows, C: classes, D: features.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MetricCollection

from lt_cli.backbones.base import Backbone
from lt_cli.data.base import Batch, DataModule
from lt_cli.data.labels import LabeledData, Labels, OneLabel, Score, SeveralLabels
from lt_cli.errors import UserError
from lt_cli.optim import OptimizerFactory, ScheduleFactory
from lt_cli.tasks.base import MetricFactories, Stage, Task
from lt_cli.tasks.class_report import ClassReport, LabelReport
from lt_cli.tasks.class_weights import ClassWeights, class_weights_of
from lt_cli.tasks.heads import DIGITS, by_name, check_parts, linear_head
from lt_cli.tasks.readers import Reader

Output = Literal["label", "label_index", "probability", "probabilities", "logits"]
"""What predict may say of a row: its class, the number and probability of that, and those of every class."""


class LabeledTask(Task):
    """Dropout and a linear head on a feature of each row.

    Args:
        backbone: Inputs to features.
        optimizer: Built from the parameter groups.
        schedule: Built from the optimiser and the run's number of optimiser steps, or None.
        layer_decay: Factor of the learning rate from each block of the backbone to the one below it.
        backbone_lr_scale: Factor of the learning rate of the backbone beside the head's.
        reader: Which feature of a row the head sees.
        dropout: Probability of dropping an element of the feature, in training.
        loss: Scores and targets to a loss, or None for the usual.
        metrics: Functions of the number of outputs that make torchmetrics.
        outputs: What predict says of a row.

    Attributes:
        labels_class: The kind of labels that it is for.
        known_outputs: What it can say of a row.
    """

    labels_class: ClassVar[type[Labels]]
    known_outputs: ClassVar[tuple[Output, ...]] = ("label",)

    def __init__(
        self,
        *,
        backbone: Backbone,
        optimizer: OptimizerFactory,
        schedule: ScheduleFactory | None,
        layer_decay: float,
        backbone_lr_scale: float = 1.0,
        reader: Reader,
        dropout: float,
        loss: nn.Module | None = None,
        metrics: MetricFactories,
        outputs: Sequence[Output] = ("label",),
    ) -> None:
        """Stores its parts; the head comes with the labels."""
        super().__init__(backbone, optimizer, schedule, layer_decay, backbone_lr_scale)
        check_parts(dropout=dropout)
        if not outputs or len({*outputs}) < len(outputs):
            raise UserError(f"outputs ({list(outputs)}) must name something to predict, and nothing twice")
        if unknown := [name for name in outputs if name not in self.known_outputs]:
            raise UserError(
                f"outputs ({unknown[0]}) must be some of {', '.join(self.known_outputs)} in {type(self).__name__}"
            )
        self.reader, self.metric_factories, self.loss_function, self.outputs = reader, metrics, loss, outputs
        self.dropout = nn.Dropout(dropout)
        if self.monitor[0].removeprefix("val/") not in metrics:
            self.monitor = ("val/loss", "min")

    def configure_model(self) -> None:
        """Lets backbone and data meet, checks them, and builds once."""
        if self.data is not None:
            self.reader.meet(self.backbone, self.data)
        super().configure_model()

    def problems(self, data: DataModule) -> list[str]:
        """The kind of data, sizes, and whether the labels are of the task's kind."""
        if (misfit := self.reader.misfit(self.backbone, data)) is not None:
            return [f"{type(self).__name__} {misfit}"]
        assert isinstance(data, LabeledData)
        found = super().problems(data)
        if not isinstance(data.labels, self.labels_class):
            found.append(
                f"{type(self).__name__} needs labels of another kind than {type(data.labels).__name__}: "
                f"add --data.labels=lt_cli.data.labels.{self.labels_class.__name__}"
            )
        return found

    def on_fit_start(self) -> None:
        """Refuses batches that the backbone cannot be trained on."""
        super().on_fit_start()
        if self.data is not None:
            self.reader.check_training(self.backbone, self.data)

    @property
    def labels(self) -> Labels:
        """The data's, which ``problems`` has seen to be there."""
        assert isinstance(self.data, LabeledData)
        return self.data.labels

    def make_head(self, num_outputs: int) -> None:
        """A linear head, and the metrics."""
        if self.data is not None:
            self.reader.prepare(self.backbone, self.data)
        self.head = linear_head(self.backbone.embed_dim, num_outputs)
        self.make_metrics(self.metric_factories, num_outputs)

    def scores(self, batch: Batch) -> Tensor:
        """What the head says of each row.

        Shape:
            - output: (B, C), float32
        """
        return self.head(self.dropout(self.reader.features(self.backbone, batch))).float()  # type: ignore[no-any-return]

    def step(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        """The loss, and the scores for the metrics."""
        scores = self.scores(batch)
        return self.loss(scores, batch["labels"], stage) | {"scores": scores, "labels": batch["labels"]}

    @abstractmethod
    def loss(self, scores: Tensor, labels: Tensor, stage: Stage) -> dict[str, Tensor]:
        """``loss``, and ``weight`` where it is no mean over rows."""

    def chosen_loss(self, scores: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """That of ``loss_function``."""
        assert self.loss_function is not None
        loss: Tensor = self.loss_function(scores, labels)
        if loss.ndim:
            name, shape = type(self.loss_function).__name__, tuple(loss.shape)
            raise UserError(f"loss ({name}) must give one number for a batch, not {shape}: leave reduction at its mean")
        return {"loss": loss}

    def columns(self, batch: Batch, makers: dict[Output, Callable[[], Any]]) -> dict[str, Any]:
        """``index``, and what is wanted of what can be said."""
        return {"index": batch["index"]} | {name: makers[name]() for name in self.outputs}


class OneLabelTask(LabeledTask):
    """One of several classes for each row.

    Attributes:
        label_smoothing: Part of a label that is shared out among all classes, in training.
        class_weights: Weight of each class in the training loss, or None.
    """

    monitor: tuple[str, Literal["min", "max"]] = ("val/accuracy", "max")
    labels_class = OneLabel
    known_outputs = ("label", "label_index", "probability", "probabilities", "logits")
    label_smoothing: float = 0.0
    class_weights: ClassWeights = None

    def weigh(self, label_smoothing: float, class_weights: ClassWeights) -> None:
        """Takes over how labels count in the training loss; a constructor's last line."""
        check_parts(label_smoothing=label_smoothing)
        if self.loss_function is not None and (label_smoothing or class_weights is not None):
            raise UserError(
                f"label_smoothing ({label_smoothing}) and class_weights ({class_weights}) have no use beside a loss of "
                "one's own: give them to that, or leave it out"
            )
        self.label_smoothing, self.class_weights = label_smoothing, class_weights

    @property
    def classes(self) -> OneLabel:
        """The labels, which are classes."""
        assert isinstance(self.labels, OneLabel)
        return self.labels

    def build(self, data: DataModule) -> None:
        """The head, the metrics, and the weights of the classes."""
        self.make_head(len(self.classes.names))
        weights = class_weights_of(self.class_weights, self.classes.names, self.classes.counts)
        self.loss_weights: Tensor | None
        self.register_buffer("loss_weights", weights, persistent=False)
        self.report = ClassReport(len(self.classes.names))

    def uninformed_loss(self) -> tuple[str, float] | None:
        """That of any class being as likely as another."""
        return None if self.loss_function is not None else ("ln C", math.log(len(self.classes.names)))

    def loss(self, scores: Tensor, labels: Tensor, stage: Stage) -> dict[str, Tensor]:
        """Cross entropy, in nats; in training smoothed and weighted, in validation and test neither.

        Shape:
            - scores: (B, C)
            - labels: (B,), or (B, C) where rows are mixtures of several
        """
        if self.loss_function is not None:
            return self.chosen_loss(scores, labels)
        if stage != "train":
            return {"loss": F.cross_entropy(scores, labels)}
        loss = F.cross_entropy(scores, labels, self.loss_weights, label_smoothing=self.label_smoothing)
        if self.loss_weights is None or labels.ndim > 1:  # a mean over rows, if they are mixtures
            return {"loss": loss}
        return {"loss": loss, "weight": self.loss_weights[labels].sum()}

    def update_metrics(self, metrics: MetricCollection, outputs: dict[str, Tensor], batch: Batch) -> None:
        """Metrics, of mixtures by their largest part, and the report of the test."""
        labels = outputs["labels"].argmax(-1) if outputs["labels"].ndim > 1 else outputs["labels"]
        super().update_metrics(metrics, outputs | {"labels": labels}, batch)
        if metrics.prefix == "test/":
            self.report.update(outputs["scores"].argmax(-1), labels)

    def on_test_epoch_end(self) -> None:
        """Writes the report too."""
        super().on_test_epoch_end()
        self.report.write(self.trainer, self.classes.names)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Column ``index``, and those of ``outputs``; probabilities and logits are mappings by class."""
        logits = self.scores(batch)
        likely, numbers = logits.softmax(-1), logits.argmax(-1).tolist()
        return self.columns(
            batch,
            {
                "label": lambda: [self.classes.values[i] for i in numbers],
                "label_index": lambda: numbers,
                "probability": lambda: [round(value, DIGITS) for value in likely.amax(-1).tolist()],
                "probabilities": lambda: by_name(self.classes.names, likely),
                "logits": lambda: by_name(self.classes.names, logits),
            },
        )


class SeveralLabelsTask(LabeledTask):
    """Any number of classes for each row, each decided for itself.

    Attributes:
        threshold: Probability from which a row is said to be of a class.
    """

    monitor: tuple[str, Literal["min", "max"]] = ("val/micro_f1", "max")
    labels_class = SeveralLabels
    known_outputs = ("label", "label_index", "probabilities", "logits")
    threshold: float = 0.5

    def decide_from(self, threshold: float) -> None:
        """Takes over the threshold; a constructor's last line."""
        if not 0 < threshold < 1:
            raise UserError(f"threshold ({threshold}) must be above 0 and below 1")
        self.threshold = threshold

    @property
    def classes(self) -> SeveralLabels:
        """The labels, which are classes."""
        assert isinstance(self.labels, SeveralLabels)
        return self.labels

    def build(self, data: DataModule) -> None:
        """The head and the metrics."""
        self.make_head(len(self.classes.names))
        self.report = LabelReport(len(self.classes.names))

    def update_metrics(self, metrics: MetricCollection, outputs: dict[str, Tensor], batch: Batch) -> None:
        """Metrics, and the report of the test."""
        super().update_metrics(metrics, outputs, batch)
        if metrics.prefix == "test/":
            self.report.update(outputs["scores"] > 0, outputs["labels"])

    def on_test_epoch_end(self) -> None:
        """Writes the report too."""
        super().on_test_epoch_end()
        self.report.write(self.classes.names)

    def loss(self, scores: Tensor, labels: Tensor, stage: Stage) -> dict[str, Tensor]:
        """Binary cross entropy, in nats per class."""
        if self.loss_function is not None:
            return self.chosen_loss(scores, labels)
        return {"loss": F.binary_cross_entropy_with_logits(scores, labels)}

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Column ``index``, and those of ``outputs``: a label is a list, probabilities and logits mappings by class."""
        logits = self.scores(batch)
        likely, values = logits.sigmoid(), self.classes.values
        chosen = [[i for i, yes in enumerate(row) if yes] for row in (likely >= self.threshold).tolist()]
        return self.columns(
            batch,
            {
                "label": lambda: [[values[i] for i in row] for row in chosen],
                "label_index": lambda: chosen,
                "probabilities": lambda: by_name(self.classes.names, likely),
                "logits": lambda: by_name(self.classes.names, logits),
            },
        )


class ScoreTask(LabeledTask):
    """A score for each row; the head predicts it in standard deviations of the training rows'."""

    monitor: tuple[str, Literal["min", "max"]] = ("val/pearson", "max")
    labels_class = Score

    @property
    def unit(self) -> Score:
        """The labels, which are scores."""
        assert isinstance(self.labels, Score)
        return self.labels

    def build(self, data: DataModule) -> None:
        """The head and the metrics."""
        self.make_head(1)

    def scores(self, batch: Batch) -> Tensor:
        """The score of each row, in its own unit, (B,)."""
        return super().scores(batch).squeeze(1) * self.unit.deviation + self.unit.mean

    def loss(self, scores: Tensor, labels: Tensor, stage: Stage) -> dict[str, Tensor]:
        """Mean squared error, in standard deviations."""
        if self.loss_function is not None:
            return self.chosen_loss(scores, labels)
        return {"loss": F.mse_loss(scores, labels) / self.unit.deviation**2}

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Columns ``index`` and ``label``, the score."""
        return self.columns(
            batch, {"label": lambda: [float(f"{score:.{DIGITS}g}") for score in self.scores(batch).tolist()]}
        )
