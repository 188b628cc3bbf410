"""What the columns of a table become: numbers, standardised, and a 0 or 1 for each category.

N: rows, F: features, K: numbers of a column.
"""

import math
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lt_cli.data.rows import Row, field_of
from lt_cli.errors import UserError, did_you_mean, some_of

SHOWN = 8
"""Columns, features or categories that the first page and messages name."""
LARGEST = float(np.finfo(np.float32).max)


@dataclass
class Numbers:
    """A column of numbers, or of vectors of them.

    Attributes:
        column: Its name.
        size: Numbers of a vector; None where a row has a plain number.
        means: Of the training rows, one for each number.
        deviations: Standard deviations of the training rows; 0 where all of them are the same.
    """

    column: str
    size: int | None
    means: list[float]
    deviations: list[float]

    @property
    def names(self) -> list[str]:
        """What its features are called."""
        return [self.column] if self.size is None else [f"{self.column}[{i}]" for i in range(self.size)]

    def readable(self, features: Sequence[float]) -> str:
        """A row's features, the first of many."""
        more = " …" if len(features) > SHOWN else ""
        return f"{self.column} {' '.join(f'{value:.4g}' for value in features[:SHOWN])}{more}"


@dataclass
class Categories:
    """A column of a few texts.

    Attributes:
        column: Its name.
        values: The texts of the training rows, sorted.
    """

    column: str
    values: list[str]

    @property
    def names(self) -> list[str]:
        """What its features are called."""
        return [f"{self.column}={value}" for value in self.values]

    def readable(self, features: Sequence[float]) -> str:
        """A row's text."""
        return f"{self.column} {self.values[int(np.argmax(features))]}"


