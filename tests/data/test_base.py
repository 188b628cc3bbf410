"""The order of rows under any number of processes, loaders that go on where they stood, and both under a Trainer."""

import csv
import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from toys import NumberData, Numbers, NumberTask, message, trainer

from lt_cli.data.base import BatchSampler, DataModule, Loader
from lt_cli.errors import UserError

SIZES = [(24, 4), (23, 4), (7, 3), (5, 1), (2, 8), (1, 1)]
"""Rows, and rows of a batch."""


def sampler(num_rows: int = 24, batch_size: int = 4, **options: Any) -> BatchSampler:
    defaults = {"shuffle": True, "even": True, "seed": 0, "rank": 0, "world_size": 1}
    return BatchSampler(num_rows=num_rows, batch_size=batch_size, **{**defaults, **options})


def ranks(world_size: int, *sizes: int, epoch: int = 0, start_row: int = 0, **options: Any) -> list[list[list[int]]]:
    """Batches of rows, by process."""
    found = []
    for rank in range(world_size):
        one = sampler(*sizes, rank=rank, world_size=world_size, **options)
        one.set_epoch(epoch)
        one.start_row = start_row
        keys = list(one)
        assert all(of == epoch for of, _ in keys)
        found.append([rows for _, rows in keys])
        assert len(one) == len(found[-1]) or start_row
    return found


def flat(batches: list[list[int]]) -> list[int]:
    return [row for rows in batches for row in rows]


def union(processes: list[list[list[int]]]) -> list[list[int]]:
    """The rows of each global batch, sorted."""
    steps = max(len(batches) for batches in processes)
    return [sorted(flat([batches[i] for batches in processes if i < len(batches)])) for i in range(steps)]


class TestBatchSampler:
    """Which rows come when, and to whom."""

    @pytest.mark.parametrize("shuffle", [False, True])
    @pytest.mark.parametrize("world_size", [1, 2, 3])
    @pytest.mark.parametrize("sizes", SIZES)
    def test_evaluation_has_every_row_once(self, sizes: tuple[int, int], world_size: int, shuffle: bool) -> None:
        rows = flat([flat(batches) for batches in ranks(world_size, *sizes, shuffle=shuffle, even=False)])
        assert sorted(rows) == list(range(sizes[0]))

    @pytest.mark.parametrize("shuffle", [False, True])
    @pytest.mark.parametrize("world_size", [1, 2, 3])
    @pytest.mark.parametrize("sizes", SIZES)
    def test_training_has_every_row_that_can_be_shared_out(
        self, sizes: tuple[int, int], world_size: int, shuffle: bool
    ) -> None:
        processes = ranks(world_size, *sizes, shuffle=shuffle)
        counts = Counter(flat([flat(batches) for batches in processes]))
        assert len(counts) == sizes[0] - sizes[0] % world_size
        assert set(counts.values()) <= {1}
        shapes = {tuple(len(rows) for rows in batches) for batches in processes}
        assert len(shapes) == 1, "all processes take equally many steps of equally many rows"
        assert all(0 < len(rows) <= sizes[1] for rows in flat(processes))

    def test_left_out_rows_change_from_epoch_to_epoch(self) -> None:
        left_out = [set(range(7)) - set(flat(flat(ranks(3, 7, 2, epoch=epoch)))) for epoch in range(20)]
        assert {len(rows) for rows in left_out} == {1}
        assert len(set().union(*left_out)) > 3

    def test_unshuffled_rows_come_in_their_order(self) -> None:
        assert ranks(1, 7, 3, shuffle=False) == [[[0, 1, 2], [3, 4, 5], [6]]]
        assert ranks(1, 7, 3, shuffle=False, epoch=5) == ranks(1, 7, 3, shuffle=False)
        assert ranks(2, 7, 2, shuffle=False, even=False) == [[[0, 1], [4, 5]], [[2, 3], [6]]]

    def test_the_order_is_a_function_of_seed_and_epoch(self) -> None:
        one = ranks(2, 24, 4, seed=3, epoch=2)
        torch.manual_seed(99)
        assert ranks(2, 24, 4, seed=3, epoch=2) == one
        orders = {tuple(flat(flat(ranks(1, 24, 4, seed=seed, epoch=epoch)))) for seed in range(3) for epoch in range(3)}
        assert len(orders) == 9
        assert tuple(range(24)) not in orders

    def test_a_later_epoch_does_not_depend_on_the_earlier_ones(self) -> None:
        walked = sampler()
        for epoch in range(3):
            walked.set_epoch(epoch)
            keys = list(walked)
        assert [[rows for _, rows in keys]] == ranks(1, 24, 4, epoch=2)

    @pytest.mark.parametrize("even", [False, True])
    @pytest.mark.parametrize("world_size", [1, 2, 3, 5])
    def test_the_order_is_what_it_was_in_earlier_versions(self, world_size: int, even: bool) -> None:
        """Runs that were begun with those go on: a permutation by torch, each global batch shared out by it."""
        order = torch.randperm(23, generator=torch.Generator().manual_seed(3 * 1_000_003 + 2))
        rest = order[4 : 23 - (23 - 4) % world_size if even else 23]
        shares = [rows.tensor_split(world_size) for rows in rest.split(3 * world_size)]
        expected = [[share[rank].tolist() for share in shares if len(share[rank])] for rank in range(world_size)]
        assert ranks(world_size, 23, 3, seed=3, epoch=2, start_row=4, even=even) == expected

    @pytest.mark.parametrize("even", [False, True])
    @pytest.mark.parametrize("world_size", [2, 3, 4])
    def test_processes_share_the_batches_of_one(self, world_size: int, even: bool) -> None:
        one = ranks(1, 24, 2 * world_size, even=even)
        assert union(ranks(world_size, 24, 2, even=even)) == union(one)

    @pytest.mark.parametrize("even", [False, True])
    @pytest.mark.parametrize("before", [1, 2, 3])
    @pytest.mark.parametrize("after", [1, 2, 3])
    @pytest.mark.parametrize("num_rows", [24, 23, 19])
    def test_another_number_of_processes_goes_on(self, num_rows: int, before: int, after: int, even: bool) -> None:
        steps, batch_size = 2, 3
        started = [batches[:steps] for batches in ranks(before, num_rows, batch_size, even=even)]
        done = flat(flat(started))
        rest = ranks(after, num_rows, batch_size, even=even, start_row=len(done))
        rows = done + flat(flat(rest))
        assert len(set(rows)) == len(rows)
        left_out = num_rows - len(rows)
        assert left_out == (num_rows - len(done)) % after if even else left_out == 0
        if even:
            assert len({tuple(len(batch) for batch in batches) for batches in rest}) == 1


