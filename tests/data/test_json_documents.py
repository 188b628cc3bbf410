"""JSON that is read whole or refused in one line, which says where it is wrong."""

import json
from pathlib import Path
from typing import Any

import pytest
from toys import message

from lt_cli.data.json_documents import document_of, json_of, value_of

FILE = Path("mine.json")


def saved(content: str | bytes) -> Path:
    FILE.write_bytes(content if isinstance(content, bytes) else content.encode())
    return FILE


class TestTexts:
    """What json_of says of a text."""

    @pytest.mark.parametrize(
        "value",
        [
            {"a": [1, 2.5, None, True, "ü 日本 😀"], "": {}},
            [],
            "",
            0,
            None,
            "a\u2028b\u0085c",
            "\x00 \t\n",
            -(10**300),
            1e-300,
            {"a": [[[[{}]]]]},
        ],
    )
    @pytest.mark.parametrize("ensure_ascii", [True, False])
    def test_what_was_written_is_read(self, value: Any, ensure_ascii: bool) -> None:
        assert json_of(json.dumps(value, ensure_ascii=ensure_ascii), "here") == value

    def test_two_halves_are_a_character(self) -> None:
        assert json_of('"\\ud83d\\ude00"', "here") == "😀"

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("", "here is not JSON: Expecting value, column 1"),
            (" ", "here is not JSON: Expecting value, column 2"),
            ("{", "here is not JSON: Expecting property name enclosed in double quotes, column 2"),
            ("{'a': 1}", "here is not JSON: Expecting property name enclosed in double quotes, column 2"),
            ('{"a" 1}', "here is not JSON: Expecting ':' delimiter, column 6"),
            ('{"a": 1} {"b": 2}', "here is not JSON: Extra data, column 10"),
            ('["a]', "here is not JSON: Unterminated string starting at, column 2"),
            ('"a\nb"', "here is not JSON: Invalid control character at, column 3"),
            ("[" * 100_000, "here is JSON that cannot be read: maximum recursion depth exceeded …"),
            ('{"a":' * 100_000, "here is JSON that cannot be read: maximum recursion depth exceeded …"),
            ("9" * 5_000, "here is JSON that cannot be read: Exceeds the limit (4300 digits) …"),
            ('["\\ud800"]', "here has half a character, '\\ud800': mend it"),
            ('{"a\\udfff": 1}', "here has half a character, '\\udfff': mend it"),
            ('"\\ude00\\ud83d"', "here has half a character, '\\ude00': mend it"),
            ('{"a": NaN}', "here has NaN or Infinity, which JSON does not know: write null"),
            ("[-Infinity]", "here has NaN or Infinity, which JSON does not know: write null"),
            ("1e999", "here has NaN or Infinity, which JSON does not know: write null"),
        ],
        ids=lambda value: value[:30],
    )
    def test_mistakes(self, text: str, says: str) -> None:
        expected, ends_elsewhere, _ = says.partition("…")
        said = message(lambda: json_of(text, "here"))
        assert said.startswith(expected) if ends_elsewhere else said == expected
        assert len(said.splitlines()) == 1
        assert len(said) < 300

    def test_lines_count_in_a_file_alone(self) -> None:
        text = '\n\n {"a" 1}'
        assert message(lambda: json_of(text, "row 3: dialog")) == (
            "row 3: dialog is not JSON: Expecting ':' delimiter, column 7"
        )
        assert message(lambda: json_of(text, "mine.json", is_file=True)) == (
            "mine.json:3 is not JSON: Expecting ':' delimiter, column 7"
        )


