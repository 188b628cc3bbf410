"""Where labeled rows come from, and how predictions are written back in the same format."""

import csv
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from lightning.pytorch.utilities import rank_zero_info

from lt_cli.data.base import SplitName
from lt_cli.data.held_out import SPLIT_NAMES
from lt_cli.data.hub_datasets import HubDataset
from lt_cli.data.rows import ROW_SUFFIXES, Row, as_cell, read_table, write_jsonl, write_parquet
from lt_cli.errors import UserError, some_of


class RowSource(ABC):
    """Rows of each split, and files like those that they come from."""

    def prepare(self) -> None:  # noqa: B027  # most sources have nothing to download
        """Downloads what is missing, on one process."""

    @abstractmethod
    def rows(self, split: SplitName) -> list[Row] | None:
        """The rows of a split in their order, or None where it has no such split; those of predict have no labels."""

    def has(self, split: SplitName) -> bool:
        """Whether there are rows of a split, without reading them where that can be."""
        return self.rows(split) is not None

    def holds_lists(self, split: SplitName) -> bool:
        """Whether a field of a split's format may be a list, as in any but the .csv that is written by default."""
        return type(self).write is not RowSource.write

    def names_fields(self, split: SplitName) -> bool:
        """Whether a split's format names its fields, so that one that is added can be told from the others."""
        return True

    def state_dict(self) -> dict[str, Any]:
        """What it learned of its files, for a checkpoint, in plain types."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027  # most sources learn nothing
        """Takes over what ``state_dict`` gave, be it of another kind of source."""

    def write(self, rows: Sequence[dict[str, Any]], split: SplitName, directory: Path) -> list[Path]:
        """Writes rows in the format of a split, so that they can be read again, and returns the files; else a .csv."""
        return [write_table(rows, directory / "predictions.csv")]


class FileRows(RowSource):
    """Files of one format, one for each split.

    Args:
        path: A file, or a folder with files called train, val (also valid, validation, dev) and test; null where
            predict_path is all that is read.
        val_path: File for validation.
        test_path: File for test.
        predict_path: File to predict.

    Attributes:
        suffixes: How files of the format are called.
    """

    suffixes: ClassVar[tuple[str, ...]]

    def __init__(self, path: str | None, val_path: str | None, test_path: str | None, predict_path: str | None) -> None:
        """Reads nothing."""
        self.path = None if path is None else Path(path).expanduser()
        named = {"val": val_path, "test": test_path, "predict": predict_path}
        self.named: dict[str, Path] = {
            split: Path(given).expanduser() for split, given in named.items() if given is not None
        }

    @abstractmethod
    def read(self, path: Path, *, unlabeled: bool) -> list[Row]:
        """The rows of one file."""

    def rows(self, split: SplitName) -> list[Row] | None:
        """Those of the split's file."""
        path = self.file(split)
        if path is None:
            return None
        if split == "train" and self.path is not None and self.path.is_dir():
            self._say_left_out(self.path)
        rows = self.read(path, unlabeled=split == "predict")
        if not rows:
            raise UserError(f"{path} has no row: fill it, or leave it out")
        return rows

    def has(self, split: SplitName) -> bool:
        """Whether it has a file."""
        return self.file(split) is not None

    def file(self, split: SplitName) -> Path | None:
        """The file of a split."""
        if split in self.named:
            path = self._existing(self.named[split], f"{split}_path")
            if split != "predict" and self.path is not None and self.path.exists() and path.samefile(self.train_file()):
                raise UserError(f"source.{split}_path ({path}) is the file to train on: name another, or leave it out")
            return path
        if split == "predict":
            return None
        if split == "train":
            return self.train_file()
        if self.path is None:
            return None
        if not self.path.exists():
            raise UserError(
                f"source.path ({self.path}) must be a file or a folder, and there is none: correct the path"
            )
        return self._in_folder(self.path, split) if self.path.is_dir() else None

    def train_file(self) -> Path:
        """The file to train on."""
        if self.path is None:
            raise UserError("source.path (null) must name a file or a folder to train on: set --data.source.path")
        if not self.path.is_dir():
            return self._existing(self.path, "path", "a file or a folder")
        if (found := self._in_folder(self.path, "train")) is None:
            there = ", ".join(path.name for path in _files(self.path)[:5]) or "nothing"
            wanted = " or ".join(f"train{suffix}" for suffix in self.suffixes or [".*"])
            raise UserError(f"source.path ({self.path}) must have {wanted}, and has {there}: name a file")
        return found

    def _existing(self, path: Path, option: str, wanted: str = "a file") -> Path:
        if not path.is_file():
            raise UserError(f"source.{option} ({path}) must be {wanted}, and there is none: correct the path")
        if self.suffixes and path.suffix not in self.suffixes:
            raise UserError(f"source.{option} ({path}) must be one of {' '.join(self.suffixes)}: convert or rename it")
        return path

    def _in_folder(self, folder: Path, split: SplitName) -> Path | None:
        usable = [path for path in _files(folder) if not self.suffixes or path.suffix in self.suffixes]
        found = [path for path in usable if path.stem in SPLIT_NAMES[split]]  # type: ignore[index]
        if len(found) > 1:
            raise UserError(
                f"source.path ({folder}) has {found[0].name} and {found[1].name}, where one file must be the {split} "
                "split: name one with --data.source.path, .val_path or .test_path"
            )
        return found[0] if found else None

    def _say_left_out(self, folder: Path) -> None:
        """What is in a folder and no split, such as a split in another format."""
        splits = [self._in_folder(folder, split) for split in SPLIT_NAMES]
        used = [path.resolve() for path in [*splits, *self.named.values()] if path is not None]
        if others := [path.name for path in _files(folder) if path.resolve() not in used]:
            rank_zero_info(f"files in {folder} that are no split are left out: {some_of(others, 5)}")


