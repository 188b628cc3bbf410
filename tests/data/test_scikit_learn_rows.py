"""scikit-learn's tables as rows."""

from pathlib import Path

import numpy as np
import pytest
from sklearn import datasets

from lt_cli.data.row_sources import TableFiles
from lt_cli.data.scikit_learn_rows import ScikitLearnRows


@pytest.mark.parametrize("name", ["iris", "wine", "digits", "breast_cancer"])
def test_classes(name: str) -> None:
    theirs = getattr(datasets, f"load_{name}")()
    source = ScikitLearnRows(name)
    rows = source.rows("train") or []
    table = np.array([[value for column, value in row.fields.items() if column != "label"] for row in rows])
    assert np.array_equal(table, theirs.data)
    assert list(rows[0].fields) == [*theirs.feature_names, "label"]
    assert [row.fields["label"] for row in rows] == [str(theirs.target_names[i]) for i in theirs.target]
    assert rows[17].place == f"{name}, row 17"
    assert {type(value) for row in rows for value in row.fields.values()} == {float, str}


def test_digits_are_text() -> None:
    rows = ScikitLearnRows("digits").rows("train") or []
    assert {row.fields["label"] for row in rows} == set("0123456789")


def test_diabetes() -> None:
    rows = ScikitLearnRows("diabetes").rows("train") or []
    theirs = datasets.load_diabetes(scaled=False)
    assert [row.fields["label"] for row in rows] == theirs.target.tolist()
    assert [row.fields["bmi"] for row in rows] == theirs.data[:, 2].tolist()
    assert len(rows[0].fields) == 11


def test_only_rows_to_train_on() -> None:
    source = ScikitLearnRows("iris")
    assert [source.has(split) for split in ("train", "val", "test", "predict")] == [True, False, False, False]
    assert source.rows("val") is None


def test_written_rows_are_read_again(tmp_path: Path) -> None:
    source = ScikitLearnRows("iris")
    rows = [row.fields | {"probabilities": {"setosa": 1.0}} for row in source.rows("train") or []]
    (path,) = source.write(rows, "predict", tmp_path)
    assert path == tmp_path / "predictions.csv"
    again = [row.fields for row in TableFiles(str(path)).rows("train") or []]
    assert [[*map(float, list(row.values())[:4])] for row in again] == [list(row.values())[:4] for row in rows]
    assert [row["label"] for row in again] == [row["label"] for row in rows]
    assert again[0]["probabilities"] == '{"setosa": 1.0}'
    assert not source.holds_lists("predict")
