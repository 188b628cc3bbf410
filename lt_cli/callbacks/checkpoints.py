"""Two checkpoints per run, always there: best.ckpt and last.ckpt."""

import math
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities import rank_zero_info

from lt_cli.errors import UserError
from lt_cli.tasks.base import run_directory


class Checkpoints(Checkpoint):
    """Saves last.ckpt at every epoch's end, at intervals and when asked; best.ckpt when validation improves.

    A callback of its own, as ModelCheckpoint cannot do both: its last checkpoint follows its best.

    Args:
        every_minutes: Time between two last.ckpt within an epoch; 0 saves at every optimiser step.
    """

    def __init__(self, every_minutes: float = 10.0) -> None:
        """Saves nothing yet."""
        if every_minutes < 0:
            raise UserError(f"every_minutes ({every_minutes}) must not be negative")
        self.every_minutes = every_minutes
        self.best_score: float | None = None
        self._saved_at = time.monotonic()
        self._step = self._saved_step = 0

    @staticmethod
    def path(trainer: Trainer, which: str) -> Path:
        """Where best or last lies in the trainer's run; called on all processes."""
        return run_directory(trainer) / "checkpoints" / f"{which}.ckpt"

    def save_last(self, trainer: Trainer) -> Path:
        """Writes last.ckpt; called on all processes."""
        path = self.path(trainer, "last")
        trainer.save_checkpoint(path)
        self._saved_at, self._saved_step = time.monotonic(), trainer.global_step
        return path

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The clock starts with the training."""
        self._saved_at = time.monotonic()
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves between two optimiser steps only, as a checkpoint holds no gathered gradients.

        The last step of an epoch waits for the validation, which a resumed run would leave out; the last of a run
        that ends within an epoch does not wait, so that a longer run goes on there.
        """
        stepped = trainer.global_step != self._step
        self._step = trainer.global_step
        if not stepped or trainer.is_last_batch:
            return
        ends = trainer.should_stop or trainer.global_step == trainer.max_steps
        due = ends or time.monotonic() - self._saved_at >= 60 * self.every_minutes
        if trainer.strategy.broadcast(due) if trainer.world_size > 1 else due:
            self.save_last(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Every epoch leaves a last.ckpt."""
        if trainer.is_last_batch or trainer.global_step != self._saved_step:
            self.save_last(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keeps the best of what validation has seen."""
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        name, mode = pl_module.monitor  # type: ignore[misc]
        if name not in trainer.callback_metrics:
            raise UserError(
                f"monitor of {type(pl_module).__name__} is {name!r}, which validation did not log; "
                f"it logged {sorted(trainer.callback_metrics)}"
            )
        score = float(trainer.callback_metrics[name])
        best = math.nan if self.best_score is None else self.best_score
        if math.isnan(best) or (score < best if mode == "min" else score > best):
            self.best_score = score
            trainer.save_checkpoint(self.path(trainer, "best"))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Says where everything is."""
        for which in ("best", "last"):
            if (path := self.path(trainer, which)).is_file():
                score = f" ({pl_module.monitor[0]} {self.best_score:.4f})" if which == "best" else ""  # type: ignore[index]
                rank_zero_info(f"{which} checkpoint: {path}{score}")

    def state_dict(self) -> dict[str, Any]:
        """The score to beat."""
        return {"best_score": self.best_score}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """A resumed run keeps its score to beat."""
        self.best_score = state_dict["best_score"]
