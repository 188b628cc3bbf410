"""Documents as tokens: encoded once, cut into splits, joined into one stream."""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lt_cli.data import cache
from lt_cli.data.held_out import HeldOut
from lt_cli.data.text_sources import TextSource, TextSplit
from lt_cli.data.tokenizers import TEXTS_AT_ONCE, Tokenizer

SLOW = 1.0
"""Seconds of work from which tokens are kept for the next run."""
VERSION = 1


@dataclass(frozen=True)
class Corpus:
    """The tokens of documents, one after the other, without what begins and ends them.

    Attributes:
        ids: (N,), of all documents; uint16 where the vocabulary fits.
        lengths: (D,), tokens of each document, at least 1.
        num_bytes: (D,), bytes of each document's text in UTF-8.
        num_empty: Documents without any text, which are left out.
    """

    ids: NDArray[Any]
    lengths: NDArray[np.int64]
    num_bytes: NDArray[np.int64]
    num_empty: int

    def part(self, pieces: Sequence[tuple[int, int, int, int]]) -> "Corpus":
        """A corpus of pieces of documents, each a document's number, first token, end, and bytes."""
        offsets = self.lengths.cumsum() - self.lengths
        ids = [self.ids[offsets[row] + first : offsets[row] + end] for row, first, end, _ in pieces]
        return Corpus(
            np.concatenate([self.ids[:0], *ids]),
            np.array([end - first for _, first, end, _ in pieces], np.int64),
            np.array([size for *_, size in pieces], np.int64),
            0,
        )


def token_dtype(tokenizer: Tokenizer) -> type[np.uint16] | type[np.int32]:
    """The smallest that its tokens fit in."""
    return np.uint16 if tokenizer.vocab_size <= 2**16 else np.int32


def encode(texts: Iterable[str], tokenizer: Tokenizer) -> Corpus:
    """The tokens of documents; those without text are counted and left out."""
    dtype = token_dtype(tokenizer)
    texts = iter(texts)
    ids: list[NDArray[Any]] = []
    lengths: list[int] = []
    num_bytes: list[int] = []
    num_empty = 0
    while some := list(islice(texts, TEXTS_AT_ONCE)):
        arrays = tokenizer.encode(some)
        for text, tokens in zip(some, arrays, strict=True):
            if not text.strip() or not len(tokens):
                num_empty += 1
                continue
            ids.append(tokens.astype(dtype))
            lengths.append(len(tokens))
            num_bytes.append(len(text.encode()))
    flat = np.concatenate(ids) if ids else np.empty(0, dtype)
    return Corpus(flat, np.array(lengths, np.int64), np.array(num_bytes, np.int64), num_empty)


def encode_once(source: TextSource, split: TextSplit, tokenizer: Tokenizer) -> Corpus | None:
    """The tokens of a split, kept in a file where that takes more than a second; None where there is no such split."""
    documents = source.documents(split)
    if documents is None:
        return None
    if (content := source.fingerprint(split)) is None:
        return encode(documents, tokenizer)
    state = json.dumps([content, tokenizer.fingerprint(), VERSION])
    slot = hashlib.sha256(state.encode()).hexdigest()
    path = cache.place("tokens", slot, None)
    if (kept := cache.read("tokens", path, state)) is not None:
        return Corpus(kept["ids"], kept["lengths"], kept["num_bytes"], int(kept["num_empty"]))
    began = time.monotonic()
    corpus = encode(documents, tokenizer)
    if time.monotonic() - began > SLOW:
        arrays = {"ids": corpus.ids, "lengths": corpus.lengths, "num_bytes": corpus.num_bytes}
        cache.write("tokens", path, arrays | {"num_empty": np.array(corpus.num_empty)}, state)
    return corpus


def cut(
    corpus: Corpus, fractions: dict[HeldOut, float], seed: int, decode: Callable[[Sequence[int]], str]
) -> dict[TextSplit, Corpus]:
    """Shares a corpus out: each split gets its fraction of the tokens, ``train`` the rest.

    Documents are chosen by the seed. Where the fraction ends within a document, its last tokens go to the split and
    its first ones stay, so that of a single text the end is held out.

    Args:
        corpus: What is shared out.
        fractions: Of the tokens, by split, ``train`` not among them.
        seed: Seed of the choice.
        decode: Gives the text of a part of a document, whose bytes are counted.
    """
    if not fractions:
        return {"train": corpus}
    total = int(corpus.lengths.sum())
    offsets = corpus.lengths.cumsum() - corpus.lengths
    ends, sizes = corpus.lengths.copy(), corpus.num_bytes.copy()  # what is left of each document
    order = np.random.default_rng(seed).permutation(len(corpus.lengths)).tolist()[::-1]
    parts: dict[TextSplit, Corpus] = {}
    for split, fraction in fractions.items():
        missing, pieces = round(fraction * total), []
        while missing and order:
            row = order[-1]
            taken = min(missing, int(ends[row]))
            first = int(ends[row]) - taken
            whole = int(sizes[row])
            size = whole
            if first:
                size = min(
                    whole, len(decode(corpus.ids[offsets[row] + first : offsets[row] + ends[row]].tolist()).encode())
                )
            pieces.append((row, first, int(ends[row]), size))
            ends[row], sizes[row], missing = first, whole - size, missing - taken
            if not first:
                order.pop()
        parts[split] = corpus.part(sorted(pieces))
    rest = corpus.part([(row, 0, int(ends[row]), int(sizes[row])) for row in sorted(order)])
    return parts | {"train": replace(rest, num_empty=corpus.num_empty)}


@dataclass(frozen=True)
class Stream:
    """Documents one after the other, each with what begins and ends it.

    Attributes:
        ids: (N,).
        starts: (D,), where each document begins.
    """

    ids: NDArray[Any]
    starts: NDArray[np.int64]


def join(corpus: Corpus, tokenizer: Tokenizer) -> Stream:
    """The stream of a corpus; where one token separates documents, it stands between them, and at both ends."""
    ended = tokenizer.frame == 2
    framed = corpus.lengths + tokenizer.frame
    starts = framed.cumsum() - framed
    ids = np.full(int(framed.sum()) + (not ended), tokenizer.end_id, corpus.ids.dtype)
    is_text = np.ones(len(ids), bool)
    is_text[starts] = False
    is_text[starts + framed - 1 if ended else -1] = False
    ids[starts] = tokenizer.start_id
    ids[is_text] = corpus.ids
    return Stream(ids, starts)
