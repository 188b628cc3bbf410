"""Text without end, read while a run trains: shared out, shuffled and packed, from any place where a reader stood.

A pass over the text is cut into shares by ``datasets``, one for each reader: a process, or each of its workers. A
reader takes a window of documents at a time, in an order that is a function of seed, pass, share and window. So where
it stands is said by where ``datasets`` has the window begin, a document of the window, and a token of the document.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import IterableDataset, get_worker_info

from lt_cli.data.base import Batch
from lt_cli.data.blocks import CausalBlocks, MaskedBlocks, Masking
from lt_cli.data.corpus import Stream
from lt_cli.data.tokenizers import Tokenizer
from lt_cli.errors import RunError, UserError, one_line

TEXTS_AHEAD = 256
"""Documents that are encoded together, and a window where nothing is shuffled."""
EMPTY_PASSES = 100
"""Passes of a reader without any document, in changing orders, after which it does not expect one."""


class Part(TypedDict):
    """Where a reader stands in one share of one pass.

    ``number`` counts the passes. ``order`` is what the shards and windows are shuffled by, 0 for none. The share is
    read ``size`` documents at a time, a window; the reader's are those whose number is ``offset`` modulo ``every``.
    ``start`` is where ``datasets`` has the window begin, None at the beginning; ``document`` counts in the window's
    shuffled order.
    """

    number: int
    order: int
    share: int
    shares: int
    size: int
    every: int
    offset: int
    window: int
    start: dict[str, Any] | None
    document: int
    token: int


class Place(TypedDict):
    """Where a reader stands: the parts that it has still to read, in their order, and how many batches it made."""

    batches: int
    parts: list[Part]


def next_of(rows: Iterator[dict[str, Any]], name: str) -> dict[str, Any] | None:
    """The next rows of a split, or None where it is over.

    Raises:
        RunError: If ``datasets``, or what it reads with, cannot go on.
    """
    try:
        return next(rows, None)
    except Exception as error:  # there are many kinds
        raise RunError(f"the {name} text cannot be read on: {one_line(error)}; mend it, or try again") from error


def texts_of(values: Sequence[Any], column: str) -> list[str]:
    """The values of a column, which must be texts."""
    for value in values:
        if not isinstance(value, str):
            raise UserError(f"text_column ({column}) must be text in every document, and has {value!r:.80}")
    return list(values)


class Packing:
    """How tokens become rows, as those of PackedText in training.

    Args:
        tokenizer: Says what begins and ends a document.
        max_seq_len: Tokens of a row.
        batch_size: Rows of a batch.
        separate: Whether rows say where documents begin.
        masking: Which tokens are to be found; None for the next token.
        seed: Seed of that choice.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        max_seq_len: int,
        batch_size: int,
        separate: bool = False,
        masking: Masking | None = None,
        seed: int = 0,
    ) -> None:
        """Makes nothing yet."""
        self.tokenizer, self.max_seq_len, self.batch_size = tokenizer, max_seq_len, batch_size
        self.separate, self.masking, self.seed = separate, masking, seed

    def framed(self, ids: NDArray[np.int32]) -> NDArray[np.int32]:
        """A document's tokens within what begins it and, where another token does so, what ends it."""
        end = [self.tokenizer.end_id] * (self.tokenizer.frame - 1)
        return np.concatenate([[self.tokenizer.start_id], ids, end]).astype(np.int32)

    def batch(self, documents: Sequence[NDArray[np.int32]], token: int, number: int) -> Batch:
        """A batch of the tokens of documents, framed.

        Args:
            documents: More than enough of them.
            token: Where in the first one to begin.
            number: Of the batch, from which its masks follow.
        """
        wanted = self.batch_size * self.max_seq_len + (self.masking is None)  # the last row's last label
        pieces: list[NDArray[np.int32]] = []
        starts, length = [0], 0
        for ids in documents:
            piece = ids[token if not pieces else 0 :][: wanted - length]
            if pieces:
                starts.append(length)
            pieces.append(piece)
            length += len(piece)
            if length == wanted:
                break
        stream = Stream(np.concatenate(pieces), np.array(starts, np.int64))
        rows = range(self.batch_size)
        if self.masking is None:
            return CausalBlocks(stream, self.max_seq_len, once=False, separate=self.separate).batch(rows, 0)
        masks = {"masking": self.masking, "tokenizer": self.tokenizer, "seed": self.seed}
        return MaskedBlocks(stream, self.max_seq_len, once=False, **masks).batch(rows, number)  # type: ignore[arg-type]


