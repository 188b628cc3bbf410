"""When samples are drawn, of whatever kind: every few epochs, and once at the end."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from lt_cli.dtensors import shares_out
from lt_cli.errors import UserError
from lt_cli.tasks.base import evaluating, run_directory


class Samples(Callback, ABC):
    """Draws samples after validation, once for each state of the weights, and says where they are.

    Args:
        every_n_epochs: Epochs between two drawings; the last epoch always has one.
        num_samples: Samples of a drawing.

    Raises:
        UserError: If a number is below 1.
    """

    def __init__(self, every_n_epochs: int, num_samples: int) -> None:
        """Checks the numbers."""
        for name, number in (("every_n_epochs", every_n_epochs), ("num_samples", num_samples)):
            if number < 1:
                raise UserError(f"{name} ({number}) must be at least 1")
        self.every_n_epochs, self.num_samples = every_n_epochs, num_samples
        self._newest: Path | None = None

    @abstractmethod
    def path(self, run: Path, step: int) -> Path:
        """Where the samples of a step go."""

    @abstractmethod
    def draw(self, pl_module: LightningModule) -> Any:
        """Draws with a task in eval mode, always the same of the same weights."""

    @abstractmethod
    def write(self, trainer: Trainer, samples: Any, path: Path) -> None:
        """Writes what was drawn."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws every n epochs."""
        if (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            self._draw_once(trainer, pl_module, run_directory(trainer))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws what the finished model can do, and says where."""
        self._draw_once(trainer, pl_module, run_directory(trainer))
        if self._newest is not None:
            rank_zero_info(f"samples: {self._newest}")

    def _draw_once(self, trainer: Trainer, pl_module: LightningModule, run: Path) -> None:
        """On the first process; with all others where they share out the weights, which drawing needs whole."""
        together = shares_out(trainer.strategy)
        path = self.path(run, trainer.global_step)
        if path == self._newest or not (together or trainer.is_global_zero):
            return
        with evaluating(pl_module), trainer.precision_plugin.forward_context():
            samples = self.draw(pl_module)
        if trainer.is_global_zero:
            self.write(trainer, samples, path)
        self._newest = path
