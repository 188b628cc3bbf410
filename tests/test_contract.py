"""The contract of every task; a new task adds one YAML to tests/contract/ and one golden checkpoint."""

import csv
import json
import shutil
import signal
from pathlib import Path

import pytest
import torch
from contract_suite import (
    CONFIGS,
    GOLDEN,
    PREDICT_ALL,
    TEST_ALL,
    Killed,
    assert_same_weights,
    blocks,
    dies_after,
    freeze_and_noise,
    kill_when,
    only_run,
    shell,
    weights,
    without_dropout,
)
from lightning.pytorch import LightningModule

from lt_cli.checkpoint import load
from lt_cli.cli import run
from lt_cli.data.base import DataModule

pytestmark = pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)


def test_fit_leaves_a_complete_run(config: Path) -> None:
    cli = run(["fit", f"--config={config}"])
    directory = only_run(config.stem)
    for name in ("config.yaml", "metrics.csv", "checkpoints/best.ckpt", "checkpoints/last.ckpt"):
        assert (directory / name).is_file(), name
    assert {"train/loss", "val/loss"} <= set((directory / "metrics.csv").read_text().splitlines()[0].split(","))
    assert_same_weights(weights(directory / "checkpoints/last.ckpt"), cli.model.state_dict())
    assert cli.model.monitor[0] in cli.trainer.callback_metrics


@pytest.mark.parametrize("length", ["--trainer.max_epochs=2", "--trainer.max_steps=8"])
@pytest.mark.parametrize("steps", [1, 4, 6])
def test_killed_and_resumed_is_bit_identical(config: Path, steps: int, length: str) -> None:
    """Epochs have 4 optimiser steps: in the middle, at the end of the first epoch, in the second."""
    arguments = ["fit", f"--config={config}", "--checkpoints.every_minutes=0", length]
    whole = run([*arguments, "--trainer.default_root_dir=whole"]).model.state_dict()
    with pytest.raises(Killed), dies_after(steps):
        run([*arguments, "--trainer.default_root_dir=broken"])
    resumed = run([*arguments, "--trainer.default_root_dir=broken", "--ckpt_path=last"])
    assert resumed.trainer.global_step == 8
    assert_same_weights(resumed.model.state_dict(), whole)
    assert len(list(Path("broken", config.stem).iterdir())) == 1, "resuming goes on in the checkpoint's run"


def test_sigkill_of_a_real_process(config: Path) -> None:
    whole = run(["fit", f"--config={config}", "--trainer.default_root_dir=whole"]).model.state_dict()
    process = shell("fit", f"--config={config}", "--checkpoints.every_minutes=0")
    last = kill_when(process, f"runs/{config.stem}/*/checkpoints/last.ckpt")
    assert process.returncode == -signal.SIGKILL
    resumed = run(["fit", f"--ckpt_path={last}"])
    assert_same_weights(resumed.model.state_dict(), whole)


def test_a_checkpoint_file_is_enough(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = run(["fit", f"--config={config}"])
    monitored = fitted.model.monitor[0]
    score = fitted.trainer.callback_metrics[monitored]
    tested = fitted.trainer.test(fitted.model, fitted.datamodule)
    elsewhere = Path("elsewhere")
    elsewhere.mkdir()
    shutil.copy(only_run(config.stem) / "checkpoints" / "last.ckpt", elsewhere / "model.ckpt")
    monkeypatch.chdir(elsewhere)
    limits = ["--trainer.limit_test_batches=2", "--trainer.limit_val_batches=2", "--trainer.accelerator=cpu"]
    again = run(["test", "--ckpt_path=model.ckpt", *limits])
    for name, value in tested[0].items():
        assert again.trainer.callback_metrics[name].item() == pytest.approx(value), name
    validated = run(["validate", "--ckpt_path=model.ckpt", *limits])
    assert validated.trainer.callback_metrics[monitored] == score


def test_predict_writes_every_row_once_in_order(config: Path) -> None:
    run(["fit", f"--config={config}"])
    cli = run(["predict", "--ckpt_path=best", "--trainer.limit_predict_batches=3", "--trainer.accelerator=cpu"])
    assert list(only_run(config.stem).glob("predictions/*/*"))
    batches = cli.trainer.predict_loop.predictions
    assert batches is not None
    rows = torch.cat([batch["index"] for batch in batches]).tolist()  # by length where they differ in it
    assert sorted(rows) == list(range(len(rows)))
    assert "labels" not in cli.datamodule.splits["predict"].batch([0], 0), "predict needs no labels"


def test_loads_in_python(config: Path) -> None:
    fitted = run(["fit", f"--config={config}"])
    loaded = load(only_run(config.stem) / "checkpoints" / "last.ckpt")
    assert type(loaded.task) is type(fitted.model)
    assert not loaded.task.training
    assert_same_weights(loaded.task.state_dict(), fitted.model.state_dict())
    assert isinstance(loaded.data, DataModule)
    loaded.data.setup("test")
    batch = loaded.data.splits["test"].batch(range(4), 0)
    fitted.model.eval()
    assert loaded.task.step(batch, "test")["loss"] == fitted.model.step(batch, "test")["loss"]


def test_frozen_backbone_stays_as_it_was(config: Path) -> None:
    """Blocks do not move; what is not frozen does."""
    cli = run(["fit", f"--config={config}", f"--freeze.modules={blocks(config)}"])
    fresh = initial_weights(config)
    for name, weight in cli.model.state_dict().items():
        if name.startswith(f"{blocks(config)}."):
            assert torch.equal(weight, fresh[name]), name
    assert any(not torch.equal(weight, fresh[name]) for name, weight in cli.model.state_dict().items())


def initial_weights(config: Path) -> dict[str, torch.Tensor]:
    """The weights before the first step."""

    class Stop(Exception):
        pass

    def stop(self: LightningModule) -> None:
        kept.update({name: weight.clone() for name, weight in self.state_dict().items()})
        raise Stop

    kept: dict[str, torch.Tensor] = {}
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stop):
        patch.setattr("lt_cli.tasks.base.Task.on_train_start", stop)
        run(["fit", f"--config={config}", "--trainer.default_root_dir=fresh"])
    return kept


