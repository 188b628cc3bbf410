"""Files of text and of rows, read so that a mistake is found with its file and line."""

import codecs
import csv
import io
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import date, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from lt_cli.errors import UserError, did_you_mean, one_line

ROW_SUFFIXES = (".jsonl", ".csv", ".tsv", ".parquet")
HEADER = "where the first line is a row, name the columns with --data.source.columns"
"""What to do where a file's first line was taken for names."""


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
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}:{line}, byte {error.start}: {content[error.start]:#04x} is not UTF-8 ({error.reason}): "
            "save all of it as UTF-8"
        ) from error


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


def read_rows(path: Path, column: str) -> Iterator[Row]:
    """The rows of a .jsonl, .csv, .tsv or .parquet file, each with text in a column; blank lines are no rows.

    Args:
        path: The file; the first line of .csv and .tsv names the columns. A .tsv knows no quotes.
        column: The field that every row must have text in.

    Raises:
        UserError: If a line is no such row.
    """
    for row in read_table(path):
        text_of(row, column, "")
        yield row


def read_table(path: Path, columns: Sequence[str] | None = None, *, unlabeled: bool = False) -> Iterator[Row]:
    """The rows of a .jsonl, .csv, .tsv or .parquet file, whatever they have; blank lines are no rows.

    A row's place is its line, counted from 1, or ``row 17`` of a .parquet, counted from 0 as pandas does. What JSON has
    no form for in a .parquet becomes plain: a date or a time text, a span of time its seconds, a decimal a number.

    Args:
        path: The file. A .tsv knows no quotes.
        columns: Names of the columns of a .csv or .tsv whose first line does not say them; None where it does.
        unlabeled: Whether the last of ``columns`` may be missing, in all rows alike.

    Raises:
        UserError: If a line is no row, or has not as many columns as there are names.
    """
    if path.suffix not in (".jsonl", ".parquet"):
        return _table_rows(path, read_text(path), list(columns or []), unlabeled)
    if columns is not None:
        raise UserError(f"columns ({list(columns)}) has no meaning for {path}, whose rows name them: set it to null")
    return _parquet_rows(path) if path.suffix == ".parquet" else _json_rows(path, read_text(path))


def field_of(row: Row, column: str, cure: str | None = None) -> Any:
    """What a row has in a column; ``a.b`` is also what is called b within column a.

    Args:
        row: The row.
        column: The column.
        cure: What to do where there is none; None for the usual.
    """
    fields, name = row.fields, column
    while name not in fields and isinstance(within := fields.get(name.partition(".")[0]), dict):
        fields, name = within, name.partition(".")[2]
    if name not in fields:
        names = [column.removesuffix(name) + str(known) for known in fields]
        if cure is None and row.place.rpartition(":")[0].endswith((".csv", ".tsv")):
            cure = HEADER
        shown, meant = f"{', '.join(names):.200}", did_you_mean(column, names)
        raise UserError(f"{row.place} has no column {column!r}, only {shown}{meant}" + (f"; {cure}" if cure else ""))
    return fields[name]


def with_field(fields: dict[str, Any], column: str, value: Any) -> dict[str, Any]:
    """The fields of a row with a value in a column, where ``field_of`` finds it."""
    outer, _, inner = column.partition(".")
    if not inner or column in fields:
        return fields | {column: value}
    within = fields.get(outer)
    return fields | {outer: with_field(within if isinstance(within, dict) else {}, inner, value)}


def text_of(row: Row, column: str, cure: str | None = None) -> str:
    """The text that a row has in a column."""
    text = field_of(row, column, cure)
    if not isinstance(text, str):
        raise UserError(f"{row.place}: {column} must be text, not {text!r:.80}")
    return text


def some_text_of(row: Row, column: str) -> str:
    """The text that a row has in a column, which must be more than spaces."""
    text = text_of(row, column)
    if not text.strip():
        raise UserError(f"{row.place} has no text in {column}: give it some, or leave the row out")
    return text


