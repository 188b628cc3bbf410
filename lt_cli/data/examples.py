"""Rows of text as sequences of tokens of different lengths: read, split, framed, and batched without much padding."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from lt_cli.data.base import Batch, DataModule, SplitName
from lt_cli.data.held_out import HeldOut, check_fractions, fractions_of
from lt_cli.data.row_sources import RowSource
from lt_cli.data.rows import Row
from lt_cli.data.tokenizers import Tokenizer
from lt_cli.errors import UserError

SHOWN = 200
"""Characters of a row that the first page shows."""
WANTED: dict[str, list[SplitName]] = {"fit": ["train", "val"], "validate": ["val"], "test": ["test"]}
"""Splits by Lightning's stage."""


class Examples:
    """Rows of one sequence of tokens each, or of several windows; a batch is as wide as its longest sequence.

    Args:
        ids: Tokens of each sequence.
        types: Type of each of these tokens.
        pad_id: Fills the ends of shorter sequences; nothing ever reads it.
        columns: What else a batch has of its rows, such as labels.
        row_of: The row of each sequence, ascending, where a row may have several, and has one at least; None where each
            has one.

    Attributes:
        widths: Tokens of each row's longest sequence.
        lengths: Tokens of each row, with its sequences padded to its longest.
    """

    def __init__(
        self,
        ids: Sequence[NDArray[np.int32]],
        types: Sequence[NDArray[np.int32]],
        *,
        pad_id: int,
        columns: Mapping[str, NDArray[Any]],
        row_of: NDArray[np.int64] | None = None,
    ) -> None:
        """Joins the sequences."""
        self.ids, self.types = (np.concatenate([np.empty(0, np.int32), *parts]) for parts in (ids, types))
        self.sizes = np.array([len(sequence) for sequence in ids], np.int64)
        self.starts = self.sizes.cumsum() - self.sizes
        self.pad_id, self.columns = pad_id, columns
        self.has_windows = row_of is not None
        row_of = np.arange(len(ids)) if row_of is None else row_of
        self.first = np.searchsorted(row_of, np.arange(row_of[-1] + 2 if len(row_of) else 1))
        counts = np.diff(self.first)
        assert (counts > 0).all(), "every row has a sequence"
        self.widths = np.maximum.reduceat(self.sizes, self.first[:-1]) if len(row_of) else self.sizes
        self.lengths = self.widths * counts

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.first) - 1

    def sequences(self, rows: Sequence[int]) -> NDArray[np.int64]:
        """The numbers of the rows' sequences."""
        if not self.has_windows:
            return np.asarray(rows, np.int64)
        return np.concatenate([np.arange(self.first[row], self.first[row + 1]) for row in rows])

    def batch(self, rows: Sequence[int], epoch: int) -> Batch:
        """``index`` (B,); ``input_ids``, ``attention_mask`` and ``token_type_ids`` (S, T); the columns of the rows.

        Where rows have several sequences, ``row`` (S,) is the place in the batch of each one's row; otherwise S = B.
        """
        chosen = self.sequences(rows)
        sizes = self.sizes[chosen]
        places = np.arange(sizes.max())
        is_token = places < sizes[:, None]
        where = np.where(is_token, self.starts[chosen, None] + places, 0)
        batch: Batch = {
            "index": torch.tensor(rows),
            "input_ids": torch.from_numpy(np.where(is_token, self.ids[where], self.pad_id).astype(np.int64)),
            "attention_mask": torch.from_numpy(is_token.astype(np.int64)),
            "token_type_ids": torch.from_numpy(np.where(is_token, self.types[where], 0).astype(np.int64)),
        }
        if self.has_windows:
            counts = self.first[np.asarray(rows) + 1] - self.first[rows]
            batch["row"] = torch.from_numpy(np.repeat(np.arange(len(rows)), counts))
        return batch | {name: torch.from_numpy(values[rows]) for name, values in self.columns.items()}


