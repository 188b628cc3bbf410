"""Freezing parts of a task, for the whole run or until an epoch."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import rank_zero_info
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from lt_cli.callbacks.module_names import Part, covered
from lt_cli.errors import UserError


class Freeze(Callback):
    """Keeps parts of a task as they are, for good or until an epoch (Howard & Ruder 2018, https://arxiv.org/abs/1801.06146).

    A frozen part has no gradients, so that no optimiser moves it and no clipping counts it, and is in eval
    mode: no dropout, and BatchNorm uses its running statistics and leaves them alone. What did not train
    before, such as the base weights under LoRA, does not train after a thaw either. The end of fit undoes it.

    Args:
        modules: Dotted names and globs of the task's modules and parameters, such as ``backbone``,
            ``backbone.blocks.[0-3]`` or ``*.bias``; ``*`` also matches dots.
        thaw: Epochs, at least 1, each with names and globs as above, which train from its start on; null
            freezes for the whole run.

    Raises:
        UserError: If a name matches nothing, a thaw comes before epoch 1 or names what is not frozen then,
            nothing is left to train, or there is a thaw on several processes without DDP.
    """

    def __init__(self, modules: list[str] | str, thaw: dict[int, list[str] | str] | None = None) -> None:
        """Checks the epochs; names are looked up when fit starts."""
        self.modules = modules
        self.thaw = dict(sorted((thaw or {}).items()))
        if self.thaw and min(self.thaw) < 1:
            raise UserError(f"freeze.thaw: epoch {min(self.thaw)} must be at least 1; leave out what never freezes")
        self._parameters: set[nn.Parameter] = set()
        self._modules: set[nn.Module] = set()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Stops the gradients, before DDP looks which parameters have any."""
        if stage != "fit":
            return
        pl_module.configure_model()  # a head made there can be named then
        frozen = covered(pl_module, self.modules, "freeze.modules")
        self._check_thaws(pl_module, frozen)
        trained = {parameter for parameter in pl_module.parameters() if parameter.requires_grad}
        if trained <= frozen:
            raise UserError(f"freeze.modules ({self.modules}) leaves nothing to train in epoch 0: freeze less")
        self._parameters = trained & frozen
        for parameter in self._parameters:
            parameter.requires_grad = False

    def _check_thaws(self, pl_module: LightningModule, frozen: set[Part]) -> None:
        still = frozen
        for epoch, names in self.thaw.items():
            thawed = covered(pl_module, names, f"freeze.thaw of epoch {epoch}")
            if not thawed <= frozen or not thawed & still:
                raise UserError(
                    f"freeze.thaw of epoch {epoch} ({names}) must name parts that freeze.modules ({self.modules}) "
                    "freezes and no earlier epoch thaws"
                )
            still = still - thawed

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Thaws what was thawed before a resume, which starts no epoch when it goes on within one."""
        if self.thaw and trainer.world_size > 1 and not isinstance(trainer.strategy.model, DistributedDataParallel):
            raise UserError("freeze.thaw needs one process or --trainer.strategy=ddp")
        frozen = covered(pl_module, self.modules, "freeze.modules")  # again, as SyncBatchNorm replaces modules
        self._modules = {module for module in pl_module.modules() if module in frozen and module.training}
        self._thaw(trainer, pl_module)
        _report(pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Thaws what is due."""
        if self._thaw(trainer, pl_module):
            _report(pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Keeps eval mode, whoever sets train mode in between."""
        for module in self._modules:
            if module.training:
                module.training = False

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leaves the task as it was."""
        self._release(self._parameters | self._modules)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leaves the task as it was, as no teardown follows."""
        self._release(self._parameters | self._modules)

    def _thaw(self, trainer: Trainer, pl_module: LightningModule) -> bool:
        """Releases all that is due by this epoch; says whether there was any left to."""
        due = [names for epoch, names in self.thaw.items() if epoch <= trainer.current_epoch]
        thawed = set[Part]().union(*(covered(pl_module, names, "freeze.thaw") for names in due))
        gradients_change = not self._parameters.isdisjoint(thawed)
        anything = gradients_change or not self._modules.isdisjoint(thawed)
        self._release(thawed)
        strategy = trainer.strategy
        if gradients_change and isinstance(strategy, DDPStrategy):
            strategy.model = pl_module  # wrapped anew, as DDP reduces only what had gradients when it wrapped
            strategy.configure_ddp()
        return anything

    def _release(self, parts: set[Part]) -> None:
        for parameter in self._parameters & parts:
            parameter.requires_grad = True
        for module in self._modules & parts:
            module.training = True
        self._parameters -= parts
        self._modules -= parts


def _report(pl_module: LightningModule) -> None:
    frozen = sum(parameter.numel() for parameter in pl_module.parameters() if not parameter.requires_grad)
    total = sum(parameter.numel() for parameter in pl_module.parameters())
    rank_zero_info(f"epoch {pl_module.current_epoch}: {frozen:,} parameters frozen, {total - frozen:,} trainable")
