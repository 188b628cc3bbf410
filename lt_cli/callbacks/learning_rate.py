"""The learning rate in the logs."""

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import LearningRateMonitor


class LearningRate(LearningRateMonitor):
    """Lightning's monitor, less the question at each step whether to log, which the step's number answers."""

    def __init__(self) -> None:
        """Logs at the trainer's interval."""
        super().__init__("step")

    def on_train_batch_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Logs what the step will be made with."""
        interval = trainer.log_every_n_steps  # type: ignore[attr-defined]  # Lightning does not declare it
        if interval and (trainer.global_step + 1) % interval == 0:
            super().on_train_batch_start(trainer, *args, **kwargs)
