"""Rows of text, and where a file has a mistake."""

import csv
import json
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toys import message

from lt_cli.data.rows import Row, field_of, read_rows, read_table, read_text, with_field
from lt_cli.data.text_sources import TextFiles

TEXTS = [
    "plain",
    'with "quotes", commas\tand tabs',
    "two\nlines",
    "two\r\nlines",
    "",
    " spaces ",
    "ü 🙂 \u2028 \x85 end",
]


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def rows(path: Path, column: str = "text") -> list[tuple[dict[str, Any], str]]:
    """Fields, and the part of the place after the folder."""
    return [(row.fields, row.place.removeprefix(f"{path.parent}/")) for row in read_rows(path, column)]


class TestRows:
    """What is read."""

    def test_jsonl(self, tmp_path: Path) -> None:
        lines = [json.dumps({"text": text, "id": i}, ensure_ascii=False) for i, text in enumerate(TEXTS)]
        path = write(tmp_path / "a.jsonl", "\n".join(lines))
        assert rows(path) == [({"text": text, "id": i}, f"a.jsonl:{i + 1}") for i, text in enumerate(TEXTS)]

    def test_csv(self, tmp_path: Path) -> None:
        path = tmp_path / "a.csv"
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([["id", "text"], *([str(i), text] for i, text in enumerate(TEXTS))])
        lines = [2, 3, 4, 6, 8, 9, 10]  # two rows have two lines
        expected = zip(enumerate(TEXTS), lines, strict=True)
        assert rows(path) == [({"id": str(i), "text": text}, f"a.csv:{line}") for (i, text), line in expected]

    def test_tsv_knows_no_quotes(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.tsv", 'text\tid\n"one\t1\nit\'s "two", ü\t2\n')
        assert [fields["text"] for fields, _ in rows(path)] == ['"one', 'it\'s "two", ü']

    @pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
    @pytest.mark.parametrize("end", ["\n", "\r\n"])
    @pytest.mark.parametrize(
        ("suffix", "lines"),
        [
            ("jsonl", ['{"text": "one"}', "", '{"text": "two"}']),
            ("csv", ["text", "", "one", "", "two"]),
            ("tsv", ["text", "", "one", "", "two"]),
        ],
    )
    def test_ends_of_lines_blank_lines_and_marks(
        self, suffix: str, lines: list[str], end: str, mark: bytes, tmp_path: Path
    ) -> None:
        path = write(tmp_path / f"a.{suffix}", mark + end.join([*lines, "", ""]).encode())
        places = [number for number, line in enumerate(lines, 1) if "one" in line or "two" in line]
        assert rows(path) == [
            ({"text": text}, f"a.{suffix}:{place}") for text, place in zip(["one", "two"], places, strict=True)
        ]

    def test_parquet(self, tmp_path: Path) -> None:
        path = tmp_path / "a.parquet"
        table = pyarrow.table({"text": TEXTS, "id": range(len(TEXTS))})
        pyarrow.parquet.write_table(table, path, row_group_size=2)
        assert rows(path) == [({"text": text, "id": i}, f"a.parquet, row {i}") for i, text in enumerate(TEXTS)]
        assert list(TextFiles(str(path)).documents("train") or []) == TEXTS
        assert list(TextFiles(str(tmp_path)).documents("train") or []) == TEXTS, "and in a folder"

    @pytest.mark.parametrize(
        ("value", "plain"),
        [
            (datetime(2024, 2, 29, 12, 30), "2024-02-29 12:30:00"),
            (pyarrow.scalar(1, pyarrow.timestamp("ns")), "1970-01-01 00:00:00.000000001"),
            (date(2024, 2, 29), "2024-02-29"),
            (time(1, 2, 3), "01:02:03"),
            (timedelta(minutes=1, milliseconds=500), 60.5),
            (Decimal("1.50"), 1.5),
            (Decimal(12345678901234567890), 12345678901234567890),
            (
                pyarrow.scalar([(1, date(2024, 2, 29))], pyarrow.map_(pyarrow.int64(), pyarrow.date32())),
                {"1": "2024-02-29"},
            ),
            ([{"at": date(2024, 2, 29)}, None], [{"at": "2024-02-29"}, None]),
            (pyarrow.scalar("a", pyarrow.string()).cast(pyarrow.dictionary(pyarrow.int8(), pyarrow.string())), "a"),
            (b"\x89PNG", b"\x89PNG"),
            (None, None),
        ],
        ids=str,
    )
    def test_what_json_has_no_form_for(self, value: Any, plain: Any, tmp_path: Path) -> None:
        path = tmp_path / "a.parquet"
        pyarrow.parquet.write_table(pyarrow.table({"x": pyarrow.array([value])}), path)
        (row,) = read_table(path)
        assert row.fields == {"x": plain}
        assert type(row.fields["x"]) is type(plain)

    @given(st.lists(st.lists(st.text(), min_size=2, max_size=2), min_size=1, max_size=5))
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    def test_any_text(self, tmp_path: Path, table: list[list[str]]) -> None:
        path = tmp_path / "a.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, quoting=csv.QUOTE_ALL).writerows([["text", "more"], *table])
        assert [list(fields.values()) for fields, _ in rows(path)] == table
        write(tmp_path / "a.jsonl", "".join(json.dumps({"text": a, "more": b}) + "\n" for a, b in table))
        assert [list(fields.values()) for fields, _ in rows(tmp_path / "a.jsonl")] == table

    def test_long_texts(self, tmp_path: Path) -> None:
        """The csv module refuses more than 131,072 characters, unless it is told."""
        path = write(tmp_path / "a.csv", "text\n" + "a" * 200_000 + "\n")
        assert len(rows(path)[0][0]["text"]) == 200_000


