"""Features of columns, against scikit-learn's, and mistakes with row and column."""

import io
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from toys import message

from lt_cli.data.rows import Row
from lt_cli.data.table_columns import TableColumns

COLORS = ["red", "green", "blue", "green"]


def rows_of(place: str = "a.csv", **columns: Sequence[Any]) -> list[Row]:
    values = zip(*columns.values(), strict=True)
    return [Row(dict(zip(columns, row, strict=True)), f"{place}:{i}") for i, row in enumerate(values, 2)]


def learned(rows: list[Row], **options: Any) -> TableColumns:
    columns = TableColumns(label_column="label", **options)
    columns.learn(rows)
    return columns


class TestNumbers:
    """Standardised by the training rows."""

    def test_equals_standard_scaler(self) -> None:
        generator = np.random.default_rng(0)
        table = generator.normal([0, 1e6, -3], [1, 50, 1e-4], (40, 3))
        others = generator.normal(0, 5, (7, 3))
        columns = learned(rows_of(a=table[:, 0].tolist(), b=table[:, 1].tolist(), c=table[:, 2].tolist()))
        scaler = StandardScaler().fit(table)
        for values in (table, others):
            encoded = columns.encode(rows_of(a=values[:, 0], b=values[:, 1], c=values[:, 2]))
            assert encoded.dtype == np.float32
            np.testing.assert_allclose(encoded, scaler.transform(values), rtol=1e-6, atol=1e-7)
        assert columns.names == ["a", "b", "c"]
        assert columns.constant == []

    @given(st.lists(st.floats(-1e30, 1e30), min_size=2, max_size=20))
    @settings(deadline=None)
    def test_anything_becomes_finite(self, values: list[float]) -> None:
        columns = learned(rows_of(x=values))
        assert np.isfinite(columns.encode(rows_of(x=values))).all()

    def test_as_they_are(self) -> None:
        rows = rows_of(a=[1, 2.5, 3], b=[7, 7, 7])
        columns = learned(rows, standardize=False)
        assert columns.encode(rows).tolist() == [[1, 7], [2.5, 7], [3, 7]]
        assert columns.constant == ["b"]

    def test_one_that_is_always_the_same_is_0_and_said(self) -> None:
        """Even where another row differs: a weight that was never trained must not multiply it."""
        columns = learned(rows_of(a=[0.1] * 3, b=[1, 2, 3], c=["x"] * 3))
        assert columns.encode(rows_of(a=[5], b=[2], c=["x"])).tolist() == [[0, 0, 1]]
        assert columns.constant == ["a", "c=x"]
        assert columns.describe() == [
            "features: 3 of 3 columns: a, b, c=x",
            "the same in every training row: a, c=x",
        ]

    @pytest.mark.parametrize(
        "values",
        [["1", " 2.5 ", "-3e0"], [True, 2.5, -3], [np.float32(1), np.int8(2), np.bool_(True)], [1, "2", True]],
    )
    def test_what_reads_as_a_number(self, values: list[Any]) -> None:
        columns = learned(rows_of(x=values), standardize=False)
        assert columns.encode(rows_of(x=values))[:, 0].tolist() == [float(value) for value in values]

    @pytest.mark.parametrize("values", [["a", "1", "2"], ["1", "a"], [1, "x"]])
    def test_half_are_enough(self, values: list[Any]) -> None:
        said = message(lambda: learned(rows_of(x=values)).encode(rows_of(x=values)))
        place = 2 + next(i for i, value in enumerate(values) if value in ("a", "x"))
        assert said == (
            f"a.csv:{place}: x must be a number, as in most training rows, not {values[place - 2]!r}: mend it, leave "
            "the row out, or leave the column out with --data.ignore_columns+=x"
        )

    def test_what_only_python_reads_as_a_number(self) -> None:
        columns = learned(rows_of(x=["1_0", "2_0", "1_0"]))
        assert columns.names == ["x=1_0", "x=2_0"]