class ExampleData(DataModule):
    """Rows of files to batches of framed sequences, and predictions to files of the same format.

    A subclass says what it learns from the training rows, how rows become examples, and where predictions go.

    Args:
        source: Where the rows come from.
        tokenizer: Text to tokens.
        max_seq_len: Tokens of a sequence, at most, with those that frame it.
        bucket_by_length: Whether the rows of a batch are about as long as one another, so that little is padded.
        tokens_per_batch: Tokens of a batch and process, padding included, at most; or None.
        val_fraction: Part of the training rows kept for validation; None for 0.1, or none where the source has its own.
        test_fraction: The same for test; None for none.
        split_seed: Seed of that choice; the run's own seed does not change it.
        batch_size: Rows per batch and process.
        num_workers: Processes that fetch batches.
    """

    splits: dict[SplitName, Examples]  # type: ignore[assignment]
    has_own_format = True

    def __init__(
        self,
        *,
        source: RowSource,
        tokenizer: Tokenizer,
        max_seq_len: int,
        bucket_by_length: bool,
        tokens_per_batch: int | None,
        val_fraction: float | None,
        test_fraction: float | None,
        split_seed: int,
        batch_size: int,
        num_workers: int,
    ) -> None:
        """Reads nothing."""
        super().__init__(batch_size=batch_size, num_workers=num_workers)
        if max_seq_len < 1:
            raise UserError(f"max_seq_len ({max_seq_len}) must be at least 1")
        check_fractions(val_fraction, test_fraction, split_seed)
        if tokens_per_batch is not None and not bucket_by_length:
            raise UserError("bucket_by_length (false) must be true with tokens_per_batch: set one of them only")
        self.source, self.tokenizer = source, tokenizer
        self.max_seq_len: int = max_seq_len
        self.bucket_by_length, self.tokens_per_batch = bucket_by_length, tokens_per_batch
        self.val_fraction, self.test_fraction, self.split_seed = val_fraction, test_fraction, split_seed
        self.rows: dict[SplitName, list[Row]] = {}
        self._predicted: SplitName = "predict"
        self._learned = False

    @abstractmethod
    def learn(self, rows: list[Row]) -> None:
        """Takes over what the training rows say, such as their labels."""

    @abstractmethod
    def examples(self, rows: list[Row], split: SplitName) -> Examples:
        """The sequences of rows, as many rows, or any number to train on; those of predict have no labels."""

    @abstractmethod
    def predicted(self, fields: dict[str, Any], prediction: dict[str, Any]) -> dict[str, Any]:
        """A row's fields with what was predicted in their place."""

    @abstractmethod
    def fields_of(self, item: Any) -> dict[str, Any]:
        """The fields of a row that Python gives."""

    def given(self, items: Sequence[Any]) -> tuple[Examples, list[dict[str, Any]]]:
        """Rows from Python to predict, and their fields."""
        fields = [self.fields_of(item) for item in items]
        return self.examples([Row(row, f"row {number}") for number, row in enumerate(fields)], "predict"), fields

    @property
    def vocab_size(self) -> int | None:  # type: ignore[override]
        """Tokens of the tokenizer, once it is there."""
        return getattr(self.tokenizer, "vocab_size", None)

    def prepare_data(self) -> None:
        """Downloads on one process."""
        self.tokenizer.load()
        self.source.prepare()

    def setup(self, stage: str) -> None:
        """Reads the splits that the stage needs and does not have yet."""
        self.tokenizer.load()
        if not self._learned:
            self.learn(self._split_rows("train"))
            self._learned = True
        for name in WANTED.get(stage, []):
            if name not in self.splits:
                self.splits[name] = self._examples(self._split_rows(name), name)
        if stage == "predict":
            self._predicted = self._to_predict()
            self.rows["predict"] = self._split_rows(self._predicted)
            self.splits["predict"] = self._examples(self.rows["predict"], "predict")
        self.rows.pop("train", None)  # nobody writes them, and they take more room than their tokens

    def _examples(self, rows: list[Row], split: SplitName) -> Examples:
        examples = self.examples(rows, split)
        assert split == "train" or len(examples) == len(rows)
        return examples

    def _to_predict(self) -> SplitName:
        """What the source has to predict; else the rows for test, or those for validation."""
        if self.source.has("predict"):
            return "predict"
        return "test" if self.source.has("test") or self.test_fraction is not None else "val"

    def _own_rows(self, split: SplitName) -> list[Row] | None:
        """What the source has of a split, read once."""
        if split not in self.rows:
            rows = self.source.rows(split)
            if rows is None:
                return None
            self.rows[split] = rows
        return self.rows[split]

    def _split_rows(self, split: SplitName) -> list[Row]:
        """The rows of a split; those that the source has not are parts of its training rows."""
        if split != "train" and (own := self._own_rows(split)) is not None:
            return own
        fractions = self._fractions()
        if split != "train" and split not in fractions:
            raise UserError(f"there are no {split} rows: give the source some, or set --data.{split}_fraction=0.1")
        rows = self._own_rows("train")
        if rows is None:
            raise UserError("there are no training rows: give the source some")
        order = np.random.default_rng(self.split_seed).permutation(len(rows))
        taken = 0
        for name, fraction in fractions.items():
            number = max(1, round(fraction * len(rows)))
            if name == split:
                return [rows[i] for i in np.sort(order[taken : taken + number])]
            taken += number
        if taken >= len(rows):
            raise UserError(
                f"of {len(rows)} training rows none is left to train on: lower --data.val_fraction or .test_fraction"
            )
        return [rows[i] for i in np.sort(order[taken:])]

    def _fractions(self) -> dict[HeldOut, float]:
        """Of the training rows, for the splits that the source has not."""
        return fractions_of(self.val_fraction, self.test_fraction, self.source.has, "rows")

    def lengths(self, name: SplitName) -> NDArray[np.int64] | None:
        """Tokens of each row, where batches go by length."""
        return self.splits[name].lengths if self.bucket_by_length else None

    def state_dict(self) -> dict[str, Any]:
        """The tokenizer, so that a checkpoint needs none of its files; a subclass adds what it learned."""
        return {"tokenizer": self.tokenizer.state_dict(), "source": self.source.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over what ``state_dict`` gave."""
        self.tokenizer.load_state_dict(state_dict["tokenizer"])
        self.source.load_state_dict(state_dict.get("source", {}))
        self._learned = True

    def describe(self) -> list[str]:
        """Rows and lengths of each split."""
        return [f"{name}: {self.describe_split(examples)}" for name, examples in self.splits.items()]

    def describe_split(self, examples: Examples) -> str:
        """Rows, their sequences where they may have several, and the lengths of these."""
        shortest, middle, longest = np.quantile(examples.sizes, [0, 0.5, 1]).astype(int).tolist()
        sequences = f" with {len(examples.sizes):,} sequences" if examples.has_windows else ""
        return f"{len(examples):,} rows{sequences} of {shortest:,} to {longest:,} tokens (median {middle:,})"

    def preview(self, batch: Batch, directory: Path) -> list[str]:
        """The first sequence as the model sees it."""
        return [f"a row: {self.readable(batch, 0)[:SHOWN]!r}"]

    def readable(self, batch: Batch, sequence: int) -> str:
        """A sequence of a batch, with a bar where special tokens stand."""
        ids = batch["input_ids"][sequence][batch["attention_mask"][sequence].bool()].tolist()
        runs = groupby(ids, lambda token: token in self.tokenizer.special_ids)
        return " | ".join(self.tokenizer.decode(list(run)) for is_special, run in runs if not is_special)

    def write_predictions(
        self, columns: dict[str, list[Any]], directory: Path, format: Literal["csv", "jsonl"]
    ) -> list[Path]:
        """The predicted rows with their predictions, in the source's own format."""
        fields = [row.fields for row in self.rows["predict"]]
        rows = self.with_predictions([fields[i] for i in columns["index"]], columns)
        return self.source.write(rows, self._predicted, directory)

    def with_predictions(
        self, fields: Sequence[dict[str, Any]], columns: Mapping[str, list[Any]]
    ) -> list[dict[str, Any]]:
        """Rows with what was predicted of them."""
        names = [name for name in columns if name != "index"]
        values = zip(*(columns[name] for name in names), strict=True)
        predictions = [dict(zip(names, row, strict=True)) for row in values]
        return [self.predicted(row, prediction) for row, prediction in zip(fields, predictions, strict=True)]
