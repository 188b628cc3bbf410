"""Choices as rows have them, and which of them is right: its place, its name or its text."""

from string import ascii_uppercase
from typing import Any, Literal, NamedTuple, Protocol, get_args, runtime_checkable

from lt_cli.data.rows import Row, field_of
from lt_cli.errors import UserError, did_you_mean, some_of

LabelForm = Literal["index", "number", "name", "text"]
SHOWN_LETTERS = 40
"""How much of a label a message shows."""


@runtime_checkable
class MultipleChoiceData(Protocol):
    """What a task over choices asks of its data.

    Attributes:
        choice_counts: Training rows by their number of choices.
    """

    choice_counts: dict[int, int]


class Choices(NamedTuple):
    """The choices of a row.

    Attributes:
        texts: Two at least, none empty.
        names: What they are called: in the row, or else by letters.
    """

    texts: list[str]
    names: list[Any]

    def labels(self, form: LabelForm) -> list[Any]:
        """What a row may have as its label, by choice: see ``ChoiceData``."""
        if form in ("index", "number"):
            return [i + (form == "number") for i in range(len(self.texts))]
        return self.names if form == "name" else self.texts


def choices_of(row: Row, columns: str | list[str]) -> Choices:
    """The choices of a row.

    Args:
        row: What has them.
        columns: Column of a list of texts or a mapping with lists ``label`` and ``text``; or one column for each
            choice, the last of which may be empty.

    Raises:
        UserError: If there are fewer than two, or one of them is no text.
    """
    names: list[Any] | None = None
    if isinstance(columns, list):
        values = [field_of(row, column) for column in columns]
        while values and values[-1] in (None, ""):
            values.pop()
        places = columns
    else:
        values = field_of(row, columns)
        if isinstance(values, dict):
            values, names = _lists(row, columns, values)
        if not isinstance(values, list):
            raise UserError(
                f"{row.place}: {columns} must be a list of texts, or two lists, label and text, not {values!r:.80}: "
                "where each choice has a column of its own, name them with --data.choice_columns, and no choices_column"
            )
        places = [f"choice {i} of {columns}" for i in range(len(values))]
    for place, value in zip(places, values, strict=False):
        if not isinstance(value, str) or not value.strip():
            raise UserError(f"{row.place}: {place} must be text, not {value!r:.80}: give it some, or leave it out")
    if len(values) < 2:
        raise UserError(
            f"{row.place} must have two choices at least, and has {values!r:.80}: give it more, or leave it out"
        )
    return Choices(values, [_letters(i) for i in range(len(values))] if names is None else names)


def _lists(row: Row, column: str, value: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    texts, names = value.get("text"), value.get("label")
    if not isinstance(texts, list) or not isinstance(names, list) or len(texts) != len(names):
        raise UserError(f"{row.place}: {column} must have two lists, label and text, equally long, not {value!r:.80}")
    return texts, names


def _letters(place: int) -> str:
    """A to Z, then AA and so on."""
    return (_letters(place // 26 - 1) if place >= 26 else "") + ascii_uppercase[place % 26]


def label_of(row: Row, column: str, choices: Choices, form: LabelForm) -> int:
    """The right one of a row's choices.

    Raises:
        UserError: If the label is none of theirs, or that of two.
    """
    value = field_of(row, column)
    if value is None or value == "":
        raise UserError(f"{row.place} has no {column}: give it one, or leave the row out")
    labels = [str(label) for label in choices.labels(form)]
    found = labels.count(str(value)) if isinstance(value, str | int) and not isinstance(value, bool) else 0
    if found == 1:
        return labels.index(str(value))
    if found:
        raise UserError(
            f"{row.place}: {column} {value!r:.80} is the {form} of {found} choices: make them different, or leave the "
            "row out"
        )
    others = [other for other in get_args(LabelForm) if str(value) in map(str, choices.labels(other))]
    cure = "mend it, or say " + " or ".join(f"--data.label_form={other}" for other in others) if others else "mend it"
    shown = [label if len(label) <= SHOWN_LETTERS else f"{label[:SHOWN_LETTERS]}…" for label in labels]
    raise UserError(
        f"{row.place}: {column} {value!r:.80} is none of its choices, which by {form} are {some_of(shown)}"
        f"{did_you_mean(str(value), shown) if form == 'text' else ''}: {cure}"
    )
