"""Rows of a table with a label each: a class, several classes, or a score.

B: rows, F: features.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lt_cli.data.base import Batch, SplitName
from lt_cli.data.labeled_inputs import LabeledInputs
from lt_cli.data.labels import Labels
from lt_cli.data.row_sources import RowSource
from lt_cli.data.rows import Row
from lt_cli.data.table_columns import Numbers, TableColumns, shown
from lt_cli.errors import UserError


class TableRows:
    """Rows of features in memory, with their targets where they have some.

    Args:
        inputs: Features of each row, (N, F).
        labels: Target of each row, or None.
    """

    def __init__(self, inputs: NDArray[np.float32], labels: NDArray[Any] | None) -> None:
        """Stores them."""
        self.inputs, self.labels = inputs, labels

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.inputs)

    def batch(self, rows: Sequence[int], epoch: int) -> Batch:
        """``index`` (B,), ``inputs`` (B, F) and, where there are some, ``labels`` (B,) or (B, C)."""
        index = np.asarray(rows, np.int64)
        batch = {"index": torch.from_numpy(index), "inputs": torch.from_numpy(self.inputs[index])}
        return batch if self.labels is None else batch | {"labels": torch.from_numpy(self.labels[index])}


class LabeledTable(LabeledInputs):
    """Rows of a table to batches of numbers with labels, and predictions to files of the same format.

    Numbers, and text that reads as numbers, are standardised by mean and deviation of the training rows; each of the
    few texts of any other column is a feature of its own, 1 in rows that have it and otherwise 0; a list of numbers is
    as many features. A checkpoint holds all of this. No row may lack a value.

    Args:
        source: Where the rows come from.
        labels: What a label is: lt_cli.data.labels.OneLabel, SeveralLabels, or Score.
        label_column: Column of the label; predictions are written there.
        feature_columns: Columns to learn from; null for all but the label's and those of ignore_columns, in the order
            of the training rows.
        ignore_columns: Columns not to learn from, such as a row's number or name; null for none. Predictions keep them.
        standardize: Whether numbers have the training rows' mean subtracted and are divided by their standard
            deviation; those that are the same in all training rows are then 0.
        max_categories: Different texts of a column, at most, in the training rows.
        stratify: Whether what is held out has each class's share, where each row has one class.
        val_fraction: Part of the training rows kept for validation; null for 0.1, or none where the source has its own.
        test_fraction: The same for test; null for none.
        split_seed: Seed of that choice; the run's own seed does not change it.
        batch_size: Rows per batch and process.
        num_workers: Processes that fetch batches; 0 is fastest for tables, which are in memory.

    Raises:
        UserError: If options disagree, a split is missing, or a row has a value or label that the training rows rule
            out, or none.
    """

    def __init__(
        self,
        *,
        source: RowSource,
        labels: Labels | None = None,
        label_column: str = "label",
        feature_columns: list[str] | None = None,
        ignore_columns: list[str] | None = None,
        standardize: bool = True,
        max_categories: int = 50,
        stratify: bool = True,
        val_fraction: float | None = None,
        test_fraction: float | None = None,
        split_seed: int = 0,
        batch_size: int = 32,
        num_workers: int = 0,
    ) -> None:
        """Reads nothing."""
        super().__init__(
            source=source,
            labels=labels,
            label_column=label_column,
            stratify=stratify,
            val_fraction=val_fraction,
            test_fraction=test_fraction,
            split_seed=split_seed,
            batch_size=batch_size,
            num_workers=num_workers,
        )
        self.columns = TableColumns(
            label_column=label_column,
            feature_columns=feature_columns,
            ignore_columns=ignore_columns,
            standardize=standardize,
            max_categories=max_categories,
        )

    def learn(self, rows: list[Row]) -> None:
        """Takes over the training rows' labels, and what their columns are."""
        super().learn(rows)
        self.columns.learn(rows)
        self.input_shape = (len(self.columns.names),)

    def examples(self, rows: list[Row], split: SplitName) -> TableRows:
        """The features of rows, with the targets of their labels."""
        return TableRows(self.columns.encode(rows), self.targets(rows, split))

    def fields_of(self, item: Any) -> dict[str, Any]:
        """A row from Python: a mapping with the columns, or a list, tuple or array with their values in order."""
        if isinstance(item, Mapping):
            return dict(item)
        columns = self.columns.columns
        if isinstance(item, list | tuple) or (isinstance(item, np.ndarray) and item.ndim == 1):
            only = columns[0] if len(columns) == 1 else None
            values = [item] if isinstance(only, Numbers) and only.size is not None else item
            if len(values) == len(columns):
                return {column.column: value for column, value in zip(columns, values, strict=True)}
        names = ", ".join(column.column for column in columns)
        raise UserError(
            f"{shown(item)} must be a mapping with the columns {names:.300}, or a list of {len(columns)} values, those "
            "of these columns"
        )

    def state_dict(self) -> dict[str, Any]:
        """The labels, and what the columns are."""
        return super().state_dict() | {"columns": self.columns.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over what ``state_dict`` gave."""
        super().load_state_dict(state_dict)
        self.columns.load_state_dict(state_dict["columns"])
        self.input_shape = (len(self.columns.names),)

    def describe(self) -> list[str]:
        """Rows and labels of each split, and the features."""
        return [*super().describe(), *self.columns.describe()]

    def preview(self, batch: Batch, directory: Path) -> list[str]:
        """The first row as the model sees it."""
        return [f"a row: {', '.join(self.columns.readable(batch['inputs'][0].tolist()))}"]
