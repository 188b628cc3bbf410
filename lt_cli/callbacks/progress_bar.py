"""The progress bar, which costs a step next to nothing."""

import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar

SECONDS = 0.25
"""Between two drawings: Rich takes some milliseconds for each."""


class ProgressBar(RichProgressBar):
    """Lightning's Rich progress bar, told where the run stands before each drawing instead of after each batch."""

    def __init__(self) -> None:
        """Has shown nothing yet."""
        super().__init__(refresh_rate=round(1 / SECONDS))
        self._next = 0.0
        self._done = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Shows the batch if it is time."""
        self._done = batch_idx + 1
        if (now := time.monotonic()) >= self._next:
            self._next = now + SECONDS
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Shows the batch that validation comes after."""
        super().on_validation_start(trainer, pl_module)
        self._show_last(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Shows the last batch."""
        self._show_last(trainer)
        super().on_train_epoch_end(trainer, pl_module)

    def _show_last(self, trainer: Trainer) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._update(self.train_progress_bar_id, self._done)
