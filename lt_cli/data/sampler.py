"""Which rows come when, and to whom: the batches of an epoch as a function of seed, epoch and process."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

State = dict[str, Any]
"""Where a loader stands: ``epoch``, ``rows`` handed out in it over all processes, and what else the order needs."""


class BatchSampler:
    """Yields (epoch, row numbers of one batch) for one rank, as a pure function of seed, epoch and rank.

    The rows of an epoch stand in one order for all ranks; every global batch is a run of
    ``batch_size * world_size`` of them, shared out evenly. So a run resumes in the middle of an epoch under
    any number of processes. In training, the fewer than ``world_size`` rows that cannot be shared out
    evenly at the end of an epoch are left to another epoch's order; in evaluation every row comes once.

    Args:
        num_rows: Rows of the split.
        batch_size: Rows of one batch of one rank.
        shuffle: Whether the order changes from epoch to epoch; otherwise rows come in their own order.
        even: Whether all ranks must get equally many batches and rows, as training needs.
        seed: Seed of the order.
        rank: This process.
        world_size: Number of processes.
    """

    def __init__(
        self, *, num_rows: int, batch_size: int, shuffle: bool, even: bool, seed: int, rank: int, world_size: int
    ) -> None:
        """Starts at epoch 0, row 0."""
        self.num_rows, self.shuffle, self.even, self.seed = num_rows, shuffle, even, seed
        self.rank, self.world_size = rank, world_size
        self.global_batch_size = batch_size * world_size
        self.epoch = 0
        self.start_row = 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch whose order comes next; Lightning calls it."""
        self.epoch = epoch

    def begin(self, state: State | None) -> State:
        """Where the next iteration begins: where a state says that is of its epoch and not of the end of it."""
        rows = state["rows"] if state and state["epoch"] == self.epoch else 0
        self.start_row = 0 if rows == self._end(rows) else rows
        return {"epoch": self.epoch, "rows": self.start_row}

    def after(self, state: State) -> State:
        """Where a loader stands a global batch later."""
        rows = state["rows"]
        return {**state, "rows": min(rows + self.global_batch_size, self._end(rows))}

    def batches_left(self, state: State) -> int:
        """Batches that this rank still has in the state's epoch."""
        return self._batches_from(state["rows"], self.rank)

    @property
    def shared_batches(self) -> int:
        """Batches of a whole epoch in which every rank has a row."""
        return self._batches_from(0, self.world_size - 1)

    @property
    def global_batches(self) -> int:
        """Batches of a whole epoch in which any rank has a row."""
        return self._batches_from(0, 0)

    def __len__(self) -> int:
        """Batches that this rank has in a whole epoch."""
        return self._batches_from(0, self.rank)

    def __iter__(self) -> Iterator[tuple[int, list[int]]]:
        """This rank's share of each global batch from ``start_row`` on."""
        order = self._order(self.epoch, self.seed)
        end = self._end(self.start_row)
        for start in range(self.start_row, end, self.global_batch_size):
            if rows := order[self._share(start, min(start + self.global_batch_size, end))].tolist():
                yield self.epoch, rows

    def _order(self, epoch: int, seed: int) -> NDArray[np.int64]:
        if not self.shuffle:
            return np.arange(self.num_rows)
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        # as an array, whose slices cost less than torch's
        order: NDArray[np.int64] = torch.randperm(self.num_rows, generator=generator).numpy()
        return order

    def _end(self, start_row: int) -> int:
        """Where an epoch ends that goes on from a row: all processes get equally many rows if they must."""
        return self.num_rows - (self.num_rows - start_row) % self.world_size if self.even else self.num_rows

    def _batches_from(self, start_row: int, rank: int) -> int:
        full, rest = divmod(self._end(start_row) - start_row, self.global_batch_size)
        return full + (rest > rank)

    def _share(self, start: int, end: int) -> slice:
        """This rank's part of a global batch."""
        share, rest = divmod(end - start, self.world_size)
        first = start + self.rank * share + min(self.rank, rest)
        return slice(first, first + share + (self.rank < rest))