def _files(folder: Path) -> list[Path]:
    """Those that are not hidden, sorted."""
    return [path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith(".")]


class TableFiles(FileRows):
    """Files of rows: .tsv (no quotes), .csv, .jsonl or .parquet.

    Args:
        path: A file, of which parts are held out, or a folder with files called train, val (also valid, validation,
            dev) and test; null where only predict_path is read.
        val_path: File for validation.
        test_path: File for test.
        predict_path: File to predict; it needs no labels.
        columns: Names of the columns of a .tsv or .csv whose first line does not say them, such as [text,label]; null
            where it does.
    """

    suffixes = ROW_SUFFIXES

    def __init__(
        self,
        path: str | None = None,
        *,
        val_path: str | None = None,
        test_path: str | None = None,
        predict_path: str | None = None,
        columns: list[str] | None = None,
    ) -> None:
        """Reads nothing."""
        super().__init__(path, val_path, test_path, predict_path)
        if columns is not None and (not columns or len({*columns}) < len(columns)):
            raise UserError(f"source.columns ({columns}) must name every column once")
        self.columns = columns

    def read(self, path: Path, *, unlabeled: bool) -> list[Row]:
        """The rows of one file, with its own columns."""
        return list(read_table(path, self.columns, unlabeled=unlabeled))

    def holds_lists(self, split: SplitName) -> bool:
        """In .jsonl and .parquet."""
        path = self.file(split) or self.file("train")
        return path is not None and path.suffix in (".jsonl", ".parquet")

    def names_fields(self, split: SplitName) -> bool:
        """Unless ``columns`` stands for the first line."""
        return self.columns is None

    def write(self, rows: Sequence[dict[str, Any]], split: SplitName, directory: Path) -> list[Path]:
        """The same kind of file, with a header where the source's have one; lists and mappings stay, or become JSON."""
        like = self.file(split) or self.file("train")
        assert like is not None
        return [write_table(rows, directory / f"predictions{like.suffix}", header=self.columns is None)]


