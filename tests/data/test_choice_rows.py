"""Choices and labels in every form that datasets have them in."""

from typing import Any

import pytest
from toys import message

from lt_cli.data.choice_rows import Choices, LabelForm, choices_of, label_of
from lt_cli.data.rows import Row

COLUMNS = ["one", "two", "three"]


def row(**fields: Any) -> Row:
    return Row(fields, "mine.jsonl:7")


class TestChoices:
    """Texts and names."""

    def test_a_list_has_letters(self) -> None:
        assert choices_of(row(c=["x", "y", "z"]), "c") == Choices(["x", "y", "z"], ["A", "B", "C"])

    def test_two_lists_have_names(self) -> None:
        """As CommonsenseQA and ARC have them."""
        value = {"label": ["1", "2"], "text": ["x", "y"]}
        assert choices_of(row(c=value), "c") == Choices(["x", "y"], ["1", "2"])

    @pytest.mark.parametrize("missing", [None, ""])
    def test_columns_of_which_the_last_may_be_empty(self, missing: Any) -> None:
        assert choices_of(row(one="x", two="y", three="z"), COLUMNS) == Choices(["x", "y", "z"], ["A", "B", "C"])
        assert choices_of(row(one="x", two="y", three=missing), COLUMNS) == Choices(["x", "y"], ["A", "B"])

    def test_letters_never_end(self) -> None:
        names = choices_of(row(c=[f"{i}" for i in range(800)]), "c").names
        assert [names[i] for i in (0, 25, 26, 51, 52, 701, 702)] == ["A", "Z", "AA", "AZ", "BA", "ZZ", "AAA"]
        assert len({*names}) == 800

    @pytest.mark.parametrize(
        ("value", "rule"),
        [
            (
                "x|y",
                "c must be a list of texts, or two lists, label and text, not 'x|y': where each choice has a column",
            ),
            (None, "c must be a list of texts, or two lists, label and text, not None: where"),
            ({"text": ["x", "y"]}, "c must have two lists, label and text, equally long, not {"),
            ({"label": ["A"], "text": ["x", "y"]}, "c must have two lists, label and text, equally long"),
            (["x", " "], "choice 1 of c must be text, not ' ': give it some, or leave it out"),
            (["x", 3], "choice 1 of c must be text, not 3"),
        ],
    )
    def test_mistakes(self, value: Any, rule: str) -> None:
        assert message(lambda: choices_of(row(c=value), "c")).startswith(f"mine.jsonl:7: {rule}")

    @pytest.mark.parametrize("value", [[], ["x"], {"label": ["A"], "text": ["x"]}])
    def test_fewer_than_two(self, value: Any) -> None:
        assert message(lambda: choices_of(row(c=value), "c")).startswith("mine.jsonl:7 must have two choices at least")

    def test_mistakes_with_columns(self) -> None:
        rule = "mine.jsonl:7: two must be text, not '': give it some, or leave it out"
        assert message(lambda: choices_of(row(one="x", two="", three="z"), COLUMNS)) == rule
        rule = "mine.jsonl:7 has no column 'three', only one, two"
        assert message(lambda: choices_of(row(one="x", two="y"), COLUMNS)) == rule
        assert "two choices at least" in message(lambda: choices_of(row(one="x", two="", three=""), COLUMNS))


CHOICES = Choices(["red", "green", "blue"], ["A", "B", "C"])


class TestLabels:
    """Each form, as text and as a number."""

    @pytest.mark.parametrize(
        ("form", "label"),
        [
            *[("index", 2), ("index", "2"), ("number", 3), ("number", "3")],
            *[("name", "C"), ("text", "blue")],
        ],
    )
    def test_forms(self, form: LabelForm, label: Any) -> None:
        assert label_of(row(label=label), "label", CHOICES, form) == 2
        assert str(CHOICES.labels(form)[2]) == str(label)

    def test_names_of_the_row(self) -> None:
        numbered = Choices(["x", "y"], ["2", "1"])
        assert label_of(row(label="1"), "label", numbered, "name") == 1
        assert label_of(row(label=2), "label", numbered, "name") == 0

    @pytest.mark.parametrize(
        ("form", "label", "rule"),
        [
            (
                "index",
                3,
                "label 3 is none of its choices, which by index are 0, 1, 2: mend it, or say --data.label_form=n",
            ),
            (
                "index",
                "C",
                "label 'C' is none of its choices, which by index are 0, 1, 2: mend it, or say --data.label_fo",
            ),
            ("index", -1, "label -1 is none of its choices, which by index are 0, 1, 2: mend it"),
            ("index", True, "label True is none of its choices"),
            ("index", 1.0, "label 1.0 is none of its choices"),
            (
                "number",
                0,
                "label 0 is none of its choices, which by number are 1, 2, 3: mend it, or say --data.label_form=i",
            ),
            ("name", "c", "label 'c' is none of its choices, which by name are A, B, C: mend it"),
            (
                "text",
                "bleu",
                "label 'bleu' is none of its choices, which by text are red, green, blue; did you mean blue?",
            ),
            ("text", ["blue"], "label ['blue'] is none of its choices"),
        ],
    )
    def test_none_of_the_choices(self, form: LabelForm, label: Any, rule: str) -> None:
        assert message(lambda: label_of(row(label=label), "label", CHOICES, form)).startswith(f"mine.jsonl:7: {rule}")

    @pytest.mark.parametrize("label", [None, ""])
    def test_no_label(self, label: Any) -> None:
        rule = "mine.jsonl:7 has no label: give it one, or leave the row out"
        assert message(lambda: label_of(row(label=label), "label", CHOICES, "index")) == rule

    def test_two_choices_of_one_text(self) -> None:
        twice = Choices(["x", "x"], ["A", "B"])
        assert label_of(row(label=1), "label", twice, "index") == 1, "by place they are different"
        assert "is the text of 2 choices" in message(lambda: label_of(row(label="x"), "label", twice, "text"))
