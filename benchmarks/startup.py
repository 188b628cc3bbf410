"""From command to answer: help and printed configuration, beside the help of a bare LightningCLI.

    python benchmarks/startup.py

Whole processes in turn; processor time, user's and system's, of each from its start to its end.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from interleaved import Report

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


def main() -> None:
    """All commands."""
    report = Report("startup", (__doc__ or "").partition("\n")[0])
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
    report.finish()


if __name__ == "__main__":
    main()
