"""JSON documents of which all is checked that is read, and all can be written back."""

from pathlib import Path
from typing import Any

from lt_cli.data.rows import json_of, read_text
from lt_cli.errors import UserError, did_you_mean

KINDS: dict[type | tuple[type, ...], str] = {list: "a list", str: "text", (str, int): "text or a whole number"}
"""What messages call the kinds of values."""


def document_of(path: Path, wanted: str) -> dict[str, Any]:
    """A file's object.

    Args:
        path: The file.
        wanted: What it must be, for messages.
    """
    text = read_text(path)
    document = json_of(text, str(path), is_file=True)
    if not isinstance(document, dict):
        raise UserError(f"{path} must be {wanted}, {{…}}, not {' '.join(text.split()):.40}")
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
        raise UserError(
            f"{within} has no {name!r}, only {', '.join(holder) or 'nothing':.200}{did_you_mean(name, holder)}"
        )
    value = holder[name]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise UserError(f"{within}{'.' if place else ' '}{name} must be {KINDS[kind]}, not {value!r:.40}")
    return value
