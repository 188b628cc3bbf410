"""Text that is read while a run trains: who reads what, rows, places to go on from, memory; runs killed and resumed."""

import contextlib
import itertools
import json
import os
import pickle
import random
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pyarrow
import pyarrow.parquet
import pytest
import torch
import yaml
from contract_suite import Killed, assert_same_weights, dies_after, in_two_processes, only_run, weights
from lightning.pytorch import Callback
from texts import Documents, gpt2_like, letters, llama_like
from toys import message

from lt_cli.cli import run
from lt_cli.data.base import Batch, TextData
from lt_cli.data.blocks import Masking
from lt_cli.data.packed_text import PackedText
from lt_cli.data.stream_loader import StreamLoader
from lt_cli.data.streamed_text import StreamedText
from lt_cli.data.tokenizers import ByteTokenizer, HuggingFaceTokenizer

SIZES = (9, 4, 12, 7, 10)
"""Documents of each file."""
BUILDERS = {"jsonl": "json", "parquet": "parquet", "txt": "text"}
MODEL = {
    "class_path": "lt_cli.tasks.language_modeling.CausalLanguageModeling",
    "init_args": {
        "backbone": {
            "class_path": "lt_cli.backbones.gpt.GPT",
            "init_args": {
                **{"vocab_size": 258, "max_seq_len": 16, "embed_dim": 8, "num_heads": 2, "num_layers": 1},
                **{"dropout": 0.1, "start_token": False},
            },
        },
        "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.01}},
        "schedule": {"class_path": "lt_cli.optim.WarmupCosine", "init_args": {"warmup_steps": 2}},
    },
}
BYTES = {"class_path": "lt_cli.data.tokenizers.ByteTokenizer"}


def short(number: int) -> str:
    """A document of 7 bytes: with what begins it, a row of 8."""
    return f"<{number:05}>"


def write(texts: Sequence[str], kind: str = "jsonl", sizes: Sequence[int] = SIZES, folder: str = "text") -> str:
    """Texts in files of so many documents; returns their pattern."""
    Path(folder).mkdir(exist_ok=True)
    rest = iter(texts)
    for number, size in enumerate(sizes):
        path, some = Path(folder, f"{number:03}.{kind}"), list(itertools.islice(rest, size))
        if kind == "parquet":
            table = pyarrow.table({"text": some, "other": list(range(size))})
            pyarrow.parquet.write_table(table, path, row_group_size=3)
        else:
            lines = some if kind == "txt" else [json.dumps({"text": text, "other": 1}) for text in some]
            path.write_text("".join(f"{line}\n" for line in lines))
    assert not list(rest)
    return f"{folder}/*.{kind}"


class Processes:
    """Stands for trainers of several processes, which tell each other where they are."""

    def __init__(self, number: int = 1, **options: Any) -> None:
        self.said: dict[int, Any] = {}
        self.number, self.options = number, options

    def trainer(self, rank: int) -> Any:
        def broadcast(one: Any, src: int) -> Any:
            self.said[rank] = one
            return self.said.get(src)

        strategy = SimpleNamespace(broadcast=broadcast, root_device=torch.device("cpu"))
        sizes = {"max_steps": 10_000, "accumulate_grad_batches": 1, "limit_train_batches": 1.0}
        return SimpleNamespace(global_rank=rank, world_size=self.number, strategy=strategy, **sizes | self.options)

    def state(self, loaders: Sequence[StreamLoader]) -> dict[str, Any]:
        """What a checkpoint has of them, which holds plain types only."""
        states = [loader.state_dict() for _ in range(2) for loader in loaders]  # the second time, all have spoken
        assert all(state["places"] == states[-1]["places"] for state in states[len(loaders) :])
        state: dict[str, Any] = json.loads(json.dumps(states[-1]))
        return state


def streamed(rank: int = 0, processes: Processes | None = None, **options: Any) -> StreamedText:
    """The data as a trainer would set it up."""
    given = {"path": "json", "data_files": "text/*.jsonl", "tokenizer": ByteTokenizer(), "max_seq_len": 8}
    given |= {"batch_size": 1, "val_documents": 2, "test_documents": 2, "shuffle_buffer": 5}
    data = StreamedText(**given | options)
    data.trainer = (processes or Processes()).trainer(rank)
    data.prepare_data()
    data.setup("fit")
    return data


