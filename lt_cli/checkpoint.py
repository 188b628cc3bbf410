"""What a checkpoint says of the run that wrote it, and the task and data it makes of it."""

import inspect
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_type_hints

import numpy as np
import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lt_cli.checkpoint_io import ours, read
from lt_cli.data.base import DataModule
from lt_cli.errors import UserError
from lt_cli.parser import Parser
from lt_cli.refusals import root_cause
from lt_cli.runs import find
from lt_cli.tasks.base import Task, evaluating


def run_config(
    checkpoint: dict[str, Any], path: _PATH, named_now: Mapping[str, str] = MappingProxyType({})
) -> dict[str, Any]:
    """The configuration of the run that wrote a checkpoint.

    Args:
        checkpoint: Its content.
        path: Where it came from, for the message.
        named_now: Class paths by option, such as model.backbone, that stand for classes which are gone.

    Raises:
        UserError: If it holds none, having been written outside the command line, if a class it names is gone,
            or if it would call what no configuration of ours calls.
    """
    config = ours(checkpoint).get("config")
    if not isinstance(config, dict) or not config.keys() >= {"model", "data"}:
        raise UserError(f"{path} holds no configuration (it was not written by lt_cli's command line): give --config")
    for name, part in _classes(config):
        class_path = part["class_path"]
        if (found := _find(class_path)) is None and name in named_now:
            part["class_path"] = named_now[name]
        elif found is None:
            raise UserError(
                f"{path} was written with the class {class_path}, which is not there: make it importable again, "
                f"or say what it is called now with --{name}=CLASS"
            )
        elif not _builds_a_part(found):
            raise UserError(
                f"{path} is refused: {class_path} in its configuration is not known to build a part of a run"
            )
    return config


def _classes(part: Any, name: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every part of a configuration that says its class, with the option that it stands for."""
    if isinstance(part, dict):
        if isinstance(part.get("class_path"), str):
            yield name, part
        for key, below in part.items():
            yield from _classes(below, name if key == "init_args" else f"{name}.{key}" if name else key)
    if isinstance(part, list):
        for below in part:
            yield from _classes(below, name)


def _find(class_path: str) -> Any:
    """What a class_path names, or None."""
    try:
        return pkgutil.resolve_name(class_path)
    except (ImportError, AttributeError, ValueError):
        return None


def _builds_a_part(part: Any) -> bool:
    """Whether it is a class, whose kind the parser checks, or a function annotated to return a part.

    The parser calls any function that stands for an optimiser or a schedule, ``os.system`` included.
    """
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


GROUPS = ("", "trainer", "checkpoints", "predictions")
"""Where a configuration has options, which versions add to; elsewhere a mapping is a value."""


def changes(checkpoint: dict[str, Any], config: dict[str, Any] | None) -> list[str]:
    """What a configuration has otherwise than that of a checkpoint: name, value, and what it was."""
    before = ours(checkpoint).get("config")
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
        options = "class_path" in old or name in GROUPS or name.endswith(".init_args")
        if not options and old.keys() != new.keys():
            yield name, old, new
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

    def predict(self, rows: Sequence[Any]) -> list[dict[str, Any]]:
        """Each row with what the task says of it, as predict writes it into files.

        Args:
            rows: What the data calls a row: a text, a pair of texts, or a mapping with the columns of its files.

        Raises:
            UserError: If the data takes no rows from Python, or one of them is no row.
        """
        if not isinstance(self.data, DataModule):
            raise UserError(f"{type(self.data).__name__} takes no rows from Python: predict from the command line")
        split, fields = self.data.given(rows)
        lengths = getattr(split, "lengths", np.zeros(len(split)))
        order = np.argsort(-lengths, kind="stable")
        columns: dict[str, list[Any]] = {}
        with evaluating(self.task), torch.no_grad():
            for first in range(0, len(order), self.data.batch_size):
                batch = split.batch(order[first : first + self.data.batch_size].tolist(), 0)
                moved = move_data_to_device(batch, self.task.device)
                for name, values in self.task.predict_step(moved, 0).items():
                    columns.setdefault(name, []).extend(values.tolist() if isinstance(values, Tensor) else values)
        places = np.argsort(columns.get("index", []))
        in_order = {name: [values[i] for i in places] for name, values in columns.items()}
        return self.data.with_predictions(fields, in_order)


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
    except ValueError as error:  # the parser's own, in many lines, where a part refuses what it is told
        if not isinstance(cause := root_cause(error), UserError):
            raise
        raise UserError(f"the configuration in {file}: {cause}") from error
    task, data = parts.model, parts.data
    restore_data(data, checkpoint)
    task.attach(data)
    task.on_load_checkpoint(checkpoint)
    task.load_state_dict(checkpoint["state_dict"])
    return Run(task.eval(), data)