@pytest.mark.parametrize("mode", ["transient", "permanent"])
def test_weight_noise_changes_training_and_survives_a_kill(config: Path, mode: str) -> None:
    quiet = run(["fit", f"--config={config}", "--trainer.default_root_dir=quiet"]).model.state_dict()
    arguments = ["fit", f"--config={config}", "--checkpoints.every_minutes=0", "--weight_noise.std=0.01"]
    arguments += [f"--weight_noise.mode={mode}"]
    noisy = run([*arguments, "--trainer.default_root_dir=noisy"]).model.state_dict()
    assert any(not torch.equal(noisy[name], quiet[name]) for name in quiet)
    with pytest.raises(Killed), dies_after(3):
        run([*arguments, "--trainer.default_root_dir=broken"])
    resumed = run([*arguments, "--trainer.default_root_dir=broken", "--ckpt_path=last"])
    assert_same_weights(resumed.model.state_dict(), noisy)


def test_two_processes(config: Path, two_processes: Path) -> None:
    """Two processes of half the batch learn what one learns, and write every prediction once, in order.

    With a frozen block, and noise on the others.
    """
    last = only_run(config.stem, two_processes) / "checkpoints" / "last.ckpt"
    cli = run(["fit", f"--config={without_dropout(config)}", *freeze_and_noise(config)])
    one = cli.model.state_dict()
    for name, weight in weights(last).items():
        torch.testing.assert_close(weight, one[name], atol=1e-5, rtol=1e-4, msg=lambda m, name=name: f"{name}: {m}")
    scores = {name: value.item() for name, value in cli.trainer.callback_metrics.items() if name.startswith("val/")}
    together = validated(only_run(config.stem, two_processes))
    assert together.keys() == scores.keys()
    assert together == pytest.approx(scores, rel=1e-3)
    curve = losses(only_run(config.stem, two_processes))
    assert curve == pytest.approx(losses(only_run(config.stem)), abs=1e-5)
    assert len(curve) > 1
    tested = run(["test", f"--ckpt_path={last}", "--data.batch_size=64", *TEST_ALL]).trainer.callback_metrics
    shared = json.loads((two_processes / f"{config.stem}.json").read_text())
    assert shared == pytest.approx({name: value.item() for name, value in tested.items()}, rel=1e-4)
    alone = Path("alone")
    run(["predict", f"--ckpt_path={last}", *PREDICT_ALL, "--data.batch_size=64", f"--predictions.directory={alone}"])
    for path in alone.iterdir():
        assert path.read_bytes() == (two_processes / "together" / config.stem / path.name).read_bytes(), path.name


def validated(directory: Path) -> dict[str, float]:
    """The last validation's scores."""
    rows = list(csv.DictReader((directory / "metrics.csv").open()))
    last = next(row for row in reversed(rows) if row["val/loss"])
    return {name: float(value) for name, value in last.items() if name.startswith("val/") and value}


def losses(directory: Path) -> list[float]:
    """The loss of every validation."""
    rows = csv.DictReader((directory / "metrics.csv").open())
    return [float(row["val/loss"]) for row in rows if row["val/loss"]]


def test_two_processes_killed_and_resumed_are_bit_identical(config: Path, two_processes: Path) -> None:
    """With dropout, augmentation, accumulation, a frozen block and noise."""
    exact, resumed = (only_run(config.stem, two_processes / root) for root in ("exact", "resumed"))
    for which in ("last", "best"):
        one, other = (weights(directory / "checkpoints" / f"{which}.ckpt") for directory in (exact, resumed))
        assert_same_weights(other, one)


def test_golden_checkpoint_still_works(config: Path) -> None:
    """Written by an earlier version, kept forever: it must load, and score what it scored then."""
    golden = GOLDEN / f"{config.stem}.ckpt"
    flags = ["--trainer.accelerator=cpu", "--trainer.limit_test_batches=2"]
    cli = run(["test", f"--ckpt_path={golden}", *flags])
    expected = float((GOLDEN / f"{config.stem}.txt").read_text())
    assert cli.trainer.callback_metrics["test/loss"].item() == pytest.approx(expected, rel=1e-4)
