"""What a row of numbers is, be it of a table or a picture: one class, several classes, or a score."""

import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection

from lt_cli.backbones.base import PooledBackbone
from lt_cli.data.base import Batch, DataModule, PictureInputs
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
from lt_cli.tasks.base import MetricFactories
from lt_cli.tasks.class_weights import ClassWeights
from lt_cli.tasks.labeled import OneLabelTask, Output, ScoreTask, SeveralLabelsTask
from lt_cli.tasks.mistakes import Mistakes
from lt_cli.tasks.readers import InputReader


class Classification(OneLabelTask):
    """One of several classes for each picture or row of a table, by a linear head on a backbone's features.

    Logs ``loss``, in validation and test without smoothing or weights, and the metrics. test prints a table of the
    classes and draws the confusion matrix, and of pictures those that were most wrongly taken for another class.
    predict writes the likeliest class in the label's place.

    Args:
        backbone: Makes a feature of each row.
        optimizer: Built from the parameter groups; norms, biases and embeddings do not decay.
        schedule: Built from the optimiser and the run's number of optimiser steps; null keeps the learning rate.
        layer_decay: Factor of the learning rate from each block of the backbone to the one below it; 1 for the same
            everywhere.
        backbone_lr_scale: Factor of the learning rate of all of the backbone beside the head's, above 0, at most 1.
        dropout: Probability of dropping an element of a feature, in training.
        loss: A module that makes a loss of scores (B, C) and classes (B,); null for the cross entropy in nats.
        label_smoothing: Part of a label that is shared out among all classes, in training (Szegedy et al. 2015,
            https://arxiv.org/abs/1512.00567).
        class_weights: Weight of each class in the training loss: balanced, the inverse of its share of the rows; a
            mapping of class names, of which those not named weigh 1; or null for none.
        metrics: Functions of the number of classes that make torchmetrics; logged under their names. Without an
            ``accuracy`` among them, the lowest loss says which checkpoint is best.
        outputs: What predict says of a row: label, label_index, probability, probabilities and logits of all classes.
    """

    def __init__(
        self,
        *,
        backbone: PooledBackbone,
        optimizer: OptimizerFactory = torch.optim.AdamW,
        schedule: ScheduleFactory | None = WarmupCosine,
        layer_decay: float = 1.0,
        backbone_lr_scale: float = 1.0,
        dropout: float = 0.0,
        loss: nn.Module | None = None,
        label_smoothing: float = 0.0,
        class_weights: ClassWeights = None,
        metrics: MetricFactories = {"accuracy": accuracy, "macro_f1": macro_f1},  # noqa: B006  # never written to
        outputs: list[Output] = ["label"],  # noqa: B006  # never written to
    ) -> None:
        """Stores its parts; the head comes with the labels."""
        super().__init__(
            backbone=backbone,
            optimizer=optimizer,
            schedule=schedule,
            layer_decay=layer_decay,
            backbone_lr_scale=backbone_lr_scale,
            reader=InputReader(),
            dropout=dropout,
            loss=loss,
            metrics=metrics,
            outputs=outputs,
        )
        self.weigh(label_smoothing, class_weights)

    def build(self, data: DataModule) -> None:
        """The head, as wide as the features and the labels, the metrics, and the weights of the classes."""
        super().build(data)
        self.mistakes = Mistakes()

    def update_metrics(self, metrics: MetricCollection, outputs: dict[str, Tensor], batch: Batch) -> None:
        """Metrics, and the report and the mistakes of the test."""
        super().update_metrics(metrics, outputs, batch)
        if metrics.prefix == "test/" and isinstance(self.data, PictureInputs):
            self.mistakes.update(outputs["scores"], outputs["labels"], batch["index"])

    def on_test_epoch_end(self) -> None:
        """Writes the report, and draws the mistakes."""
        super().on_test_epoch_end()
        if isinstance(self.data, PictureInputs):
            self.mistakes.write(self.trainer, self.classes.names, self.data)