class TableColumns:
    """Learns from training rows what each column is, and makes features of rows.

    A column is of numbers if at least half of the training rows have a number there, or text that reads as one; true
    and false are 1 and 0. It is of vectors if as many have a list of numbers, and otherwise of texts.

    Args:
        label_column: Column that is to be predicted, and so no feature.
        feature_columns: Columns that are features; None for all that training rows have.
        ignore_columns: Of all columns, those that are no features; None for none.
        standardize: Whether the mean of the training rows is subtracted from numbers, and the rest divided by their
            standard deviation; numbers that are the same in all of them are then 0 in every row.
        max_categories: Different texts of a column, at most.

    Attributes:
        columns: What was learned of each, in the order of the features.
        left_out: Columns of the training rows that are neither features nor the label.

    Raises:
        UserError: If options disagree with one another.
    """

    def __init__(
        self,
        *,
        label_column: str,
        feature_columns: list[str] | None = None,
        ignore_columns: list[str] | None = None,
        standardize: bool = True,
        max_categories: int = 50,
    ) -> None:
        """Knows nothing yet."""
        if max_categories < 1:
            raise UserError(f"max_categories ({max_categories}) must be at least 1")
        for option, named in (("feature_columns", feature_columns), ("ignore_columns", ignore_columns)):
            if named is not None and (not named or len({*named}) < len(named)):
                raise UserError(f"{option} ({named}) must name a column, and none twice, or be null")
            if label_column in (named or []):
                raise UserError(f"{option} ({named}) must not name label_column ({label_column}), which is predicted")
        if feature_columns is not None and ignore_columns is not None:
            raise UserError(
                f"ignore_columns ({ignore_columns}) has no use beside feature_columns, which are all that is read: "
                "set --data.ignore_columns=null"
            )
        self.label_column, self.feature_columns, self.ignore_columns = label_column, feature_columns, ignore_columns
        self.standardize, self.max_categories = standardize, max_categories
        self.columns: list[Numbers | Categories] = []
        self.left_out: list[str] = []

    @property
    def names(self) -> list[str]:
        """What the features are called."""
        return [name for column in self.columns for name in column.names]

    @property
    def constant(self) -> list[str]:
        """Features that are the same in every training row."""
        found = []
        for column in self.columns:
            if isinstance(column, Categories):
                found += column.names if len(column.values) == 1 else []
            else:
                found += [name for name, size in zip(column.names, column.deviations, strict=True) if not size]
        return found

    def learn(self, rows: Sequence[Row]) -> None:
        """Takes over which columns training rows have, and what is in them."""
        known = list(dict.fromkeys(name for row in rows for name in row.fields))
        for option, named in (("feature_columns", self.feature_columns), ("ignore_columns", self.ignore_columns)):
            for name in named or []:
                if name not in known and name.partition(".")[0] not in known:
                    there = some_of(known) + did_you_mean(name, known)
                    raise UserError(f"{option} names {name!r}, and the training rows have {there}")
        features = self.feature_columns
        if features is None:
            others = {self.label_column, *(self.ignore_columns or [])}
            features = [name for name in known if name not in others]
        if not features:
            raise UserError(
                f"the training rows have nothing to learn from beside {self.label_column}"
                + (f" and ignore_columns ({self.ignore_columns})" if self.ignore_columns else "")
                + f", only {some_of(known)}: name the right column with --data.label_column"
            )
        used = (name.split(".") for name in (*features, self.label_column))
        whole = {".".join(parts[:i]) for parts in used for i in range(1, len(parts) + 1)}
        self.left_out = [name for name in known if name not in whole]
        self.columns = [self._learn(rows, name) for name in features]

    def _learn(self, rows: Sequence[Row], name: str) -> Numbers | Categories:
        values = _values(rows, name)
        if (numbers := _all_numbers(values)) is not None:
            return _measured(name, None, numbers[:, None])
        for row, value in zip(rows, values, strict=True):
            if _is_missing(value):
                raise self._misfit(row, name, value, "")
        if 2 * sum(_number(value) is not None for value in values) >= len(rows):
            return _measured(name, None, self._numbers(rows, name, None))
        vectors = [value for value in values if _is_vector(value)]
        if 2 * len(vectors) >= len(rows):
            size = len(vectors[0])
            return _measured(name, size, self._numbers(rows, name, size))
        texts = sorted({*self._texts(rows, name, "a number, text or a list of numbers")})
        if len(texts) > self.max_categories:
            raise UserError(
                f"{name} has {len(texts):,} different texts in the training rows, such as {texts[0]!r:.40}, more than "
                f"max_categories ({self.max_categories}): leave the column out {self._without(name)}, or set "
                f"--data.max_categories={len(texts)}"
            )
        return Categories(name, texts)

    def encode(self, rows: Sequence[Row]) -> NDArray[np.float32]:
        """The features of rows.

        Shape:
            - output: (N, F)

        Raises:
            UserError: If a row has not what the training rows have in a column.
        """
        encoded = np.empty((len(rows), len(self.names)), np.float32)
        first = 0
        for column in self.columns:
            block = self._encode(rows, column)
            encoded[:, first : first + block.shape[1]] = block
            first += block.shape[1]
        return encoded

    def _encode(self, rows: Sequence[Row], column: Numbers | Categories) -> NDArray[Any]:
        if isinstance(column, Categories):
            return self._one_hot(rows, column)
        numbers = self._numbers(rows, column.column, column.size)
        if self.standardize:
            deviations = np.array(column.deviations)
            numbers -= column.means
            numbers /= np.where(deviations > 0, deviations, np.inf)
        return numbers

    def _one_hot(self, rows: Sequence[Row], column: Categories) -> NDArray[np.bool_]:
        numbers = {value: number for number, value in enumerate(column.values)}
        texts = self._texts(rows, column.column)
        for row, text in zip(rows, texts, strict=True):
            if text not in numbers:
                raise UserError(
                    f"{row.place}: {column.column} {text!r:.80} is not among the texts of the training rows, "
                    f"{some_of(column.values)}{did_you_mean(text, column.values)}: mend it, train with rows of it "
                    "(where chance holds rows out, use another --data.split_seed), or leave the column out "
                    f"{self._without(column.column)}"
                )
        chosen = np.array([numbers[text] for text in texts], np.int64)
        return np.equal(chosen[:, None], np.arange(len(numbers)))

    def _texts(self, rows: Sequence[Row], name: str, wanted: str = "text, as in the training rows") -> list[str]:
        values = _values(rows, name)
        for row, value in zip(rows, values, strict=True):
            if not isinstance(value, str) or _is_missing(value):
                raise self._misfit(row, name, value, wanted)
        return values

    def _numbers(self, rows: Sequence[Row], name: str, size: int | None) -> NDArray[np.float64]:
        """The numbers of a column, (N, K)."""
        values = _values(rows, name)
        if size is None and (found := _all_numbers(values)) is not None:
            return found[:, None]
        numbers = np.empty((len(rows), 1 if size is None else size))
        for place, row, value in zip(numbers, rows, values, strict=True):
            if size is None:
                place[0] = self._finite(row, name, value)
                continue
            if not (_is_vector(value) and 0 < len(value) == size):
                raise self._misfit(row, name, value, f"a list of {size or 'some'} numbers, as in most training rows")
            if isinstance(value, np.ndarray) and value.dtype.kind in "biuf" and (np.abs(value) <= LARGEST).all():
                place[:] = value
            else:
                place[:] = [self._finite(row, name, item, f"[{i}]") for i, item in enumerate(value)]
        return numbers

    def _finite(self, row: Row, name: str, value: Any, entry: str = "") -> float:
        number = _number(value)
        if number is None:
            raise self._misfit(row, name, value, "a number, as in most training rows", entry)
        if not abs(number) <= LARGEST:
            raise self._misfit(row, name, value, f"at most {LARGEST:.1e} in size", entry)
        return number

    def _misfit(self, row: Row, name: str, value: Any, wanted: str, entry: str = "") -> UserError:
        rule = (
            f"has no value ({value!r}): fill" if _is_missing(value) else f"must be {wanted}, not {shown(value)}: mend"
        )
        return UserError(
            f"{row.place}: {name}{entry} {rule} it, leave the row out, or leave the column out {self._without(name)}"
        )

    def _without(self, name: str) -> str:
        """How a column is left out."""
        if self.feature_columns is not None:
            return f"of --data.feature_columns ({some_of(self.feature_columns)})"
        return f"with --data.ignore_columns+={shlex.quote(name)}"

    def readable(self, features: Sequence[float]) -> list[str]:
        """A row's features, a column at a time; those of the first columns."""
        found, first = [], 0
        for column in self.columns[:SHOWN]:
            last = first + len(column.names)
            found.append(column.readable(features[first:last]))
            first = last
        return found

    def describe(self) -> list[str]:
        """Lines for the first page: features, what is left out, and what says nothing."""
        lines = [f"features: {len(self.names):,} of {len(self.columns):,} columns: {some_of(self.names)}"]
        if self.left_out:
            lines.append(f"columns left out: {some_of(self.left_out)}")
        if self.constant:
            lines.append(f"the same in every training row: {some_of(self.constant)}")
        return lines

    def state_dict(self) -> dict[str, Any]:
        """What was learned, in plain types."""
        columns = [asdict(column) for column in self.columns]
        return {"columns": columns, "left_out": list(self.left_out), "standardize": self.standardize}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what ``state_dict`` gave.

        Raises:
            UserError: If an option says other than what the model was trained with.
        """
        columns = [Categories(**part) if "values" in part else Numbers(**part) for part in state["columns"]]
        names = [column.column for column in columns]
        options = [
            ("standardize", self.standardize, self.standardize == state["standardize"]),
            ("feature_columns", self.feature_columns, self.feature_columns in (None, names)),
            ("ignore_columns", self.ignore_columns, not {*names} & {*(self.ignore_columns or [])}),
        ]
        for option, value, agrees in options:
            if not agrees:
                raise UserError(
                    f"data.{option} ({value}) is another than the model was trained with, on {some_of(names)}: "
                    "leave it out, or train anew"
                )
        self.columns, self.left_out = columns, list(state["left_out"])


def _measured(name: str, size: int | None, numbers: NDArray[np.float64]) -> Numbers:
    """Mean and deviation of a column."""
    means, deviations = numbers.mean(0), numbers.std(0)
    same = numbers.max(0) == numbers.min(0)  # of which rounding may leave a deviation
    return Numbers(name, size, np.where(same, numbers[0], means).tolist(), np.where(same, 0, deviations).tolist())


def _values(rows: Sequence[Row], name: str) -> list[Any]:
    """What rows have in a column."""
    try:
        return [row.fields[name] for row in rows]
    except KeyError:  # of one that is missing, or within another
        return [field_of(row, name) for row in rows]


def _all_numbers(values: Sequence[Any]) -> NDArray[np.float64] | None:
    """Plain numbers, or texts that read as such, in a third of the time; None where there are others."""
    kinds = {type(value) for value in values}
    if not (kinds <= {bool, int, float} or (kinds == {str} and "_" not in "".join(values))):
        return None
    try:
        numbers = np.array([*map(float, values)])
    except (ValueError, OverflowError):
        return None
    return numbers if (np.abs(numbers) <= LARGEST).all() else None


def _number(value: Any) -> float | None:
    """A number, or text that reads as one; None where it is none."""
    if isinstance(value, np.generic):
        value = value.item()
    if not (isinstance(value, int | float) or (isinstance(value, str) and "_" not in value)):  # Python reads 1_000
        return None
    try:
        return float(value)
    except ValueError:
        return None
    except OverflowError:
        return math.inf


def _is_vector(value: Any) -> bool:
    return isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim == 1)


def _is_missing(value: Any) -> bool:
    """Nothing, blank text, or what stands for no number."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return True
    number = _number(value)
    return number is not None and math.isnan(number)


def shown(value: Any) -> str:
    """A value as messages have it, in one line."""
    if _is_vector(value):
        return f"a list of {len(value)}"
    return f"an array of shape {value.shape}" if isinstance(value, np.ndarray) else f"{value!r:.80}"