class TestMistakes:
    """Each says file and line, and what to do."""

    @pytest.mark.parametrize(
        ("name", "content", "said"),
        [
            (
                "a.jsonl",
                '{"text": "a"}\n{"txt": "b", "id": 1}\n',
                ":2 has no column 'text', only txt, id; did you",
            ),
            ("a.csv", "id,title\n1,b\n", ":2 has no column 'text', only id, title"),
            ("a.jsonl", '{"text": 5}', ":1: text must be text, not 5"),
            ("a.jsonl", '\n{"text": null}', ":2: text must be text, not None"),
            (
                "a.csv",
                "id,text\n1,b\n\n2\n",
                ":4 has 1 columns, the header 2: text is missing",
            ),
            ("a.csv", 'id,text\n1,"b\nc"\n2,d,e\n', ":4 has 3 columns, the header 2: put quotes"),
            ("a.tsv", "id\ttext\n1\tb\tc\n", ":2 has 3 columns, the header 2: no text may have a tab"),
            ("a.csv", 'text\none\n"two\nthree\nfour', ":3 is no row of .csv: unexpected end of data"),
            ("a.csv", 'text\none\n"two" three\n', ":3 is no row of .csv: "),
            ("a.jsonl", '{"text": "a"}\n{"text": "b"\n', ":2 is not JSON: Expecting ',' delimiter, column 13"),
            ("a.jsonl", '{"text": "a"} {"text": "b"}\n', ":1 is not JSON: Extra data, column 15"),
            ("a.jsonl", '["a"]', ':1 must be a JSON object, {…}, not ["a"]'),
            ("a.jsonl", '{"text": "a\\ud800b"}', r":1 has half a character, '\ud800': mend it"),
            ("a.jsonl", '{"text": "a", "id": "\\ud800"}', r":1 has half a character, '\ud800': mend it"),
            ("a.jsonl", '{"text": "a", "id": NaN}', ":1 has NaN or Infinity, which JSON does not know: write null"),
        ],
    )
    def test_rows(self, name: str, content: str, said: str, tmp_path: Path) -> None:
        path = write(tmp_path / name, content)
        found = message(lambda: rows(path))
        assert found.startswith(f"{path}{said}")
        assert len(found.splitlines()) == 1

    def test_a_column_that_is_there_twice(self, tmp_path: Path) -> None:
        """One of them would be lost."""
        said = (
            ":2 names 2 columns 'id': rename all but one; where the first line is a row, name the columns with --data"
        )
        path = write(tmp_path / "a.csv", "\nid,text,id\n1,a,2\n")
        assert message(lambda: rows(path)).startswith(f"{path}{said}")
        twice = pyarrow.Table.from_arrays([pyarrow.array(["a"])] * 2, names=["text", "text"])
        pyarrow.parquet.write_table(twice, path := tmp_path / "a.parquet")
        assert message(lambda: rows(path)) == f"{path} names 2 columns 'text': rename all but one"

    @pytest.mark.parametrize("content", [b"", b"text\na\n", b"PAR1" + b"x" * 30 + b"PAR1"])
    def test_no_parquet(self, content: bytes, tmp_path: Path) -> None:
        path = write(tmp_path / "a.parquet", content)
        found = message(lambda: rows(path))
        assert found.startswith(f"{path} is no .parquet that can be read: Parquet ")
        assert len(found.splitlines()) == 1

    def test_half_a_parquet(self, tmp_path: Path) -> None:
        path = tmp_path / "a.parquet"
        table = pyarrow.table({"text": [str(i) * 100 for i in range(1000)]})
        pyarrow.parquet.write_table(table, path, compression="none", use_dictionary=False)
        content = path.read_bytes()
        path.write_bytes(content[:4] + b"\xff" * (len(content) // 2) + content[4 + len(content) // 2 :])
        assert message(lambda: rows(path)).startswith(f"{path} is no .parquet that can be read: ")

    def test_rows_before_a_mistake_are_there(self, tmp_path: Path) -> None:
        read = read_rows(write(tmp_path / "a.jsonl", '{"text": "a"}\nnonsense\n'), "text")
        assert next(read).fields == {"text": "a"}
        assert ":2 is not JSON" in message(lambda: next(read))

    @pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv"])
    def test_another_encoding(self, name: str, tmp_path: Path) -> None:
        path = write(tmp_path / name, b"\xef\xbb\xbftext\nGr" + "üße".encode("latin-1"))
        said = f"{path}:2, byte 10: 0xfc is not UTF-8 (invalid start byte): save all of it as UTF-8"
        assert message(lambda: read_text(path)) == said
        assert message(lambda: rows(path)) == said

    @pytest.mark.parametrize("content", [b"", b" \r\n\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n"])
    @pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv"])
    def test_empty(self, name: str, content: bytes, tmp_path: Path) -> None:
        path = write(tmp_path / name, content)
        assert message(lambda: read_text(path)) == f"{path} is empty: fill it, or leave it out"
        assert message(lambda: rows(path)) == f"{path} is empty: fill it, or leave it out"

    def test_missing(self, tmp_path: Path) -> None:
        path = tmp_path / "a.txt"
        assert message(lambda: read_text(path)) == f"{path} cannot be read: No such file or directory"
        path = tmp_path / "a.parquet"
        assert message(lambda: rows(path)) == f"{path} cannot be read: No such file or directory"
        assert message(lambda: read_text(tmp_path)) == f"{tmp_path} cannot be read: Is a directory"


class TestColumns:
    """Columns, and columns within columns."""

    FIELDS = {"id": 1, "a.b": 2, "translation": {"en": "yes", "de": "ja", "x.y": 3}}  # noqa: RUF012  # never written to

    @pytest.mark.parametrize(
        ("column", "value"), [("id", 1), ("a.b", 2), ("translation.de", "ja"), ("translation.x.y", 3)]
    )
    def test_found_and_replaced(self, column: str, value: Any) -> None:
        assert field_of(Row(self.FIELDS, "here"), column) == value
        changed = with_field(self.FIELDS, column, "new")
        assert field_of(Row(changed, "here"), column) == "new"
        assert with_field(changed, column, value) == self.FIELDS
        assert list(changed) == list(self.FIELDS)

    def test_a_column_that_was_not_there(self) -> None:
        assert with_field({"id": 1}, "text", "x") == {"id": 1, "text": "x"}
        assert with_field({"id": 1}, "translation.de", "ja") == {"id": 1, "translation": {"de": "ja"}}
        assert with_field({"translation": {"en": "yes"}}, "translation.de", "ja") == {
            "translation": {"en": "yes", "de": "ja"}
        }

    @pytest.mark.parametrize(
        ("column", "says"),
        [
            ("ids", "here has no column 'ids', only id, a.b, translation; did you mean id?"),
            (
                "translation.dee",
                "here has no column 'translation.dee', only translation.en, translation.de, translation.x.y; "
                "did you mean translation.de?",
            ),
            ("id.de", "here has no column 'id.de', only id, a.b, translation; did you mean id?"),
        ],
    )
    def test_a_column_that_is_not_there_is_named(self, column: str, says: str) -> None:
        assert message(lambda: field_of(Row(self.FIELDS, "here"), column)) == says
