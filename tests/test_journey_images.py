"""Pictures in class folders, one page of YAML: trained with all that people expect, resumed, tested, predicted."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from contract_suite import Killed, assert_same_weights, dies_after, only_run, weights
from PIL import Image
from toys import message

from lt_cli.checkpoint import load
from lt_cli.cli import run

EXPERIMENT = """
seed_everything: 0
model:
  class_path: lt_cli.tasks.classification.Classification
  init_args:
    backbone:
      class_path: lt_cli.backbones.resnet.ResNet
      init_args: {widths: [4, 8, 8], blocks: [1, 1, 1]}
    optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 0.02}}
    schedule: {class_path: lt_cli.optim.OneCycle}
    backbone_lr_scale: 0.5
    label_smoothing: 0.1
    outputs: [label, probability]
data:
  class_path: lt_cli.data.labeled_images.LabeledImages
  init_args:
    source: {class_path: lt_cli.data.image_rows.ClassFolders, init_args: {path: pictures}}
    size: [12, 12]
    test_fraction: 0.2
    batch_size: 7
    cutmix: 0.5
    mixup: 0.5
    train_transforms:
      - class_path: torchvision.transforms.v2.RandAugment
        init_args: {magnitude: 3}
      - class_path: torchvision.transforms.v2.RandomCrop
        init_args: {size: 12, padding: 2, padding_mode: reflect}
      - class_path: torchvision.transforms.v2.RandomHorizontalFlip
trainer:
  max_epochs: 4
  accelerator: cpu
  enable_progress_bar: false
  callbacks:
    - class_path: lightning.pytorch.callbacks.EMAWeightAveraging
      init_args: {decay: 0.6}
"""
FREEZE = [
    "--freeze.modules=[backbone.stem,backbone.stages]",
    "--freeze.thaw={1: 'backbone.stages.2', 2: 'backbone.stages.*'}",
]
FIT = ["fit", "--config=mine.yaml"]
SCHEDULES = {
    "one cycle": [],
    "warm-up": ["--model.schedule=lt_cli.optim.WarmupCosine", "--model.schedule.warmup_steps=3"],
}


@pytest.fixture(autouse=True)
def _pictures() -> None:
    """Dark and light pictures of any size, and the experiment."""
    generator = np.random.default_rng(0)
    for i in range(60):
        name, level = (("dark", 70), ("light", 180))[i % 2]
        Path("pictures", name).mkdir(parents=True, exist_ok=True)
        pixels = generator.normal(level, 40, size=(*generator.integers(10, 20, size=2), 3)).clip(0, 255)
        Image.fromarray(pixels.astype(np.uint8)).save(f"pictures/{name}/{i:02}.png")
    Path("mine.yaml").write_text(EXPERIMENT)


def test_an_afternoon(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        cli = run(FIT)
    directory = only_run("mine")
    assert f"a batch: {directory}/batch.png" in caplog.text
    assert cli.trainer.callback_metrics["val/accuracy"] > 0.9
    tested = run(["test", "--ckpt_path=best"])
    assert tested.trainer.callback_metrics["test/accuracy"] > 0.9
    assert (directory / "pictures" / "confusion.png").is_file()
    Path("new").mkdir()
    for name in ("dark/00.png", "light/01.png"):
        Path("new", Path(name).name).write_bytes(Path("pictures", name).read_bytes())
    run(["predict", "--ckpt_path=best", "--data.source.predict_path=new"])
    (path,) = directory.glob("predictions/*/predictions.csv")
    rows = list(csv.DictReader(path.open()))
    assert [(row["image"], row["label"]) for row in rows] == [("new/00.png", "dark"), ("new/01.png", "light")]
    assert all(0.5 < float(row["probability"]) <= 1 for row in rows)
    monkeypatch.chdir(tmp_path)
    predicted = load(directory).predict(["pictures/dark/00.png", np.full((5, 5, 3), 200, np.uint8)])
    assert [row["label"] for row in predicted] == ["dark", "light"]


@pytest.mark.parametrize(("schedule", "steps"), [("one cycle", 4), ("one cycle", 13), ("warm-up", 8)])
def test_killed_and_resumed_around_a_thaw_is_bit_identical(schedule: str, steps: int) -> None:
    """42 training pictures, 6 steps an epoch: with mixtures, augmentation, EMA, BatchNorm, before and after thaws."""
    arguments = [*FIT, *FREEZE, *SCHEDULES[schedule], "--checkpoints.every_minutes=0", "--trainer.max_epochs=3"]
    whole = run([*arguments, "--trainer.default_root_dir=whole"])
    with pytest.raises(Killed), dies_after(steps):
        run([*arguments, "--trainer.default_root_dir=broken"])
    resumed = run([*arguments, "--trainer.default_root_dir=broken", "--ckpt_path=last"])
    assert resumed.trainer.global_step == whole.trainer.global_step
    assert_same_weights(resumed.model.state_dict(), whole.model.state_dict())
    paths = [only_run("mine", root) / "checkpoints" / "last.ckpt" for root in ("whole", "broken")]
    assert_same_weights(*map(weights, paths))


def test_frozen_batch_norm_keeps_its_statistics_until_it_thaws() -> None:
    arguments = [*FIT, "--trainer.callbacks=null", *FREEZE]
    frozen = run([*arguments, "--trainer.max_epochs=1"]).model.state_dict()
    for name in ("stem.1", "stages.0.0.norm1", "stages.2.0.norm1"):
        assert (frozen[f"backbone.{name}.running_mean"] == 0).all(), name
    thawed = run([*arguments, "--trainer.max_epochs=2", "--trainer.default_root_dir=two"]).model.state_dict()
    assert (thawed["backbone.stages.2.0.norm1.running_mean"] != 0).any()
    assert (thawed["backbone.stages.0.0.norm1.running_mean"] == 0).all()
    assert torch.equal(thawed["backbone.stages.0.0.conv1.weight"], frozen["backbone.stages.0.0.conv1.weight"])
    assert not torch.equal(thawed["backbone.stages.2.0.conv1.weight"], frozen["backbone.stages.2.0.conv1.weight"])


def test_a_checkpoint_has_the_averaged_weights() -> None:
    cli = run([*FIT, "--trainer.max_epochs=1"])
    saved = torch.load(only_run("mine") / "checkpoints" / "last.ckpt", weights_only=True)
    assert any(not torch.equal(saved["state_dict"][n], w) for n, w in saved["current_model_state"].items())
    score = cli.trainer.callback_metrics["val/loss"]
    again = run(["validate", "--ckpt_path=last"])
    assert again.trainer.callback_metrics["val/loss"] == score


def test_two_workers_make_the_same_run() -> None:
    short = [*FIT, "--trainer.max_epochs=1"]
    one = run(short).model.state_dict()
    other = run([*short, "--data.num_workers=2", "--trainer.default_root_dir=workers"]).model.state_dict()
    assert_same_weights(one, other)


def test_an_unreadable_picture_ends_the_run_in_one_line() -> None:
    Path("pictures/dark/00.png").write_bytes(b"no picture")
    found: dict[int, Any] = {
        workers: message(lambda w=workers: run([*FIT, f"--data.num_workers={w}"])) for workers in (0, 1)
    }
    for text in found.values():
        assert text.startswith("pictures/dark/00.png is no readable picture (cannot identify image file")
        assert "\n" not in text
