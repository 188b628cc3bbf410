"""Less of what Lightning does at every step for nobody, which beside a small model is half of the time."""

import os
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.utilities.model_helpers import is_overridden

HOOKS_OF_A_STEP = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
)
HOOKS_OF_A_BATCH = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


class NoProfiler(PassThroughProfiler):
    """Measures nothing, with less ado than Lightning's, which makes a generator a hundred times a step."""

    def __init__(self) -> None:
        """Has one context, which does nothing, for all."""
        super().__init__()
        self._nothing: AbstractContextManager[None] = nullcontext()

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]  # its, less the name
        """A context that does nothing."""
        return self._nothing


def leave_out(trainer: Trainer) -> None:
    """Takes from a new trainer what a step does not need."""
    leave_out_empty_hooks(trainer.callbacks)  # type: ignore[attr-defined]  # Lightning does not declare it
    remember_arguments(trainer)
    # AdamW asks at each step whether there is a GPU. Lightning has torch look for the driver's library each time, so
    # that processes forked from this one may use a GPU, which without one here they cannot.
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0" if trainer.strategy.root_device.type == "cpu" else "1"


def batches_stay(trainer: Trainer | None, task: LightningModule) -> bool:
    """Whether batches reach a task as the loader hands them out: on a CPU, and nobody has a hook for them.

    Lightning asks for each of the hooks of each batch anew, and then rebuilds the batch.
    """
    if trainer is None or trainer.strategy.root_device.type != "cpu":
        return False
    objects = (trainer.datamodule, task)  # type: ignore[attr-defined]  # Lightning does not declare it
    return not any(is_overridden(hook, one) for hook in HOOKS_OF_A_BATCH for one in objects if one is not None)


def leave_out_empty_hooks(callbacks: Sequence[Callback]) -> None:
    """Keeps Lightning from calling hooks that do nothing, which it does of each callback and each hook of a step.

    It leaves out a hook that cannot be called; None is one.
    """
    for callback in callbacks:
        for hook in HOOKS_OF_A_STEP:
            if hook not in vars(callback) and getattr(type(callback), hook) is getattr(Callback, hook):
                setattr(callback, hook, None)


def remember_arguments(trainer: Trainer) -> None:
    """Keeps Lightning from inspecting the signature of ``training_step`` at each step: once per class says it all."""
    loop = trainer.fit_loop.epoch_loop
    build = loop._build_kwargs
    names: dict[type, tuple[str, ...]] = {}

    def build_once(kwargs: OrderedDict[str, Any], batch: Any, batch_idx: int) -> OrderedDict[str, Any]:
        task = type(trainer.lightning_module)
        if task not in names:
            names[task] = tuple(build(OrderedDict(), batch, batch_idx))
        values = {"batch": batch, "batch_idx": batch_idx}
        kwargs.update((name, values[name]) for name in names[task])
        return kwargs

    loop._build_kwargs = build_once  # type: ignore[method-assign]
