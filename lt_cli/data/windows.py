"""Text that is read while a run trains: so many tokens an epoch, for what fits neither memory nor disk."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray

from lt_cli.data.base import Batch
from lt_cli.data.blocks import Blocks
from lt_cli.data.corpus import Corpus, token_dtype
from lt_cli.data.text_sources import TextSource
from lt_cli.data.tokenizers import Tokenizer
from lt_cli.errors import UserError

TEXTS_AHEAD = 256
"""Documents that are encoded together."""
Place = tuple[int, int]
"""A document's number in the source, and a token in it."""


class Reader:
    """Hands out the training documents' tokens in order; after the last document they begin again.

    Args:
        source: Its training documents are read as they are needed.
        tokenizer: Text to tokens.
        place: Where to begin.
        origin: Where to begin again, behind what is held out.

    Attributes:
        place: Of the token that comes next.
        passes: How often the text was over.
    """

    def __init__(self, source: TextSource, tokenizer: Tokenizer, place: Place = (0, 0), origin: Place = (0, 0)) -> None:
        """Reads nothing yet."""
        self.source, self.tokenizer, self.place, self.origin = source, tokenizer, place, origin
        self.passes = 0
        self._documents = self._read(place[0])
        self._document: tuple[int, NDArray[np.int32], int] | None = None

    def _read(self, number: int) -> Iterator[tuple[int, NDArray[np.int32], int]]:
        """Number, tokens and bytes of each document with text, from one on and round and round."""
        while True:
            first, texts, found = number, self.source.documents_from(number), False
            while some := list(islice(texts, TEXTS_AHEAD)):
                for text, ids in zip(some, self.tokenizer.encode(some), strict=True):
                    if text.strip() and len(ids):
                        found = True
                        yield number, ids, len(text.encode())
                    number += 1
            if not found and first == self.origin[0]:
                behind = f" behind the {first:,} documents that are held out" if first else ""
                raise UserError(f"the train text has no document with any text in it{behind}: give the source some")
            rank_zero_info(f"all {number:,} documents were read; those of training come again")
            self.passes, number = self.passes + 1, self.origin[0]

    def take(self, num_tokens: int, frame: int = 0) -> Corpus:
        """The next tokens. A document may be cut; its bytes are then shared out evenly.

        Args:
            num_tokens: How many, at least 1.
            frame: How many of them begin and end each document, and come only when all are joined.
        """
        arrays: list[NDArray[Any]] = []
        num_bytes: list[int] = []
        dtype = token_dtype(self.tokenizer)
        while num_tokens > frame or not arrays:
            number, ids, size = self._document or next(self._documents)
            first = next((token for document, token in (self.place, self.origin) if document == number), 0)
            end = min(first + max(1, num_tokens - frame), len(ids))
            arrays.append(ids[first:end].astype(dtype))
            num_bytes.append(round(size * (end - first) / len(ids)))
            num_tokens -= end - first + frame
            self._document = (number, ids, size) if end < len(ids) else None
            self.place = (number, end) if end < len(ids) else (number + 1, 0)
        lengths = np.array([len(array) for array in arrays], np.int64)
        return Corpus(np.concatenate(arrays), lengths, np.array(num_bytes, np.int64), 0)


class Windows:
    """A split that holds the tokens of one epoch at a time; their blocks are shuffled within it.

    Args:
        read: A reader from a place on.
        num_tokens: Those of an epoch.
        length: Tokens of a block.
        make: Blocks of documents.
        origin: Where the first epoch begins.
        known: An epoch and where it begins, from a checkpoint, so that nothing before it is read again.
    """

    def __init__(
        self,
        read: Callable[[Place], Reader],
        num_tokens: int,
        length: int,
        make: Callable[[Corpus], Blocks],
        origin: Place,
        known: tuple[int, Place] | None = None,
    ) -> None:
        """Reads nothing yet."""
        self.read, self.num_tokens, self.length, self.make, self.origin = read, num_tokens, length, make, origin
        self.epoch, self.place = known or (0, origin)
        self._reader = read(self.place)
        self._blocks: Blocks | None = None

    def __len__(self) -> int:
        """Blocks of an epoch; the last may repeat tokens of the one before it."""
        return -(-self.num_tokens // self.length)

    def batch(self, rows: Sequence[int], epoch: int) -> Batch:
        """These rows of an epoch."""
        return self.blocks(epoch).batch(rows, epoch)

    def blocks(self, epoch: int) -> Blocks:
        """Those of an epoch, read when the first of them is asked for."""
        if epoch < self.epoch:  # a reader cannot go back
            self.epoch, self.place, self._blocks = 0, self.origin, None
            self._reader = self.read(self.origin)
        while self._blocks is None or self.epoch < epoch:
            if self._blocks is not None:
                self.epoch += 1
            self.place = self._reader.place
            self._blocks = self.make(self._reader.take(self.num_tokens, self._reader.tokenizer.frame))
        return self._blocks
