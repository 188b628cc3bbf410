"""Words and the tokens that stand for them, in sentences that may need several windows."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from lt_cli.data.base import Batch
from lt_cli.data.examples import Examples


def first_tokens(words: Sequence[str], spans: NDArray[np.int32]) -> NDArray[np.int64]:
    """The first token of each word of a text in which they are joined with spaces.

    A word without a token of its own, such as a control character, has the last one before it; -1 where there is none.

    Shape:
        - spans: (T, 2), characters of each token
        - output: (len(words),)
    """
    sizes = np.array([len(word) for word in words])
    ends = np.cumsum(sizes + 1) - 1
    starts = ends - sizes
    tokens = np.flatnonzero(spans[:, 1] > spans[:, 0])
    begins, behind = spans[tokens].T
    first = np.searchsorted(ends, begins, side="right")
    last = np.searchsorted(starts, behind, side="left") - 1  # a token may be of several words, or of a space only
    none = len(spans)
    found = np.full(len(words), none)
    is_one = first == last
    np.minimum.at(found, first[is_one], tokens[is_one])
    for i in np.flatnonzero(first < last):
        some = slice(first[i], last[i] + 1)
        found[some] = np.minimum(found[some], tokens[i])
    for word in np.flatnonzero(found == none):
        found[word] = max(tokens[begins < starts[word]], default=-1)
    return found


def best_windows(tokens: NDArray[np.int64], starts: Sequence[int], room: int) -> NDArray[np.int64]:
    """The window in which each token has most context on the side where it has less; the earlier of two alike.

    Where a text begins or ends, nothing is missing. So what two windows share is halved between them.

    Args:
        tokens: Places in the text.
        starts: Where windows begin.
        room: Tokens of a window.
    """
    begins = np.array(starts)
    return np.searchsorted((begins[1:] + begins[:-1] + room - 1) / 2, tokens, side="left")


class WordExamples(Examples):
    """Sentences whose words are each read at one place, in one of the sentence's windows.

    Args:
        ids: Tokens of each window.
        types: Type of each of these tokens.
        pad_id: Fills the ends of shorter windows; nothing ever reads it.
        row_of: The row of each window, ascending.
        num_words: Words of each row.
        window: Of all rows' words, the number of the window within the row.
        position: The place in that window.
        labels: The class; None where there are none.
    """

    def __init__(
        self,
        ids: Sequence[NDArray[np.int32]],
        types: Sequence[NDArray[np.int32]],
        *,
        pad_id: int,
        row_of: NDArray[np.int64],
        num_words: NDArray[np.int64],
        window: NDArray[np.int64],
        position: NDArray[np.int64],
        labels: NDArray[np.int64] | None,
    ) -> None:
        """Joins the windows."""
        super().__init__(ids, types, pad_id=pad_id, columns={}, row_of=row_of)
        self.num_words, self.window, self.position, self.labels = num_words, window, position, labels
        self.first_word = num_words.cumsum() - num_words

    def batch(self, rows: Sequence[int], epoch: int) -> Batch:
        """What ``Examples`` has, ``num_words`` (B,), and of all these words, (W,), what they are.

        ``word_sequence`` and ``word_position`` say where a word is read in ``input_ids``; ``labels`` is its class.
        """
        batch = super().batch(rows, epoch)
        counts = self.num_words[rows]
        chosen = np.concatenate([np.arange(self.first_word[i], self.first_word[i] + self.num_words[i]) for i in rows])
        windows = self.first[np.asarray(rows) + 1] - self.first[rows]
        sequence = np.repeat(windows.cumsum() - windows, counts) + self.window[chosen]
        words = {"num_words": counts, "word_sequence": sequence, "word_position": self.position[chosen]}
        if self.labels is not None:
            words["labels"] = self.labels[chosen]
        return batch | {name: torch.from_numpy(values) for name, values in words.items()}
