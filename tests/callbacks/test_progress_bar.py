"""The progress bar: seldom told, but right whenever training pauses."""

from typing import Any

import pytest
from toys import NumberData, NumberTask, trainer

from lt_cli.callbacks import progress_bar
from lt_cli.callbacks.progress_bar import ProgressBar


class Shown(ProgressBar):
    """Notes what it shows of the epoch, and when."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[tuple[str, int]] = []

    def train_done(self) -> float:
        return self.train_progress_bar.completed

    def on_train_batch_end(self, *arguments: Any) -> None:
        super().on_train_batch_end(*arguments)
        self.shown.append(("batch", int(self.train_done())))

    def on_validation_start(self, *arguments: Any) -> None:
        super().on_validation_start(*arguments)
        self.shown.append(("validation", int(self.train_done())))

    def on_train_epoch_end(self, *arguments: Any) -> None:
        super().on_train_epoch_end(*arguments)
        self.shown.append(("end", int(self.train_done())))


class Clock:
    """Moves by as much as it is told at each look."""

    def __init__(self, seconds: float) -> None:
        self.now, self.seconds = 1000.0, seconds

    def monotonic(self) -> float:
        self.now += self.seconds
        return self.now


def shown(monkeypatch: pytest.MonkeyPatch, seconds: float, **options: Any) -> list[tuple[str, int]]:
    """What is shown of an epoch of six batches that take a time each."""
    monkeypatch.setattr(progress_bar, "time", Clock(seconds))
    bar = Shown()
    trainer(bar, max_epochs=1, **{"enable_progress_bar": True, **options}).fit(NumberTask(), NumberData())
    return bar.shown


def test_slow_steps_are_all_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = [done for when, done in shown(monkeypatch, 1.0) if when == "batch"]
    assert batches == [1, 2, 3, 4, 5, 6]


def test_of_fast_steps_some_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = [done for when, done in shown(monkeypatch, 0.1) if when == "batch"]
    assert batches == [1, 1, 1, 4, 4, 4]


def test_before_validation_and_at_the_end_it_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    found = shown(monkeypatch, 0.0, val_check_interval=2)
    assert [one for one in found if one[0] != "batch"] == [
        ("validation", 2),
        ("validation", 4),
        ("validation", 6),
        ("end", 6),
    ]


def test_a_run_that_ends_within_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch, 0.0, max_steps=4)[-1] == ("end", 4)
