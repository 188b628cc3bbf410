"""How fast training goes."""

import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class Throughput(Callback):
    """Logs train/tokens_per_second, or train/rows_per_second where a batch has no tokens, over all processes.

    Only training steps count: validation, checkpoints and pictures in between do not slow the figure.
    """

    def __init__(self) -> None:
        """Counts nothing yet."""
        self._seconds, self._count = 0.0, 0
        self._began = 0.0
        self._logged_step = 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Starts the step's clock."""
        self._began = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Logs the mean since the last log, at the trainer's interval."""
        if not isinstance(batch, dict):
            return
        step = trainer.global_step
        interval = trainer.log_every_n_steps  # type: ignore[attr-defined]  # Lightning sets it without declaring it
        due = interval and step % interval == 0 and step != self._logged_step
        if due and pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)  # until here the GPU may be steps behind
        self._seconds += time.perf_counter() - self._began
        tokens = batch.get("input_ids")
        self._count += len(batch["index"]) if tokens is None else tokens.numel()
        if due and self._seconds:
            rate = self._count * trainer.world_size / self._seconds
            unit = "rows" if tokens is None else "tokens"
            pl_module.log(f"train/{unit}_per_second", rate, batch_size=1)
            self._seconds, self._count, self._logged_step = 0.0, 0, step
