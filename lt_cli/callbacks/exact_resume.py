"""Random numbers as a function of where the run stands, so that a resumed run equals an uninterrupted one."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lt_cli.data.base import run_seed


class ExactResume(Callback):
    """Seeds torch before every training batch from the run's seed, the process, the epoch and the batch.

    The order of the rows and where they stand is the loader's; together they make a run that was killed and
    resumed bit-identical to one that was not, on the same machine.
    """

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Dropout and other draws of the step come from here."""
        position = (run_seed(), trainer.global_rank, trainer.current_epoch, batch_idx)
        torch.manual_seed(hash(position) & 0x7FFF_FFFF_FFFF_FFFF)
