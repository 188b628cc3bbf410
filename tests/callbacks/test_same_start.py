"""Processes that did not find the checkpoint that the first one found."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lt_cli.callbacks.same_start import SameStart
from lt_cli.errors import UserError


def checkpoint(root: str, content: bytes = b"weights") -> Path:
    path = Path(root, "igpt", "today", "checkpoints", "last.ckpt")
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


def begin(first: Path | str | None, own: Path | str | None) -> None:
    """As process 3, which all others agree with."""
    told = SameStart(first)._identity()
    strategy = SimpleNamespace(broadcast=lambda own: told, reduce_boolean_decision=lambda alike: alike)
    at: Any = SimpleNamespace(strategy=strategy, global_rank=3)
    SameStart(own).setup(at, at, "fit")


def test_the_same_however_its_directory_is_called() -> None:
    begin(checkpoint("here"), checkpoint("there"))
    begin(None, None)
    begin("s3://bucket/last.ckpt", "s3://bucket/last.ckpt")
    for name in ("here", "there"):
        Path(name, "igpt", "today", "checkpoints", "shards").mkdir()
    begin(*(f"{name}/igpt/today/checkpoints/shards" for name in ("here", "there")))


@pytest.mark.parametrize(("first", "own"), [(True, False), (False, True)])
def test_one_found_none(first: bool, own: bool) -> None:
    path = checkpoint("here")
    begins, other = (("igpt/today/checkpoints/last.ckpt" if found else "no checkpoint") for found in (own, first))
    with pytest.raises(UserError) as caught:
        begin(path if first else None, path if own else None)
    assert str(caught.value) == (
        f"process 3 begins with {begins}, the first one with {other}: "
        "all hosts must find the same checkpoint, in a --trainer.default_root_dir that they share"
    )


def test_others_of_one_name() -> None:
    with pytest.raises(UserError, match="all hosts must find the same checkpoint"):
        begin(checkpoint("here"), checkpoint("there", b"other weights"))
