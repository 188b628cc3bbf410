"""What every task must do, whatever it is: one harness, one tiny YAML per task in tests/contract/."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer

from lt_cli.callbacks.checkpoints import Checkpoints

ROOT = Path(__file__).parent.parent
CONFIGS = sorted((ROOT / "tests" / "contract").glob("*.yaml"))
PREDICT_ALL = ["--trainer.accelerator=cpu", "--trainer.limit_predict_batches=1.0"]
TEST_ALL = ["--trainer.accelerator=cpu", "--trainer.limit_test_batches=1.0"]
GOLDEN = ROOT / "tests" / "golden"


def only_run(name: str, root: str | Path = "runs") -> Path:
    """The one run of a config."""
    runs = list((Path(root) / name).iterdir())
    assert len(runs) == 1, runs
    return runs[0]


def weights(path: Path) -> dict[str, torch.Tensor]:
    """The weights in a checkpoint."""
    state: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return state


def assert_same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    """Bit for bit."""
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def shell(*args: str | Path, **environment: str) -> subprocess.Popen[str]:
    """Starts the command line in a process of its own, as a user would."""
    return python("../main.py", *args, **environment)


def python(script: str, *args: str | Path, **environment: str) -> subprocess.Popen[str]:
    """Starts a script of this directory."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / script), *map(str, args)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "tests"), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finished(process: subprocess.Popen[str], timeout: float = 120) -> str:
    """Waits for success and returns what was printed."""
    output, _ = process.communicate(timeout=timeout)
    assert process.returncode == 0, output
    return output


def in_two_processes(script: str, root: Path) -> Path:
    """Runs a script of this directory as both processes of a group, and returns the directory that it worked in."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    processes = [python(script, root, RANK=str(i), LOCAL_RANK=str(i), NODE_RANK="0", **place) for i in (0, 1)]
    for process in processes:
        finished(process, timeout=300)
    return root


def kill_when(process: subprocess.Popen[str], pattern: str, number: int = signal.SIGKILL) -> Path:
    """Sends a signal as soon as a file of this pattern is there, and returns the file."""
    deadline = time.monotonic() + 120
    while not (found := list(Path().glob(pattern))):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "no such file in two minutes"
        time.sleep(0.002)
    process.send_signal(number)
    process.wait(timeout=60)
    return found[0]


class Killed(Exception):
    """Stands for SIGKILL within this process: nothing of ours handles it."""


@contextmanager
def dies_after(steps: int) -> Iterator[None]:
    """Ends a fit right after last.ckpt was written at some optimiser step."""
    save = Checkpoints.save_last

    def save_and_die(self: Checkpoints, trainer: Trainer) -> Path:
        path = save(self, trainer)
        if trainer.global_step == steps:
            raise Killed
        return path

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "save_last", save_and_die)
        yield


def without_dropout(config: Path) -> Path:
    """The same config, in the working directory, with every dropout at zero: each process draws its own."""
    path = Path(config.name)
    path.write_text(re.sub(r"(dropout\w*): [0-9.]+", r"\1: 0.0", config.read_text()))
    return path


def freeze_and_noise(config: Path) -> list[str]:
    """The first block frozen, and noise on the rest, which the optimiser is to undo."""
    return [f"--freeze.modules={blocks(config)}.0", "--weight_noise.std=0.01", "--weight_noise.mode=permanent"]


def blocks(config: Path) -> str:
    """The name of the blocks in a config's backbone."""
    text = config.read_text()
    names = {
        "model_type: bert": "bert.encoder.layer",
        "model_type: t5": "encoder.block",
        "model_type: vit": "vit.layers",
    }
    within = "backbone.text." if "VideoText" in text else "backbone."
    return within + next((name for model, name in names.items() if model in text), "blocks")
