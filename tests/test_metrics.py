"""Metrics by name, against scikit-learn and scipy."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
import torch
from torch import Tensor
from torchmetrics import Metric

from lt_cli import metrics

CLASSES = 5


def average(score: Callable[..., float], kind: str) -> Callable[[Any, Any], float]:
    return lambda labels, predicted: score(labels, predicted, average=kind, zero_division=0)


BY_NAME: dict[str, Callable[[Any, Any], float]] = {
    "accuracy": sklearn.metrics.accuracy_score,
    "macro_precision": average(sklearn.metrics.precision_score, "macro"),
    "macro_recall": average(sklearn.metrics.recall_score, "macro"),
    "macro_f1": average(sklearn.metrics.f1_score, "macro"),
    "weighted_precision": average(sklearn.metrics.precision_score, "weighted"),
    "weighted_recall": average(sklearn.metrics.recall_score, "weighted"),
    "weighted_f1": average(sklearn.metrics.f1_score, "weighted"),
    "matthews": sklearn.metrics.matthews_corrcoef,
}


def scored(metric: Metric, scores: Tensor, labels: Tensor) -> Tensor:
    """In batches of three."""
    for first in range(0, len(labels), 3):
        metric.update(scores[first : first + 3], labels[first : first + 3])
    return metric.compute()


@pytest.mark.parametrize(
    "classes",
    [(range(CLASSES), range(CLASSES)), ([0, 1], [1, 4]), ([2], [2]), ([1], [0, 1]), ([0, 1], [1])],
    ids=["all", "some", "one", "one label", "one prediction"],
)
@pytest.mark.parametrize("name", BY_NAME)
def test_classification_is_scikit_learns(name: str, classes: tuple[list[int], list[int]]) -> None:
    """Also where classes have no rows, which lower no mean, or rows and no predictions, which do."""
    rng = np.random.default_rng(0)
    labels, predicted = (torch.tensor(rng.choice(list(which), 40)) for which in classes)
    logits = torch.randn(40, CLASSES).clamp(-3, 3) + 10 * torch.nn.functional.one_hot(predicted, CLASSES)
    value = scored(getattr(metrics, name)(CLASSES), logits, labels)
    assert value.item() == pytest.approx(BY_NAME[name](labels, predicted), abs=1e-6)


@pytest.mark.parametrize("scale", [0.4, 5.0])
def test_labels_are_chosen_by_the_sign_of_their_logit(scale: float) -> None:
    """Also where a batch's logits all lie between 0 and 1, which torchmetrics takes for probabilities."""
    generator = torch.Generator().manual_seed(0)
    logits = scale * torch.rand(30, 4, generator=generator)
    logits[9:] -= scale / 2
    labels = (torch.rand(30, 4, generator=generator) < 0.6).long()
    labels[:, 3], logits[9:, 3] = 0, -1.0
    chosen, wanted = (logits > 0).long().numpy(), labels.numpy()
    f1 = sklearn.metrics.f1_score
    expected = {
        metrics.subset_accuracy: sklearn.metrics.accuracy_score(wanted, chosen),
        metrics.label_micro_f1: f1(wanted, chosen, average="micro", zero_division=0),
        metrics.label_macro_f1: f1(wanted, chosen, average="macro", zero_division=0),
    }
    for factory, value in expected.items():
        assert scored(factory(4), logits, labels).item() == pytest.approx(value, abs=1e-6)


def test_a_label_that_is_nowhere_is_zero_in_the_mean() -> None:
    logits, labels = torch.tensor([[1.0, -1.0]]), torch.tensor([[1, 0]])
    assert scored(metrics.label_macro_f1(2), logits, labels).item() == 0.5


@pytest.mark.parametrize("shape", [(30,), (30, 1), (30, 3)])
def test_regression_is_scipys(shape: tuple[int, ...]) -> None:
    """Of several outputs the mean, as one number."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(0, 6, shape, generator=generator).float()  # with ties
    scores = values + torch.randn(shape, generator=generator)
    columns = [pair.T.numpy() for pair in torch.stack([scores, values], dim=-1).view(30, -1, 2).unbind(dim=1)]
    expected = {
        metrics.pearson: np.mean([scipy.stats.pearsonr(*pair).statistic for pair in columns]),
        metrics.spearman: np.mean([scipy.stats.spearmanr(*pair).statistic for pair in columns]),
        metrics.mean_squared_error: np.mean([(pair[0] - pair[1]) ** 2 for pair in columns]),
    }
    for factory, value in expected.items():
        assert scored(factory(len(columns)), scores, values).item() == pytest.approx(value, abs=1e-5)
