"""Where runs lie, what their files are called: <root>/<config's name>/<time>/."""

import contextlib
import itertools
import json
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from lt_cli.errors import UserError
from lt_cli.shards import is_checkpoint

RUNS = "runs"
"""Where runs go unless ``--trainer.default_root_dir`` says otherwise: <root>/<config's name>/<time>/."""

Location = Path | str
"""A file here, or an address that fsspec knows, such as s3://bucket/last.ckpt."""


def find(which: str, root: str | Path = RUNS, name: str | None = None) -> Location | None:
    """The file meant by ``best``, ``last``, a path, or a directory of runs.

    Args:
        which: ``best`` or ``last`` of the newest run under ``root`` that has one; a file or an address; or a
            directory, for the best checkpoint of the newest run in it. Where no run has a best one, as none
            was validated, best means last.
        root: The directory of all runs.
        name: Only runs of the config of this name.

    Returns:
        The file, which need not exist where a path was given; None where no run has one.
    """
    if "://" in which:
        return which
    if which in ("best", "last"):
        found = _newest(Path(root).glob(f"{name or '*'}/*/checkpoints/{which}.ckpt"))
        return found or (find("last", root, name) if which == "best" else None)
    path = Path(which).expanduser()
    if path.is_dir() and not is_checkpoint(path):
        best, last = (path.glob(f"**/checkpoints/{name}.ckpt") for name in ("best", "last"))
        return _newest(best) or _newest(last)
    return path


def of_job(job: str, command: list[str], root: Path) -> Path | None:
    """The last checkpoint of the run that this command line of a SLURM job began, by its record of sessions."""
    for last in sorted(root.glob("*/*/checkpoints/last.ckpt"), key=_began, reverse=True):
        for session in _sessions(last.parent.parent / "sessions.jsonl"):
            if session.get("slurm_job") == job and session.get("command") == command:
                return last
    return None


def _sessions(path: Path) -> Iterator[dict[str, Any]]:
    """The sessions of a run, less lines that are no record, as a power cut may leave."""
    for line in path.read_text(errors="replace").splitlines() if path.is_file() else []:
        with contextlib.suppress(ValueError):
            if isinstance(session := json.loads(line), dict):
                yield session


def _began(path: Path) -> tuple[str, int]:
    """When the run of a checkpoint began: the time that it is named by, and its number among those of one second."""
    name = path.parent.parent.name
    match = re.fullmatch(r"(\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d)-(\d+)", name)
    return (match[1], int(match[2])) if match else (name, 1)


def _newest(paths: Iterable[Path]) -> Path | None:
    """The checkpoint of the run that began last: runs are named by their time."""
    return max(paths, key=_began, default=None)


def run_of(path: Location) -> Path | None:
    """The run's directory that a checkpoint lies in, or None where it lies elsewhere."""
    if isinstance(path, str):
        return None
    path = path if path.parent.name else path.absolute()
    return path.parent.parent if path.parent.name == "checkpoints" else None


def new_run(parent: Path) -> Path:
    """A new directory named by the time; making it is what keeps two runs of one second apart."""
    stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
    for number in itertools.count(1):
        run = parent / (stamp if number == 1 else f"{stamp}-{number}")
        try:
            run.mkdir(parents=True)
            break
        except FileExistsError:
            continue
        except OSError as error:
            raise UserError(f"--trainer.default_root_dir: {run} cannot be made: {error.strerror}") from error
    return run


def run_for(ckpt_path: Location | None, parent: Path) -> Path:
    """The run of a checkpoint, or a new one, which the first process makes and ``run_directory`` tells the others."""
    if ckpt_path is not None and (run := run_of(ckpt_path)) is not None:
        return run
    return new_run(parent) if getattr(rank_zero_only, "rank", 0) == 0 else parent / "run"
