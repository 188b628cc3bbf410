"""Text as a datamodule: splits, what is said of them, what a checkpoint holds, prompts and predictions."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from texts import CountingTokenizer, Documents, bert_like, gpt2_like, letters
from toys import message

from lt_cli.data.base import TextData
from lt_cli.data.blocks import Blocks, Masking
from lt_cli.data.packed_text import PackedText
from lt_cli.data.prompts import Prompts
from lt_cli.data.tokenizers import ByteTokenizer, HuggingFaceTokenizer

TEXTS = letters(50)
OF_ONE_LETTER = [letter * 20 for letter in "abcdefghijklmnopqrstuvwxyz"]
"""So that a token says which document it is of."""


def packed(source: Documents | list[str] | None = None, **options: Any) -> PackedText:
    source = source if isinstance(source, Documents) else Documents(source or TEXTS)
    return PackedText(**{"source": source, "tokenizer": ByteTokenizer(), "max_seq_len": 16, "batch_size": 4, **options})


def ready(data: PackedText, *stages: str) -> PackedText:
    """The data as a trainer would set it up."""
    data.prepare_data()
    for stage in stages or ("fit",):
        data.setup(stage)
    return data


def blocks_of(data: PackedText, name: Any) -> Blocks:
    blocks = data.splits[name]
    assert isinstance(blocks, Blocks)
    return blocks


def stream_of(data: PackedText, name: Any) -> list[int]:
    return blocks_of(data, name).stream.ids.tolist()


def said(*stages: str, source: Documents | list[str] | None = None, **options: Any) -> str:
    """What a mistake is told, in one line."""
    found = message(lambda: ready(packed(source, **options), *stages))
    assert len(found.splitlines()) == 1
    return found


class TestSplits:
    """Which text is where."""

    def test_a_tenth_is_for_validation(self) -> None:
        data = ready(packed())
        total = sum(len(text.encode()) for text in TEXTS)
        counts = {name: sum(token < 256 for token in stream_of(data, name)) for name in ("train", "val")}
        assert counts == {"train": total - round(total / 10), "val": round(total / 10)}

    def test_fractions(self) -> None:
        data = ready(packed(OF_ONE_LETTER, val_fraction=0.25, test_fraction=0.3), "fit", "test")
        parts = {name: [token for token in stream_of(data, name) if token < 256] for name in ("train", "val", "test")}
        assert {name: len(tokens) for name, tokens in parts.items()} == {"train": 234, "val": 130, "test": 156}
        assert sorted(token for tokens in parts.values() for token in tokens) == sorted("".join(OF_ONE_LETTER).encode())
        for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
            assert len(set(parts[one]) & set(parts[other])) <= 1, "at most one document is cut between two of them"

    def test_blocks_do_not_cross_splits(self) -> None:
        data = ready(packed(OF_ONE_LETTER, val_fraction=0.5))
        for name in ("train", "val"):
            blocks, stream = blocks_of(data, name), set(stream_of(data, name))
            batch = blocks.batch(range(len(blocks)), 0)
            assert set(torch.cat([batch["input_ids"], batch["labels"]]).unique().tolist()) - {-100} == stream

    def test_the_source_s_own(self) -> None:
        source = Documents(["training text " * 3], val=["validation text " * 3], test=["test text " * 3])
        data = ready(packed(source), "fit", "test")
        for name in ("train", "val", "test"):
            assert stream_of(data, name) == [256, *(source.texts[name] or [])[0].encode(), 256]

    def test_a_single_text_keeps_its_beginning(self) -> None:
        data = ready(packed(["0123456789" * 20]))
        assert stream_of(data, "train") == [256, *b"0123456789" * 18, 256]

    def test_the_split_is_the_split_seed_s(self, monkeypatch: pytest.MonkeyPatch) -> None:
        streams = []
        for run_seed, split_seed in ((1, 0), (2, 0), (2, 1)):
            monkeypatch.setenv("PL_GLOBAL_SEED", str(run_seed))
            streams.append(stream_of(ready(packed(split_seed=split_seed)), "val"))
        assert streams[0] == streams[1]
        assert streams[1] != streams[2]

    def test_two_of_one_seed_are_equal(self) -> None:
        """Down to the batches that training gets."""
        for options in ({}, {"masking": Masking()}, {"separate_documents": True}):
            one, other = (ready(packed(test_fraction=0.1, **options), "fit", "test") for _ in range(2))
            for name in ("train", "val", "test"):
                for mine, theirs in zip(one.loader(name), other.loader(name), strict=True):
                    assert mine.keys() == theirs.keys()
                    assert all(torch.equal(mine[key], theirs[key]) for key in mine)

    def test_one_stage_s_text_is_that_of_another(self) -> None:
        whole = ready(packed(test_fraction=0.2), "fit", "test")
        for stage, name in (("validate", "val"), ("test", "test")):
            assert stream_of(ready(packed(test_fraction=0.2), stage), name) == stream_of(whole, name)
        other = ready(packed(test_fraction=0.2), "test", "validate", "fit")
        assert stream_of(other, "train") == stream_of(whole, "train")

    def test_evaluation_counts_each_token_once_and_training_all(self) -> None:
        data = ready(packed(test_fraction=0.3), "fit", "test")
        for name in ("val", "test", "train"):
            blocks = blocks_of(data, name)
            labels = blocks.batch(range(len(blocks)), 0)["labels"]
            number = len(stream_of(data, name)) - 1
            assert number % 16, "or there would be no last row to look at"
            assert (labels >= 0).sum() == (labels.numel() if name == "train" else number)

    def test_documents_kept_apart(self) -> None:
        batch = next(iter(ready(packed(separate_documents=True)).train_dataloader()))
        assert set(batch) == {"index", "input_ids", "labels", "position_ids"}
        assert (batch["position_ids"][batch["input_ids"] == 256] == 0).all()
        assert "position_ids" not in next(iter(ready(packed()).train_dataloader()))


class TestWork:
    """How often what is slow is done."""

    @pytest.mark.parametrize("own", [False, True])
    def test_each_text_is_encoded_once(self, own: bool) -> None:
        tokenizer = CountingTokenizer()
        val, test = (letters(20, seed=1), letters(20, seed=2)) if own else (None, None)
        data = packed(Documents(TEXTS, val=val, test=test), tokenizer=tokenizer, test_fraction=None if own else 0.2)
        ready(data, "fit")
        ready(data, "fit", "validate", "test", "test")
        assert sorted(tokenizer.encoded) == sorted([*TEXTS, *(val or []), *(test or [])])

    def test_only_what_a_stage_needs(self) -> None:
        for stage, read in (
            ("fit", {"train", "val"}),
            ("validate", {"val"}),
            ("test", {"test"}),
            ("predict", {"test"}),
        ):
            source = Documents(TEXTS, val=TEXTS, test=TEXTS)
            ready(packed(source), stage)
            assert {split for split, _ in source.read} == read

    def test_nothing_before_setup(self) -> None:
        source = Documents(TEXTS)
        data = packed(source, tokenizer=HuggingFaceTokenizer("nobody/nothing"))
        assert data.vocab_size is None
        assert data.describe() == []
        assert source.read == []

    def test_prompts_need_no_source(self) -> None:
        source = Documents(TEXTS)
        source.prepare = lambda: pytest.fail("downloaded for nothing")  # type: ignore[method-assign]
        data = packed(source, prompts=["a"])
        data.trainer = SimpleNamespace(world_size=1, state=SimpleNamespace(fn="predict"))  # type: ignore[assignment]
        ready(data, "predict")
        assert source.read == []

    def test_of_several_processes_one_encodes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("lt_cli.data.corpus.SLOW", 0)
        trainer: Any = SimpleNamespace(world_size=2, state=SimpleNamespace(fn="fit"))
        first, second = (packed(Documents(TEXTS, name="texts"), tokenizer=CountingTokenizer()) for _ in range(2))
        first.trainer = second.trainer = trainer
        first.prepare_data()
        second.setup("fit")
        counts = [
            len(data.tokenizer.encoded) for data in (first, second) if isinstance(data.tokenizer, CountingTokenizer)
        ]
        assert counts == [len(TEXTS), 0]


class TestDescription:
    """What the page before the first step says."""

    def test_lines(self) -> None:
        texts = ["abcd", "", "ab" * 25, "abcdefgh", " "]
        data = ready(packed(Documents(texts, val=["ü" * 8, "aaa"]), max_seq_len=8))
        assert data.describe() == [
            "train: 9 blocks of 8 tokens, 62 in 3 documents of 4 to 50 (median 8); 2 more have no text and are left "
            "out; 8 of 258 tokens occur",
            "val: 3 blocks of 8 tokens, 19 in 2 documents of 3 to 16 (median 9)",
        ]

    def test_a_row_as_text(self, tmp_path: Path) -> None:
        data = ready(packed(["ä" * 400], masking=Masking(), max_seq_len=300, val_fraction=0.4))
        (line,) = data.preview(data.splits["train"].batch([0], 0), tmp_path)
        assert line.startswith("a row begins: '")
        assert "<mask>" in line
        assert len(line) < 250
        assert not list(tmp_path.glob("*.png"))

    def test_tokens_per_byte(self, tmp_path: Path) -> None:
        """What turns nats per token into bits per byte."""
        texts = {"train": ["Grüße ans the cat " * 8, "the mat"], "val": ["on the mat " * 9], "test": ["a cat " * 9]}
        source = Documents(texts["train"], val=texts["val"], test=texts["test"])
        tokenizer = HuggingFaceTokenizer(str(gpt2_like(tmp_path)))
        data = ready(packed(source, tokenizer=tokenizer), "fit", "test")
        for name, documents in texts.items():
            tokens = sum(len(ids) + 1 for ids in tokenizer.encode(documents))  # and the end of each
            assert data.tokens_per_byte[name] == tokens / len("".join(documents).encode())
        parts = ready(packed(test_fraction=0.2), "fit", "test")
        for name in ("train", "val", "test"):
            num_bytes = sum(token < 256 for token in stream_of(parts, name))
            assert parts.tokens_per_byte[name] == pytest.approx((len(stream_of(parts, name)) - 1) / num_bytes, rel=0.05)

    def test_what_a_task_asks(self) -> None:
        data = packed(prompts=["a", "b"])
        assert isinstance(data, TextData)
        assert (data.vocab_size, data.start_id, data.end_id, data.mask_id) == (258, 256, 256, None)
        assert packed(masking=Masking()).mask_id == 257
        assert data.max_seq_len == 16
        assert ready(data, "predict").place(1) == "prompt 2"


class TestState:
    """What a checkpoint takes along."""

    def test_the_tokenizer(self, tmp_path: Path) -> None:
        path = bert_like(tmp_path / "bert")
        options = {"masking": Masking(), "max_seq_len": 6}
        texts = ["the cat sat on the mat"] * 9
        one = ready(packed(texts, tokenizer=HuggingFaceTokenizer(str(path)), **options))
        state = json.loads(json.dumps(one.state_dict()))
        shutil.rmtree(path)
        other = packed(texts, tokenizer=HuggingFaceTokenizer(str(path)), **options)
        other.load_state_dict(state)
        ready(other, "fit", "predict")
        assert stream_of(other, "train") == stream_of(one, "train")
        assert (other.vocab_size, other.mask_id, other.end_id) == (one.vocab_size, one.mask_id, one.end_id)
        assert other.state_dict() == one.state_dict()

    def test_bytes_have_none(self) -> None:
        one = ready(packed())
        assert one.state_dict() == {"tokenizer": {}}
        other = packed()
        other.load_state_dict(one.state_dict())
        assert stream_of(ready(other), "train") == stream_of(one, "train")


class TestMistakes:
    """Each says what to do."""

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ({"max_seq_len": 0}, "max_seq_len (0) must be at least 1"),
            ({"split_seed": -1}, "split_seed (-1) must not be negative"),
            ({"val_fraction": 1.0}, "val_fraction (1.0) must be above 0 and below 1, or null"),
            ({"test_fraction": 0.0}, "test_fraction (0.0) must be above 0 and below 1, or null"),
            ({"val_fraction": float("nan")}, "val_fraction (nan) must be above 0 and below 1, or null"),
            (
                {"separate_documents": True, "masking": Masking()},
                "separate_documents (true) has no meaning with masking: set one of them only",
            ),
            (
                {"val_fraction": 0.5, "test_fraction": 0.5},
                "test_fraction (0.5) and val_fraction (0.5) must be below 1 in all, to leave text to train on",
            ),
            (
                {"test_fraction": 0.95},
                "test_fraction (0.95) and val_fraction (0.1) must be below 1 in all, to leave text to train on",
            ),
            (
                {"max_seq_len": 2000},
                "train: 859 tokens do not fill one block of max_seq_len (2000): give more text, or ",
            ),
            (
                {"max_seq_len": 200},
                "val: 98 tokens do not fill one block of max_seq_len (200): give more text, or set "
                "--data.max_seq_len=97, or a larger --data.val_fraction",
            ),
        ],
    )
    def test_options(self, options: dict[str, Any], expected: str) -> None:
        assert said(**options).startswith(expected)

    @pytest.mark.parametrize("name", ["val", "test"])
    def test_a_fraction_for_what_the_source_has(self, name: str) -> None:
        source = Documents(TEXTS, val=TEXTS, test=TEXTS)
        assert said(source=source, **{f"{name}_fraction": 0.1}) == (
            f"{name}_fraction (0.1) has no use, as the source has {name} text: set --data.{name}_fraction=null"
        )

    def test_no_test_text(self) -> None:
        assert said("test") == "there is no test text: give the source some, or set --data.test_fraction=0.1"

    def test_the_source_s_own_is_too_short(self) -> None:
        """A fraction would be of no use."""
        assert said(source=Documents(TEXTS, val=["short"])) == (
            "val: 7 tokens do not fill one block of max_seq_len (16): give more text, or set --data.max_seq_len=6"
        )

    def test_no_text(self) -> None:
        assert said(source=["", " "]) == "the train text has no document with any text in it"
        assert said(source=Documents(TEXTS, val=[])) == "the val text has no document with any text in it"

    def test_no_mask(self, tmp_path: Path) -> None:
        tokenizer = HuggingFaceTokenizer(str(gpt2_like(tmp_path)))
        assert said(tokenizer=tokenizer, masking=Masking()) == (
            "data.masking needs a tokenizer with a mask token, and this one has none: set it to null"
        )


def prompts_of(data: PackedText) -> list[tuple[list[int], str]]:
    """Tokens and places of the prompts, in the file's order."""
    prompts = ready(data, "predict").splits["predict"]
    assert isinstance(prompts, Prompts)
    batch = prompts.batch(range(len(prompts)), 0)
    rows = zip(batch["index"].tolist(), batch["input_ids"], batch["attention_mask"].bool(), strict=True)
    found = {index: ids[mask].tolist() for index, ids, mask in rows}
    return [(found[index], data.place(index)) for index in range(len(prompts))]


