"""Grids of pictures, as files and in TensorBoard."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from numpy.typing import NDArray
from PIL import Image

MARGIN = 2
SMALLEST_SIDE = 96
"""Pictures are enlarged by a whole factor until their shorter side has about this many pixels."""


def grid(pictures: NDArray[np.uint8], num_columns: int) -> NDArray[np.uint8]:
    """One picture of many, row by row on white, enlarged by a whole factor.

    Shape:
        - pictures: (N, H, W, C), uint8, C 1 or 3
        - output: (rows, columns, 3), uint8
    """
    factor = max(1, SMALLEST_SIDE // min(pictures.shape[1:3]))
    tiles = pictures.repeat(factor, axis=1).repeat(factor, axis=2)
    num, height, width, channels = tiles.shape
    num_rows = -(-num // num_columns)
    sheet = np.full(
        (num_rows * (height + MARGIN) + MARGIN, num_columns * (width + MARGIN) + MARGIN, 3), 255, dtype=np.uint8
    )
    for i, tile in enumerate(tiles):
        top = MARGIN + i // num_columns * (height + MARGIN)
        left = MARGIN + i % num_columns * (width + MARGIN)
        sheet[top : top + height, left : left + width] = tile if channels == 3 else tile.repeat(3, axis=2)
    return sheet


def tensorboards(trainer: Trainer) -> Iterator[Any]:
    """The writers of all TensorBoard loggers."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            yield logger.experiment


def show(trainer: Trainer, name: str, sheet: NDArray[np.uint8], path: Path) -> Path:
    """Writes a picture, and puts it on TensorBoard, where there is one."""
    for board in tensorboards(trainer):
        board.add_image(name, sheet, trainer.global_step, dataformats="HWC")
    return save_png(sheet, path)


def save_png(sheet: NDArray[np.uint8], path: Path) -> Path:
    """Writes a picture, making its directory, and returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet).save(path)
    return path
