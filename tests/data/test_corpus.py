"""Documents as tokens: encoded once, cut to the token, joined with what frames them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from texts import CountingTokenizer, Documents, bert_like, gpt2_like, letters, llama_like

from lt_cli.data.corpus import Corpus, cut, encode, encode_once, join
from lt_cli.data.tokenizers import ByteTokenizer, HuggingFaceTokenizer, Tokenizer

TEXTS = letters(40)


def documents(corpus: Corpus) -> list[list[int]]:
    """The tokens of each document."""
    ends = corpus.lengths.cumsum()
    assert ends[-1] == len(corpus.ids) if len(ends) else not len(corpus.ids)
    return [corpus.ids[end - length : end].tolist() for end, length in zip(ends, corpus.lengths, strict=True)]


def equal(one: Corpus | None, other: Corpus | None) -> bool:
    assert one is not None
    assert other is not None
    arrays = ("ids", "lengths", "num_bytes")
    assert one.ids.dtype == other.ids.dtype
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in arrays) and (
        one.num_empty == other.num_empty
    )


def huggingface(path: Path) -> Tokenizer:
    tokenizer = HuggingFaceTokenizer(str(path))
    tokenizer.load()
    return tokenizer


class TestEncode:
    """Texts to tokens."""

    def test_documents(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("lt_cli.data.corpus.TEXTS_AT_ONCE", 7)
        corpus = encode(iter(TEXTS), ByteTokenizer())
        assert documents(corpus) == [list(text.encode()) for text in TEXTS]
        assert corpus.num_bytes.tolist() == [len(text.encode()) for text in TEXTS]
        assert corpus.ids.dtype == np.uint16

    def test_without_text(self) -> None:
        corpus = encode(["", "a", " \n\t", "\u3000", "b "], ByteTokenizer())
        assert documents(corpus) == [[97], [98, 32]]
        assert corpus.num_empty == 3
        assert encode([], ByteTokenizer()).lengths.tolist() == []

    def test_text_without_tokens(self, tmp_path: Path) -> None:
        """Signs that a tokenizer leaves out, here a zero byte."""
        corpus = encode(["the cat", "\0", "\ufffd"], huggingface(bert_like(tmp_path)))
        assert (len(corpus.lengths), corpus.num_empty) == (1, 2)

    def test_large_vocabularies(self) -> None:
        tokenizer = ByteTokenizer()
        tokenizer.vocab_size = 2**16
        assert encode(["a"], tokenizer).ids.dtype == np.uint16
        tokenizer.vocab_size = 2**16 + 1
        assert encode(["a"], tokenizer).ids.dtype == np.int32


class TestEncodeOnce:
    """Tokens that are kept."""

    @pytest.fixture
    def slow(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("lt_cli.data.corpus.SLOW", 0)

    @staticmethod
    def once(tokenizer: Tokenizer, name: str | None = "one", split: Any = "train") -> Corpus | None:
        return encode_once(Documents(["the cat", "", "ü"], val=["mat"], name=name), split, tokenizer)

    @pytest.mark.usefixtures("slow")
    def test_is_kept(self, tmp_path: Path) -> None:
        tokenizer = CountingTokenizer()
        first, again = self.once(tokenizer), self.once(tokenizer)
        assert tokenizer.encoded == ["the cat", "", "ü"]
        assert equal(first, encode(["the cat", "", "ü"], ByteTokenizer()))
        assert equal(first, again)
        assert len(list((tmp_path / "cache" / "lt_cli").iterdir())) == 1

    @pytest.mark.usefixtures("slow")
    def test_changes_with_content_split_and_tokenizer(self, tmp_path: Path) -> None:
        tokenizer = CountingTokenizer()
        for name, split in (("one", "train"), ("two", "train"), ("one", "val")):
            for _ in range(2):
                self.once(tokenizer, name, split)
        assert tokenizer.encoded == ["the cat", "", "ü", "the cat", "", "ü", "mat"]
        other = self.once(huggingface(gpt2_like(tmp_path / "gpt2")))
        assert not equal(other, self.once(tokenizer))
        assert equal(other, encode(["the cat", "", "ü"], huggingface(tmp_path / "gpt2")))

    @pytest.mark.usefixtures("slow")
    @pytest.mark.parametrize("name", [None, "one"])
    def test_without_a_fingerprint_nothing_is_kept(self, name: str | None) -> None:
        tokenizer = CountingTokenizer()
        assert equal(self.once(tokenizer, name), self.once(tokenizer, name))
        assert len(tokenizer.encoded) == (6 if name is None else 3)

    def test_what_is_quick_is_not_kept(self, tmp_path: Path) -> None:
        tokenizer = CountingTokenizer()
        assert equal(self.once(tokenizer), self.once(tokenizer))
        assert len(tokenizer.encoded) == 6
        assert not (tmp_path / "cache").exists()

    @pytest.mark.usefixtures("slow")
    def test_damaged(self, tmp_path: Path) -> None:
        tokenizer = CountingTokenizer()
        whole = self.once(tokenizer)
        (path,) = (tmp_path / "cache" / "lt_cli").iterdir()
        content = path.read_bytes()
        for damaged in (content[: len(content) // 2], b"", b"nonsense", content.replace(b"t\0h\0e\0", b"t\0h\0i\0")):
            path.write_bytes(damaged)
            before = len(tokenizer.encoded)
            with pytest.warns(UserWarning, match="computing the tokens anew"):
                assert equal(self.once(tokenizer), whole)
            assert len(tokenizer.encoded) == before + 3
            assert equal(self.once(tokenizer), whole)
            assert len(tokenizer.encoded) == before + 3

    def test_no_such_split(self) -> None:
        assert self.once(ByteTokenizer(), split="test") is None


FRACTIONS = [{"val": 0.1}, {"test": 0.25, "val": 0.3}, {"test": 0.001, "val": 0.9}, {}]


class TestCut:
    """Shares of a corpus."""

    @staticmethod
    def numbered(lengths: list[int]) -> Corpus:
        """Every token another number."""
        sizes = np.array(lengths, np.int64)
        return Corpus(np.arange(sum(lengths), dtype=np.int32), sizes, sizes * 3, 2)

    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize("fractions", FRACTIONS)
    @pytest.mark.parametrize("lengths", [[1] * 50, [7, 1, 100, 3, 12], [200], [1]])
    def test_every_token_once(self, lengths: list[int], fractions: Any, seed: int) -> None:
        corpus = self.numbered(lengths)
        parts = cut(corpus, fractions, seed, lambda ids: "x" * 3 * len(ids))
        assert set(parts) == {*fractions, "train"}
        assert sorted(np.concatenate([part.ids for part in parts.values()]).tolist()) == list(range(sum(lengths)))
        for name, fraction in fractions.items():
            assert len(parts[name].ids) == round(fraction * sum(lengths))
        assert all(part.lengths.min(initial=1) > 0 for part in parts.values())
        assert all((part.num_bytes == 3 * part.lengths).all() for part in parts.values())
        assert [part.num_empty for part in parts.values()] == [*(0 for _ in fractions), 2]
        for part in parts.values():  # pieces are runs of one document, in its order
            whole = documents(corpus)
            for piece in documents(part):
                (found,) = (ids for ids in whole if piece[0] in ids)
                assert piece == found[found.index(piece[0]) :][: len(piece)]

    @pytest.mark.parametrize("seed", range(4))
    def test_only_one_document_is_cut_for_a_split_and_keeps_its_beginning(self, seed: int) -> None:
        corpus = self.numbered([9, 8, 7, 11, 10, 6] * 5)
        parts = cut(corpus, {"val": 0.3}, seed, lambda ids: "x" * 3 * len(ids))
        whole = documents(corpus)
        pieces = [piece for piece in documents(parts["val"]) if piece not in whole]
        kept = [piece for piece in documents(parts["train"]) if piece not in whole]
        assert len(pieces) == len(kept) <= 1
        assert all(begin + end in whole for begin, end in zip(kept, pieces, strict=True))

    def test_the_end_of_a_single_text_is_held_out(self) -> None:
        """As in nanoGPT's Shakespeare."""
        parts = cut(self.numbered([100]), {"test": 0.05, "val": 0.1}, 0, lambda ids: "x" * 3 * len(ids))
        assert documents(parts["train"]) == [list(range(85))]
        assert documents(parts["val"]) == [list(range(85, 95))]
        assert documents(parts["test"]) == [list(range(95, 100))]

    def test_the_seed_chooses(self) -> None:
        corpus = self.numbered([5] * 60)
        chosen = [documents(cut(corpus, {"val": 0.2}, seed, str)["val"]) for seed in (0, 0, 1)]
        assert chosen[0] == chosen[1] != chosen[2]
        assert chosen[0] == sorted(chosen[0])
        assert chosen[0] != documents(corpus)[-12:]

    @pytest.mark.parametrize("seed", range(3))
    def test_bytes_of_parts(self, seed: int) -> None:
        """Those of the text, within a character where one is cut."""
        tokenizer = ByteTokenizer()
        corpus = encode(TEXTS, tokenizer)
        parts = cut(corpus, {"test": 0.33, "val": 0.21}, seed, tokenizer.decode)
        assert sum(part.num_bytes.sum() for part in parts.values()) == sum(len(text.encode()) for text in TEXTS)
        for part in parts.values():
            assert np.abs(part.num_bytes - part.lengths).max() <= 3


