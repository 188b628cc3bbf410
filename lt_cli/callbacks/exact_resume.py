"""Random numbers and rows as a function of where the run stands, so that a resumed run equals an uninterrupted one."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import CombinedLoader

from lt_cli.data.base import Loader, run_seed


class ExactResume(Callback):
    """Makes a run that was killed and resumed bit-identical to one that was not, on the same machine.

    torch is seeded before every training batch from the run's seed, the process, the epoch and the batch; the
    order of the rows is the loader's. Three gaps of Lightning 2.6 are closed when training starts.
    """

    def __init__(self) -> None:
        """Resumes nothing yet."""
        self._loader_states: list[dict[str, Any]] = []

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Notes where the loaders stood."""
        self._loader_states = checkpoint["loops"]["fit_loop"]["state_dict"].get("combined_loader", [])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Puts the loaders where they stood, and ends the epoch that a checkpoint of its end left open.

        Lightning forgets the loaders' states where the schedule asked for the number of steps, as ours does; it
        counts batches, whose size and number of processes may be others now; and it would take a run measured in
        steps through an empty epoch first, every later epoch then coming in the order of the one after it.
        """
        loop = trainer.fit_loop
        epochs: Any = loop.epoch_progress.current  # Lightning declares another class than these have
        batches: Any = loop.epoch_loop.batch_progress.current
        loaders = [dl for dl in CombinedLoader(trainer.train_dataloader).flattened if hasattr(dl, "load_state_dict")]
        for loader, state in zip(loaders, self._loader_states, strict=False):
            loader.load_state_dict(state)
            if isinstance(loader, Loader):
                moved = loader.batches_done - batches.processed
                for name in ("ready", "started", "processed", "completed"):
                    setattr(batches, name, getattr(batches, name) + moved)
        self._loader_states = []
        epochs.completed = epochs.processed
        if loop.restarted_on_epoch_end:
            loop._restarting = loop.epoch_loop.restarting = False
            loop.reset_restart_stage()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Dropout and other draws of the step come from here."""
        position = (run_seed(), trainer.global_rank, trainer.current_epoch, batch_idx)
        torch.manual_seed(hash(position) & 0x7FFF_FFFF_FFFF_FFFF)
