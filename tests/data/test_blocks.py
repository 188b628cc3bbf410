"""Rows of a stream against slow loops, masks by their statistics, and prompts in batches."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from texts import bert_like, letters
from toys import message

from lt_cli.data.blocks import Blocks, CausalBlocks, MaskedBlocks, Masking
from lt_cli.data.corpus import Stream, encode, join
from lt_cli.data.tokenizers import ByteTokenizer, HuggingFaceTokenizer
from lt_cli.losses import IGNORE


def numbered(num_tokens: int, starts: list[int] | None = None) -> Stream:
    """Every token another number."""
    return Stream(np.arange(num_tokens, dtype=np.uint16), np.array(starts or [0], np.int64))


def causal(stream: Stream, length: int, *, once: bool = True, separate: bool = False) -> CausalBlocks:
    return CausalBlocks(stream, length, once=once, separate=separate)


def labels_of(blocks: Blocks, batch_size: int) -> list[int]:
    rows = range(len(blocks))
    batches = [blocks.batch(rows[first : first + batch_size], 0) for first in rows[::batch_size]]
    found = torch.cat([batch["labels"].flatten() for batch in batches]).tolist()
    return [label for label in found if label != IGNORE]


SIZES = [(25, 8), (24, 8), (23, 8), (9, 8), (10, 8), (2, 1), (5, 1), (17, 4)]
"""Tokens of the stream, and of a row."""


class TestCausalBlocks:
    """The next token."""

    @pytest.mark.parametrize("batch_size", [1, 2, 5])
    @pytest.mark.parametrize(("num_tokens", "length"), SIZES)
    def test_each_token_after_the_first_is_a_label_once(self, num_tokens: int, length: int, batch_size: int) -> None:
        """The last row alone in a batch among them."""
        assert labels_of(causal(numbered(num_tokens), length), batch_size) == list(range(1, num_tokens))

    @pytest.mark.parametrize("once", [False, True])
    @pytest.mark.parametrize(("num_tokens", "length"), SIZES)
    def test_rows(self, num_tokens: int, length: int, once: bool) -> None:
        blocks = causal(numbered(num_tokens), length, once=once)
        ended = 0  # labels that were handed out
        for row in range(len(blocks)):
            begin = min(row * length, num_tokens - 1 - length)
            batch = blocks.batch([row], 0)
            inputs = list(range(begin, begin + length))
            assert batch["input_ids"].tolist() == [inputs]
            assert batch["labels"].tolist() == [[i + 1 if i >= ended or not once else IGNORE for i in inputs]]
            ended = begin + length
        assert ended == num_tokens - 1

    def test_whatever_the_batch(self) -> None:
        blocks = causal(numbered(100, [0, 3, 30, 95]), 8, separate=True)
        rows = [3, 12, 0, 7]
        whole = blocks.batch(rows, 5)
        assert whole["index"].tolist() == rows
        for place, row in enumerate(rows):
            alone = blocks.batch([row], 0)
            assert all(torch.equal(alone[name][0], whole[name][place]) for name in whole)
            assert all(whole[name].dtype == torch.int64 for name in whole)

    def test_labels_are_not_the_inputs_memory(self) -> None:
        batch = causal(numbered(20), 8, once=False).batch([1], 0)
        batch["labels"].fill_(-1)
        assert batch["input_ids"].tolist() == [list(range(8, 16))]

    @pytest.mark.parametrize("length", [1, 4, 7, 16])
    def test_positions(self, length: int) -> None:
        corpus = encode([*letters(12, longest=12), "a", "b"], ByteTokenizer())
        stream = join(corpus, ByteTokenizer())
        blocks = causal(stream, length, separate=True)
        for row in range(len(blocks)):
            begin = min(row * length, len(stream.ids) - 1 - length)
            positions, position = [], 0
            for place in range(begin, begin + length):
                position = 0 if place in stream.starts or place == begin else position + 1
                positions.append(position)
            assert blocks.batch([row], 0)["position_ids"].tolist() == [positions]
        assert "position_ids" not in causal(stream, length).batch([0], 0)

    def test_too_short(self) -> None:
        assert len(causal(numbered(9), 8)) == 1
        assert message(lambda: causal(numbered(8), 8)) == (
            "8 tokens do not fill one block of max_seq_len (8): give more text, or set --data.max_seq_len=7"
        )


class Odd(ByteTokenizer):
    """Bytes with holes: the letter z is special."""

    special_ids = frozenset({122, 256, 257})


def masked(stream: Stream, length: int, *, once: bool = False, seed: int = 0, **options: Any) -> MaskedBlocks:
    return MaskedBlocks(stream, length, once=once, masking=Masking(**options), tokenizer=Odd(), seed=seed)


def letters_stream(num_documents: int = 300) -> Stream:
    texts = [text.replace("d", "z") for text in letters(num_documents)]
    return join(encode(texts, Odd()), Odd())


def every_row(blocks: Blocks, epoch: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What is there, what is seen, and what is to be found."""
    batch = blocks.batch(range(len(blocks)), epoch)
    begins, _ = blocks.begins(range(len(blocks)))
    places = begins[:, None] + np.arange(blocks.length)
    return blocks.stream.ids[places].astype(np.int64), batch["input_ids"].numpy(), batch["labels"].numpy()


