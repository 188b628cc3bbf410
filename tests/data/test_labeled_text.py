"""Texts with labels: what a model reads, what is written back, and mistakes with their line."""

import json
from pathlib import Path
from typing import Any

import pytest
from texts import KINDS
from toys import message
from transformers import AutoTokenizer

from lt_cli.data.labeled_text import LabeledText
from lt_cli.data.labels import OneLabel, Score, SeveralLabels
from lt_cli.data.row_sources import TableFiles
from lt_cli.data.tokenizers import ByteTokenizer, HuggingFaceTokenizer, Tokenizer

ROWS = [
    {"id": "1", "text": "the cat sat", "pair": "on the mat", "label": "good"},
    {"id": "2", "text": "a", "pair": "tokenizer learns which letters stand together", "label": "bad"},
    {"id": "3", "text": "the city of the cat and the other cat", "pair": "Grüße aus Köln", "label": "good"},
]


def save(name: str, rows: list[dict[str, Any]] = ROWS) -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    else:
        path.write_text(
            "".join("\t".join(map(str, line)) + "\n" for line in [rows[0], *(row.values() for row in rows)])
        )
    return path


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    names, *rows = [line.split("\t") for line in path.read_text().splitlines()]
    return [dict(zip(names, row, strict=True)) for row in rows]


def labeled(tokenizer: Tokenizer | None = None, *, path: str = "data", **options: Any) -> LabeledText:
    source = TableFiles(path, predict_path=options.pop("predict_path", None), columns=options.pop("columns", None))
    data = LabeledText(source=source, tokenizer=tokenizer or ByteTokenizer(), **options)
    data.prepare_data()
    return data


def data_of(rows: list[dict[str, Any]] = ROWS, suffix: str = ".jsonl", **options: Any) -> LabeledText:
    """The same rows for every split."""
    for split in ("train", "val", "test"):
        save(f"data/{split}{suffix}", rows)
    return labeled(**options)


class TestWhatAModelReads:
    """Framed and cut as transformers does it."""

    @pytest.mark.parametrize("pair_column", [None, "pair"])
    @pytest.mark.parametrize("kind", ["bert", "roberta", "llama"])
    def test_equals_transformers(self, kind: str, pair_column: str | None) -> None:
        path = KINDS[kind](Path(kind))
        theirs = AutoTokenizer.from_pretrained(path)
        tokenizer = HuggingFaceTokenizer(str(path))
        data = data_of(tokenizer=tokenizer, pair_column=pair_column, max_seq_len=14, bucket_by_length=False)
        data.setup("fit")
        batch = data.splits["val"].batch([0, 1, 2], 0)
        for number, row in enumerate(ROWS):
            texts = [row["text"], *([row["pair"]] if pair_column else [])]
            expected = theirs(*texts, truncation="longest_first", max_length=14, return_token_type_ids=True)
            mask = batch["attention_mask"][number].bool()
            assert batch["input_ids"][number][mask].tolist() == expected.input_ids
            assert batch["token_type_ids"][number][mask].tolist() == expected.token_type_ids
        assert batch["labels"].tolist() == [1, 0, 1]
        assert batch["input_ids"].shape[1] <= 14

    def test_cut_rows_are_counted(self) -> None:
        data = data_of(max_seq_len=12)
        data.setup("fit")
        assert data.describe() == [
            f"{split}: 3 rows of 3 to 12 tokens (median 12); 2 are cut to 12; good 2 (66.7 %), bad 1 (33.3 %)"
            for split in ("train", "val")
        ]

    def test_no_room(self) -> None:
        data = data_of(max_seq_len=2)
        assert message(lambda: data.setup("fit")) == ("max_seq_len (2) must be at least 3: 2 tokens frame what is read")


class TestLabels:
    """Learned from the training rows."""

    def test_state(self) -> None:
        one = data_of()
        one.setup("fit")
        assert one.label_names == ["bad", "good"]
        other = labeled()
        other.load_state_dict(one.state_dict())
        assert other.label_names == ["bad", "good"]
        save("data/train.jsonl", [ROWS[0] | {"label": "new"}, ROWS[0] | {"label": "newer"}])
        other.setup("test")
        assert other.splits["test"].batch([0, 1], 0)["labels"].tolist() == [1, 0]

    def test_of_another_kind_than_the_checkpoints(self) -> None:
        one = data_of()
        one.setup("fit")
        other = labeled(labels=Score())
        assert message(lambda: other.load_state_dict(one.state_dict())) == (
            "data.labels (Score) is of another kind than the checkpoint's: leave it out"
        )

    def test_classes_of_what_is_held_out_are_not_learned(self) -> None:
        save("one.jsonl", [*ROWS * 4, ROWS[0] | {"label": "rare"}])
        seeds = [labeled(path="one.jsonl", split_seed=seed, val_fraction=0.3) for seed in range(12)]
        for data in seeds:
            found = None
            try:
                data.setup("fit")
            except ValueError as error:
                found = str(error)
            said = "one.jsonl:13: label 'rare' is not among the classes of the training rows, bad, good: "
            assert found is None or found.startswith(said)
            assert (found is None) == ("rare" in (data.label_names or []))
        assert {data.label_names == ["bad", "good"] for data in seeds} == {True, False}


