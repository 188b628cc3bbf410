"""Batches of rows of about one length: who gets what, how much is padding, and going on in the middle of an epoch."""

import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from toys import Line, NumberData, Numbers, NumberTask, message, trainer

from lt_cli.callbacks.exact_resume import ExactResume
from lt_cli.data.base import BatchSampler, Loader
from lt_cli.data.buckets import LengthSampler, padded_lengths

LONGEST = 300
LENGTHS = st.lists(st.one_of(st.integers(0, 40), st.integers(0, LONGEST)), max_size=60)
WORLD = st.integers(1, 4)
SETTINGS = st.tuples(st.integers(1, 9), st.one_of(st.none(), st.integers(320, 1500)), WORLD)
"""Rows of a batch, its tokens, and processes."""


def sampler(lengths: Any, batch_size: int = 4, tokens: int | None = None, world_size: int = 1, **options: Any) -> Any:
    defaults = {"shuffle": True, "even": True, "seed": 0, "rank": 0}
    return LengthSampler(
        lengths=np.array(lengths, dtype=np.int64),
        batch_size=batch_size,
        tokens_per_batch=tokens,
        world_size=world_size,
        **{**defaults, **options},
    )


def processes(lengths: Any, how: tuple[int, int | None, int], epoch: int = 0, state: Any = None, **options: Any) -> Any:
    """Batches of rows, by process."""
    found = []
    for rank in range(how[2]):
        one = sampler(lengths, *how, rank=rank, **options)
        one.set_epoch(epoch)
        one.begin(state)
        keys = list(one)
        assert all(of == epoch for of, _ in keys)
        found.append([rows for _, rows in keys])
        if state is None:
            assert len(one) == len(found[-1])
        else:
            assert one.batches_left(state) == len(found[-1]) or len(found[-1]) == len(one)
    return found


def flat(batches: Any) -> list[Any]:
    return [row for rows in batches for row in rows]


def together(shares: list[list[list[int]]]) -> list[list[int]]:
    """The rows of each global batch, one process after the other."""
    steps = max(len(batches) for batches in shares)
    return [flat(batches[i] for batches in shares if i < len(batches)) for i in range(steps)]


def slow_width(length: int) -> int:
    width = 8
    while width < length:
        width += 8 if width < 128 else 2 ** (len(bin(width)) - 3) // 8
    return width


