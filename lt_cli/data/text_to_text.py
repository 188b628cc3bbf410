"""Texts with the text that is to be written of each: its summary, its translation, the answer to it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lt_cli.data.base import Batch, SplitName
from lt_cli.data.examples import SHOWN, ExampleData, Examples
from lt_cli.data.row_sources import RowSource
from lt_cli.data.rows import Row, some_text_of, with_field
from lt_cli.data.targets import TargetFrame, Targets
from lt_cli.data.tokenizers import Tokenizer
from lt_cli.errors import UserError
from lt_cli.losses import IGNORE


class TextPairs(Examples):
    """Sources, and the targets of all splits but predict.

    Args:
        ids: Tokens of each source.
        types: Kind of each of these tokens; None where a source is one text.
        pad_id: Fills the ends of shorter sources; nothing ever reads it.
        targets: Their targets; None in predict.
        references: The targets' texts, or several for each; None where nothing is scored against them.

    Attributes:
        lengths: Tokens of each row, source and target.
        source_sizes: Tokens of each source.
    """

    def __init__(
        self,
        ids: Sequence[NDArray[np.int32]],
        types: Sequence[NDArray[np.int32]] | None = None,
        *,
        pad_id: int,
        targets: Targets | None,
        references: Sequence[str] | Sequence[Sequence[str]] | None,
    ) -> None:
        """Joins the sources."""
        self.has_types = types is not None
        super().__init__(ids, types or [np.zeros_like(row) for row in ids], pad_id=pad_id, columns={})
        self.targets, self.references = targets, references
        self.source_sizes = self.lengths
        if targets is not None:
            self.lengths = self.lengths + targets.sizes

    def batch(self, rows: Sequence[int], epoch: int) -> Batch:
        """``index`` (B,); ``input_ids`` and ``attention_mask`` (B, S); ``labels`` (B, T); ``references``, texts.

        ``token_type_ids`` (B, S) where there are kinds of tokens.
        """
        batch = super().batch(rows, epoch)
        if not self.has_types:
            del batch["token_type_ids"]
        if self.targets is not None:
            batch["labels"] = self.targets.labels(rows)
        if self.references is not None:
            batch["references"] = [self.references[row] for row in rows]
        return batch


class TextToText(ExampleData):
    """Rows of files to batches of sources and targets, and predictions to files of the same format.

    A row is, for example, ``{"source": "a long text", "target": "its summary"}``. What is scored in validation and test
    are whole target texts, however long.

    Args:
        source: Where the rows come from.
        tokenizer: Text to tokens, of sources and targets.
        source_column: Column of the source; ``translation.en`` is what is called en in the column translation.
        target_column: Column of the target, in the same way; predictions are written there.
        prefix: Put before each source, such as T5's ``"summarize: "``; a space at its end counts.
        max_seq_len: Tokens of a source, at most, with those that frame it; of longer ones the end is cut off, and the
            first page says how many.
        max_target_len: Tokens of a target that are learned, at most, with those that frame it; the same of longer ones.
        bucket_by_length: Whether the rows of a batch are about as long as one another, so that little is padded.
        tokens_per_batch: Tokens of a batch and process, at most, with each row counted as the one that has most of
            source and target together; batches of long rows then have fewer than batch_size. null for no limit.
        val_fraction: Part of the training rows kept for validation; null for 0.1, or none where the source has its own.
        test_fraction: The same for test; null for none.
        split_seed: Seed of that choice; the run's own seed does not change it.
        batch_size: Rows per batch and process.
        num_workers: Processes that fetch batches; 0 is fastest for tokens in memory.

    Raises:
        UserError: If a size is out of range, a split is missing, or a row has no source or, but in predict, no target.
    """

    def __init__(
        self,
        *,
        source: RowSource,
        tokenizer: Tokenizer,
        source_column: str = "source",
        target_column: str = "target",
        prefix: str = "",
        max_seq_len: int = 512,
        max_target_len: int = 128,
        bucket_by_length: bool = True,
        tokens_per_batch: int | None = None,
        val_fraction: float | None = None,
        test_fraction: float | None = None,
        split_seed: int = 0,
        batch_size: int = 16,
        num_workers: int = 0,
    ) -> None:
        """Reads nothing."""
        super().__init__(
            source=source,
            tokenizer=tokenizer,
            max_seq_len=max_seq_len,
            bucket_by_length=bucket_by_length,
            tokens_per_batch=tokens_per_batch,
            val_fraction=val_fraction,
            test_fraction=test_fraction,
            split_seed=split_seed,
            batch_size=batch_size,
            num_workers=num_workers,
        )
        if max_target_len < 1:
            raise UserError(f"max_target_len ({max_target_len}) must be at least 1")
        if source_column == target_column:
            raise UserError(
                f"source_column ({source_column}) and target_column ({target_column}) must be different columns"
            )
        self.source_column, self.target_column, self.prefix = source_column, target_column, prefix
        self.max_target_len = max_target_len
        self._learned = True  # training rows say nothing that others are read with
        self._num_cut: dict[SplitName, tuple[int, int]] = {}

    @property
    def end_id(self) -> int:
        """The token that ends a target."""
        return TargetFrame(self.tokenizer).end_id

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens."""
        return self.tokenizer.decode(ids)

    def learn(self, rows: list[Row]) -> None:
        """Nothing."""

    def examples(self, rows: list[Row], split: SplitName) -> Examples:
        """Framed sources and targets, cut where they are too long."""
        frame = self.tokenizer.frame_of(1)
        texts = [self.prefix + some_text_of(row, self.source_column) for row in rows]
        sources, sources_cut = self._cut(texts, frame.num_tokens, self.max_seq_len, "max_seq_len")
        ids = [frame.around(source)[0] for source in sources]
        targets = references = None
        targets_cut = 0
        if split != "predict":
            target_frame = TargetFrame(self.tokenizer)
            references = [some_text_of(row, self.target_column) for row in rows]
            parts, targets_cut = self._cut(references, target_frame.num_tokens, self.max_target_len, "max_target_len")
            targets = Targets([target_frame.around(part) for part in parts])
        self._num_cut[split] = sources_cut, targets_cut
        return TextPairs(
            ids,
            pad_id=self.tokenizer.end_id,
            targets=targets,
            references=references if split in ("val", "test") else None,
        )

    def _cut(self, texts: list[str], framing: int, longest: int, option: str) -> tuple[list[NDArray[np.int32]], int]:
        """The tokens of texts, without those that frame them, and how many texts are cut."""
        if (room := longest - framing) < 1:
            raise UserError(f"{option} ({longest}) must be at least {framing + 1}: {framing} tokens frame a text")
        encoded = self.tokenizer.encode(texts)
        return [ids[:room] for ids in encoded], sum(len(ids) > room for ids in encoded)

    def predicted(self, fields: dict[str, Any], prediction: dict[str, Any]) -> dict[str, Any]:
        """The fields with the prediction in the target's place."""
        return with_field(fields, self.target_column, prediction.pop("target")) | prediction

    def fields_of(self, item: Any) -> dict[str, Any]:
        """A row from Python: a source, or a mapping with the columns."""
        if isinstance(item, Mapping):
            return dict(item)
        if not isinstance(item, str):
            raise UserError(f"{item!r:.80} must be a text, or a mapping with the column {self.source_column}")
        return with_field({}, self.source_column, item)

    def describe(self) -> list[str]:
        """Rows, and lengths of sources and targets, of each split."""
        return [f"{name}: {self._describe(name, examples)}" for name, examples in self.splits.items()]

    def _describe(self, name: SplitName, examples: Examples) -> str:
        assert isinstance(examples, TextPairs)
        sources_cut, targets_cut = self._num_cut[name]
        text = f"{len(examples):,} rows; sources of {_sizes(examples.source_sizes, sources_cut)}"
        if examples.targets is not None:
            text += f"; targets of {_sizes(examples.targets.sizes, targets_cut)}"
        return text

    def preview(self, batch: Batch, directory: Path) -> list[str]:
        """The first row as the model sees it."""
        source = batch["input_ids"][0][batch["attention_mask"][0].bool()].tolist()
        target = batch["labels"][0][batch["labels"][0] != IGNORE].tolist()
        return [
            f"a source: {self.decode(source)[:SHOWN]!r}",
            f"its target: {self.decode(target)[:SHOWN]!r}",
        ]


def _sizes(sizes: NDArray[np.int64], num_cut: int) -> str:
    """Lengths in words."""
    shortest, middle, longest = np.quantile(sizes, [0, 0.5, 1]).astype(int).tolist()
    cut = f", {num_cut:,} cut to {longest:,}" if num_cut else ""
    return f"{shortest:,} to {longest:,} tokens (median {middle:,}{cut})"
