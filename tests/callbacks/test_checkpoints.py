"""best.ckpt and last.ckpt: when they are written, and what a resumed run makes of them. Epochs have 6 batches."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from contract_suite import ROOT
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from toys import NumberData, NumberTask, trainer

from lt_cli.callbacks import checkpoints
from lt_cli.callbacks.checkpoints import Checkpoints
from lt_cli.callbacks.exact_resume import ExactResume
from lt_cli.callbacks.watch import Watch
from lt_cli.cli import run
from lt_cli.errors import UserError
from lt_cli.signals import Signals


class Scripted(NumberTask):
    """Validates with these scores, epoch by epoch."""

    def __init__(self, scores: Sequence[float], mode: Any = "min") -> None:
        super().__init__()
        self.scores, self.monitor = scores, ("val/loss", mode)

    def step(self, batch: Any, stage: Any) -> Any:
        score = torch.tensor(self.scores[self.current_epoch % len(self.scores)])
        return super().step(batch, stage) if stage == "train" else {"loss": score}


def watched(kept: Checkpoints) -> list[Callback]:
    """With what tells it when to save."""
    return [Watch(kept, Signals()), kept]


def fit(
    scores: Sequence[float], *callbacks: Callback, mode: str = "min", ckpt_path: Path | None = None, **options: Any
) -> tuple[Trainer, Checkpoints]:
    """A run in the working directory."""
    kept = Checkpoints()
    options = {"max_epochs": len(scores), "enable_checkpointing": True, "default_root_dir": ".", **options}
    one = trainer(ExactResume(), *callbacks, *watched(kept), **options)
    one.fit(Scripted(scores, mode), NumberData(), ckpt_path=ckpt_path)
    return one, kept


def content(which: str) -> dict[str, Any]:
    return torch.load(Path("checkpoints", f"{which}.ckpt"), weights_only=True)


class TestBest:
    """The best that validation has seen."""

    @pytest.mark.parametrize(
        ("scores", "mode", "epoch"),
        [
            ((3.0, 1.0, 2.0), "min", 1),
            ((3.0, 1.0, 2.0), "max", 0),
            ((1.0, 2.0, 3.0), "min", 0),
            ((1.0, 2.0, 3.0), "max", 2),
            ((2.0, 1.0, 1.0), "min", 1),
            ((-1.0, -2.0, 0.0), "min", 1),
            ((float("nan"), 2.0, 3.0), "min", 1),
            ((2.0, float("nan"), 3.0), "max", 2),
        ],
    )
    def test_by_min_and_by_max(self, scores: tuple[float, ...], mode: str, epoch: int) -> None:
        _, kept = fit(scores, mode=mode)
        best = content("best")
        assert (best["epoch"], best["global_step"]) == (epoch, 6 * (epoch + 1))
        assert content("last")["epoch"] == 2
        assert kept.best_score == pytest.approx(scores[epoch], nan_ok=True)
        assert best["callbacks"]["Checkpoints"]["best_score"] == pytest.approx(scores[epoch], nan_ok=True)

    def test_survives_a_resume(self) -> None:
        fit((3.0, 1.0))
        _, kept = fit((3.0, 1.0, 2.0, 1.5), ckpt_path=Path("checkpoints/last.ckpt"))
        assert content("best")["epoch"] == 1, "no later epoch was better"
        assert kept.best_score == 1.0
        _, kept = fit((3.0, 1.0, 2.0, 1.5, 0.5), ckpt_path=Path("checkpoints/last.ckpt"))
        assert content("best")["epoch"] == 4
        assert kept.best_score == 0.5

    def test_validation_within_an_epoch_counts(self) -> None:
        fit((1.0,), val_check_interval=2)
        assert content("best")["global_step"] == 2

    def test_the_sanity_check_and_validate_do_not(self) -> None:
        one, kept = fit((1.0, 2.0), num_sanity_val_steps=2, limit_train_batches=1)
        assert content("best")["global_step"] == 1
        Path("checkpoints/best.ckpt").unlink()
        kept.best_score = None
        one.validate(one.lightning_module, NumberData(), verbose=False)
        assert kept.best_score is None
        assert not Path("checkpoints/best.ckpt").exists()

    def test_goes_on_as_the_run_did(self) -> None:
        whole, _ = fit((1.0, 2.0, 3.0))
        expected = whole.lightning_module.rows["train"][6:]
        assert content("best")["epoch"] == 0
        resumed, _ = fit((1.0, 2.0, 3.0), ckpt_path=Path("checkpoints/best.ckpt"))
        assert resumed.lightning_module.rows["train"] == expected
        for name, weight in resumed.lightning_module.state_dict().items():
            assert torch.equal(weight, whole.lightning_module.state_dict()[name]), name

    def test_a_metric_that_nobody_logged(self) -> None:
        task = Scripted((1.0,))
        task.monitor = ("val/accuracy", "max")
        with pytest.raises(UserError, match=r"Scripted is 'val/accuracy', which validation did not log; .*val/loss"):
            trainer(Checkpoints(), max_epochs=1, enable_checkpointing=True).fit(task, NumberData())

    def test_without_validation_there_is_none(self) -> None:
        fit((1.0,), limit_val_batches=0)
        assert [path.name for path in Path("checkpoints").iterdir()] == ["last.ckpt"]


class Saves(Callback):
    """Optimiser step and batch of each last.ckpt."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: list[int] = []
        self.batches: list[int] = []
        self.validated: list[bool] = []
        save = Checkpoints.save_last

        def counted(one: Checkpoints, of: Trainer) -> Path:
            self.steps.append(of.global_step)
            self.batches.append(of.fit_loop.epoch_loop.batch_progress.current.ready)
            self.validated.append("val/loss" in of.callback_metrics)
            return save(one, of)

        monkeypatch.setattr(Checkpoints, "save_last", counted)


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


