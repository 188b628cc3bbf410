"""Texts with several choices each, one of which is right."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lt_cli.data.base import Batch, SplitName
from lt_cli.data.choice_rows import Choices, LabelForm, choices_of, label_of
from lt_cli.data.examples import SHOWN, ExampleData, Examples
from lt_cli.data.framing import cut
from lt_cli.data.labels import shares
from lt_cli.data.row_sources import RowSource
from lt_cli.data.rows import Row, field_of, some_text_of, text_of
from lt_cli.data.tokenizers import Tokenizer
from lt_cli.errors import UserError


class ChoiceData(ExampleData):
    """Rows of files to batches of texts with choices, and predictions to files of the same format.

    Each choice is a sequence of its own, the text and then the choice, so that a batch has the choices of all its rows;
    rows may have different numbers of them. ``is_choice`` (B, C) says which a row has. With a question, the choice
    follows it, as SWAG, HellaSwag and RACE are read (https://arxiv.org/abs/1810.04805,
    https://arxiv.org/abs/1907.11692).

    Args:
        source: Where the rows come from.
        tokenizer: Text to tokens.
        text_column: Column of the text.
        question_column: Column of what each choice follows or fills in, such as a question or the beginning of a
            sentence; it may be empty. null where the text is all.
        gap: What a choice takes the place of where a question has it, such as _ in RACE; null to have every choice
            behind its question.
        choices_column: Column of all choices, in .jsonl and datasets: a list of texts, or two lists, {label: [A, B],
            text: […]}; null where each has a column.
        choice_columns: The column of each choice; rows with fewer have none in the last columns. null where one column
            has them all.
        label_column: Column of the label; predictions are written there.
        label_form: What a label is: the choice's index from 0; its number from 1; its name, as choices_column has it in
            ``label``, or else a letter from A; or its text.
        max_seq_len: Tokens of a text with a choice, at most, with those that frame it; where there are more, the longer
            of both is cut first, and the first page says how often.
        bucket_by_length: Whether the rows of a batch are about as long as one another, so that little is padded.
        tokens_per_batch: Tokens of a batch and process, all choices and padding included, at most; batches of long rows
            then have fewer than batch_size. null for no limit.
        val_fraction: Part of the training rows kept for validation; null for 0.1, or none where the source has its own.
        test_fraction: The same for test; null for none.
        split_seed: Seed of that choice; the run's own seed does not change it.
        batch_size: Rows per batch and process, of several sequences each.
        num_workers: Processes that fetch batches; 0 is fastest for tokens in memory.

    Raises:
        UserError: If a size is out of range, a split is missing, or a row has no text, fewer than two choices, or a
            label that is none of them.
    """

    def __init__(
        self,
        *,
        source: RowSource,
        tokenizer: Tokenizer,
        text_column: str = "context",
        question_column: str | None = None,
        gap: str | None = None,
        choices_column: str | None = None,
        choice_columns: list[str] | None = None,
        label_column: str = "label",
        label_form: LabelForm = "index",
        max_seq_len: int = 128,
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
        self.choice_columns = _one_of(choices_column, choice_columns)
        self.text_column, self.question_column, self.label_column = text_column, question_column, label_column
        columns = [text_column, question_column, label_column, choices_column, *(choice_columns or [])]
        counts = Counter(column for column in columns if column is not None)
        if twice := [column for column, count in counts.items() if count > 1]:
            raise UserError(f"column {twice[0]!r} must be one thing only: text, question, choice or label")
        if gap is not None and (not gap or question_column is None):
            raise UserError(f"gap ({gap!r}) must be a part of questions: name their column with --data.question_column")
        self.gap, self.label_form = gap, label_form
        self.choice_counts: dict[int, int] = {}
        self._labels_are_text = False
        self._num_cut: dict[SplitName, int] = {}

    def learn(self, rows: list[Row]) -> None:
        """Takes over how many choices training rows have, and whether labels are text or numbers."""
        self.choice_counts = dict(sorted(Counter(len(self._choices(row).texts) for row in rows).items()))
        self._labels_are_text = isinstance(field_of(rows[0], self.label_column), str)

    def examples(self, rows: list[Row], split: SplitName) -> Examples:
        """Framed texts with a choice each, cut where they are too long, and the numbers of the right choices."""
        choices = [self._choices(row) for row in rows]
        counts = np.array([len(some.texts) for some in choices], np.int64)
        columns: dict[str, NDArray[Any]] = {"is_choice": np.arange(counts.max(initial=0)) < counts[:, None]}
        if split != "predict":
            pairs = zip(rows, choices, strict=True)
            labels = [label_of(row, self.label_column, some, self.label_form) for row, some in pairs]
            columns["labels"] = np.array(labels, np.int64)
        texts = self.tokenizer.encode([some_text_of(row, self.text_column) for row in rows])
        ends = self.tokenizer.encode(
            [end for row, some in zip(rows, choices, strict=True) for end in self._ends(row, some)]
        )
        frame = self.tokenizer.frame_of(2)
        room = self.max_seq_len - frame.num_tokens
        if room < 2:
            raise UserError(
                f"max_seq_len ({self.max_seq_len}) must be at least {frame.num_tokens + 2}: "
                f"{frame.num_tokens} tokens frame a text and a choice"
            )
        ids, types, is_cut = [], [], np.zeros(len(rows), bool)
        row_of = np.repeat(np.arange(len(rows)), counts)
        for row, end in zip(row_of.tolist(), ends, strict=True):
            text = texts[row]
            kept = cut([len(text), len(end)], room)
            is_cut[row] |= sum(kept) < len(text) + len(end)
            all_ids, all_types, _ = frame.around(text[: kept[0]], end[: kept[1]])
            ids.append(all_ids)
            types.append(all_types)
        self._num_cut[split] = int(is_cut.sum())
        return Examples(ids, types, pad_id=self.tokenizer.end_id, columns=columns, row_of=row_of)

    def _choices(self, row: Row) -> Choices:
        return choices_of(row, self.choice_columns)

    def _ends(self, row: Row, choices: Choices) -> list[str]:
        """The second text of each sequence: the choice in or behind the question."""
        question = "" if self.question_column is None else text_of(row, self.question_column).strip()
        if not question:
            return choices.texts
        if self.gap is not None and self.gap in question:
            return [question.replace(self.gap, text) for text in choices.texts]
        return [f"{question} {text}" for text in choices.texts]

    def lengths(self, name: SplitName) -> NDArray[np.int64] | None:
        """Of each row's longest choice, times the most choices that a row has: so no batch can have more tokens."""
        examples = self.splits[name]
        return examples.widths * examples.columns["is_choice"].shape[1] if self.bucket_by_length else None

    def predicted(self, fields: dict[str, Any], prediction: dict[str, Any]) -> dict[str, Any]:
        """The fields with the label of the predicted choice, as the training rows' labels are."""
        label = self._choices(Row(fields, "row")).labels(self.label_form)[prediction.pop("choice")]
        label = str(label) if self._labels_are_text else label
        return fields | {self.label_column: label} | prediction

    def fields_of(self, item: Any) -> dict[str, Any]:
        """A row from Python: (text, choices), (text, question, choices), or a mapping with the columns."""
        if isinstance(item, dict):
            return item
        names = [self.text_column] if self.question_column is None else [self.text_column, self.question_column]
        if not isinstance(item, tuple | list) or len(item) != len(names) + 1 or not isinstance(item[-1], tuple | list):
            raise UserError(f"{item!r:.80} must be a mapping, or ({', '.join(names)}, [choice, choice, …])")
        *texts, choices = item
        if isinstance(self.choice_columns, str):
            return dict(zip(names, texts, strict=True)) | {self.choice_columns: list(choices)}
        if len(choices) > len(self.choice_columns):
            raise UserError(f"{item!r:.80} must have {len(self.choice_columns)} choices at most, not {len(choices)}")
        choices = [*choices, *[None] * (len(self.choice_columns) - len(choices))]
        return dict(zip([*names, *self.choice_columns], [*texts, *choices], strict=True))

    def state_dict(self) -> dict[str, Any]:
        """The tokenizer, the numbers of choices, and whether labels are text."""
        return super().state_dict() | {"choice_counts": self.choice_counts, "labels_are_text": self._labels_are_text}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over what ``state_dict`` gave."""
        super().load_state_dict(state_dict)
        self.choice_counts, self._labels_are_text = state_dict["choice_counts"], state_dict["labels_are_text"]

    def describe(self) -> list[str]:
        """Rows, choices, lengths, and which choices are right."""
        lines = []
        for (name, examples), line in zip(self.splits.items(), super().describe(), strict=True):
            is_choice = examples.columns["is_choice"]
            fewest, most = is_choice.sum(1).min(), is_choice.shape[1]
            lines.append(f"{line}; {most} choices each" if fewest == most else f"{line}; {fewest} to {most} choices")
            if shortened := self._num_cut.get(name):
                lines[-1] += f"; {shortened:,} rows are cut to {self.max_seq_len}"
            if (labels := examples.columns.get("labels")) is not None:
                counts = np.bincount(labels, minlength=most)
                lines[-1] += f"; right is {shares([f'#{i}' for i in range(most)], counts, len(labels))}"
        return lines

    def preview(self, batch: Batch, directory: Path) -> list[str]:
        """The first row as the model sees it, each of its choices."""
        lines = []
        for i in range(int(batch["is_choice"][0].sum())):
            right = " (right)" if "labels" in batch and i == batch["labels"][0] else ""
            lines.append(f"choice {i} of a row{right}: {self.readable(batch, i)[-SHOWN:]!r}")
        return lines


def _one_of(column: str | None, columns: list[str] | None) -> str | list[str]:
    """Where the choices are."""
    if (column is None) == (columns is None):
        raise UserError(
            f"choices_column ({column}) and choice_columns ({columns}): give one of them, "
            "--data.choices_column=choices for lists, or --data.choice_columns=[ending0,ending1]"
        )
    if columns is not None and len(columns) < 2:
        raise UserError(f"choice_columns ({columns}) must be two columns at least: lists have --data.choices_column")
    return columns if column is None else column  # type: ignore[return-value]  # one of them is given
