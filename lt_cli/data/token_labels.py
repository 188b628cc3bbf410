"""What the words of a sentence are: tags, or spans that are written as one label per word."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from lt_cli.data.labels import Classes, Label, shares
from lt_cli.data.rows import Row, field_of
from lt_cli.errors import UserError
from lt_cli.spans import Scheme, from_bio, scheme_of, to_bio


class TokenLabels(Classes):
    """One of several classes for each word; spans are BIO in here, whatever scheme they are read and written in.

    Args:
        scheme: How labels spell spans; None where the training labels tell.

    Attributes:
        scheme: The same, once it is known; None where labels are no spans.
    """

    def __init__(self, scheme: Scheme | None = None) -> None:
        """Knows no classes yet."""
        super().__init__()
        self.scheme = self._given = scheme

    @property
    def types(self) -> list[str]:
        """The spans' types, sorted; none where labels are no spans."""
        return sorted({name[2:] for name in self.names if name != "O"}) if self.scheme is not None else []

    def learn(self, rows: Sequence[Row], column: str) -> None:
        """Takes over the scheme and the classes of training rows, and how many words each class has."""
        if self._given is None:
            self.scheme = scheme_of([str(label) for label in self.written(row, column)] for row in rows)
        super().learn(rows, column)

    def written(self, row: Row, column: str) -> list[Label]:
        """A row's labels as they are written, from a list, or from text with a space between labels."""
        value = field_of(row, column)
        if value is None or value == "":
            raise UserError(f"{row.place} has no {column}: give it one for each word, or leave the row out")
        labels = [*value.split(" ")] if isinstance(value, str) else value
        if not isinstance(labels, list):
            raise UserError(
                f"{row.place}: {column} must be a list, or text with spaces between labels, not {value!r:.80}"
            )
        for i, label in enumerate(labels):
            if not isinstance(label, str | int) or isinstance(label, bool) or label == "":
                raise UserError(f"{row.place}, word {i + 1}: its label in {column} must be text, not {label!r:.80}")
        return labels

    def of(self, row: Row, column: str) -> list[Label]:
        """The classes of a row's words."""
        labels = self.written(row, column)
        if self.scheme is None:
            return labels
        try:
            return [*to_bio([str(label) for label in labels], self.scheme)]
        except UserError as error:
            cure = "mend it" if self._given is None else "mend it, or set --data.scheme=null"
            raise UserError(f"{row.place}: {error}: {cure}") from error

    def numbers(self, row: Row, column: str) -> list[int]:
        """The numbers of the classes of a row's words."""
        pairs = zip(self.of(row, column), self.written(row, column), strict=True)
        return [
            self.number(label, f"{row.place}, word {i}" + (f" ({written})" if written != label else ""), column)
            for i, (label, written) in enumerate(pairs, 1)
        ]

    def encode(self, rows: Sequence[Row], column: str) -> NDArray[np.int64]:
        """The class of each word of all rows, (W,)."""
        return np.concatenate([np.array(self.numbers(row, column), np.int64) for row in rows])

    def as_written(self, labels: Sequence[Label]) -> list[Label]:
        """Predicted classes of one row as labels of the scheme."""
        return [*labels] if self.scheme is None else [*from_bio([str(label) for label in labels], self.scheme)]

    def describe(self, targets: NDArray[np.int64]) -> str:
        """The share of each class among words, and the spans of each type."""
        counts = np.bincount(targets, minlength=len(self.values))
        said = f"labels {shares(self.names, counts, len(targets))}"
        if self.scheme is None:
            return said
        begun = {name[2:] or "_": int(n) for name, n in zip(self.names, counts, strict=True) if name.startswith("B")}
        return f"{said}; spans {', '.join(f'{name} {number:,}' for name, number in begun.items())}"

    def describe_scheme(self) -> list[str]:
        """What labels are taken for."""
        if self.scheme is None:
            return ["labels: no spans, but a class for each word"]
        told = "told from the training labels" if self._given is None else "as data.scheme says"
        return [f"labels: spans in the scheme {self.scheme}, {told}"]

    def state_dict(self) -> dict[str, Any]:
        """Classes, counts and scheme."""
        return super().state_dict() | {"scheme": self.scheme}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what ``state_dict`` gave; a scheme that the configuration names stays."""
        super().load_state_dict(state)
        if self._given is None:
            self.scheme = state["scheme"]


@runtime_checkable
class TokenLabelsData(Protocol):
    """What a task over labels of words asks of its data.

    Attributes:
        token_labels: What the training rows' labels are.
    """

    token_labels: TokenLabels
