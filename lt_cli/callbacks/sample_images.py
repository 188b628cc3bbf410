"""Pictures that the model draws while it learns."""

from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only
from numpy.typing import NDArray

from lt_cli.errors import UserError
from lt_cli.pictures import grid, save_png
from lt_cli.tasks.base import evaluating, run_directory


@runtime_checkable
class DrawsImages(Protocol):
    """A task that draws pictures."""

    def sample_images(self, num_samples: int) -> NDArray[np.uint8]:
        """Pictures (N, H, W, C), uint8, the same for the same weights."""
        ...


class SampleImages(Callback):
    """Draws a grid of samples after validation, to the run's pictures/ and to TensorBoard.

    Args:
        every_n_epochs: Epochs between two grids; the last epoch always has one.
        num_samples: Pictures in a grid.
        num_columns: Pictures side by side.

    Raises:
        UserError: If a number is below 1, or the task draws no pictures.
    """

    def __init__(self, *, every_n_epochs: int = 1, num_samples: int = 32, num_columns: int = 8) -> None:
        """Checks the numbers."""
        numbers = {"every_n_epochs": every_n_epochs, "num_samples": num_samples, "num_columns": num_columns}
        for name, number in numbers.items():
            if number < 1:
                raise UserError(f"{name} ({number}) must be at least 1")
        self.every_n_epochs, self.num_samples, self.num_columns = every_n_epochs, num_samples, num_columns
        self._newest: Path | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuses a task that cannot draw, before training."""
        if not isinstance(pl_module, DrawsImages):
            raise UserError(f"sample_images needs a task that draws pictures; {type(pl_module).__name__} does not")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws every n epochs."""
        if (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            self._draw(trainer, pl_module, run_directory(trainer))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws what the finished model can do, and says where."""
        self._draw(trainer, pl_module, run_directory(trainer))
        if self._newest is not None:
            rank_zero_info(f"samples: {self._newest}")

    @rank_zero_only
    def _draw(self, trainer: Trainer, pl_module: LightningModule, run: Path) -> None:
        assert isinstance(pl_module, DrawsImages)
        path = run / "pictures" / f"samples-{trainer.global_step:07d}.png"
        if path == self._newest:
            return
        with evaluating(pl_module), trainer.precision_plugin.forward_context():
            sheet = grid(pl_module.sample_images(self.num_samples), self.num_columns)
        self._newest = save_png(sheet, path)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("samples", sheet, trainer.global_step, dataformats="HWC")
