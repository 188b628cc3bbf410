"""Random numbers and rows as functions of where the run stands. Epochs have 24 rows."""

import itertools
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler, StochasticWeightAveraging
from lightning.pytorch.utilities import CombinedLoader
from toys import NumberData, NumberTask, trainer

from lt_cli.callbacks.exact_resume import ExactResume
from lt_cli.optim import WarmupCosine

HALF = Path("half.ckpt")
COSINE = partial(WarmupCosine, warmup_steps=1)
"""Asks for the number of steps, so that Lightning makes the loaders before it has read their states."""


class Save(Callback):
    """Saves after an optimiser step, as a callback at the end of a batch or of an epoch does."""

    def __init__(self, step: int, at_the_end: bool = False) -> None:
        self.step, self.at_the_end, self.saved = step, at_the_end, False

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step and not self.at_the_end and not self.saved:
            trainer.save_checkpoint(HALF)
            self.saved = True

    def on_train_epoch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step and self.at_the_end:
            trainer.save_checkpoint(HALF)


def fit(
    *callbacks: Callback, batch_size: int = 4, schedule: Any = COSINE, ckpt_path: Path | None = None, **options: Any
) -> NumberTask:
    task = NumberTask(schedule=schedule)
    one = trainer(ExactResume(), *callbacks, **{"max_epochs": 3, **options})
    one.fit(task, NumberData(batch_size=batch_size), ckpt_path=ckpt_path)
    return task


def flat(batches: list[list[int]]) -> list[int]:
    return [row for rows in batches for row in rows]