class TestWriting:
    """Predictions in the label's place, in the format of the rows."""

    @pytest.mark.parametrize("suffix", [".jsonl", ".tsv"])
    @pytest.mark.parametrize("with_labels", [True, False])
    def test_one_label(self, suffix: str, with_labels: bool) -> None:
        rows = ROWS if with_labels else [{k: v for k, v in row.items() if k != "label"} for row in ROWS]
        data_of(suffix=suffix).setup("fit")
        data = labeled(predict_path=str(save(f"mine{suffix}", rows)))
        data.setup("predict")
        assert "labels" not in data.splits["predict"].columns
        columns = {"index": [0, 1, 2], "label": ["bad", "bad", "good"]}
        (path,) = data.write_predictions(columns, Path(), "csv")
        expected = [row | {"label": label} for row, label in zip(ROWS, columns["label"], strict=True)]
        assert read(path) == expected
        assert [list(row) for row in read(path)] == [list(row) for row in expected], "the label is where it was"
        again = OneLabel()
        again.learn(TableFiles(str(path)).rows("train") or [], "label")
        assert again.counts == [2, 1]

    @pytest.mark.parametrize(("suffix", "expected"), [(".jsonl", [["a", "b"], []]), (".tsv", ["a|b", ""])])
    def test_several_labels(self, suffix: str, expected: list[Any]) -> None:
        rows = [{"text": "x", "label": "a|b"}, {"text": "y", "label": ""}]
        data = data_of(rows, suffix=suffix, labels=SeveralLabels("|"))
        data.setup("fit")
        data.setup("predict")
        columns = {"index": [0, 1], "label": [["a", "b"], []]}
        (path,) = data.write_predictions(columns, Path(), "csv")
        assert [row["label"] for row in read(path)] == expected
        again = labeled(path=str(path), labels=SeveralLabels("|"), val_fraction=0.5)
        assert again.source.rows("train")

    def test_more_columns(self) -> None:
        data = data_of()
        data.setup("fit")
        data.setup("predict")
        columns = {"index": [1], "label": ["good"], "probabilities": [{"bad": 0.25, "good": 0.75}]}
        (path,) = data.write_predictions(columns, Path(), "csv")
        assert read(path) == [ROWS[1] | {"label": "good", "probabilities": {"bad": 0.25, "good": 0.75}}]


class TestRowsFromPython:
    """What a user would pass."""

    def test_of_one_text(self) -> None:
        data = data_of()
        data.setup("fit")
        split, fields = data.given(["the cat", {"text": "a", "id": 5}, ("b",)])
        assert fields == [{"text": "the cat"}, {"text": "a", "id": 5}, {"text": "b"}]
        assert len(split) == 3
        said = "5 must be a text, or a mapping with text"
        assert message(lambda: data.given([5])) == said
        assert message(lambda: data.given([None])).startswith("None must be a text")
        assert message(lambda: data.given([("a", "b")])).startswith("('a', 'b') must be a text")
        assert message(lambda: data.given(["a", {"txt": "b"}])).startswith("row 1 has no column 'text', only txt")
        assert (
            message(lambda: data.given(["a", " "])) == "row 1 has no text in text: give it some, or leave the row out"
        )
        assert message(lambda: data.given([[5]])) == "row 0: text must be text, not 5"

    def test_of_pairs(self) -> None:
        data = data_of(pair_column="pair")
        data.setup("fit")
        assert data.given([("a", "b"), ["c", "d"]])[1] == [{"text": "a", "pair": "b"}, {"text": "c", "pair": "d"}]
        said = "'ab' must be a pair of texts, or a mapping with text and pair"
        assert message(lambda: data.given(["ab"])) == said


class TestMistakes:
    """File and line, and what to do."""

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"pair_column": "text"}, "text_column (text), pair_column (text) and label_column (label) must be"),
            ({"label_column": "text"}, "text_column (text), pair_column (None) and label_column (text) must be"),
            (
                {"text_column": "txt"},
                "data/train.jsonl:1 has no column 'txt', only id, text, pair, label; did you mean",
            ),
            ({"pair_column": "pairs"}, "data/train.jsonl:1 has no column 'pairs', only id, text, pair, label; did you"),
            (
                {"label_column": "lable"},
                "data/train.jsonl:1 has no column 'lable', only id, text, pair, label; did you",
            ),
        ],
    )
    def test_columns(self, options: dict[str, Any], said: str) -> None:
        assert message(lambda: data_of(**options).setup("fit")).startswith(said)

    @pytest.mark.parametrize(
        ("split", "change", "said"),
        [
            (
                "val",
                {"label": "goood"},
                "data/val.jsonl:2: label 'goood' is not among the classes of the training rows",
            ),
            ("val", {"text": " "}, "data/val.jsonl:2 has no text in text: give it some, or leave the row out"),
            ("train", {"text": None}, "data/train.jsonl:2: text must be text, not None"),
            ("train", {"label": None}, "data/train.jsonl:2 has no label: give it one, or leave the row out"),
            ("train", {"label": ["a"]}, "data/train.jsonl:2: label must be text or a whole number, not ['a']"),
        ],
    )
    def test_rows(self, split: str, change: dict[str, Any], said: str) -> None:
        data = data_of()
        save(f"data/{split}.jsonl", [ROWS[0], ROWS[1] | change, ROWS[2]])
        assert message(lambda: data.setup("fit")).startswith(said)

    def test_a_table_without_a_header(self) -> None:
        """The first stumble of whoever has a bare file says the option to set."""
        Path("mine.tsv").write_text("so lala\tbad\nfine\tgood\nvery fine\tgood\n")
        assert message(lambda: labeled(path="mine.tsv").setup("fit")) == (
            "mine.tsv:3 has no column 'label', only so lala, bad; "
            "where the first line is a row, name the columns with --data.source.columns"
        )
        data = labeled(path="mine.tsv", columns=["text", "label"])
        data.setup("fit")
        assert data.label_names == ["bad", "good"]


def test_default_labels_are_each_datamodules_own() -> None:
    one, other = data_of(), labeled()
    one.setup("fit")
    assert isinstance(other.labels, OneLabel)
    assert other.label_names == []
