"""What labels may be, and what is told of those that are not."""

from typing import Any

import numpy as np
import pytest
from toys import message

from lt_cli.data.labels import Labels, OneLabel, Score, SeveralLabels, shares
from lt_cli.data.rows import Row


def rows(*labels: Any) -> list[Row]:
    return [Row({"label": label}, f"a.tsv:{number}") for number, label in enumerate(labels, 1)]


def learned(labels: Labels, *values: Any) -> Any:
    labels.learn(rows(*values), "label")
    return labels


class TestOneLabel:
    """The training rows' classes and no other."""

    def test_text(self) -> None:
        labels = learned(OneLabel(), "b", "ä", "a", "b", "<pad>")
        assert labels.values == labels.names == ["<pad>", "a", "b", "ä"]
        assert labels.counts == [1, 1, 2, 1]
        targets = labels.encode(rows("b", "<pad>", "ä"), "label")
        assert targets.tolist() == [2, 0, 3]
        assert targets.dtype == np.int64
        assert labels.describe(targets) == "<pad> 1 (33.3 %), b 1 (33.3 %), ä 1 (33.3 %), a 0 (0.0 %)"

    def test_whole_numbers(self) -> None:
        labels = learned(OneLabel(), 10, 9, 9, "x")
        assert labels.values == [9, 10, "x"], "in their order, before text"
        assert labels.names == ["9", "10", "x"]
        assert labels.encode(rows("x", 9), "label").tolist() == [2, 0]

    @pytest.mark.parametrize(
        ("values", "said"),
        [
            (["a", ""], "a.tsv:2 has no label: give it one, or leave the row out"),
            (["a", None], "a.tsv:2 has no label: give it one, or leave the row out"),
            (
                ["a", 1.5],
                "a.tsv:2: label must be text or a whole number, not 1.5: for scores say --data.labels=lt_cli.",
            ),
            (["a", True], "a.tsv:2: label must be text or a whole number, not True"),
            (["a", ["b"]], "a.tsv:2: label must be text or a whole number, not ['b']"),
            (["1", 1], "label has 1 as text and as a number: write it in one way"),
            (["a", "a"], "label must have two classes at least, and the training rows have ['a']"),
        ],
    )
    def test_mistakes(self, values: list[Any], said: str) -> None:
        assert message(lambda: learned(OneLabel(), *values)).startswith(said)

    def test_unseen(self) -> None:
        labels = learned(OneLabel(), "good", "bad")
        assert message(lambda: labels.encode(rows("good", "goood"), "label")) == (
            "a.tsv:2: label 'goood' is not among the classes of the training rows, bad, good; did you mean good?: "
            "mend it, train with rows of it, or, where chance holds rows out, use another --data.split_seed"
        )
        many = learned(OneLabel(), *range(100, 120))
        said = message(lambda: many.encode(rows(7), "label"))
        assert "100, 101, 102, 103, 104, 105, 106, 107 and 12 more: mend it" in said

    def test_missing_column(self) -> None:
        said = message(lambda: OneLabel().learn(rows("a"), "lable"))
        assert said.startswith(
            "a.tsv:1 has no column 'lable', only label; did you mean label?; where the first line is"
        )


class TestSeveralLabels:
    """Lists, or text with a separator."""

    def test_classes(self) -> None:
        labels = learned(SeveralLabels(), ["b", "a"], "c, a", "", [], " ")
        assert labels.names == ["a", "b", "c"]
        assert labels.counts == [2, 1, 1]
        targets = labels.encode(rows("b,c", [], ["a"]), "label")
        assert targets.tolist() == [[0, 1, 1], [0, 0, 0], [1, 0, 0]]
        assert targets.dtype == np.float32
        assert labels.describe(targets) == "a 1 (33.3 %), b 1 (33.3 %), c 1 (33.3 %), none 1 (33.3 %)"

    def test_another_separator(self) -> None:
        assert learned(SeveralLabels("|"), "a, b|c").names == ["a, b", "c"]
        assert message(lambda: SeveralLabels("")) == "labels.separator ('') must not be empty"

    @pytest.mark.parametrize(
        ("value", "said"),
        [
            (3, "a.tsv:1: label must be a list, or text with ',' between classes, not 3"),
            (None, "a.tsv:1: label must be a list, or text with ',' between classes, not None"),
            ("a,a", "a.tsv:1: label ['a', 'a'] must not name a class twice"),
            ("a,,b", "a.tsv:1 has no label: give it one, or leave the row out"),
            ([["a"]], "a.tsv:1: label must be text or a whole number, not ['a']"),
        ],
    )
    def test_mistakes(self, value: Any, said: str) -> None:
        assert message(lambda: learned(SeveralLabels(), value, "x")).startswith(said)

    def test_unseen(self) -> None:
        labels = learned(SeveralLabels(), "a,b")
        assert message(lambda: labels.encode(rows("a", "a,c"), "label")).startswith("a.tsv:2: label 'c' is not among")


class TestScore:
    """Numbers, by mean and deviation."""

    def test_numbers(self) -> None:
        labels = learned(Score(), 1, "2.5", " 4 ")
        assert labels.mean == pytest.approx(2.5)
        assert labels.deviation == pytest.approx(np.std([1, 2.5, 4]))
        assert labels.encode(rows("-1e3", 7), "label").tolist() == [-1000, 7]
        assert labels.describe(labels.encode(rows(1, 4), "label")) == "scores from 1 to 4 (mean 2.5)"

    @pytest.mark.parametrize("value", ["good", "", None, True, "nan", "inf", [1.0]])
    def test_mistakes(self, value: Any) -> None:
        said = message(lambda: learned(Score(), 1.0, value))
        assert said == f"a.tsv:2: label must be a number, not {value!r}"

    def test_nothing_to_learn(self) -> None:
        said = "label is 2.0 in every training row: there is nothing to learn"
        assert message(lambda: learned(Score(), 2, "2")) == said


@pytest.mark.parametrize(
    ("labels", "values"),
    [(OneLabel, ["b", "a", "a"]), (OneLabel, [3, 1, "x"]), (SeveralLabels, ["a,b"]), (Score, [1, 4])],
)
def test_state(labels: type[Labels], values: list[Any]) -> None:
    """Plain types, from which another one is the same."""
    one, other = learned(labels(), *values), labels()
    state = one.state_dict()
    other.load_state_dict(state)
    assert other.state_dict() == state
    assert (other.encode(rows(*values), "label") == one.encode(rows(*values), "label")).all()
    plain = [item for value in state.values() for item in (value if isinstance(value, list) else [value])]
    assert {type(item) for item in plain} <= {str, int, float}


def test_shares_of_many_classes() -> None:
    said = shares([f"c{i}" for i in range(11)], np.arange(11), 55)
    assert said.startswith("c10 10 (18.2 %), c9 9 (16.4 %)")
    assert said.endswith("c3 3 (5.5 %) and 3 more")


def test_numbers_and_texts_of_one_class_are_told_apart() -> None:
    labels = OneLabel()
    labels.learn([Row({"label": i % 3}, f"row {i}") for i in range(6)], "label")
    found = message(lambda: labels.encode([Row({"label": "1"}, "b.csv:2")], "label"))
    assert found.startswith(
        "b.csv:2: label '1' is text, and a whole number in the training rows: write both in one way"
    )
    assert "has no label" in message(lambda: labels.encode([Row({"label": "  "}, "b.csv:3")], "label"))
