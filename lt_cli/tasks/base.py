"""What every task shares: one step for all stages, metrics, optimiser, checks against the data, checkpoint content."""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import Metric, MetricCollection

from lt_cli.backbones.base import Backbone, LanguageBackbone
from lt_cli.data.base import Batch, DataModule
from lt_cli.dtensors import shares_out
from lt_cli.errors import UserError
from lt_cli.fsdp2 import share_out
from lt_cli.lean import batches_stay
from lt_cli.optim import OptimizerFactory, ScheduleFactory, WarmupCosine, parameter_groups
from lt_cli.optimizer_settings import go_on, let_prevail, plain_settings, refuse_other_groups, scale_rates
from lt_cli.refusals import mismatch, refusals_of
from lt_cli.tasks.sizes import token_sizes
from lt_cli.version import VERSION

Stage = Literal["train", "val", "test"]
MetricFactories = dict[str, Callable[[int], Metric]]

CHECKPOINT_FORMAT = 1
"""Counts changes of what a checkpoint holds; every later version reads every earlier format."""


def run_directory(trainer: Trainer) -> Path:
    """Where the run's files go, as the first process says; called on all processes, or it waits for them."""
    return Path(trainer.strategy.broadcast(trainer.default_root_dir))


def machine(trainer: Trainer) -> dict[str, Any]:
    """What a run's last bits depend on besides its configuration: processes, device, precision, version of torch."""
    device = trainer.strategy.root_device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {"processes": trainer.world_size, "device": name, "torch": str(torch.__version__)}


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode for a while; afterwards each part is in the mode that it was in."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


