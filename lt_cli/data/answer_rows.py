"""Answers as rows have them: parts of a context, as SQuAD files, the hub's datasets and tables write them."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from lt_cli.data.rows import Row
from lt_cli.errors import UserError, did_you_mean

START, END = "answer_start", "answer_end"
"""Columns of tables that have an answer's characters and no list of answers."""


class Answer(NamedTuple):
    """A part of a context: its first character, and the one behind its last."""

    start: int
    end: int


@runtime_checkable
class AnswerData(Protocol):
    """What question answering asks of its data.

    Attributes:
        has_unanswerable: Whether the context of some training question has no answer to it.
    """

    has_unanswerable: bool


def answers_of(row: Row, column: str, context: str) -> list[Answer]:
    """The accepted answers of a row, none where its context has none.

    Args:
        row: It has either ``column``, a list of {text, answer_start} or {text: […], answer_start: […]}, or
            answer_start and answer_end.
        column: See above.
        context: What the answers are parts of.

    Raises:
        UserError: If it has neither, or an answer is no such part.
    """
    if column not in row.fields and START in row.fields and END in row.fields:
        return _from_offsets(row, context)
    if column not in row.fields:
        names = list(map(str, row.fields))
        raise UserError(
            f"{row.place} has no column {column!r}, nor {START} and {END}, only {', '.join(names)}"
            f"{did_you_mean(column, names)}"
        )
    return [_checked(row, column, context, text, start) for text, start in _texts_and_starts(row, column)]


def _texts_and_starts(row: Row, column: str) -> list[tuple[Any, Any]]:
    value = row.fields[column]
    if value is None:
        raise UserError(f"{row.place} has no answer: give it one in {column}, or say that it has none")
    if isinstance(value, dict) and all(isinstance(value.get(name), list) for name in ("text", START)):
        if len(value["text"]) == len(value[START]):
            return list(zip(value["text"], value[START], strict=True))
    elif isinstance(value, list) and all(isinstance(item, dict) and {"text", START} <= item.keys() for item in value):
        return [(item["text"], item[START]) for item in value]
    raise UserError(
        f"{row.place}: {column} must be a list of {{text, {START}}}, or {{text: […], {START}: […]}} of equal lengths, "
        f"not {value!r:.80}"
    )


def _checked(row: Row, column: str, context: str, text: Any, start: Any) -> Answer:
    if not isinstance(text, str) or not text.strip():
        raise UserError(f"{row.place}: an answer in {column} must be text, not {text!r:.80}: leave it out")
    if not isinstance(start, int) or isinstance(start, bool):
        raise UserError(f"{row.place}: {START} of the answer {text!r:.80} must be a whole number, not {start!r:.80}")
    there = context[start : start + len(text)] if start >= 0 else ""
    if there != text:
        said = f"{there!r:.80} is" if there else f"the context of {len(context):,} characters has nothing"
        right = context.find(text)
        cure = f"it stands at {right:,}" if right >= 0 else "it stands nowhere in it: mend the text"
        raise UserError(f"{row.place}: the answer {text!r:.80} must stand at {START} ({start}), where {said}: {cure}")
    return Answer(start, start + len(text))


def _from_offsets(row: Row, context: str) -> list[Answer]:
    given = {name: row.fields[name] for name in (START, END)}
    empty = [name for name, value in given.items() if value in (None, "")]
    if len(empty) == 2:
        return []
    if empty:
        other = END if empty == [START] else START
        raise UserError(f"{row.place} has {other}, but no {empty[0]}: give both, or neither where there is no answer")
    start, end = (_number(row, name, value) for name, value in given.items())
    if not 0 <= start < end <= len(context):
        raise UserError(
            f"{row.place}: {START} ({start}) and {END} ({end}), the character behind the answer, must be a part of the "
            f"context, which has {len(context):,} characters"
        )
    if not context[start:end].strip():
        raise UserError(f"{row.place}: {START} ({start}) and {END} ({end}) have nothing between them but spaces")
    return [Answer(start, end)]


def _number(row: Row, name: str, value: Any) -> int:
    if isinstance(value, str) and value.strip().removeprefix("-").isdecimal():
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise UserError(f"{row.place}: {name} must be a whole number, not {value!r:.80}")


def with_answer(fields: dict[str, Any], column: str, prediction: dict[str, Any]) -> dict[str, Any]:
    """The fields of a row with a predicted answer in the answers' place, in the form that they have there.

    Args:
        fields: Those of the row.
        column: Column of a list of answers; a row without has answer_start and answer_end.
        prediction: ``answer``, ``answer_start``, ``answer_end``, which are None where there is no answer; and others,
            which are added.
    """
    if column not in fields:
        return fields | prediction
    found = [] if prediction[START] is None else [(prediction["answer"], prediction[START])]
    rest = {name: value for name, value in prediction.items() if name not in ("answer", START, END)}
    return fields | {column: _in_form_of(fields[column], found)} | rest


def _in_form_of(value: Any, found: Sequence[tuple[str, int]]) -> Any:
    if isinstance(value, dict):
        return {"text": [text for text, _ in found], START: [start for _, start in found]}
    return [{"text": text, START: start} for text, start in found]
