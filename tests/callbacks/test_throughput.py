"""Tokens or rows per second of training, by a clock that the test moves."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger
from toys import NumberData, NumberTask, Pictures, pixel_data, tiny_gpt, trainer

from lt_cli.callbacks import throughput
from lt_cli.callbacks.throughput import Throughput
from lt_cli.tasks.pixel_generation import PixelGeneration


class Clock(Callback):
    """The n-th batch takes n seconds, and validation a thousand."""

    def __init__(self) -> None:
        self.now, self.batches = 0.0, 0

    def perf_counter(self) -> float:
        return self.now

    def on_train_batch_end(self, *_: Any) -> None:
        self.batches += 1
        self.now += self.batches

    def on_validation_start(self, *_: Any) -> None:
        self.now += 1000


def rates(monkeypatch: pytest.MonkeyPatch, task: Any, data: Any, **options: Any) -> tuple[str, dict[int, float]]:
    """The name that was logged, and what, by step."""
    clock = Clock()
    monkeypatch.setattr(throughput, "time", clock)
    logger = CSVLogger(".", "logs", "")
    trainer(clock, Throughput(), logger=logger, **options).fit(task, data)
    with Path(logger.log_dir, "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    (name,) = (name for name in rows[0] if name.endswith("per_second"))
    return name, {int(row["step"]): float(row[name]) for row in rows if row[name]}


def test_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Epochs of batches of 8, 8, 8, 8 and 4 pictures, each of 16 tokens."""
    task = PixelGeneration(backbone=tiny_gpt(), schedule=None)
    name, found = rates(monkeypatch, task, pixel_data(), max_epochs=2, log_every_n_steps=1)
    assert name == "train/tokens_per_second"
    sizes = [8, 8, 8, 8, 4] * 2
    assert found == {step: pytest.approx(16 * size / (step + 1)) for step, size in enumerate(sizes)}


def test_the_mean_since_the_last_log(monkeypatch: pytest.MonkeyPatch) -> None:
    task = PixelGeneration(backbone=tiny_gpt(), schedule=None)
    _, found = rates(monkeypatch, task, pixel_data(), max_epochs=2, log_every_n_steps=3)
    expected = {2: 24 / (1 + 2 + 3), 5: (8 + 4 + 8) / (4 + 5 + 6), 8: 24 / (7 + 8 + 9)}
    assert found == {step: pytest.approx(16 * rate) for step, rate in expected.items()}


def test_batches_of_an_accumulated_step_count_together(monkeypatch: pytest.MonkeyPatch) -> None:
    task = PixelGeneration(backbone=tiny_gpt(), schedule=None)
    data = pixel_data(Pictures(num_train=54))
    options = {"max_epochs": 1, "log_every_n_steps": 1, "accumulate_grad_batches": 3}
    _, found = rates(monkeypatch, task, data, **options)
    assert len(data.splits["train"]) == 49
    expected = {0: 24 / (1 + 2 + 3), 1: 24 / (4 + 5 + 6), 2: 1 / 7}
    assert found == {step: pytest.approx(16 * rate) for step, rate in expected.items()}


def test_rows_where_there_are_no_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    name, found = rates(monkeypatch, NumberTask(), NumberData(), max_epochs=1, log_every_n_steps=2)
    assert name == "train/rows_per_second"
    assert found == {1: pytest.approx(8 / 3), 3: pytest.approx(8 / 7), 5: pytest.approx(8 / 11)}


def test_an_interval_of_zero_and_batches_of_another_kind() -> None:
    one = trainer(Throughput(), max_epochs=1, log_every_n_steps=0)
    one.fit(NumberTask(), NumberData())
    assert not any("per_second" in name for name in one.logged_metrics)

    class Plain(NumberTask):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return self.backbone(batch).mean()

    one = trainer(Throughput(), max_epochs=1, log_every_n_steps=1)
    one.fit(Plain(), torch.utils.data.DataLoader([torch.ones(1)] * 4, batch_size=2))
    assert not any("per_second" in name for name in one.logged_metrics)