class TestVectors:
    """As many features as numbers."""

    @pytest.mark.parametrize("make", [list, tuple, np.array, lambda row: np.array(row, np.float32), lambda row: [*row]])
    def test_equals_standard_scaler(self, make: Any) -> None:
        table = np.random.default_rng(0).integers(-5, 5, (20, 3)).astype(float)
        table[:, 1] = 4
        columns = learned(rows_of(n=range(20), x=[make(row.tolist()) for row in table]))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            encoded = columns.encode(rows_of(n=range(20), x=[make(row.tolist()) for row in table]))
        np.testing.assert_allclose(encoded[:, 1:], StandardScaler().fit_transform(table), rtol=1e-6, atol=1e-7)
        assert columns.names == ["n", "x[0]", "x[1]", "x[2]"]
        assert columns.constant == ["x[1]"]

    @pytest.mark.parametrize(
        ("value", "said"),
        [
            ([1, 2], " must be a list of 3 numbers, as in most training rows, not a list of 2: mend it"),
            (np.zeros(4), " must be a list of 3 numbers, as in most training rows, not a list of 4: mend it"),
            (5, " must be a list of 3 numbers, as in most training rows, not 5: mend it"),
            (
                np.zeros((3, 1)),
                " must be a list of 3 numbers, as in most training rows, not an array of shape (3, 1): m",
            ),
            ([1, "x", 2], "[1] must be a number, as in most training rows, not 'x': mend it"),
            ([1, 2, None], "[2] has no value (None): fill it"),
            (np.array([1, np.nan, 2]), "[1] has no value (np.float64(nan)): fill it"),
            (np.array([1, np.inf, 2]), "[1] must be at most 3.4e+38 in size, not np.float64(inf): mend it"),
        ],
    )
    def test_mistakes(self, value: Any, said: str) -> None:
        columns = learned(rows_of(x=[[1, 2, 3], [3, 4, 5]]))
        found = message(lambda: columns.encode(rows_of("b.jsonl", x=[[1, 2, 3], value])))
        assert found.startswith(f"b.jsonl:3: x{said}")
        assert found.endswith(", leave the row out, or leave the column out with --data.ignore_columns+=x")

    def test_empty(self) -> None:
        said = message(lambda: learned(rows_of(x=[[], []])))
        assert said.startswith("a.csv:2: x must be a list of some numbers, as in most training rows, not a list of 0: ")


class TestCategories:
    """A feature for each text."""

    def test_equals_one_hot_encoder(self) -> None:
        table = np.random.default_rng(0).choice(["b", "a", "ü", " c", "10"], (50, 2))
        rows = rows_of(x=table[:, 0].tolist(), y=table[:, 1].tolist())
        columns = learned(rows)
        encoder = OneHotEncoder(sparse_output=False).fit(table)
        assert np.array_equal(columns.encode(rows), encoder.transform(table))
        assert columns.names == [name.replace("_", "=", 1) for name in encoder.get_feature_names_out(["x", "y"])]

    def test_one_that_training_rows_have_not(self) -> None:
        columns = learned(rows_of(**{"a color": COLORS}))
        found = message(lambda: columns.encode(rows_of("b.csv", **{"a color": ["red", "gren"]})))
        assert found == (
            "b.csv:3: a color 'gren' is not among the texts of the training rows, blue, green, red; did you mean "
            "green?: mend it, train with rows of it (where chance holds rows out, use another --data.split_seed), or "
            "leave the column out with --data.ignore_columns+='a color'"
        )

    def test_too_many(self) -> None:
        names = [f"name {i:02}" for i in range(60)]
        assert message(lambda: learned(rows_of(x=names))) == (
            "x has 60 different texts in the training rows, such as 'name 00', more than max_categories (50): leave "
            "the column out with --data.ignore_columns+=x, or set --data.max_categories=60"
        )
        assert len(learned(rows_of(x=names), max_categories=60).names) == 60

    @pytest.mark.parametrize(
        ("value", "said"),
        [
            (5, "must be text, as in the training rows, not 5"),
            ({"a": 1}, "must be text, as in the training rows, not {"),
        ],
    )
    def test_no_text(self, value: Any, said: str) -> None:
        columns = learned(rows_of(x=COLORS))
        assert message(lambda: columns.encode(rows_of(x=["red", value]))).startswith(f"a.csv:3: x {said}")

    def test_what_is_no_column(self) -> None:
        said = message(lambda: learned(rows_of(x=[{"a": 1}, {"a": 2}])))
        assert said.startswith("a.csv:2: x must be a number, text or a list of numbers, not {'a': 1}: mend it")
        said = message(lambda: learned(rows_of(x=[np.zeros((2, 2))] * 2)))
        assert said.startswith("a.csv:2: x must be a number, text or a list of numbers, not an array of shape (2, 2): ")


