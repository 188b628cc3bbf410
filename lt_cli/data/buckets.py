"""Batches of rows of about one length, so that little of them is padding."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lt_cli.data.sampler import BatchSampler, State
from lt_cli.errors import UserError


def padded_lengths(lengths: ArrayLike) -> NDArray[np.int64]:
    """Lengths rounded up to those of buckets: multiples of 8 to 128, then of an eighth of the power of two below."""
    lengths = np.maximum(np.asarray(lengths, dtype=np.int64), 1)
    exponent = np.frexp((lengths - 1).astype(np.float64))[1].astype(np.int64)  # 2 ** exponent is above
    step = np.left_shift(1, np.maximum(exponent - 4, 3))
    padded: NDArray[np.int64] = -(-lengths // step) * step
    return padded


class _Part(TypedDict):
    """What an order follows from, and how many of its rows were handed out.

    ``global_batch_size`` is None for rows that came without regard to their lengths, as those of older checkpoints did.
    """

    seed: int
    world_size: int
    global_batch_size: int | None
    tokens_per_batch: int | None
    rows: int


class _Plan(NamedTuple):
    """Rows of an epoch in their order, and where each global batch ends."""

    rows: NDArray[np.int64]
    ends: NDArray[np.int64]


class LengthSampler(BatchSampler):
    """Yields batches of rows of about one length, as a pure function of seed, epoch and rank.

    Rows stand by bucket, the longest first, and in a random order within each; cut into global batches, which come
    in a random order: in evaluation always in the same, so that some of them are a fair sample. Every epoch has the
    same sequence of buckets, thus equally many batches: the fewer than ``world_size`` rows that cannot be shared out
    evenly are of the bucket with most. What is left of an epoch that was begun with other settings is cut anew.

    Args:
        lengths: Tokens of each row (N,).
        batch_size: Rows of one batch of one rank, at most.
        tokens_per_batch: At most so many tokens in a batch of one rank, with each row padded to the length of
            the longest one's bucket; None for no limit.
        shuffle: Whether the order changes from epoch to epoch.
        even: Whether all ranks must get equally many batches and rows, as training needs.
        seed: Seed of the order.
        rank: This process.
        world_size: Number of processes.

    Raises:
        UserError: If the longest row does not fit into ``tokens_per_batch``.
    """

    def __init__(
        self,
        *,
        lengths: NDArray[np.int64],
        batch_size: int,
        tokens_per_batch: int | None,
        shuffle: bool,
        even: bool,
        seed: int,
        rank: int,
        world_size: int,
    ) -> None:
        """Sorts lengths into buckets; starts at epoch 0, row 0."""
        super().__init__(
            num_rows=len(lengths),
            batch_size=batch_size,
            shuffle=shuffle,
            even=even,
            seed=seed,
            rank=rank,
            world_size=world_size,
        )
        widths, bucket = np.unique(-padded_lengths(lengths), return_inverse=True)
        self._widths = -widths  # the longest first
        self._bucket = bucket.astype(np.uint16)  # which sorts faster than wider numbers
        if tokens_per_batch is not None and len(widths) and tokens_per_batch < self._widths[0]:
            raise UserError(
                f"tokens_per_batch ({tokens_per_batch}) must hold the longest row, whose {lengths.max()} tokens are "
                f"padded to {self._widths[0]}: use --data.tokens_per_batch={self._widths[0]} or more"
            )
        self._now = _Part(
            seed=seed,
            world_size=world_size,
            global_batch_size=self.global_batch_size,
            tokens_per_batch=tokens_per_batch,
            rows=0,
        )
        counts = np.bincount(self._bucket, minlength=len(widths))
        self._sizes = np.diff(self._cuts(self._shareable(counts, world_size), self._now))
        self._parts = [self._now]
        self._planned: tuple[Any, _Plan] | None = None

    def begin(self, state: State | None) -> State:
        """Where the next iteration begins: where a state says that is of its epoch and not of the end of it."""
        parts = [self._now]
        if state and state["epoch"] == self.epoch:
            parts = self._go_on(state)
            if parts[-1]["rows"] == len(self._plan(self.epoch, parts).rows):
                parts = [self._now]
        self._parts = parts
        return _state(self.epoch, parts)

    def after(self, state: State) -> State:
        """Where a loader stands a global batch later."""
        parts: list[_Part] = state["parts"]
        *before, part = parts
        ends = self._plan(state["epoch"], parts).ends
        rows = int(ends[np.searchsorted(ends, part["rows"], side="right")])
        return _state(state["epoch"], [*before, {**part, "rows": rows}])

    def batches_left(self, state: State) -> int:
        """Batches that this rank still has in the state's epoch."""
        parts = self._go_on(state)
        ends = self._plan(state["epoch"], parts).ends
        return int((np.diff(ends, prepend=0)[ends > parts[-1]["rows"]] > self.rank).sum())

    @property
    def shared_batches(self) -> int:
        """Batches of a whole epoch in which every rank has a row."""
        return int((self._sizes >= self.world_size).sum())

    @property
    def global_batches(self) -> int:
        """Batches of a whole epoch in which any rank has a row."""
        return len(self._sizes)

    def __len__(self) -> int:
        """Batches that this rank has in a whole epoch."""
        return int((self._sizes > self.rank).sum())

    def __iter__(self) -> Iterator[tuple[int, list[int]]]:
        """This rank's share of each global batch from where ``begin`` said."""
        epoch, start = self.epoch, self._parts[-1]["rows"]
        plan = self._plan(epoch, self._parts)
        for end in plan.ends[plan.ends > start].tolist():
            if rows := plan.rows[self._share(start, end)].tolist():
                yield epoch, rows
            start = end

    def _go_on(self, state: State) -> list[_Part]:
        """The parts of an epoch, the last with the settings of now."""
        old = _Part(seed=self.seed, world_size=1, global_batch_size=None, tokens_per_batch=None, rows=state["rows"])
        parts: list[_Part] = [part for part in state.get("parts", [old]) if part["rows"]]
        if parts:
            *before, part = parts
            plan, other = (self._plan(state["epoch"], [*before, one]) for one in (part, self._now))
            if np.array_equal(plan.rows, other.rows) and np.array_equal(plan.ends, other.ends):
                # by other processes perhaps, but in the same batches
                return [*before, {**self._now, "rows": part["rows"]}]
        return [*parts, self._now]

    def _plan(self, epoch: int, parts: Sequence[_Part]) -> _Plan:
        """The order of the last part: of the rows that those before it left."""
        key = (epoch, [{**part, "rows": 0 if part is parts[-1] else part["rows"]} for part in parts])
        if self._planned is None or self._planned[0] != key:
            left = np.ones(self.num_rows, dtype=bool)
            for part in parts[:-1]:
                left[self._cut(epoch, left, part).rows[: part["rows"]]] = False
            self._planned = key, self._cut(epoch, left, parts[-1])
        return self._planned[1]

    def _cut(self, epoch: int, left: NDArray[np.bool_], part: _Part) -> _Plan:
        """The batches of the rows that are left."""
        rows = self._order(epoch, part["seed"])
        rows = rows[left[rows]]
        if part["global_batch_size"] is None:
            return _Plan(rows, np.arange(1, len(rows) + 1))
        bucket = self._bucket[rows]
        counts = np.bincount(bucket, minlength=len(self._widths))
        kept = self._shareable(counts, part["world_size"])
        place_in_bucket = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        rows = rows[np.argsort(bucket, kind="stable")][place_in_bucket < np.repeat(kept, counts)]
        cuts = self._cuts(kept, part)
        starts, sizes = cuts[:-1], np.diff(cuts)
        if self.shuffle:
            turn = np.random.default_rng([part["seed"], epoch]).permutation(len(sizes))
        else:  # the last may be too small for all processes to have a part in
            turn = np.append(np.random.default_rng(0).permutation(len(sizes[:-1])), len(sizes) - 1)[: len(sizes)]
        starts, sizes = starts[turn], sizes[turn]
        ends = np.cumsum(sizes)
        return _Plan(rows[np.repeat(starts - (ends - sizes), sizes) + np.arange(len(rows))], ends)

    def _shareable(self, counts: NDArray[np.int64], world_size: int) -> NDArray[np.int64]:
        """Rows of each bucket without those that cannot be shared out, which are of the bucket with most."""
        if not self.even:
            return counts
        by_count = np.argsort(-counts, kind="stable")
        spare = counts.sum() % world_size
        kept = counts.copy()
        kept[by_count] -= np.diff(np.minimum(np.cumsum(counts[by_count]), spare), prepend=0)
        return kept

    def _cuts(self, counts: NDArray[np.int64], part: _Part) -> NDArray[np.int64]:
        """Where batches begin in rows sorted by bucket, and where the last one ends."""
        sizes = np.full(len(counts), part["global_batch_size"] or 0)
        if part["tokens_per_batch"] is not None:
            sizes = np.minimum(sizes, np.maximum(part["tokens_per_batch"] // self._widths, 1) * part["world_size"])
        cuts, start = [np.zeros(0, dtype=np.int64)], 0
        for end, size in zip(np.cumsum(counts).tolist(), sizes.tolist(), strict=True):
            begun = np.arange(start, end, size)  # a batch may go on into shorter buckets
            cuts.append(begun)
            start += len(begun) * size
        return np.append(np.concatenate(cuts), counts.sum())


def _state(epoch: int, parts: list[_Part]) -> State:
    return {"epoch": epoch, "rows": sum(part["rows"] for part in parts), "parts": parts}
