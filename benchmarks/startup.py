"""From command to answer: help and printed configuration beside a bare LightningCLI's help, and the first step.

    python benchmarks/startup.py
    python benchmarks/startup.py --set DIRECTORY    # also to the first step of igpt_cifar.yaml with these pictures

Whole processes in turn; processor time, user's and system's, of each from its start to its end. Of the first step it is
the seconds on the clock, on all cores, first with no caches and then with those that the first time left; the pictures
are those of a directory of parquet files, such as a copy of CIFAR-10 from the Hugging Face hub.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from interleaved import Report
from lightning.pytorch import Callback, LightningModule, Trainer

BARE = """
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningCLI

if __name__ == "__main__":
    LightningCLI(LightningModule, LightningDataModule, subclass_mode_model=True, subclass_mode_data=True)
"""
ROOT = Path(__file__).resolve().parent.parent
COMMANDS = {
    "--help": ["--help"],
    "fit --help": ["fit", "--help"],
    "fit --print_config": ["fit", "--config", "configs/igpt_cifar.yaml", "--print_config"],
}


def seconds_of(command: list[str]) -> float:
    """Processor time of one process."""
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return usage.ru_utime + usage.ru_stime


class FirstStep(Callback):
    """Leaves the time at which the first optimiser step was over in a file."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Writes it."""
        Path("first_step").write_text(str(time.time()), encoding="utf-8")


def to_first_step(directory: Path, pictures: str) -> float:
    """Seconds from the command to the end of the first step; caches are in the directory."""
    data = str(ROOT / "configs" / "data" / "cifar10_huggingface.yaml")
    command = [sys.executable, str(ROOT / "main.py"), "fit", "--config", str(ROOT / "configs" / "igpt_cifar.yaml")]
    command += [f"--data.source={data}", f"--data.source.path={Path(pictures).absolute()}", "--sample_images=null"]
    command += ["--trainer.max_steps=1", "--trainer.limit_val_batches=0", "--trainer.enable_checkpointing=false"]
    command += ["--model.schedule=null", "--trainer.callbacks+=startup.FirstStep"]
    paths = {"PYTHONPATH": str(ROOT / "benchmarks"), "XDG_CACHE_HOME": str(directory), "HF_HOME": str(directory)}
    began = time.time()
    subprocess.run(command, cwd=directory, env={**os.environ, **paths}, check=True, capture_output=True)
    return float((directory / "first_step").read_text(encoding="utf-8")) - began


def main() -> None:
    """All commands."""

    def add_options(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--set", metavar="DIRECTORY", help="parquet files with pictures of 32 x 32 pixels")

    report = Report("startup", (__doc__ or "").partition("\n")[0], add_options)
    with tempfile.TemporaryDirectory() as directory:
        script = Path(directory) / "bare.py"
        script.write_text(BARE, encoding="utf-8")
        contestants = {name: ["main.py", *arguments] for name, arguments in COMMANDS.items()}
        contestants["a bare LightningCLI's fit --help"] = [str(script), "fit", "--help"]
        times: dict[str, list[float]] = {name: [] for name in contestants}
        for _ in range(report.rounds):
            for name, command in contestants.items():
                times[name].append(seconds_of(command))
    seconds = {name: statistics.median(taken) for name, taken in times.items()}
    for name in COMMANDS:
        report.faster(name, seconds, name, "a bare LightningCLI's fit --help", 1.0)
    if report.arguments.set is not None:
        with tempfile.TemporaryDirectory() as directory:
            for name, goal in {"to the first step, cold": 10.0, "to the first step, with caches": 6.0}.items():
                report.at_most(name, to_first_step(Path(directory), report.arguments.set), goal, "s")
    report.finish()


if __name__ == "__main__":
    main()
