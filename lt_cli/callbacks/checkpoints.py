"""Two checkpoints per run, always there: best.ckpt and last.ckpt."""

import math
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lt_cli import shards
from lt_cli.dtensors import whole_of
from lt_cli.errors import RunError, UserError
from lt_cli.tasks.base import run_directory

OnFailure = Literal["stop", "continue"]


class Checkpoints(Checkpoint):
    """Saves last.ckpt at every epoch's end, at intervals and when asked; best.ckpt when validation improves.

    A callback of its own, as ModelCheckpoint cannot do both: its last checkpoint follows its best.

    Args:
        every_minutes: Time between two last.ckpt within an epoch; 0 saves at every optimiser step.
        keep: How many of the newest last.ckpt also stay, as step-<number>.ckpt; -1 keeps them all.
        on_failure: When a checkpoint cannot be written, stop ends the run, continue warns and tries again when
            the next one is due. The last good checkpoint stays in either case.
    """

    def __init__(self, every_minutes: float = 10.0, keep: int = 0, on_failure: OnFailure = "stop") -> None:
        """Saves nothing yet."""
        if every_minutes < 0:
            raise UserError(f"every_minutes ({every_minutes}) must not be negative")
        if keep < -1:
            raise UserError(f"keep ({keep}) must be -1 for all, 0 for none or a number of checkpoints")
        if on_failure not in get_args(OnFailure):
            raise UserError(f"on_failure ({on_failure!r}) must be one of {', '.join(get_args(OnFailure))}")
        self.every_minutes, self.keep, self.on_failure = every_minutes, keep, on_failure
        self.best_score: float | None = None
        self._saved_at = time.monotonic()
        self._saved_step = 0

    @staticmethod
    def path(trainer: Trainer, which: str) -> Path:
        """Where best or last lies in the trainer's run; called on all processes."""
        return run_directory(trainer) / "checkpoints" / f"{which}.ckpt"

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The clock starts with the training."""
        self._saved_at = time.monotonic()
        self._saved_step = trainer.global_step

    def due(self, trainer: Trainer) -> bool:
        """Whether this process's clock asks for last.ckpt after an optimiser step.

        The last step of an epoch waits for the end of the epoch; the last of a run that ends within an epoch
        does not, so that a longer run goes on there.
        """
        if trainer.is_last_batch:
            return False
        ends = trainer.should_stop or trainer.global_step == trainer.max_steps
        return ends or time.monotonic() - self._saved_at >= 60 * self.every_minutes

    def save_last(self, trainer: Trainer) -> Path | None:
        """Writes last.ckpt, and only then lets go of the oldest one; called on all processes.

        Returns:
            The file, which is an older one where writing failed, or None where there is none.
        """
        path = self.path(trainer, "last")
        saved = self._save(trainer, path)
        self._saved_at = time.monotonic()
        if saved:
            self._saved_step = trainer.global_step
            if self.keep and trainer.is_global_zero:
                _keep(path, path.with_name(f"step-{self._saved_step:07d}.ckpt"), self.keep)
        return path if saved or path.exists() else None

    def _save(self, trainer: Trainer, path: Path) -> bool:
        """Writes a checkpoint, or says why not; all processes learn of it and stop or go on together."""
        _refuse_broken_weights(trainer, path)
        failure: str | None = None
        try:
            if shards.writes_shards(trainer.strategy):
                shards.save(trainer, path)
            else:
                trainer.save_checkpoint(path)
        except RunError as error:
            failure = str(error)
            trainer.strategy.barrier()  # which the other processes wait at, at the end of save_checkpoint
        if trainer.world_size > 1:
            failure = trainer.strategy.broadcast(failure)
        if failure is None:
            return True
        if self.on_failure == "stop":
            raise RunError(failure)
        rank_zero_warn(f"{failure}; going on without, as --checkpoints.on_failure=continue")
        return False

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
        before = self.best_score
        best = math.nan if before is None else before
        if math.isnan(best) or (score < best if mode == "min" else score > best):
            self.best_score = score  # the checkpoint holds it
            if not self._save(trainer, self.path(trainer, "best")):
                self.best_score = before

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Says where everything is."""
        for which in ("best", "last"):
            if (path := self.path(trainer, which)).exists():
                score = f" ({pl_module.monitor[0]} {self.best_score:.4f})" if which == "best" else ""  # type: ignore[index]
                rank_zero_info(f"{which} checkpoint: {path}{score}")

    def state_dict(self) -> dict[str, Any]:
        """The score to beat."""
        return {"best_score": self.best_score}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """A resumed run keeps its score to beat."""
        self.best_score = state_dict["best_score"]


def _refuse_broken_weights(trainer: Trainer, path: Path) -> None:
    """A checkpoint of weights that are no numbers would replace one that a run can go on from."""
    for name, weight in trainer.lightning_module.named_parameters():
        finite = torch.isfinite(weight.detach()).all()
        if not whole_of(finite):
            kept = f"; the last good checkpoint is {path}" if path.exists() else ""
            raise RunError(
                f"weights of {name} are no finite numbers after step {trainer.global_step}{kept}: "
                "try a lower --model.optimizer.lr or --trainer.gradient_clip_val=1"
            )


def _keep(path: Path, name: Path, number: int) -> None:
    """Gives a checkpoint a second name, which costs nothing, or copies it where the file system cannot; prunes."""
    kept = [old for old in path.parent.glob("step-*.ckpt") if re.fullmatch(r"step-\d+", old.stem)]
    kept.sort(key=lambda old: old.lstat().st_mtime_ns)  # not by number: a run may go on from an earlier one
    try:
        if path.is_symlink():
            shards.link(name, os.readlink(path))
        else:
            name.unlink(missing_ok=True)
            try:
                os.link(path, name)
            except OSError:
                shutil.copyfile(path, name)
        others = [old for old in kept if old != name]
        for old in others[: max(0, len(others) + 1 - number)] if number > 0 else []:
            old.unlink(missing_ok=True)
        shards.collect(path.parent)
    except OSError as error:
        rank_zero_warn(f"{path} could not be kept as {name.name}: {error}")
