"""One text or two as the sequence of tokens that a model reads: framed, cut to a length, or in windows."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Tokens(NamedTuple):
    """The tokens of a text, without what frames them, and which characters each stands for.

    Shape:
        - ids: (T,), int32
        - spans: (T, 2), int32, first character and the one behind the last
    """

    ids: NDArray[np.int32]
    spans: NDArray[np.int32]


class Frame(NamedTuple):
    """What stands around texts: runs of (token, type of token) before, between and after them.

    Attributes:
        runs: One more than there are texts.
        types: Type of the tokens of each text.
    """

    runs: tuple[list[tuple[int, int]], ...]
    types: tuple[int, ...]

    @property
    def num_tokens(self) -> int:
        """Tokens besides those of the texts."""
        return sum(map(len, self.runs))

    def around(self, *texts: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int32], list[int]]:
        """The whole sequence, the type of each token, and where each text begins in it."""
        ids: list[NDArray[np.int32]] = []
        types: list[NDArray[np.int32]] = []
        starts: list[int] = []
        length = 0
        for run, text, kind in zip(self.runs, [*texts, np.empty(0, np.int32)], [*self.types, 0], strict=True):
            ids += [np.array([token for token, _ in run], np.int32), text]
            types += [np.array([kind for _, kind in run], np.int32), np.full(len(text), kind, np.int32)]
            starts.append(length + len(run))
            length += len(run) + len(text)
        return np.concatenate(ids), np.concatenate(types), starts[:-1]


def cut(lengths: Sequence[int], room: int) -> list[int]:
    """How much of each text, one or two, stays in so many tokens; what is too much goes from the longer one."""
    if sum(lengths) <= room:
        return list(lengths)
    if len(lengths) == 1:
        return [room]
    shorter = min(*lengths, room // 2)
    return [shorter, room - shorter] if lengths[0] <= lengths[1] else [room - shorter, shorter]


def window_starts(length: int, room: int, stride: int) -> list[int]:
    """Where windows of ``room`` tokens begin that share ``stride`` with the next and end with the text."""
    if length <= room:
        return [0]
    step = room - stride
    return list(range(0, length - room + step, step))
