"""Texts, or pairs of texts, with a label each: a class, several classes, or a score."""

from pathlib import Path
from typing import Any, Literal

from lt_cli.data.base import SplitName
from lt_cli.data.examples import ExampleData, Examples
from lt_cli.data.framing import cut
from lt_cli.data.labels import Labels, OneLabel
from lt_cli.data.row_sources import RowSource
from lt_cli.data.rows import Row, some_text_of, with_field
from lt_cli.data.tokenizers import Tokenizer
from lt_cli.errors import UserError


class LabeledText(ExampleData):
    """Rows of files to batches of texts with labels, and predictions to files of the same format.

    The classes are exactly those of the training rows, sorted; a checkpoint holds them and the tokenizer.

    Args:
        source: Where the rows come from.
        tokenizer: Text to tokens.
        labels: What a label is: lt_cli.data.labels.OneLabel, SeveralLabels, or Score.
        text_column: Column of the text.
        pair_column: Column of a second text that belongs to the first; null where there is none.
        label_column: Column of the label; predictions are written there.
        max_seq_len: Tokens of a text or pair, at most, with those that frame it; longer ones are cut, the longer text
            of a pair first, and the first page says how many.
        bucket_by_length: Whether the rows of a batch are about as long as one another, so that little is padded.
        tokens_per_batch: Tokens of a batch and process, padding included, at most; batches of long rows then have
            fewer than batch_size. null for no limit.
        val_fraction: Part of the training rows kept for validation; null for 0.1, or none where the source has its own.
        test_fraction: The same for test; null for none.
        split_seed: Seed of that choice; the run's own seed does not change it.
        batch_size: Rows per batch and process.
        num_workers: Processes that fetch batches; 0 is fastest for tokens in memory.

    Raises:
        UserError: If a size is out of range, a split is missing, or a row has no text, or no label that is known.
    """

    def __init__(
        self,
        *,
        source: RowSource,
        tokenizer: Tokenizer,
        labels: Labels | None = None,
        text_column: str = "text",
        pair_column: str | None = None,
        label_column: str = "label",
        max_seq_len: int = 128,
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
        self.labels = OneLabel() if labels is None else labels
        self.text_columns = [text_column] if pair_column is None else [text_column, pair_column]
        self.label_column = label_column
        if len({*self.text_columns, label_column}) <= len(self.text_columns):
            raise UserError(
                f"text_column ({text_column}), pair_column ({pair_column}) and label_column ({label_column}) "
                "must be different columns"
            )
        self._num_cut: dict[SplitName, int] = {}

    @property
    def label_names(self) -> list[str] | None:  # type: ignore[override]
        """The classes' names, in the order of their numbers; None for scores."""
        return getattr(self.labels, "names", None)

    def learn(self, rows: list[Row]) -> None:
        """Takes over the training rows' labels."""
        self.labels.learn(rows, self.label_column)

    def examples(self, rows: list[Row], split: SplitName) -> Examples:
        """Framed texts, cut where they are too long, with the targets of their labels."""
        columns = {} if split == "predict" else {"labels": self.labels.encode(rows, self.label_column)}
        texts = [self.tokenizer.encode([some_text_of(row, name) for row in rows]) for name in self.text_columns]
        frame = self.tokenizer.frame_of(len(texts))
        room = self.max_seq_len - frame.num_tokens
        if room < len(texts):
            raise UserError(
                f"max_seq_len ({self.max_seq_len}) must be at least {frame.num_tokens + len(texts)}: "
                f"{frame.num_tokens} tokens frame what is read"
            )
        ids, types = [], []
        self._num_cut[split] = 0
        for parts in zip(*texts, strict=True):
            kept = cut([len(part) for part in parts], room)
            self._num_cut[split] += sum(kept) < sum(map(len, parts))
            all_ids, all_types, _ = frame.around(*(part[:size] for part, size in zip(parts, kept, strict=True)))
            ids.append(all_ids)
            types.append(all_types)
        return Examples(ids, types, pad_id=self.tokenizer.end_id, columns=columns)

    def predicted(self, fields: dict[str, Any], prediction: dict[str, Any]) -> dict[str, Any]:
        """The fields with the prediction in the label's place."""
        others = {name: value for name, value in prediction.items() if name != "label"}
        return with_field(fields, self.label_column, prediction["label"]) | others

    def write_predictions(
        self, columns: dict[str, list[Any]], directory: Path, format: Literal["csv", "jsonl"]
    ) -> list[Path]:
        """The predicted rows; several classes as the source's format has them."""
        if not self.source.holds_lists(self._predicted):
            columns = columns | {"label": self.labels.cells(columns["label"])}
        return super().write_predictions(columns, directory, format)

    def fields_of(self, item: Any) -> dict[str, Any]:
        """A row from Python: a text, a pair of texts, or a mapping with the columns."""
        if isinstance(item, dict):
            return item
        texts = [item] if isinstance(item, str) else item
        if not isinstance(texts, list | tuple) or len(texts) != len(self.text_columns):
            wanted = "a text" if len(self.text_columns) == 1 else "a pair of texts"
            raise UserError(f"{item!r:.80} must be {wanted}, or a mapping with {' and '.join(self.text_columns)}")
        return dict(zip(self.text_columns, texts, strict=True))

    def state_dict(self) -> dict[str, Any]:
        """The tokenizer, and the labels."""
        return super().state_dict() | {"labels": self.labels.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over what ``state_dict`` gave."""
        super().load_state_dict(state_dict)
        self.labels.restore(state_dict["labels"])

    def describe(self) -> list[str]:
        """Rows, lengths and labels of each split."""
        lines = []
        for (name, examples), line in zip(self.splits.items(), super().describe(), strict=True):
            shortened = self._num_cut.get(name)
            lines.append(line + (f"; {shortened:,} are cut to {self.max_seq_len}" if shortened else ""))
            if "labels" in examples.columns:
                lines[-1] += f"; {self.labels.describe(examples.columns['labels'])}"
        return lines