def loader(num_rows: int = 22, batch_size: int = 4, num_workers: int = 0, **options: Any) -> Loader:
    return Loader(Numbers(num_rows), sampler(num_rows, batch_size, **options), num_workers=num_workers)


def rows_of(batches: Any) -> list[list[int]]:
    return [batch["index"].tolist() for batch in batches]


def epoch_of(one: Loader, epoch: int) -> list[list[int]]:
    one.sampler.set_epoch(epoch)
    return rows_of(one)


class TestLoader:
    """Batches, and where they stand."""

    @pytest.mark.parametrize("num_workers", [0, 2])
    def test_goes_on_in_the_middle(self, num_workers: int) -> None:
        expected = [epoch_of(loader(), epoch) for epoch in range(4)]
        one = loader(num_workers=num_workers)
        assert epoch_of(one, 0) == expected[0]
        one.sampler.set_epoch(1)
        batches = iter(one)
        assert rows_of(next(batches) for _ in range(3)) == expected[1][:3]
        state = one.state_dict()
        assert all(type(value) is int for value in state.values())
        resumed = loader(num_workers=num_workers)
        resumed.load_state_dict(state)
        assert resumed.state_dict() == state
        assert resumed.batches_done == 3
        assert epoch_of(resumed, 1) == expected[1][3:]
        assert epoch_of(resumed, 2) == expected[2]
        assert epoch_of(resumed, 3) == expected[3]
        assert rows_of(batches) == expected[1][3:], "the first one is none the wiser"

    @pytest.mark.parametrize("num_workers", [0, 2])
    def test_from_the_end_of_an_epoch_the_next_one_is_whole(self, num_workers: int) -> None:
        one = loader(num_workers=num_workers)
        epoch_of(one, 0)
        assert one.batches_done == len(one) == 6
        resumed = loader(num_workers=num_workers)
        resumed.load_state_dict(one.state_dict())
        assert epoch_of(resumed, 1) == epoch_of(loader(), 1)

    def test_a_state_of_another_epoch_skips_nothing(self) -> None:
        resumed = loader()
        resumed.load_state_dict({"epoch": 0, "rows": 8})
        assert epoch_of(resumed, 1) == epoch_of(loader(), 1)

    def test_an_epoch_broken_off_and_begun_again_is_whole(self) -> None:
        """As validation is, which the sanity check breaks off."""
        one = loader(shuffle=False, even=False)
        next(iter(one))
        assert rows_of(one) == rows_of(one) == rows_of(loader(shuffle=False, even=False))

    def test_a_state_is_used_once(self) -> None:
        resumed = loader()
        resumed.load_state_dict({"epoch": 0, "rows": 8})
        next(iter(resumed))
        assert rows_of(resumed) == rows_of(loader())

    def test_a_finished_epoch_that_comes_again_is_whole(self) -> None:
        resumed = loader()
        resumed.load_state_dict({"epoch": 0, "rows": 22})
        assert rows_of(resumed) == rows_of(loader())

    def test_another_batch_size_goes_on(self) -> None:
        one = loader(batch_size=4)
        batches = iter(one)
        done = rows_of(next(batches) for _ in range(3))
        resumed = loader(batch_size=8)
        resumed.load_state_dict(one.state_dict())
        assert (resumed.batches_done, len(resumed)) == (1, 3)
        rest = rows_of(resumed)
        assert [len(rows) for rows in rest] == [8, 2]
        assert flat(done) + flat(rest) == flat(rows_of(loader()))

    @pytest.mark.parametrize("num_workers", [0, 2])
    def test_a_split_gets_a_list_of_plain_numbers(self, num_workers: int) -> None:
        """So that a split of one's own may look rows up in lists, dicts and arrays."""
        named = Loader(Named(), sampler(8, 3), num_workers=num_workers)
        assert flat([batch["name"] for batch in named]) == [f"row {row}" for row in flat(ranks(1, 8, 3)[0])]

    @pytest.mark.parametrize("num_workers", [0, 2])
    def test_iterating_leaves_the_random_numbers_alone(self, num_workers: int) -> None:
        before = torch.get_rng_state()
        one = Loader(Still(), sampler(8, 2), num_workers=num_workers)
        assert len(list(one)) == 4
        assert torch.equal(torch.get_rng_state(), before)