class TestJoin:
    """One stream."""

    @pytest.mark.parametrize("make", [gpt2_like, bert_like, llama_like])
    def test_frames(self, make: Any, tmp_path: Path) -> None:
        tokenizer = huggingface(make(tmp_path))
        corpus = encode(["the cat", "a", "on the mat"], tokenizer)
        ids, starts = [], []
        for document in documents(corpus):
            starts.append(len(ids))
            ids += [tokenizer.start_id, *document]
            if tokenizer.end_id != tokenizer.start_id:
                ids.append(tokenizer.end_id)
        if tokenizer.end_id == tokenizer.start_id:
            ids.append(tokenizer.end_id)
        stream = join(corpus, tokenizer)
        assert stream.ids.tolist() == ids
        assert stream.starts.tolist() == starts
        assert stream.ids.dtype == corpus.ids.dtype

    def test_as_transformers_would_frame_each(self, tmp_path: Path) -> None:
        from transformers import AutoTokenizer

        texts = ["the cat", "a", "mat"]
        stream = join(encode(texts, huggingface(bert_like(tmp_path))), huggingface(tmp_path))
        theirs = AutoTokenizer.from_pretrained(tmp_path)
        assert stream.ids.tolist() == [i for text in texts for i in theirs(text).input_ids]

    def test_a_document_may_have_separators_in_it(self) -> None:
        """Text is text, also where it is spelled like a separator."""
        corpus = Corpus(np.array([256, 97, 256], np.uint16), np.array([3]), np.array([3]), 0)
        stream = join(corpus, ByteTokenizer())
        assert stream.ids.tolist() == [256, 256, 97, 256, 256]
        assert stream.starts.tolist() == [0]

    def test_nothing(self) -> None:
        stream = join(encode([], ByteTokenizer()), ByteTokenizer())
        assert (stream.ids.tolist(), stream.starts.tolist()) == ([256], [])
