"""How a checkpoint is written and read without loss or risk."""

import contextlib
import io
import pickle
import re
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.cloud_io import get_filesystem
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

from lt_cli import shards
from lt_cli.errors import RunError, UserError
from lt_cli.files import written_whole
from lt_cli.runs import run_of
from lt_cli.tasks.base import CHECKPOINT_FORMAT


class CheckpointIO(TorchCheckpointIO):
    """Writes beside the target, syncs, renames; reads plain types and tensors only, never code."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any = None) -> None:
        """Leaves either the new file or the old one, whole, whatever happens in between."""
        _refuse_objects(checkpoint)
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with written_whole(target) as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:  # torch's writer turns a full disk into a RuntimeError
            if isinstance(error.__context__, SystemExit | KeyboardInterrupt):
                raise error.__context__ from None  # a second Ctrl-C, which torch's writer wraps
            cause = error if isinstance(error, OSError) else error.__context__ or error
            kept = f"; {target} is the last good checkpoint" if target.exists() else ""
            raise RunError(f"the checkpoint {target} could not be written: {cause}{kept}") from error

    def load_checkpoint(
        self, path: _PATH, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Reads what ``read`` reads; ``weights_only`` has no say, as a checkpoint is never trusted with code."""
        return read(path, optimizers=True)


def _refuse_objects(checkpoint: dict[str, Any]) -> None:
    """What is no plain type would be written, but never read again."""
    for part, content in checkpoint.items():
        buffer = io.BytesIO()
        try:
            torch.save(_without_data(content), buffer)
            buffer.seek(0)
            torch.load(buffer, weights_only=True)
        except (pickle.PickleError, AttributeError, TypeError) as error:
            found = re.search(r"GLOBAL (\S+)", str(error))
            what = found[1] if found else str(error).partition("\n")[0]
            raise RunError(
                f"the checkpoint's {part} holds {what}, which could not be read back: "
                "let state_dict and on_save_checkpoint give tensors and plain types only"
            ) from error


def _without_data(content: Any) -> Any:
    """The same containers and objects with empty tensors, which cost nothing to write."""
    if isinstance(content, Tensor):
        return torch.empty(0)
    if type(content) in (dict, OrderedDict):
        return {key: _without_data(value) for key, value in content.items()}
    if type(content) in (list, tuple):
        return [_without_data(value) for value in content]
    return content


def read(path: _PATH, *, weights: bool = True, optimizers: bool = False) -> dict[str, Any]:
    """The content of a checkpoint, every byte of it checked.

    Args:
        path: A file here or an address, or a directory of shards.
        weights: Whether to put the weights together where they are in shards.
        optimizers: Whether to put the optimisers' states together there, two or three times as much.

    Raises:
        UserError: If there is no such file, it is truncated, damaged or not a checkpoint, it holds anything but
            plain types and tensors, or its format is of a later version. It names the newest good one beside it.
    """
    try:
        return _read(path, weights, optimizers)
    except UserError as error:
        good = None if "://" in str(path) else _newest_good(Path(path))
        raise UserError(f"{error}; the newest good one is {good}" if good else str(error)) from error


def _read(path: _PATH, weights: bool, optimizers: bool = False) -> dict[str, Any]:
    if "://" not in str(path) and not Path(path).exists():
        raise UserError(f"there is no checkpoint {path}")
    if "://" not in str(path) and (converter := Path(path) / shards.OF_DEEPSPEED).is_file():
        raise UserError(
            f"{path} is a checkpoint of DeepSpeed's own, which is not read here: "
            f"python {converter} {path} FILE puts its weights into a file for torch"
        )
    try:
        if "://" not in str(path) and Path(path).is_dir():
            checkpoint = shards.read(Path(path), weights=weights, optimizers=optimizers)
        else:
            with get_filesystem(path).open(str(path), "rb") as file:
                _refuse_damage(file)
                checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is not a checkpoint of tensors and plain types, or holds code, which is never run"
        ) from error
    except Exception as error:  # damaged files fail in many ways
        cause = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(f"{path} is truncated or no checkpoint: {cause}") from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise UserError(f"{path} is not a training checkpoint: it has no state_dict")
    found = ours(checkpoint).get("format", 0)
    if not isinstance(found, int) or found > CHECKPOINT_FORMAT:
        raise UserError(f"{path} has format {found}, this version reads up to {CHECKPOINT_FORMAT}: update lt_cli")
    return checkpoint


def _refuse_damage(file: Any) -> None:
    """Compares the checksums that torch writes and does not look at."""
    if zipfile.is_zipfile(file):
        file.seek(0)
        with zipfile.ZipFile(file) as parts:
            if damaged := parts.testzip():
                raise ValueError(f"the checksum of {damaged} is wrong")
    file.seek(0)


def _newest_good(path: Path) -> Path | None:
    """The checkpoint of the same run that was written last, of those that can be read, or of the config's runs."""
    run = run_of(path)
    if run is None:
        return None
    for place in (run, run.parent):
        for other in sorted(place.glob("**/checkpoints/*.ckpt"), key=lambda one: one.stat().st_mtime, reverse=True):
            if other != path:
                with contextlib.suppress(UserError):
                    _read(other, weights=False)
                    return other
    return None


def ours(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """What ``Task.on_save_checkpoint`` added, or nothing."""
    part = checkpoint.get("lt_cli")
    return part if isinstance(part, dict) else {}
