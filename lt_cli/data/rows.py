"""Files of text and of rows, read so that a mistake is found with its file and line."""

import csv
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from lt_cli.errors import UserError, did_you_mean

ROW_SUFFIXES = (".jsonl", ".csv", ".tsv")


class Row(NamedTuple):
    """One row of a file: its fields, and where it stands."""

    fields: dict[str, Any]
    place: str


def read_text(path: Path) -> str:
    """The content of a UTF-8 file, without a byte order mark.

    Raises:
        UserError: If it cannot be read, is empty, or is not UTF-8: which byte.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    if not content.strip():
        raise UserError(f"{path} is empty: fill it, or leave it out")
    try:
        return content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}, byte {error.start}: {content[error.start]:#04x} is not UTF-8 ({error.reason}): save it as UTF-8"
        ) from error


def read_rows(path: Path, column: str) -> Iterator[Row]:
    """The rows of a .jsonl, .csv or .tsv file, each with text in a column; blank lines are no rows.

    Args:
        path: The file; the first line of .csv and .tsv names the columns. A .tsv knows no quotes.
        column: The field that every row must have text in.

    Raises:
        UserError: If a line is no such row.
    """
    text = read_text(path)
    for number, fields in _json_rows(path, text) if path.suffix == ".jsonl" else _table_rows(path, text):
        place = f"{path}:{number}"
        if column not in fields:
            found = ", ".join(map(str, fields))
            raise UserError(f"{place} has no column {column!r}, only {found}{did_you_mean(column, map(str, fields))}")
        if not isinstance(fields[column], str):
            raise UserError(f"{place}: {column} must be text, not {fields[column]!r:.80}")
        yield Row(fields, place)


def _json_rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines, which ends lines within strings
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}:{number} is not JSON: {error}") from error
        if not isinstance(fields, dict):
            raise UserError(f"{path}:{number} must be a JSON object, {{…}}, not {line:.80}")
        yield number, fields


def _table_rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    csv.field_size_limit(sys.maxsize)
    quotes: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if path.suffix == ".tsv" else {}
    reader = csv.DictReader(io.StringIO(text, newline=""), **quotes)
    number = 1
    try:
        for fields in reader:
            number, first = reader.line_num, number + 1
            if None in fields:
                raise UserError(f"{path}:{first} has more than the {len(reader.fieldnames or [])} columns of line 1")
            if None in fields.values():
                missing = next(name for name, value in fields.items() if value is None)
                raise UserError(f"{path}:{first} has too few columns: {missing} is missing")
            yield first, fields
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num} is no row: {error}") from error
