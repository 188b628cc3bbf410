"""The names of characters, such as LATIN SMALL LETTER A, and what they are names of: text with labels, offline."""

import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lt_cli.data.base import SplitName
from lt_cli.data.row_sources import RowSource
from lt_cli.data.rows import Row, write_jsonl

CATEGORIES = {
    "Lu": "uppercase letter",
    "Ll": "lowercase letter",
    "Lm": "modifier letter",
    "Lo": "other letter",
    "Mn": "mark without width",
    "Mc": "mark with width",
    "Nd": "digit",
    "Nl": "letter number",
    "No": "other number",
    "Po": "punctuation",
    "Sm": "mathematical symbol",
    "So": "other symbol",
}
"""The kinds of characters with more than 200 names, by what Unicode calls them."""
NUMBERED = ("CJK ", "HANGUL SYLLABLE", "TANGUT ", "NUSHU CHARACTER", "KHITAN ", "EGYPTIAN HIEROGLYPH", "ANATOLIAN ")
"""How names begin that say little more than a number."""


class UnicodeNames(RowSource):
    """29 thousand names that Python's ``unicodedata`` knows, with the kind of the character: no download.

    Columns are ``name``, ``character`` and ``kind`` (https://www.unicode.org/reports/tr44). Other versions of
    Python may know more of them.
    """

    def rows(self, split: SplitName) -> list[Row] | None:
        """All of them, for training; the data holds parts of them out."""
        if split != "train":
            return None
        found = []
        for character in map(chr, range(sys.maxunicode)):
            kind = CATEGORIES.get(unicodedata.category(character))
            name = unicodedata.name(character, "")
            if kind and name and not name.startswith(NUMBERED):
                fields = {"name": name, "character": character, "kind": kind}
                found.append(Row(fields, f"U+{ord(character):04X}"))
        return found

    def has(self, split: SplitName) -> bool:
        """There is one split only."""
        return split == "train"

    def write(self, rows: Sequence[dict[str, Any]], split: SplitName, directory: Path) -> list[Path]:
        """As .jsonl."""
        return [write_jsonl(rows, directory / "predictions.jsonl")]
