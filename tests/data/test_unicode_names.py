"""Names of characters: what is there, and that it can be told from."""

import unicodedata
from collections import Counter
from pathlib import Path

from lt_cli.data.labeled_text import LabeledText
from lt_cli.data.tokenizers import ByteTokenizer
from lt_cli.data.unicode_names import CATEGORIES, UnicodeNames


def test_rows() -> None:
    rows = UnicodeNames().rows("train") or []
    assert len(rows) > 29_000
    for row in rows[::97]:
        assert unicodedata.name(row.fields["character"]) == row.fields["name"]
        assert CATEGORIES[unicodedata.category(row.fields["character"])] == row.fields["kind"]
        assert row.place == f"U+{ord(row.fields['character']):04X}"
    counts = Counter(row.fields["kind"] for row in rows)
    assert counts.keys() == set(CATEGORIES.values())
    assert min(counts.values()) > 200


def test_one_split_is_shared_out() -> None:
    data = LabeledText(
        source=UnicodeNames(),
        tokenizer=ByteTokenizer(),
        text_column="name",
        label_column="kind",
        test_fraction=0.1,
    )
    data.setup("fit")
    data.setup("test")
    sizes = {name: len(split) for name, split in data.splits.items()}
    assert sum(sizes.values()) == len(UnicodeNames().rows("train") or [])
    assert UnicodeNames().rows("val") is None


def test_predictions_are_json(tmp_path: Path) -> None:
    (path,) = UnicodeNames().write([{"name": "é"}], "train", tmp_path)
    assert path.read_text() == '{"name": "é"}\n'
