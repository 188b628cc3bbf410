"""Texts that a decoder writes: framed as it learns them, padded in batches, and what a task asks of data with them."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lt_cli.data.tokenizers import Tokenizer
from lt_cli.losses import IGNORE


@runtime_checkable
class TargetData(Protocol):
    """What a task that writes texts asks of its data.

    Batches have ``input_ids`` and ``attention_mask`` of the sources; ``labels`` of the targets but in predict; and
    ``references``, their texts, in val and test.

    Attributes:
        max_target_len: Longest target, in tokens, the end token included.
    """

    max_target_len: int

    @property
    def end_id(self) -> int:
        """The token that ends a target."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens; special tokens have none."""
        ...


class TargetFrame:
    """What a target begins and ends with: what the tokenizer puts around one text.

    Where the same token begins and ends texts, a target does not begin with it: it would be over at once, and the
    decoder has a start token of its own.

    Args:
        tokenizer: Once it is loaded.

    Attributes:
        end_id: The token that ends a target.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Asks the tokenizer."""
        before, after = ([token for token, _ in run] for run in tokenizer.frame_of(1).runs)
        after = after or [tokenizer.end_id]
        self.end_id = tokenizer.end_id if tokenizer.end_id in after else after[-1]
        self.before = [token for token in before if token != self.end_id]
        self.after = after[: after.index(self.end_id) + 1]

    @property
    def num_tokens(self) -> int:
        """Tokens besides those of the text."""
        return len(self.before) + len(self.after)

    def around(self, ids: NDArray[np.int32]) -> NDArray[np.int32]:
        """The whole target."""
        return np.concatenate([self.before, ids, self.after]).astype(np.int32)


class Targets:
    """The tokens of targets, by row.

    Args:
        ids: Of each row, framed.

    Attributes:
        sizes: Tokens of each row.
    """

    def __init__(self, ids: Sequence[NDArray[np.int32]]) -> None:
        """Joins the rows."""
        self.ids = np.concatenate([np.empty(0, np.int32), *ids])
        self.sizes = np.array([len(row) for row in ids], np.int64)
        self.starts = self.sizes.cumsum() - self.sizes

    def labels(self, rows: Sequence[int]) -> Tensor:
        """As wide as the longest, with IGNORE behind the shorter ones.

        Shape:
            - output: (B, T), int64
        """
        sizes = self.sizes[rows]
        places = np.arange(sizes.max())
        is_token = places < sizes[:, None]
        where = np.where(is_token, self.starts[rows, None] + places, 0)
        return torch.from_numpy(np.where(is_token, self.ids[where], IGNORE).astype(np.int64))