class TestMissing:
    """No row lacks a value, be it to train on or to predict."""

    @pytest.mark.parametrize("value", [None, "", "  ", float("nan"), "nan", "NaN", np.float32("nan")])
    @pytest.mark.parametrize("values", [[1, 2, 3], COLORS[:3], [[1], [2], [3]]])
    def test_values(self, values: list[Any], value: Any) -> None:
        said = (
            f"a.csv:3: x has no value ({value!r}): fill it, leave the row out, or leave the column out with "
            "--data.ignore_columns+=x"
        )
        assert message(lambda: learned(rows_of(x=[values[0], value, values[2]]))) == said
        columns = learned(rows_of(x=values))
        assert message(lambda: columns.encode(rows_of(x=[values[0], value]))) == said

    @pytest.mark.parametrize("value", [float("inf"), "-inf", 1e39, 10**400])
    def test_infinity(self, value: Any) -> None:
        said = message(lambda: learned(rows_of(x=[1, value, 3])))
        assert said.startswith("a.csv:3: x must be at most 3.4e+38 in size, not ")
        assert said.endswith(": mend it, leave the row out, or leave the column out with --data.ignore_columns+=x")

    def test_columns(self) -> None:
        rows = [Row({"x": 1, "y": 2}, "a:1"), Row({"x": 1}, "a:2")]
        assert message(lambda: learned(rows)) == "a:2 has no column 'y', only x"
        columns = learned(rows[:1])
        assert message(lambda: columns.encode(rows)) == "a:2 has no column 'y', only x"

    def test_the_cure_where_features_are_named(self) -> None:
        said = message(lambda: learned(rows_of(x=[1, 2], y=[1, None]), feature_columns=["x", "y"]))
        assert said.endswith("or leave the column out of --data.feature_columns (x, y)")