def write_jsonl(rows: Sequence[dict[str, Any]], path: Path) -> Path:
    """Writes a JSON object for each row; what JSON has no form for, such as a date, as text."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
    return path


def write_parquet(rows: Sequence[dict[str, Any]], path: Path) -> Path:
    """Writes a column for each field; one whose values are of several kinds becomes text, as ``as_cell`` has it."""
    import pyarrow  # type: ignore[import-untyped]
    import pyarrow.parquet  # type: ignore[import-untyped]

    def column(values: list[Any]) -> Any:
        try:
            return pyarrow.array(values)
        except (pyarrow.ArrowException, OverflowError):
            return pyarrow.array([as_cell(value) for value in values])

    names = dict.fromkeys(name for row in rows for name in row)
    pyarrow.parquet.write_table(pyarrow.table({name: column([row.get(name) for row in rows]) for name in names}), path)
    return path


def as_cell(value: Any) -> str:
    """A value as text: JSON where it is something else; what is not there is empty, as it is read."""
    return value or "" if isinstance(value, str | None) else json.dumps(value, ensure_ascii=False, default=str)


def _json_rows(path: Path, text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines, which ends lines within strings
        if not line.strip():
            continue
        fields = json_of(line, f"{path}:{number}")
        if not isinstance(fields, dict):
            raise UserError(f"{path}:{number} must be a JSON object, {{…}}, not {line:.80}")
        yield Row(fields, f"{path}:{number}")


def _table_rows(path: Path, text: str, names: list[str], unlabeled: bool) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)
    is_tsv = path.suffix == ".tsv"
    options: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if is_tsv else {"strict": True}
    reader = csv.reader(io.StringIO(text, newline=""), **options)
    has_header = not names
    place = f"{path}:1"  # where the next row begins; within quotes it may have several lines
    try:
        for values in reader:
            here, place = place, f"{path}:{reader.line_num + 1}"
            if not values:
                continue
            if not names:
                names = _different(values, here, HEADER)
                continue
            if unlabeled:
                names, unlabeled = names[: len(values)], False
            if len(values) != len(names):
                cure = "no text may have a tab" if is_tsv else "put quotes around a text that has a comma"
                cure = cure if len(values) > len(names) else f"{names[len(values)]} is missing"
                said = f"the header {len(names)}" if has_header else f"data.source.columns {len(names)} {names}"
                raise UserError(f"{here} has {len(values)} columns, {said}: {cure}")
            yield Row(dict(zip(names, values, strict=True)), here)
    except csv.Error as error:
        raise UserError(f"{place} is no row of .csv: {error}") from error


def _different(names: list[str], place: str, cure: str = "") -> list[str]:
    """The names of columns, each of which must be there once, or one of them would be lost."""
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise UserError(f"{place} names {count} columns {name!r}: rename all but one" + (cure and f"; {cure}"))
    return names


def _parquet_rows(path: Path) -> Iterator[Row]:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    number = 0
    try:
        with path.open("rb") as stream:
            file = ParquetFile(stream)
            _different(file.schema_arrow.names, str(path))
            for batch in file.iter_batches():
                for fields in batch.to_pylist(maps_as_pydicts="strict"):
                    yield Row({name: _plain(value) for name, value in fields.items()}, f"{path}, row {number}")
                    number += 1
    except (ArrowException, OSError, KeyError) as error:
        if isinstance(error, OSError) and error.strerror:
            raise UserError(f"{path} cannot be read: {error.strerror}") from error
        raise UserError(f"{path} is no .parquet that can be read: {one_line(error)}") from error


def _plain(value: Any) -> Any:
    """What JSON has a form for; bytes, such as those of a picture, stay as they are."""
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, Decimal):
        return float(value) if value.as_tuple().exponent else int(value)
    if isinstance(value, timedelta):
        return value.total_seconds()
    return str(value) if isinstance(value, date | time) else value
