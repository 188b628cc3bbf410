"""Grids of pictures."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lt_cli.pictures import MARGIN, grid, save_png


def colors(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)  # never the white of the margin


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("height", "width", "factor"), [(96, 130, 1), (32, 32, 3), (28, 28, 3), (4, 7, 24), (200, 100, 1)]
)
def test_every_pixel_is_where_it_belongs(height: int, width: int, factor: int, channels: int) -> None:
    pictures = colors(5, height, width, channels)
    sheet = grid(pictures, num_columns=3)
    tall, wide = height * factor + MARGIN, width * factor + MARGIN
    assert sheet.dtype == np.uint8
    assert sheet.shape == (2 * tall + MARGIN, 3 * wide + MARGIN, 3)
    white = np.ones(sheet.shape[:2], bool)
    for i, picture in enumerate(pictures):
        top, left = MARGIN + i // 3 * tall, MARGIN + i % 3 * wide
        for y, x in [(0, 0), (height - 1, width - 1), (height // 2, width // 3)]:
            block = sheet[top + y * factor : top + (y + 1) * factor, left + x * factor : left + (x + 1) * factor]
            assert (block == picture[y, x]).all()
        tile = sheet[top : top + height * factor, left : left + width * factor]
        np.testing.assert_array_equal(tile[::factor, ::factor], np.broadcast_to(picture, (height, width, 3)))
        white[top : top + height * factor, left : left + width * factor] = False
    assert (sheet[white] == 255).all()
    assert (sheet[~white] < 255).all()


def test_one_picture_in_many_columns() -> None:
    assert grid(colors(1, 96, 96, 1), num_columns=4).shape == (96 + 2 * MARGIN, 4 * (96 + MARGIN) + MARGIN, 3)


def test_png_is_lossless_and_makes_its_directory(tmp_path: Path) -> None:
    sheet = grid(colors(3, 8, 8, 3), num_columns=2)
    path = save_png(sheet, tmp_path / "a" / "b" / "sheet.png")
    assert path == tmp_path / "a" / "b" / "sheet.png"
    np.testing.assert_array_equal(np.asarray(Image.open(path)), sheet)
