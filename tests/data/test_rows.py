"""Rows of text, and where a file has a mistake."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toys import message

from lt_cli.data.rows import Row, field_of, read_rows, read_text, with_field

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
