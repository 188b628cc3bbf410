"""What stands around texts, how much of them stays, and windows over long ones."""

from itertools import pairwise

import numpy as np
import pytest

from lt_cli.data.framing import Frame, cut, window_starts


def slow_cut(lengths: list[int], room: int) -> list[int]:
    """A token at a time from the longer one, from the second where both are as long; then what is odd changes side.

    Of two texts that are both too long, the tokenizers of Hugging Face leave the odd token to the longer one.
    """
    left = list(lengths)
    while sum(left) > room:
        left[max(range(len(left)), key=lambda i: (left[i], lengths[i], i))] -= 1
    if len(left) == 2 and min(lengths) > room // 2:
        half, longer = room // 2, int(lengths[0] <= lengths[1])
        left[longer], left[1 - longer] = room - half, half
    return left


class TestCut:
    """What is too much goes from the longer text."""

    @pytest.mark.parametrize("room", range(2, 12))
    def test_two(self, room: int) -> None:
        for first in range(9):
            for second in range(9):
                assert cut([first, second], room) == slow_cut([first, second], room), (first, second)

    def test_one(self) -> None:
        assert [cut([length], 4) for length in (0, 3, 4, 5, 99)] == [[0], [3], [4], [4], [4]]


class TestWindowStarts:
    """Every token is in a window, and neighbours share what they should."""

    @pytest.mark.parametrize(("room", "stride"), [(1, 0), (4, 0), (4, 1), (5, 4), (9, 3)])
    def test_all_lengths(self, room: int, stride: int) -> None:
        for length in range(40):
            starts = window_starts(length, room, stride)
            windows = [range(start, min(start + room, length)) for start in starts]
            assert {token for window in windows for token in window} == set(range(length))
            assert all(len(window) == room for window in windows[:-1])
            for one, next_one in pairwise(windows):
                assert len({*one} & {*next_one}) == stride
                assert next_one.stop > one.stop, "none is within the one before"

    def test_without_text_there_is_one(self) -> None:
        assert window_starts(0, 5, 2) == [0]


def test_a_frame() -> None:
    frame = Frame(([(1, 0)], [(2, 0), (3, 1)], [(2, 1), (4, 1)]), (0, 1))
    first, second = np.array([7, 8], np.int32), np.array([9], np.int32)
    ids, types, starts = frame.around(first, second)
    assert ids.tolist() == [1, 7, 8, 2, 3, 9, 2, 4]
    assert types.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert starts == [1, 5]
    assert frame.num_tokens == 5
    assert ids.dtype == types.dtype == np.int32
    empty = np.empty(0, np.int32)
    assert frame.around(empty, empty)[0].tolist() == [1, 2, 3, 2, 4]
