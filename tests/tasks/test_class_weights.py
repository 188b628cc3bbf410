"""Weights of classes, against scikit-learn's."""

from typing import Any

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight
from toys import message

from lt_cli.tasks.class_weights import class_weights_of

NAMES = ["bad", "good", "so so"]


def test_balanced() -> None:
    counts = [30, 4, 6]
    rows = np.repeat(np.arange(3), counts)
    found = class_weights_of("balanced", NAMES, counts)
    assert found is not None
    assert found.tolist() == pytest.approx(compute_class_weight("balanced", classes=np.arange(3), y=rows))


def test_by_name() -> None:
    assert class_weights_of(None, NAMES, [1, 1, 1]) is None
    found = class_weights_of({"so so": 2, "bad": 0.5}, NAMES, [1, 1, 1])
    assert found is not None
    assert found.tolist() == [0.5, 1, 2]


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"goood": 2.0}, "class_weights names 'goood', and the classes are bad, good, so so; did you mean good?"),
        *(
            (
                {"good": weight},
                f"class_weights of 'good' ({weight}) must be above 0: leave out rows that are not to count",
            )
            for weight in (-1.0, 0.0, float("nan"), float("inf"))
        ),
    ],
)
def test_mistakes(wanted: Any, said: str) -> None:
    assert message(lambda: class_weights_of(wanted, NAMES, [1, 1, 1])) == said
