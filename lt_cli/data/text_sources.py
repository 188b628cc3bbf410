"""Where documents come from: files, datasets of Hugging Face, and the documentation that Python brings along."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.utilities import rank_zero_info

from lt_cli.data.held_out import SPLIT_NAMES
from lt_cli.data.hub_datasets import HubDataset
from lt_cli.data.rows import ROW_SUFFIXES, read_rows, read_text
from lt_cli.errors import UserError

TextSplit = Literal["train", "val", "test"]
SUFFIXES = (".txt", ".md", *ROW_SUFFIXES)


class TextSource(ABC):
    """Documents of each split.

    Attributes:
        streamed: Whether they are too many to be read whole.
    """

    streamed = False

    def prepare(self) -> None:  # noqa: B027  # most sources have nothing to download
        """Downloads what is missing, on one process."""

    @abstractmethod
    def documents(self, split: TextSplit) -> Iterable[str] | None:
        """The texts of a split, or None where it has no such split; ``train`` is always there."""

    def documents_from(self, number: int) -> Iterator[str]:
        """The training documents from one on, counted from 0."""
        return islice(self.documents("train") or (), number, None)

    def fingerprint(self, split: TextSplit) -> str | None:
        """Changes whenever the documents do; None where that cannot be known, and nothing is kept of them."""
        return None


class PythonTopics(TextSource):
    """The language reference that Python's ``help`` shows, half a million characters: no download."""

    def documents(self, split: TextSplit) -> list[str] | None:
        """One document for each topic."""
        from pydoc_data.topics import topics

        return [topics[name] for name in sorted(topics)] if split == "train" else None