class Still(Numbers):
    """Rows without anything random."""

    def __init__(self) -> None:
        super().__init__(8)

    def batch(self, rows: Any, epoch: int) -> Any:
        return {"index": torch.tensor(rows)}


class Named(Still):
    """Rows that are found by their number in what Python has for that."""

    names: ClassVar = {row: f"row {row}" for row in range(8)}

    def batch(self, rows: Any, epoch: int) -> Any:
        assert rows == [int(str(row)) for row in rows]
        return super().batch(rows, epoch) | {"name": [self.names[row] for row in rows]}


class TestUnderTrainer:
    """Lightning rebuilds what it knows; it must not know these."""

    def test_every_stage(self) -> None:
        task, data = NumberTask(), NumberData()
        run = trainer(max_epochs=2)
        run.fit(task, data)
        run.test(task, data, verbose=False)
        run.predict(task, data)
        in_order = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
        assert task.rows["train"] == epoch_of(data.train_dataloader(), 0) + epoch_of(data.train_dataloader(), 1)
        assert task.rows["val"] == in_order * 2
        assert task.rows["test"] == task.rows["predict"] == in_order

    def test_validation_after_the_sanity_check_is_whole(self) -> None:
        task = NumberTask()
        trainer(max_epochs=1, num_sanity_val_steps=2).fit(task, NumberData())
        assert [rows[0] for rows in task.rows["val"]] == [0, 4, 0, 4, 8]

    def test_limited_validation_within_an_epoch_always_has_the_same_rows(self) -> None:
        task = NumberTask()
        trainer(max_epochs=1, val_check_interval=2, limit_val_batches=2).fit(task, NumberData())
        assert [rows[0] for rows in task.rows["val"]] == [0, 4] * 3

    def test_limits(self) -> None:
        task, data = NumberTask(), NumberData()
        limits = {f"limit_{stage}_batches": 2 for stage in ("train", "val", "test", "predict")}
        run = trainer(max_epochs=2, **limits)
        run.fit(task, data)
        run.test(task, data, verbose=False)
        run.predict(task, data)
        first, second = (epoch_of(data.train_dataloader(), epoch) for epoch in (0, 1))
        assert task.rows["train"] == first[:2] + second[:2]
        assert task.rows["val"] == [[0, 1, 2, 3], [4, 5, 6, 7]] * 2
        assert task.rows["test"] == task.rows["predict"] == [[0, 1, 2, 3], [4, 5, 6, 7]]

    def test_overfitting_repeats_the_first_batches_in_order(self) -> None:
        task = NumberTask()
        run = trainer(max_epochs=3, overfit_batches=2)
        run.fit(task, NumberData())
        assert isinstance(run.train_dataloader, Loader)
        assert task.rows["train"] == [[0, 1, 2, 3], [4, 5, 6, 7]] * 3

    @pytest.mark.parametrize("world_size", [2, 3])
    def test_several_processes(self, world_size: int) -> None:
        """Training is even, evaluation complete."""
        found: dict[str, list[list[list[int]]]] = {"train": [], "val": []}
        for rank in range(world_size):
            data = NumberData(num_train=25, batch_size=2)
            strategy = SimpleNamespace(root_device=torch.device("cpu"))
            data.trainer = SimpleNamespace(
                global_rank=rank, world_size=world_size, overfit_batches=0, strategy=strategy
            )
            for name, batches in found.items():
                batches.append(rows_of(data.loader(name)))
        assert len({tuple(len(rows) for rows in batches) for batches in found["train"]}) == 1
        assert len(set(flat(flat(found["train"])))) == 24
        assert sorted(flat(flat(found["val"]))) == list(range(10))

    def test_the_run_s_seed_makes_the_order(self, monkeypatch: pytest.MonkeyPatch) -> None:
        orders = []
        for seed in ("1", "1", "2"):
            monkeypatch.setenv("PL_GLOBAL_SEED", seed)
            orders.append(rows_of(NumberData().train_dataloader()))
        assert orders[0] == orders[1]
        assert orders[0] != orders[2]


