"""What the label of a row may be: one class, several, or a score; learned from the training rows."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from lt_cli.data.rows import Row, field_of
from lt_cli.errors import UserError, did_you_mean, some_of

Label = str | int


class Labels(ABC):
    """How a column of labels becomes numbers, and predictions become labels."""

    @abstractmethod
    def learn(self, rows: Sequence[Row], column: str) -> None:
        """Takes over what training rows have."""

    @abstractmethod
    def encode(self, rows: Sequence[Row], column: str) -> NDArray[Any]:
        """The targets of rows, one each."""

    @abstractmethod
    def describe(self, targets: NDArray[Any]) -> str:
        """How targets are distributed."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """What was learned, in plain types."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what ``state_dict`` gave."""

    def restore(self, state: dict[str, Any]) -> None:
        """Takes over what a checkpoint has, which must be of the same kind."""
        if state.keys() != self.state_dict().keys():
            raise UserError(
                f"data.labels ({type(self).__name__}) is of another kind than the checkpoint's: leave it out"
            )
        self.load_state_dict(state)

    def cells(self, values: Sequence[Any]) -> list[Any]:
        """Predicted labels as files have them that hold no lists."""
        return list(values)


class Classes(Labels):
    """Labels out of a set of classes: exactly those of the training rows, sorted.

    Attributes:
        values: The classes as the files have them: text or whole numbers.
        counts: Training rows of each class.
    """

    def __init__(self) -> None:
        """Knows nothing yet."""
        self._take([], {})

    def _take(self, values: Sequence[Label], counts: Mapping[Label, int]) -> None:
        self.values = list(values)
        self.counts = [counts[value] for value in values]
        self._numbers = {value: number for number, value in enumerate(values)}

    @property
    def names(self) -> list[str]:
        """The classes as text, in the order of their numbers."""
        return [str(value) for value in self.values]

    @abstractmethod
    def of(self, row: Row, column: str) -> list[Label]:
        """The classes of one row."""

    def learn(self, rows: Sequence[Row], column: str) -> None:
        """Takes over the classes of training rows, and how many each has."""
        counts = Counter(label for row in rows for label in self.of(row, column))
        if twice := [label for label in counts if isinstance(label, int) and str(label) in counts]:
            raise UserError(f"{column} has {twice[0]} as text and as a number: write it in one way")
        self._take(sorted(counts, key=lambda label: (isinstance(label, str), label)), counts)
        if len(self.values) < 2:
            raise UserError(
                f"{column} must have two classes at least, and the training rows have {self.names}: "
                "name the right column with --data.label_column"
            )

    def number(self, label: Label, place: str, column: str) -> int:
        """The number of a class that stands at a place."""
        if label not in self._numbers and str(label) in self.names:
            kind, other = ("text", "a whole number") if isinstance(label, str) else ("a whole number", "text")
            raise UserError(
                f"{place}: {column} {label!r} is {kind}, and {other} in the training rows: write both in one way, as a "
                ".csv has text only and other files may have numbers"
            )
        if label not in self._numbers:
            raise UserError(
                f"{place}: {column} {label!r} is not among the classes of the training rows, "
                f"{some_of(self.names)}{did_you_mean(str(label), self.names)}: "
                "mend it, train with rows of it, or, where chance holds rows out, use another --data.split_seed"
            )
        return self._numbers[label]

    def numbers(self, row: Row, column: str) -> list[int]:
        """The numbers of a row's classes."""
        return [self.number(label, row.place, column) for label in self.of(row, column)]

    def label(self, value: Any, row: Row, column: str) -> Label:
        """One class of a row, checked."""
        if isinstance(value, str) and value.strip():
            return value
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        if value is None or isinstance(value, str):
            raise UserError(f"{row.place} has no {column}: give it one, or leave the row out")
        raise UserError(
            f"{row.place}: {column} must be text or a whole number, not {value!r:.80}: for scores say "
            "--data.labels=lt_cli.data.labels.Score, for lists of classes lt_cli.data.labels.SeveralLabels"
        )

    def state_dict(self) -> dict[str, Any]:
        """Classes and counts."""
        return {"values": self.values, "counts": self.counts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what ``state_dict`` gave."""
        self._take(state["values"], dict(zip(state["values"], state["counts"], strict=True)))


class OneLabel(Classes):
    """One of several classes."""

    def of(self, row: Row, column: str) -> list[Label]:
        """The row's class."""
        return [self.label(field_of(row, column), row, column)]

    def encode(self, rows: Sequence[Row], column: str) -> NDArray[np.int64]:
        """The class of each row, (N,)."""
        return np.array([self.numbers(row, column)[0] for row in rows], np.int64)

    def describe(self, targets: NDArray[np.int64]) -> str:
        """The share of each class."""
        counts = np.bincount(targets, minlength=len(self.values))
        return shares(self.names, counts, len(targets))


class SeveralLabels(Classes):
    """Any number of classes, none included: a list of them, or in arrays a 1 for each class that a row has, else 0.

    Args:
        separator: What stands between the classes in .tsv and .csv; .jsonl has lists.
    """

    def __init__(self, separator: str = ",") -> None:
        """Knows nothing yet."""
        super().__init__()
        if not separator:
            raise UserError("labels.separator ('') must not be empty")
        self.separator = separator

    def of(self, row: Row, column: str) -> list[Label]:
        """The row's classes."""
        value = field_of(row, column)
        if isinstance(value, np.ndarray) and value.ndim == 1 and np.isin(value, (0, 1)).all():
            return [*np.flatnonzero(value).tolist()]  # the places of classes
        if isinstance(value, str):
            value = [part.strip() for part in value.split(self.separator)] if value.strip() else []
        if not isinstance(value, list):
            raise UserError(
                f"{row.place}: {column} must be a list, or text with {self.separator!r} between classes, "
                f"not {value!r:.80}"
            )
        labels = [self.label(item, row, column) for item in value]
        if len({*labels}) < len(labels):
            raise UserError(f"{row.place}: {column} {value!r:.80} must not name a class twice")
        return labels

    def encode(self, rows: Sequence[Row], column: str) -> NDArray[np.float32]:
        """1 for each class of a row, otherwise 0, (N, C)."""
        targets = np.zeros((len(rows), len(self.values)), np.float32)
        for target, row in zip(targets, rows, strict=True):
            target[self.numbers(row, column)] = 1
        return targets

    def cells(self, values: Sequence[Any]) -> list[Any]:
        """The classes of each row as one text."""
        return [self.separator.join(map(str, labels)) for labels in values]

    def describe(self, targets: NDArray[np.float32]) -> str:
        """The share of rows that have each class, and of those with none."""
        names, counts = [*self.names, "none"], [*targets.sum(0), (targets.sum(1) == 0).sum()]
        return shares(names, np.array(counts, np.int64), len(targets))


class Score(Labels):
    """A number, such as how alike two texts are, or what a flat costs.

    Attributes:
        mean: Of the training rows.
        deviation: Standard deviation of the training rows, by which the model's output is scaled.
    """

    def __init__(self) -> None:
        """Knows nothing yet."""
        self.mean, self.deviation = 0.0, 1.0

    def learn(self, rows: Sequence[Row], column: str) -> None:
        """Takes over mean and deviation."""
        targets = self.encode(rows, column).astype(np.float64)
        self.mean, self.deviation = float(targets.mean()), float(targets.std())
        if not self.deviation:
            raise UserError(f"{column} is {self.mean} in every training row: there is nothing to learn")

    def encode(self, rows: Sequence[Row], column: str) -> NDArray[np.float32]:
        """The number of each row, (N,)."""
        return np.array([self._number(row, column) for row in rows], np.float32)

    def _number(self, row: Row, column: str) -> float:
        value = field_of(row, column)
        try:
            number = float(value) if not isinstance(value, bool) else float("nan")
        except (TypeError, ValueError):
            number = float("nan")
        if not np.isfinite(number):
            raise UserError(f"{row.place}: {column} must be a number, not {value!r:.80}")
        return number

    def describe(self, targets: NDArray[np.float32]) -> str:
        """Range and mean."""
        return f"scores from {targets.min():g} to {targets.max():g} (mean {targets.mean():.4g})"

    def state_dict(self) -> dict[str, Any]:
        """Mean and deviation."""
        return {"mean": self.mean, "deviation": self.deviation}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what ``state_dict`` gave."""
        self.mean, self.deviation = state["mean"], state["deviation"]


def shares(names: Sequence[str], counts: NDArray[np.int64], total: int) -> str:
    """Counts and percentages of the most frequent classes."""
    order = np.argsort(-counts, kind="stable")
    return some_of([f"{names[i]} {counts[i]:,} ({100 * counts[i] / max(1, total):.1f} %)" for i in order])


@runtime_checkable
class LabeledData(Protocol):
    """What a task over labels asks of its data.

    Attributes:
        labels: What the training rows' labels are.
    """

    labels: Labels
