"""FSDP2: weights shared out among the processes, block by block, for every task and any backbone of blocks."""

from collections import Counter
from collections.abc import Iterable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from torch import distributed, nn
from torch.distributed import default_pg_timeout
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, get_optimizer_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import Optimizer
from torch.utils.checkpoint import checkpoint

from lt_cli.dtensors import part_of
from lt_cli.errors import UserError, some_of
from lt_cli.optim import outermost_lists
from lt_cli.refusals import refusals_of
from lt_cli.shards import BESIDES, numbered

STEPS = ("training_step", "validation_step", "test_step", "predict_step", "sample_images", "sample_texts")
"""What Lightning and callbacks call of a task in place of ``forward``."""

PRECISIONS = ("32-true", "bf16-mixed", "bf16-true", "16-true")
"""Those that Lightning lets its strategy have; mixed float16 would scale each process's gradients otherwise."""


class FSDP2(ModelParallelStrategy):
    """Shares weights, gradients and optimiser states out among all processes (Zhao et al. 2023).

    See https://arxiv.org/abs/2304.11277. Each process keeps its part of every weight, and the weights of a block are
    put together only while it computes. What is learned is what ``ddp`` learns, on data shared out in the same way.

    Args:
        data_parallel_size: Processes that share out the weights; auto, or the number of all of them.
        activation_checkpointing: Whether each block keeps its inputs only, and computes the rest again in the
            backward pass (Chen et al. 2016, https://arxiv.org/abs/1604.06174): less memory, for a third more time.
            Blocks with batch norms keep all, as a norm would count a batch that it sees twice.
        save_distributed_checkpoint: Whether each process writes its part of a checkpoint; false puts it together in
            one file, for which the first process needs the memory. Either is read by any number of processes.
        timeout: How long a process waits for the others, as in 0:05:00, before it counts them as lost.

    Raises:
        UserError: If data_parallel_size is not the number of processes, a callback averages weights, or a weight
            cannot be cut.
    """

    def __init__(
        self,
        data_parallel_size: Literal["auto"] | int = "auto",
        activation_checkpointing: bool = False,
        save_distributed_checkpoint: bool = True,
        timeout: timedelta = default_pg_timeout,
    ) -> None:
        """Shares out nothing yet."""
        super().__init__(data_parallel_size, 1, save_distributed_checkpoint, timeout=timeout)
        self.activation_checkpointing = activation_checkpointing

    def setup_environment(self) -> None:
        """Lightning's, for all processes, after a look at what cannot go on shared out."""
        processes = self.num_nodes * self.num_processes
        if self._data_parallel_size not in ("auto", processes):
            raise UserError(
                f"data_parallel_size ({self._data_parallel_size}) must be the number of all processes ({processes}): "
                "leave it out, or set --trainer.devices and --trainer.num_nodes"
            )
        self._data_parallel_size = processes
        if (precision := self.precision_plugin.precision) not in PRECISIONS:
            raise UserError(f"precision ({precision}) must be one of {', '.join(PRECISIONS)} where FSDP2 shares out")
        assert self.lightning_module is not None
        for callback in self.lightning_module.trainer.callbacks:  # type: ignore[attr-defined]  # Lightning's, undeclared
            if isinstance(callback, WeightAveraging | StochasticWeightAveraging):
                raise UserError(
                    f"{type(callback).__name__} copies all weights, which FSDP2 shares out: "
                    "use --trainer.strategy=ddp, or leave the callback out"
                )
        super().setup_environment()

    def setup(self, trainer: Trainer) -> None:
        """Lightning's, with evaluations that leave weights which can be trained on.

        Autocast would keep a half as wide copy of every weight until the last block is through.
        """
        loops: Iterable[Any] = (
            trainer.fit_loop.epoch_loop.val_loop,
            trainer.validate_loop,
            trainer.test_loop,
            trainer.predict_loop,
        )
        for loop in loops:
            loop.inference_mode = False  # the buffers that weights are put together in would be of no use to training
        torch.set_autocast_cache_enabled(False)
        super().setup(trainer)

    def teardown(self) -> None:
        """Lightning's."""
        torch.set_autocast_cache_enabled(True)
        super().teardown()

    def on_validation_start(self) -> None:
        """All processes evaluate the same."""
        self._agree_on_buffers()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Lightning's, of which all processes have the same."""
        self._agree_on_buffers()
        return super().lightning_module_state_dict()

    def _agree_on_buffers(self) -> None:
        """They are the first process's, as with ``ddp``: each has counted its own rows in norms and the like."""
        assert self.model is not None
        for buffer in self.model.buffers():
            distributed.broadcast(buffer, src=0)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Lightning's, or for one file what a plain optimiser has; its own way takes parameters for one another."""
        if self._save_distributed_checkpoint:
            return super().optimizer_state(optimizer)
        assert self.model is not None
        own: Optimizer = getattr(optimizer, "_optimizer", optimizer)
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        state = get_optimizer_state_dict(self.model, own, options=options)
        return numbered(state) if state else {}  # the first process alone has one

    def load_checkpoint(self, checkpoint_path: _PATH, weights_only: bool | None = None) -> dict[str, Any]:
        """Shards, or a file of any strategy, of which each process takes its part.

        Lightning's way takes parameters for one another where an optimiser has groups, and refuses a checkpoint of
        a run in which a parameter got no gradient.

        Raises:
            UserError: If the checkpoint is of another model or optimiser, or has none of the latter.
        """
        path = self.broadcast(checkpoint_path)
        try:
            return self._read_shards(Path(path)) if Path(path).is_dir() else self._read_file(path)
        except UserError:
            raise
        except (CheckpointException, KeyError, RuntimeError, ValueError) as error:
            cause = (str(error).strip().splitlines() or [type(error).__name__])[-1].removeprefix("RuntimeError: ")
            raise UserError(f"the checkpoint {path} is of another model or optimiser: {cause}") from error

    def _read_shards(self, path: Path) -> dict[str, Any]:
        assert self.model is not None
        saved = FileSystemReader(path).read_metadata().state_dict_metadata
        weights = {"state_dict": get_model_state_dict(self.model)}
        own = {f"state_dict.{name}" for name in weights["state_dict"]}
        others = sorted(name for name in saved if name.startswith("state_dict.") and name not in own)
        assert self.lightning_module is not None
        if others and self.lightning_module.strict_loading:  # nobody asks for them
            raise ValueError(f"Unexpected key in checkpoint {some_of(others, 3)}")
        load(weights, checkpoint_id=path)
        self._take_weights(weights["state_dict"])
        for number, optimizer in enumerate(self.optimizers):
            key = f"optimizer_{number}"
            state: dict[str, Any] = get_optimizer_state_dict(self.model, optimizer)
            names = [group["params"] for group in state["param_groups"]]
            state["state"] = {
                name: values
                for name, values in state["state"].items()
                if any(f"{key}.state.{name}.{kind}" in saved for kind in values)
            }
            added = [
                {
                    name: group.pop(name)
                    for name in [*group]
                    if name != "params" and f"{key}.param_groups.{i}.{name}" not in saved
                }
                for i, group in enumerate(state["param_groups"])
            ]  # such as a schedule's learning rate, where there was no schedule
            load({key: state}, checkpoint_id=path)
            state["param_groups"] = [
                {**group, **more} for group, more in zip(state["param_groups"], added, strict=True)
            ]
            if [group["params"] for group in state["param_groups"]] != names:
                raise ValueError("the optimiser's groups hold other parameters")
            optimizer.load_state_dict(numbered(state))
        content: dict[str, Any] = torch.load(path / BESIDES, map_location="cpu", weights_only=True)
        return content | {"optimizer_states": []}  # who looks whether there are any finds that there were

    def _read_file(self, path: _PATH) -> dict[str, Any]:
        checkpoint: dict[str, Any] = self.checkpoint_io.load_checkpoint(path)
        states = checkpoint.pop("optimizer_states", [])
        if len(states) < len(self.optimizers):
            raise UserError(
                f"{path} holds no optimiser state: go on with a checkpoint of more than weights, or start anew"
            )
        assert self.model is not None
        own = self.model.state_dict()
        self._take_weights(
            {name: part_of(whole, own.get(name)) for name, whole in checkpoint.pop("state_dict").items()}
        )
        for optimizer, state in zip(self.optimizers, states, strict=False):
            numbers = [number for group in state["param_groups"] for number in group["params"]]
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            like = dict(zip(numbers, parameters, strict=True))
            parts = {
                number: {name: part_of(value, like[number]) for name, value in values.items()}
                for number, values in state["state"].items()
            }
            optimizer.load_state_dict({**state, "state": parts})
        return checkpoint | {"optimizer_states": []}

    def _take_weights(self, parts: dict[str, Any]) -> None:
        assert self.model is not None
        assert self.lightning_module is not None
        self.model.load_state_dict(parts, strict=self.lightning_module.strict_loading)


