"""A loss that is no number ends a run, before it reaches a checkpoint."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from contract_suite import ROOT, only_run
from lightning.pytorch import LightningModule
from torch import Tensor

from lt_cli.callbacks.finite_loss import FiniteLoss
from lt_cli.checkpoint_io import read
from lt_cli.cli import main, run
from lt_cli.errors import RunError

CONFIG = ROOT / "tests" / "contract" / "pixel_generation.yaml"
FIT = ["fit", f"--config={CONFIG}", "--trainer.accumulate_grad_batches=1", "--checkpoints.every_minutes=0"]
"""Two epochs of eight steps."""


def spoil(monkeypatch: pytest.MonkeyPatch, stage: str, batch: int, value: float) -> None:
    """Makes the loss of one batch of a stage another value."""
    from lt_cli.tasks.pixel_generation import PixelGeneration

    step, calls = PixelGeneration.step, {"train": -1, "val": -1, "test": -1}

    def spoilt(self: PixelGeneration, rows: Any, of: Any) -> dict[str, Tensor]:
        outputs = step(self, rows, of)
        if torch.is_grad_enabled() or of != "train":  # the first page looks at a batch without gradients
            calls[of] += 1
        if of == stage and calls[of] == batch:
            outputs["loss"] = outputs["loss"] * value
        return outputs

    monkeypatch.setattr(PixelGeneration, "step", spoilt)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_step_the_rate_and_the_last_good_checkpoint_are_named(
    value: float, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(monkeypatch, "train", 11, value)  # the first page takes one batch with gradients
    monkeypatch.setattr("sys.argv", ["main.py", *FIT, "--model.schedule=null"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 1
    last = only_run("pixel_generation") / "checkpoints" / "last.ckpt"
    assert read(last)["global_step"] == 10
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(
        f"error: the loss is {value} at step 10 (epoch 1, learning rate 0.003): the last good checkpoint is {last}; "
    )
    assert "--model.optimizer.lr" in error


def test_before_there_is_a_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, "train", 1, math.nan)
    with pytest.raises(RunError, match=r"the loss is nan at step 0 \(epoch 0, .*\): there is no checkpoint; "):
        run(FIT)
    assert not list(Path().rglob("*.ckpt"))


@pytest.mark.parametrize("option", ["--trainer.enable_checkpointing=false", "--trainer.fast_dev_run=3"])
def test_where_nothing_is_saved(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, "train", 1, math.nan)
    with pytest.raises(RunError, match=r"the loss is nan at step .*there is no checkpoint; "):
        run([*FIT, option])


def test_weights_that_are_no_numbers_are_not_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss of the step was fine, its gradient was not."""
    run([*FIT, "--trainer.max_epochs=1"])
    last = only_run("pixel_generation") / "checkpoints" / "last.ckpt"

    def break_gradients(self: LightningModule) -> None:
        if self.global_step == 9:
            self.backbone.norm.weight.grad.fill_(math.inf)

    monkeypatch.setattr("lt_cli.tasks.base.Task.on_after_backward", break_gradients)
    with pytest.raises(RunError) as caught:
        run([*FIT, "--ckpt_path=last"])
    assert str(caught.value).startswith("weights of backbone.norm.weight are no finite numbers after step 10; ")
    assert f"the last good checkpoint is {last}" in str(caught.value)
    assert read(last)["global_step"] == 9


def test_a_validation_that_is_no_number_is_not_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training goes on: it is the training loss that ends a run."""
    spoil(monkeypatch, "val", 3, math.nan)  # the second of the first epoch's, after two of the sanity check
    cli = run([*FIT, "--model.schedule=null"])
    assert cli.trainer.global_step == 16
    assert read(only_run("pixel_generation") / "checkpoints" / "best.ckpt")["global_step"] == 16


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_the_first_one_is_remembered(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    losses = FiniteLoss()
    for step, loss in enumerate((1.0, math.inf, 2.0, math.nan)):
        losses.note(torch.tensor(loss, device=device), step)
        assert losses.broken() == (None if step == 0 else (1, math.inf))
