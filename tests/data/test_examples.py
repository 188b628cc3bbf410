"""Rows as sequences: batches against slow loops, splits, and what the stages read."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import message

from lt_cli.data.examples import ExampleData, Examples
from lt_cli.data.row_sources import RowSource
from lt_cli.data.rows import Row
from lt_cli.data.tokenizers import ByteTokenizer


class Words(RowSource):
    """Texts of each split; what is read is noted, and what is written is kept."""

    def __init__(self, **texts: list[str]) -> None:
        self.texts = texts
        self.reads: list[str] = []
        self.written: list[dict[str, Any]] = []

    def has(self, split: Any) -> bool:
        return split in self.texts

    def rows(self, split: Any) -> list[Row] | None:
        self.reads.append(split)
        texts = self.texts.get(split)
        return None if texts is None else [Row({"text": text}, f"{split}:{i}") for i, text in enumerate(texts)]

    def write(self, rows: Any, split: Any, directory: Path) -> list[Path]:
        self.written = list(rows)
        return [directory / split]


class WordData(ExampleData):
    """Bytes within a frame; it learns how many rows there are to train on."""

    learned = 0

    def learn(self, rows: list[Row]) -> None:
        self.learned = len(rows)

    def examples(self, rows: list[Row], split: Any) -> Examples:
        frame = self.tokenizer.frame_of(1)
        parts = [frame.around(ids) for ids in self.tokenizer.encode([row.fields["text"] for row in rows])]
        columns = {"number": np.arange(len(rows))}
        return Examples([ids for ids, *_ in parts], [types for _, types, _ in parts], pad_id=0, columns=columns)

    def predicted(self, fields: dict[str, Any], prediction: dict[str, Any]) -> dict[str, Any]:
        return fields | prediction

    def fields_of(self, item: Any) -> dict[str, Any]:
        return {"text": item}


def words(source: RowSource, **options: Any) -> WordData:
    defaults: dict[str, Any] = dict.fromkeys(("tokens_per_batch", "val_fraction", "test_fraction"))
    defaults |= {"max_seq_len": 32, "bucket_by_length": True, "split_seed": 0, "batch_size": 4, "num_workers": 0}
    data = WordData(source=source, tokenizer=ByteTokenizer(), **defaults | options)
    data.prepare_data()
    return data


def texts_of(data: WordData, split: Any) -> list[str]:
    examples = data.splits[split]
    batches = [examples.batch([i], 0) for i in range(len(examples))]
    return [data.tokenizer.decode(batch["input_ids"][0].tolist()) for batch in batches]


TWENTY = [f"text {i}" for i in range(20)]

sequences = st.lists(st.lists(st.integers(1, 99), min_size=1, max_size=7), min_size=1, max_size=9)


class TestExamples:
    """A batch is what a loop over its rows makes."""

    @settings(deadline=None)
    @given(sequences, st.data())
    def test_one_sequence_each(self, made: list[list[int]], data: st.DataObject) -> None:
        ids = [np.array(one, np.int32) for one in made]
        examples = Examples(ids, [one % 2 for one in ids], pad_id=100, columns={"labels": np.arange(len(made)) * 2})
        assert len(examples) == len(made)
        assert examples.lengths.tolist() == [len(one) for one in made]
        chosen = data.draw(st.lists(st.integers(0, len(made) - 1), min_size=1, unique=True))
        batch = examples.batch(chosen, 0)
        width = max(len(made[i]) for i in chosen)
        assert set(batch) == {"index", "input_ids", "attention_mask", "token_type_ids", "labels"}
        assert batch["index"].tolist() == chosen
        assert batch["labels"].tolist() == [i * 2 for i in chosen]
        for place, i in enumerate(chosen):
            padding = width - len(made[i])
            assert batch["input_ids"][place].tolist() == made[i] + [100] * padding
            assert batch["attention_mask"][place].tolist() == [1] * len(made[i]) + [0] * padding
            assert batch["token_type_ids"][place].tolist() == [token % 2 for token in made[i]] + [0] * padding
        assert {batch[name].dtype for name in ("input_ids", "attention_mask", "token_type_ids")} == {torch.int64}

    @settings(deadline=None)
    @given(st.lists(sequences, min_size=1, max_size=5), st.data())
    def test_windows(self, made: list[list[list[int]]], data: st.DataObject) -> None:
        flat = [np.array(one, np.int32) for row in made for one in row]
        row_of = np.repeat(np.arange(len(made)), [len(row) for row in made])
        examples = Examples(flat, flat, pad_id=0, columns={}, row_of=row_of)
        assert len(examples) == len(made)
        assert examples.widths.tolist() == [max(map(len, row)) for row in made]
        assert examples.lengths.tolist() == [examples.batch([i], 0)["input_ids"].numel() for i in range(len(made))]
        chosen = data.draw(st.lists(st.integers(0, len(made) - 1), min_size=1, unique=True))
        batch = examples.batch(chosen, 0)
        expected = [(place, one) for place, i in enumerate(chosen) for one in made[i]]
        assert batch["row"].tolist() == [place for place, _ in expected]
        found = [
            ids[mask.bool()].tolist() for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
        ]
        assert found == [one for _, one in expected]

    def test_none(self) -> None:
        assert len(Examples([], [], pad_id=0, columns={})) == 0


class TestSplits:
    """What the source has, and parts of its training rows."""

    def test_of_the_source(self) -> None:
        source = Words(train=TWENTY, val=["v"], test=["t"])
        data = words(source)
        for stage in ("fit", "test", "predict"):
            data.setup(stage)
        assert texts_of(data, "train") == TWENTY
        assert data.learned == 20
        assert [texts_of(data, split) for split in ("val", "test", "predict")] == [["v"], ["t"], ["t"]]

    def test_parts_are_apart_and_always_the_same(self) -> None:
        data = words(Words(train=TWENTY), test_fraction=0.25, val_fraction=0.1)
        data.setup("fit")
        data.setup("test")
        parts = {split: texts_of(data, split) for split in ("train", "val", "test")}
        assert {split: len(part) for split, part in parts.items()} == {"train": 13, "val": 2, "test": 5}
        assert sorted(text for part in parts.values() for text in part) == sorted(TWENTY)
        assert all(part == sorted(part, key=TWENTY.index) for part in parts.values())
        assert data.learned == 13, "nothing is learned from what is held out"
        other = words(Words(train=TWENTY), test_fraction=0.25, val_fraction=0.1)
        other.setup("validate")
        assert texts_of(other, "val") == parts["val"]
        seeded = words(Words(train=TWENTY), test_fraction=0.25, split_seed=1)
        seeded.setup("test")
        assert texts_of(seeded, "test") != parts["test"]

    def test_a_tenth_where_nobody_says(self) -> None:
        data = words(Words(train=TWENTY))
        data.setup("fit")
        assert [len(data.splits[split]) for split in ("train", "val")] == [18, 2]

    def test_each_split_is_read_once(self) -> None:
        source = Words(train=TWENTY)
        data = words(source)
        data.setup("fit")
        assert source.reads.count("train") == 1

    @pytest.mark.parametrize(
        ("texts", "options", "expected"),
        [
            ({"predict": ["p"], "test": ["t"], "val": ["v"]}, {}, ["p"]),
            ({"test": ["t"], "val": ["v"]}, {}, ["t"]),
            ({"val": ["v"]}, {}, ["v"]),
            ({"val": ["v"]}, {"test_fraction": 0.5}, 10),
            ({}, {}, 2),
        ],
    )
    def test_what_is_predicted(self, texts: dict[str, list[str]], options: Any, expected: list[str] | int) -> None:
        data = words(Words(train=TWENTY, **texts), **options)
        data.setup("predict")
        found = texts_of(data, "predict")
        assert (found if isinstance(expected, list) else len(found)) == expected
        if "test_fraction" in options:
            data.setup("test")
            assert found == texts_of(data, "test")

    def test_a_checkpoint_needs_no_training_rows(self) -> None:
        one = words(Words(train=TWENTY))
        one.setup("fit")
        source = Words(predict=["p"])
        data = words(source)
        data.load_state_dict(one.state_dict())
        data.setup("predict")
        assert source.reads == ["predict"]
        assert data.learned == 0

    def test_predictions_go_to_their_rows(self, tmp_path: Path) -> None:
        source = Words(train=TWENTY, predict=["a", "b", "c"])
        data = words(source)
        data.setup("predict")
        columns = {"index": [0, 2], "label": ["x", "y"]}
        assert data.write_predictions(columns, tmp_path, "csv") == [tmp_path / "predict"]
        assert source.written == [{"text": "a", "label": "x"}, {"text": "c", "label": "y"}]


class TestBatches:
    """By length, or not."""

    def test_by_length(self) -> None:
        texts = ["x" * (1 + 7 * i % 20) for i in range(40)]
        data = words(Words(train=texts, val=texts), tokens_per_batch=60, batch_size=8)
        data.setup("fit")
        for loader in (data.train_dataloader(), data.val_dataloader()):
            batches = list(loader)
            assert sorted(i for batch in batches for i in batch["index"].tolist()) == list(range(40))
            assert all(batch["input_ids"].numel() <= 60 and len(batch["index"]) <= 8 for batch in batches)
        assert len({*map(len, (batch["index"] for batch in batches))}) > 1

    def test_in_order(self) -> None:
        data = words(Words(train=TWENTY, val=["x" * (9 - i) for i in range(9)]), bucket_by_length=False)
        data.setup("fit")
        assert [batch["index"].tolist() for batch in data.val_dataloader()] == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]

    def test_what_the_first_page_says(self, tmp_path: Path) -> None:
        data = words(Words(train=["ab", "abcd", "abc"], val=["x"]))
        data.setup("fit")
        assert data.describe() == [
            "train: 3 rows of 4 to 6 tokens (median 5)",
            "val: 1 rows of 3 to 3 tokens (median 3)",
        ]
        assert data.preview(next(iter(data.val_dataloader())), tmp_path) == ["a row: 'x'"]


class TestMistakes:
    """Said before anything is trained."""

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"max_seq_len": 0}, "max_seq_len (0) must be at least 1"),
            ({"split_seed": -1}, "split_seed (-1) must not be negative"),
            ({"val_fraction": 1.0}, "val_fraction (1.0) must be above 0 and below 1, or null"),
            ({"test_fraction": 0.0}, "test_fraction (0.0) must be above 0 and below 1, or null"),
            (
                {"tokens_per_batch": 9, "bucket_by_length": False},
                "bucket_by_length (false) must be true with tokens_per_batch: set one of them only",
            ),
        ],
    )
    def test_options(self, options: dict[str, Any], said: str) -> None:
        assert message(lambda: words(Words(train=TWENTY), **options)) == said

    @pytest.mark.parametrize(
        ("texts", "options", "said"),
        [
            ({}, {}, "there are no training rows: give the source some"),
            (
                {"train": TWENTY, "val": ["v"]},
                {"val_fraction": 0.1},
                "val_fraction (0.1) has no use, as the source has val rows: set --data.val_fraction=null",
            ),
            (
                {"train": TWENTY},
                {"val_fraction": 0.5, "test_fraction": 0.5},
                "test_fraction (0.5) and val_fraction (0.5) must be below 1 in all, to leave rows to train on",
            ),
            ({"train": ["a"]}, {}, "of 1 training rows none is left to train on: lower --data.val_fraction or"),
        ],
    )
    def test_splits(self, texts: dict[str, list[str]], options: dict[str, Any], said: str) -> None:
        data = words(Words(**texts), **options)
        assert message(lambda: data.setup("fit")).startswith(said)

    def test_no_test(self) -> None:
        data = words(Words(train=TWENTY))
        assert message(lambda: data.setup("test")) == (
            "there are no test rows: give the source some, or set --data.test_fraction=0.1"
        )

    def test_a_row_longer_than_a_batch(self) -> None:
        data = words(Words(train=["x" * 30] * 9), tokens_per_batch=20)
        data.setup("fit")
        assert "20" in message(data.train_dataloader)