class TestRandomNumbers:
    """Seeded by position."""

    @staticmethod
    def drawn(seed: int, rank: int, epoch: int, batch_idx: int, monkeypatch: pytest.MonkeyPatch) -> float:
        monkeypatch.setenv("PL_GLOBAL_SEED", str(seed))
        at: Any = SimpleNamespace(global_rank=rank, current_epoch=epoch, device=torch.device("cpu"))
        ExactResume().on_train_batch_start(at, at, None, batch_idx)
        return torch.rand(()).item()

    def test_one_position_one_number(self, monkeypatch: pytest.MonkeyPatch) -> None:
        positions = list(itertools.product((0, 1), (0, 1), (0, 1), (0, 1, 2)))
        first = [self.drawn(*position, monkeypatch) for position in positions]
        torch.manual_seed(9)
        assert [self.drawn(*position, monkeypatch) for position in reversed(positions)] == first[::-1]
        assert len(set(first)) == len(positions)

    def test_the_same_in_every_process(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Python's hashes of numbers do not depend on the process."""
        assert self.drawn(1, 2, 3, 4, monkeypatch) == pytest.approx(EXPECTED, abs=1e-7)

    def test_a_step_leaves_nothing_behind(self) -> None:
        """torch.manual_seed would keep three calls and their stacks for a CUDA that never comes."""
        if torch.cuda.is_initialized():
            pytest.skip("CUDA is in use")
        before = len(torch.cuda._queued_calls)
        fit(max_epochs=2)
        assert len(torch.cuda._queued_calls) == before

    def test_whatever_was_drawn_before(self) -> None:
        torch.manual_seed(5)
        one = fit()
        torch.manual_seed(6)
        assert fit().drawn == one.drawn
        assert len(set(one.drawn)) == 18


EXPECTED = 0.8372370004653931


class TestResume:
    """As if nothing had happened."""

    @pytest.mark.parametrize("length", [{"max_epochs": 3}, {"max_epochs": -1, "max_steps": 18}])
    @pytest.mark.parametrize(("step", "at_the_end"), [(1, False), (5, False), (6, True), (9, False), (12, True)])
    def test_goes_on_exactly(self, step: int, at_the_end: bool, length: dict[str, int]) -> None:
        whole = fit(Save(step, at_the_end), **length)
        resumed = fit(ckpt_path=HALF, **length)
        assert resumed.rows["train"] == whole.rows["train"][step:]
        assert resumed.drawn == whole.drawn[step:]
        assert resumed.rows["val"] == whole.rows["val"][3 * (step // 6) :]
        for name, weight in resumed.state_dict().items():
            assert torch.equal(weight, whole.state_dict()[name]), name

    @pytest.mark.parametrize("length", [{"max_epochs": 6}, {"max_epochs": -1, "max_steps": 36}])
    @pytest.mark.parametrize("at_the_end", [False, True])
    def test_again_and_again(self, at_the_end: bool, length: dict[str, int]) -> None:
        whole = fit(**length)
        resumed = fit(Save(6, at_the_end), **length)
        for step in (12, 18, 21, 30):
            resumed = fit(Save(step, at_the_end and step != 21), ckpt_path=HALF, **length)
        resumed = fit(ckpt_path=HALF, **length)
        assert resumed.rows["train"] == whole.rows["train"][30:]
        assert resumed.drawn == whole.drawn[30:]
        for name, weight in resumed.state_dict().items():
            assert torch.equal(weight, whole.state_dict()[name]), name

    @pytest.mark.parametrize("step", [7, 8, 9, 10])
    def test_with_a_schedule_of_accumulation(self, step: int) -> None:
        """Lightning sets it at the beginning of whole epochs only."""
        whole = fit(GradientAccumulationScheduler({0: 1, 1: 3}))
        fit(Save(step), GradientAccumulationScheduler({0: 1, 1: 3}))
        resumed = fit(GradientAccumulationScheduler({0: 1, 1: 3}), ckpt_path=HALF)
        for name, weight in resumed.state_dict().items():
            assert torch.equal(weight, whole.state_dict()[name]), name

    @pytest.mark.parametrize("at_the_end", [False, True])
    def test_what_cannot_be_exact_is_said(self, at_the_end: bool, caplog: pytest.LogCaptureFixture) -> None:
        fit(Save(12, at_the_end), StochasticWeightAveraging(0.1, swa_epoch_start=2))
        with caplog.at_level("INFO"):
            fit(StochasticWeightAveraging(0.1, swa_epoch_start=2), ckpt_path=HALF)
        said = "resuming within an epoch, of which StochasticWeightAveraging takes no note: not bit for bit"
        assert (said in caplog.text) != at_the_end

    def test_without_a_schedule(self) -> None:
        whole = fit(Save(4), schedule=None)
        assert fit(ckpt_path=HALF, schedule=None).rows["train"] == whole.rows["train"][4:]

    def test_in_the_middle_of_limited_epochs(self) -> None:
        whole = fit(Save(6), limit_train_batches=4)
        resumed = fit(ckpt_path=HALF, limit_train_batches=4)
        assert resumed.rows["train"] == whole.rows["train"][6:]
        assert len(whole.rows["train"]) == 12

    @pytest.mark.parametrize(("before", "after"), [(4, 2), (2, 4), (4, 8), (8, 4), (4, 6), (2, 24)])
    @pytest.mark.parametrize("rows", [8, 32])
    def test_with_other_batches(self, rows: int, before: int, after: int) -> None:
        """Batches of another size, or shared by another number of processes, which is the same to the sampler."""
        whole = fit(Save(rows // before), batch_size=before)
        resumed = fit(batch_size=after, ckpt_path=HALF)
        done, steps = flat(whole.rows["train"])[:rows], resumed.rows["train"]
        assert done + flat(steps) == flat(whole.rows["train"]), "no row is lost and none comes twice"
        left = 24 - rows % 24
        full, rest = divmod(left, after)
        assert [len(batch) for batch in steps[: full + (rest > 0)]] == [after] * full + [rest] * (rest > 0)
        assert len(resumed.rows["val"]) % -(-10 // after) == 0
        assert len(resumed.rows["val"]) == (3 - rows // 24) * -(-10 // after), "each epoch still ends with validation"

    def test_beside_a_loader_without_state(self) -> None:
        class Mixed(NumberData):
            def train_dataloader(self) -> Any:
                plain = [torch.zeros(1)] * 6
                return CombinedLoader({"plain": plain, "rows": super().train_dataloader()}, "min_size")

        class OfRows(NumberTask):
            def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
                return super().training_step(batch["rows"], batch_idx)

        whole, resumed = OfRows(), OfRows()
        trainer(ExactResume(), Save(2), max_epochs=2).fit(whole, Mixed())
        trainer(ExactResume(), max_epochs=2).fit(resumed, Mixed(), ckpt_path=HALF)
        assert resumed.rows["train"] == whole.rows["train"][2:]
