"""Rows of a stream of tokens: blocks to predict the next token in, or masked ones to fill in."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lt_cli.data.base import Batch
from lt_cli.data.corpus import Stream
from lt_cli.data.tokenizers import Tokenizer
from lt_cli.errors import UserError
from lt_cli.losses import IGNORE


class Blocks(ABC):
    """A stream cut into rows of equal length, without padding and without a rest.

    The last row ends where the stream does, so it may repeat tokens of the row before it. Where ``once`` is set, as in
    evaluation, repeated tokens are no labels, and each token counts once.

    Args:
        stream: The documents.
        length: Tokens of a row.
        lookahead: Tokens after a row that its labels need.
        once: Whether each token is a label once only.
    """

    def __init__(self, stream: Stream, length: int, *, lookahead: int, once: bool) -> None:
        """Keeps the stream."""
        self.stream, self.length, self.lookahead, self.once = stream, length, lookahead, once
        self.num_targets = len(stream.ids) - lookahead
        if self.num_targets < length:
            raise UserError(
                f"{len(stream.ids):,} tokens do not fill one block of max_seq_len ({length}): give more text, or set "
                f"--data.max_seq_len={max(1, self.num_targets)}"
            )

    def __len__(self) -> int:
        """Number of rows."""
        return -(-self.num_targets // self.length)

    def begins(self, rows: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where rows begin in the stream, and how many of their first tokens the row before them has too."""
        regular = np.array(rows, np.int64) * self.length
        begins = np.minimum(regular, self.num_targets - self.length)
        return begins, regular - begins

    @abstractmethod
    def batch(self, rows: Sequence[int], epoch: int) -> Batch:
        """See Split."""


class CausalBlocks(Blocks):
    """Rows with the token that follows each of theirs.

    Args:
        stream: The documents.
        length: Tokens of a row.
        once: Whether each token is a label once only.
        separate: Whether rows say where documents begin.
    """

    def __init__(self, stream: Stream, length: int, *, once: bool, separate: bool) -> None:
        """Keeps the stream."""
        super().__init__(stream, length, lookahead=1, once=once)
        self.separate = separate

    def batch(self, rows: Sequence[int], epoch: int) -> Batch:
        """``index`` (B,), ``input_ids`` and ``labels`` (B, T), and ``position_ids`` (B, T) in their documents."""
        begins, repeated = self.begins(rows)
        places = begins[:, None] + np.arange(self.length + 1)
        tokens = torch.from_numpy(self.stream.ids[places].astype(np.int64))
        batch = {"index": torch.tensor(rows), "input_ids": tokens[:, :-1], "labels": tokens[:, 1:].clone()}
        if self.once and repeated.any():
            batch["labels"][torch.arange(self.length) < torch.from_numpy(repeated)[:, None]] = IGNORE
        if self.separate:
            document = np.searchsorted(self.stream.starts, places[:, :-1], side="right") - 1
            first = np.maximum(self.stream.starts[document], begins[:, None])
            batch["position_ids"] = torch.from_numpy(places[:, :-1] - first)
        return batch


@lru_cache(maxsize=1)
def _ordinary_ids(vocab_size: int, special_ids: frozenset[int]) -> NDArray[np.int64]:
    """Those of text; to find them for each row would cost more than all else."""
    return np.setdiff1d(np.arange(vocab_size), sorted(special_ids))


@dataclass(frozen=True)
class Masking:
    """Which tokens a masked model has to find, and what it sees in their place (Devlin et al. 2018).

    See https://arxiv.org/abs/1810.04805. Every whole row has equally many; in training they are others in each epoch.

    Args:
        fraction: Part of each row's tokens that are to be found, rounded, but at least one.
        random: Part of these where a random token stands.
        keep: Part of these where the token itself stands; for the rest, the mask.
    """

    fraction: float = 0.15
    random: float = 0.1
    keep: float = 0.1

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if not 0 < self.fraction <= 1:
            raise UserError(f"masking.fraction ({self.fraction}) must be above 0 and at most 1")
        if not (min(self.random, self.keep) >= 0 and self.random + self.keep <= 1):  # nor nan
            raise UserError(
                f"masking.random ({self.random}) and masking.keep ({self.keep}) must be at least 0 and at most 1 in all"
            )

    def apply(self, tokens: NDArray[Any], maskable: NDArray[np.bool_], tokenizer: Tokenizer, seed: list[int]) -> Any:
        """Tokens as the model sees them, and labels, both (T,); of those that are maskable, never the special ones."""
        assert tokenizer.mask_id is not None
        special = np.array(sorted(tokenizer.special_ids), np.int64)
        generator = np.random.default_rng(seed)
        candidates = np.flatnonzero(maskable & ~np.isin(tokens, special))
        number = min(len(candidates), max(1, round(self.fraction * maskable.sum())))
        chosen = generator.permutation(candidates)[:number]
        kind = generator.random(number)
        ordinary = _ordinary_ids(tokenizer.vocab_size, tokenizer.special_ids)
        others = ordinary[generator.integers(len(ordinary), size=number)]
        seen, labels = tokens.astype(np.int64), np.full(len(tokens), IGNORE, np.int64)
        labels[chosen] = seen[chosen]
        masked = 1 - self.random - self.keep
        seen[chosen[kind < masked]] = tokenizer.mask_id
        is_random = (kind >= masked) & (kind < masked + self.random)
        seen[chosen[is_random]] = others[is_random]
        return seen, labels


class MaskedBlocks(Blocks):
    """Rows with tokens to find; ``once`` rows have the same ones in every epoch.

    Args:
        stream: The documents.
        length: Tokens of a row.
        once: Whether each token can be a label once only.
        masking: Which tokens, and how.
        tokenizer: Knows the mask and special tokens.
        seed: Seed of the choice.
    """

    def __init__(
        self, stream: Stream, length: int, *, once: bool, masking: Masking, tokenizer: Tokenizer, seed: int
    ) -> None:
        """Keeps the stream."""
        super().__init__(stream, length, lookahead=0, once=once)
        self.masking, self.tokenizer, self.seed = masking, tokenizer, seed

    def batch(self, rows: Sequence[int], epoch: int) -> Batch:
        """``index`` (B,), ``input_ids`` and ``labels`` (B, T)."""
        begins, repeated = self.begins(rows)
        places = begins[:, None] + np.arange(self.length)
        maskable = np.arange(self.length) >= (repeated * self.once)[:, None]
        made = [
            self.masking.apply(tokens, free, self.tokenizer, [self.seed, 0 if self.once else 1 + epoch, row])
            for row, tokens, free in zip(rows, self.stream.ids[places], maskable, strict=True)
        ]
        seen, labels = (torch.from_numpy(np.stack(arrays)) for arrays in zip(*made, strict=True))
        return {"index": torch.tensor(rows), "input_ids": seen, "labels": labels}
