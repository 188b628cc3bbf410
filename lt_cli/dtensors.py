"""Weights that processes share out, as torch's DTensor has them: from parts to the whole, and back."""

from typing import Any

from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy, Strategy
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


def whole_of(weight: Tensor) -> Tensor:
    """All of it, put together by all processes, or a weight that is whole anyway."""
    return weight.full_tensor() if isinstance(weight, DTensor) else weight


def local_of(weight: Tensor) -> Tensor:
    """This process's part of it, or a weight that is whole anyway."""
    return weight.to_local() if isinstance(weight, DTensor) else weight


def part_of(whole: Any, like: Any) -> Any:
    """A tensor that every process has, shared out as another one of its shape is; anything else stays what it is."""
    if not isinstance(like, DTensor) or not isinstance(whole, Tensor) or whole.shape != like.shape:
        return whole
    return distribute_tensor(whole.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def shares_out(strategy: Strategy) -> bool:
    """Whether each process has a part of the weights only, so that a forward pass is one of all processes."""
    if isinstance(strategy, DeepSpeedStrategy):
        return bool(strategy.zero_stage_3)
    return isinstance(strategy, FSDPStrategy | ModelParallelStrategy)
