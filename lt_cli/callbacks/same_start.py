"""All processes of a run go on from one checkpoint."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lt_cli.errors import UserError


class SameStart(Callback):
    """Looks whether every process found the checkpoint that the first one found, before any reads it.

    Args:
        ckpt_path: What this process found; None where the run begins.

    Raises:
        UserError: If not, as on a host with runs of its own: on all processes, so that none waits for another.
    """

    def __init__(self, ckpt_path: str | Path | None) -> None:
        """Looks at nothing yet."""
        self.ckpt_path = None if ckpt_path is None else str(ckpt_path)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Asks the first process."""
        own = self._identity()
        first = trainer.strategy.broadcast(own)
        if not trainer.strategy.reduce_boolean_decision(own == first):
            raise UserError(
                f"process {trainer.global_rank} begins with {_named(own)}, the first one with {_named(first)}: "
                "all hosts must find the same checkpoint, in a --trainer.default_root_dir that they share"
            )

    def _identity(self) -> Any:
        """Run, name and size: what a file has however the directory of runs is called on a host."""
        if self.ckpt_path is None or "://" in self.ckpt_path:
            return self.ckpt_path
        path = Path(self.ckpt_path)
        return [*path.absolute().parts[-4:], path.stat().st_size if path.is_file() else None]


def _named(identity: Any) -> str:
    if identity is None:
        return "no checkpoint"
    return identity if isinstance(identity, str) else "/".join(identity[:-1])