class TestPrompts:
    """What predict goes on with."""

    def test_inline(self) -> None:
        found = prompts_of(packed(prompts=["one", "", "three\nlines"]))
        assert found == [([256, *b"one"], "prompt 1"), ([256], "prompt 2"), ([256, *b"three\nlines"], "prompt 3")]

    def test_begin_as_documents_do(self, tmp_path: Path) -> None:
        tokenizer = HuggingFaceTokenizer(str(bert_like(tmp_path)))
        ((ids, _),) = prompts_of(packed(prompts=["the cat"], tokenizer=tokenizer))
        assert ids == [tokenizer.start_id, *tokenizer.encode(["the cat"])[0]]
        ((ids, _),) = prompts_of(packed(prompts=["the [MASK]"], tokenizer=tokenizer, masking=Masking()))
        assert ids == [tokenizer.start_id, *tokenizer.encode(["the"])[0], tokenizer.mask_id, tokenizer.end_id]

    @pytest.mark.parametrize("end", ["\n", "\r\n"])
    def test_lines(self, end: str, tmp_path: Path) -> None:
        path = tmp_path / "p.txt"
        path.write_bytes(end.join(["one", " two "]).encode())
        expected = [([256, *b"one"], f"{path}:1"), ([256, *b" two "], f"{path}:2")]
        assert prompts_of(packed(prompts=str(path))) == expected
        path.write_bytes(path.read_bytes() + end.encode())
        assert prompts_of(packed(prompts=str(path))) == expected
        path.write_bytes(end.join(["one", "", "two"]).encode())
        assert said("predict", prompts=str(path)) == f"{path}:2 is blank: every line of .txt is a prompt"

    def test_files_of_rows(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "p.csv").write_text("id,question\n7,who?\n8,why?\n")
        monkeypatch.setenv("HOME", str(tmp_path))
        data = packed(prompts="~/p.csv", prompt_column="question")
        assert prompts_of(data) == [([256, *b"who?"], f"{tmp_path}/p.csv:2"), ([256, *b"why?"], f"{tmp_path}/p.csv:3")]
        assert said("predict", prompts="p.csv") == "p.csv:2 has no column 'prompt', only id, question"

    def test_mistakes(self, tmp_path: Path) -> None:
        assert said("predict", prompts=[]) == "data.prompts ([]) must have at least one text, or be null"
        (tmp_path / "p.csv").write_text("prompt\n")
        assert said("predict", prompts="p.csv") == "data.prompts (p.csv) must have at least one text, or be null"
        for text in ("Once upon a time", "long " * 1000):
            found = said("predict", prompts=text)
            assert found.startswith(f"data.prompts ({text[:50]}")
            assert "must be a file, or texts within brackets: --data.prompts='[\"…\"]'" in found
            assert len(found) < 250
        (tmp_path / "m.jsonl").write_text('{"prompt": "a <mask>"}\n{"prompt": "b"}\n')
        assert said("predict", prompts="m.jsonl", masking=Masking()) == (
            "m.jsonl:2 has nothing to fill in: write <mask> in its place"
        )

    @pytest.mark.parametrize("own", [False, True])
    def test_held_out_documents_by_default(self, own: bool) -> None:
        """The first tokens of test, or else of validation."""
        data = packed(Documents(OF_ONE_LETTER, test=["0" * 50, "1", "2" * 3] if own else None), val_fraction=0.3)
        found = prompts_of(data)
        if own:
            assert [ids for ids, _ in found] == [[256, *b"0" * 7], [256, *b"1"], [256, *b"222"]]
        else:
            data.setup("fit")
            starts = blocks_of(data, "val").stream.starts
            stream = stream_of(data, "val")
            assert [ids for ids, _ in found] == [stream[start : start + 8] for start in starts]
        assert [place for _, place in found] == [f"document {number}" for number in range(1, len(found) + 1)]

    def test_a_fraction_for_test(self) -> None:
        data = packed(OF_ONE_LETTER, test_fraction=0.2)
        found = prompts_of(data)
        data.setup("test")
        starts, stream = blocks_of(data, "test").stream.starts, stream_of(data, "test")
        assert [ids[:2] for ids, _ in found] == [stream[start : start + 2] for start in starts]

    def test_masked_held_out_documents(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each has something to fill in, and only the seed says what."""
        made = []
        for seed in (1, 1, 2):
            monkeypatch.setenv("PL_GLOBAL_SEED", str(seed))
            data = packed(letters(400), masking=Masking(fraction=0.2), val_fraction=0.5)
            made.append([ids for ids, _ in prompts_of(data)])
        assert all(ids.count(257) >= 1 for ids in made[0] if len(ids) > 1)
        assert made[0] == made[1] != made[2]


class TestPredictions:
    """Rows of the prompts' file, with what was predicted."""

    def written(self, data: PackedText, directory: Path, **columns: list[Any]) -> list[dict[str, Any]]:
        paths = data.write_predictions(dict(columns), directory, "csv")
        assert paths == [directory / "predictions.jsonl"]
        return [json.loads(line) for line in paths[0].read_text(encoding="utf-8").splitlines()]

    def test_other_columns_are_kept_in_input_order(self, tmp_path: Path) -> None:
        rows = [{"id": 7, "prompt": "a"}, {"prompt": "longest"}, {"id": 9, "prompt": "abc", "tags": ["x"]}]
        (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        data = ready(packed(prompts="p.jsonl"), "predict")
        batches = [batch["index"] for batch in data.predict_dataloader()]
        assert torch.cat(batches).tolist() == [1, 2, 0], "the longest first"
        made = self.written(data, tmp_path, index=[0, 1, 2], completion=["0\n0", "1", "2"])
        nothing = {"id": None, "tags": None}
        assert made == [
            {**nothing, **row, "completion": text} for row, text in zip(rows, ["0\n0", "1", "2"], strict=True)
        ]
        assert list(made[0]) == ["id", "prompt", "tags", "completion"]

    def test_inline_and_own(self, tmp_path: Path) -> None:
        data = ready(packed(prompts=["ü", "b"]), "predict")
        assert self.written(data, tmp_path, index=[1, 0], completion=["1", "0"]) == [
            {"prompt": "b", "completion": "1"},
            {"prompt": "ü", "completion": "0"},
        ]
        data = ready(packed(Documents(TEXTS, test=["the cat", "x"]), prompt_column="begun"), "predict")
        assert self.written(data, tmp_path, index=[0, 1], completion=["1", "0"]) == [
            {"begun": "the cat", "completion": "1"},
            {"begun": "x", "completion": "0"},
        ]

    def test_a_column_of_the_same_name(self, tmp_path: Path) -> None:
        (tmp_path / "p.jsonl").write_text('{"prompt": "a", "completion": "old"}\n')
        data = ready(packed(prompts="p.jsonl"), "predict")
        with pytest.warns(UserWarning, match="the prompts' column completion is replaced by the prediction"):
            assert self.written(data, tmp_path, index=[0], completion=["new"]) == [{"prompt": "a", "completion": "new"}]

    def test_the_caller_s_columns_stay(self, tmp_path: Path) -> None:
        columns: dict[str, list[Any]] = {"index": [0], "completion": ["a"]}
        ready(packed(prompts=["a"]), "predict").write_predictions(columns, tmp_path, "jsonl")
        assert columns == {"index": [0], "completion": ["a"]}
