"""Which token stands for a word, and in which window it is read, against plain loops."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from texts import bert_like, gpt2_like, roberta_like

from lt_cli.data.framing import window_starts
from lt_cli.data.tokenizers import ByteTokenizer, HuggingFaceTokenizer, Tokenizer
from lt_cli.data.words import best_windows, first_tokens

WORDS = st.lists(st.text("at heo\x00\u00a0ßK\u0301日\u2028,", min_size=1, max_size=6), min_size=1, max_size=12)


def slow_first(words: list[str], spans: np.ndarray) -> list[int]:
    """The definition, a word and a token at a time."""
    found, begin = [], 0
    for word in words:
        end = begin + len(word)
        own = [t for t, (s, e) in enumerate(spans) if s < e and s < end and e > begin]
        before = [t for t, (s, e) in enumerate(spans) if s < e and s < begin]
        found.append(own[0] if own else max(before, default=-1))
        begin = end + 1
    return found


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> list[Tokenizer]:
    folders = [make(tmp_path_factory.mktemp("tokenizer")) for make in (bert_like, gpt2_like, roberta_like)]
    made: list[Tokenizer] = [ByteTokenizer(), *(HuggingFaceTokenizer(str(folder)) for folder in folders)]
    for tokenizer in made:
        tokenizer.load()
    return made


@settings(max_examples=150, deadline=None)
@given(words=WORDS)
def test_first_tokens(tokenizers: list[Tokenizer], words: list[str]) -> None:
    for tokenizer in tokenizers:
        (tokens,) = tokenizer.encode_with_spans([" ".join(words)])
        assert first_tokens(words, tokens.spans).tolist() == slow_first(words, tokens.spans)


def test_a_token_of_several_words_and_words_without_tokens() -> None:
    spans = np.array([[0, 0], [1, 4], [3, 4], [6, 7], [7, 8]], np.int32)
    assert first_tokens(["a", "b", "c", "de", "f"], spans).tolist() == [-1, 1, 2, 3, 4]
    assert first_tokens(["ab", "c", "ef", "g"], spans).tolist() == [1, 1, 3, 4]
    assert first_tokens(["a", "b"], np.empty((0, 2), np.int32)).tolist() == [-1, -1]


def test_words_of_a_real_vocabulary(tmp_path: Path) -> None:
    """Pieces of a word follow its first; a control character has none, and the word before it stands for it."""
    tokenizer = HuggingFaceTokenizer(str(bert_like(tmp_path)))
    tokenizer.load()
    words = ["\x00", "the", "tokenizer", "\x00", "cat", ","]
    (tokens,) = tokenizer.encode_with_spans([" ".join(words)])
    first = first_tokens(words, tokens.spans).tolist()
    assert [tokenizer.decode([tokens.ids[i]]).strip() for i in first[1:3]] == ["the", tokenizer.decode([tokens.ids[1]])]
    assert first[0] == -1
    assert first[3] == first[4] - 1
    assert first[-1] == len(tokens.ids) - 1


@settings(max_examples=200, deadline=None)
@given(length=st.integers(0, 60), room=st.integers(1, 20), data=st.data())
def test_each_token_is_read_where_it_has_most_context(length: int, room: int, data: st.DataObject) -> None:
    starts = window_starts(length, room, data.draw(st.integers(0, room - 1)))

    def context(token: int, start: int) -> float:
        before = math.inf if start == 0 else token - start
        behind = math.inf if start + room >= length else start + room - 1 - token
        return min(before, behind)

    expected = [
        max(
            (n for n, start in enumerate(starts) if start <= token < start + room),
            key=lambda n: context(token, starts[n]),
        )
        for token in range(length)
    ]
    assert best_windows(np.arange(-1, length), starts, room).tolist() == [0, *expected]