def write_table(rows: Sequence[dict[str, Any]], path: Path, *, header: bool = True) -> Path:
    """Writes a .jsonl, .parquet, .csv or .tsv file, as the suffix says; in the last two, lists and mappings are JSON.

    A .tsv cannot have tabs and ends of lines within a text: they become spaces.

    Args:
        rows: The fields of each.
        path: Where.
        header: Whether the first line of a .csv or .tsv names the columns.
    """
    if path.suffix == ".jsonl":
        return write_jsonl(rows, path)
    if path.suffix == ".parquet":
        return write_parquet(rows, path)
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = [[as_cell(row.get(name, "")) for name in names] for row in rows]
    lines = [names, *table] if header else table
    with path.open("w", encoding="utf-8", newline="") as file:
        if path.suffix == ".csv":
            csv.writer(file).writerows(lines)
        else:
            file.writelines("\t".join(map(_without_tabs, line)) + "\n" for line in lines)
    return path


def _without_tabs(cell: str) -> str:
    return re.sub(r"[\t\r\n]", " ", cell)


class HubRows(RowSource):
    """A dataset of the Hugging Face hub, or a local directory of one, read by ``datasets``.

    Columns of class labels are their names; a label of -1, as unlabeled test sets have it, is none. Pictures are read
    when they are needed.

    Args:
        path: Name on the hub, or a directory, which may be one of ``save_to_disk``.
        config_name: Configuration of the dataset, where it has several.
        train_split: Split to train on; may be a slice, such as ``train[:10%]``.
        val_split: Split to validate on; null for ``validation`` where there is one, else a part of the training rows.
        test_split: Split to test on; null for ``test`` where there is one.
        predict_split: Split to predict; null for that of test, or of validation.
    """

    def __init__(
        self,
        path: str,
        *,
        config_name: str | None = None,
        train_split: str = "train",
        val_split: str | None = None,
        test_split: str | None = None,
        predict_split: str | None = None,
    ) -> None:
        """Reads nothing."""
        splits = {"train": train_split, "val": val_split, "test": test_split, "predict": predict_split}
        self._hub = HubDataset(path, config_name=config_name, splits=splits)

    def prepare(self) -> None:
        """Downloads the dataset."""
        self._hub.prepare()

    def has(self, split: SplitName) -> bool:
        """Whether the dataset has it."""
        return self._hub.split_name(split) is not None

    def rows(self, split: SplitName) -> list[Row] | None:
        """The rows of a split."""
        name = self._hub.split_name(split)
        if name is None:
            return None
        dataset = self._hub.rows(name)
        columns = {name: _plain(dataset, name, kind) for name, kind in dataset.features.items()}
        rows = zip(*columns.values(), strict=True)
        path = self._hub.path
        return [Row(dict(zip(columns, row, strict=True)), f"{path}, {name}, row {i}") for i, row in enumerate(rows)]

    def write(self, rows: Sequence[dict[str, Any]], split: SplitName, directory: Path) -> list[Path]:
        """As .jsonl, which ``datasets`` reads."""
        return [write_jsonl(rows, directory / "predictions.jsonl")]


def _plain(dataset: Any, name: str, kind: Any) -> list[Any]:
    """A column with names for the numbers of classes, and functions that read a picture where there are pictures."""
    import datasets

    if isinstance(kind, datasets.Image):
        encoded = dataset.cast_column(name, datasets.Image(decode=False))[name]
        return [partial(encoded.__getitem__, i) for i in range(len(encoded))]

    def named(value: Any, kind: Any) -> Any:
        if isinstance(kind, datasets.ClassLabel):
            return None if value in (None, -1) else kind.int2str(value)
        if isinstance(kind, datasets.List | datasets.LargeList) and value is not None:
            return [named(item, kind.feature) for item in value]
        return value

    return [named(value, kind) for value in dataset[name]]