for name in ("fsdp2", f"{FSDP2.__module__}.{FSDP2.__name__}".lower()):  # a class without options is a string to Trainer
    StrategyRegistry.register(name, FSDP2, description=f"{FSDP2.__module__}.{FSDP2.__name__}", override=True)


def share_out(task: LightningModule) -> None:
    """Shares out a task's weights among all processes, once: by the blocks of its backbone, and the rest.

    Blocks are what the outermost lists of the backbone hold. The rest, such as embeddings and heads, is put together
    at the beginning of each step, as tasks also use it outside ``forward``.

    Raises:
        UserError: If another strategy than FSDP2 asks for it, or a weight cannot be cut.
    """
    from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

    if isinstance(task, FSDPModule):
        return
    strategy, mesh = task.trainer.strategy, task.device_mesh["data_parallel"]  # type: ignore[index]  # the caller's
    if not isinstance(strategy, FSDP2):  # whose mesh may be another, while data is shared out among all processes
        raise UserError(
            f"{type(strategy).__name__} leaves it to each model how to share it out: use lt_cli.fsdp2.FSDP2"
        )
    if numbers := [name for name, parameter in task.named_parameters() if not parameter.ndim]:
        raise UserError(
            f"FSDP2 cuts weights along their first dimension, and {some_of(numbers, 3)} has none: make it a vector of "
            "one number, or use --trainer.strategy=ddp"
        )
    if (synchronisation := getattr(strategy, "_layer_sync", None)) is not None:  # Lightning's strategy forgets it
        synchronisation.apply(task)
    for parameter in task.parameters():
        parameter.data = parameter.data.contiguous()  # no other layout can be cut
    with refusals_of("--trainer.strategy"):
        for block in blocks(task):
            if strategy.activation_checkpointing and not _counts_batches(block):
                # no wrapper, so that all keep their names; within what puts the weights together and takes them apart
                block.forward = partial(checkpoint, block.forward, use_reentrant=False)
            fully_shard(block, mesh=mesh)
        # whatever is put together is taken apart again after evaluations too: what changes a weight changes its parts
        fully_shard(task, mesh=mesh, reshard_after_forward=True)
    type(task).__name__ = type(task).__name__.removeprefix("FSDP")  # messages speak of the user's class
    for name in filter(partial(hasattr, task), STEPS):
        register_fsdp_forward_method(task, name)


