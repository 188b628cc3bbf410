"""The best span of tokens over all windows of a question, and what it takes to say that there is none.

S: windows, T: tokens, B: questions.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

NEVER = float("-inf")


class BestSpans(NamedTuple):
    """The best span of each question.

    Attributes:
        scores: Of its first token as a start plus of its last one as an end, (B,).
        windows: The window that it is in, (B,).
        first: Its first token there, (B,).
        last: Its last token there, (B,).
    """

    scores: Tensor
    windows: Tensor
    first: Tensor
    last: Tensor


def best_spans(starts: Tensor, ends: Tensor, row: Tensor, *, num_rows: int, max_len: int) -> BestSpans:
    """Looks at every span of at most so many tokens; where several are best, at the first window's.

    Args:
        starts: Score of each token as the first of an answer; -inf where none can begin.
        ends: The same as the last.
        row: The question of each window.
        num_rows: Questions.
        max_len: Tokens of a span, at most.

    Shape:
        - starts, ends: (S, T)
        - row: (S,), in [0, B), each at least once
    """
    following = F.pad(ends, (0, max_len - 1), value=NEVER).unfold(1, max_len, 1)  # (S, T, max_len), a view
    best_ends, extra = following.max(-1)
    in_window, first = (starts + best_ends).max(-1)
    in_window = in_window.nan_to_num(nan=NEVER, neginf=NEVER)  # a broken model still has a first window
    scores = in_window.new_full((num_rows,), NEVER).scatter_reduce(0, row, in_window, "amax")
    windows = _first_where(in_window == scores[row], row, num_rows)
    first = first[windows]
    return BestSpans(scores, windows, first, first + extra[windows, first])


def _first_where(condition: Tensor, row: Tensor, num_rows: int) -> Tensor:
    """The first window of each question that meets a condition, as one at least does."""
    numbers = torch.arange(len(row), device=row.device)
    last = len(row) - 1
    return row.new_full((num_rows,), last).scatter_reduce(0, row, numbers.where(condition, last), "amin")


def least(values: Tensor, row: Tensor, num_rows: int) -> Tensor:
    """The least of the values of each question's windows.

    Shape:
        - values: (S,)
        - output: (B,)
    """
    return values.new_full((num_rows,), float("inf")).scatter_reduce(0, row, values, "amin")


class Threshold(NamedTuple):
    """Where to say that there is no answer, and the mean F1 that comes of it."""

    value: float
    f1: float


def best_threshold(margins: NDArray[np.float64], f1: NDArray[np.float64], has_answer: NDArray[np.bool_]) -> Threshold:
    """The threshold with the best F1, in the middle between two questions, as SQuAD's evaluation finds it.

    Args:
        margins: By how much no answer scores above the best span; questions above the threshold are not answered.
        f1: Of the best span, of each question.
        has_answer: Whether a question has an answer; one without is right where it is not answered.

    Shape:
        - margins, f1, has_answer: (B,), B >= 1
    """
    order = np.argsort(margins, kind="stable")
    margins, gains = margins[order], np.where(has_answer, f1, f1 - 1)[order]
    places = np.concatenate([[margins[0] - 2], margins, [margins[-1] + 2]])
    middles, between = (places[:-1] + places[1:]) / 2, places[:-1] < places[1:]  # of equal margins all or none
    means = ((~has_answer).sum() + np.concatenate([[0.0], gains.cumsum()])) / len(gains)
    best = int(np.where(between, means, -1.0).argmax())
    return Threshold(float(middles[best]), float(means[best]))
