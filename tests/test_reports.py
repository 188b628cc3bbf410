"""Tables of classes and spans, and pictures of confusion matrices."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import classification_report

from lt_cli.reports import DARKEST, class_table, confusion_picture, span_table


def made(num_classes: int, rows: int = 300) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, num_classes, rows)
    return labels, np.where(rng.random(rows) < 0.7, labels, rng.integers(0, num_classes, rows))


def matrix(labels: NDArray[np.int64], predicted: NDArray[np.int64], num_classes: int) -> NDArray[np.int64]:
    confusion = np.zeros((num_classes, num_classes), dtype=np.int64)
    np.add.at(confusion, (labels, predicted), 1)
    return confusion


def cells(lines: list[str]) -> dict[str, list[str]]:
    """The numbers of a table under the names of its lines, which may have spaces in them."""
    return {line[:14].strip(): line[14:].split() for line in lines[1:] if line}


@pytest.mark.parametrize("missing", [[], [2], [0, 3]], ids=["all classes", "one without rows", "two without rows"])
def test_the_table_is_scikit_learns(missing: list[int]) -> None:
    """Class 1 is never predicted."""
    labels, predicted = made(5)
    kept = ~np.isin(labels, missing) & ~np.isin(predicted, missing)
    labels, predicted = labels[kept], np.where(predicted[kept] == 1, 4, predicted[kept])
    names = [f"class {i}" for i in range(5)]
    there = sorted(set(labels) | set(predicted))
    report = classification_report(
        labels, predicted, target_names=[names[i] for i in there], output_dict=True, zero_division=0
    )
    found = cells(class_table(matrix(labels, predicted, 5), names))
    assert list(found) == [*names, "accuracy", "macro avg", "weighted avg"]
    assert found.pop("accuracy") == [f"{report.pop('accuracy'):.3f}", str(len(labels))]
    for i in missing:
        assert found.pop(names[i]) == ["–", "–", "–", "0"]
    for name, row in report.items():
        numbers = [f"{row[column]:.3f}" for column in ("precision", "recall", "f1-score")]
        assert found.pop(name) == [*numbers, f"{row['support']:.0f}"]
    assert found == {}


def test_the_table_is_aligned() -> None:
    lines = class_table(np.array([[90, 10], [0, 12345]]), ["a", "a long name"])
    assert lines == [
        "class         precision  recall     f1  support",
        "a                 1.000   0.900  0.947      100",
        "a long name       0.999   1.000  1.000    12345",
        "",
        "accuracy                         0.999    12445",
        "macro avg         1.000   0.950  0.973    12445",
        "weighted avg      0.999   0.999  0.999    12445",
    ]


def test_nothing_to_report_is_zeros() -> None:
    assert cells(class_table(np.zeros((2, 2), dtype=np.int64), ["a", "b"]))["macro avg"] == ["0.000"] * 3 + ["0"]


@pytest.mark.parametrize("others", [[], [[0, 0, 0]], [[0, 1, 0]]], ids=["no slot", "none", "one"])
def test_the_table_of_spans_is_seqevals(others: list[list[int]]) -> None:
    """Numbers computed with seqeval 1.2.2, on the spans of test_text_metrics; the untyped one has a dash for a name."""
    counts = np.array([[1, 3, 3], [2, 2, 2], [0, 2, 1], *others])
    found = cells(span_table(counts, ["A", "", "C"]))
    assert found["A"] == ["0.333", "0.333", "0.333", "3"]
    assert found["_"] == ["1.000", "1.000", "1.000", "2"]
    assert found["C"] == ["0.000", "0.000", "0.000", "1"]
    assert ("(other)" in found) == (others == [[0, 1, 0]])
    if "(other)" not in found:
        assert found["micro avg"] == ["0.429", "0.500", "0.462", "6"]
        assert found["macro avg"] == ["0.444", "0.444", "0.444", "6"]
        assert found["weighted avg"] == ["0.500", "0.500", "0.500", "6"]


def corners(picture: NDArray[np.uint8], num_classes: int) -> NDArray[np.uint8]:
    """A pixel of each cell, away from its number: the matrix is found by its lines, which end at its last row."""
    is_line = (picture == [226, 230, 236]).all(axis=-1)
    along = is_line.sum(axis=1), is_line.sum(axis=0)
    rows, columns = (np.flatnonzero(count > 0.9 * count.max()) for count in along)
    assert len(rows) == len(columns) == num_classes + 1
    return picture[rows[:-1, None] + 2, columns[None, :-1] + 2]


@pytest.mark.parametrize("num_classes", [1, 2, 9, 30, 40])
def test_a_cell_is_as_dark_as_its_share_of_the_line(num_classes: int) -> None:
    confusion = matrix(*made(num_classes), num_classes)
    confusion[-1] = 0  # a class without rows
    picture = confusion_picture(confusion, [f"name {i}" for i in range(num_classes)])
    assert picture.dtype == np.uint8
    assert max(picture.shape) < 1300
    assert picture.shape[2] == 3
    found = 255 - corners(picture, num_classes)[..., 0].astype(float)
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    np.testing.assert_allclose(found, (255 - DARKEST[0]) * (0.06 + 0.94 * shares) * (confusion > 0), atol=1)


def test_many_classes_are_the_most_frequent_and_all_others() -> None:
    confusion = np.diag(np.arange(1, 101))
    confusion[99, 0] = 100  # the last class, one of the frequent, is taken for one of the others
    names = [f"n{i}" for i in range(100)]
    found = corners(confusion_picture(confusion, names), 40)[..., 0]
    expected = np.zeros((40, 40), dtype=bool)
    expected[np.arange(40), np.arange(40)] = expected[38, 39] = True
    np.testing.assert_array_equal(found < 255, expected)


@pytest.mark.parametrize(
    ("name", "as_if"),
    [
        ("Café", "Cafe"),
        ("中国", "#0"),
        (" ", "#0"),
        ("a\nb", "#0"),
        ("ß", "#0"),
        ("a name that is much too long to be drawn", "a name that...o be drawn"),
    ],
)
def test_names_are_drawn_in_letters_that_the_font_has(name: str, as_if: str) -> None:
    confusion = np.array([[3, 1], [0, 2]])
    np.testing.assert_array_equal(confusion_picture(confusion, [name, "b"]), confusion_picture(confusion, [as_if, "b"]))


def test_long_names_leave_the_matrix_whole_and_stay_inside() -> None:
    confusion = np.diag([3, 2, 2])
    picture = confusion_picture(confusion, ["W" * 80, "i", "WWWWWWWWWWWWWWWWWWWWWWWW"])
    corners(picture, 3)
    edge = np.concatenate(
        [picture[:10].ravel(), picture[-10:].ravel(), picture[:, :10].ravel(), picture[:, -10:].ravel()]
    )
    assert (edge == 255).all()
