"""Tables with labels: what a model reads, what is held out, what is written back, and mistakes with their line."""

import csv
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from toys import message

from lt_cli.data.base import InputData
from lt_cli.data.labeled_table import LabeledTable
from lt_cli.data.labels import LabeledData, Score, SeveralLabels
from lt_cli.data.numpy_rows import NumpyFiles
from lt_cli.data.row_sources import RowSource, TableFiles
from lt_cli.data.scikit_learn_rows import ScikitLearnRows

SUFFIXES = [".csv", ".tsv", ".jsonl", ".parquet", ".npz"]
ROWS: list[dict[str, Any]] = [
    {"id": 7 + i, "height": i / 4, "color": ["red", "blue"][i % 2], "wide": i, "label": ["yes", "no"][i // 4]}
    for i in range(8)
]


def save(name: str, rows: list[dict[str, Any]] = ROWS) -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".npz":
        np.savez(path, **{column: np.array([row[column] for row in rows]) for column in rows[0]})
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, [*rows[0]], delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


def source_of(path: str | None, predict_path: str | None = None) -> RowSource:
    one = NumpyFiles if (path or "").endswith(".npz") or (predict_path or "").endswith(".npz") else TableFiles
    return one(path, predict_path=predict_path)


def table(path: str | Path | None = None, *, predict_path: Path | None = None, **options: Any) -> LabeledTable:
    source = source_of(path and str(path), predict_path and str(predict_path))
    return LabeledTable(**({"source": source} | options))


def iris(**options: Any) -> LabeledTable:
    data = LabeledTable(source=ScikitLearnRows("iris"), **options)
    data.setup("fit")
    return data


class TestWhatAModelReads:
    """Features by the training rows, labels by their kind."""

    def test_equals_scikit_learn(self) -> None:
        generator = np.random.default_rng(0)
        rows = [
            {"a": float(a), "color": str(color), "b": int(b), "label": str(label)}
            for a, b, color, label in zip(
                generator.normal(5, 3, 60),
                generator.integers(0, 9, 60),
                generator.choice(["x", "y", "z"], 60),
                generator.choice(["yes", "no"], 60),
                strict=True,
            )
        ]
        data = table(save("a.csv", rows), val_fraction=0.25)
        data.setup("fit")
        train, val = data._split_rows("train"), data._split_rows("val")
        scaler = StandardScaler().fit([[float(row.fields[name]) for name in ("a", "b")] for row in train])
        encoder = OneHotEncoder(sparse_output=False).fit([[row.fields["color"]] for row in train])
        for split, some in (("train", train), ("val", val)):
            numbers = scaler.transform([[float(row.fields[name]) for name in ("a", "b")] for row in some])
            colors = encoder.transform([[row.fields["color"]] for row in some])
            batch = data.splits[split].batch(range(len(some)), 0)
            expected = np.concatenate([numbers[:, :1], colors, numbers[:, 1:]], 1)
            np.testing.assert_allclose(batch["inputs"], expected, rtol=1e-5, atol=1e-6)
            assert batch["labels"].tolist() == [["no", "yes"].index(row.fields["label"]) for row in some]
        assert data.input_shape == (5,)

    def test_a_batch(self) -> None:
        data = iris()
        batch = data.splits["train"].batch([5, 2], 3)
        assert set(batch) == {"index", "inputs", "labels"}
        assert batch["index"].tolist() == [5, 2]
        assert batch["inputs"].shape == (2, 4)
        assert batch["inputs"].dtype == data.input_dtype == torch.float32
        assert batch["labels"].dtype == torch.int64
        assert isinstance(data, InputData)
        assert isinstance(data, LabeledData)
        data.setup("predict")
        assert set(data.splits["predict"].batch([0], 0)) == {"index", "inputs"}

    def test_its_shape_is_known_once_it_has_learned(self) -> None:
        assert LabeledTable(source=ScikitLearnRows("iris")).input_shape is None

    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_every_format_alike(self, suffix: str) -> None:
        data = table(save(f"a{suffix}"), val_fraction=0.25, ignore_columns=["id"])
        data.setup("fit")
        inputs = data.splits["train"].batch(range(6), 0)["inputs"]
        assert inputs.shape == (6, 4)
        assert data.columns.names == ["height", "color=blue", "color=red", "wide"]
        again = table(save("b.csv"), val_fraction=0.25, ignore_columns=["id"])
        again.setup("fit")
        assert torch.equal(inputs, again.splits["train"].batch(range(6), 0)["inputs"])

    @pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".npz"])
    def test_vectors(self, suffix: str) -> None:
        rows = [{"x": [i, 2 * i, -i], "label": i % 2} for i in range(8)]
        data = table(save(f"a{suffix}", rows))
        data.setup("fit")
        assert data.input_shape == (3,)
        assert data.label_names == ["0", "1"]

    def test_several_labels_and_scores(self) -> None:
        rows = [{"x": i, "label": ["a,b", "b", ""][i % 3]} for i in range(9)]
        data = table(save("a.csv", rows), labels=SeveralLabels())
        data.setup("fit")
        batch = data.splits["train"].batch(range(8), 0)
        assert batch["labels"].dtype == torch.float32
        assert batch["labels"].shape == (8, 2)
        rows = [{"x": i, "label": i / 2} for i in range(9)]
        data = table(save("a.csv", rows), labels=Score())
        data.setup("fit")
        batch = data.splits["train"].batch(range(8), 0)
        assert batch["labels"].dtype == torch.float32
        assert batch["labels"].shape == (8,)


