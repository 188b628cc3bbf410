"""Predictions to disk, in input order, whatever the number of processes."""

import time
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lt_cli.data.base import DataModule, write_rows
from lt_cli.errors import UserError
from lt_cli.tasks.base import run_directory


class PredictionWriter(Callback):
    """Gathers what predict returns and lets the data write it in its own format.

    Args:
        format: csv or jsonl; null for that of the data's files, or csv where it has none of its own.
        directory: Where to write; null for predictions/<time>/ in the checkpoint's run.
    """

    def __init__(self, format: Literal["csv", "jsonl"] | None = None, directory: str | None = None) -> None:
        """Gathers nothing yet."""
        self.format = format
        self.directory = directory
        self._columns: dict[str, list[Any]] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuses a directory that cannot be, and a format that would have no use, before the work."""
        if stage != "predict":
            return
        data = trainer.datamodule  # type: ignore[attr-defined]
        if self.format is not None and isinstance(data, DataModule) and data.has_own_format:
            raise UserError(
                f"--predictions.format ({self.format}) has no use with {type(data).__name__}, which writes the format "
                "that it reads: leave it out"
            )
        if self.directory:
            try:
                Path(self.directory).mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(
                    f"--predictions.directory: {self.directory} cannot be made: {error.strerror}"
                ) from error

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keeps the columns of one batch."""
        if not isinstance(outputs, dict) or "index" not in outputs:
            raise UserError(f"predict_step of {type(pl_module).__name__} must return columns, index among them")
        for name, values in outputs.items():
            self._columns.setdefault(name, []).extend(values.tolist() if isinstance(values, Tensor) else values)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Brings the columns of all processes to the first, sorts them, and writes."""
        columns, self._columns = _gather(self._columns), {}
        data = trainer.datamodule  # type: ignore[attr-defined]
        run = run_directory(trainer)
        if not trainer.is_global_zero or not columns:
            return
        order = sorted(range(len(columns["index"])), key=columns["index"].__getitem__)
        columns = {name: [values[i] for i in order] for name, values in columns.items()}
        directory = Path(self.directory) if self.directory else run / "predictions" / time.strftime("%Y-%m-%d_%H-%M-%S")
        directory.mkdir(parents=True, exist_ok=True)
        if isinstance(data, DataModule):
            paths = data.write_predictions(columns, directory, self.format or "csv")
        else:
            paths = [write_rows(columns, directory / f"predictions.{self.format or 'csv'}")]
        for path in paths:
            rank_zero_info(f"predictions: {path}")


def _gather(columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """All processes' columns, one after the other, on the first process."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return columns
    parts: list[dict[str, list[Any]]] = [{}] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, columns)
    return {name: [value for part in parts for value in part.get(name, [])] for name in parts[0]}
