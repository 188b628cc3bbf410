"""Random numbers and rows as a function of where the run stands, so that a resumed run equals an uninterrupted one."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    BaseFinetuning,
    EarlyStopping,
    GradientAccumulationScheduler,
    StochasticWeightAveraging,
)
from lightning.pytorch.utilities import CombinedLoader, rank_zero_info

from lt_cli.data.base import Loader, run_seed
from lt_cli.errors import UserError
from lt_cli.shards import writes_shards
from lt_cli.tasks.base import machine


class ExactResume(Callback):
    """Makes a run that was killed and resumed bit-identical to one that was not, on the same machine.

    torch is seeded before every training batch from the run's seed, the process, the epoch and the batch; the
    order of the rows is the loader's. Gaps of Lightning 2.6 are closed when training starts.
    """

    def __init__(self) -> None:
        """Resumes nothing yet."""
        self._loader_states: list[dict[str, Any]] = []
        self._step = 0
        self._max_steps = -1
        self._patience: dict[EarlyStopping, int] = {}
        self._in_batch_end = self._resumes_in_batch_end = False

    def state_dict(self) -> dict[str, Any]:
        """Whether the checkpoint is of the end of a batch, before the validation that may follow it is over."""
        return {"in_batch_end": self._in_batch_end}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Notes where the run stood, and says what keeps it from ending with the same bits.

        Lightning is kept from leaving at once where only what follows the last batch is left to do; as a strategy may
        restore a run after every hook but those of training, nothing later than this would.
        """
        if trainer.state.fn == "fit":
            before = checkpoint.get("lt_cli", {}).get("machine", {})
            for name, now in machine(trainer).items():
                if before.get(name, now) != now:
                    rank_zero_info(
                        f"resuming with {name} {now} (was {before[name]}): where it stood, but not bit for bit"
                    )
            if "optimizer_states" not in checkpoint and not writes_shards(trainer.strategy):
                raise UserError(
                    f"{trainer.ckpt_path} holds no optimiser state that this strategy can use: "
                    "go on with the strategy that wrote it, or with a checkpoint of more than weights"
                )
            # the checkpoint's would otherwise take the place of what the configuration says now
            self._patience = {one: one.patience for one in trainer.callbacks if isinstance(one, EarlyStopping)}  # type: ignore[attr-defined]
        self._loader_states = checkpoint["loops"]["fit_loop"]["state_dict"].get("combined_loader", [])
        self._step = checkpoint["global_step"]
        if trainer.state.fn == "fit":
            own = checkpoint.get("callbacks", {}).get(self.state_key, {})
            self._resumes_in_batch_end = own.get("in_batch_end", False)
            loop = trainer.fit_loop.epoch_loop
            self._max_steps = loop.max_steps
            if self._resumes_in_batch_end and self._step == self._max_steps:
                loop.max_steps += 1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Puts the loaders where they stood, and ends the epoch that a checkpoint of its end left open.

        Lightning forgets the loaders' states where the schedule asked for the number of steps, as ours does; it
        counts batches, whose size and number of processes may be others now; and it would take a run measured in
        steps through an empty epoch first, every later epoch then coming in the order of the one after it.
        """
        if self._loader_states or self._step:
            self._say_what_is_inexact(trainer)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]  # Lightning does not declare it
            if isinstance(callback, EarlyStopping):
                callback.patience = self._patience.get(callback, callback.patience)
                trainer.should_stop |= callback.wait_count >= callback.patience
        loop = trainer.fit_loop
        epochs: list[Any] = [loop.epoch_progress.total, loop.epoch_progress.current]  # of another class than declared
        batches: Any = loop.epoch_loop.batch_progress.current
        loaders = [dl for dl in CombinedLoader(trainer.train_dataloader).flattened if hasattr(dl, "load_state_dict")]
        moved = 0
        for loader, state in zip(loaders, self._loader_states, strict=False):
            loader.load_state_dict(state)
            if isinstance(loader, Loader):
                moved = loader.batches_done - batches.processed
                for name in ("ready", "started", "processed", "completed"):
                    setattr(batches, name, getattr(batches, name) + moved)
        self._loader_states = []
        if self._resumes_in_batch_end:
            self._resume_in_batch_end(trainer, other_batches=moved != 0)
            return
        for count in epochs:
            count.completed = count.processed
        if all(count.processed == count.ready for count in epochs):  # no epoch is open
            loop._restarting = loop.epoch_loop.restarting = False
            loop.reset_restart_stage()

    def _say_what_is_inexact(self, trainer: Trainer) -> None:
        """Lightning's own callbacks of this kind act at the beginning of epochs, which a resume within one has not."""
        for callback in trainer.callbacks:  # type: ignore[attr-defined]  # Lightning does not declare it
            if self._resumes_in_batch_end and isinstance(callback, StochasticWeightAveraging | BaseFinetuning):
                name = type(callback).__name__
                rank_zero_info(f"resuming within an epoch, of which {name} takes no note: not bit for bit")
        loaders = CombinedLoader(trainer.train_dataloader).flattened
        if not all(isinstance(loader, Loader) for loader in loaders):
            rank_zero_info("resuming with a loader that is not of lt_cli.data: in another order, so not bit for bit")

    def _resume_in_batch_end(self, trainer: Trainer, *, other_batches: bool) -> None:
        """Lets the run go on with what follows a batch, its validation above all, which Lightning would leave out."""
        loop, batch_loop = trainer.fit_loop, trainer.fit_loop.epoch_loop
        epochs, batches, validation = loop.epoch_progress, batch_loop.batch_progress, batch_loop.val_loop.batch_progress
        count: Any
        for count in (epochs.total, epochs.current):
            count.processed = count.completed = count.started - 1
        for count in (batches.total, batches.current):
            count.completed = count.processed
        validation.total.load_state_dict(
            {name: number - vars(validation.current)[name] for name, number in vars(validation.total).items()}
        )
        batch_loop.reset_restart_stage()
        batch_loop._batches_that_stepped -= not batch_loop._should_accumulate()  # which Lightning now adds twice
        advance = batch_loop.advance

        def skip_the_batch(data_fetcher: Any) -> None:
            for callback in trainer.callbacks:  # type: ignore[attr-defined]  # Lightning does not declare it
                if isinstance(callback, GradientAccumulationScheduler):  # whose turn comes in whole epochs only
                    callback.on_train_epoch_start(trainer, trainer.lightning_module)
            batch_loop.advance = advance  # type: ignore[method-assign]
            batch_loop.max_steps = self._max_steps
            batch_loop.val_loop.restarting = False
            batch_loop._skip_next_val = other_batches and not batches.is_last_batch  # whose number says nothing now

        batch_loop.advance = skip_the_batch  # type: ignore[method-assign]
        self._resumes_in_batch_end, self._in_batch_end = False, True

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Dropout and other draws of the step come from here."""
        position = (run_seed(), trainer.global_rank, trainer.current_epoch, batch_idx)
        seed = hash(position) & 0x7FFF_FFFF_FFFF_FFFF
        # not torch.manual_seed: where CUDA is not in use, it keeps every call for the day that it might be
        torch.default_generator.manual_seed(seed)
        if pl_module.device.type != "cpu":
            torch.get_device_module(pl_module.device).manual_seed(seed)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """The weights are a step further; the validation that may follow is still to come."""
        self._in_batch_end = True

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What follows a batch is over."""
        self._in_batch_end = False

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What follows a batch is over, unless something stopped the run within the epoch, which then goes on there."""
        self._in_batch_end = not trainer.is_last_batch
