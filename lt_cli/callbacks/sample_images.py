"""Pictures that the model draws while it learns."""

from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from numpy.typing import NDArray

from lt_cli.callbacks.samples import Samples
from lt_cli.errors import UserError
from lt_cli.pictures import grid, show


@runtime_checkable
class DrawsImages(Protocol):
    """A task that draws pictures."""

    def sample_images(self, num_samples: int) -> NDArray[np.uint8]:
        """Pictures (N, H, W, C), uint8, the same for the same weights."""
        ...


class SampleImages(Samples):
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
        super().__init__(every_n_epochs, num_samples)
        if num_columns < 1:
            raise UserError(f"num_columns ({num_columns}) must be at least 1")
        self.num_columns = num_columns

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuses a task that cannot draw, before training."""
        if not isinstance(pl_module, DrawsImages):
            raise UserError(f"sample_images needs a task that draws pictures; {type(pl_module).__name__} does not")

    def path(self, run: Path, step: int) -> Path:
        """pictures/samples-<step>.png."""
        return run / "pictures" / f"samples-{step:07d}.png"

    def draw(self, pl_module: LightningModule) -> NDArray[np.uint8]:
        """Pictures."""
        assert isinstance(pl_module, DrawsImages)
        return pl_module.sample_images(self.num_samples)

    def write(self, trainer: Trainer, samples: NDArray[np.uint8], path: Path) -> None:
        """A grid."""
        show(trainer, "samples", grid(samples, self.num_columns), path)
