"""Grids of samples, in files and in TensorBoard. Epochs have 6 steps."""

from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toys import NumberData, NumberTask, pixel_data, tiny_gpt, trainer

from lt_cli.callbacks.freeze import Freeze
from lt_cli.callbacks.sample_images import SampleImages
from lt_cli.errors import UserError
from lt_cli.pictures import grid
from lt_cli.tasks.pixel_generation import PixelGeneration


class Painter(NumberTask):
    """Paints its optimiser step, and remembers how it stood."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[int] = []
        self.modes: list[bool] = []
        self.dtypes: list[torch.dtype] = []

    def sample_images(self, num_samples: int) -> np.ndarray:
        self.asked.append(num_samples)
        self.modes.append(any(module.training for module in self.modules()))
        self.dtypes.append((torch.ones(2, 2) @ torch.ones(2, 2)).dtype)
        return np.full((num_samples, 8, 8, 1), self.global_step, np.uint8)


def drawn(root: str = ".") -> list[int]:
    return [int(path.stem.removeprefix("samples-")) for path in sorted(Path(root, "pictures").iterdir())]


class TestFiles:
    """One per n epochs, and one at the end."""

    @pytest.mark.parametrize(
        ("every", "epochs", "steps"), [(1, 3, [6, 12, 18]), (2, 5, [12, 24, 30]), (2, 4, [12, 24]), (9, 2, [12])]
    )
    def test_epochs(self, every: int, epochs: int, steps: list[int]) -> None:
        task = Painter()
        one = trainer(SampleImages(every_n_epochs=every), max_epochs=epochs, default_root_dir=".")
        one.fit(task, NumberData())
        assert drawn() == steps
        assert task.asked == [32] * len(steps), "the last epoch's are not drawn twice"

    def test_the_end_within_an_epoch(self) -> None:
        trainer(SampleImages(every_n_epochs=5), max_steps=8, default_root_dir=".").fit(Painter(), NumberData())
        assert drawn() == [8]

    def test_content(self, caplog: pytest.LogCaptureFixture) -> None:
        callback = SampleImages(num_samples=5, num_columns=2)
        with caplog.at_level("INFO"):
            trainer(callback, max_epochs=1, default_root_dir=".").fit(Painter(), NumberData())
        expected = grid(np.full((5, 8, 8, 1), 6, np.uint8), num_columns=2)
        np.testing.assert_array_equal(np.asarray(Image.open("pictures/samples-0000006.png")), expected)
        assert "samples: pictures/samples-0000006.png" in caplog.text

    def test_tensorboard(self) -> None:
        logger = TensorBoardLogger(".", "runs", "one")
        callback = SampleImages(num_samples=4, num_columns=2)
        trainer(callback, max_epochs=2, logger=logger, default_root_dir="runs/one").fit(Painter(), NumberData())
        logger.experiment.flush()
        events = EventAccumulator(logger.log_dir, size_guidance={"images": 0})
        events.Reload()
        images = events.Images("samples")
        assert [image.step for image in images] == drawn("runs/one") == [6, 12]
        expected = grid(np.zeros((4, 8, 8, 1), np.uint8), num_columns=2)
        assert (images[0].height, images[0].width) == expected.shape[:2]

    def test_of_a_pixel_task(self) -> None:
        """Always the same random numbers, so that only learning changes the pictures."""
        task, data = PixelGeneration(backbone=tiny_gpt(), schedule=None), pixel_data()
        callback = SampleImages(num_samples=6, num_columns=3)
        trainer(callback, max_epochs=1, default_root_dir=".").fit(task, data)
        expected = grid(task.eval().sample_images(6), num_columns=3)
        np.testing.assert_array_equal(np.asarray(Image.open("pictures/samples-0000005.png")), expected)


class TestManners:
    """Drawing does not disturb."""

    def test_drawn_in_eval_mode_and_every_part_as_before(self) -> None:
        task = Painter()
        task.backbone.dropout.eval()
        trainer(SampleImages(), max_epochs=2, default_root_dir=".").fit(task, NumberData())
        assert task.modes == [False, False]
        assert task.backbone.norm.training
        assert not task.backbone.dropout.training

    def test_the_same_weights_with_and_without(self) -> None:
        found = []
        for callbacks in ([], [SampleImages(num_samples=3)]):
            torch.manual_seed(0)
            task = PixelGeneration(backbone=tiny_gpt(dropout=0.3), schedule=None)
            trainer(*callbacks, Freeze("backbone.blocks.0"), max_epochs=3, default_root_dir=".").fit(task, pixel_data())
            found.append(task.state_dict())
        for name, weight in found[0].items():
            assert torch.equal(weight, found[1][name]), name

    def test_in_the_run_s_precision(self) -> None:
        task = Painter()
        trainer(SampleImages(), max_epochs=1, precision="bf16-mixed", default_root_dir=".").fit(task, NumberData())
        assert task.dtypes == [torch.bfloat16]


class TestMistakes:
    """Said before training."""

    @pytest.mark.parametrize("name", ["every_n_epochs", "num_samples", "num_columns"])
    def test_numbers(self, name: str) -> None:
        with pytest.raises(UserError, match=rf"{name} \(0\) must be at least 1"):
            SampleImages(**{name: 0})

    def test_a_task_that_cannot_draw(self) -> None:
        task = NumberTask()
        with pytest.raises(UserError, match="needs a task that draws pictures; NumberTask does not"):
            trainer(SampleImages(), max_epochs=1).fit(task, NumberData())
        assert task.rows["train"] == []