def slow_widths(lengths: Any, how: tuple[int, int | None, int], *, even: bool) -> list[tuple[int, ...]]:
    """The widths of the rows of each global batch, the longest first, a row at a time."""
    batch_size, tokens, world_size = how
    widths = sorted((slow_width(length) for length in lengths), reverse=True)
    for _ in range(len(widths) % world_size if even else 0):
        if widths:
            original = Counter(map(slow_width, lengths))
            left = Counter(widths)
            widths.remove(max(left, key=lambda width: (original[width], width)))
    batches: list[list[int]] = []
    for width in widths:
        most = min(batch_size, tokens // batches[-1][0] if tokens and batches else batch_size)
        if not batches or len(batches[-1]) >= most * world_size:
            batches.append([])
        batches[-1].append(width)
    return [tuple(batch) for batch in batches]


@given(st.integers(0, 100_000))
def test_widths(length: int) -> None:
    (width,) = padded_lengths([length]).tolist()
    assert width == slow_width(length)
    assert length <= width <= max(8, length + 7, 1.125 * length)


class TestTraining:
    """Even among processes, in another order each epoch."""

    @given(lengths=LENGTHS, how=SETTINGS, seed=st.integers(0, 3))
    @settings(deadline=None, max_examples=150)
    @example(lengths=[8, 16, 24], how=(2, None, 4), seed=0)
    def test_against_a_slow_reference(self, lengths: list[int], how: tuple[int, int | None, int], seed: int) -> None:
        batch_size, tokens, world_size = how
        expected = Counter(slow_widths(lengths, how, even=True))
        for epoch in range(3):
            shares = processes(lengths, how, epoch, seed=seed)
            assert len({tuple(map(len, batches)) for batches in shares}) == 1, "equally many steps of equally many rows"
            rows = flat(map(flat, shares))
            assert len(set(rows)) == len(rows) == len(lengths) - len(lengths) % world_size
            for batch in flat(shares):
                assert 0 < len(batch) <= batch_size
                if tokens is not None:
                    assert len(batch) * max(slow_width(lengths[row]) for row in batch) <= tokens
            widths = [tuple(slow_width(lengths[row]) for row in batch) for batch in together(shares)]
            assert Counter(widths) == expected, "the same sequence of buckets in every epoch, thus equally many batches"

    def test_left_out_rows_are_of_the_bucket_with_most_and_change(self) -> None:
        lengths = [5] * 4 + [20] * 9 + [50] * 2
        left_out = [
            set(range(15)) - set(flat(map(flat, processes(lengths, (2, None, 4), epoch)))) for epoch in range(40)
        ]
        assert {len(rows) for rows in left_out} == {3}
        assert set().union(*left_out) == set(range(4, 13))

    def test_the_order_is_a_function_of_seed_and_epoch(self) -> None:
        lengths = np.arange(90) % 60
        how = (3, None, 2)
        orders = {
            str(processes(lengths, how, epoch, seed=seed)[0]): (seed, epoch) for seed in range(3) for epoch in range(3)
        }
        assert len(orders) == 9
        torch.manual_seed(99)
        np.random.seed(99)
        walked = sampler(lengths, *how, seed=1)
        for epoch in range(3):
            walked.set_epoch(epoch)
            batches = [rows for _, rows in walked]
        assert orders[str(batches)] == (1, 2), "whatever came before"

    def test_batches_come_in_no_order_of_length(self) -> None:
        lengths = np.arange(1, 401)
        (batches,) = processes(lengths, (4, None, 1))
        longest = [max(lengths[rows]) for rows in batches]
        assert abs(np.corrcoef(longest, range(100))[0, 1]) < 0.3

    @given(lengths=LENGTHS, batch_size=st.integers(1, 4), world_size=WORLD, epoch=st.integers(0, 3))
    @settings(deadline=None, max_examples=60)
    def test_processes_share_the_batches_of_one(
        self, lengths: list[int], batch_size: int, world_size: int, epoch: int
    ) -> None:
        lengths = lengths[: len(lengths) // world_size * world_size]
        (one,) = processes(lengths, (batch_size * world_size, None, 1), epoch)
        assert together(processes(lengths, (batch_size, None, world_size), epoch)) == one

    def test_what_is_padding(self) -> None:
        lengths = np.random.default_rng(0).lognormal(4, 1, 5000).astype(np.int64) + 1

        def padded(batches: Any) -> float:
            return sum(len(rows) * lengths[rows].max() for _, rows in batches) / lengths.sum()

        plain = BatchSampler(num_rows=5000, batch_size=32, shuffle=True, even=True, seed=0, rank=0, world_size=1)
        assert padded(plain) > 2
        assert padded(sampler(lengths, 32)) < 1.15
        assert padded(sampler(lengths, tokens=8192)) < 1.15

    def test_planning_is_quick_and_done_once(self) -> None:
        lengths = np.random.default_rng(0).lognormal(4, 1, 70_000).astype(np.int64) + 1
        one = sampler(lengths, tokens=16_384)
        took = []
        for epoch in range(3):
            one.set_epoch(epoch)
            start = time.perf_counter()
            state = one.begin(None)
            next(iter(one))
            took.append(time.perf_counter() - start)
        assert min(took) < 0.1
        start = time.perf_counter()
        for _ in range(100):
            state = one.after(state)
            assert len(one) > 100
        assert time.perf_counter() - start < 0.1, "a batch costs nothing to speak of"


class TestEvaluation:
    """Complete, and always in the same order."""

    @given(lengths=LENGTHS, how=SETTINGS)
    @settings(deadline=None, max_examples=100)
    def test_against_a_slow_reference(self, lengths: list[int], how: tuple[int, int | None, int]) -> None:
        shares = processes(lengths, how, shuffle=False, even=False)
        assert sorted(flat(map(flat, shares))) == list(range(len(lengths)))
        batches = together(shares)
        widths = [tuple(slow_width(lengths[row]) for row in batch) for batch in batches]
        expected = slow_widths(lengths, how, even=False)
        assert Counter(widths) == Counter(expected)
        assert widths[-1:] == expected[-1:], "what is left over comes last"
        assert all(len(batch) % how[2] == 0 for batch in batches[:-1])
        assert processes(lengths, how, epoch=1, shuffle=False, even=False) == shares
        one = sampler(lengths, *how, shuffle=False, even=False)
        assert one.global_batches == len(batches)
        assert one.shared_batches == min(map(len, shares))

    def test_rows_of_one_bucket_come_in_their_order(self) -> None:
        found = processes([3, 9, 2, 1, 12], (2, None, 1), shuffle=False, even=False)[0]
        assert (sorted(found[:2]), found[2]) == ([[0, 2], [1, 4]], [3])

    def test_some_of_the_batches_are_a_fair_sample(self) -> None:
        lengths = np.arange(1, 401)
        batches = processes(lengths, (4, None, 1), shuffle=False, even=False)[0]
        assert abs(np.mean(lengths[flat(batches[:50])]) / 200 - 1) < 0.15


def stand(lengths: Any, how: tuple[int, int | None, int], epoch: int, state: Any, steps: int, **options: Any) -> Any:
    """The rows that some steps hand out, and where they end."""
    shares = processes(lengths, how, epoch, state, **options)
    one = sampler(lengths, *how, **options)
    one.set_epoch(epoch)
    state = one.begin(state)
    batches = together(shares)[:steps]
    for batch in batches:
        before = state["rows"]
        state = one.after(state)
        assert state["rows"] == before + len(batch)
    return flat(batches), state


class TestResuming:
    """Wherever an epoch was left, whatever is otherwise."""

    @given(lengths=LENGTHS, how=SETTINGS, epoch=st.integers(0, 2), even=st.booleans())
    @settings(deadline=None, max_examples=40)
    def test_with_the_same_settings(
        self, lengths: list[int], how: tuple[int, int | None, int], epoch: int, even: bool
    ) -> None:
        options = {"even": even, "shuffle": even}
        whole = together(processes(lengths, how, epoch, **options))
        for done in range(1, len(whole)):
            rows, state = stand(lengths, how, epoch, None, done, **options)
            assert rows == flat(whole[:done])
            assert together(processes(lengths, how, epoch, state, **options)) == whole[done:]

    @given(
        lengths=LENGTHS.filter(lambda lengths: len(lengths) > 4),
        sessions=st.lists(st.tuples(SETTINGS, st.integers(0, 6), st.integers(0, 1)), min_size=2, max_size=4),
        epoch=st.integers(0, 2),
        even=st.booleans(),
    )
    @settings(deadline=None, max_examples=150)
    def test_with_other_settings(self, lengths: list[int], sessions: Any, epoch: int, even: bool) -> None:
        """Other batches, budgets, processes and seeds, several times in one epoch: no row is lost or comes twice."""
        handed_out: list[int] = []
        state = None
        for how, steps, seed in sessions:
            left = len(lengths) - len(handed_out)
            if not (left - left % how[2] if even else left):
                return  # this epoch is over
            options = {"even": even, "shuffle": even, "seed": seed}
            shares = processes(lengths, how, epoch, state, **options)
            if even:
                assert len({tuple(map(len, batches)) for batches in shares}) == 1
            for batch in flat(shares):
                width = max(slow_width(lengths[row]) for row in batch)
                assert len(batch) <= how[0] if how[1] is None else len(batch) * width <= how[1]
            rest = flat(map(flat, shares))
            assert len(set(handed_out + rest)) == len(handed_out) + len(rest)
            assert len(rest) == (left - left % how[2] if even else left)
            rows, state = stand(lengths, how, epoch, state, steps, **options)
            handed_out += rows
        assert state["rows"] == len(handed_out)

    @pytest.mark.parametrize("done", [1, 4, 7])
    def test_other_processes_go_on_with_the_same_batches(self, done: int) -> None:
        lengths = np.random.default_rng(1).integers(1, 200, 60)
        (whole,) = processes(lengths, (6, None, 1))
        _, state = stand(lengths, (6, None, 1), 0, None, done)
        assert together(processes(lengths, (2, None, 3), 0, state)) == whole[done:]
        _, state = stand(lengths, (3, None, 2), 0, state, 1)
        assert together(processes(lengths, (6, None, 1), 0, state)) == whole[done + 1 :]

    @pytest.mark.parametrize("shuffle", [True, False])
    @pytest.mark.parametrize("done", range(0, 36, 3))
    def test_from_before_rows_had_lengths(self, done: int, shuffle: bool) -> None:
        """States that say how many rows came in the order of a BatchSampler."""
        lengths = np.random.default_rng(1).integers(1, 200, 40)
        options = {"num_rows": 40, "shuffle": shuffle, "even": True, "seed": 0, "rank": 0, "world_size": 1}
        plain = BatchSampler(batch_size=1, **options)
        plain.set_epoch(2)
        before = [rows[0] for _, rows in plain][:done]
        state = {"epoch": 2, "rows": done}
        rest = flat(map(flat, processes(lengths, (4, None, 2), 2, state, shuffle=shuffle)))
        assert len(rest) == 40 - done - done % 2
        assert len(set(before + rest)) == len(before) + len(rest)
        rows, state = stand(lengths, (4, None, 1), 2, state, 1, shuffle=shuffle)
        rest = flat(map(flat, processes(lengths, (3, None, 1), 2, state, shuffle=shuffle)))
        assert sorted(before + rows + rest) == list(range(40))


class Sequences(NumberData):
    """Numbers of some length."""

    def __init__(self, tokens: int | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.tokens_per_batch = tokens

    def lengths(self, name: Any) -> Any:
        return np.arange(len(self.splits[name]), dtype=np.int64) * 37 % 90


def loader(how: tuple[int, int | None, int] = (4, None, 1), num_rows: int = 22, num_workers: int = 0) -> Loader:
    lengths = np.arange(num_rows) * 37 % 90
    return Loader(Numbers(num_rows), sampler(lengths, *how), num_workers=num_workers)


def epoch_of(one: Loader, epoch: int) -> list[list[int]]:
    one.sampler.set_epoch(epoch)
    return [batch["index"].tolist() for batch in one]


class TestLoader:
    """Batches, and where they stand."""

    @pytest.mark.parametrize("num_workers", [0, 2])
    @pytest.mark.parametrize("how", [(4, None, 1), (4, 200, 1)])
    def test_goes_on_in_the_middle(self, how: Any, num_workers: int) -> None:
        expected = [epoch_of(loader(how), epoch) for epoch in range(3)]
        one = loader(how, num_workers=num_workers)
        assert epoch_of(one, 0) == expected[0]
        assert one.batches_done == len(one) == len(expected[0]) == len(expected[1])
        one.sampler.set_epoch(1)
        batches = iter(one)
        assert [next(batches)["index"].tolist() for _ in range(3)] == expected[1][:3]
        state = one.state_dict()
        resumed = loader(how, num_workers=num_workers)
        resumed.load_state_dict(state)
        assert resumed.state_dict() == state
        assert resumed.batches_done == 3
        assert epoch_of(resumed, 1) == expected[1][3:]
        assert epoch_of(resumed, 2) == expected[2]
        assert [batch["index"].tolist() for batch in batches] == expected[1][3:], "the first one is none the wiser"

    def test_a_state_is_plain_and_loads_without_code(self, tmp_path: Path) -> None:
        one = loader()
        next(iter(one))
        torch.save(one.state_dict(), tmp_path / "state")
        assert torch.load(tmp_path / "state", weights_only=True) == one.state_dict()

    def test_other_settings_go_on(self) -> None:
        one = loader((4, None, 1))
        batches = iter(one)
        done = flat(next(batches)["index"].tolist() for _ in range(3))
        resumed = loader((2, 100, 1))
        resumed.load_state_dict(one.state_dict())
        left = len(resumed) - resumed.batches_done
        rest = epoch_of(resumed, 0)
        assert len(rest) == left
        assert sorted(done + flat(rest)) == list(range(22))
        assert epoch_of(resumed, 1) == epoch_of(loader((2, 100, 1)), 1)

    @pytest.mark.parametrize("state", [{"epoch": 0, "rows": 8}, {"epoch": 1, "rows": 22}])
    def test_a_state_of_another_epoch_or_of_its_end_skips_nothing(self, state: Any) -> None:
        resumed = loader()
        resumed.load_state_dict(state)
        assert epoch_of(resumed, 1) == epoch_of(loader(), 1)

    def test_a_state_is_used_once(self) -> None:
        one = loader()
        next(iter(one))
        one.load_state_dict(one.state_dict())
        next(iter(one))
        assert epoch_of(one, 0) == epoch_of(loader(), 0)

    def test_no_rows(self) -> None:
        one = loader(num_rows=0)
        assert (len(one), epoch_of(one, 0), one.batches_done) == (0, [], 0)


class Save(Callback):
    """Saves after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint("half.ckpt")


class Straight(Line):
    """Without the norm, which cannot do with a row alone."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.Identity()


def fit(data: NumberData, *callbacks: Any, ckpt_path: str | None = None, **options: Any) -> NumberTask:
    task = NumberTask(Straight())
    trainer(ExactResume(), *callbacks, **{"max_epochs": 3, **options}).fit(task, data, ckpt_path=ckpt_path)
    return task


class TestUnderTrainer:
    """Lightning counts the batches once, and must come to the same number."""

    @pytest.mark.parametrize("step", [1, 7, 12, 13])
    @pytest.mark.parametrize("tokens", [None, 250])
    def test_resumes(self, step: int, tokens: int | None) -> None:
        whole = fit(Sequences(tokens), Save(step))
        assert [len(set(flat(whole.rows["train"])))] == [24]
        assert len(flat(whole.rows["train"])) == 3 * 24
        resumed = fit(Sequences(tokens), ckpt_path="half.ckpt")
        assert resumed.rows["train"] == whole.rows["train"][step:]
        assert resumed.losses["train"] == whole.losses["train"][step:]

    @pytest.mark.parametrize("after", [{"tokens": 128}, {"tokens": 400}, {"batch_size": 1}, {"batch_size": 9}])
    @pytest.mark.parametrize("step", [1, 5, 8])
    def test_resumes_with_other_batches(self, step: int, after: Any) -> None:
        whole = fit(Sequences(200), Save(step))
        resumed = fit(Sequences(**after), ckpt_path="half.ckpt")
        rows = flat(whole.rows["train"][:step] + resumed.rows["train"])
        assert set(Counter(rows).values()) == {3}
        assert resumed.rows["train"][-len(Sequences(**after).train_dataloader()) :] == epoch_of(
            Sequences(**after).train_dataloader(), 2
        )

    def test_what_is_left_can_be_a_batch_more_than_an_epoch(self) -> None:
        """A short row came alone, and a longer one is what two processes cannot share: Lightning counts from -1."""
        lengths = [100, 8, 100, 200, 8, 40, 40, 200, 100, 40, 200, 200, 8, 200, 8, 100, 200, 40, 100, 40, 200, 40, 100]

        class Shared(NumberData):
            """What the first of some processes gets."""

            how: Any = (1, None, 1)

            def train_dataloader(self) -> Loader:
                return Loader(self.splits["train"], sampler(lengths, *self.how))

        fit(Shared(num_train=23), Save(1))
        data = Shared(num_train=23)
        data.how = (30, 362, 2)
        loader = data.train_dataloader()
        (state,) = torch.load("half.ckpt")["loops"]["fit_loop"]["state_dict"]["combined_loader"]
        loader.load_state_dict(state)
        assert loader.batches_done == -1
        expected = epoch_of(loader, 0) + epoch_of(loader, 1) + epoch_of(loader, 2)
        assert fit(data, ckpt_path="half.ckpt").rows["train"] == expected

    def test_from_a_run_without_lengths(self) -> None:
        whole = fit(NumberData(), Save(8))
        resumed = fit(Sequences(200), ckpt_path="half.ckpt")
        assert set(Counter(flat(whole.rows["train"][:8] + resumed.rows["train"])).values()) == {3}

    def test_limits_and_overfitting(self) -> None:
        limited = fit(Sequences(), limit_train_batches=2, limit_val_batches=1, max_epochs=2).rows
        epochs = [epoch_of(Sequences().train_dataloader(), epoch)[:2] for epoch in (0, 1)]
        assert limited["train"] == flat(epochs)
        assert limited["val"] == epoch_of(Sequences().val_dataloader(), 0)[:1] * 2
        overfit = fit(Sequences(), overfit_batches=2).rows["train"]
        assert overfit == overfit[:2] * 3

    def test_every_stage_is_whole(self) -> None:
        task, data = NumberTask(Straight()), Sequences(96)
        run = trainer(max_epochs=1, num_sanity_val_steps=1)
        run.fit(task, data)
        run.test(task, data, verbose=False)
        run.predict(task, data)
        assert sorted(flat(task.rows["val"])) == sorted([*range(10), *task.rows["val"][0]])
        assert sorted(flat(task.rows["test"])) == sorted(flat(task.rows["predict"])) == list(range(10))


class TestMistakes:
    """Said when the loader is made."""

    def test_too_few_tokens(self) -> None:
        data = Sequences(95)
        assert message(data.train_dataloader) == (
            "tokens_per_batch (95) must hold the longest row, whose 89 tokens are padded to 96: "
            "use --data.tokens_per_batch=96 or more"
        )
        assert len(Sequences(96).train_dataloader()) > 1

    def test_tokens_of_rows_without_lengths(self) -> None:
        data = NumberData()
        data.tokens_per_batch = 100
        assert message(data.val_dataloader) == (
            "tokens_per_batch (100) has no meaning for val, whose rows NumberData knows no lengths of: "
            "use --data.batch_size"
        )

    def test_lengths_of_other_rows_are_a_bug(self) -> None:
        data = Sequences()
        data.lengths = lambda name: np.ones(3, dtype=np.int64)
        with pytest.raises(ValueError, match="train has 24 rows, but 3 lengths"):
            data.train_dataloader()

    @pytest.mark.parametrize(
        ("rows", "tokens", "limit", "option"),
        [
            (16, None, 1.0, None),
            (17, None, 1.0, "batch_size"),
            (17, None, 2, None),
            (17, None, 3, "batch_size"),
            (17, None, 0.9, "batch_size"),
            (17, None, 0.5, None),
            (18, None, 1.0, None),
            (17, 120, 1.0, "tokens_per_batch"),
            (16, 120, 1.0, None),
        ],
    )
    def test_shards_without_a_batch_for_each(
        self, rows: int, tokens: int | None, limit: float, option: str | None
    ) -> None:
        """Who has a batch more would gather weights that nobody sends; two processes, batches of 4."""
        data = Sequences(tokens, num_val=rows)
        strategy = ModelParallelStrategy()
        strategy._setup_distributed = lambda: None
        strategy.parallel_devices = [torch.device("cpu")] * 2
        strategy.cluster_environment = SimpleNamespace(local_rank=lambda: 1)
        data.trainer = SimpleNamespace(world_size=2, global_rank=1, strategy=strategy, limit_val_batches=limit)
        if option:
            assert message(lambda: data.loader("val")) == (
                "val has 17 rows, so that the last batch has 1 for 2 processes, all of which must have one where they "
                f"share out the weights: use another --data.{option}"
            )
        else:
            data.loader("val")
