"""Rows of text as sequences of tokens of different lengths: read, split, framed, and batched without much padding."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lt_cli.data.base import Batch, SplitName
from lt_cli.data.row_data import RowData
from lt_cli.data.row_sources import RowSource
from lt_cli.data.rows import Row
from lt_cli.data.tokenizers import Tokenizer
from lt_cli.errors import UserError

SHOWN = 200
"""Characters of a row that the first page shows."""


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


class ExampleData(RowData):
    """Rows of files to batches of framed sequences, and predictions to files of the same format.

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
        super().__init__(
            source=source,
            val_fraction=val_fraction,
            test_fraction=test_fraction,
            split_seed=split_seed,
            batch_size=batch_size,
            num_workers=num_workers,
        )
        if max_seq_len < 1:
            raise UserError(f"max_seq_len ({max_seq_len}) must be at least 1")
        if tokens_per_batch is not None and not bucket_by_length:
            raise UserError("bucket_by_length (false) must be true with tokens_per_batch: set one of them only")
        self.tokenizer = tokenizer
        self.max_seq_len: int = max_seq_len
        self.bucket_by_length, self.tokens_per_batch = bucket_by_length, tokens_per_batch

    @abstractmethod
    def examples(self, rows: list[Row], split: SplitName) -> Examples:
        """The sequences of rows, as many rows, or any number to train on; those of predict have no labels."""

    @property
    def vocab_size(self) -> int | None:  # type: ignore[override]
        """Tokens of the tokenizer, once it is there."""
        return getattr(self.tokenizer, "vocab_size", None)

    def prepare_data(self) -> None:
        """Downloads on one process."""
        self.tokenizer.load()
        super().prepare_data()

    def setup(self, stage: str) -> None:
        """Reads the splits that the stage needs and does not have yet."""
        self.tokenizer.load()
        super().setup(stage)

    def lengths(self, name: SplitName) -> NDArray[np.int64] | None:
        """Tokens of each row, where batches go by length."""
        return self.splits[name].lengths if self.bucket_by_length else None

    def state_dict(self) -> dict[str, Any]:
        """The tokenizer too, so that a checkpoint needs none of its files; a subclass adds what it learned."""
        return super().state_dict() | {"tokenizer": self.tokenizer.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over what ``state_dict`` gave."""
        super().load_state_dict(state_dict)
        self.tokenizer.load_state_dict(state_dict["tokenizer"])

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