class TextFiles(TextSource):
    """One's own text: .txt and .md files, .jsonl, .csv, .tsv and .parquet with a column of text, or folders of them.

    A folder with files or folders called train, val (also valid, validation, dev) and test has these splits; of any
    other, all files are for training. Hidden files do not count; other kinds of files are said.

    Args:
        path: File, folder, or several of them.
        val_path: The same, for validation.
        test_path: The same, for test.
        column: Column of the text in .jsonl, .csv, .tsv and .parquet.
        separator: What ends a document within a .txt or .md file and is no part of it, such as a line's end
            for a document on each line; null for one document per file.
    """

    def __init__(
        self,
        path: str | list[str],
        *,
        val_path: str | list[str] | None = None,
        test_path: str | list[str] | None = None,
        column: str = "text",
        separator: str | None = None,
    ) -> None:
        """Reads nothing."""
        if separator == "":
            raise UserError("separator ('') must not be empty: give null for one document per file")
        if separator is not None and not separator.replace(r"\n", ""):
            raise UserError(
                f"separator ({separator}) is a backslash and an n, no line's end: write $'{separator}' in a shell"
            )
        self.column, self.separator = column, separator
        self.paths: dict[TextSplit, list[Path]] = {"train": _paths(path)}
        for name, given in (("val", val_path), ("test", test_path)):
            if given is not None:
                self.paths[name] = _paths(given)  # type: ignore[index]
        self._found: dict[TextSplit, list[Path] | None] = {}

    def documents(self, split: TextSplit) -> Iterator[str] | None:
        """The documents of all files, in sorted order."""
        files = self._files(split)
        return None if files is None else self._read(files)

    def _read(self, files: list[Path]) -> Iterator[str]:
        for file in files:
            if file.suffix in ROW_SUFFIXES:
                yield from (row.fields[self.column] for row in read_rows(file, self.column))
            elif self.separator is None:
                yield read_text(file)
            else:
                text = read_text(file)
                if "\r" not in self.separator:
                    text = text.replace("\r\n", "\n")  # or a line's end would leave half of Windows' behind
                text = text if text.endswith(self.separator) else text.removesuffix("\n")
                yield from text.removesuffix(self.separator).split(self.separator)

    def fingerprint(self, split: TextSplit) -> str | None:
        """Name, size and time of each file."""
        stats = [
            (str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in self._files(split) or []
        ]
        return hashlib.sha256(json.dumps([stats, self.column, self.separator]).encode()).hexdigest()

    def _files(self, split: TextSplit) -> list[Path] | None:
        """Those of a split, looked for once."""
        if split not in self._found:
            self._found[split] = self._look_for(split)
        return self._found[split]

    def _look_for(self, split: TextSplit) -> list[Path] | None:
        if split in self.paths and split != "train":
            return _all_files(self.paths[split], f"{split}_path")
        found: list[Path] = []
        for path in self.paths["train"]:
            parts = _parts(path, say=split == "train") or {"train": [path]}
            if "train" not in parts:
                there = ", ".join(part.name for paths in parts.values() for part in paths)
                raise UserError(
                    f"{path} has {there}, but nothing called train: add it, or name what there is with "
                    "--data.source.path, .val_path and .test_path"
                )
            found += parts.get(split, [])
        files = _all_files(found, "path") if found else None
        return self._without_held_out(files) if files and split == "train" else files

    def _without_held_out(self, files: list[Path]) -> list[Path]:
        """Training files, but for those that are also named for validation or test."""
        held_out = {file.resolve() for split in ("val", "test") for file in self._files(split) or []}
        kept = [file for file in files if file.resolve() not in held_out]
        if not kept:
            raise UserError(f"source.path ({files[0]}) has nothing to train on besides validation and test text")
        if len(kept) < len(files):
            rank_zero_info(f"{len(files) - len(kept):,} files of validation or test text are not trained on")
        return kept


def _paths(given: str | list[str]) -> list[Path]:
    paths = [Path(path).expanduser() for path in ([given] if isinstance(given, str) else given)]
    if not paths:
        raise UserError("path ([]) must name at least one file or folder")
    return paths


def _parts(folder: Path, *, say: bool) -> dict[TextSplit, list[Path]]:
    """What is called like a split within a folder, if anything is; what else there is may be said."""
    found: dict[TextSplit, list[Path]] = {}
    if not folder.is_dir():
        return found
    for split, names in SPLIT_NAMES.items():
        paths = [path for path in sorted(folder.iterdir()) if (path.stem if path.is_file() else path.name) in names]
        if paths := [path for path in paths if path.is_dir() or path.suffix in SUFFIXES]:
            found[split] = paths
    used = {path for paths in found.values() for path in paths}
    visible = [path for path in sorted(folder.iterdir()) if path not in used and not path.name.startswith(".")]
    others = [path.name for path in visible if path.is_dir() or path.suffix in SUFFIXES]
    if say and used and others:
        rank_zero_info(f"beside the splits in {folder}, {len(others):,} more are left out, such as {others[0]}")
    return found


def _all_files(paths: list[Path], option: str) -> list[Path]:
    """The files, and those within the folders; what is no text is said."""
    files: list[Path] = []
    others: list[Path] = []
    for path in paths:
        if path.is_dir():
            within = sorted(found for found in path.rglob("*") if found.is_file())
            seen = [found for found in within if not any(p.startswith(".") for p in found.relative_to(path).parts)]
            files += [found for found in seen if found.suffix in SUFFIXES]
            others += [found for found in seen if found.suffix not in SUFFIXES]
        elif not path.exists():
            raise UserError(f"source.{option} ({path}) must be a file or a folder, and there is none: correct the path")
        else:
            files.append(path)  # a file that was named is text, whatever it is called
    if not files:
        where = ", ".join(map(str, paths))
        raise UserError(f"source.{option} ({where}) must have a file of text ({' '.join(SUFFIXES)}): name one")
    unique = {file.resolve(): file for file in files}
    if len(unique) < len(files):
        rank_zero_info(f"{len(files) - len(unique):,} files that are named twice are read once")
    if others:
        rank_zero_info(f"{len(others):,} files that are not {' '.join(SUFFIXES)} are left out, such as {others[0]}")
    return list(unique.values())


class HuggingFaceText(TextSource):
    """A dataset of the Hugging Face hub, or a local directory of one, read by ``datasets``.

    Args:
        path: Name on the hub, or a directory, which may be one of ``save_to_disk``; a dataset without splits is
            ``train``.
        config_name: Configuration of the dataset, where it has several.
        column: Column of the text.
        train_split: Split to train on; may be a slice, such as ``train[:10%]``.
        val_split: Split to validate on; null for ``validation`` where there is one, else a part of the training text.
        test_split: Split to test on; null for ``test`` where there is one.
        streaming: Whether documents are read over the network as they are needed, and never stored; training then
            needs ``data.tokens_per_epoch``.
    """

    def __init__(
        self,
        path: str,
        *,
        config_name: str | None = None,
        column: str = "text",
        train_split: str = "train",
        val_split: str | None = None,
        test_split: str | None = None,
        streaming: bool = False,
    ) -> None:
        """Reads nothing."""
        splits: dict[str, str | None] = {"train": train_split, "val": val_split, "test": test_split}
        self._hub = HubDataset(path, config_name=config_name, splits=splits, streaming=streaming)
        self.column, self.streamed = column, streaming

    def prepare(self) -> None:
        """Downloads the dataset, unless it is streamed."""
        self.documents("train")

    def documents_from(self, number: int) -> Iterator[str]:
        """The training documents from one on; what lies before is skipped where it is, if it can be."""
        name = self._hub.split_name("train")
        assert name is not None
        dataset = self._dataset(name)
        if not self.streamed and number >= len(dataset):  # which skip refuses
            return iter(())
        return self._texts(dataset.skip(number), name, number)

    def documents(self, split: TextSplit) -> Iterator[str] | None:
        """The column's texts."""
        name = self._hub.split_name(split)
        return None if name is None else self._texts(self._dataset(name), name)

    def _texts(self, dataset: Any, name: str, first: int = 0) -> Iterator[str]:
        for number, row in enumerate(dataset.select_columns(self.column), first):
            text = row[self.column]
            if not isinstance(text, str):
                raise UserError(f"{self._hub.path}, {name}, row {number}: {self.column} must be text, not {text!r:.80}")
            yield text

    def fingerprint(self, split: TextSplit) -> str | None:
        """That of ``datasets``; a stream has none."""
        name = self._hub.split_name(split)
        return None if name is None or self.streamed else f"{self._dataset(name)._fingerprint} {self.column}"

    def _dataset(self, name: str) -> Any:
        """A split that has the column."""
        found = self._hub.rows(name)
        columns = found.column_names or list(next(iter(found), {}))  # a stream may not know them
        if self.column not in columns:
            raise UserError(f"column ({self.column}) must be a column of {self._hub.path}: {', '.join(columns)}")
        return found