class TestHeldOut:
    """Parts of the training rows, each class alike."""

    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize("fractions", [(0.1, None), (0.2, 0.2), (0.15, 0.33)])
    @pytest.mark.parametrize("name", ["iris", "wine", "breast_cancer"])
    def test_each_classs_share(self, name: str, fractions: tuple[float, float | None], seed: int) -> None:
        source = ScikitLearnRows(name)  # type: ignore[arg-type]
        rows = source.rows("train") or []
        data = LabeledTable(
            source=source, val_fraction=fractions[0], test_fraction=fractions[1], split_seed=seed, batch_size=8
        )
        splits = ["train", "val", *(["test"] if fractions[1] else [])]
        parts = {split: data._split_rows(split) for split in splits}  # type: ignore[arg-type]
        places = [row.place for part in parts.values() for row in part]
        assert sorted(places) == sorted(row.place for row in rows), "each row is in one part"
        of_class = Counter(row.fields["label"] for row in rows)
        for part in parts.values():
            found = Counter(row.fields["label"] for row in part)
            for label, count in of_class.items():
                assert abs(found[label] - count * len(part) / len(rows)) <= 1, (label, found)
            assert [row.place for row in part] == sorted((row.place for row in part), key=lambda p: int(p.split()[-1]))

    def test_is_a_function_of_the_seed(self) -> None:
        def held_out(**options: Any) -> list[str]:
            return [row.place for row in LabeledTable(source=ScikitLearnRows("iris"), **options)._split_rows("val")]

        assert held_out(split_seed=1) == held_out(split_seed=1) != held_out(split_seed=2)
        assert held_out(split_seed=1, stratify=False) != held_out(split_seed=1)

    def test_without_shares(self) -> None:
        data = LabeledTable(source=ScikitLearnRows("iris"), stratify=False, val_fraction=0.2)
        counts = Counter(row.fields["label"] for row in data._split_rows("val"))
        assert sum(counts.values()) == 30
        assert set(counts.values()) != {10}


