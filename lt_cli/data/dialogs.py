"""What a row that is a dialog about a video says: questions and answers in turn, of which the last may be hidden."""

import json
from typing import Any, NamedTuple

from lt_cli.data.rows import Row, field_of, json_of, with_field
from lt_cli.errors import UserError, did_you_mean

HIDDEN = "__UNDISCLOSED__"
"""What stands in place of an answer that is to be given, in the files of the AVSD challenges."""
REFERENCES = "references"
"""Field of a row with right answers to its last question, all of which count in test."""


class Turn(NamedTuple):
    """A question, and the answer to it.

    Attributes:
        question: More than spaces.
        answer: The same; None where it is to be given, as only that of the last turn may be.
    """

    question: str
    answer: str | None


def turns_of(row: Row, column: str) -> list[Turn]:
    """The turns of a row's dialog, one at least.

    Args:
        row: The row.
        column: Column of a list of {question, answer}, or of such a list as text, in JSON, as a .csv has it.

    Raises:
        UserError: If it is no such list, or a question or an answer is missing.
    """
    value = field_of(row, column)
    if isinstance(value, str):
        value = json_of(value, f"{row.place}: {column}")
    if not isinstance(value, list):
        raise UserError(
            f"{row.place}: {column} must be a list of turns, {{question, answer}}, not {value!r:.80}: name the column "
            "that has one, or leave the row out"
        )
    if not value:
        raise UserError(f"{row.place} has no turn in {column}: give it one, or leave the row out")
    last = len(value) - 1
    return [_turn(turn, f"{row.place}: {column}[{i}]", is_last=i == last) for i, turn in enumerate(value)]


def _turn(turn: Any, place: str, *, is_last: bool) -> Turn:
    if not isinstance(turn, dict):
        raise UserError(f"{place} must be an object, {{question, answer}}, not {turn!r:.80}: mend it")
    for name in ("question",) if is_last else ("question", "answer"):
        if name not in turn:
            shown, meant = f"{', '.join(map(str, turn)) or 'nothing':.200}", did_you_mean(name, map(str, turn))
            cure = ": only the last turn may be without an answer" if name == "answer" and not meant else ""
            raise UserError(f"{place} has no {name!r}, only {shown}{meant or cure or ': give it one'}")
    question, answer = turn["question"], turn.get("answer")
    if not isinstance(question, str) or not question.strip():
        raise UserError(f"{place}.question must be text, not {question!r:.80}: give it some, or leave the row out")
    if answer in (None, HIDDEN):
        if not is_last:
            raise UserError(f"{place}.answer must be text, not {answer!r}: only the last turn may be without an answer")
        return Turn(question, None)
    if not isinstance(answer, str) or not answer.strip():
        cure = f"write null or {HIDDEN} where it is to be given" if is_last else "give it some, or leave the row out"
        raise UserError(f"{place}.answer must be text, not {answer!r:.80}: {cure}")
    return Turn(question, answer)


def with_answer(fields: dict[str, Any], column: str, answer: str) -> dict[str, Any]:
    """The fields of a row with an answer in the last turn of its dialog, which becomes a list where it was text.

    Args:
        fields: Those of a row that ``turns_of`` has read; they stay as they are.
        column: Column of the dialog.
        answer: What to put in place of the last answer.
    """
    turns = field_of(Row(fields, "the row"), column)
    turns = json.loads(turns) if isinstance(turns, str) else turns
    return with_field(fields, column, [*turns[:-1], turns[-1] | {"answer": answer}])


def references_of(row: Row) -> list[str] | None:
    """The right answers to the last question that a row has beside its dialog's own; None where it has none.

    Raises:
        UserError: If they are no texts.
    """
    found = row.fields.get(REFERENCES)
    if isinstance(found, str):
        found = json_of(found, f"{row.place}: {REFERENCES}") if found.strip() else None
    if found is None:
        return None
    if not isinstance(found, list) or not found or not all(isinstance(text, str) and text.strip() for text in found):
        raise UserError(
            f"{row.place}: {REFERENCES} must be a list of texts, not {found!r:.80}: mend it, or leave it out"
        )
    return found
