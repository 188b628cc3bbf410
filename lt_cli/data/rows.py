"""Files of text and of rows, read so that a mistake is found with its file and line."""

import codecs
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
    if not content.removeprefix(codecs.BOM_UTF8).strip():
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
    for row in _json_rows(path, text) if path.suffix == ".jsonl" else _table_rows(path, text):
        fields, place = row
        if column not in fields:
            found = ", ".join(map(str, fields))
            raise UserError(f"{place} has no column {column!r}, only {found}{did_you_mean(column, map(str, fields))}")
        if not isinstance(fields[column], str):
            raise UserError(f"{place}: {column} must be text, not {fields[column]!r:.80}")
        yield row


def _json_rows(path: Path, text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines, which ends lines within strings
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}:{number} is not JSON: {error.msg}, column {error.colno}") from error
        if not isinstance(fields, dict):
            raise UserError(f"{path}:{number} must be a JSON object, {{…}}, not {line:.80}")
        try:
            json.dumps(fields, ensure_ascii=False, allow_nan=False).encode()  # as it is written back
        except UnicodeEncodeError as error:  # JSON can spell what no UTF-8 file can have
            raise UserError(f"{path}:{number} has half a character, {error.object[error.start]!r}: mend it") from error
        except ValueError as error:
            raise UserError(f"{path}:{number} has NaN or Infinity, which JSON does not know: write null") from error
        yield Row(fields, f"{path}:{number}")


def _table_rows(path: Path, text: str) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)
    is_tsv = path.suffix == ".tsv"
    options: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if is_tsv else {"strict": True}
    reader = csv.reader(io.StringIO(text, newline=""), **options)
    names: list[str] = []
    place = f"{path}:1"  # where the next row begins; within quotes it may have several lines
    try:
        for values in reader:
            here, place = place, f"{path}:{reader.line_num + 1}"
            if names and values and len(values) != len(names):
                cure = "no text may have a tab" if is_tsv else "put quotes around a text that has a comma"
                cure = cure if len(values) > len(names) else f"{names[len(values)]} is missing"
                raise UserError(f"{here} has {len(values)} columns, the header {len(names)}: {cure}")
            if names and values:
                yield Row(dict(zip(names, values, strict=True)), here)
            names = names or values
    except csv.Error as error:
        raise UserError(f"{place} is no row of .csv: {error}") from error