class Slow(Callback):
    """Batches that take half a minute."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_batch_start(self, *_: Any) -> None:
        self.clock.now += 30


class TestLast:
    """The newest state, at the end of each epoch and in between."""

    def test_at_the_end_of_each_epoch(self) -> None:
        seen = []

        class Look(Callback):
            def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
                if trainer.current_epoch:
                    seen.append(content("last")["global_step"])

        fit((1.0, 2.0, 3.0), Look())
        assert [*seen, content("last")["global_step"]] == [6, 12, 18]

    @pytest.mark.parametrize(("accumulate", "steps"), [(1, [1, 2, 3, 4, 5, 6]), (2, [1, 2, 3]), (4, [1, 2]), (9, [1])])
    def test_at_each_step(self, accumulate: int, steps: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
        """And never while gradients are gathered, which no checkpoint holds; at an epoch's end, after validation."""
        saves = Saves(monkeypatch)
        options = {"default_root_dir": ".", "enable_checkpointing": True, "accumulate_grad_batches": accumulate}
        trainer(*watched(Checkpoints(every_minutes=0)), max_epochs=2, **options).fit(NumberTask(), NumberData())
        assert saves.steps == [*steps, *(step + steps[-1] for step in steps)]
        assert saves.batches == [min(accumulate * step, 6) for step in steps] * 2
        assert saves.validated == [step >= steps[-1] for step in steps] + [True] * len(steps)

    def test_at_intervals(self, monkeypatch: pytest.MonkeyPatch) -> None:
        clock, saves = Clock(), Saves(monkeypatch)
        monkeypatch.setattr(checkpoints, "time", clock)
        options = {"default_root_dir": ".", "enable_checkpointing": True}
        trainer(Slow(clock), *watched(Checkpoints(every_minutes=1)), max_epochs=2, **options).fit(
            NumberTask(), NumberData()
        )
        assert saves.steps == [2, 4, 6, 8, 10, 12]

    def test_the_clock_starts_with_the_training_and_with_each_save(self, monkeypatch: pytest.MonkeyPatch) -> None:
        clock, saves = Clock(), Saves(monkeypatch)
        monkeypatch.setattr(checkpoints, "time", clock)
        kept = Checkpoints(every_minutes=2)
        clock.now = 1e6
        options = {"default_root_dir": ".", "enable_checkpointing": True}
        trainer(Slow(clock), *watched(kept), max_epochs=2, **options).fit(NumberTask(), NumberData())
        assert saves.steps == [4, 6, 10, 12]

    def test_mistake(self) -> None:
        with pytest.raises(UserError, match=r"every_minutes \(-1\) must not be negative"):
            Checkpoints(every_minutes=-1)


@pytest.mark.parametrize("stop", [9, 12])
@pytest.mark.parametrize("epochs", [3, -1])
def test_a_finished_run_can_be_made_longer(stop: int, epochs: int) -> None:
    """Stopped within an epoch or at its end, it goes on as one that was longer from the beginning."""
    scores = (3.0, 2.0, 1.0)
    whole, _ = fit(scores, max_epochs=epochs, max_steps=18, default_root_dir="whole")
    first, _ = fit(scores, max_epochs=epochs, max_steps=stop)
    assert content("last")["global_step"] == stop
    second, _ = fit(scores, max_epochs=epochs, max_steps=18, ckpt_path=Path("checkpoints/last.ckpt"))
    for stage in ("train", "val"):
        rows = first.lightning_module.rows[stage] + second.lightning_module.rows[stage]
        assert rows == whole.lightning_module.rows[stage]
    for name, weight in second.lightning_module.state_dict().items():
        assert torch.equal(weight, whole.lightning_module.state_dict()[name]), name


