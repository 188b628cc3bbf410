"""A run that is killed at random moments, also while it writes, ends as one that never was; kills.py does it."""

import json
import signal
from pathlib import Path

import pytest
from contract_suite import CONFIGS, blocks, finished, kill_when, only_run, python, shell

from lt_cli.checkpoint_io import read
from lt_cli.cli import run
from lt_cli.runs import find

PLAIN = ["--trainer.max_steps=40", "--trainer.max_epochs=-1"]
EVERYTHING = [
    "--weight_noise.std=0.01",
    "--weight_noise.mode=permanent",
    "--freeze.modules={blocks}",
    "--freeze.thaw={{2: {blocks}}}",
    "--data.num_workers=1",
    "--model.optimizer=lt_cli.optim.MuonAdamW",
    "--model.optimizer.lr=0.02",
    "--trainer.val_check_interval=4",
    "--trainer.max_epochs=6",
]
"""Beside what a contract's configuration has already: dropout, augmentation, accumulation."""


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
@pytest.mark.parametrize("options", [PLAIN, EVERYTHING], ids=["plain", "everything"])
def test_kills_at_random_moments(config: Path, options: list[str]) -> None:
    options = [option.format(blocks=blocks(config)) for option in options]
    tally = json.loads(finished(python("kills.py", config, "3", "0", *options)).splitlines()[-1])
    assert tally["kills"] >= 3
    harm = ("damaged_checkpoints", "bytes_lost", "different_weights", "wrong_exits")
    assert {name: tally[name] for name in harm} == dict.fromkeys(harm, 0)


GENERATION = next(config for config in CONFIGS if config.stem == "pixel_generation")
WIDE = ["--model.backbone.embed_dim=512", "--model.schedule=null", "--trainer.max_epochs=-1"]
"""So that writing takes a while."""


def killed_while_writing(*args: str | Path) -> Path:
    """The half-written file that is left."""
    process = shell("fit", *args, "--trainer.max_steps=100000", "--checkpoints.every_minutes=0")
    half = kill_when(process, "runs/pixel_generation/*/checkpoints/last.ckpt.part")
    assert process.returncode == -signal.SIGKILL
    assert half.is_file()
    return half


def test_a_kill_while_the_first_checkpoint_is_written() -> None:
    """There is none yet; what was half-written is in nobody's way."""
    half = killed_while_writing(f"--config={GENERATION}", *WIDE)
    half.with_name("last.ckpt").unlink(missing_ok=True)  # where the next one was hit
    cli = run(["fit", f"--config={GENERATION}", *WIDE, "--ckpt_path=last", "--trainer.max_steps=1"])
    assert cli.trainer.global_step == 1
    assert find("last") != half.with_name("last.ckpt")


def test_a_kill_while_a_checkpoint_is_replaced() -> None:
    """The one before it is whole, and the next one takes the half-written one's place."""
    run(["fit", f"--config={GENERATION}", *WIDE, "--trainer.max_steps=1"])
    last = only_run("pixel_generation") / "checkpoints" / "last.ckpt"
    half = killed_while_writing(f"--ckpt_path={last}")
    step = read(last)["global_step"]
    assert step >= 1
    run(["fit", "--ckpt_path=last", f"--trainer.max_steps={step + 1}"])
    assert read(last)["global_step"] == step + 1
    assert not half.exists()
