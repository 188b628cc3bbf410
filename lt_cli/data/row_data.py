"""Rows of a source, shared out among splits, and written back with predictions in the same format."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray

from lt_cli.data.base import DataModule, Split, SplitName
from lt_cli.data.held_out import HeldOut, check_fractions, fractions_of
from lt_cli.data.row_sources import RowSource
from lt_cli.data.rows import Row
from lt_cli.errors import UserError

WANTED: dict[str, list[SplitName]] = {"fit": ["train", "val"], "validate": ["val"], "test": ["test"]}
"""Splits by Lightning's stage."""
ADDED = {"label_index", "probability", "probabilities", "logits"}
"""Columns that predict may add to those of the rows."""


class RowData(DataModule):
    """Rows of files to batches, and predictions to files of the same format.

    A subclass says what it learns from the training rows, how rows become examples, and where predictions go.

    Args:
        source: Where the rows come from.
        val_fraction: Part of the training rows kept for validation; None for 0.1, or none where the source has its own.
        test_fraction: The same for test; None for none.
        split_seed: Seed of that choice; the run's own seed does not change it.
        batch_size: Rows per batch and process.
        num_workers: Processes that fetch batches.
    """

    has_own_format = True

    def __init__(
        self,
        *,
        source: RowSource,
        val_fraction: float | None,
        test_fraction: float | None,
        split_seed: int,
        batch_size: int,
        num_workers: int,
    ) -> None:
        """Reads nothing."""
        super().__init__(batch_size=batch_size, num_workers=num_workers)
        check_fractions(val_fraction, test_fraction, split_seed)
        self.source = source
        self.val_fraction, self.test_fraction, self.split_seed = val_fraction, test_fraction, split_seed
        self.rows: dict[SplitName, list[Row]] = {}
        self._predicted: SplitName = "predict"
        self._learned = False
        self._order: tuple[NDArray[np.int64], Sequence[Any] | None] | None = None

    @abstractmethod
    def learn(self, rows: list[Row]) -> None:
        """Takes over what the training rows say, such as their labels."""

    @abstractmethod
    def examples(self, rows: list[Row], split: SplitName) -> Split:
        """Rows as batches have them: as many in test and predict, otherwise any number; predict has no labels."""

    @abstractmethod
    def predicted(self, fields: dict[str, Any], prediction: dict[str, Any]) -> dict[str, Any]:
        """A row's fields with what was predicted in their place."""

    @abstractmethod
    def fields_of(self, item: Any) -> dict[str, Any]:
        """The fields of a row that Python gives."""

    def given(self, items: Sequence[Any]) -> tuple[Split, list[dict[str, Any]]]:
        """Rows from Python to predict, and their fields."""
        fields = [self.fields_of(item) for item in items]
        return self.examples([Row(row, f"row {number}") for number, row in enumerate(fields)], "predict"), fields

    def prepare_data(self) -> None:
        """Downloads on one process."""
        self.source.prepare()

    def setup(self, stage: str) -> None:
        """Reads the splits that the stage needs and does not have yet."""
        if not self._learned:
            self.learn(self._split_rows("train"))
            self._learned = True
        for name in WANTED.get(stage, []):
            if name not in self.splits:
                self.splits[name] = self._examples(self._split_rows(name), name)
        if stage == "predict":
            self._predicted = self._to_predict()
            self.rows["predict"] = self._split_rows(self._predicted)
            self.splits["predict"] = self._examples(self.rows["predict"], "predict")
        self._order = None
        self.rows.pop("train", None)  # nobody writes them, and they take more room than what became of them

    def _examples(self, rows: list[Row], split: SplitName) -> Split:
        examples = self.examples(rows, split)
        assert split in ("train", "val") or len(examples) == len(rows)
        return examples

    def _to_predict(self) -> SplitName:
        """What the source has to predict; else the rows for test, or those for validation."""
        if self.source.has("predict"):
            return "predict"
        return "test" if self.source.has("test") or self.test_fraction is not None else "val"

    def _own_rows(self, split: SplitName) -> list[Row] | None:
        """What the source has of a split, read once."""
        if split not in self.rows:
            rows = self.source.rows(split)
            if rows is None:
                return None
            self.rows[split] = rows
        return self.rows[split]

    def _split_rows(self, split: SplitName) -> list[Row]:
        """The rows of a split; those that the source has not are parts of its training rows."""
        if split != "train" and (own := self._own_rows(split)) is not None:
            return own
        fractions = self._fractions()
        if split != "train" and split not in fractions:
            raise UserError(f"there are no {split} rows: give the source some, or set --data.{split}_fraction=0.1")
        rows = self._own_rows("train")
        if rows is None:
            raise UserError("there are no training rows: give the source some")
        if self._order is None:
            self._order = self.held_out_order(rows), self.kept_together(rows)
        order, together = self._order
        taken = 0
        for name, fraction in fractions.items():
            end = taken + max(1, round(fraction * len(rows)))
            while together is not None and end < len(rows) and together[order[end]] == together[order[end - 1]]:
                end += 1
            if name == split:
                return [rows[i] for i in np.sort(order[taken:end])]
            taken = end
        if taken >= len(rows):
            if together is not None and len({*together}) <= len(fractions):
                raise UserError(
                    f"{len(rows)} training rows are about {len({*together})} things that stay in one split each, such "
                    f"as {together[0]!r:.80}, and none is left to train on: give the source "
                    f"{' and '.join(fractions)} rows of its own"
                )
            raise UserError(
                f"of {len(rows)} training rows none is left to train on: lower --data.val_fraction or .test_fraction"
            )
        return [rows[i] for i in np.sort(order[taken:])]

    def held_out_order(self, rows: list[Row]) -> NDArray[np.int64]:
        """The order in which rows are taken for test, then for validation, then to train on: any, by ``split_seed``.

        Rows that are ``kept_together`` stand in their own order.

        Shape:
            - output: (len(rows),), their numbers
        """
        generator = np.random.default_rng(self.split_seed)
        if (shared := self.kept_together(rows)) is None:
            return generator.permutation(len(rows))
        known = list(dict.fromkeys(shared))
        places = dict(zip(known, generator.permutation(len(known)), strict=True))
        return np.argsort([places[key] for key in shared], kind="stable")

    def kept_together(self, rows: list[Row]) -> Sequence[Any] | None:
        """What rows share that must be in one split; None for nothing."""
        return None

    def _fractions(self) -> dict[HeldOut, float]:
        """Of the training rows, for the splits that the source has not."""
        return fractions_of(self.val_fraction, self.test_fraction, self.source.has, "rows")

    def state_dict(self) -> dict[str, Any]:
        """What the source learned; a subclass adds its own."""
        return {"source": self.source.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over what ``state_dict`` gave."""
        self.source.load_state_dict(state_dict.get("source", {}))
        self._learned = True

    def write_predictions(
        self, columns: dict[str, list[Any]], directory: Path, format: Literal["csv", "jsonl"]
    ) -> list[Path]:
        """The predicted rows with their predictions, in the source's own format."""
        fields = [row.fields for row in self.rows["predict"]]
        if replaced := sorted(ADDED & columns.keys() & fields[0].keys()):
            rank_zero_info(f"columns of the rows that give way to what is predicted: {', '.join(replaced)}")
        rows = self.with_predictions([fields[i] for i in columns["index"]], columns)
        return self.source.write(rows, self._predicted, directory)

    def with_predictions(
        self, fields: Sequence[dict[str, Any]], columns: Mapping[str, list[Any]]
    ) -> list[dict[str, Any]]:
        """Rows with what was predicted of them."""
        names = [name for name in columns if name != "index"]
        values = zip(*(columns[name] for name in names), strict=True)
        predictions = [dict(zip(names, row, strict=True)) for row in values]
        return [self.predicted(row, prediction) for row, prediction in zip(fields, predictions, strict=True)]
