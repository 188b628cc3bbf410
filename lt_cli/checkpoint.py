"""What a checkpoint holds, and how it is written and read without loss or risk."""

import contextlib
import inspect
import io
import os
import pickle
import pkgutil
import re
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

import torch
from lightning.fabric.utilities.cloud_io import get_filesystem
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch import LightningDataModule
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lt_cli.errors import RunError, UserError
from lt_cli.parser import Parser
from lt_cli.runs import find, run_of
from lt_cli.tasks.base import CHECKPOINT_FORMAT, Task


class CheckpointIO(TorchCheckpointIO):
    """Writes beside the target, syncs, renames; reads plain types and tensors only, never code."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any = None) -> None:
        """Leaves either the new file or the old one, whole, whatever happens in between."""
        _refuse_objects(checkpoint)
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path)
        part = target.with_name(target.name + ".part")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            part.replace(target)
            _sync(target.parent)
        except (OSError, RuntimeError) as error:  # torch's writer turns a full disk into a RuntimeError
            with contextlib.suppress(OSError):
                part.unlink()
            cause = error if isinstance(error, OSError) else error.__context__ or error
            kept = f"; {target} is the last good checkpoint" if target.exists() else ""
            raise RunError(f"the checkpoint {target} could not be written: {cause}{kept}") from error

    def load_checkpoint(
        self, path: _PATH, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Reads what ``read`` reads; ``weights_only`` has no say, as a checkpoint is never trusted with code."""
        return read(path)


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


def _sync(directory: Path) -> None:
    """Makes a new name in a directory survive a power cut, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read(path: _PATH) -> dict[str, Any]:
    """The content of a checkpoint, every byte of it checked.

    Raises:
        UserError: If there is no such file, it is truncated, damaged or not a checkpoint, it holds anything but
            plain types and tensors, or its format is of a later version. It names the newest good one beside it.
    """
    try:
        return _read(path)
    except UserError as error:
        good = None if "://" in str(path) else _newest_good(Path(path))
        raise UserError(f"{error}; the newest good one is {good}" if good else str(error)) from error


def _read(path: _PATH) -> dict[str, Any]:
    if "://" not in str(path) and not Path(path).is_file():
        raise UserError(f"there is no checkpoint {path}")
    try:
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
    found = _ours(checkpoint).get("format", 0)
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
                    _read(other)
                    return other
    return None


def _ours(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """What ``Task.on_save_checkpoint`` added, or nothing."""
    part = checkpoint.get("lt_cli")
    return part if isinstance(part, dict) else {}


def run_config(checkpoint: dict[str, Any], path: _PATH) -> dict[str, Any]:
    """The configuration of the run that wrote a checkpoint.

    Raises:
        UserError: If it holds none, having been written outside the command line, or if it would call what no
            configuration of ours calls.
    """
    config = _ours(checkpoint).get("config")
    if not isinstance(config, dict) or not config.keys() >= {"model", "data"}:
        raise UserError(f"{path} holds no configuration (it was not written by lt_cli's command line): give --config")
    for class_path in _class_paths(config):
        if not _builds_a_part(class_path):
            raise UserError(
                f"{path} is refused: {class_path} in its configuration is not known to build a part of a run"
            )
    return config


def _class_paths(part: Any) -> Iterator[str]:
    """Every class_path within a configuration."""
    if isinstance(part, dict):
        if isinstance(class_path := part.get("class_path"), str):
            yield class_path
        part = list(part.values())
    if isinstance(part, list):
        for below in part:
            yield from _class_paths(below)


def _builds_a_part(class_path: str) -> bool:
    """Whether a class_path names a class, whose kind the parser checks, or a function annotated to return a part.

    The parser calls any function that stands for an optimiser or a schedule, ``os.system`` included. What cannot
    be found is the parser's to explain.
    """
    try:
        part = pkgutil.resolve_name(class_path)
    except (ImportError, AttributeError, ValueError):
        return True
    if inspect.isclass(part):
        return True
    try:
        kind = get_type_hints(part).get("return")
    except (NameError, TypeError):
        return False
    bases = kind.__mro__ if inspect.isclass(kind) else ()
    return any(base in (nn.Module, Optimizer, LRScheduler) or base.__module__.startswith("lt_cli.") for base in bases)


SAME_RUN = ("trainer.default_root_dir", "trainer.logger", "trainer.enable_progress_bar", "predictions")
"""What may differ between two sessions of one run without a word."""


def changes(checkpoint: dict[str, Any], config: dict[str, Any] | None) -> list[str]:
    """What a configuration has otherwise than that of a checkpoint: name, value, and what it was."""
    before = _ours(checkpoint).get("config")
    if not isinstance(before, dict) or config is None:
        return []
    return [
        f"{name.replace('.init_args', '')} {_short(new)} (was {_short(old)})"
        for name, old, new in _differences(before, config)
        if not name.startswith(SAME_RUN)
    ]


def _differences(old: Any, new: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Name, old and new value of all that differs; of another class only the class."""
    if isinstance(old, dict) and isinstance(new, dict):
        if old.get("class_path") != new.get("class_path"):
            yield name, old.get("class_path"), new.get("class_path")
            return
        for key in old:
            if key in new:  # what an earlier version did not know yet has its default
                yield from _differences(old[key], new[key], f"{name}.{key}" if name else key)
    elif _plain(old) != _plain(new):
        yield name, old, new


def _plain(value: Any) -> Any:
    """Tuples as the lists that they become in YAML."""
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _short(value: Any) -> str:
    text = str(value.get("class_path", value)) if isinstance(value, dict) else str(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


def restore_data(data: LightningDataModule, checkpoint: dict[str, Any]) -> None:
    """Gives a datamodule what it learned in the run, before ``setup``."""
    if state := checkpoint.get(type(data).__qualname__):
        data.load_state_dict(state)


@dataclass(frozen=True)
class Run:
    """A finished run, back in Python: the task in eval mode with its weights, and its data with what it learned."""

    task: Task
    data: LightningDataModule


def load(path: str | Path) -> Run:
    """The task and the data of a checkpoint, from the file alone; data is read once its ``setup`` is called.

    Args:
        path: A checkpoint, or a directory of runs for the best one of the newest.
    """
    file = find(str(path))
    if file is None:
        raise UserError(f"there is no checkpoint under {path}")
    checkpoint = read(file)
    config = run_config(checkpoint, file)
    parser = Parser()
    parser.add_subclass_arguments(Task, "model")
    parser.add_subclass_arguments(LightningDataModule, "data")
    try:
        parts = parser.instantiate_classes(parser.parse_object({name: config[name] for name in ("model", "data")}))
    except UserError as error:
        raise UserError(f"the configuration in {file}: {error}") from error
    task, data = parts.model, parts.data
    restore_data(data, checkpoint)
    task.attach(data)
    task.on_load_checkpoint(checkpoint)
    task.load_state_dict(checkpoint["state_dict"])
    return Run(task.eval(), data)
