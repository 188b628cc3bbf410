"""Questions that all processes must answer alike."""

from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import distributed


class Agreement:
    """The highest of all processes' numbers, found on the CPU, so that asking after every step stalls no GPU."""

    def __init__(self) -> None:
        """Joins no group yet."""
        self._group: Any = None

    def highest(self, trainer: Trainer, *numbers: int) -> list[int]:
        """Each number's maximum over the processes; called on all of them."""
        if trainer.world_size == 1 or not distributed.is_initialized():
            return list(numbers)
        if self._group is None:
            cpu = distributed.get_backend() == "gloo"
            self._group = distributed.group.WORLD if cpu else distributed.new_group(backend="gloo")
        votes = torch.tensor(numbers, dtype=torch.int64)
        distributed.all_reduce(votes, distributed.ReduceOp.MAX, group=self._group)
        return votes.tolist()