def test_a_run_that_something_stops_leaves_its_last_step() -> None:
    class Stop(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            trainer.should_stop = trainer.global_step == 4

    one, _ = fit((1.0, 2.0), Stop())
    assert one.global_step == content("last")["global_step"] == 4
    resumed, _ = fit((1.0, 2.0), ckpt_path=Path("checkpoints/last.ckpt"))
    assert len(resumed.lightning_module.rows["train"]) == 12 - 4


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("batch", [2, 3])
def test_a_time_limit_within_an_epoch(batch: int, accumulate: int) -> None:
    """The run goes on at the next batch; within an accumulated step it stops after that step."""

    class Stop(Callback):
        def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
            if args[-1] == batch:
                trainer.should_stop = True

    options: dict[str, Any] = {"accumulate_grad_batches": accumulate}
    whole, _ = fit((1.0, 2.0), default_root_dir="whole", **options)
    first, _ = fit((1.0, 2.0), Stop(), **options)
    second, _ = fit((1.0, 2.0), ckpt_path=Path("checkpoints/last.ckpt"), **options)
    rows = [one.lightning_module.rows["train"] for one in (first, second, whole)]
    assert rows[0] + rows[1] == rows[2]
    assert len(rows[0]) == (batch + 1 if accumulate == 1 else 4)
    for name, weight in second.lightning_module.state_dict().items():
        assert torch.equal(weight, whole.lightning_module.state_dict()[name]), name


def test_max_time_is_such_a_limit() -> None:
    """Lightning's own clock would stop behind who saves."""

    class Slow(Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            time.sleep(1.1 * (args[-1] == 2))

    fit = ["fit", f"--config={ROOT / 'tests' / 'contract' / 'pixel_generation.yaml'}"]
    whole = run([*fit, "--trainer.default_root_dir=whole"]).model.state_dict()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lt_cli.callbacks.throughput.Throughput.on_train_batch_end", Slow.on_train_batch_end)
        stopped = run([*fit, "--trainer.max_time=00:00:00:01"])
    assert stopped.trainer.global_step == 2
    resumed = run([*fit, "--ckpt_path=last", "--trainer.max_time=00:01:00:00"])
    assert resumed.trainer.global_step == 8
    for name, weight in resumed.model.state_dict().items():
        assert torch.equal(weight, whole[name]), name


def test_early_stopping_that_has_stopped_stays_stopped() -> None:
    """Unless it is told to be more patient."""
    scores = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0)
    first, _ = fit(scores, EarlyStopping("val/loss", patience=2))
    again, _ = fit(scores, EarlyStopping("val/loss", patience=2), ckpt_path=Path("checkpoints/last.ckpt"))
    assert first.global_step == again.global_step == 18
    more, _ = fit(scores, EarlyStopping("val/loss", patience=4), ckpt_path=Path("checkpoints/last.ckpt"))
    assert more.global_step == 30


def test_a_run_that_validation_stops_within_an_epoch_leaves_its_last_step() -> None:
    class Stop(Callback):
        def on_validation_end(self, trainer: Trainer, *_: Any) -> None:
            trainer.should_stop = True

    one, _ = fit((1.0, 2.0), Stop(), val_check_interval=2)
    assert one.global_step == content("last")["global_step"] == 2


def test_the_end_says_where_they_are(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        fit((3.0, 1.25, 2.0))
    best, last = Path("checkpoints/best.ckpt"), Path("checkpoints/last.ckpt")
    assert f"best checkpoint: {best} (val/loss 1.2500)" in caplog.text
    assert f"last checkpoint: {last}" in caplog.text


@pytest.mark.parametrize("option", ["fast_dev_run=true", "enable_checkpointing=false"])
def test_runs_that_shall_write_none(option: str) -> None:
    config = ROOT / "tests" / "contract" / "pixel_generation.yaml"
    run(["fit", f"--config={config}", "--checkpoints.every_minutes=0", f"--trainer.{option}"])
    assert not list(Path().rglob("*.ckpt*"))
    assert Path("runs").exists() != (option == "fast_dev_run=true"), "a mere try leaves nothing"
