"""Training through the command line beside the bare PyTorch step: what the trainer and everything around it costs.

    python benchmarks/command_line.py

Both train the same model with the same optimiser, schedule and batches; the bare loop has its batches ready. They take
turns within one run: every few steps a callback lets the bare loop go as many. All is as it is by default, the progress
bar as in a terminal.

Sizes: tiny, as in the tests' contract, 8 wide, 2 layers, 5 colours, 16 pixels, batch 16; (a) 16 wide, 8 layers,
16 colours, 784 pixels, batch 8.
"""

import contextlib
import copy
import logging
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from interleaved import Report
from lightning.pytorch import Callback, LightningModule, Trainer

from lt_cli.cli import run
from lt_cli.data.images import ImageSet, ImageSource
from lt_cli.optim import WarmupCosine, parameter_groups
from lt_cli.tasks.base import Task

CONFIG = """
model:
  class_path: lt_cli.tasks.pixel_generation.PixelGeneration
  init_args:
    backbone:
      class_path: lt_cli.backbones.gpt.GPT
      init_args: {{vocab_size: {colors}, max_seq_len: {pixels}, embed_dim: {width}, num_heads: 2, num_layers: {layers}}}
    optimizer: {{class_path: torch.optim.AdamW, init_args: {{lr: 0.003}}}}
    schedule: {{class_path: lt_cli.optim.WarmupCosine, init_args: {{warmup_steps: 10}}}}
data:
  class_path: lt_cli.data.pixels.PixelData
  init_args:
    source: {{class_path: command_line.Noise, init_args: {{num_images: {rows}, side: {side}}}}}
    palette: {{class_path: lt_cli.data.palette.GreyLevels, init_args: {{num_colors: {colors}}}}}
    batch_size: {batch}
trainer:
  max_epochs: 1
  limit_train_batches: {steps}
  limit_val_batches: 1
  accelerator: cpu
  callbacks:
  - {{class_path: command_line.Turns, init_args: {{steps: {turn}}}}}
"""

TINY = {"colors": 5, "width": 8, "layers": 2, "side": 4, "pixels": 16, "batch": 16}
SIZE_A = {"colors": 16, "width": 16, "layers": 8, "side": 28, "pixels": 784, "batch": 8}


class Noise(ImageSource):
    """Pictures of noise, so many that an epoch is as long as it must be.

    Args:
        num_images: Pictures for training.
        side: Height and width.
    """

    def __init__(self, num_images: int, side: int) -> None:
        """Draws nothing yet."""
        self.num_images, self.side = num_images, side

    def load(self, split: Any, size: tuple[int, int] | None = None, channels: int = 3) -> ImageSet:
        """Draws them."""
        shape = (self.num_images if split == "train" else 16, self.side, self.side, channels)
        return ImageSet(np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8))


class Turns(Callback):
    """Measures the run's steps, and lets the bare loop have its turn after each of the run's.

    Args:
        steps: Steps of a turn.
    """

    def __init__(self, steps: int) -> None:
        """Has measured nothing."""
        self.steps = steps
        self.through: list[float] = []
        self.bare: list[float] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Makes the bare loop of the run's own model."""
        assert isinstance(pl_module, Task)
        self._loop = BareLoop(pl_module, self.steps)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Ends one turn of the run and begins the next."""
        if batch_idx % self.steps:
            return
        if batch_idx:
            self.through.append((time.process_time() - self._began) / self.steps)
            began = time.thread_time()  # less the thread that draws the progress bar
            self._loop.train()
            self.bare.append((time.thread_time() - began) / self.steps)
        self._began = time.process_time()


class BareLoop:
    """Training as a tutorial writes it.

    Args:
        task: Has the model, which is copied, and the data.
        steps: Batches, which come again and again.
    """

    def __init__(self, task: Task, steps: int) -> None:
        """Gets everything ready, the batches too."""
        trainer, task._trainer = task._trainer, None
        self.task = copy.deepcopy(task)
        task._trainer = trainer
        self.optimizer = torch.optim.AdamW(parameter_groups(self.task), lr=0.003)
        self.schedule = WarmupCosine(self.optimizer, 1_000_000, warmup_steps=10)
        assert task.data is not None
        size, split = task.data.batch_size, task.data.splits["train"]
        self.batches = [split.batch(range(step * size, (step + 1) * size), epoch=0) for step in range(steps)]

    def train(self) -> None:
        """One step for each batch."""
        for batch in self.batches:
            loss = self.task.step(batch, "train")["loss"]
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.schedule.step()


def measure(turn: int, turns: int, sizes: dict[str, int], config: str = CONFIG) -> tuple[float, float]:
    """Processor seconds of a bare step, and what one through the command line takes above it: medians over turns."""
    steps = (turns + 2) * turn + 1
    config = config.format(turn=turn, steps=steps, rows=2 * steps * sizes["batch"], **sizes)
    with tempfile.TemporaryDirectory() as directory, contextlib.chdir(directory), open(os.devnull, "w") as nowhere:
        Path("benchmark.yaml").write_text(config, encoding="utf-8")
        with contextlib.redirect_stdout(nowhere):
            trainer = run(["fit", "--config", "benchmark.yaml"]).trainer
    measured: Any = next(one for one in trainer.callbacks if type(one).__name__ == "Turns")  # imported a second time
    bare = measured.bare[1:]  # the first turn warms up
    above = [ours - other for ours, other in zip(measured.through[1:], bare, strict=True)]
    return statistics.median(bare), statistics.median(above)


def main() -> None:
    """Both sizes."""
    report = Report("command_line", (__doc__ or "").partition("\n")[0])
    os.environ |= {"TTY_COMPATIBLE": "1", "COLUMNS": "120"}
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    bare, above = measure(50, 12 * report.rounds, TINY)  # a turn is as long as the logging interval
    report.at_most(f"a tiny step, above {1000 * bare:.2f} ms", 1000 * above, 0.35, "ms")
    bare, above = measure(2, 4 * report.rounds, SIZE_A)
    report.at_most(f"a step of (a), above {1000 * bare:.0f} ms", 100 * above / bare, 1, "%")
    report.finish()


if __name__ == "__main__":
    main()