def loader_of(data: StreamedText) -> StreamLoader:
    loader = data.train_dataloader()
    assert isinstance(loader, StreamLoader)
    return loader


def loaders_of(processes: Processes, **options: Any) -> list[StreamLoader]:
    return [loader_of(streamed(rank, processes, **options)) for rank in range(processes.number)]


def taken(loader: StreamLoader, number: int) -> list[Batch]:
    return list(itertools.islice(iter(loader), number))


def numbers(batch: Batch) -> list[int]:
    """The documents of a batch whose rows are one document each."""
    texts = [ByteTokenizer().decode(row.tolist()) for row in batch["input_ids"]]
    found = [int(text[1:-1]) for text in texts]
    assert texts == [short(number) for number in found]
    return found


def passes(loader: StreamLoader, last: int) -> Iterator[tuple[int, int, int]]:
    """Reader, pass and number of each document, until all readers of a process are behind a pass."""
    readers = max(1, loader.readers.num_workers)
    rank = loader.readers.rank

    def now() -> list[int]:
        places = loader.state_dict()["places"]
        return [place["parts"][0]["number"] for place in (places[rank] or places[0])]

    before, turn = now(), loader.state_dict()["turn"]
    for batch in loader:
        (number,) = numbers(batch)
        reader = turn % readers
        yield rank * readers + reader, before[reader], number
        before, turn = now(), turn + 1
        if min(before) > last:
            return


