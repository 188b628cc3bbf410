"""What a run was made with, beside its checkpoints: one line of sessions.jsonl for each start and each resume."""

import json
import os
import platform
import subprocess
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from lt_cli.data.base import run_seed
from lt_cli.signals import slurm_job
from lt_cli.tasks.base import machine, run_directory
from lt_cli.version import VERSION

PACKAGES = ("torch", "lightning", "jsonargparse", "transformers", "torchvision", "datasets", "torchmetrics", "numpy")


class SessionRecord(Callback):
    """Says what a resumed run has otherwise; writes command line, seed, versions, git state and devices down.

    Args:
        command: The command line, as it was typed.
        resumed_from: The checkpoint the session goes on from.
        changes: What its configuration has otherwise.
    """

    def __init__(self, command: list[str], resumed_from: Path | str | None = None, changes: Sequence[str] = ()) -> None:
        """Writes nothing yet."""
        self.command, self.resumed_from, self.changes = command, resumed_from, changes

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Speaks and writes on the first process, before anything can go wrong."""
        for change in self.changes:
            rank_zero_info(f"resuming with {change}")
        self._write(trainer, run_directory(trainer))

    @rank_zero_only
    def _write(self, trainer: Trainer, run: Path) -> None:
        record = {
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "command": self.command,
            "resumed_from": str(self.resumed_from) if self.resumed_from else None,
            "changes": list(self.changes),
            "seed": run_seed(),
            "versions": {"python": platform.python_version(), "lt_cli": VERSION} | {p: version(p) for p in PACKAGES},
            "git": git_state(),
            "machine": machine(trainer) | {"platform": platform.platform()},
            "slurm_job": slurm_job(),
        }
        run.mkdir(parents=True, exist_ok=True)
        last = run / "checkpoints" / "last.ckpt"
        if self.resumed_from and Path(self.resumed_from).parent == last.parent and self.resumed_from != last:
            rank_zero_info(f"going on from {self.resumed_from}: {last} will be replaced")
        with (run / "sessions.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def git_state() -> dict[str, Any] | None:
    """The commit of the working directory and the files that differ from it; None outside a repository."""
    try:
        commit = _git("rev-parse", "HEAD").strip()
        return {"commit": commit, "changed": [line[3:] for line in _git("status", "--porcelain").splitlines()]}
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*arguments: str) -> str:
    quiet = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True, timeout=10, env=quiet).stdout