Item = tuple[Place, Batch] | UserError | None


class Readers(IterableDataset[Item]):
    """The readers of one process: an endless run of batches for each worker, each with the place behind it.

    Args:
        dataset: Documents, an ``IterableDataset`` of ``datasets``.
        column: Of the text.
        held_out: Texts that are not trained on.
        packing: Documents to batches.
        shuffle_buffer: Documents of a window, which are shuffled; 0 leaves all in the order of the files.
        seed: Seed of all orders.
        num_workers: Readers of a process; 0 for the process itself.
        rank: This process.
        world_size: Number of processes.

    Attributes:
        places: Where each of them begins.
        turn: How many of them have handed out a batch of the current round already.
    """

    def __init__(
        self,
        dataset: Any,
        column: str,
        *,
        held_out: frozenset[str],
        packing: Packing,
        shuffle_buffer: int,
        seed: int,
        num_workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Reads nothing yet; begins at the beginning."""
        self.dataset, self.column, self.held_out, self.packing = dataset, column, held_out, packing
        self.shuffle_buffer, self.seed, self.num_workers = shuffle_buffer, seed, num_workers
        self.rank, self.world_size = rank, world_size
        self.each = max(1, num_workers)
        self.turn = 0
        self.places = self.mine([{"batches": 0, "parts": [self.beginning(i, 0)]} for i in range(self.shares)])

    @property
    def shares(self) -> int:
        """Readers of all processes."""
        return self.each * self.world_size

    def beginning(self, share: int, number: int) -> Part:
        """Of a share of a pass."""
        return {
            "number": number,
            "order": 1 + self.seed * 1_000_003 + number if self.shuffle_buffer else 0,
            "share": share,
            "shares": self.shares,
            "size": self.shuffle_buffer or TEXTS_AHEAD,
            "every": 1,
            "offset": 0,
            "window": 0,
            "start": None,
            "document": 0,
            "token": 0,
        }

    def mine(self, places: Sequence[Place]) -> list[Place]:
        """Those of this process's readers, from those of all readers."""
        return list(places[self.rank * self.each : (self.rank + 1) * self.each])

    def shared_out(self, places: Sequence[Place]) -> list[Place]:
        """Places for all readers, where there may have been another number of them.

        What those have left to read is shared out, in pieces where it must be, so that nothing of it is lost or trained
        on twice; then all go on with the pass after the last one that any of them had begun.
        """
        if len(places) == self.shares:
            return list(places)
        left = sorted((part for place in places for part in place["parts"]), key=lambda part: part["number"])
        batches, number = max(place["batches"] for place in places), 1 + left[-1]["number"]
        found: list[Place] = []
        for share in range(self.shares):
            parts = left[share :: self.shares]
            if len(left) < self.shares:
                piece, first = divmod(share, len(left))
                parts = [_piece(left[first], piece, len(range(first, self.shares, len(left))))]
            found.append({"batches": batches, "parts": [*parts, self.beginning(share, number)]})
        return found

    def __iter__(self) -> Iterator[Item]:
        """What the worker has that this runs in; first nothing, where its turn in the round is over.

        A mistake comes as an item, as torch would put a worker's traceback into its message.
        """
        info = get_worker_info()
        worker = 0 if info is None else info.id
        if worker < self.turn:
            yield None
        try:
            yield from self._batches(self.places[worker], self.rank * self.each + worker)
        except UserError as error:
            yield error

    def _batches(self, place: Place, share: int) -> Iterator[tuple[Place, Batch]]:
        documents = self._documents(place["parts"], share)
        ahead: deque[tuple[list[Part], NDArray[np.int32]]] = deque()
        number, token = place["batches"], place["parts"][0]["token"]
        taken = self.packing.batch_size * self.packing.max_seq_len
        held = -token
        while True:
            while held <= taken:  # one more token, which is a label, or the first of the next batch
                ahead.append(next(documents))
                held += len(ahead[-1][1])
            batch = self.packing.batch([ids for _, ids in ahead], token, number * self.shares + share)
            number, token, held = number + 1, token + taken, held - taken
            while token >= len(ahead[0][1]):
                token -= len(ahead.popleft()[1])
            (first, *rest), _ = ahead[0]
            yield {"batches": number, "parts": [{**first, "token": token}, *rest]}, batch

    def _documents(self, parts: list[Part], share: int) -> Iterator[tuple[list[Part], NDArray[np.int32]]]:
        """The tokens of each document, with what is left to read from it on; pass after pass."""
        empty = 0
        while True:
            part, *rest = parts
            found = False
            for place, ids in self._of_part(part):
                found = True
                yield [place, *rest], ids
            empty = 0 if found else empty + 1
            if not rest and empty > (EMPTY_PASSES if part["order"] else 0):
                raise UserError(
                    f"reader {share + 1} of {self.shares} finds no document with text to train on: use fewer "
                    "--data.num_workers or processes, lower --data.val_documents and .test_documents, or give more text"
                )
            parts = rest or [self.beginning(share, part["number"] + 1)]

    def _of_part(self, part: Part) -> Iterator[tuple[Part, NDArray[np.int32]]]:
        from datasets.distributed import split_dataset_by_node

        # where there are too few shards, each reader reads all of them for its part of the documents
        strategy = "shards" if self.dataset.num_shards >= part["shares"] else "examples"
        share = split_dataset_by_node(self.dataset, part["share"], part["shares"], strategy=strategy)
        share.set_epoch(part["order"])  # which datasets shuffles the shards by, before it shares them out
        share.load_state_dict(part["start"] or {})
        windows = share.iter(part["size"])
        while (rows := next_of(windows, "train")) is not None:
            if part["window"] % part["every"] == part["offset"]:
                yield from self._of_window(part, texts_of(rows[self.column], self.column))
            part = {**part, "window": part["window"] + 1, "start": share.state_dict(), "document": 0, "token": 0}

    def _of_window(self, part: Part, texts: list[str]) -> Iterator[tuple[Part, NDArray[np.int32]]]:
        rows = np.arange(len(texts))
        if part["order"]:
            seed = [part["order"], part["shares"], part["share"], part["window"]]
            rows = np.random.default_rng(seed).permutation(len(texts))
        wanted = [
            (number, texts[row])
            for number, row in enumerate(rows.tolist())
            if number >= part["document"] and texts[row].strip() and texts[row] not in self.held_out
        ]
        for first in range(0, len(wanted), TEXTS_AHEAD):
            some = wanted[first : first + TEXTS_AHEAD]
            tokens = self.packing.tokenizer.encode([text for _, text in some])
            for (number, _), ids in zip(some, tokens, strict=True):
                if len(ids):
                    yield {**part, "document": number, "token": 0}, self.packing.framed(ids)


def _piece(part: Part, piece: int, pieces: int) -> Part:
    """One of several pieces of what is left of a part: every so many-th of its windows, for which all are read."""
    every, offset = part["every"] * pieces, part["offset"] + part["every"] * piece
    begun = part["window"] % every == offset
    document, token = (part["document"], part["token"]) if begun else (0, 0)
    return {**part, "every": every, "offset": offset, "document": document, "token": token}