class TestMaskedBlocks:
    """Tokens to find."""

    @pytest.mark.parametrize("fraction", [0.01, 0.15, 0.5])
    def test_so_many_of_each_row(self, fraction: float) -> None:
        there, seen, labels = every_row(masked(letters_stream(), 32, fraction=fraction))
        is_label = labels != IGNORE
        assert set(is_label.sum(1)) == {max(1, round(fraction * 32))}
        np.testing.assert_array_equal(labels[is_label], there[is_label])
        np.testing.assert_array_equal(seen[~is_label], there[~is_label])

    def test_never_special_tokens(self) -> None:
        """Neither where they stand, nor in place of others."""
        there, seen, labels = every_row(masked(letters_stream(), 16, fraction=1, random=0.9, keep=0.1))
        assert {122, 256} <= set(there.flatten())
        assert not {122, 256, 257} & set(labels.flatten())
        assert (labels == IGNORE).sum() == np.isin(there, [122, 256]).sum()
        assert (seen == 122).sum() == (there == 122).sum()
        assert (seen == 257).sum() == 0
        assert len(set(seen.flatten())) > 200, "any other byte may come"

    @pytest.mark.parametrize(("random", "keep"), [(0.1, 0.1), (0.5, 0.2), (0, 0), (1, 0), (0, 1)])
    def test_what_is_seen(self, random: float, keep: float) -> None:
        there, seen, labels = every_row(masked(letters_stream(), 32, fraction=0.5, random=random, keep=keep))
        found = labels != IGNORE
        is_mask, is_same = seen[found] == 257, seen[found] == there[found]
        for part, chance in ((is_mask, 1 - random - keep), (is_same, keep + random / 255)):  # 255 other tokens
            assert abs(part.mean() - chance) <= 5 * np.sqrt(chance * (1 - chance) / len(part)) + 1e-9

    def test_a_function_of_seed_epoch_and_row(self) -> None:
        blocks, again = (masked(letters_stream(), 16) for _ in range(2))
        np.random.seed(3)
        batch = blocks.batch([5, 2, 9], 4)
        for place, row in enumerate([5, 2, 9]):
            alone = again.batch([row], 4)
            assert all(torch.equal(alone[name][0], batch[name][place]) for name in batch)
        other_seed = masked(letters_stream(), 16, seed=1).batch([5, 2, 9], 4)
        assert not torch.equal(other_seed["labels"], batch["labels"])

    def test_others_in_each_epoch_of_training(self) -> None:
        stream = letters_stream()
        found = [every_row(masked(stream, 16), epoch)[2] for epoch in range(3)]
        assert all((one != other).any(1).mean() > 0.9 for one, other in zip(found, found[1:] + found[:1], strict=True))
        fixed = [every_row(masked(stream, 16, once=True), epoch)[2] for epoch in range(3)]
        assert all(np.array_equal(one, fixed[0]) for one in fixed)

    @pytest.mark.parametrize(("num_tokens", "length"), SIZES)
    def test_each_token_can_be_a_label_once(self, num_tokens: int, length: int) -> None:
        """With all of them to be found, each is; a stream of its own, as numbers have no special ones."""
        stream = Stream(np.arange(num_tokens, dtype=np.uint16), np.array([0]))
        assert labels_of(masked(stream, length, once=True, fraction=1), 2) == list(range(num_tokens))

    def test_the_last_row_has_its_share_of_what_is_new(self) -> None:
        blocks = masked(Stream(np.arange(110, dtype=np.uint16), np.array([0])), 100, once=True, fraction=0.2)
        labels = blocks.batch([0, 1], 0)["labels"]
        assert (labels != IGNORE).sum(1).tolist() == [20, 2]
        assert labels[1].max() >= 100
        assert (labels[1, :90] == IGNORE).all()

    def test_nothing_to_find(self) -> None:
        """A row of special tokens."""
        stream = Stream(np.full(8, 256, np.uint16), np.arange(7))
        batch = masked(stream, 4).batch([0, 1], 0)
        assert (batch["labels"] == IGNORE).all()
        assert (batch["input_ids"] == 256).all()

    def test_with_a_tokenizer_of_words(self, tmp_path: Path) -> None:
        tokenizer = HuggingFaceTokenizer(str(bert_like(tmp_path)))
        tokenizer.load()
        stream = join(encode(["the cat sat on the mat"] * 20, tokenizer), tokenizer)
        blocks = MaskedBlocks(
            stream, 10, once=False, masking=Masking(fraction=0.5, random=0.3), tokenizer=tokenizer, seed=0
        )
        there, seen, labels = every_row(blocks)
        special = sorted(tokenizer.special_ids)
        np.testing.assert_array_equal(np.isin(there, special), np.isin(seen, special) & (seen != tokenizer.mask_id))
        assert not np.isin(labels, special).any()
        assert seen.max() < tokenizer.vocab_size
        assert (seen == tokenizer.mask_id).any()

    @pytest.mark.parametrize("fraction", [0, -0.1, 1.1, float("nan")])
    def test_fractions(self, fraction: float) -> None:
        said = message(lambda: Masking(fraction=fraction))
        assert said == f"masking.fraction ({fraction}) must be above 0 and at most 1"

    @pytest.mark.parametrize(("random", "keep"), [(-0.1, 0), (0, -0.1), (0.6, 0.5), (float("nan"), 0)])
    def test_parts(self, random: float, keep: float) -> None:
        said = message(lambda: Masking(random=random, keep=keep))
        assert said == (f"masking.random ({random}) and masking.keep ({keep}) must be at least 0 and at most 1 in all")