class TestChoice:
    """Which columns are features."""

    ROWS = rows_of(id=[7, 8], b=[1, 2], label=["x", "y"], a=[3.0, 4.0], within=[{"c": 1, "d": 2}, {"c": 2, "d": 4}])

    def test_all_but(self) -> None:
        columns = learned(self.ROWS, ignore_columns=["id", "within"])
        assert columns.names == ["b", "a"]
        assert columns.left_out == ["id", "within"]
        assert columns.describe() == ["features: 2 of 2 columns: b, a", "columns left out: id, within"]

    def test_named(self) -> None:
        columns = learned(self.ROWS, feature_columns=["a", "within.d", "b"], standardize=False)
        assert columns.encode(self.ROWS).tolist() == [[3, 2, 1], [4, 4, 2]]
        assert columns.left_out == ["id"]

    def test_many_are_not_all_said(self) -> None:
        rows = rows_of(**{f"x{i}": [0, i] for i in range(1000)})
        columns = learned(rows, feature_columns=[f"x{i}" for i in range(990)])
        shown = ", ".join(f"x{i}" for i in range(8))
        left_out = ", ".join(f"x{i}" for i in range(990, 998))
        assert columns.describe() == [
            f"features: 990 of 990 columns: {shown} and 982 more",
            f"columns left out: {left_out} and 2 more",
            "the same in every training row: x0",
        ]
        assert len(columns.readable(columns.encode(rows)[0].tolist())) == 8

    def test_readable(self) -> None:
        rows = rows_of(n=[1, 3, 1, 3], color=COLORS, x=[[i, 2 * i] for i in range(4)], long=[[*range(20)]] * 4)
        columns = learned(rows, standardize=False)
        shown = columns.readable(columns.encode(rows)[1].tolist())
        assert shown == ["n 3", "color green", "x 1 2", "long 0 1 2 3 4 5 6 7 …"]

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"max_categories": 0}, "max_categories (0) must be at least 1"),
            ({"feature_columns": []}, "feature_columns ([]) must name a column, and none twice, or be null"),
            (
                {"ignore_columns": ["a", "a"]},
                "ignore_columns (['a', 'a']) must name a column, and none twice, or be null",
            ),
            (
                {"ignore_columns": ["label"]},
                "ignore_columns (['label']) must not name label_column (label), which is predicted",
            ),
            (
                {"feature_columns": ["a"], "ignore_columns": ["b"]},
                "ignore_columns (['b']) has no use beside feature_columns, which are all that is read: "
                "set --data.ignore_columns=null",
            ),
            (
                {"ignore_columns": ["idd"]},
                "ignore_columns names 'idd', and the training rows have id, b, label, a, within; did you mean id?",
            ),
            (
                {"feature_columns": ["a", "z"]},
                "feature_columns names 'z', and the training rows have id, b, label, a, w",
            ),
            ({"feature_columns": ["within.e"]}, "a.csv:2 has no column 'within.e', only within.c, within.d"),
            (
                {"ignore_columns": ["id", "a", "b", "within"]},
                "the training rows have nothing to learn from beside label and ignore_columns (['id', 'a', 'b', 'wi",
            ),
        ],
    )
    def test_mistakes(self, options: dict[str, Any], said: str) -> None:
        assert message(lambda: learned(self.ROWS, **options)).startswith(said)

    def test_nothing_but_labels(self) -> None:
        assert message(lambda: learned(rows_of(label=["x", "y"]))) == (
            "the training rows have nothing to learn from beside label, only label: name the right column with "
            "--data.label_column"
        )


class TestState:
    """A checkpoint has all of it."""

    ROWS = rows_of(n=[1, 3, 1, 4], color=COLORS, x=[[i, 2.5 * i] for i in range(4)], same=[1] * 4, id=range(4))

    def kept(self, columns: TableColumns) -> Any:
        stream = io.BytesIO()
        torch.save(columns.state_dict(), stream)
        stream.seek(0)
        return torch.load(stream, weights_only=True)

    @pytest.mark.parametrize("standardize", [True, False])
    def test_round_trip(self, standardize: bool) -> None:
        one = learned(self.ROWS, ignore_columns=["id"], standardize=standardize)
        other = TableColumns(label_column="label", standardize=standardize)
        other.load_state_dict(self.kept(one))
        assert np.array_equal(one.encode(self.ROWS), other.encode(self.ROWS))
        assert one.describe() == other.describe()
        assert one.names == other.names

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"standardize": False}, "data.standardize (False)"),
            ({"feature_columns": ["n", "color"]}, "data.feature_columns (['n', 'color'])"),
            ({"ignore_columns": ["same"]}, "data.ignore_columns (['same'])"),
        ],
    )
    def test_another_than_the_model_was_trained_with(self, options: dict[str, Any], said: str) -> None:
        state = self.kept(learned(self.ROWS, ignore_columns=["id"]))
        other = TableColumns(label_column="label", **options)
        assert message(lambda: other.load_state_dict(state)) == (
            f"{said} is another than the model was trained with, on n, color, x, same: leave it out, or train anew"
        )
