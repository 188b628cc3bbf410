"""Column files of the CoNLL shared tasks: a word and its labels on each line, a blank line between sentences."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lt_cli.data.base import SplitName
from lt_cli.data.row_sources import FileRows
from lt_cli.data.rows import Row, read_text, write_jsonl
from lt_cli.errors import UserError

DOCUMENT = "-DOCSTART-"
"""Begins a line that stands between documents and is no word."""
COMMENT = "# "
"""Begins a comment, which stands before the first word of a sentence."""
KEPT = ("lines", "before", "after")
"""Fields of a sentence besides its words and labels: its lines, and those around them that are no words."""


class _Line(NamedTuple):
    number: int
    text: str
    columns: list[str]


def _columns(line: str) -> list[str]:
    """Between tabs where there are any, otherwise between spaces; other white space may be part of a word."""
    if "\t" in line:
        return [part.strip(" ") for part in line.split("\t")]
    return [part for part in line.split(" ") if part]


class ConllFiles(FileRows):
    """CoNLL's column files (Tjong Kim Sang and De Meulder 2003, https://aclanthology.org/W03-0419), with any suffix.

    Rows have ``tokens`` and ``labels``. Columns stand between tabs, or between spaces in a line without tabs. Lines of
    -DOCSTART-, and comments, which begin with a # and a space where a sentence begins, are no words. Predictions keep
    them and all other columns. A file to predict has as many columns as the training file, of which the labels are
    replaced; or one column less, and the labels are put where the training file has them.

    Args:
        path: A file, of which parts are held out, or a folder with files called train, val (also valid, validation,
            dev) and test, with any suffix; null where only predict_path is read.
        val_path: File for validation.
        test_path: File for test.
        predict_path: File to predict; it needs no labels.
        token_column: Column of the words, counted from 0; negative numbers count from the last, -1.
        label_column: Column of the labels, counted alike, as in files that have it.
    """

    suffixes = ()

    def __init__(
        self,
        path: str | None = None,
        *,
        val_path: str | None = None,
        test_path: str | None = None,
        predict_path: str | None = None,
        token_column: int = 0,
        label_column: int = -1,
    ) -> None:
        """Reads nothing."""
        super().__init__(path, val_path, test_path, predict_path)
        if token_column == label_column:
            raise UserError(f"source.token_column ({token_column}) and source.label_column must be different columns")
        self.token_column, self.label_column = token_column, label_column
        self.num_columns: int | None = None

    def rows(self, split: SplitName) -> list[Row] | None:
        """Those of the split's file; that of the training rows says how many columns labeled files have."""
        rows = super().rows(split)
        if split == "train" and rows is not None:
            self.num_columns = len(_columns(rows[0].fields["lines"][0]))
        return rows

    def read(self, path: Path, *, unlabeled: bool) -> list[Row]:
        """The sentences of one file."""
        lines = [
            _Line(number, line, _columns(line))
            for number, line in enumerate(read_text(path).replace("\r\n", "\n").split("\n"), 1)
        ]
        counts = [
            len(line.columns) for line in lines if line.text.strip() and not line.text.startswith((COMMENT, DOCUMENT))
        ]
        if not counts:
            return []
        width = self._labeled_width(path, counts[0], unlabeled)
        is_labeled = width == counts[0]
        token, label = self._places(path, width)
        token -= not is_labeled and label < token
        labels = {
            line.columns[label]
            for line in lines
            if is_labeled and not line.text.startswith(COMMENT) and len(line.columns) == width
        }
        rows: list[Row] = []
        before: list[str] = []
        sentence: list[_Line] = []
        for line in [*lines, _Line(0, "", [])]:
            is_comment = (
                not sentence
                and line.text.startswith(COMMENT)
                and (len(line.columns) != counts[0] or (is_labeled and line.columns[label] not in labels))
            )
            if line.text.strip() and not line.text.startswith(DOCUMENT) and not is_comment:
                self._check(path, line, counts[0], [token, label] if is_labeled else [token])
                sentence.append(line)
                continue
            if sentence:
                fields: dict[str, Any] = {"tokens": [word.columns[token] for word in sentence]}
                if is_labeled:
                    fields["labels"] = [word.columns[label] for word in sentence]
                fields |= {"lines": [word.text for word in sentence], "before": before}
                rows.append(Row(fields, f"{path}:{sentence[0].number}"))
                before, sentence = [], []
            before.append(line.text)
        if any(line.strip() for line in before):
            rows[-1].fields["after"] = before
        return rows

    def _check(self, path: Path, line: _Line, count: int, needed: list[int]) -> None:
        if len(line.columns) != count:
            raise UserError(
                f"{path}:{line.number} has {len(line.columns)} columns, and the first word's line {count}: "
                "every word needs all columns; a comment begins with a # and a space, and stands before a sentence"
            )
        for place in needed:
            if not line.columns[place]:
                raise UserError(f"{path}:{line.number} has nothing in column {place}: give it a value")

    def _places(self, path: Path, width: int) -> tuple[int, int]:
        """Where words and labels are in files that have both."""
        for name, column in (("token_column", self.token_column), ("label_column", self.label_column)):
            if not -width <= column < width:
                raise UserError(
                    f"source.{name} ({column}) must be a column of {path}, whose labeled lines have {width}: "
                    f"0 to {width - 1}, or -{width} to -1 from the last"
                )
        token, label = self.token_column % width, self.label_column % width
        if token == label:
            raise UserError(
                f"source.token_column ({self.token_column}) and source.label_column ({self.label_column}) are the same "
                f"column of {path}, which has {width}: name two"
            )
        return token, label

    def _labeled_width(self, path: Path, count: int, unlabeled: bool) -> int:
        """How many columns a file would have with its labels."""
        if not unlabeled:
            return count
        if self.num_columns is None and self.path is not None:
            self.rows("train")
        width = 2 if self.num_columns is None and count == 1 else self.num_columns
        if width is None:
            raise UserError(
                f"{path} has {count} columns, and whether one of them holds labels is not known: "
                "name a labeled file of the same kind with --data.source.path"
            )
        if count not in (width, width - 1):
            raise UserError(
                f"{path} has {count} columns, and the labeled files {width}: give it {width}, or {width - 1} without "
                "the labels"
            )
        return width

    def state_dict(self) -> dict[str, Any]:
        """The columns of labeled files, which tell whether a file to predict has labels."""
        return {"num_columns": self.num_columns}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what ``state_dict`` gave."""
        self.num_columns = state.get("num_columns")

    def write(self, rows: Sequence[dict[str, Any]], split: SplitName, directory: Path) -> list[Path]:
        """The same lines with other labels; what else was predicted goes to a .jsonl file of its own."""
        like = self.file(split) or self.file("train")
        assert like is not None
        path = directory / f"predictions{like.suffix}"
        lines: list[str] = []
        for row in rows:
            lines += row["before"]
            for text, label in zip(row["lines"], row["labels"], strict=True):
                columns = _columns(text)
                width = self._labeled_width(like, len(columns), unlabeled=split == "predict")
                place = self._places(like, width)[1]
                columns[place : place + (len(columns) == width)] = [label]
                lines.append(("\t" if "\t" in text else " ").join(columns))
            lines += row.get("after", [])
        path.write_text("\n".join(lines).strip("\n") + "\n", encoding="utf-8")
        plain = [{name: value for name, value in row.items() if name not in KEPT} for row in rows]
        if not any(row.keys() - {"tokens", "labels"} for row in plain):
            return [path]
        return [path, write_jsonl(plain, directory / "predictions.jsonl")]