class Task(LightningModule, ABC):
    """A backbone, a head, a loss, metrics, and what predict returns.

    A subclass writes ``step`` and ``predict_step``, and ``build`` where it has a head.

    Args:
        backbone: Inputs to features.
        optimizer: Built from the parameter groups; norms, biases and embeddings do not decay.
        schedule: Built from the optimiser and the run's number of optimiser steps, stepped at each of them;
            null keeps the learning rate.
        layer_decay: Factor of the learning rate from each block of the backbone to the one below it.
        backbone_lr_scale: Factor of the learning rate of all of the backbone beside the rest.

    Attributes:
        monitor: The metric that says which checkpoint is best, and whether less or more is better.
        run_config: The run's whole configuration in plain types, which checkpoints hold; the command line sets it.
        other_losses: Scalars of ``step`` that are trained on beside ``loss``, and their factors.
    """

    monitor: tuple[str, Literal["min", "max"]] = ("val/loss", "min")
    other_losses: Mapping[str, float] = {}

    def __init__(
        self,
        backbone: Backbone,
        optimizer: OptimizerFactory = torch.optim.AdamW,
        schedule: ScheduleFactory | None = WarmupCosine,
        layer_decay: float = 1.0,
        backbone_lr_scale: float = 1.0,
    ) -> None:
        """Stores its parts; heads come in ``build``."""
        super().__init__()
        self.backbone = backbone
        self.optimizer_factory = optimizer
        self.schedule_factory = schedule
        if not 0 < layer_decay <= 1:
            raise UserError(f"layer_decay ({layer_decay}) must be above 0 and at most 1, which keeps one learning rate")
        if not 0 < backbone_lr_scale <= 1:
            raise UserError(
                f"backbone_lr_scale ({backbone_lr_scale}) must be above 0 and at most 1, which keeps one rate: "
                "--freeze.modules=backbone keeps the backbone as it is"
            )
        self.layer_decay, self.backbone_lr_scale = layer_decay, backbone_lr_scale
        self.run_config: dict[str, Any] | None = None
        self.metrics = nn.ModuleDict()
        self._data: DataModule | None = None
        self._built = self._batches_stay = False
        self._has_trained_weights = False
        self._group_settings: list[list[dict[str, Any]]] = []

    def __setattr__(self, name: str, value: Any) -> None:
        """Torch's, which looks whether the value is a parameter; Lightning sets one that is none 46 times a step."""
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    @abstractmethod
    def step(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        """Everything that one batch yields, without side effects.

        Returns:
            ``loss``, other scalars to log under their names, and what ``update_metrics`` reads where there are any:
            ``scores`` (B, C) with ``labels`` (B,), unless a task has its own. Where the loss is a mean over other
            things than rows, ``weight`` is their number, so that an epoch's mean, and that over the processes that
            share a batch, is one over all of them; and ``NAME_weight`` is that of what another scalar is a mean over.
        """

    def update_metrics(self, metrics: MetricCollection, outputs: dict[str, Tensor], batch: Batch) -> None:
        """Adds a batch to the metrics, from what ``step`` gave."""
        metrics.update(outputs["scores"], outputs["labels"])

    @abstractmethod
    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Plain columns, one entry per row: ``index`` and what the task says of it."""

    def of_loss(self, loss: Tensor, stage: Stage) -> dict[str, Tensor]:
        """What follows from a mean loss, such as perplexity: of a training batch, or of a whole evaluation."""
        return {}

    def uninformed_loss(self) -> tuple[str, float] | None:
        """The loss of one who knows nothing but the number of answers, and its formula; for the first page."""
        if isinstance(self.backbone, LanguageBackbone) and self.data is not None and self.data.vocab_size is not None:
            return "ln V", math.log(self.data.vocab_size)
        return None

    def build(self, data: DataModule) -> None:
        """Makes what depends on the data, such as a head as wide as its labels; called once."""

    def problems(self, data: DataModule) -> list[str]:
        """What the data and the backbone disagree on, each with the override to add."""
        return token_sizes(self.backbone, data)

    def make_metrics(
        self, factories: MetricFactories, size: int, stages: Sequence[Stage] = ("train", "val", "test")
    ) -> None:
        """Makes one set of metrics per stage, in ``build``; logged as ``val/<name>`` and the like."""
        for stage in stages:
            with refusals_of("--model.metrics"):
                made: dict[str, Metric | MetricCollection] = {
                    name: factory(size) for name, factory in factories.items()
                }
            for metric in made.values():
                metric.sync_on_compute = stage != "train"  # there each process logs its own batch
            self.metrics[f"{stage}_metrics"] = MetricCollection(made, prefix=f"{stage}/")

    @property
    def data(self) -> DataModule | None:
        """The datamodule: the trainer's, or the one attached; None where it is not one of ours."""
        data = self._trainer.datamodule if self._trainer is not None else self._data  # type: ignore[attr-defined]
        return data if isinstance(data, DataModule) else None

    def attach(self, data: DataModule) -> None:
        """Stands in for a trainer outside one: gives the task its data and builds what depends on it."""
        self._data = data
        self.configure_model()

    def configure_model(self) -> None:
        """Lightning's hook before each of fit, validate, test and predict: checks the data, and builds once.

        A callback that names late modules calls it earlier, in its own ``setup``.

        Raises:
            UserError: With all that backbone and data disagree on.
        """
        self._batches_stay = batches_stay(self._trainer, self)
        if self.data is not None:
            if found := self.problems(self.data):
                raise UserError("; ".join(found))
            if not self._built:
                self.build(self.data)
                self._built = True
        if self.device_mesh is not None:
            share_out(self)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one batch; logged in the steps that Lightning writes only, as each log costs 0.2 ms."""
        interval = self.trainer.log_every_n_steps  # type: ignore[attr-defined]  # Lightning does not declare it
        outputs = self._step_and_log(batch, "train", log=interval > 0 and (self.global_step + 1) % interval == 0)
        loss = self._over_processes(outputs["loss"], outputs.get("weight"))
        for name, factor in self.other_losses.items():
            loss = loss + factor * self._over_processes(outputs[name], outputs.get(f"{name}_weight"))
        return loss

    def _over_processes(self, loss: Tensor, weight: Tensor | None) -> Tensor:
        """Such that its mean over processes, which strategies take of gradients, is one over all that it is over."""
        if weight is None or self.trainer.world_size == 1:
            return loss
        weight = weight.detach().float()
        total = self.trainer.strategy.reduce(weight.clone(), reduce_op="sum")
        return loss * (weight * self.trainer.world_size / total.clamp(min=1e-12))

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one batch; the epoch's mean is logged."""
        return self._step_and_log(batch, "val", log=True)["loss"]

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one batch; the mean over the test set is logged."""
        return self._step_and_log(batch, "test", log=True)["loss"]

    def _step_and_log(self, batch: Batch, stage: Stage, *, log: bool) -> dict[str, Tensor]:
        outputs = self.step(batch, stage)
        if log:
            self._log_outputs(outputs, batch, stage)
        return outputs

    def _log_outputs(self, outputs: dict[str, Tensor], batch: Batch, stage: Stage) -> None:
        scalars = {name: value.detach() for name, value in outputs.items() if not value.ndim}
        weight = scalars.pop("weight", None)
        weights = {name: scalars.pop(f"{name}_weight", weight) for name in [*scalars]}
        if stage == "train":
            scalars |= self.of_loss(scalars["loss"], stage)
        for name, value in scalars.items():
            weight = None if stage == "train" else weights.get(name)
            # where there is nothing to take a mean over, next to nothing, as Lightning divides by the sum
            count = len(batch["index"]) if weight is None else int(weight) or 1e-9
            self.log(
                f"{stage}/{name}",
                value,
                prog_bar=name == "loss",
                on_step=stage == "train",
                on_epoch=stage != "train",
                sync_dist=stage != "train",
                # times the processes, as Lightning divides by them, in whole numbers
                batch_size=count * self.trainer.world_size,  # type: ignore[arg-type]
            )
        if f"{stage}_metrics" in self.metrics:
            metrics = self.metrics[f"{stage}_metrics"]
            assert isinstance(metrics, MetricCollection)
            self.update_metrics(metrics, {name: value.detach() for name, value in outputs.items()}, batch)
            if stage == "train":  # the batch's own value
                self.log_dict(metrics.compute(), prog_bar=True)
                metrics.reset()

    def on_validation_epoch_end(self) -> None:
        """Logs what is known at the end only: metrics, and what follows from the mean loss."""
        self._log_epoch("val")

    def on_test_epoch_end(self) -> None:
        """Logs what is known at the end only: metrics, and what follows from the mean loss."""
        self._log_epoch("test")

    def _log_epoch(self, stage: Stage) -> None:
        if (loss := self.trainer.callback_metrics.get(f"{stage}/loss")) is not None:
            self.log_dict({f"{stage}/{name}": value for name, value in self.of_loss(loss, stage).items()})
        if f"{stage}_metrics" in self.metrics:
            metrics = self.metrics[f"{stage}_metrics"]
            assert isinstance(metrics, MetricCollection)
            self.log_dict(metrics.compute(), prog_bar=True)
            metrics.reset()

    def _call_batch_hook(self, hook_name: str, *args: Any) -> Any:
        """Lightning's hooks that move and change a batch, where there are any."""
        return args[0] if self._batches_stay else super()._call_batch_hook(hook_name, *args)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Lightning's, where there is anything to clip."""
        if gradient_clip_val:
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def configure_optimizers(self) -> Optimizer | OptimizerLRSchedulerConfig:
        """The optimiser over the parameter groups, and the schedule per optimiser step."""
        with refusals_of("--model.optimizer"):
            optimizer = self.optimizer_factory(parameter_groups(self, self.layer_decay, self.backbone_lr_scale))
        scale_rates(optimizer, self.layer_decay, self.backbone_lr_scale)
        refuse_other_groups(optimizer, getattr(self, "_loaded_settings", None))
        self._group_settings = [plain_settings(optimizer)]
        if self.schedule_factory is None or self.trainer.fast_dev_run:  # type: ignore[attr-defined]  # not declared
            return optimizer
        total_steps = self.trainer.estimated_stepping_batches
        if total_steps == float("inf"):
            raise UserError(
                "a schedule needs the run's length: set --trainer.max_steps or --trainer.max_epochs, "
                "or --model.schedule=null for a constant learning rate"
            )
        with refusals_of("--model.schedule"):
            schedule = self.schedule_factory(optimizer, int(total_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_fit_start(self) -> None:
        """From here on the weights are trained ones."""
        self._has_trained_weights = True

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Torch's, with a mismatch in one line; what checkpoints leave out stays as the backbone was given it."""
        if left_out := self._given() - state_dict.keys():
            own = self.state_dict()
            state_dict = {**state_dict, **{name: own[name] for name in left_out}}
        try:
            return super().load_state_dict(state_dict, strict=strict, assign=assign)
        except RuntimeError as error:
            raise UserError(f"the checkpoint{self._file()} is of another model: {mismatch(str(error))}") from error

    def _given(self) -> set[str]:
        """Names of the weights that building the backbone brings back."""
        return {f"backbone.{name}" for name in self.backbone.given}

    def _file(self) -> str:
        """The checkpoint's name for a message, where it is known."""
        return f" {self._trainer.ckpt_path}" if self._trainer is not None and self._trainer.ckpt_path else ""

    def on_validation_start(self) -> None:
        """Refuses to score weights that nobody trained."""
        self._refuse_untrained()

    def on_test_start(self) -> None:
        """Refuses to score weights that nobody trained."""
        self._refuse_untrained()

    def on_predict_start(self) -> None:
        """Refuses to predict with weights that nobody trained."""
        self._refuse_untrained()

    def _refuse_untrained(self) -> None:
        own = {id(p) for p in self.parameters()} - {id(p) for p in self.backbone.parameters()}
        if not self._has_trained_weights and (own or not self.backbone.pretrained):
            raise UserError(
                f"the weights of {type(self).__name__} are untrained: give --ckpt_path=best, last or a file"
            )

    def saved_config(self) -> dict[str, Any] | None:
        """The run's configuration as a checkpoint holds it: with a backbone that needs no other file."""
        config = copy.deepcopy(self.run_config)
        if config is not None and self.backbone.rebuild_config is not None:
            config["model"]["init_args"]["backbone"] = copy.deepcopy(self.backbone.rebuild_config)
        return config

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds format, version, the run's configuration, and the optimiser settings it stands for.

        The weights that building the backbone brings back are left out, but for strategies and callbacks that load
        by themselves.
        """
        checkpoint["lt_cli"] = {
            "format": CHECKPOINT_FORMAT,
            "version": VERSION,
            "config": self.saved_config(),
            "machine": machine(self.trainer),
            "optimizer_settings": self._group_settings,
            "given_fingerprint": self.backbone.given_fingerprint,
        }
        averaging = "current_model_state" in checkpoint  # Lightning's WeightAveraging loads by itself
        if not averaging and not shares_out(self.trainer.strategy):
            for name in self._given() & checkpoint["state_dict"].keys():
                del checkpoint["state_dict"][name]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Notes that the weights come from a file, and with which optimiser settings they were trained.

        Raises:
            UserError: If the file leaves out weights that the backbone was given, and has been given others now.
        """
        self._has_trained_weights = True
        before, now = checkpoint.get("lt_cli", {}).get("given_fingerprint"), self.backbone.given_fingerprint
        if before not in (None, now):
            raise UserError(
                f"the checkpoint{self._file()} was trained over weights with the fingerprint {before}, and those that "
                f"the backbone has been given have {now}: bring back the former, or say where they are with "
                f"--model.backbone.init_args.{self.backbone.sizes_at}pretrained=DIRECTORY"
            )
        self._loaded_settings = checkpoint.get("lt_cli", {}).get("optimizer_settings")

    def on_train_start(self) -> None:
        """Lets the configuration beat the checkpoint on resume, the learning rate included.

        Only what changed is written, as a schedule may have moved the rest.
        """
        if loaded := getattr(self, "_loaded_settings", None):
            for optimizer, before, now in zip(self.trainer.optimizers, loaded, self._group_settings, strict=True):
                let_prevail(optimizer, before, now, keeps_rate=self.schedule_factory is None)
            for config in self.trainer.lr_scheduler_configs:
                go_on(config.scheduler, self.trainer.global_step)
