"""Batches of a text without end: counted for Lightning, and resumed where every reader of every process stood."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader

from lt_cli.data.base import Batch, Loader, Split
from lt_cli.data.sampler import BatchSampler, State
from lt_cli.data.streams import Item, Place, Readers
from lt_cli.errors import UserError

THREADS = "TOKENIZERS_PARALLELISM"
"""What ``tokenizers`` asks whether it may have threads."""


class Numbers(BatchSampler):
    """Counts the batches of a stream, of which every process has one at each step; they are its rows.

    Args:
        num_batches: Those of an epoch.
        batch_size: Rows of a batch.
    """

    def __init__(self, num_batches: int, batch_size: int) -> None:
        """Starts at epoch 0, batch 0."""
        super().__init__(num_rows=num_batches, batch_size=1, shuffle=False, even=False, seed=0, rank=0, world_size=1)
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[tuple[int, list[int]]]:
        """Numbers for the rows of each batch; an order of all of them, as of a split, would fill the memory."""
        for batch in range(self.start_row, self.num_rows):
            yield self.epoch, list(range(batch * self.batch_size, (batch + 1) * self.batch_size))


class StreamLoader(Loader):
    """Batches of a stream: every epoch goes on where the one before it ended; so does a run that is resumed.

    It is as long as it is told, so that Lightning knows which batch is an epoch's last one. Of a loader without a
    length it would fetch a batch ahead, which a checkpoint would then count as done.

    Args:
        readers: Make the batches.
        split: The beginning of the text, for who looks at rows out of turn.
        num_batches: Batches of an epoch.
        pin_memory: Whether batches are put where a GPU copies from fastest.
        gather: The places of all processes, from those of each; called on all of them.
        text: What the stream is, in plain types; places in another one mean nothing.
    """

    def __init__(
        self,
        readers: Readers,
        split: Split,
        *,
        num_batches: int,
        pin_memory: bool = False,
        gather: Callable[[list[Place]], list[list[Place]]] = lambda places: [places],
        text: list[Any] | None = None,
    ) -> None:
        """Reads nothing yet."""
        super().__init__(split, Numbers(num_batches, readers.packing.batch_size))
        self.readers, self.text = readers, text
        self._pin_memory, self._gather = pin_memory, gather
        self._places, self._turn = readers.places, 0
        self._number = 0
        self._note = ""
        self._iterator: Any = None  # Lightning ends the workers of one that is called so

    def __iter__(self) -> Iterator[Batch]:
        """The batches of an epoch, or those that it still has."""
        self._state = state = self.sampler.begin(self._state if self._resuming else None)
        self._resuming = False
        for _, rows in self.sampler:
            batch = self._next()
            self._state = state = self.sampler.after(state)
            yield {**batch, "index": torch.tensor(rows)}

    def _next(self) -> Batch:
        if self._iterator is None:
            self._iterator = self._start()
        item: Item = None
        while item is None:
            item = next(self._iterator)
        if isinstance(item, UserError):
            raise item
        place, batch = item
        self._places[self._turn] = place
        self._turn = (self._turn + 1) % self.readers.each
        if (number := place["parts"][0]["number"]) > self._number:
            self._number = number
            rank_zero_info(f"a reader of the train text is at its end; pass {number + 1} begins")
        return batch

    def _start(self) -> Iterator[Item]:
        """The readers at work, from where each of them stands."""
        if self._note:
            rank_zero_info(self._note)
            self._note = ""
        self.readers.places, self.readers.turn = list(self._places), self._turn
        num_workers = self.readers.num_workers
        with _one_thread_each() if num_workers else nullcontext():
            return iter(
                DataLoader(
                    self.readers,
                    batch_size=None,
                    num_workers=num_workers,
                    pin_memory=self._pin_memory,
                    generator=torch.Generator(),  # of its own, so that iterating draws nothing from the global one
                )
            )

    def state_dict(self) -> State:
        """Epoch and batches done in it, and where the readers of all processes stand; called on all of them."""
        return {**self._state, "text": self.text, "turn": self._turn, "places": self._gather(list(self._places))}

    def load_state_dict(self, state: State) -> None:
        """Goes on where the readers stood, or where what they had left is shared out among others."""
        super().load_state_dict({name: state[name] for name in ("epoch", "rows")})
        self._iterator = None
        if state.get("text") != self.text or "places" not in state:
            self._note = "resuming with another train text than the checkpoint's: it is read from its beginning"
            return
        processes = state["places"]
        before = [place for places in processes for place in places]
        self._places = self.readers.mine(self.readers.shared_out(before))
        same = [len(places) for places in processes] == [self.readers.each] * self.readers.world_size
        self._turn = state["turn"] if same else 0
        self._number = max(place["parts"][0]["number"] for place in before)
        if len(before) != self.readers.shares:
            self._note = (
                f"resuming with {self.readers.shares} readers of the train text (was {len(before)}): what those had "
                "left of it is shared out, so not bit for bit"
            )


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes that are forked within it have no threads of ``tokenizers``, which it would warn of at length."""
    before = os.environ.get(THREADS)
    os.environ[THREADS] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[THREADS]
        else:
            os.environ[THREADS] = before
