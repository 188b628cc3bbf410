"""Tokens as transformers has them, what frames a text, and checkpoints that need no files."""

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from texts import KINDS, SENTENCES, bert_like, endless, gpt2_like, llama_like, roberta_like
from toys import message
from transformers import AutoTokenizer

from lt_cli.data.framing import cut
from lt_cli.data.tokenizers import ByteTokenizer, HuggingFaceTokenizer, Tokenizer

TEXTS = [*SENTENCES, "", " ", "two\nlines  and  spaces ", "naïve 🙂 日本語", "the cat" * 50]


def loaded(path: Path, **options: Any) -> HuggingFaceTokenizer:
    tokenizer = HuggingFaceTokenizer(str(path), **options)
    tokenizer.load()
    return tokenizer


def listed(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    return [ids.tolist() for ids in tokenizer.encode(texts)]


class TestByteTokenizer:
    """Any text is its bytes."""

    @settings(deadline=None)
    @given(st.lists(st.text()))
    def test_round_trip(self, texts: list[str]) -> None:
        tokenizer = ByteTokenizer()
        assert listed(tokenizer, texts) == [list(text.encode()) for text in texts]
        assert [tokenizer.decode(ids) for ids in listed(tokenizer, texts)] == texts

    @settings(deadline=None)
    @given(st.lists(st.text(), min_size=1))
    def test_round_trip_with_masks(self, parts: list[str]) -> None:
        tokenizer, text = ByteTokenizer(), "<mask>".join(parts)
        ids = tokenizer.encode_masked(text).tolist()
        assert tokenizer.decode_masked(ids) == text
        assert ids.count(257) == text.count("<mask>")

    def test_special_tokens_have_no_text(self) -> None:
        assert ByteTokenizer().decode([256, 104, 257, 105, 256]) == "hi"
        assert ByteTokenizer().decode_masked([256, 104, 257, 105, 256]) == "h<mask>i"

    def test_half_a_character(self) -> None:
        assert ByteTokenizer().decode(list("aü".encode())[:2]) == "a\N{REPLACEMENT CHARACTER}"


class TestHuggingFaceTokenizer:
    """Directories as transformers saves them."""

    @pytest.mark.parametrize("kind", KINDS)
    def test_equals_transformers(self, kind: str, tmp_path: Path) -> None:
        path = KINDS[kind](tmp_path / kind)
        theirs = AutoTokenizer.from_pretrained(path)
        ours = loaded(path, end_token="the" if kind == "endless" else None)
        expected = [theirs(text, add_special_tokens=False).input_ids for text in TEXTS]
        assert listed(ours, TEXTS) == expected
        assert listed(ours, []) == []
        assert [ours.decode(ids) for ids in expected] == [
            theirs.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False) for ids in expected
        ]
        assert ours.vocab_size == len(theirs)

    def test_more_texts_than_are_held_at_a_time(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        ours = loaded(gpt2_like(tmp_path))
        expected = listed(ours, TEXTS)
        monkeypatch.setattr("lt_cli.data.tokenizers.TEXTS_AT_ONCE", 3)
        assert listed(ours, TEXTS) == expected

    @pytest.mark.parametrize(
        ("kind", "start", "end", "mask"),
        [
            ("gpt2", "<|endoftext|>", "<|endoftext|>", None),
            ("bert", "[CLS]", "[SEP]", "[MASK]"),
            ("roberta", "<s>", "</s>", "<mask>"),
            ("llama", "<s>", "</s>", None),
        ],
    )
    def test_what_frames_a_text(self, kind: str, start: str, end: str, mask: str | None, tmp_path: Path) -> None:
        path = KINDS[kind](tmp_path / kind)
        ids = AutoTokenizer.from_pretrained(path).get_vocab()
        ours = loaded(path)
        assert (ours.start_id, ours.end_id) == (ids[start], ids[end])
        assert (ours.mask_token, ours.mask_id) == (mask, ids.get(mask))
        assert ours.special_ids == {number for token, number in ids.items() if token[0] in "<[" and token[1:]}

    def test_given_tokens(self, tmp_path: Path) -> None:
        path = endless(tmp_path)
        ids = AutoTokenizer.from_pretrained(path).get_vocab()
        both = loaded(path, start_token="a", end_token="the")
        assert (both.start_id, both.end_id) == (ids["a"], ids["the"])
        one = loaded(path, end_token="the")
        assert (one.start_id, one.end_id) == (ids["the"], ids["the"])

    def test_no_end(self, tmp_path: Path) -> None:
        said = message(HuggingFaceTokenizer(str(endless(tmp_path))).load)
        assert said == (
            f"the tokenizer in {str(tmp_path)!r} has no token that ends a text: "
            "name one with --data.tokenizer.end_token=TOKEN"
        )

    @pytest.mark.parametrize("option", ["start_token", "end_token"])
    def test_unknown_tokens(self, option: str, tmp_path: Path) -> None:
        said = message(HuggingFaceTokenizer(str(gpt2_like(tmp_path)), **{option: "<eot>"}).load)
        assert said == f"tokenizer.{option} ('<eot>') must be a token of {str(tmp_path)!r}, which has none such"

    def test_ids_with_gaps(self, tmp_path: Path) -> None:
        """Every id is below vocab_size, as a backbone's table has to have a row for it."""
        path = gpt2_like(tmp_path)
        content = json.loads((path / "tokenizer.json").read_text())
        extra = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        content["added_tokens"].append({"id": 300, "content": "<|far|>", **extra})
        content["model"]["vocab"]["<|far|>"] = 300
        (path / "tokenizer.json").write_text(json.dumps(content))
        ours = loaded(path)
        assert listed(ours, ["<|far|>"]) == [[300]]
        assert ours.vocab_size == 301

    def test_not_within_reach(self, tmp_path: Path) -> None:
        said = message(HuggingFaceTokenizer("nobody/nothing").load)
        assert said.startswith("tokenizer.path ('nobody/nothing') must be a name on a hub within reach: ")
        assert len(said.splitlines()) == 1
        (tmp_path / "empty").mkdir()
        said = message(HuggingFaceTokenizer(str(tmp_path / "empty")).load)
        assert said.startswith(f"tokenizer.path ({str(tmp_path / 'empty')!r}) must be a directory with tokenizer.json")
        assert len(said.splitlines()) == 1

    def test_nothing_is_read_before_it_is_needed(self) -> None:
        assert HuggingFaceTokenizer("nobody/nothing").state_dict() == {}

    def test_it_is_read_once(self, tmp_path: Path) -> None:
        ours = HuggingFaceTokenizer(str(gpt2_like(tmp_path / "set")))
        ours.load()
        shutil.rmtree(tmp_path / "set")
        ours.load()
        assert ours.decode(ours.encode(["the cat"])[0].tolist()) == "the cat"


class TestMasks:
    """Texts with tokens to fill in."""

    @pytest.mark.parametrize("make", [bert_like, roberta_like])
    def test_equals_transformers(self, make: Any, tmp_path: Path) -> None:
        """Among them that the space before a mask may belong to it."""
        ours, theirs = loaded(make(tmp_path)), AutoTokenizer.from_pretrained(tmp_path)
        for text in ("the [MASK] sat", "[MASK] cat [MASK]", "the cat", "the cat[MASK]"):
            written = text.replace("[MASK]", ours.mask_token or "")
            ids = ours.encode_masked(written).tolist()
            assert ids == theirs(written, add_special_tokens=False).input_ids
            assert ids.count(ours.mask_id) == text.count("[MASK]")
            assert ours.encode_masked(ours.decode_masked(ids)).tolist() == ids

    def test_text_is_as_it_was_written(self, tmp_path: Path) -> None:
        ours = loaded(bert_like(tmp_path))
        ids = [ours.start_id, *ours.encode_masked("the cat [MASK] on the mat"), ours.end_id]
        assert ours.decode_masked(ids) == "the cat [MASK] on the mat"
        assert ours.decode(ids) == "the cat on the mat"

    def test_a_tokenizer_without_a_mask(self, tmp_path: Path) -> None:
        ours = loaded(llama_like(tmp_path))
        ids = listed(ours, ["the cat"])[0]
        assert ours.decode_masked([ours.start_id, *ids]) == "the cat"


class TestState:
    """What a checkpoint takes along."""

    @pytest.mark.parametrize("kind", ["gpt2", "bert", "roberta", "llama"])
    def test_needs_no_files(self, kind: str, tmp_path: Path) -> None:
        one = loaded(KINDS[kind](tmp_path / kind))
        state = json.loads(json.dumps(one.state_dict()))
        shutil.rmtree(tmp_path / kind)
        other = HuggingFaceTokenizer(str(tmp_path / kind))
        other.load_state_dict(state)
        other.load()
        assert listed(other, TEXTS) == listed(one, TEXTS)
        for name in ("vocab_size", "start_id", "end_id", "mask_token", "mask_id", "special_ids"):
            assert getattr(other, name) == getattr(one, name)
        assert other.fingerprint() == one.fingerprint()
        assert other.state_dict() == one.state_dict()

    def test_another_path_is_what_the_configuration_says(self, tmp_path: Path) -> None:
        state = loaded(bert_like(tmp_path / "bert")).state_dict()
        other = HuggingFaceTokenizer(str(gpt2_like(tmp_path / "gpt2")))
        other.load_state_dict(state)
        other.load()
        assert other.fingerprint() == loaded(tmp_path / "gpt2").fingerprint()
        assert other.mask_id is None

    def test_given_tokens_are_those_of_the_configuration(self, tmp_path: Path) -> None:
        one = loaded(gpt2_like(tmp_path))
        other = HuggingFaceTokenizer(str(tmp_path), end_token="the")
        other.load_state_dict(one.state_dict())
        assert [other.end_id] == listed(one, ["the"])[0]

    def test_bytes_have_none(self) -> None:
        tokenizer = ByteTokenizer()
        tokenizer.load_state_dict(tokenizer.state_dict())
        assert tokenizer.state_dict() == {}

    def test_fingerprints_differ(self, tmp_path: Path) -> None:
        made = [loaded(KINDS[kind](tmp_path / kind)) for kind in ("gpt2", "bert", "roberta", "llama")]
        assert len({tokenizer.fingerprint() for tokenizer in [*made, ByteTokenizer()]}) == 5


class TestFrames:
    """What a model reads of one text or two is what transformers makes of them."""

    @pytest.mark.parametrize("max_length", [7, 8, 12, 13, 30, 999])
    @pytest.mark.parametrize("num_texts", [1, 2])
    @pytest.mark.parametrize("kind", ["bert", "roberta", "llama"])
    def test_equal_transformers(self, kind: str, num_texts: int, max_length: int, tmp_path: Path) -> None:
        path = KINDS[kind](tmp_path / kind)
        theirs, ours = AutoTokenizer.from_pretrained(path), loaded(path)
        frame = ours.frame_of(num_texts)
        for texts in itertools.product(TEXTS, repeat=num_texts):
            if not texts[-1]:  # transformers takes an empty second text for none
                continue
            expected = theirs(
                *texts,
                truncation="longest_first",
                max_length=max_length,
                return_token_type_ids=True,
                return_offsets_mapping=True,
            )
            tokens = ours.encode_with_spans(texts)
            sizes = cut([len(one.ids) for one in tokens], max_length - frame.num_tokens)
            parts = [one.ids[:size] for one, size in zip(tokens, sizes, strict=True)]
            ids, types, starts = frame.around(*parts)
            assert ids.tolist() == expected.input_ids
            assert types.tolist() == expected.token_type_ids
            for number, (one, size, start) in enumerate(zip(tokens, sizes, starts, strict=True)):
                places = [i for i, text in enumerate(expected.sequence_ids()) if text == number]
                assert places == [*range(start, start + size)]
                assert [list(expected.offset_mapping[i]) for i in places] == one.spans[:size].tolist()

    @pytest.mark.parametrize("kind", ["gpt2", "endless"])
    def test_without_any_of_its_own(self, kind: str, tmp_path: Path) -> None:
        ours = loaded(KINDS[kind](tmp_path), end_token="the" if kind == "endless" else None)
        end = ours.end_id
        assert ours.frame_of(1).runs == ([(end, 0)],) * 2
        assert ours.frame_of(2).runs == ([(end, 0)],) * 3
        assert ours.frame_of(2).types == (0, 1)

    def test_given_tokens_stand_around(self, tmp_path: Path) -> None:
        ours = loaded(bert_like(tmp_path), end_token="[MASK]")
        assert ours.frame_of(1).runs == ([(ours.start_id, 0)], [(ours.mask_id, 0)])

    def test_after_a_checkpoint(self, tmp_path: Path) -> None:
        path = bert_like(tmp_path / "bert")
        one, other = loaded(path), HuggingFaceTokenizer(str(path))
        shutil.rmtree(path)
        other.load_state_dict(one.state_dict())
        assert other.frame_of(2) == one.frame_of(2)

    @pytest.mark.parametrize("kind", KINDS)
    def test_spans_come_with_the_same_tokens(self, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        ours = loaded(KINDS[kind](tmp_path), end_token="the" if kind == "endless" else None)
        monkeypatch.setattr("lt_cli.data.tokenizers.TEXTS_AT_ONCE", 3)
        found = ours.encode_with_spans(TEXTS)
        assert [one.ids.tolist() for one in found] == listed(ours, TEXTS)
        assert all(one.spans.shape == (len(one.ids), 2) for one in found)
        assert ours.encode_with_spans([]) == []

    @settings(deadline=None)
    @given(st.text())
    def test_bytes(self, text: str) -> None:
        (tokens,) = ByteTokenizer().encode_with_spans([text])
        expected = [[i, i + 1] for i, character in enumerate(text) for _ in character.encode()]
        assert tokens.spans.tolist() == expected
        assert tokens.spans.shape == (len(tokens.ids), 2)
        assert tokens.ids.tolist() == list(text.encode())

    def test_bytes_of_two(self) -> None:
        tokenizer = ByteTokenizer()
        ids, types, starts = tokenizer.frame_of(2).around(*tokenizer.encode(["ab", "c"]))
        assert ids.tolist() == [256, 97, 98, 256, 99, 256]
        assert types.tolist() == [0, 0, 0, 0, 1, 0]
        assert starts == [1, 4]