class TestDataModule:
    """What every datamodule says and writes."""

    def test_mistakes(self) -> None:
        with pytest.raises(UserError, match=r"batch_size \(0\) must be at least 1"):
            NumberData(batch_size=0)
        with pytest.raises(UserError, match=r"num_workers \(-1\) must not be negative"):
            NumberData(num_workers=-1)
        data = NumberData()
        del data.splits["test"]
        with pytest.raises(UserError, match=r"NumberData has no 'test' split; it has \['predict', 'train', 'val'\]"):
            data.test_dataloader()

    def test_description(self) -> None:
        assert NumberData(num_train=12_345).describe()[:2] == ["train: 12,345 rows", "val: 10 rows"]

    @pytest.mark.parametrize("format", ["csv", "jsonl"])
    def test_predictions(self, format: Any, tmp_path: Path) -> None:
        columns = {"index": [0, 1], "text": ['a "b", c', "ü\n"], "score": [0.5, 1.0]}
        (path,) = NumberData().write_predictions(columns, tmp_path, format)
        assert path == tmp_path / f"predictions.{format}"
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file)) if format == "csv" else [json.loads(line) for line in file]
        assert [row["text"] for row in rows] == columns["text"]
        assert [float(row["score"]) for row in rows] == columns["score"]
        assert [list(row) for row in rows] == [["index", "text", "score"]] * 2

    def test_columns_of_unequal_length_are_a_bug(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="shorter"):
            DataModule.write_predictions(NumberData(), {"index": [0, 1], "x": [1]}, tmp_path, "csv")


def test_fewer_rows_than_processes() -> None:
    data = NumberData(num_train=1)
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    data.trainer = SimpleNamespace(world_size=2, global_rank=1, strategy=strategy)
    said = message(lambda: data.loader("train"))
    assert said == "train has 1 rows, fewer than the 2 processes: use --trainer.devices=1"


@pytest.mark.parametrize(
    ("rows", "limit", "stands_still"),
    [(16, 1.0, False), (17, 1.0, True), (17, 2, False), (17, 3, True), (17, 1, False), (18, 1.0, False)],
)
def test_shards_without_a_batch_for_each(rows: int, limit: float, stands_still: bool) -> None:
    """Who has a batch more would gather weights that nobody sends; two processes, batches of 4."""
    data = NumberData(num_val=rows)
    strategy = ModelParallelStrategy()
    strategy._setup_distributed = lambda: None
    strategy.parallel_devices = [torch.device("cpu")] * 2
    strategy.cluster_environment = SimpleNamespace(local_rank=lambda: 1)
    data.trainer = SimpleNamespace(world_size=2, global_rank=1, strategy=strategy, limit_val_batches=limit)
    if stands_still:
        assert message(lambda: data.loader("val")) == (
            "val has 17 rows, so that the last batch has 1 for 2 processes, all of which must have one where they "
            "share out the weights: use another --data.batch_size"
        )
    else:
        assert len(data.loader("val")) >= 2
