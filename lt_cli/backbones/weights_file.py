"""Weights in a file of the user's, for a model whose output layer is off."""

from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lt_cli.errors import UserError, one_line

SUFFIXES = (".pth", ".pt", ".safetensors")
"""What files of weights end in."""

CONTAINERS = ("state_dict", "model")
"""Under which name training scripts keep the weights beside other things."""

OPTION = "--model.backbone.init_args.weights=FILE"


def is_file(weights: str) -> bool:
    """Whether they are meant to be a file, not a name."""
    return weights.endswith(SUFFIXES) or Path(weights).exists()


def read_weights(path: str) -> "OrderedDict[str, Tensor]":
    """The weights of a file by their names, without what a training script puts around them.

    Raises:
        UserError: If it is not there, or holds anything but weights.
    """
    if not Path(path).is_file():
        raise UserError(f"weights ({path!r}) must be a file, and there is none: {OPTION}")
    try:
        content = _content(path)
    except Exception as error:  # of a broken file, which may raise anything
        raise UserError(
            f"weights ({path!r}) must be a file of weights alone, .pth or .safetensors: {one_line(error)}"
        ) from error
    for name in CONTAINERS:
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
    if not (content and isinstance(content, dict) and all(isinstance(weight, Tensor) for weight in content.values())):
        raise UserError(f"weights ({path!r}) must be a file of weights by their names, as state_dict() gives: {OPTION}")
    weights = OrderedDict((name.removeprefix("module."), weight) for name, weight in content.items())
    if (versions := getattr(content, "_metadata", None)) is not None:
        _set_versions(weights, {name.removeprefix("module").removeprefix("."): of for name, of in versions.items()})
    return weights


def _content(path: str) -> Any:
    if path.endswith(".safetensors"):
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _set_versions(weights: "OrderedDict[str, Tensor]", versions: dict[str, Any]) -> None:
    """Says what version of its module each weight is of, where torch looks for it."""
    weights._metadata = versions  # type: ignore[attr-defined]


def load_weights(
    model: nn.Module, weights: "OrderedDict[str, Tensor]", *, path: str, name: str, without: Iterable[str]
) -> None:
    """Fills a model with weights, each of which it must have, and all of which it must get.

    Args:
        model: Has no output layer any more.
        weights: From ``read_weights``.
        path: Of their file, for messages.
        name: Of the model, for messages.
        without: Names of the parts that were taken off, whose weights are left out where the file has them.

    Raises:
        UserError: If some are missing, unexpected, or of another shape.
    """
    taken_off = tuple(f"{part}." for part in without)
    own = model.state_dict()
    kept = OrderedDict((key, weight) for key, weight in weights.items() if not key.startswith(taken_off))
    # files of safetensors say no versions, and are of the present ones
    _set_versions(kept, getattr(weights, "_metadata", None) or own._metadata)  # type: ignore[attr-defined]
    counted = [key for key in own if key.endswith("num_batches_tracked")]  # which no file before 2018 has
    found = {
        "lack": [key for key in own if key not in kept and key not in counted],
        "also have": [key for key in kept if key not in own],
        "have another shape of": [key for key in kept if key in own and kept[key].shape != own[key].shape],
    }
    for fault, keys in found.items():
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise UserError(f"weights ({path!r}) must be those of {name}, and {fault} {keys[0]}{more}: {OPTION}")
    kept.update((key, own[key]) for key in counted if key not in kept)
    model.load_state_dict(kept)
