"""Sentences with a label for each word: named entities, parts of speech, chunks."""

from pathlib import Path
from typing import Any

import numpy as np

from lt_cli.data.base import Batch, SplitName
from lt_cli.data.examples import SHOWN, ExampleData, Examples
from lt_cli.data.framing import window_starts
from lt_cli.data.row_sources import RowSource
from lt_cli.data.rows import Row, field_of
from lt_cli.data.token_labels import TokenLabels
from lt_cli.data.tokenizers import Tokenizer
from lt_cli.data.words import WordExamples, best_windows, first_tokens
from lt_cli.errors import UserError
from lt_cli.spans import Scheme


class LabeledTokens(ExampleData):
    """Rows of words with a label each to batches, and predictions to files of the same format.

    Words are lists, or text with one space between two. The first token of a word stands for it. Nothing is cut: a
    long sentence is read in several windows, and each word in the one where it has most context. The classes are
    exactly those of the training rows, sorted, in BIO where labels are spans; a checkpoint holds them and the
    tokenizer.

    Args:
        source: Where the rows come from, such as lt_cli.data.conll.ConllFiles.
        tokenizer: Text to tokens; it sees a row's words joined with spaces.
        token_column: Column of the words.
        label_column: Column of the labels; predictions are written there.
        scheme: How labels spell spans, in files and in predictions; null for what the training labels say, which may
            be that they are no spans.
        max_seq_len: Tokens of a window, at most, with those that frame it.
        stride: Tokens that two neighbouring windows of a sentence share.
        bucket_by_length: Whether the rows of a batch are about as long as one another, so that little is padded.
        tokens_per_batch: Tokens of a batch and process, padding included, at most; batches of long rows then have
            fewer than batch_size. null for no limit.
        val_fraction: Part of the training rows kept for validation; null for 0.1, or none where the source has its own.
        test_fraction: The same for test; null for none.
        split_seed: Seed of that choice; the run's own seed does not change it.
        batch_size: Rows per batch and process.
        num_workers: Processes that fetch batches; 0 is fastest for tokens in memory.

    Raises:
        UserError: If a size is out of range, a split is missing, or a row has no words, or not a known label for each.
    """

    def __init__(
        self,
        *,
        source: RowSource,
        tokenizer: Tokenizer,
        token_column: str = "tokens",
        label_column: str = "labels",
        scheme: Scheme | None = None,
        max_seq_len: int = 128,
        stride: int = 32,
        bucket_by_length: bool = True,
        tokens_per_batch: int | None = None,
        val_fraction: float | None = None,
        test_fraction: float | None = None,
        split_seed: int = 0,
        batch_size: int = 32,
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
        if token_column == label_column:
            raise UserError(
                f"token_column ({token_column}) and label_column ({label_column}) must be different columns"
            )
        if stride < 0:
            raise UserError(f"stride ({stride}) must not be negative")
        self.token_column, self.label_column, self.stride = token_column, label_column, stride
        self.token_labels = TokenLabels(scheme)

    @property
    def label_names(self) -> list[str]:  # type: ignore[override]
        """The classes' names, in the order of their numbers."""
        return self.token_labels.names

    def learn(self, rows: list[Row]) -> None:
        """Takes over the training rows' labels."""
        self.token_labels.learn(rows, self.label_column)

    def examples(self, rows: list[Row], split: SplitName) -> Examples:
        """Windows of framed sentences, the places of their words, and the classes of these."""
        words = [self.words_of(row) for row in rows]
        labels = None
        if split != "predict":
            for row, some in zip(rows, words, strict=True):
                if (number := len(self.token_labels.written(row, self.label_column))) != len(some):
                    raise UserError(
                        f"{row.place} has {len(some)} words in {self.token_column} and {number} labels in "
                        f"{self.label_column}: it needs a label for each word"
                    )
            labels = self.token_labels.encode(rows, self.label_column)
        frame = self.tokenizer.frame_of(1)
        room = self.max_seq_len - frame.num_tokens
        if room <= self.stride:
            raise UserError(
                f"stride ({self.stride}) must be less than max_seq_len ({self.max_seq_len}) without the "
                f"{frame.num_tokens} tokens that frame a window: lower it, or raise max_seq_len"
            )
        ids, types, row_of, window, position = [], [], [], [], []
        for number, (some, tokens) in enumerate(
            zip(words, self.tokenizer.encode_with_spans([" ".join(some) for some in words]), strict=True)
        ):
            starts = window_starts(len(tokens.ids), room, self.stride)
            for start in starts:
                all_ids, all_types, (offset,) = frame.around(tokens.ids[start : start + room])
                ids.append(all_ids)
                types.append(all_types)
                row_of.append(number)
            standing = first_tokens(some, tokens.spans)
            window.append(best_windows(standing, starts, room))
            # one that no token stands for, nor any before it, is read where the sentence begins
            position.append(np.maximum(offset + standing - np.array(starts)[window[-1]], 0))
        return WordExamples(
            ids,
            types,
            pad_id=self.tokenizer.end_id,
            row_of=np.array(row_of),
            num_words=np.array([len(some) for some in words]),
            window=np.concatenate(window),
            position=np.concatenate(position),
            labels=labels,
        )

    def words_of(self, row: Row) -> list[str]:
        """The words of a row."""
        value = field_of(row, self.token_column)
        words = value.split(" ") if isinstance(value, str) else value
        if not isinstance(words, list):
            raise UserError(
                f"{row.place}: {self.token_column} must be a list of words, or text with spaces between them, "
                f"not {value!r:.80}"
            )
        if not words or value == "":
            raise UserError(f"{row.place} has no word in {self.token_column}: give it one, or leave the row out")
        for i, word in enumerate(words, 1):
            if not isinstance(word, str) or not word:
                raise UserError(f"{row.place}, word {i}: {self.token_column} must have text there, not {word!r:.80}")
        return words

    def predicted(self, fields: dict[str, Any], prediction: dict[str, Any]) -> dict[str, Any]:
        """The fields with the predictions in the labels' place, as a list or as text like the words."""
        labels: Any = self.token_labels.as_written(prediction.pop("labels"))
        if isinstance(fields[self.token_column], str):
            labels = " ".join(map(str, labels))
        return fields | {self.label_column: labels} | prediction

    def fields_of(self, item: Any) -> dict[str, Any]:
        """A row from Python: a text with spaces between words, a list of words, or a mapping with the columns."""
        if isinstance(item, dict):
            return item
        if not isinstance(item, str | list | tuple):
            raise UserError(f"{item!r:.80} must be a text, a list of words, or a mapping with {self.token_column}")
        return {self.token_column: item.split() if isinstance(item, str) else list(item)}

    def state_dict(self) -> dict[str, Any]:
        """The tokenizer, and the labels."""
        return super().state_dict() | {"token_labels": self.token_labels.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over what ``state_dict`` gave."""
        super().load_state_dict(state_dict)
        self.token_labels.load_state_dict(state_dict["token_labels"])

    def describe(self) -> list[str]:
        """The scheme, and rows, lengths and labels of each split."""
        return [*self.token_labels.describe_scheme(), *super().describe()]

    def describe_split(self, examples: Examples) -> str:
        """Rows, windows, words, and the labels."""
        assert isinstance(examples, WordExamples)
        said = f"{super().describe_split(examples)}, {examples.num_words.sum():,} words"
        return said if examples.labels is None else f"{said}; {self.token_labels.describe(examples.labels)}"

    def preview(self, batch: Batch, directory: Path) -> list[str]:
        """The first row as the model sees it, and its labels."""
        lines = super().preview(batch, directory)
        if "labels" in batch:
            shown = " ".join(self.label_names[i] for i in batch["labels"][: batch["num_words"][0]].tolist())
            lines.append(f"its labels: {shown[:SHOWN]}")
        return lines