class TestShares:
    """Who reads which documents."""

    @pytest.mark.parametrize("shuffle_buffer", [0, 5])
    @pytest.mark.parametrize(("processes", "num_workers"), [(1, 0), (2, 0), (3, 0), (1, 2), (2, 2), (3, 2)])
    def test_each_document_once_in_each_pass(self, processes: int, num_workers: int, shuffle_buffer: int) -> None:
        write([short(number) for number in range(sum(SIZES))])
        found = [
            place
            for loader in loaders_of(Processes(processes), num_workers=num_workers, shuffle_buffer=shuffle_buffer)
            for place in passes(loader, last=1)
        ]
        for number in (0, 1):
            documents = [document for _, in_pass, document in found if in_pass == number]
            assert sorted(documents) == list(range(4, sum(SIZES))), "but for those of test and validation"
        assert {reader for reader, *_ in found} == set(range(processes * max(1, num_workers)))
        found.sort(key=lambda place: place[:2])
        first, second = ([(r, document) for r, in_pass, document in found if in_pass == n] for n in (0, 1))
        assert (first == second) == (not shuffle_buffer)

    @pytest.mark.parametrize("kind", ["parquet", "txt"])
    def test_other_files(self, kind: str) -> None:
        write([short(number) for number in range(sum(SIZES))], kind)
        files = {"path": BUILDERS[kind], "data_files": f"text/*.{kind}"}
        for processes in (2, 7):
            found = [place for loader in loaders_of(Processes(processes), **files) for place in passes(loader, last=0)]
            documents = [document for _, number, document in found if number == 0]
            assert sorted(documents) == list(range(4, sum(SIZES)))

    def test_windows_are_shuffled_and_files_are(self) -> None:
        write([short(number) for number in range(40)], sizes=[20, 20])
        for seed in ("0", "1"):
            os.environ["PL_GLOBAL_SEED"] = seed
            order = [document for _, number, document in passes(loader_of(streamed()), last=3) if number < 3]
            for begin in range(0, 108, 36):
                some = order[begin : begin + 36]
                files = [document // 20 for document in some]
                assert len(list(itertools.groupby(files))) == 2
                assert some != sorted(some)
                windows = [document // 5 for document in some]
                assert len(list(itertools.groupby(windows))) == 8, "five that stand together come together"
        one, other = ([d for *_, d in passes(loader_of(streamed()), last=0)] for _ in range(2))
        assert one == other
        os.environ["PL_GLOBAL_SEED"] = "0"
        assert [d for *_, d in passes(loader_of(streamed()), last=0)] != one

    def test_held_out_text_never_comes(self) -> None:
        """Nor does the same text elsewhere, nor what has none."""
        texts = [short(number) for number in range(20)]
        write([*texts, *texts[:4], "", " \n", short(99)], sizes=[20, 7])
        found = Counter(document for _, number, document in passes(loader_of(streamed()), last=0) if number == 0)
        assert found == Counter([*range(4, 20), 99])

    def test_the_dataset_s_own_splits(self) -> None:
        write([short(number) for number in range(sum(SIZES))])
        write([f"validation {number}" for number in range(9)], sizes=[9], folder="val")
        files = {"train": "text/*.jsonl", "validation": "val/*.jsonl"}
        data = streamed(data_files=files, val_documents=3)
        assert data.splits["val"].stream.ids.tolist() == [  # type: ignore[attr-defined]
            *(256, *b"validation 0", 256, *b"validation 1", 256, *b"validation 2", 256)
        ]
        found = [document for _, number, document in passes(loader_of(data), last=0) if number == 0]
        assert sorted(found) == list(range(2, sum(SIZES))), "those of test are kept"
        data = streamed(data_files=files | {"test": "val/*.jsonl"})
        found = [document for _, number, document in passes(loader_of(data), last=0) if number == 0]
        assert sorted(found) == list(range(sum(SIZES)))

    def test_how_it_is_shared_out_is_said(self) -> None:
        write([short(number) for number in range(sum(SIZES))])
        lines = streamed().describe()
        assert lines[:2] == [
            "train: a stream of documents, shuffled 5 at a time; what follows is its beginning",
            "shards: 5, readers (processes and workers): 1",
        ]
        assert lines[2].startswith("train: 38 blocks of 8 tokens, 266 in 38 documents")
        assert lines[3].startswith("val: 2 blocks of 8 tokens")
        assert streamed(num_workers=2, shuffle_buffer=0).describe()[:2] == [
            "train: a stream of documents, in the files' order; what follows is its beginning",
            "shards: 5, readers (processes and workers): 2; who has 2 and not 3 begins the next pass earlier",
        ]
        assert streamed(processes=Processes(3), num_workers=2).describe()[1] == (
            "shards: 5, readers (processes and workers): 6; each reads all shards and takes its part of the documents"
        )


def slow_rows(documents: Sequence[Sequence[int]], length: int, start: int, end: int) -> Iterator[dict[str, list[int]]]:
    """Rows of documents again and again, a token at a time."""
    row: dict[str, list[int]] = {"input_ids": [], "labels": [], "position_ids": []}
    position, before = 0, None
    for document in itertools.cycle(documents):
        for token in (start, *document, *([end] if end != start else [])):
            if before is not None:
                row["labels"].append(token)
                if len(row["labels"]) == length:
                    yield row
                    row, position = {"input_ids": [], "labels": [], "position_ids": []}, 0
            if token == start:
                position = 0
            row["input_ids"].append(token)
            row["position_ids"].append(position)
            position, before = position + 1, token


class TestRows:
    """What training sees."""

    @pytest.mark.parametrize("separate", [False, True])
    @pytest.mark.parametrize("make", [None, gpt2_like, llama_like])
    @pytest.mark.parametrize(("length", "batch_size"), [(1, 1), (7, 3), (300, 2)])
    def test_they_are_those_of_a_plain_loop(
        self, length: int, batch_size: int, make: Any, separate: bool, tmp_path: Path
    ) -> None:
        texts = letters(80)
        write([*texts[:45], "", *texts[45:]], sizes=[46, 35])
        tokenizer = HuggingFaceTokenizer(str(make(tmp_path / "tokenizer"))) if make else ByteTokenizer()
        options = {"max_seq_len": length, "batch_size": batch_size, "separate_documents": separate}
        data = streamed(tokenizer=tokenizer, shuffle_buffer=0, **options, val_documents=29, test_documents=1)
        documents = [ids.tolist() for ids in tokenizer.encode(texts[30:])]
        expected = slow_rows(documents, length, tokenizer.start_id, tokenizer.end_id)
        for batch in taken(loader_of(data), 40):
            rows = list(itertools.islice(expected, batch_size))
            for name in ("input_ids", "labels", *(["position_ids"] if separate else [])):
                assert batch[name].tolist() == [row[name] for row in rows], name
            assert ("position_ids" in batch) == separate

    def test_they_are_packed_text_s(self) -> None:
        texts = letters(30)
        write(texts, sizes=[30])
        loader = loader_of(streamed(shuffle_buffer=0, batch_size=2))
        packed = PackedText(source=Documents(texts[4:], val=texts[:4]), tokenizer=ByteTokenizer(), max_seq_len=8)
        packed.setup("fit")
        blocks = packed.splits["train"]
        for number, batch in enumerate(taken(loader, (len(blocks) - 1) // 2)):
            other = blocks.batch([2 * number, 2 * number + 1], 0)
            assert batch.keys() == other.keys()
            assert all(torch.equal(batch[name], other[name]) for name in batch)

    def test_masks(self) -> None:
        write(letters(30), sizes=[30])
        options = {"masking": Masking(random=0, keep=0), "batch_size": 3, "shuffle_buffer": 0}
        masked, plain = (
            taken(loader_of(streamed(**options | other)), 40) for other in ({}, {"masking": None, "max_seq_len": 8})
        )
        for one, other in zip(masked, plain, strict=True):
            is_masked = one["labels"] != -100
            assert (is_masked.sum(1) == 1).all()
            assert torch.equal(torch.where(is_masked, one["labels"], one["input_ids"]), other["input_ids"])
        assert len({str(batch["labels"] != -100) for batch in masked}) > 30

    def test_the_first_page_reads_the_beginning_only(self, tmp_path: Path) -> None:
        write(letters(300), sizes=[300])
        Path("text/001.jsonl").write_text("{no json\n")
        data = streamed(shuffle_buffer=0, batch_size=4)
        sampler = data.loader("train").sampler
        sampler.set_epoch(0)
        epoch, rows = next(iter(sampler))
        batch = data.splits["train"].batch(rows, epoch)
        assert batch["input_ids"].shape == (4, 8)
        assert torch.equal(batch["input_ids"], taken(loader_of(data), 1)[0]["input_ids"])
        assert data.preview(batch, tmp_path)[0].startswith("a row begins: ")
        assert data.describe()
        said = message(lambda: taken(loader_of(data), 1000))
        assert said.startswith("the train text cannot be read on: JSON parse error")
        said = message(lambda: taken(loader_of(streamed(shuffle_buffer=0, num_workers=1)), 1000))
        assert said.startswith("the train text cannot be read on: JSON parse error")

    def test_what_a_task_asks(self) -> None:
        write(letters(40), sizes=[40])
        data = streamed(prompts=["a"])
        data.setup("predict")
        assert isinstance(data, TextData)
        assert (data.vocab_size, data.start_id, data.mask_id, data.max_seq_len) == (258, 256, None, 8)
        assert data.place(0) == "prompt 1"
        assert data.tokens_per_byte["train"] == pytest.approx(1.02, abs=0.1)


def same(one: list[Batch], other: list[Batch]) -> bool:
    pairs = list(zip(one, other, strict=True))
    return all(a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a) for a, b in pairs)


class TestResume:
    """From any batch on."""

    @pytest.mark.parametrize("shuffle_buffer", [0, 5, 1000])
    @pytest.mark.parametrize("batch_size", [1, 5])
    def test_after_any_batch(self, shuffle_buffer: int, batch_size: int) -> None:
        write(letters(40), sizes=[13, 13, 14])
        options = {"shuffle_buffer": shuffle_buffer, "batch_size": batch_size, "separate_documents": True}
        options |= {"max_seq_len": 21}
        processes = Processes()
        (loader,) = loaders_of(processes, **options)
        states, batches = [processes.state([loader])], []
        for batch in itertools.islice(iter(loader), 90):
            batches.append(batch)
            states.append(processes.state([loader]))
        assert states[-1]["places"][0][0]["parts"][0]["number"] > 0, "a pass was over"
        assert max(len(json.dumps(state)) for state in states) < 1000
        (other,) = loaders_of(Processes(), **options)
        for number, state in enumerate(states[:80]):
            other.load_state_dict(state)
            assert other.batches_done == number
            assert same(taken(other, 10), batches[number : number + 10])
        state, found = states[0], []
        while len(found) < 90:  # again and again
            other.load_state_dict(state)
            found += taken(other, 3)
            state = json.loads(json.dumps(other.state_dict()))
        assert same(found, batches)

    @pytest.mark.parametrize("processes", [1, 2])
    @pytest.mark.parametrize("shuffle_buffer", [0, 5])
    def test_of_workers(self, shuffle_buffer: int, processes: int) -> None:
        write(letters(40), sizes=[13, 13, 14])
        options = {"shuffle_buffer": shuffle_buffer, "num_workers": 2, "batch_size": 3}
        group = Processes(processes)
        loaders = loaders_of(group, **options)
        first = [iter(loader) for loader in loaders]
        for number in (1, 2, 4):
            for batches in first:
                list(itertools.islice(batches, number))
            state = group.state(loaders)
            expected = [taken(loader, 9) for loader in loaders]
            resumed = loaders_of(Processes(processes), **options)
            for loader, batches in zip(resumed, expected, strict=True):
                loader.load_state_dict(state)
                found = taken(loader, 9)
                for batch in [*found, *batches]:  # which began to count anew, where those above go on
                    del batch["index"]
                assert same(found, batches)
            first = [iter(loader) for loader in loaders]

    def test_an_epoch_goes_on_where_the_last_one_ended(self) -> None:
        write(letters(40), sizes=[40])
        whole = taken(loader_of(streamed()), 30)
        loader = loader_of(streamed(processes=Processes(max_steps=-1, limit_train_batches=10)))
        assert len(loader) == 10
        found = []
        for epoch in range(3):
            loader.sampler.set_epoch(epoch)
            found += list(loader)
        assert [b["input_ids"].tolist() for b in found] == [b["input_ids"].tolist() for b in whole]

    @pytest.mark.parametrize(
        ("before", "after"),
        [((1, 0), (3, 0)), ((2, 0), (1, 0)), ((3, 0), (2, 0)), ((1, 2), (1, 0)), ((2, 0), (5, 0)), ((7, 0), (2, 2))],
    )
    def test_other_readers(
        self, before: tuple[int, int], after: tuple[int, int], caplog: pytest.LogCaptureFixture
    ) -> None:
        """What is left of the pass is read once all the same, by whoever is there."""
        write([short(number) for number in range(sum(SIZES))])
        group = Processes(before[0])
        loaders = loaders_of(group, num_workers=before[1])
        first: list[int] = []
        for number, loader in enumerate(loaders):
            first += [document for batch in taken(loader, 1 + number % 3) for document in numbers(batch)]
        state = group.state(loaders)
        found = []
        with caplog.at_level("INFO"):
            for loader in loaders_of(Processes(after[0]), num_workers=after[1]):
                loader.load_state_dict(state)
                found += list(passes(loader, last=1))
        second = [document for _, number, document in found if number == 0]
        assert sorted([*first, *second]) == list(range(4, sum(SIZES)))
        assert len({reader for reader, number, _ in found if number == 0}) > 1 or after == (1, 0)
        assert sorted(document for _, number, document in found if number == 1) == list(range(4, sum(SIZES)))
        old, new = (processes * max(1, num_workers) for processes, num_workers in (before, after))
        assert caplog.text.count(f"resuming with {new} readers of the train text (was {old})") == after[0]

    def test_other_readers_again_and_again(self) -> None:
        write([short(number) for number in range(200)], sizes=[50, 30, 60, 60])
        group = Processes()
        loaders, found = loaders_of(group), []
        for processes in (3, 2, 7, 4, 1):
            for loader in loaders:
                found += itertools.islice(passes(loader, last=99), 5)
            state = group.state(loaders)
            group = Processes(processes)
            loaders = loaders_of(group)
            for loader in loaders:
                loader.load_state_dict(state)
        found += passes(loaders[0], last=0)
        assert sorted(document for _, number, document in found if number == 0) == list(range(4, 200))

    def test_one_worker_reads_as_the_process_itself(self, caplog: pytest.LogCaptureFixture) -> None:
        write(letters(40), sizes=[20, 20])
        processes = Processes()
        (loader,) = loaders_of(processes)
        taken(loader, 7)
        state = processes.state([loader])
        expected = taken(loader, 5)
        (other,) = loaders_of(Processes(), num_workers=1)
        other.load_state_dict(state)
        with caplog.at_level("INFO"):
            found = taken(other, 5)
        assert [b["input_ids"].tolist() for b in found] == [b["input_ids"].tolist() for b in expected]
        assert "resuming" not in caplog.text

    def test_another_window_begins_with_the_next_pass(self) -> None:
        write([short(number) for number in range(sum(SIZES))])
        processes = Processes()
        (loader,) = loaders_of(processes)
        first = [document for batch in taken(loader, 13) for document in numbers(batch)]
        state = processes.state([loader])
        for shuffle_buffer in (0, 3, 100):
            (other,) = loaders_of(Processes(), shuffle_buffer=shuffle_buffer)
            other.load_state_dict(state)
            found = list(passes(other, last=1))
            assert sorted([*first, *(d for _, n, d in found if n == 0)]) == list(range(4, sum(SIZES)))
            assert sorted(d for _, n, d in found if n == 1) == list(range(4, sum(SIZES)))

    def test_another_text_begins_at_its_beginning(self, caplog: pytest.LogCaptureFixture) -> None:
        write(letters(40), sizes=[20, 20])
        write(letters(40, seed=2), sizes=[20, 20], folder="other")
        processes = Processes()
        (loader,) = loaders_of(processes)
        taken(loader, 7)
        other = {"data_files": "other/*.jsonl"}
        expected = taken(loader_of(streamed(**other)), 5)
        for state in (processes.state([loader]), {"epoch": 0, "rows": 7}):
            (resumed,) = loaders_of(Processes(), **other)
            resumed.load_state_dict(state)
            with caplog.at_level("INFO"):
                found = taken(resumed, 5)
            assert [b["input_ids"].tolist() for b in found] == [b["input_ids"].tolist() for b in expected]
            assert resumed.batches_done == 12
            assert (
                "resuming with another train text than the checkpoint's: it is read from its beginning" in caplog.text
            )
            caplog.clear()

    def test_readers_travel(self) -> None:
        """To workers that are started and not forked, as on macOS."""
        write(letters(40), sizes=[20, 20])
        loader = loader_of(streamed())
        (_, batch), *_ = itertools.islice(pickle.loads(pickle.dumps(loader.readers)), 1)
        assert torch.equal(batch["input_ids"], taken(loader, 1)[0]["input_ids"])


def test_memory_does_not_grow_with_the_text() -> None:
    """All of it, in windows of 50 documents of 1,000 bytes, takes as much as a tenth, and half of its size."""
    texts = random.Random(0).choices("abcdefgh ", k=2_000_000)
    write(["".join(texts[begin : begin + 1000]) for begin in range(0, 2_000_000, 1000)], "parquet", sizes=[100] * 20)
    files = {"path": "parquet", "data_files": "text/*.parquet", "shuffle_buffer": 50, "max_seq_len": 100}
    loader = loader_of(streamed(**files, batch_size=10))
    batches = iter(loader)
    peaks = []
    tracemalloc.start()
    for _ in range(10):
        tracemalloc.reset_peak()
        for _ in range(190):
            next(batches)
        peaks.append(tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
    assert loader.state_dict()["places"][0][0]["parts"][0]["number"] == 0
    assert max(peaks) < 1_000_000
    assert max(peaks[5:]) < 1.1 * max(peaks[:5])


class TestMistakes:
    """Each in one line, with what to do."""

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ({"val_documents": 0}, "val_documents (0) must be at least 1"),
            ({"test_documents": -1}, "test_documents (-1) must be at least 1"),
            ({"shuffle_buffer": -1}, "shuffle_buffer (-1) must not be negative; 0 shuffles nothing"),
            ({"max_seq_len": 0}, "max_seq_len (0) must be at least 1"),
            ({"text_column": "txt"}, "text_column (txt) must be a column of json: text, other"),
            ({"text_column": "other"}, "text_column (other) must be text in every document, and has 1"),
            (
                {"val_split": "train"},
                "val_split (train) is what is trained on: set --data.val_split=null, which keeps documents of it from "
                "training",
            ),
            (
                {"val_documents": 100},
                "test_documents (2) and val_documents (100) are kept of the train text, which has only 42 documents: "
                "set --data.val_documents lower",
            ),
            (
                {"val_documents": 40},
                "the train text has nothing to train on beside the 42 documents that are kept for validation and test: "
                "set --data.val_documents lower",
            ),
            ({"max_seq_len": 10_000}, "train: 305 tokens do not fill one block of max_seq_len (10000): give more text"),
        ],
    )
    def test_options(self, options: dict[str, Any], expected: str) -> None:
        write([short(number) for number in range(sum(SIZES))])
        said = message(lambda: streamed(**options))
        assert said.startswith(expected)
        assert len(said.splitlines()) == 1

    def test_no_files(self) -> None:
        said = message(lambda: streamed(data_files="none/*.jsonl"))
        assert "data_files (none/*.jsonl) names no file, or first an empty one" in said

    def test_a_reader_without_text(self) -> None:
        write([short(0), short(1), short(2), short(3), short(4)], sizes=[4, 1])
        said = message(lambda: taken(loader_of(streamed(num_workers=2, shuffle_buffer=0)), 9))
        assert said.startswith("reader 1 of 2 finds no document with text to train on: use fewer --data.num_workers")

    @pytest.mark.parametrize("option", ["overfit_batches", "reload_dataloaders_every_n_epochs"])
    def test_what_begins_anew(self, option: str) -> None:
        write([short(number) for number in range(sum(SIZES))])
        data = streamed(processes=Processes(**{option: 2}))
        assert message(data.train_dataloader) == (
            f"--trainer.{option} (2) has no meaning for a stream, which never begins anew: set it to 0"
        )

    def test_no_end(self) -> None:
        write([short(number) for number in range(sum(SIZES))])
        assert message(streamed(processes=Processes(max_steps=-1)).train_dataloader) == (
            "the text is a stream, which has no end, and the run must have one: set --trainer.max_steps=10000, or "
            "--trainer.limit_train_batches=1000, which are an epoch then"
        )


def experiment(**options: Any) -> str:
    """A config, and the text that it reads."""
    if not Path("text").exists():
        write([short(number) for number in range(200)], sizes=[50, 40, 60, 50])
    files = {"path": "json", "data_files": "text/*.jsonl", "tokenizer": BYTES, "shuffle_buffer": 7}
    sizes = {"val_documents": 8, "test_documents": 5, "max_seq_len": 8, "batch_size": 4}
    steps = {"max_steps": 6, "accumulate_grad_batches": 2, "val_check_interval": 4, "log_every_n_steps": 2}
    quiet = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
    data = {"class_path": "lt_cli.data.streamed_text.StreamedText", "init_args": files | sizes}
    config = {"seed_everything": 3, "model": MODEL, "data": data, "trainer": steps | quiet | options}
    Path("stream.yaml").write_text(yaml.safe_dump(config))
    return "stream.yaml"


EVERY_STEP = ["--checkpoints.every_minutes=0"]


class TestRuns:
    """From the command line."""

    @pytest.mark.parametrize(
        ("options", "step"),
        [
            ([], 4),
            (["--data.num_workers=2"], 3),
            (["--data.shuffle_buffer=0", "--data.separate_documents=true"], 5),
            (["--trainer.limit_train_batches=4", "--trainer.max_steps=-1", "--trainer.max_epochs=3"], 3),
            (["--trainer.limit_train_batches=4", "--trainer.val_check_interval=1.0"], 5),
        ],
    )
    def test_killed_and_resumed(self, options: list[str], step: int) -> None:
        """Bit for bit."""
        fit = ["fit", f"--config={experiment()}", *EVERY_STEP, *options]
        run([*fit, "--trainer.default_root_dir=whole"])
        with pytest.raises(Killed), dies_after(step):
            run([*fit, "--trainer.default_root_dir=killed"])
        last = only_run("stream", "killed") / "checkpoints" / "last.ckpt"
        run([*fit, "--trainer.default_root_dir=killed", "--ckpt_path=last"])
        whole = only_run("stream", "whole") / "checkpoints" / "last.ckpt"
        assert_same_weights(weights(last), weights(whole))

    @pytest.mark.parametrize(("interval", "number"), [(0.25, 4), (3, 4), (1.0, 1)])
    def test_validation_at_intervals(self, interval: float, number: int) -> None:
        cli = run(["fit", f"--config={experiment(val_check_interval=interval)}"])
        assert cli.trainer.global_step == 6
        rows = Path(only_run("stream"), "metrics.csv").read_text().splitlines()
        column = rows[0].split(",").index("val/loss")
        assert sum(bool(row.split(",")[column]) for row in rows[1:]) == number

    def test_a_longer_run_goes_on(self) -> None:
        config = experiment()
        run(["fit", f"--config={config}", *DOCUMENTED])
        run(["fit", f"--config={config}", "--ckpt_path=last", "--trainer.max_steps=9", *DOCUMENTED])
        assert len(Documented.seen) == len(set(Documented.seen)) == 9 * 2 * 4
        Documented.seen.clear()


class Documented(Callback):
    """Remembers the documents that were trained on."""

    seen: ClassVar[list[int]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int) -> None:
        self.seen.extend(numbers(batch))


DOCUMENTED = ["--trainer.callbacks=data.test_streamed_text.Documented"]


def test_two_processes(tmp_path: Path) -> None:
    """Share the text out, go on after a kill bit for bit, and evaluate as one does."""
    root = in_two_processes("data/test_streamed_text.py", tmp_path)
    seen = [json.loads((root / f"seen{rank}.json").read_text()) for rank in (0, 1)]
    assert [len(documents) for documents in seen] == [2 * 6 * 2 * 4] * 2
    for documents in seen:
        assert documents[:48] == documents[48:], "those of the whole run, and of the one that was killed"
    assert len({*seen[0], *seen[1]}) == 2 * 48, "no document comes twice"
    lasts = [only_run("stream", root / name) / "checkpoints" / "last.ckpt" for name in ("whole", "killed")]
    assert_same_weights(weights(lasts[0]), weights(lasts[1]))
    os.chdir(root)
    alone = run(["validate", f"--ckpt_path={lasts[0]}", "--trainer.accelerator=cpu"]).trainer.callback_metrics
    together = json.loads((root / "scores.json").read_text())
    assert together == pytest.approx({name: value.item() for name, value in alone.items()}, rel=1e-6)


def main(root: Path) -> None:
    """One of two processes."""
    os.chdir(root)
    rank = int(os.environ["RANK"])
    if rank == 0:
        experiment()
    while not Path("stream.yaml").exists():
        time.sleep(0.01)
    ddp = ["--trainer.devices=2", "--trainer.strategy=ddp"]
    fit = ["fit", "--config=stream.yaml", *EVERY_STEP, *DOCUMENTED, *ddp]
    run([*fit, "--trainer.default_root_dir=whole"])
    with contextlib.suppress(Killed), dies_after(4):
        run([*fit, "--trainer.default_root_dir=killed"])
    torch.distributed.barrier()
    run([*fit, "--trainer.default_root_dir=killed", "--ckpt_path=last"])
    module = sys.modules["data.test_streamed_text"]  # where the command line found the callback, and not __main__
    Path(f"seen{rank}.json").write_text(json.dumps(module.Documented.seen))
    last = only_run("stream", "whole") / "checkpoints" / "last.ckpt"
    scores = run(["validate", f"--ckpt_path={last}", *ddp, "--trainer.accelerator=cpu"]).trainer.callback_metrics
    if rank == 0:
        Path("scores.json").write_text(json.dumps({name: value.item() for name, value in scores.items()}))
    torch.distributed.barrier()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    main(Path(sys.argv[1]))
    sys.stdout.flush()
    os._exit(0)  # several groups were opened, and gloo's threads may abort the interpreter while it closes