class TestDocuments:
    """What document_of says of a file."""

    @pytest.mark.parametrize("content", ['{"a": "ü"}', '\ufeff{"a": "ü"}', ' \r\n{"a":\r\n"\\u00fc"}\r\n\r\n'])
    def test_an_object(self, content: str) -> None:
        assert document_of(saved(content), "an object") == {"a": "ü"}

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            ("", "mine.json is empty: fill it, or leave it out"),
            (" \n\ufeff"[:2], "mine.json is empty: fill it, or leave it out"),
            ("\ufeff \n", "mine.json is empty: fill it, or leave it out"),
            (
                b'{"a":\n"\xff"}',
                "mine.json:2, byte 7: 0xff is not UTF-8 (invalid start byte): save all of it as UTF-8",
            ),
            ('{"a": 1}\n{"a": 2}\n', "mine.json:2 is not JSON: Extra data, column 1"),
            ('{\n"a": 1,\n}', "mine.json:3 is not JSON: …"),
            ('{"a": "\\ud800"}', "mine.json has half a character, '\\ud800': mend it"),
            ('{"a": Infinity}', "mine.json has NaN or Infinity, which JSON does not know: write null"),
            (' [{"a": 1}]\n', 'mine.json must be a file of dialogs, {…}, not [{"a": 1}]'),
            ("null", "mine.json must be a file of dialogs, {…}, not null"),
            (f'"{"x" * 99}"', f'mine.json must be a file of dialogs, {{…}}, not "{"x" * 39}'),
        ],
    )
    def test_mistakes(self, content: str | bytes, says: str) -> None:
        expected, ends_elsewhere, _ = says.partition(" …")
        said = message(lambda: document_of(saved(content), "a file of dialogs"))
        assert said.startswith(expected) if ends_elsewhere else said == expected

    def test_a_file_that_cannot_be_read(self) -> None:
        assert message(lambda: document_of(FILE, "an object")) == "mine.json cannot be read: No such file or directory"
        Path("folder.json").mkdir()
        said = message(lambda: document_of(Path("folder.json"), "an object"))
        assert said == "folder.json cannot be read: Is a directory"


class TestValues:
    """What value_of says of an object in a document."""

    @pytest.mark.parametrize(
        ("value", "kind"), [([], list), ([1], list), ("", str), ("a", str), ("a", (str, int)), (-3, (str, int))]
    )
    def test_a_value(self, value: Any, kind: Any) -> None:
        assert value_of(FILE, "", {"a": value, "b": 1}, "a", kind) is value

    @pytest.mark.parametrize(
        ("value", "kind", "says"),
        [
            ({}, list, "a list, not {}"),
            (None, list, "a list, not None"),
            ("[]", list, "a list, not '[]'"),
            (3, str, "text, not 3"),
            (None, str, "text, not None"),
            (True, str, "text, not True"),
            (["a"], str, "text, not ['a']"),
            (None, (str, int), "text or a whole number, not None"),
            (1.5, (str, int), "text or a whole number, not 1.5"),
            (True, (str, int), "text or a whole number, not True"),
            ({"a": "x" * 99}, str, f"text, not {{'a': '{'x' * 33}"),
        ],
    )
    def test_of_another_kind(self, value: Any, kind: Any, says: str) -> None:
        assert message(lambda: value_of(FILE, "", {"a": value}, "a", kind)) == f"mine.json a must be {says}"
        assert message(lambda: value_of(FILE, "d[3]", {"a": value}, "a", kind)) == f"mine.json: d[3].a must be {says}"

    @pytest.mark.parametrize(
        ("holder", "says"),
        [
            ({}, "has no 'dialogs', only nothing"),
            ({"a": 1, "b c": 2}, "has no 'dialogs', only a, b c"),
            ({"Dialogs": []}, "has no 'dialogs', only Dialogs; did you mean Dialogs?"),
            ({"version": 1, "dialog": []}, "has no 'dialogs', only version, dialog; did you mean dialog?"),
            ([], "must be an object, {…}, not []"),
            ("dialogs", "must be an object, {…}, not 'dialogs'"),
            (None, "must be an object, {…}, not None"),
            (["x" * 99], f"must be an object, {{…}}, not ['{'x' * 38}"),
        ],
    )
    def test_of_no_such_name(self, holder: Any, says: str) -> None:
        assert message(lambda: value_of(FILE, "", holder, "dialogs", list)) == f"mine.json {says}"
        assert message(lambda: value_of(FILE, "d[3]", holder, "dialogs", list)) == f"mine.json: d[3] {says}"
