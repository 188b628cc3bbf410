"""Ctrl-C and SIGTERM end a run between two steps, with a checkpoint, and say how to go on."""

import shlex
import signal
import sys
import threading
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lt_cli.callbacks.checkpoints import Checkpoints


class Stopped(SystemExit):
    """A run that a signal ended, its checkpoint safe; the exit code is 128 + the signal's number."""

    def __init__(self, number: int, message: str) -> None:
        """Keeps the message for whoever prints it."""
        super().__init__(128 + number)
        self.message = message


class Signals(Callback):
    """Finishes the step that a signal interrupts, saves last.ckpt, and stops; a second Ctrl-C stops at once.

    Args:
        checkpoints: Saves.
    """

    def __init__(self, checkpoints: Checkpoints) -> None:
        """Listens to nothing yet."""
        self.checkpoints = checkpoints
        self._received: int | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts to listen, where this is the main thread, which alone may; Lightning ends it with the fit."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received = number
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """The place between two steps; all processes stop together."""
        stop = self._received is not None
        if trainer.world_size > 1:
            stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
        if not stop:
            return
        number = self._received or signal.SIGTERM
        path = self.checkpoints.save_last(trainer)
        program = sys.orig_argv[: len(sys.orig_argv) - len(sys.argv) + 1]  # python main.py, python -m lt_cli or lt-cli
        command = shlex.join([*program, "fit", f"--ckpt_path={path}"])
        raise Stopped(number, f"stopped at step {trainer.global_step}; go on with: {command}")
