"""Questions about texts, each of which is answered by a part of its text, or not at all."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lt_cli.data.answer_rows import Answer, answers_of, with_answer
from lt_cli.data.base import Batch, SplitName
from lt_cli.data.examples import SHOWN, ExampleData
from lt_cli.data.framing import Frame, Tokens
from lt_cli.data.question_windows import QuestionWindows, Window, tokens_of, windows_of, without_spaces
from lt_cli.data.row_sources import RowSource
from lt_cli.data.rows import Row, some_text_of
from lt_cli.data.tokenizers import Tokenizer
from lt_cli.errors import UserError


class QuestionData(ExampleData):
    """Rows of files to batches of questions with their contexts, and predictions to files of the same format.

    A context that is too long becomes windows that share tokens. Windows are trained on one by one; one that does not
    hold all of the answer is labelled with its first token, for none (Devlin et al. 2018,
    https://arxiv.org/abs/1810.04805). A question is evaluated and predicted with all its windows together. Of several
    accepted answers the first is learned, and any is right.

    Args:
        source: Where the rows come from: lt_cli.data.squad.SquadFiles, or tables, or a dataset of the hub.
        tokenizer: Text to tokens.
        question_column: Column of the question.
        context_column: Column of the text that has the answer.
        answers_column: Column of the answers: a list of {text, answer_start}, or {text: […], answer_start: […]}, which
            is empty where there is none. Tables may have answer_start and answer_end in its place, an answer's
            characters with the end excluded, both empty where there is none. Predictions are written there.
        max_seq_len: Tokens of a window, at most: question, part of the context, and what frames them.
        stride: Tokens of the context that neighbouring windows share, so that one of them holds all of an answer.
        max_question_len: Tokens of a question, at most; longer ones are cut, and the first page says how many.
        bucket_by_length: Whether the rows of a batch are about as long as one another, so that little is padded.
        tokens_per_batch: Tokens of a batch and process, padding included, at most; batches of long rows then have
            fewer than batch_size. null for no limit.
        val_fraction: Part of the training rows kept for validation; null for 0.1, or none where the source has its own.
        test_fraction: The same for test; null for none.
        split_seed: Seed of that choice; the run's own seed does not change it.
        batch_size: Rows per batch and process: windows in training, otherwise questions.
        num_workers: Processes that fetch batches; 0 is fastest for tokens in memory.

    Attributes:
        has_unanswerable: Whether the context of some training question has no answer to it.

    Raises:
        UserError: If a size is out of range, a split is missing, or a row has no question, no context, or an answer
            that is no part of it.
    """

    has_unanswerable: bool = False

    def __init__(
        self,
        *,
        source: RowSource,
        tokenizer: Tokenizer,
        question_column: str = "question",
        context_column: str = "context",
        answers_column: str = "answers",
        max_seq_len: int = 384,
        stride: int = 128,
        max_question_len: int = 64,
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
        if stride < 0:
            raise UserError(f"stride ({stride}) must not be negative")
        if max_question_len < 1:
            raise UserError(f"max_question_len ({max_question_len}) must be at least 1")
        if len({question_column, context_column, answers_column}) < 3:
            raise UserError(
                f"question_column ({question_column}), context_column ({context_column}) and answers_column "
                f"({answers_column}) must be different columns"
            )
        self.question_column, self.context_column = question_column, context_column
        self.answers_column = answers_column
        self.stride, self.max_question_len = stride, max_question_len
        self._notes: dict[SplitName, Counter[str]] = {}

    def learn(self, rows: list[Row]) -> None:
        """Takes over whether all training questions have an answer."""
        answered = [bool(self._answers(row)) for row in rows]
        if not any(answered):
            raise UserError(
                f"none of {len(rows):,} training questions has an answer: name the right column with "
                "--data.answers_column"
            )
        self.has_unanswerable = not all(answered)

    def kept_together(self, rows: list[Row]) -> list[str] | None:
        """Questions of one context, which would otherwise be known from training; not where there is but one."""
        contexts = [self._context(row) for row in rows]
        return contexts if len({*contexts}) > 1 else None

    def examples(self, rows: list[Row], split: SplitName) -> QuestionWindows:
        """The windows of the questions: rows of their own in training, otherwise together."""
        frame = self._frame()
        contexts = self._contexts(rows)
        questions = self.tokenizer.encode([some_text_of(row, self.question_column) for row in rows])
        answers = [[] if split == "predict" else self._answers(row) for row in rows]
        notes = self._notes[split] = Counter(questions=len(rows), unanswerable=sum(not found for found in answers))
        windows: list[Window] = []
        row_of: list[int] = []
        for number, (row, question) in enumerate(zip(rows, questions, strict=True)):
            if not len(question):
                raise UserError(f"{row.place}: the tokenizer knows no token of {self.question_column}: mend it")
            notes["cut"] += len(question) > self.max_question_len
            context = contexts[row.fields[self.context_column]]
            found = self._windows(row, question[: self.max_question_len], context, answers[number][:1], frame, notes)
            windows += found
            row_of += [number] * len(found)
        one_by_one = split == "train"
        texts: dict[str, Sequence[Any]] = {} if one_by_one else {"context": [self._context(row) for row in rows]}
        if split in ("val", "test"):
            texts["answers"] = [
                [self._context(row)[answer.start : answer.end] for answer in found]
                for row, found in zip(rows, answers, strict=True)
            ]
        return QuestionWindows(
            windows,
            pad_id=self.tokenizer.end_id,
            is_labeled=split != "predict",
            row_of=None if one_by_one else np.array(row_of, np.int64),
            texts=texts,
        )

    def _frame(self) -> Frame:
        """What stands around question and context, where windows have room for both."""
        frame = self.tokenizer.frame_of(2)
        least = self.max_question_len + self.stride + frame.num_tokens + 1
        if self.max_seq_len < least:
            raise UserError(
                f"max_seq_len ({self.max_seq_len}) must be at least {least}: max_question_len "
                f"({self.max_question_len}), stride ({self.stride}), {frame.num_tokens} tokens that frame them, and "
                "one more of the context: raise it, or lower the others"
            )
        return frame

    def _contexts(self, rows: list[Row]) -> dict[str, Tokens]:
        """The tokens of each context; several questions may share one."""
        places = {self._context(row): row.place for row in reversed(rows)}
        found = {}
        for text, tokens in zip(places, self.tokenizer.encode_with_spans(list(places)), strict=True):
            spans = without_spaces(tokens.spans, text)
            if not (spans[:, 0] < spans[:, 1]).any():
                raise UserError(f"{places[text]}: the tokenizer knows no token of {self.context_column}: mend it")
            found[text] = Tokens(tokens.ids, spans)
        return found

    def _windows(
        self, row: Row, question: Any, context: Tokens, answers: list[Answer], frame: Frame, notes: Counter[str]
    ) -> list[Window]:
        span = tokens_of(answers[0], context.spans, self._context(row)) if answers else None
        windows = list(
            windows_of(question, context, answer=span, frame=frame, max_seq_len=self.max_seq_len, stride=self.stride)
        )
        notes["windows"] += len(windows)
        if answers:
            notes["inexact"] += span is not None and not span.is_exact
            notes["lost"] += not any(window.positions[1] for window in windows)
        return windows

    def _context(self, row: Row) -> str:
        return some_text_of(row, self.context_column)

    def _answers(self, row: Row) -> list[Answer]:
        return answers_of(row, self.answers_column, self._context(row))

    def predicted(self, fields: dict[str, Any], prediction: dict[str, Any]) -> dict[str, Any]:
        """The fields with the prediction in the answers' place."""
        return with_answer(fields, self.answers_column, prediction)

    def write_predictions(
        self, columns: dict[str, list[Any]], directory: Path, format: Literal["csv", "jsonl"]
    ) -> list[Path]:
        """The predicted rows with their answers, as text too where the format has names for what is added."""
        if not self.source.names_fields(self._predicted):
            columns = {name: values for name, values in columns.items() if name != "answer"}
        return super().write_predictions(columns, directory, format)

    def fields_of(self, item: Any) -> dict[str, Any]:
        """A row from Python: question and context, or a mapping with the columns."""
        if isinstance(item, dict):
            return item
        if isinstance(item, str) or len(texts := list(item)) != 2:
            raise UserError(f"{item!r:.80} must be a question and its context, two texts, or a mapping of columns")
        return dict(zip((self.question_column, self.context_column), texts, strict=True))

    def state_dict(self) -> dict[str, Any]:
        """The tokenizer, and whether all training questions have an answer."""
        return super().state_dict() | {"has_unanswerable": self.has_unanswerable}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over what ``state_dict`` gave."""
        super().load_state_dict(state_dict)
        self.has_unanswerable = state_dict["has_unanswerable"]

    def describe(self) -> list[str]:
        """Questions, windows, and what is cut, of each split."""
        return [f"{name}: {self._described(name)}" for name in self.splits]

    def _described(self, name: SplitName) -> str:
        notes, sizes = self._notes[name], self.splits[name].sizes
        shortest, middle, longest = np.quantile(sizes, [0, 0.5, 1]).astype(int).tolist()
        lengths = f"{shortest:,} to {longest:,} tokens (median {middle:,})"
        parts = [f"{notes['questions']:,} questions in {notes['windows']:,} windows of {lengths}"]
        if name != "predict" and notes["unanswerable"]:
            share = 100 * notes["unanswerable"] / notes["questions"]
            parts.append(f"without an answer: {notes['unanswerable']:,} ({share:.1f} %)")
        if notes["cut"]:
            parts.append(f"questions cut to {self.max_question_len} tokens: {notes['cut']:,}")
        if notes["inexact"]:
            parts.append(f"answers that begin or end within a token, which is learned whole: {notes['inexact']:,}")
        if notes["lost"]:
            parts.append(f"answers that no window holds whole: {notes['lost']:,}, fewer with a larger stride")
        return "; ".join(parts)

    def preview(self, batch: Batch, directory: Path) -> list[str]:
        """The first window as the model sees it, and its answer."""
        lines = super().preview(batch, directory)
        first, last = int(batch["start_positions"][0]), int(batch["end_positions"][0])
        answer = self.tokenizer.decode(batch["input_ids"][0, first : last + 1].tolist())
        return [*lines, f"its answer: {answer[:SHOWN]!r}" if first else "its answer: none in this window"]
