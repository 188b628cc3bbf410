"""Every public constructor is a configuration: typed, documented, without **kwargs."""

import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import get_type_hints

import docstring_parser
import pytest
from lightning.pytorch import Callback, LightningDataModule

from lt_cli.backbones.base import Backbone
from lt_cli.optim import OneCycle, Warmup
from lt_cli.tasks.base import Task

PACKAGE = Path(__file__).parent.parent / "lt_cli"


def public_classes() -> Iterator[type]:
    """Classes that a class_path may name: everything a user configures."""
    for path in sorted(PACKAGE.glob("*/*.py")):
        module = importlib.import_module(".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts))
        for name, member in vars(module).items():
            if inspect.isclass(member) and member.__module__ == module.__name__ and not name.startswith("_"):
                bases = {base.__name__ for base in member.__mro__}
                if issubclass(member, (Backbone, Task, LightningDataModule, Callback)) or bases & {
                    "ImageSource",
                    "Palette",
                    "RowSource",
                    "VideoFeatures",
                }:
                    yield member
    yield from (Warmup, OneCycle)


@pytest.mark.parametrize("cls", list(public_classes()), ids=lambda cls: cls.__name__)
def test_constructor_is_a_configuration(cls: type) -> None:
    if inspect.isabstract(cls) or "__init__" not in vars(cls):
        return
    hints = get_type_hints(vars(cls)["__init__"])
    documented = {parameter.arg_name for parameter in docstring_parser.parse(cls.__doc__ or "").params}
    for name, parameter in inspect.signature(cls).parameters.items():
        assert parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL), f"{cls.__name__} takes *{name}"
        assert name in hints, f"{cls.__name__}.{name} has no type"
        assert name in documented, f"{cls.__name__}.{name} is not in Args:"
        assert name not in {"config", "help", "class_path", "init_args"}


def test_there_is_something_to_check() -> None:
    names = {cls.__name__ for cls in public_classes()}
    assert {"GPT", "PixelGeneration", "PixelData", "Freeze", "Digits", "KMeansPalette"} <= names