class MultiLabel(SeveralLabelsTask):
    """Any number of classes for each picture or row of a table, each decided for itself.

    Logs ``loss``, the binary cross entropy in nats per class, and the metrics. test prints a table of the classes.
    predict writes the list of classes in the label's place.

    Args:
        backbone: Makes a feature of each row.
        optimizer: Built from the parameter groups; norms, biases and embeddings do not decay.
        schedule: Built from the optimiser and the run's number of optimiser steps; null keeps the learning rate.
        layer_decay: Factor of the learning rate from each block of the backbone to the one below it; 1 for the same
            everywhere.
        backbone_lr_scale: Factor of the learning rate of all of the backbone beside the head's, above 0, at most 1.
        dropout: Probability of dropping an element of a feature, in training.
        loss: A module that makes a loss of scores (B, C) and targets (B, C), 0 or 1; null for the binary cross entropy.
        threshold: Probability from which predict says that a row is of a class; the metrics' own is 0.5.
        metrics: Functions of the number of classes that make torchmetrics; logged under their names. Without a
            ``micro_f1`` among them, the lowest loss says which checkpoint is best.
        outputs: What predict says of a row: label and label_index, lists; probabilities and logits of all classes.
    """

    def __init__(
        self,
        *,
        backbone: PooledBackbone,
        optimizer: OptimizerFactory = torch.optim.AdamW,
        schedule: ScheduleFactory | None = WarmupCosine,
        layer_decay: float = 1.0,
        backbone_lr_scale: float = 1.0,
        dropout: float = 0.0,
        loss: nn.Module | None = None,
        threshold: float = 0.5,
        metrics: MetricFactories = {  # noqa: B006  # never written to
            "micro_f1": label_micro_f1,
            "macro_f1": label_macro_f1,
            "subset_accuracy": subset_accuracy,
        },
        outputs: list[Output] = ["label"],  # noqa: B006  # never written to
    ) -> None:
        """Stores its parts; the head comes with the labels."""
        super().__init__(
            backbone=backbone,
            optimizer=optimizer,
            schedule=schedule,
            layer_decay=layer_decay,
            backbone_lr_scale=backbone_lr_scale,
            reader=InputReader(),
            dropout=dropout,
            loss=loss,
            metrics=metrics,
            outputs=outputs,
        )
        self.decide_from(threshold)


class Regression(ScoreTask):
    """A score for each picture or row of a table.

    The head predicts scores in standard deviations of the training rows', so that the learning rate does not depend on
    their unit. Logs ``loss``, the mean squared error in that unit, and the metrics in the scores' own.

    Args:
        backbone: Makes a feature of each row.
        optimizer: Built from the parameter groups; norms, biases and embeddings do not decay.
        schedule: Built from the optimiser and the run's number of optimiser steps; null keeps the learning rate.
        layer_decay: Factor of the learning rate from each block of the backbone to the one below it; 1 for the same
            everywhere.
        backbone_lr_scale: Factor of the learning rate of all of the backbone beside the head's, above 0, at most 1.
        dropout: Probability of dropping an element of a feature, in training.
        loss: A module that makes a loss of scores and targets (B,), both in the scores' own unit; null for the mean
            squared error in standard deviations.
        metrics: Functions of the number of outputs, 1, that make torchmetrics; logged under their names. Without a
            ``pearson`` among them, the lowest loss says which checkpoint is best.
    """

    def __init__(
        self,
        *,
        backbone: PooledBackbone,
        optimizer: OptimizerFactory = torch.optim.AdamW,
        schedule: ScheduleFactory | None = WarmupCosine,
        layer_decay: float = 1.0,
        backbone_lr_scale: float = 1.0,
        dropout: float = 0.0,
        loss: nn.Module | None = None,
        metrics: MetricFactories = {  # noqa: B006  # never written to
            "pearson": pearson,
            "spearman": spearman,
            "mean_squared_error": mean_squared_error,
        },
    ) -> None:
        """Stores its parts; the head comes with the labels."""
        super().__init__(
            backbone=backbone,
            optimizer=optimizer,
            schedule=schedule,
            layer_decay=layer_decay,
            backbone_lr_scale=backbone_lr_scale,
            reader=InputReader(),
            dropout=dropout,
            loss=loss,
            metrics=metrics,
        )
