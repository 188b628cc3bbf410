"""Ctrl-C, SIGTERM, a closed terminal and SLURM's warning: heard at once, obeyed when the run can go on from there."""

import _thread
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from lightning.pytorch.utilities import rank_zero_only

PATIENCE = 30.0
"""Seconds for a run that is stopped at once to end."""


class Stopped(SystemExit):
    """A run that a signal ended; the exit code is 128 + the signal's number."""

    def __init__(self, number: int, message: str) -> None:
        """Keeps the message for whoever prints it."""
        super().__init__(128 + number)
        self.message = message


class Signals:
    """Hears the signals that end a run.

    Within training a signal waits for the end of the step, except a second Ctrl-C; otherwise it stops at once. What is
    stopped at once may have held a lock, which nobody then lets go of, and wait for it while it ends.

    Args:
        patience: Seconds after which a process that was stopped at once, and is still there, is ended; None for never.

    Attributes:
        received: The number of the signal that waits, or 0.
        waiting: Whether signals wait; set while training runs.
        goes_on_from: Where a run stopped at once may have its newest checkpoint, the likeliest place last.
    """

    def __init__(self, patience: float | None = None) -> None:
        """Hears nothing yet."""
        self.patience = patience
        self.received = 0
        self.waiting = False
        self.goes_on_from: list[Path] = []
        self._process = os.getpid()

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Listens for a while, where this is the main thread, which alone may; what a shell ignores stays ignored."""
        names = ["SIGINT", "SIGTERM", "SIGHUP", *(["SIGUSR1"] if slurm_job() else [])]
        here = threading.current_thread() is threading.main_thread()
        numbers = [getattr(signal, name) for name in names if here and hasattr(signal, name)]  # Windows has two
        handlers = {n: signal.getsignal(n) for n in numbers if signal.getsignal(n) != signal.SIG_IGN}
        for number in handlers:
            signal.signal(number, self._receive)
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # a process that fetches batches; this one ends it
        if self.waiting and (not self.received or number != signal.SIGINT):
            self.received = self.received or number
            return
        if self.patience is not None:  # not threading's thread, whose own lock may be the one that is held
            _thread.start_new_thread(_end, (self.patience, 128 + number))
        there = [path for path in self.goes_on_from if path.exists()]
        raise self.stopped(number, "stopped", there[-1] if there else None)

    def stopped(self, number: int, message: str, last: Path | None) -> Stopped:
        """The end of a run, which SLURM starts again where that was its warning.

        Args:
            number: The signal's.
            message: How far the run came.
            last: What it goes on from, if there is anything.
        """
        if (job := slurm_job()) and number == signal.SIGUSR1:
            message += f"; {_requeue(job)}"
        return Stopped(number, message + (f"; go on with: {resume_command(last)}" if last else ""))


def _end(seconds: float, code: int) -> None:
    time.sleep(seconds)
    os._exit(code)


@rank_zero_only
def _requeue(job: str) -> str:
    """Asks SLURM to start the job again, once for all its processes, and says what came of it."""
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, text=True)
        return f"SLURM job {job} is queued again"
    except (OSError, subprocess.CalledProcessError) as error:
        cause = getattr(error, "stderr", "") or str(error)
        return f"SLURM job {job} could not be queued again ({cause.strip()})"


def slurm_job() -> str | None:
    """The SLURM job this process belongs to, or None; of an array, the job of this task."""
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        return f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID', '0')}"
    return os.environ.get("SLURM_JOB_ID")


def resume_command(path: Path) -> str:
    """What to type to go on: python main.py, python -m lt_cli or lt-cli, as it was started."""
    program = sys.orig_argv[: len(sys.orig_argv) - len(sys.argv) + 1]
    return shlex.join([*program, "fit", f"--ckpt_path={path}"])
