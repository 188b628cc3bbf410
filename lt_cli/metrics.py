"""Metrics as factories of the number of classes, labels or values, with the averages that scikit-learn has."""

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassF1Score,
    MulticlassMatthewsCorrCoef,
    MulticlassPrecision,
    MulticlassRecall,
    MultilabelExactMatch,
    MultilabelF1Score,
)
from torchmetrics.regression import MeanSquaredError, PearsonCorrCoef, SpearmanCorrCoef


def accuracy(num_classes: int) -> Metric:
    """Share of rows whose likeliest class is right (micro average; torchmetrics' own default is macro)."""
    return MulticlassAccuracy(num_classes, average="micro")


def macro_precision(num_classes: int) -> Metric:
    """Mean over classes of the share of a class's predictions that are right; see ``macro_f1``."""
    return MulticlassPrecision(num_classes, average="macro")


def macro_recall(num_classes: int) -> Metric:
    """Mean over classes of the share of a class's rows that are found; see ``macro_f1``."""
    return MulticlassRecall(num_classes, average="macro")


def macro_f1(num_classes: int) -> Metric:
    """Mean over classes of the harmonic mean of precision and recall.

    A class that is neither a row's label nor a prediction is left out; one that is either counts, if need be as 0.
    """
    return MulticlassF1Score(num_classes, average="macro")


def weighted_precision(num_classes: int) -> Metric:
    """Precision of the classes, weighted by their rows."""
    return MulticlassPrecision(num_classes, average="weighted")


def weighted_recall(num_classes: int) -> Metric:
    """Recall of the classes, weighted by their rows, which is the accuracy."""
    return MulticlassRecall(num_classes, average="weighted")


def weighted_f1(num_classes: int) -> Metric:
    """F1 of the classes, weighted by their rows."""
    return MulticlassF1Score(num_classes, average="weighted")


def matthews(num_classes: int) -> Metric:
    """Matthews' correlation of classes and predictions, -1 to 1; 0 where all rows or all predictions are one class."""
    return MulticlassMatthewsCorrCoef(num_classes)


class _SubsetAccuracy(MultilabelExactMatch):
    """Torchmetrics', of logits: it takes logits for probabilities where a batch's all lie between 0 and 1."""

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Adds rows, whose labels are those more likely than not."""
        super().update((preds > 0).to(torch.int), target)


class _LabelF1(MultilabelF1Score):
    """Torchmetrics', of logits: it takes logits for probabilities where a batch's all lie between 0 and 1."""

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Adds rows, whose labels are those more likely than not."""
        super().update((preds > 0).to(torch.int), target)


def subset_accuracy(num_labels: int) -> Metric:
    """Share of rows all of whose labels are right, of logits (B, num_labels): those above 0 are chosen."""
    return _SubsetAccuracy(num_labels)


def label_micro_f1(num_labels: int) -> Metric:
    """F1 over all rows' labels together, of logits (B, num_labels): those above 0 are chosen."""
    return _LabelF1(num_labels, average="micro")


def label_macro_f1(num_labels: int) -> Metric:
    """Mean over labels of their F1, of logits (B, num_labels): those above 0 are chosen; one that is nowhere is 0."""
    return _LabelF1(num_labels, average="macro")


class _Pearson(PearsonCorrCoef):
    """Torchmetrics', as one number."""

    def compute(self) -> Tensor:
        """Mean over the outputs."""
        return super().compute().mean()


class _Spearman(SpearmanCorrCoef):
    """Torchmetrics', as one number."""

    def compute(self) -> Tensor:
        """Mean over the outputs."""
        return super().compute().mean()


def mean_squared_error(num_outputs: int) -> Metric:
    """Mean of the squared differences, over rows and outputs."""
    return MeanSquaredError()


def pearson(num_outputs: int) -> Metric:
    """Pearson's correlation of predictions and values; of several outputs the mean."""
    return _Pearson(num_outputs)


def spearman(num_outputs: int) -> Metric:
    """Spearman's correlation of the ranks of predictions and values; of several outputs the mean.

    It keeps all rows in memory.
    """
    return _Spearman(num_outputs)
