"""One page before the first step: what will be trained, on what, for how long, and where it goes."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only
from PIL import Image

from lt_cli.data.base import DataModule
from lt_cli.pictures import tensorboards
from lt_cli.tasks.base import Task, evaluating, run_directory

LONG = 1.0
"""Seconds of a step from which they are guessed and not measured."""


class FirstPage(Callback):
    """Prints data, parameters, first loss beside ln V, time per epoch and the run's directory."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints the page on the first process."""
        self._print(trainer, pl_module, run_directory(trainer))

    @rank_zero_only
    def _print(self, trainer: Trainer, pl_module: LightningModule, run: Path) -> None:
        """Looks at one batch, without moving the run: no random number, no gradient, no statistic is left changed."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        shown: list[str] = []
        measured: list[str] = []
        if isinstance(data, DataModule) and isinstance(pl_module, Task):
            with torch.random.fork_rng([pl_module.device] if pl_module.device.type == "cuda" else []):
                sampler = data.loader("train").sampler
                sampler.set_epoch(trainer.current_epoch)
                began = time.perf_counter()
                batch = data.splits["train"].batch(next(iter(sampler))[1], trainer.current_epoch)
                fetched = 0.0 if data.num_workers else time.perf_counter() - began
                shown = [*data.describe(), *data.preview(batch, run)]
                if isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):  # others need all processes
                    measured = _first_loss(trainer, pl_module, batch, fetched)
                for board in tensorboards(trainer) if (picture := run / "batch.png").is_file() else ():
                    board.add_image("batch", np.asarray(Image.open(picture)), trainer.global_step, dataformats="HWC")
        rank_zero_info("\n".join(["", *shown, _parameters(pl_module), *measured, f"run: {run}", ""]))


def _parameters(module: LightningModule) -> str:
    trainable = sum(p.numel() for p in module.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in module.parameters()) - trainable
    return f"parameters: {trainable:,} trainable, {frozen:,} frozen"


def _first_loss(trainer: Trainer, task: Task, batch: dict[str, Any], fetched: float) -> list[str]:
    """The loss of the first batch, and a guess of an epoch's time, with the seconds that fetching a batch takes.

    Where the loss alone takes long, a backward pass is taken to cost two forward passes, and the run can begin.
    """
    batch = move_data_to_device(trainer.precision_plugin.convert_input(batch), task.device)
    with evaluating(task), trainer.precision_plugin.forward_context():
        for _ in range(2):  # the first pass of all takes longer: where that decides, another one does
            began = time.perf_counter()
            with torch.no_grad():
                loss = task.step(batch, "train")["loss"].item()
            seconds = 3 * (time.perf_counter() - began)
            if not LONG < seconds < 10 * LONG:
                break
        lines = [f"first loss: {loss:.4f}"]
        if beside := task.uninformed_loss():
            lines[0] += f" ({beside[0]} = {beside[1]:.4f})"
        if trainer.world_size == 1 and seconds < LONG:
            began = time.perf_counter()
            trained = [parameter for parameter in task.parameters() if parameter.requires_grad]
            torch.autograd.grad(task.step(batch, "train")["loss"], trained, allow_unused=True)
            if task.device.type == "cuda":
                torch.cuda.synchronize(task.device)
            seconds = time.perf_counter() - began
        if trainer.world_size == 1:
            seconds, steps = seconds + fetched, trainer.num_training_batches
            lines.append(
                f"time: about {1000 * seconds:,.1f} ms a step, {seconds * steps:,.0f} s an epoch of {steps:,} steps"
            )
    return lines
