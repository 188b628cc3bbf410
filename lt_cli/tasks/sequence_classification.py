"""What a text, or a pair of texts, is: one class, several classes, or a score."""

import torch

from lt_cli.backbones.base import EncoderBackbone
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
from lt_cli.tasks.labeled import OneLabelTask, ScoreTask, SeveralLabelsTask
from lt_cli.tasks.pooling import Pooling
from lt_cli.tasks.readers import TextReader


class SequenceClassification(OneLabelTask):
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
        super().__init__(
            backbone=backbone,
            optimizer=optimizer,
            schedule=schedule,
            layer_decay=layer_decay,
            reader=TextReader(pooling),
            dropout=dropout,
            metrics=metrics,
            outputs=("label", "probabilities") if probabilities else ("label",),
        )
        self.weigh(label_smoothing, class_weights)


class MultiLabelClassification(SeveralLabelsTask):
    """Any number of classes for each text or pair of texts, each decided for itself.

    Logs ``loss``, the binary cross entropy in nats per class, and the metrics. test prints a table of the classes.
    predict writes the list of classes in the label's place.

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
        super().__init__(
            backbone=backbone,
            optimizer=optimizer,
            schedule=schedule,
            layer_decay=layer_decay,
            reader=TextReader(pooling),
            dropout=dropout,
            metrics=metrics,
            outputs=("label", "probabilities") if probabilities else ("label",),
        )
        self.decide_from(threshold)


class SequenceRegression(ScoreTask):
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
        super().__init__(
            backbone=backbone,
            optimizer=optimizer,
            schedule=schedule,
            layer_decay=layer_decay,
            reader=TextReader(pooling),
            dropout=dropout,
            metrics=metrics,
        )
