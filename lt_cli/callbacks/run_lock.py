"""One process at a time trains in a run's directory."""

from pathlib import Path
from typing import TextIO

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only

from lt_cli.errors import UserError
from lt_cli.tasks.base import run_directory

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


class RunLock(Callback):
    """Holds the run's directory while it trains there; the hold ends with the process, however that ends.

    Raises:
        UserError: If another process trains there: both would write the same files.
    """

    def __init__(self) -> None:
        """Holds nothing yet."""
        self._hold: TextIO | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Takes hold, on the first process."""
        self._take(run_directory(trainer))

    @rank_zero_only
    def _take(self, run: Path) -> None:
        if fcntl is None:
            return
        run.mkdir(parents=True, exist_ok=True)
        self._hold = (run / ".lock").open("w", encoding="utf-8")
        try:
            fcntl.lockf(self._hold, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"another process is training in {run}: wait for it, or stop it first") from error
        except OSError:
            pass  # this file system knows no locks

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Lets go."""
        self._release()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Lets go, as no teardown follows."""
        self._release()

    def _release(self) -> None:
        if self._hold is not None:
            self._hold.close()
            self._hold = None