def blocks(task: LightningModule) -> list[nn.Module]:
    """The blocks of a task's backbone that have weights, all of them their own: no other part uses one of them."""
    backbone = task.get_submodule("backbone")
    lists = outermost_lists(backbone).values()
    found = [*dict.fromkeys(block for parts in lists for part in parts for block in _units(part, _size(backbone) // 2))]
    inside = {module for block in found for module in block.modules()}
    uses = Counter(parameter for block in found for parameter in block.parameters())
    outside = (module for module in task.modules() if module not in inside)
    uses.update(parameter for module in outside for parameter in module.parameters(recurse=False))
    return [block for block in found if all(uses[parameter] == 1 for parameter in block.parameters())]


def _units(part: nn.Module, largest: int) -> list[nn.Module]:
    """A part of a list, or its own parts: those of a list, which has no ``forward``, or a large stage's own blocks."""
    lists: list[nn.Module] = []
    if isinstance(part, nn.ModuleList | nn.ModuleDict):
        lists = [part]
    elif _size(part) > largest:
        inner = [part] if isinstance(part, nn.Sequential) else outermost_lists(part).values()
        lists = [one for one in inner if _holds_blocks(one)]
    if lists:
        return [unit for one in lists for child in one.children() for unit in _units(child, largest)]
    return [part] if _size(part) else []


def _holds_blocks(part: nn.Module) -> bool:
    """Whether it is a list of several parts of one kind, each of parts of its own."""
    children = [child for child in part.children() if _size(child)]
    return len(children) > 1 and len({*map(type, children)}) == 1 and all(any(child.children()) for child in children)


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _counts_batches(block: nn.Module) -> bool:
    return any(isinstance(part, _NormBase) for part in block.modules())
