"""JSON documents of which all is checked that is read, and all can be written back."""

import json
from pathlib import Path
from typing import Any

from lt_cli.data.rows import read_text
from lt_cli.errors import UserError, did_you_mean, one_line

KINDS: dict[type | tuple[type, ...], str] = {list: "a list", str: "text", (str, int): "text or a whole number"}
"""What messages call the kinds of values."""


def json_of(text: str, place: str, *, is_file: bool = False) -> Any:
    """What a text in JSON says, all of which can be written back.

    Args:
        text: The text.
        place: Where it stands, for messages.
        is_file: Whether it is a whole file, so that lines are worth naming.

    Raises:
        UserError: If it is no JSON, or has half a character, NaN or Infinity.
    """
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        line = f":{error.lineno}" if is_file else ""
        raise UserError(f"{place}{line} is not JSON: {error.msg}, column {error.colno}") from error
    except (ValueError, RecursionError) as error:  # thousands of digits, or of brackets
        raise UserError(f"{place} is JSON that cannot be read: {one_line(error)}") from error
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()  # as it is written back
    except UnicodeEncodeError as error:  # JSON can spell what no UTF-8 file can have
        raise UserError(f"{place} has half a character, {error.object[error.start]!r}: mend it") from error
    except ValueError as error:
        raise UserError(f"{place} has NaN or Infinity, which JSON does not know: write null") from error
    return value


def document_of(path: Path, wanted: str) -> dict[str, Any]:
    """A file's object.

    Args:
        path: The file.
        wanted: What it must be, for messages.
    """
    text = read_text(path)
    document = json_of(text, str(path), is_file=True)
    if not isinstance(document, dict):
        raise UserError(f"{path} must be {wanted}, {{…}}, not {text.strip():.40}")
    return document


def value_of(path: Path, place: str, holder: Any, name: str, kind: type | tuple[type, ...]) -> Any:
    """What an object of a document has under a name, which must be of a kind.

    Args:
        path: The document's file, for messages.
        place: Where in it the object stands, for messages; empty for the document itself.
        holder: The object.
        name: The name.
        kind: ``list``, ``str``, or ``(str, int)``.
    """
    within = f"{path}: {place}" if place else str(path)
    if not isinstance(holder, dict):
        raise UserError(f"{within} must be an object, {{…}}, not {holder!r:.40}")
    if name not in holder:
        raise UserError(f"{within} has no {name!r}, only {', '.join(holder) or 'nothing'}{did_you_mean(name, holder)}")
    value = holder[name]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise UserError(f"{within}{'.' if place else ' '}{name} must be {KINDS[kind]}, not {value!r:.40}")
    return value
