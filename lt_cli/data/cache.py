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
    if directory is None:
        directory = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lt_cli"
    path = directory / f"{name}-{digest[:16]}.npz"
    if path.exists():
        try:
            with np.load(path) as kept:  # a zip, which compares checksums; never pickles
                return {key: kept[key] for key in kept.files}
        except Exception as error:  # damaged files fail in many ways
            rank_zero_warn(f"computing the {name} anew, as {path} is damaged: {error}")
    arrays = compute()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with written_whole(path, part=f".{uuid.uuid4().hex}.part") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # the stubs take the names for options
    except OSError as error:
        rank_zero_info(f"the {name} is not kept for the next run: {error}")
    return arrays
