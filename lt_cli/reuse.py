"""Parts of a finished run as parts of a new one, chosen by class_path, with no size said again."""

import copy
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from lt_cli.backbones.base import CausalBackbone, CausalVectorBackbone
from lt_cli.checkpoint import load, run_config
from lt_cli.checkpoint_io import read
from lt_cli.data.palette import Palette
from lt_cli.errors import UserError
from lt_cli.runs import find

B = TypeVar("B", bound=CausalBackbone)


def causal_backbone(path: str) -> CausalBackbone:
    """The backbone of a checkpoint, with its weights.

    Args:
        path: A checkpoint, or a directory of runs, such as runs/igpt_digits, for the best one of the newest.
    """
    return _backbone(path, CausalBackbone, "a causal one")  # type: ignore[type-abstract]


def causal_vector_backbone(path: str) -> CausalVectorBackbone:
    """The backbone of a checkpoint, with its weights, as the text model of lt_cli.backbones.video_text.VideoText.

    Args:
        path: A checkpoint, or a directory of runs, such as runs/lm_bytes, for the best one of the newest.
    """
    return _backbone(path, CausalVectorBackbone, "a causal one that reads vectors")  # type: ignore[type-abstract]


def _backbone(path: str, kind: type[B], what: str) -> B:
    file = find(path)
    if file is None:
        raise UserError(f"there is no checkpoint under {path}")
    backbone = load(file).task.backbone
    if not isinstance(backbone, kind):
        raise UserError(f"the backbone of {file} is a {type(backbone).__name__}, not {what}")
    backbone.rebuild_config = copy.deepcopy(
        run_config(read(file, weights=False), file)["model"]["init_args"]["backbone"]
    )
    return backbone.train()


class CheckpointPalette(Palette):
    """The palette that the data of a checkpoint learned.

    Args:
        path: A checkpoint, or a directory of runs for the best one of the newest.
    """

    learned = False

    def __init__(self, path: str) -> None:
        """Reads nothing."""
        self.path = path

    def fit(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The colours (K, C), whatever the pictures."""
        file = find(self.path)
        if file is None:
            raise UserError(f"there is no checkpoint under {self.path}")
        for part in read(file, weights=False).values():
            if isinstance(part, dict) and "centroids" in part:
                return part["centroids"].numpy()  # type: ignore[no-any-return]
        raise UserError(f"the data of {file} has no palette")
