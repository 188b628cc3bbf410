"""Arrays that are computed once: found by what they came from, written whole or not at all, checked on reading.

Two runs that start at once compute twice and write the same; a damaged file is computed anew.
"""

import os
import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lt_cli.files import written_whole

Arrays = dict[str, np.ndarray]


def cached(name: str, digest: str, compute: Callable[[], Arrays], directory: Path | None) -> Arrays:
    """``compute()``, kept in the file <name>-<digest>.npz.

    Args:
        name: What kind of result it is.
        digest: Hexadecimal digest of all that the result depends on: content, settings, version of the code.
        compute: Gives named arrays.
        directory: Where the file goes; None for ``$XDG_CACHE_HOME/lt_cli``, by default ~/.cache/lt_cli.
    """
    path = place(name, digest, directory)
    arrays = read(name, path)
    if arrays is None:
        arrays = compute()
        write(name, path, arrays)
    return arrays


def place(name: str, digest: str, directory: Path | None) -> Path:
    """The file of a result; the arguments are those of ``cached``."""
    if directory is None:
        directory = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lt_cli"
    return directory / f"{name}-{digest[:16]}.npz"


def read(name: str, path: Path, state: str = "") -> Arrays | None:
    """What was written, or None where there is no such file, it is damaged, or was written in another state."""
    if not path.exists():
        return None
    try:
        with np.load(path) as kept:  # a zip, which compares checksums; never pickles
            if (str(kept["state"]) if "state" in kept.files else "") != state:
                return None
            return {key: kept[key] for key in kept.files if key != "state"}
    except Exception as error:  # damaged files fail in many ways
        rank_zero_warn(f"computing the {name} anew, as {path} is damaged: {error}")
        return None


def write(name: str, path: Path, arrays: Arrays, state: str = "") -> None:
    """Keeps arrays in place of what the file has; where it cannot be written, says so.

    Args:
        name: What kind of result it is.
        path: The file.
        arrays: By their names, of which ``state`` must not be one.
        state: What the result depends on beyond what the file's name says; an older state's is not read any more.
    """
    content = {**arrays, "state": np.array(state)} if state else arrays
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path, part=f".{uuid.uuid4().hex}.part") as file:
            np.savez(file, **content)  # type: ignore[arg-type]  # the stubs take the names for options
    except OSError as error:
        rank_zero_info(f"the {name} is not kept for the next run: {error}")
