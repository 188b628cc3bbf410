"""What happens between two steps: all processes stop, save or give up together."""

import contextlib
import subprocess
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging

from lt_cli.callbacks.agreement import Agreement
from lt_cli.callbacks.checkpoints import Checkpoints
from lt_cli.callbacks.finite_loss import FiniteLoss
from lt_cli.data.base import Loader
from lt_cli.errors import RunError
from lt_cli.signals import Signals

PATIENCE = 10
"""Seconds that other processes get to end by themselves before they are killed."""


class Watch(Callback):
    """Ends a run when a signal or a loss that is no number asks for it, and saves when it is time.

    Checkpoints are written between two optimiser steps only, as they hold no gathered gradients. Validation may
    come between, which the resumed run then begins anew.

    Args:
        checkpoints: Saves; None where nothing shall be saved.
        signals: Hears.
    """

    def __init__(self, checkpoints: Checkpoints | None, signals: Signals) -> None:
        """Watches nothing yet."""
        self.checkpoints, self.signals = checkpoints, signals
        self._agreement, self._losses = Agreement(), FiniteLoss()
        self._step = 0
        self._stepped = self._together = self._asked_to_stop = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on signals wait for the end of a step."""
        self._step = trainer.global_step
        self.signals.waiting = self._stepped = True
        if self.checkpoints is not None:
            self.signals.goes_on_from.append(self.checkpoints.path(trainer, "last"))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """The place between two steps."""
        step = self._step
        self._step = trainer.global_step
        self._stepped = self._step != step
        if isinstance(outputs, dict) and "loss" in outputs:
            self._losses.note(outputs["loss"], step)
        self._stop_between_steps(trainer)
        due = self._stepped and self.checkpoints is not None and self.checkpoints.due(trainer)
        on_cpu = pl_module.device.type == "cpu"
        look = on_cpu or due or self._step % max(1, trainer.log_every_n_steps) == 0  # type: ignore[attr-defined]
        broken = self._losses.broken() if look else None
        number, saves, breaks = self._agreement.highest(trainer, self.signals.received, due, broken is not None)
        self._together = bool(breaks or number)
        if breaks:
            raise self._broken(trainer, broken)
        if self._stepped and number:
            self._stop(trainer, number)
        elif saves and self.checkpoints is not None:
            self.checkpoints.save_last(trainer)

    def _stop_between_steps(self, trainer: Trainer) -> None:
        """Whoever asks to stop within an accumulated step, as a time limit may, is heard after it."""
        asked = trainer.should_stop or self._asked_to_stop
        trainer.should_stop, self._asked_to_stop = asked and self._stepped, asked and not self._stepped

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Validation can be long; all processes stop in the same one of the batches that all of them have."""
        if not self.signals.waiting or not self._stepped or batch_idx >= _shared_batches(trainer):
            return
        (number,) = self._agreement.highest(trainer, self.signals.received)
        if number:
            self._together = True
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, WeightAveraging):  # has put the averaged weights in the trained ones' place
                    callback.on_validation_epoch_end(trainer, pl_module)
            self._stop(trainer, number)

    def _stop(self, trainer: Trainer, number: int) -> None:
        last = self.checkpoints.save_last(trainer) if self.checkpoints is not None else None
        stopped = self.signals.stopped(number, f"stopped at step {trainer.global_step}", last)
        trainer.strategy.barrier()  # SLURM may end all tasks with the first to end: it is asked before that
        raise stopped

    def _broken(self, trainer: Trainer, broken: tuple[int, float] | None) -> RunError:
        last = self.checkpoints.path(trainer, "last") if self.checkpoints is not None else None
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        step, loss = broken or (trainer.global_step, float("nan"))
        kept = f"the last good checkpoint is {last}" if last and last.exists() else "there is no checkpoint"
        return RunError(
            f"the loss is {loss} at step {step} (epoch {trainer.current_epoch}, learning rate {rate:.3g}): {kept}; "
            "try a lower --model.optimizer.lr, more --model.schedule.warmup_steps or --trainer.gradient_clip_val=1"
        )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Everything is saved; signals need not wait."""
        self.signals.waiting = False

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leaves no process behind: those that Lightning started end with this one.

        Lightning's observer of them, which kills this process as soon as it sees that one of them ended, is
        relieved: they end for the same reason.
        """
        self.signals.waiting = False
        started: list[subprocess.Popen[bytes]] = getattr(trainer.strategy.launcher, "procs", [])
        processes = list(started)
        started.clear()
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE if self._together else 0)
            process.kill()


def _shared_batches(trainer: Trainer) -> float:
    """Validation batches that every process has; 0 where that cannot be known."""
    if trainer.world_size == 1:
        return float("inf")
    loader = trainer.val_dataloaders
    if not isinstance(loader, Loader):
        return 0
    return loader.sampler.shared_batches
