"""Sources and targets: tokens and labels against transformers' own and against slow ones, cut ends, files both ways."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from texts import KINDS, SENTENCES
from toys import Beginnings, message

from lt_cli.data.row_sources import HubRows, RowSource, TableFiles
from lt_cli.data.rows import Row
from lt_cli.data.targets import TargetData, TargetFrame
from lt_cli.data.text_to_text import TextPairs, TextToText
from lt_cli.data.tokenizers import ByteTokenizer, HuggingFaceTokenizer, Tokenizer
from lt_cli.losses import IGNORE

END = 256  # of bytes


class Pairs(RowSource):
    """Given sources and targets, the same in every split."""

    def __init__(self, *pairs: tuple[str, str]) -> None:
        self.pairs = pairs

    def rows(self, split: Any) -> list[Row] | None:
        return [Row({"source": a, "target": b}, f"row {i}") for i, (a, b) in enumerate(self.pairs)]

    def write(self, rows: Any, split: Any, directory: Path) -> list[Path]:
        raise NotImplementedError


PAIRS = [("one two", "zwei"), ("x", "a longer target"), ("three four five", "ü")]


def data_of(*stages: str, **options: Any) -> TextToText:
    """Pairs in bytes, as a trainer would set them up."""
    data = TextToText(
        **{"source": Pairs(*PAIRS), "tokenizer": ByteTokenizer(), "max_seq_len": 20, "batch_size": 2} | options
    )
    data.prepare_data()
    for stage in stages or ("fit",):
        data.setup(stage)
    return data


def pairs_of(data: TextToText, split: Any = "train") -> TextPairs:
    examples = data.splits[split]
    assert isinstance(examples, TextPairs)
    return examples


def tokenizer_in(folder: Path, kind: str) -> HuggingFaceTokenizer:
    tokenizer = HuggingFaceTokenizer(str(KINDS[kind](folder)))
    tokenizer.load()
    return tokenizer


class TestBatches:
    """What a model reads and learns."""

    def test_tokens_labels_and_texts(self) -> None:
        batch = pairs_of(data_of(prefix="to German: ", max_seq_len=40), "val").batch([2, 0, 1], 0)
        assert batch.keys() == {"index", "input_ids", "attention_mask", "labels", "references"}
        assert batch["index"].tolist() == [2, 0, 1]
        assert batch["references"] == ["ü", "zwei", "a longer target"]
        sources = [[END, *f"to German: {PAIRS[row][0]}".encode(), END] for row in (2, 0, 1)]
        targets = [[*PAIRS[row][1].encode(), END] for row in (2, 0, 1)]
        for row in range(3):
            size, room = len(sources[row]), max(map(len, sources))
            assert batch["input_ids"][row][:size].tolist() == sources[row]
            assert batch["attention_mask"][row].tolist() == [1] * size + [0] * (room - size)
            padding = [IGNORE] * (max(map(len, targets)) - len(targets[row]))
            assert batch["labels"][row].tolist() == targets[row] + padding

    def test_what_each_split_has(self) -> None:
        data = data_of("fit", "test", "predict")
        keys = {name: pairs_of(data, name).batch([0], 0).keys() for name in ("train", "val", "test", "predict")}
        assert "references" not in keys["train"]
        assert "labels" in keys["train"]
        assert {"labels", "references"} <= keys["val"] == keys["test"]
        assert not {"labels", "references"} & keys["predict"]

    def test_a_task_finds_what_it_asks_for(self) -> None:
        data = data_of()
        assert isinstance(data, TargetData)
        assert data.end_id == END
        assert data.decode([*b"abc", END]) == "abc"

    @pytest.mark.parametrize("kind", ["t5", "roberta", "bert"])
    def test_the_same_as_the_tokenizer_itself(self, kind: str, tmp_path: Path) -> None:
        """Where it frames texts, both sources and targets are framed as it does."""
        from transformers import AutoTokenizer

        folder = KINDS[kind](tmp_path)
        pairs = list(zip(SENTENCES, SENTENCES[::-1], strict=True))
        data = data_of(source=Pairs(*pairs), tokenizer=HuggingFaceTokenizer(str(folder)), max_seq_len=99)
        theirs = AutoTokenizer.from_pretrained(folder)
        options = {"truncation": False, "padding": False}
        for row, (source, target) in enumerate(pairs):
            batch = pairs_of(data).batch([row], 0)
            assert batch["input_ids"][0].tolist() == theirs(source, **options)["input_ids"]
            assert batch["labels"][0].tolist() == theirs(text_target=target, **options)["input_ids"]

    @pytest.mark.parametrize("kind", sorted({*KINDS} - {"endless"}))
    def test_targets_end_once(self, kind: str, tmp_path: Path) -> None:
        """And begin with anything but their end, or they would be over before they begin."""
        frame = TargetFrame(tokenizer := tokenizer_in(tmp_path, kind))
        for ids in tokenizer.encode(SENTENCES):
            target = frame.around(ids).tolist()
            assert target.index(frame.end_id) == len(target) - 1
            assert len(target) == len(ids) + frame.num_tokens
            assert tokenizer.decode(target) == tokenizer.decode(ids.tolist())

    def test_random_rows(self) -> None:
        """Against one row at a time."""
        data = data_of(source=Beginnings(), prefix="> ")
        examples = pairs_of(data)
        rows = np.random.default_rng(0).permutation(len(examples))[:50].tolist()
        given = Beginnings().rows("train") or []
        batch = examples.batch(rows, 0)
        for i, row in enumerate(rows):
            fields = given[row].fields
            source = [
                token for token, kept in zip(batch["input_ids"][i], batch["attention_mask"][i], strict=True) if kept
            ]
            assert bytes(source[1:-1]).decode() == f"> {fields['source']}"
            assert [token for token in batch["labels"][i].tolist() if token != IGNORE] == [
                *fields["target"].encode(),
                END,
            ]
            assert examples.lengths[row] == len(fields["source"]) + 4 + len(fields["target"]) + 1


class TestLengths:
    """What is cut, counted and batched together."""

    def test_ends_are_cut_off_and_counted(self) -> None:
        data = data_of("fit", "test", max_seq_len=9, max_target_len=5, prefix=">")
        batch = pairs_of(data, "test").batch([0, 1, 2], 0)
        assert bytes(batch["input_ids"][0][1:-1].tolist()) == b">one tw"
        assert bytes(batch["input_ids"][2][1:-1].tolist()) == b">three "
        assert batch["input_ids"][2][-1] == END
        assert batch["labels"][1].tolist() == [*b"a lo", END]
        assert batch["labels"][0].tolist() == [*b"zwei", END]
        assert batch["references"] == [target for _, target in PAIRS], "what is scored is never cut"
        line = (
            "3 rows; sources of 4 to 9 tokens (median 9, 2 cut to 9); targets of 3 to 5 tokens (median 5, 1 cut to 5)"
        )
        assert data.describe() == [f"{name}: {line}" for name in ("train", "val", "test")]

    def test_nothing_is_said_of_cuts_where_there_are_none(self) -> None:
        line = "3 rows; sources of 3 to 17 tokens (median 9); targets of 3 to 16 tokens (median 5)"
        assert data_of("fit").describe() == [f"train: {line}", f"val: {line}"]

    def test_what_is_to_be_predicted_has_no_targets(self) -> None:
        data = data_of("predict")
        assert data.describe() == ["predict: 3 rows; sources of 3 to 17 tokens (median 9)"]
        assert pairs_of(data, "predict").lengths.tolist() == [9, 3, 17]

    def test_tokens_per_batch_counts_both(self) -> None:
        source = Pairs(*[("s" * 6, "t" * 7)] * 12, *[("s" * 16, "t" * 13)] * 12)
        data = data_of(source=source, tokens_per_batch=64, batch_size=64)
        sizes = [(batch["input_ids"].shape, batch["labels"].shape) for batch in data.train_dataloader()]
        assert sorted(sizes) == [((2, 18), (2, 14))] * 6 + [((4, 8), (4, 8))] * 3
        assert sum(rows for (rows, _), _ in sizes) == 24

    def test_a_row_is_shown(self) -> None:
        data = data_of(prefix="say: ")
        lines = data.preview(pairs_of(data).batch([1, 2], 0), Path())
        assert lines == ["a source: 'say: x'", "its target: 'a longer target'"]


class TestFiles:
    """Rows from files, and predictions into files like them."""

    def test_tsv_without_a_header(self, tmp_path: Path) -> None:
        for split in ("train", "val"):
            (tmp_path / f"{split}.tsv").write_text("one\teins\ntwo\tzwei\n")
        (tmp_path / "new.tsv").write_text("three\nfour\n")
        source = TableFiles(str(tmp_path), columns=["source", "target"], predict_path=str(tmp_path / "new.tsv"))
        data = data_of("fit", "predict", source=source)
        assert pairs_of(data, "val").batch([1, 0], 0)["references"] == ["zwei", "eins"]
        [path] = data.write_predictions({"index": [0, 1], "target": ["dr\tei", "vi\ner\r"]}, tmp_path, "csv")
        assert path.read_bytes().decode() == "three\tdr ei\nfour\tvi er \n", "a text cannot break its line"

    def test_jsonl_keeps_other_keys(self, tmp_path: Path) -> None:
        rows = [{"id": 1, "article": "a b", "summary": "a"}, {"id": 2, "article": "c d", "summary": "c"}]
        file = tmp_path / "test.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        source = TableFiles(None, test_path=str(file))
        data = data_of("test", "predict", source=source, source_column="article", target_column="summary")
        columns = {"index": [0, 1], "target": ["x\ny", ""], "score": [-0.5, -1.0]}
        [path] = data.write_predictions(columns, tmp_path, "csv")
        assert [json.loads(line) for line in path.read_text().splitlines()] == [
            {"id": 1, "article": "a b", "summary": "x\ny", "score": -0.5},
            {"id": 2, "article": "c d", "summary": "", "score": -1.0},
        ]

    def test_columns_within_columns_of_a_hub_dataset(self, tmp_path: Path) -> None:
        import datasets

        translations = [{"en": "yes", "de": "ja"}, {"en": "no", "de": "nein"}]
        features = {"id": datasets.Value("string"), "translation": datasets.Translation(["en", "de"])}
        rows = datasets.Dataset.from_dict(
            {"id": ["a", "b"], "translation": translations}, features=datasets.Features(features)
        )
        datasets.DatasetDict({"train": rows, "validation": rows}).save_to_disk(tmp_path / "saved")
        source = HubRows(str(tmp_path / "saved"))
        data = data_of("fit", "predict", source=source, source_column="translation.en", target_column="translation.de")
        assert pairs_of(data, "val").batch([1], 0)["references"] == ["nein"]
        [path] = data.write_predictions({"index": [0, 1], "target": ["jo", "na"]}, tmp_path, "csv")
        assert [json.loads(line) for line in path.read_text().splitlines()] == [
            {"id": "a", "translation": {"en": "yes", "de": "jo"}},
            {"id": "b", "translation": {"en": "no", "de": "na"}},
        ]

    def test_nothing_but_texts_to_predict_is_needed(self, tmp_path: Path) -> None:
        (tmp_path / "new.jsonl").write_text('{"source": "a"}\n')
        data = data_of("predict", source=TableFiles(None, predict_path=str(tmp_path / "new.jsonl")))
        assert len(data.splits["predict"]) == 1


class TestRowsFromPython:
    """What load(path).predict takes."""

    def test_a_text_or_a_mapping(self) -> None:
        data = data_of("fit", prefix="> ")
        examples, fields = data.given(["abc", {"source": "de", "id": 7}])
        assert fields == [{"source": "abc"}, {"source": "de", "id": 7}]
        assert bytes(examples.batch([0], 0)["input_ids"][0][1:-1].tolist()) == b"> abc"
        assert data.with_predictions(fields, {"index": [0, 1], "target": ["x", "y"]}) == [
            {"source": "abc", "target": "x"},
            {"source": "de", "id": 7, "target": "y"},
        ]

    def test_columns_within_columns(self) -> None:
        data = TextToText(source=Pairs(), tokenizer=ByteTokenizer(), source_column="translation.en")
        assert data.fields_of("abc") == {"translation": {"en": "abc"}}

    def test_what_is_no_row(self) -> None:
        data = data_of("fit")
        assert message(lambda: data.given([3])) == "3 must be a text, or a mapping with the column source"
        assert message(lambda: data.given([{"text": "a"}])) == "row 0 has no column 'source', only text"
        assert message(lambda: data.given([" "])).startswith("row 0 has no text in source")


class TestMistakes:
    """Each in a line that says what to do."""

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"max_target_len": 0}, "max_target_len (0) must be at least 1"),
            ({"max_target_len": 1}, "max_target_len (1) must be at least 2: 1 tokens frame a text"),
            ({"max_seq_len": 2}, "max_seq_len (2) must be at least 3: 2 tokens frame a text"),
            (
                {"target_column": "source"},
                "source_column (source) and target_column (source) must be different columns",
            ),
            ({"target_column": "traget"}, "row 0 has no column 'traget', only source, target; did you mean target?"),
            (
                {"source": Pairs(("a", "b"), ("c", " "))},
                "row 1 has no text in target: give it some, or leave the row out",
            ),
            (
                {"source": Pairs(("\n", "b"))},
                "row 0 has no text in source: give it some, or leave the row out",
            ),
        ],
    )
    def test_is_named(self, options: dict[str, Any], says: str) -> None:
        assert message(lambda: data_of(**options)) == says


def test_a_checkpoint_needs_no_tokenizer_files(tmp_path: Path) -> None:
    """Nor the training rows."""
    tokenizer: Tokenizer = HuggingFaceTokenizer(str(KINDS["t5"](tmp_path / "there")))
    data = data_of(source=Pairs(*PAIRS), tokenizer=tokenizer)
    state = data.state_dict()
    other = TextToText(source=Pairs(), tokenizer=HuggingFaceTokenizer(str(tmp_path / "there")))
    for file in (tmp_path / "there").iterdir():
        file.unlink()
    other.load_state_dict(state)
    examples, _ = other.given(["the cat"])
    assert (
        data.given(["the cat"])[0].batch([0], 0)["input_ids"].tolist() == examples.batch([0], 0)["input_ids"].tolist()
    )
    assert other.end_id == data.end_id