class TestWriting:
    """Predictions in the label's place, in the format of the rows."""

    @pytest.mark.parametrize("suffix", SUFFIXES)
    @pytest.mark.parametrize("with_labels", [True, False])
    def test_round_trip(self, suffix: str, with_labels: bool) -> None:
        one = table(save(f"a{suffix}"), val_fraction=0.25, ignore_columns=["id"])
        one.setup("fit")
        rows = [{k: v for k, v in row.items() if with_labels or k != "label"} for row in ROWS]
        data = table(predict_path=save(f"mine{suffix}", rows), ignore_columns=["id"])
        data.load_state_dict(one.state_dict())
        data.setup("predict")
        assert "labels" not in data.splits["predict"].batch([0], 0)
        columns = {
            "index": list(range(8)),
            "label": ["no", "yes"] * 4,
            "probabilities": [{"no": i / 8, "yes": 1 - i / 8} for i in range(8)],
        }
        (path,) = data.write_predictions(columns, Path(), "csv")
        assert path == Path(f"predictions{suffix}")
        expected = [row | {name: columns[name][i] for name in ("label", "probabilities")} for i, row in enumerate(ROWS)]
        again = [row.fields for row in source_of(str(path)).rows("train") or []]
        as_text = suffix in (".csv", ".tsv")
        assert [list(row) for row in again] == [list(row) for row in expected]
        for row, wanted in zip(again, expected, strict=True):
            for name, value in wanted.items():
                text = json.dumps(value) if isinstance(value, dict) else str(value)
                assert row[name] == (text if as_text else value), name
        relearned = table(str(path), val_fraction=0.25, ignore_columns=["id", "probabilities"])
        relearned.setup("fit")
        assert relearned.label_names == ["no", "yes"]

    @pytest.mark.parametrize(
        ("suffix", "expected"),
        [(".jsonl", [["a", "b"], []]), (".parquet", [["a", "b"], []]), (".csv", ["a,b", ""]), (".npz", ["a,b", ""])],
    )
    def test_several_labels(self, suffix: str, expected: list[Any]) -> None:
        rows = [{"x": i, "label": ["a,b", "b"][i % 2]} for i in range(8)]
        data = table(save(f"a{suffix}", rows), labels=SeveralLabels(), val_fraction=0.25)
        data.setup("predict")
        columns = {"index": [0, 1], "label": [["a", "b"], []], "label_index": [[0, 1], []]}
        (path,) = data.write_predictions(columns, Path(), "csv")
        again = source_of(str(path)).rows("train") or []
        assert [row.fields["label"] for row in again] == expected
        assert SeveralLabels().of(again[0], "label") == ["a", "b"]


class TestRowsFromPython:
    """What a user would pass."""

    def test_rows(self) -> None:
        data = table(save("a.csv"), ignore_columns=["id"])
        data.setup("fit")
        given = [{"height": 0.5, "color": "red", "wide": 2, "name": "x"}, [0.5, "red", "2"], (0.5, "red", 2)]
        split, fields = data.given(given)
        others = [{"height": 0.5, "color": "red", "wide": wide} for wide in ("2", 2)]
        assert fields == [given[0], *others]
        batch = split.batch([0, 1, 2], 0)
        assert torch.equal(batch["inputs"][0], batch["inputs"][1])
        assert torch.equal(batch["inputs"][0], batch["inputs"][2])
        assert data.with_predictions(fields[1:2], {"index": [0], "label": ["no"]}) == [fields[1] | {"label": "no"}]

    def test_arrays(self) -> None:
        split, _ = (data := iris()).given(np.array([[5.1, 3.5, 1.4, 0.2], [6, 3, 4, 1]]))
        first = data.columns.encode([row for row in data._split_rows("train") if row.place == "iris, row 0"])
        assert np.array_equal(split.batch([0], 0)["inputs"], first)

    def test_a_vector_is_a_row(self) -> None:
        data = table(save("a.npz", [{"x": [i, 2 * i], "label": i % 2} for i in range(8)]))
        data.setup("fit")
        split, fields = data.given([[1, 2], np.array([1.0, 2.0]), {"x": (1, 2)}])
        assert fields[0] == {"x": [1, 2]}
        assert len({tuple(row) for row in split.batch([0, 1, 2], 0)["inputs"].tolist()}) == 1

    @pytest.mark.parametrize(
        ("item", "said"),
        [
            (
                5,
                "5 must be a mapping with the columns height, color, wide, or a list of 3 values, those of these col",
            ),
            ("abc", "'abc' must be a mapping with the columns height"),
            ([1, "red"], "a list of 2 must be a mapping with the columns height"),
            (np.zeros((2, 3)), "an array of shape (2, 3) must be a mapping with the columns height"),
            ({"height": 1, "colour": "red"}, "row 0 has no column 'color', only height, colour; did you mean colour?"),
            ([1, "pink", 2], "row 0: color 'pink' is not among the texts of the training rows, blue, red"),
            ([1, "red", None], "row 0: wide has no value (None): fill it"),
        ],
    )
    def test_mistakes(self, item: Any, said: str) -> None:
        data = table(save("a.csv"), ignore_columns=["id"])
        data.setup("fit")
        assert message(lambda: data.given([item])).startswith(said)


