"""Rows of numbers, be they of tables or of pictures, with a label each."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from lt_cli.data.base import SplitName
from lt_cli.data.labels import Labels, OneLabel
from lt_cli.data.row_data import RowData
from lt_cli.data.row_sources import RowSource
from lt_cli.data.rows import Row, with_field


class LabeledInputs(RowData):
    """What tables and pictures share: labels, parts of all classes held out, predictions in the label's place.

    A batch has ``index`` (B,), ``inputs`` (B, ...), and ``labels`` but in predict.

    Args:
        source: Where the rows come from.
        labels: What a label is; None for one class.
        label_column: Column of the label.
        stratify: Whether what is held out has each class's share.
        val_fraction: Part of the training rows kept for validation; None for 0.1, or none where the source has its own.
        test_fraction: The same for test; None for none.
        split_seed: Seed of that choice; the run's own seed does not change it.
        batch_size: Rows per batch and process.
        num_workers: Processes that fetch batches.

    Attributes:
        input_shape: Shape of a row's input, once it is known.
        input_dtype: Of the batch's ``inputs``.
    """

    input_shape: tuple[int, ...] | None = None
    input_dtype: torch.dtype = torch.float32

    def __init__(
        self,
        *,
        source: RowSource,
        labels: Labels | None,
        label_column: str,
        stratify: bool,
        val_fraction: float | None,
        test_fraction: float | None,
        split_seed: int,
        batch_size: int,
        num_workers: int,
    ) -> None:
        """Reads nothing."""
        super().__init__(
            source=source,
            val_fraction=val_fraction,
            test_fraction=test_fraction,
            split_seed=split_seed,
            batch_size=batch_size,
            num_workers=num_workers,
        )
        self.labels = OneLabel() if labels is None else labels
        self.label_column, self.stratify = label_column, stratify

    @property
    def label_names(self) -> list[str] | None:  # type: ignore[override]
        """The classes' names, in the order of their numbers; None for scores."""
        return getattr(self.labels, "names", None)

    def learn(self, rows: list[Row]) -> None:
        """Takes over the training rows' labels; a subclass adds what else it learns."""
        self.labels.learn(rows, self.label_column)

    def targets(self, rows: list[Row], split: SplitName) -> NDArray[Any] | None:
        """The targets of rows, or None where they are to be predicted."""
        return None if split == "predict" else self.labels.encode(rows, self.label_column)

    def held_out_order(self, rows: list[Row]) -> NDArray[np.int64]:
        """By chance, but so that any run of it has each class's share, where each row has one class.

        The rows of each class, in an order by chance, are spread evenly over the whole, from a place by chance on; a
        class of one row comes last, and so is trained on.
        """
        order = super().held_out_order(rows)
        if not (self.stratify and isinstance(self.labels, OneLabel)):
            return order
        labels = [self.labels.of(row, self.label_column)[0] for row in rows]
        of_class: dict[Any, list[int]] = {}
        for i in order.tolist():
            of_class.setdefault(labels[i], []).append(i)
        places = np.empty(len(rows))
        draws = np.random.default_rng([self.split_seed, 1]).random(len(of_class))
        for members, draw in zip(of_class.values(), draws, strict=True):
            first = draw if len(members) > 1 else 1.0
            places[members] = (np.arange(len(members)) + first) / len(members)
        return order[np.argsort(places[order], kind="stable")]

    def predicted(self, fields: dict[str, Any], prediction: dict[str, Any]) -> dict[str, Any]:
        """The fields with the prediction in the label's place."""
        others = {name: value for name, value in prediction.items() if name != "label"}
        if "label" in prediction:
            fields = with_field(fields, self.label_column, prediction["label"])
        return fields | others

    def write_predictions(
        self, columns: dict[str, list[Any]], directory: Path, format: Literal["csv", "jsonl"]
    ) -> list[Path]:
        """The predicted rows; several classes as the source's format has them."""
        if "label" in columns and not self.source.holds_lists(self._predicted):
            columns = columns | {"label": self.labels.cells(columns["label"])}
        return super().write_predictions(columns, directory, format)

    def state_dict(self) -> dict[str, Any]:
        """The labels; a subclass adds what else it learned."""
        return super().state_dict() | {"labels": self.labels.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over what ``state_dict`` gave."""
        super().load_state_dict(state_dict)
        self.labels.restore(state_dict["labels"])

    def describe(self) -> list[str]:
        """Rows and labels of each split."""
        lines = []
        for name, split in self.splits.items():
            labels = getattr(split, "labels", None)
            line = f"{name}: {len(split):,} rows"
            lines.append(line if labels is None else f"{line}; {self.labels.describe(labels)}")
        return lines
