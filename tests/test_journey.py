"""A student's afternoon: train, look, complete, probe, fine-tune, resume, and take the checkpoint elsewhere."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from contract_suite import only_run
from PIL import Image

from lt_cli.checkpoint import load
from lt_cli.cli import run

QUIET = ["--trainer.enable_progress_bar=false"]


def test_a_students_journey(monkeypatch: pytest.MonkeyPatch) -> None:
    # train on digits, and look at samples
    small = ["--model.backbone.embed_dim=32", "--model.backbone.num_layers=2", "--model.schedule.warmup_steps=20"]
    pretrained = run(["fit", "--trainer.max_steps=150", *small, *QUIET])
    first = only_run("igpt_digits")
    assert pretrained.trainer.callback_metrics["val/loss"] < 1.9, "ln 17 is 2.83"
    assert Image.open(first / "pictures" / "samples-0000150.png").size[0] > 500

    # complete pictures of one's own, of another size and in colour
    Path("mine").mkdir()
    for i in range(3):
        pixels = np.random.default_rng(i).integers(256, size=(20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(Path("mine") / f"{i}.png")
    mine = ["--data.predict_source=lt_cli.data.images.FolderImages", "--data.predict_source.root=mine"]
    run(["predict", "--ckpt_path=best", *mine, *QUIET])
    completed = np.load(next(first.glob("predictions/*/completions.npz")))
    assert completed["completions"].shape == (3, 3, 64)
    assert (completed["completions"][:, :, :32] == completed["input_ids"][:, None, :32]).all()
    assert next(first.glob("predictions/*/completions.png")).stat().st_size > 0

    # probe a middle layer, then fine-tune; neither repeats the backbone's sizes
    configs = Path(__file__).parent.parent / "configs"
    probe = configs / "igpt_digits_probe.yaml"
    run(["fit", f"--config={probe}", "--model.layer=1", "--trainer.max_steps=150", *QUIET])
    probed = run(["test", f"--config={probe}", "--model.layer=1", "--ckpt_path=best", *QUIET])
    assert probed.trainer.callback_metrics["test/accuracy"] > 0.3, "chance is 0.1"

    finetune = configs / "igpt_digits_finetune.yaml"
    arguments = ["fit", f"--config={finetune}", *QUIET]
    run([*arguments, "--trainer.max_steps=150"])

    # resume: longer this time
    tuned = run([*arguments, "--trainer.max_steps=300", "--ckpt_path=last"])
    assert tuned.trainer.global_step == 300
    second = only_run("igpt_digits_finetune")

    # elsewhere, from the file alone: nothing of the first runs is left
    elsewhere = Path("elsewhere").resolve()
    elsewhere.mkdir()
    shutil.copy(second / "checkpoints" / "last.ckpt", elsewhere / "digits.ckpt")
    shutil.rmtree("runs")
    monkeypatch.chdir(elsewhere)
    tested = run(["test", "--ckpt_path=digits.ckpt", *QUIET])
    assert tested.trainer.callback_metrics["test/accuracy"] > 0.3
    run(["predict", "--ckpt_path=digits.ckpt", "--predictions.directory=out", *QUIET])
    with (elsewhere / "out" / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["index"]) for row in rows] == list(range(360))
    assert set(rows[0]) == {"index", "label", "probability"}
    assert load("digits.ckpt").task.backbone.embed_dim == 32
