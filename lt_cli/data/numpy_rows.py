"""Rows of numpy's own files: arrays side by side, one of labels among them."""

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lt_cli.data.base import SplitName
from lt_cli.data.row_sources import FileRows
from lt_cli.data.rows import Row, as_cell
from lt_cli.errors import UserError, one_line

PLAIN = "biufU"
"""Kinds of arrays that are numbers or text: numpy's letters for bool, int, uint, float and unicode."""


class NumpyFiles(FileRows):
    """Files of numpy, .npz, in which each array is a column: equally long along the first axis.

    A row has a plain number or text of a one-dimensional array, and an array, such as a picture, of any other.
    Predictions are written to predictions.npz, so that it can be read again: lists as text, in JSON; the probabilities
    of classes as one structured array, in which ``file["probabilities"]["cat"]`` are those of the class cat.

    Args:
        path: A file, of which parts are held out, or a folder with files called train, val (also valid, validation,
            dev) and test; null where only predict_path is read.
        val_path: File for validation.
        test_path: File for test.
        predict_path: File to predict; it needs no labels.
    """

    suffixes = (".npz",)

    def __init__(
        self,
        path: str | None = None,
        *,
        val_path: str | None = None,
        test_path: str | None = None,
        predict_path: str | None = None,
    ) -> None:
        """Reads nothing."""
        super().__init__(path, val_path, test_path, predict_path)

    def read(self, path: Path, *, unlabeled: bool) -> list[Row]:
        """The rows of one file; those counted from 0, as numpy does."""
        arrays = _arrays(path)
        if flat := [name for name, array in arrays.items() if not array.ndim]:
            raise UserError(f"{path}: {flat[0]} is a single value, and must have one for each row: leave it out")
        sizes = {name: len(array) for name, array in arrays.items()}
        if len({*sizes.values()}) > 1:
            said = ", ".join(f"{name} {size:,}" for name, size in sizes.items())
            raise UserError(f"{path} has arrays of different lengths, {said}: each must have one entry for each row")
        columns = {name: _values(array, f"{path}: {name}") for name, array in arrays.items()}
        rows = zip(*columns.values(), strict=True)
        return [Row(dict(zip(columns, row, strict=True)), f"{path}, row {i}") for i, row in enumerate(rows)]

    def holds_lists(self, split: SplitName) -> bool:
        """An array's rows are as long as one another."""
        return False

    def write(self, rows: Sequence[dict[str, Any]], split: SplitName, directory: Path) -> list[Path]:
        """As predictions.npz."""
        path = directory / "predictions.npz"
        names = dict.fromkeys(name for row in rows for name in row)
        with zipfile.ZipFile(path, "w") as archive:  # np.savez has names of its own, which no column could have
            for name in names:
                with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                    np.lib.format.write_array(file, _array([row.get(name) for row in rows]), allow_pickle=False)
        return [path]


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    """What is in a file, but for what only running code could read."""
    try:
        with path.open("rb") as stream:
            if not zipfile.is_zipfile(stream):
                raise UserError(f"{path} is no .npz, which np.savez writes: write it with that")
            stream.seek(0)
            with np.load(stream, allow_pickle=False) as file:
                return {name: _one(file, name, path) for name in file.files}
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read: {getattr(error, 'strerror', None) or one_line(error)}") from error


def _one(file: Any, name: str, path: Path) -> NDArray[Any]:
    try:
        array = file[name]
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        if "pickle" in str(error):
            raise UserError(
                f"{path}: {name} is an array of Python's objects, which only running code could read: "
                "save numbers, or text with astype(str)"
            ) from error
        raise UserError(f"{path}: {name} cannot be read: {one_line(error)}") from error
    if not isinstance(array, np.ndarray):
        raise UserError(f"{path}: {name} is no array: leave it out")
    return array


def _values(array: NDArray[Any], place: str) -> Sequence[Any]:
    """One value for each row."""
    names = array.dtype.names
    if names is not None and array.ndim == 1 and all(array.dtype[name].kind in PLAIN for name in names):
        return [dict(zip(names, row, strict=True)) for row in array.tolist()]
    if array.dtype.kind == "S":
        try:
            array = np.strings.decode(array, "utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{place} has bytes that are not UTF-8 ({error.reason}): save it as text") from error
    if array.dtype.kind in "Mm":
        array = array.astype(str)
    if array.dtype.kind not in PLAIN:
        raise UserError(f"{place} is of type {array.dtype}, which is neither numbers nor text: convert it")
    return array.tolist() if array.ndim == 1 else list(array)


def _array(values: list[Any]) -> NDArray[Any]:
    """A column as an array: of numbers, of text, or of mappings of the same names to numbers; text of anything else."""
    kinds = {type(value) for value in values}
    if kinds == {np.ndarray} and len({(value.shape, value.dtype) for value in values}) == 1:
        return np.stack(values)
    if kinds == {dict} and values[0] and len({tuple(value) for value in values}) == 1:
        columns = {name: _array([value[name] for value in values]) for name in values[0]}
        if all(column.dtype.kind in PLAIN and column.ndim == 1 for column in columns.values()):
            named = np.empty(len(values), [(name, column.dtype) for name, column in columns.items()])
            for name, column in columns.items():
                named[name] = column
            return named
    if kinds <= {int, float} or kinds == {bool}:
        array = np.array(values)
        if array.dtype.kind in PLAIN:  # which a number beyond 64 bits is not
            return array
    return np.array([as_cell(value.tolist() if isinstance(value, np.ndarray) else value) for value in values], str)