class TestState:
    """A checkpoint alone is enough to predict."""

    def test_round_trip(self) -> None:
        one = table(save("a.csv"), ignore_columns=["id"])
        one.setup("fit")
        torch.save(one.state_dict(), stream := io.BytesIO())
        stream.seek(0)
        other = table(predict_path=save("b.csv", ROWS[:2]))
        other.load_state_dict(torch.load(stream, weights_only=True))
        assert other.input_shape == (4,)
        assert other.label_names == ["no", "yes"]
        other.setup("predict")
        inputs = other.splits["predict"].batch([0, 1], 0)["inputs"]
        assert torch.equal(inputs, one.given(ROWS[:2])[0].batch([0, 1], 0)["inputs"])

    def test_other_training_rows_are_not_learned(self) -> None:
        one = table(save("a.csv"), ignore_columns=["id"])
        one.setup("fit")
        other = table(save("a.csv", [row | {"height": 100.0} for row in ROWS]), ignore_columns=["id"])
        other.load_state_dict(one.state_dict())
        other.setup("fit")
        assert other.columns.columns == one.columns.columns


class TestFirstPage:
    """Rows, labels, features, and a row."""

    def test_lines(self) -> None:
        rows = [row | {"same": 1} for row in ROWS]
        data = table(save("a.csv", rows), ignore_columns=["id"], val_fraction=0.25)
        data.setup("fit")
        assert data.describe() == [
            "train: 6 rows; no 3 (50.0 %), yes 3 (50.0 %)",
            "val: 2 rows; no 1 (50.0 %), yes 1 (50.0 %)",
            "features: 5 of 4 columns: height, color=blue, color=red, wide, same",
            "columns left out: id",
            "the same in every training row: same",
        ]
        batch = data.splits["train"].batch([0], 0)
        height, blue, red, wide, same = batch["inputs"][0].tolist()
        assert (blue + red, same) == (1, 0)
        color = "red" if red else "blue"
        assert data.preview(batch, Path()) == [
            f"a row: height {height:.4g}, color {color}, wide {wide:.4g}, same 0",
        ]


class TestMistakes:
    """File, line and column, and what to do."""

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"height": ""}, "d/val.csv:3: height has no value (''): fill it, leave the row out, or leave the column"),
            ({"height": "tall"}, "d/val.csv:3: height must be a number, as in most training rows, not 'tall': mend it"),
            ({"height": "inf"}, "d/val.csv:3: height must be at most 3.4e+38 in size, not 'inf': mend it"),
            ({"color": "rde"}, "d/val.csv:3: color 'rde' is not among the texts of the training rows, blue, red; did"),
            ({"label": "maybe"}, "d/val.csv:3: label 'maybe' is not among the classes of the training rows, no, yes"),
        ],
    )
    def test_rows(self, change: dict[str, Any], said: str) -> None:
        save("d/train.csv")
        save("d/val.csv", [ROWS[0], ROWS[1] | change])
        assert message(lambda: table("d", ignore_columns=["id"]).setup("fit")).startswith(said)

    def test_a_split_without_a_column(self) -> None:
        save("d/train.csv")
        save("d/val.csv", [{k: v for k, v in row.items() if k != "wide"} for row in ROWS])
        assert message(lambda: table("d").setup("fit")).startswith(
            "d/val.csv:2 has no column 'wide', only id, height, color, label"
        )

    def test_a_header_that_is_a_row(self) -> None:
        save("a.csv", [{"1": 2, "3": 4, "yes": "no"}] * 4)
        assert message(lambda: table("a.csv").setup("fit")).endswith(
            "has no column 'label', only 1, 3, yes; where the first line is a row, name the columns with "
            "--data.source.columns"
        )

    def test_a_label_column_that_is_not_there(self) -> None:
        save("d/train.csv")
        save("d/val.csv")
        said = message(lambda: table("d", label_column="lable", stratify=False).setup("fit"))
        assert said.startswith("d/train.csv:2 has no column 'lable', only id, height, color, wide, label; did you mean")

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"ignore_columns": ["label"]}, "ignore_columns (['label']) must not name label_column (label), which is"),
            ({"ignore_columns": ["idd"]}, "ignore_columns names 'idd', and the training rows have id, height, color"),
            ({"feature_columns": ["hight"]}, "feature_columns names 'hight', and the training rows have id, height, c"),
            (
                {"max_categories": 1},
                "color has 2 different texts in the training rows, such as 'blue', more than max_c",
            ),
            ({"val_fraction": 2.0}, "val_fraction (2.0) must be above 0 and below 1, or null"),
        ],
    )
    def test_options(self, options: dict[str, Any], said: str) -> None:
        save("a.csv")
        assert message(lambda: table("a.csv", **options).setup("fit")).startswith(said)
