"""Questions with their contexts as sequences of tokens; a long context becomes windows, each behind the question."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from lt_cli.data.answer_rows import Answer
from lt_cli.data.base import Batch
from lt_cli.data.examples import Examples
from lt_cli.data.framing import Frame, Tokens, window_starts

SPACES = np.array([code for code in range(0x10000) if chr(code).isspace()], np.uint32)


class Window(NamedTuple):
    """A question and a part of its context.

    Attributes:
        ids: Tokens of the sequence.
        types: Type of each.
        spans: Characters of the context that each stands for; none, (0, 0), where it can be no part of an answer.
        positions: First and last token of the answer; the first of the sequence where the window does not hold all
            of one.
    """

    ids: NDArray[np.int32]
    types: NDArray[np.int32]
    spans: NDArray[np.int32]
    positions: tuple[int, int]


class TokenSpan(NamedTuple):
    """The tokens of a context that an answer has a part in, both included, and whether they are just the answer."""

    first: int
    last: int
    is_exact: bool


def without_spaces(spans: NDArray[np.int32], text: str) -> NDArray[np.int32]:
    """Characters of tokens without the spaces at their ends, which some tokenizers count in.

    Shape:
        - spans: (T, 2)
        - output: (T, 2), equal numbers where nothing is left
    """
    is_space = np.isin(np.frombuffer(text.encode("utf-32-le"), np.uint32), SPACES)
    places = np.arange(len(is_space) + 1, dtype=np.int32)
    following = np.where(np.append(is_space, False), len(is_space), places)
    following = np.minimum.accumulate(following[::-1])[::-1]
    before = np.maximum.accumulate(np.where(np.append(True, is_space), 0, places))
    start = np.minimum(following[spans[:, 0]], spans[:, 1])
    return np.stack([start, np.maximum(before[spans[:, 1]], start)], axis=1).astype(np.int32)


def tokens_of(answer: Answer, spans: NDArray[np.int32], context: str) -> TokenSpan | None:
    """The tokens of an answer; None where no token stands for any character of it.

    Shape:
        - spans: (T, 2), of the context's tokens, without spaces at their ends
    """
    text = context[answer.start : answer.end]
    start, end = answer.end - len(text.lstrip()), answer.start + len(text.rstrip())
    touched = np.flatnonzero((spans[:, 0] < end) & (spans[:, 1] > start) & (spans[:, 0] < spans[:, 1]))
    if not len(touched):
        return None
    first, last = int(touched[0]), int(touched[-1])
    return TokenSpan(first, last, spans[first, 0] >= start and spans[last, 1] <= end)


def windows_of(
    question: NDArray[np.int32],
    context: Tokens,
    *,
    answer: TokenSpan | None,
    frame: Frame,
    max_seq_len: int,
    stride: int,
) -> Iterator[Window]:
    """All windows of a question.

    Args:
        question: Its tokens.
        context: The context's.
        answer: Where the answer is in it.
        frame: What stands around the two.
        max_seq_len: Tokens of a window, at most.
        stride: Tokens of the context that neighbours share.
    """
    room = max_seq_len - frame.num_tokens - len(question)
    is_some = (context.spans[:, 0] < context.spans[:, 1])[:, None]
    for begin in window_starts(len(context.ids), room, stride):
        part = slice(begin, begin + room)
        ids, types, starts = frame.around(question, context.ids[part])
        spans, size = np.zeros((len(ids), 2), np.int32), len(context.ids[part])
        spans[starts[1] : starts[1] + size] = context.spans[part] * is_some[part]
        inside = answer is not None and begin <= answer.first and answer.last < begin + size
        shift = starts[1] - begin
        yield Window(ids, types, spans, (answer.first + shift, answer.last + shift) if inside and answer else (0, 0))


class QuestionWindows(Examples):
    """Rows of windows: one of each to train on, all those of a question to find its answer.

    Args:
        windows: In the order of their rows.
        pad_id: Fills the ends of shorter windows.
        is_labeled: Whether batches say where the answers are.
        row_of: The question of each window, ascending; None where each window is a row.
        texts: What else a batch has of its rows, in lists.
    """

    def __init__(
        self,
        windows: Sequence[Window],
        *,
        pad_id: int,
        is_labeled: bool,
        row_of: NDArray[np.int64] | None,
        texts: Mapping[str, Sequence[Any]],
    ) -> None:
        """Joins the windows."""
        ids, types = [window.ids for window in windows], [window.types for window in windows]
        super().__init__(ids, types, pad_id=pad_id, columns={}, row_of=row_of)
        self.lengths = np.maximum.reduceat(self.sizes, self.first[:-1]) * np.diff(self.first)  # as they are padded
        self.spans = np.concatenate([np.empty((0, 2), np.int32), *(window.spans for window in windows)])
        self.positions = np.array([window.positions for window in windows], np.int64).reshape(-1, 2)
        self.is_labeled, self.texts = is_labeled, texts

    def batch(self, rows: Sequence[int], epoch: int) -> Batch:
        """Also ``spans`` (S, T, 2); ``start_positions`` and ``end_positions`` (S,) of the answers; and the texts."""
        batch = super().batch(rows, epoch)
        chosen = self.sequences(rows)
        ranges = [np.arange(self.starts[i], self.starts[i] + self.sizes[i]) for i in chosen]
        spans = np.zeros((*batch["input_ids"].shape, 2), np.int32)
        spans[batch["attention_mask"].bool().numpy()] = self.spans[np.concatenate(ranges)]
        batch["spans"] = torch.from_numpy(spans)
        if self.is_labeled:
            positions = torch.from_numpy(self.positions[chosen])
            batch["start_positions"], batch["end_positions"] = positions.unbind(1)
        return batch | {name: [values[row] for row in rows] for name, values in self.texts.items()}
