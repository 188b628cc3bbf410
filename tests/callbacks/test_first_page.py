"""What stands on the page before the first step, and that the run does not notice it."""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from PIL import Image
from torch.utils.data import DataLoader
from toys import NumberData, NumberTask, Pictures, pixel_data, tiny_gpt, trainer

from lt_cli.callbacks import first_page
from lt_cli.callbacks.first_page import FirstPage
from lt_cli.callbacks.freeze import Freeze
from lt_cli.tasks.pixel_classification import PixelClassification
from lt_cli.tasks.pixel_generation import PixelGeneration


def page(task: Any, data: Any, caplog: pytest.LogCaptureFixture, *callbacks: Callback, **options: Any) -> list[str]:
    """The lines of the page."""
    options = {"max_steps": 1, "limit_val_batches": 0, "default_root_dir": "here", **options}
    with caplog.at_level("INFO"):
        trainer(*callbacks, FirstPage(), **options).fit(task, data)
    (text,) = (record.getMessage() for record in caplog.records if "parameters:" in record.getMessage())
    return text.strip().splitlines()


def first_rows(data: Any) -> list[int]:
    """Those of the first step."""
    rows: list[int] = next(iter(data.loader("train")))["index"].tolist()
    return rows


class TestText:
    """Data, parameters, loss, time, place."""

    def test_of_pictures(self, caplog: pytest.LogCaptureFixture) -> None:
        task, data = PixelGeneration(backbone=tiny_gpt(dropout=0.5), schedule=None), pixel_data()
        number = sum(parameter.numel() for parameter in task.parameters())
        task.eval()
        data.setup("fit")
        batch = data.splits["train"].batch(first_rows(data), 0)
        loss = task.step(batch, "train")["loss"].item()
        task.train()
        lines = page(task, data, caplog)
        assert re.fullmatch(r"train: 36 pictures · cat \d+ dog \d+", lines[0])
        assert lines[1].startswith("val: 4 pictures")
        assert lines[2:4] == ["each 4 × 4, 5 colours", "a batch: here/batch.png"]
        assert lines[4] == f"parameters: {number:,} trainable, 0 frozen"
        assert lines[5] == f"first loss: {loss:.4f} (ln V = {math.log(5):.4f})"
        assert re.fullmatch(r"time: about [\d.]+ ms a step, \d+ s an epoch of 5 steps", lines[6])
        assert lines[7] == "run: here"
        assert len(lines) == 8
        assert Image.open("here/batch.png").width > 0

    @pytest.mark.parametrize(("limit", "passes"), [(0.0, 1), (1000.0, 2)])
    def test_a_long_step_is_guessed(
        self, limit: float, passes: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(first_page, "LONG", limit)
        task = PixelGeneration(backbone=tiny_gpt(), schedule=None)
        steps: list[bool] = []
        task.backbone.register_forward_hook(lambda *_: steps.append(torch.is_grad_enabled()))
        lines = page(task, pixel_data(), caplog)
        assert re.fullmatch(r"time: about [\d.]+ ms a step, \d+ s an epoch of 5 steps", lines[6])
        assert steps == [*[False, True][:passes], True], "the page's passes, and the one of training"

    def test_frozen_parameters(self, caplog: pytest.LogCaptureFixture) -> None:
        task = PixelClassification(backbone=tiny_gpt(), schedule=None, generative_weight=0.0)
        frozen = sum(parameter.numel() for parameter in task.backbone.parameters())
        lines = page(task, pixel_data(), caplog, Freeze("backbone"))
        assert f"parameters: {8 * 2 + 2} trainable, {frozen:,} frozen" in lines

    def test_of_data_without_tokens(self, caplog: pytest.LogCaptureFixture) -> None:
        lines = page(NumberTask(), NumberData(), caplog)
        assert lines[0] == "train: 24 rows"
        assert any(re.fullmatch(r"first loss: \d+\.\d{4}", line) for line in lines)

    def test_of_foreign_data(self, caplog: pytest.LogCaptureFixture) -> None:
        rows = DataLoader([{"index": row, "x": torch.ones(1)} for row in range(4)], batch_size=2)
        options = {"max_steps": 1, "default_root_dir": "here"}
        with caplog.at_level("INFO"):
            trainer(FirstPage(), **options).fit(NumberTask(), rows)
        assert "parameters: 4 trainable, 0 frozen\nrun: here" in caplog.text

    def test_once_per_fit(self, caplog: pytest.LogCaptureFixture) -> None:
        page(NumberTask(), NumberData(), caplog, max_steps=-1, max_epochs=3)

    def test_a_batch_larger_than_the_data(self, caplog: pytest.LogCaptureFixture) -> None:
        assert "train: 3 rows" in page(NumberTask(), NumberData(num_train=3, batch_size=64), caplog)

    def test_the_picture_shows_what_the_first_step_sees(self, caplog: pytest.LogCaptureFixture) -> None:
        data = pixel_data(Pictures(num_train=400), batch_size=100)
        page(PixelGeneration(backbone=tiny_gpt(), schedule=None), data, caplog)
        expected = Path("expected")
        expected.mkdir()
        data.preview(data.splits["train"].batch(first_rows(data)[:32], 0), expected)
        shown, whole = (np.asarray(Image.open(Path(folder, "batch.png"))) for folder in ("here", "expected"))
        np.testing.assert_array_equal(shown, whole)


class Watch(Callback):
    """What could have changed."""

    def __init__(self) -> None:
        self.seen: dict[str, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.seen = {
            "random": torch.get_rng_state().tolist(),
            "modes": [module.training for module in pl_module.modules()],
            "gradients": [None if p.grad is None else p.grad.tolist() for p in pl_module.parameters()],
            "state": {name: value.tolist() for name, value in pl_module.state_dict().items()},
            "metrics": dict(trainer.callback_metrics),
        }


class TestLeavesNoTrace:
    """A run with it is the run without it."""

    @pytest.mark.parametrize("gradient", [None, 3.0])
    def test_numbers_modes_gradients_and_statistics(self, gradient: float | None) -> None:
        class Prepared(Callback):
            def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
                pl_module.backbone.dropout.eval()
                for parameter in pl_module.parameters():
                    parameter.grad = None if gradient is None else torch.full_like(parameter, gradient)

        before, after = Watch(), Watch()
        trainer(Prepared(), before, FirstPage(), after, max_steps=1).fit(NumberTask(), NumberData())
        assert before.seen == after.seen
        assert set(before.seen["modes"]) == {True, False}

    @pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
    def test_half_precision(self, precision: str, caplog: pytest.LogCaptureFixture) -> None:
        lines = page(NumberTask(), NumberData(), caplog, precision=precision)
        assert any(line.startswith("first loss: ") for line in lines)

    def test_the_same_weights(self) -> None:
        """Dropout draws, batch norm counts, pictures are cropped: all as if there had been no page."""
        tasks = []
        for callbacks in ([], [FirstPage()]):
            torch.manual_seed(0)
            data = pixel_data(crop_padding=1, flip=True)
            task = PixelClassification(backbone=tiny_gpt(dropout=0.3), schedule=None, layer=1)
            trainer(*callbacks, max_epochs=2).fit(task, data)
            tasks.append(task.state_dict())
        for name, weight in tasks[0].items():
            assert torch.equal(weight, tasks[1][name]), name
