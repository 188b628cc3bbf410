"""Grids of pictures, as files and on TensorBoard."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contract_suite import ROOT, only_run
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toys import trainer

from lt_cli.cli import run
from lt_cli.pictures import MARGIN, grid, save_png, show


def images_on_board(directory: Path) -> dict[str, list[Any]]:
    """The pictures in all logs of a directory, by name."""
    found: dict[str, list[Any]] = {}
    for path in sorted(directory.glob("events.*")):
        log = EventAccumulator(str(path)).Reload()
        for name in log.Tags()["images"]:
            found.setdefault(name, []).extend(log.Images(name))
    return found


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


def test_a_picture_is_a_file_and_on_tensorboard() -> None:
    board = TensorBoardLogger("logs", name="mine", version="0")
    sheet = np.random.default_rng(0).integers(256, size=(6, 9, 3), dtype=np.uint8)
    one = trainer(logger=[CSVLogger("logs"), board])
    assert show(one, "mistakes", sheet, Path("here/mistakes.png")) == Path("here/mistakes.png")
    np.testing.assert_array_equal(np.asarray(Image.open("here/mistakes.png")), sheet)
    board.finalize("success")
    (image,) = images_on_board(Path("logs/mine/0"))["mistakes"]
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(image.encoded_image_string))), sheet)


def test_a_run_shows_its_first_batch_and_its_mistakes() -> None:
    config = ROOT / "tests" / "contract" / "classification.yaml"
    run(["fit", f"--config={config}", "--trainer.max_epochs=1"])
    run(["test", "--ckpt_path=last", "--trainer.accelerator=cpu", "--trainer.limit_test_batches=2"])
    directory = only_run("classification")
    found = images_on_board(directory)
    for name, file in (
        ("batch", "batch.png"),
        ("mistakes", "pictures/mistakes.png"),
        ("confusion", "pictures/confusion.png"),
    ):
        shown = np.asarray(Image.open(io.BytesIO(found[name][-1].encoded_image_string)))
        np.testing.assert_array_equal(shown, np.asarray(Image.open(directory / file)))
