"""Text read an epoch at a time, beside the plain stream of all documents."""

import itertools
import json
from typing import Any

import numpy as np
import pytest
import torch
from texts import CountingTokenizer, Documents, letters
from torch import Tensor
from toys import message

from lt_cli.data.blocks import CausalBlocks
from lt_cli.data.corpus import Corpus, join
from lt_cli.data.packed_text import PackedText
from lt_cli.data.tokenizers import ByteTokenizer
from lt_cli.data.windows import Place, Reader, Windows

TEXTS = ["", *letters(12), " \n", "", *letters(5, seed=1), "\t"]
"""Some of them without text."""


def plain(texts: list[str], num_tokens: int, first: int = 0) -> list[int]:
    """The tokens of texts, again and again, from one token on."""
    whole = [byte for text in texts if text.strip() for byte in text.encode()]
    return [whole[place % len(whole)] for place in range(first, first + num_tokens)]


@pytest.fixture(autouse=True, params=[2, 256])
def _ahead(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lt_cli.data.windows.TEXTS_AHEAD", request.param)


def reader(texts: list[str] = TEXTS, place: Place = (0, 0), origin: Place = (0, 0)) -> Reader:
    return Reader(Documents(texts), ByteTokenizer(), place, origin)


class TestReader:
    """Tokens in order."""

    @pytest.mark.parametrize("sizes", [[1] * 30, [7] * 80, [1000], [3, 500, 1, 400]])
    def test_the_plain_stream_again_and_again(self, sizes: list[int]) -> None:
        one = reader()
        taken = [one.take(size) for size in sizes]
        assert [len(corpus.ids) for corpus in taken] == sizes
        assert np.concatenate([corpus.ids for corpus in taken]).tolist() == plain(TEXTS, sum(sizes))
        for corpus in taken:
            assert corpus.lengths.sum() == len(corpus.ids)
            assert corpus.lengths.min() > 0
            assert np.array_equal(corpus.num_bytes, corpus.lengths), "a byte is a token"

    def test_passes(self) -> None:
        total = sum(len(text.encode()) for text in TEXTS if text.strip())
        one, passes = reader(), []
        for size in (total, 1, total - 1, total + 1):
            one.take(size)
            passes.append(one.passes)
        assert passes == [0, 1, 1, 3]

    def test_documents(self) -> None:
        one = reader(["abc", "de", "fghi"])
        assert [one.take(size).lengths.tolist() for size in (4, 2, 6)] == [[3, 1], [1, 1], [3, 3]]
        assert one.place == (1, 0)

    def test_from_any_place(self) -> None:
        """Also the end of the text, where a reader may have stopped."""
        total = sum(len(text.encode()) for text in TEXTS if text.strip())
        places = [reader().place]
        one = reader()
        for _ in range(total + 3):
            one.take(1)
            places.append(one.place)
        for first, place in enumerate(places):
            assert reader(place=place).take(20).ids.tolist() == plain(TEXTS, 20, first)

    def test_what_lies_before_is_not_read(self) -> None:
        source = Documents([f"text {number}" for number in range(100)])
        Reader(source, ByteTokenizer(), (90, 2)).take(5)
        assert source.read[0] == ("train", 90)

    @pytest.mark.parametrize("held_out", [1, 20, 57])
    def test_what_is_held_out_never_comes(self, held_out: int) -> None:
        texts = [chr(ord("A") + number) * 19 for number in range(4)]
        begun = reader(texts)
        begun.take(held_out)
        rest = "".join(texts)[held_out:]
        for place in (begun.place, (2, 3), (4, 0)):
            first = place[0] * 19 + place[1] - held_out
            if first >= 0:
                found = reader(texts, place, begun.place).take(200).ids.tolist()
                assert found == [ord(rest[i % len(rest)]) for i in range(first, first + 200)]

    def test_no_text(self) -> None:
        said = "the train text has no document with any text in it"
        assert message(lambda: reader(["", " "]).take(1)) == f"{said}: give the source some"
        assert message(lambda: reader([]).take(1)).startswith(said)
        assert message(lambda: reader(["a", "b", ""], (2, 0), (2, 0)).take(1)) == (
            f"{said} behind the 2 documents that are held out: give the source some"
        )

    def test_a_new_pass_is_said(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level("INFO"):
            reader(["ab", "cd"]).take(9)
        assert caplog.text.count("all 2 documents were read; those of training come again") == 2


def windows(num_tokens: int = 40, known: tuple[int, Place] | None = None) -> Windows:
    """Epochs of texts in which no document is marked."""

    def make(corpus: Corpus) -> CausalBlocks:
        return CausalBlocks(join(corpus, ByteTokenizer()), 8, once=False, separate=False)

    return Windows(lambda place: reader(place=place), num_tokens, 8, make, (0, 0), known)


def epoch_of(one: Windows, epoch: int) -> list[list[int]]:
    return one.batch(range(len(one)), epoch)["input_ids"].tolist()


class TestWindows:
    """An epoch at a time."""

    @pytest.mark.parametrize("num_tokens", [8, 40, 250, 1000])
    def test_epochs_are_the_plain_stream(self, num_tokens: int) -> None:
        one = windows(num_tokens)
        texts = []
        for epoch in range(4):
            blocks = one.blocks(epoch)
            ids = blocks.stream.ids
            texts += ids[ids != 256].tolist()
            assert one.blocks(epoch) is blocks
            assert num_tokens - 1 <= blocks.num_targets <= num_tokens, "what begins a document counts too"
        assert texts == plain(TEXTS, len(texts))
        assert len(texts) > 4 * num_tokens / 2

    @pytest.mark.parametrize("num_tokens", [8, 40, 250, 251])
    def test_every_token_is_a_label(self, num_tokens: int) -> None:
        """But for the first, which nothing comes before; the last row may repeat some."""
        one = windows(num_tokens)
        for epoch in range(3):
            ids = one.blocks(epoch).stream.ids.tolist()
            labels = one.batch(range(len(one)), epoch)["labels"].tolist()
            whole = [token for row in labels[:-1] for token in row]
            assert [*whole, *labels[-1][len(labels) * 8 - len(ids) + 1 :]] == ids[1:]

    def test_back_to_an_earlier_epoch(self) -> None:
        one = windows()
        found = [epoch_of(one, epoch) for epoch in range(4)]
        assert len({str(rows) for rows in found}) == 4
        for epoch in (0, 3, 2, 1, 1, 3):
            assert epoch_of(one, epoch) == found[epoch]
        assert epoch_of(windows(), 3) == found[3]

    def test_resumed(self) -> None:
        one = windows()
        for epoch in range(5):
            expected = epoch_of(one, epoch)
            resumed = windows(known=(one.epoch, one.place))
            assert epoch_of(resumed, epoch) == expected
            assert epoch_of(resumed, epoch + 2) == epoch_of(windows(), epoch + 2)
            assert epoch_of(resumed, 0) == epoch_of(windows(), 0)


def packed(source: Documents, **options: Any) -> PackedText:
    sizes = {"max_seq_len": 8, "tokens_per_epoch": 48}
    data = PackedText(**{"source": source, "tokenizer": CountingTokenizer(), **sizes, **options})
    data.prepare_data()
    return data


def ready(source: Documents, *, state: dict[str, Any] | None = None, stage: str = "fit", **options: Any) -> PackedText:
    data = packed(source, **options)
    if state is not None:
        data.load_state_dict(state)
    data.setup(stage)
    return data


NUMBERED = [f"<{number:03}> {text}" for number, text in enumerate(letters(60))]


class TestPackedText:
    """Epochs of a datamodule."""

    def test_nothing_held_out_comes_in_training(self) -> None:
        data = ready(Documents(NUMBERED, streamed=True), val_fraction=0.5, test_fraction=0.25)
        data.setup("test")
        held_out = 24 + 12
        whole = "".join(NUMBERED).encode()
        parts = {name: data.splits[name].stream.ids for name in ("val", "test")}
        texts = {name: bytes(ids[ids != 256].astype(np.uint8)) for name, ids in parts.items()}
        assert (texts["test"], texts["val"]) == (whole[:12], whole[12:held_out])
        seen = b""
        for epoch in itertools.count():
            ids = data.splits["train"].blocks(epoch).stream.ids
            seen += bytes(ids[ids != 256].astype(np.uint8))
            if len(seen) > 2 * len(whole):
                break
        rest = whole[held_out:]
        assert seen == (rest * 3)[: len(seen)]

    @pytest.mark.parametrize("last", [0, 1, 7, 30])
    def test_resumed_in_a_later_epoch(self, last: int) -> None:
        """The same blocks, in the same order, without reading what lies before."""
        one, source = self.own(), Documents(NUMBERED, val=letters(20), streamed=True)
        expected = {epoch: self.batches(one, epoch) for epoch in range(last + 1)}
        other = ready(source, state=json.loads(json.dumps(one.state_dict())))
        assert other.state_dict() == one.state_dict()
        del source.read[:]
        assert torch.equal(self.batches(other, last), expected[last])
        assert source.read[0] == ("train", one.state_dict()["place"][0])
        for epoch in (last + 1, last + 4):
            assert torch.equal(self.batches(other, epoch), self.batches(one, epoch))
        assert torch.equal(self.batches(other, 0), expected[0])

    @staticmethod
    def own() -> PackedText:
        return ready(Documents(NUMBERED, val=letters(20), streamed=True))

    @staticmethod
    def batches(data: PackedText, epoch: int) -> Tensor:
        """The blocks of an epoch, as training gets them."""
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)
        return torch.cat([batch["input_ids"] for batch in loader])

    def test_resumed_with_text_held_out(self) -> None:
        """Which is read again, as validation needs it, and comes in training neither now nor later."""
        one, other = (Documents(NUMBERED, streamed=True) for _ in range(2))
        first = ready(one, val_fraction=0.5)
        expected = [self.batches(first, epoch) for epoch in range(60)]
        assert one.read.count(("train", 20)) > 1, "more than one pass"
        first = ready(one, val_fraction=0.5)
        self.batches(first, 5)
        second = ready(other, val_fraction=0.5, state=first.state_dict())
        for epoch in (5, 6, 59, 0):
            assert torch.equal(self.batches(second, epoch), expected[epoch])

    def test_description_and_bytes(self) -> None:
        data = ready(Documents(NUMBERED, val=letters(20), streamed=True))
        lines = data.describe()
        assert lines[0] == "train: 6 blocks of 8 tokens in each epoch, read as they are needed"
        assert lines[1].startswith("val: ")
        blocks = data.splits["train"].blocks(0)
        letters_of = np.count_nonzero(blocks.stream.ids != 256)
        assert data.tokens_per_byte["train"] == pytest.approx(48 / letters_of, abs=2 / 48)

    def test_mistakes(self) -> None:
        source = Documents(NUMBERED, streamed=True)
        assert message(lambda: packed(source, num_workers=2)) == (
            "num_workers (2) must be 0 with tokens_per_epoch: each would read all the text"
        )
        assert message(lambda: packed(source, tokens_per_epoch=10)) == (
            "tokens_per_epoch (10) must be at least 11: max_seq_len (8) and what begins and ends a document"
        )
        said = message(lambda: ready(source, tokens_per_epoch=None))
        assert said == "a source that is streamed is never read whole: set --data.tokens_per_epoch=10000000"
        said = message(lambda: ready(Documents(["short", "texts"]), tokens_per_epoch=1000))
        assert said == (
            "val_fraction and test_fraction of tokens_per_epoch (1000) must leave text to train on, and there is none: "
            "set --data.tokens_per_epoch=null"
        )
