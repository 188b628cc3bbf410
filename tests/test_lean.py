"""What a step does besides training, counted rather than timed, and that whoever needs what is left out gets it."""

import atexit
import cProfile
import gc
import pstats
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from contract_suite import ROOT
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import LambdaCallback
from lightning.pytorch.profilers import SimpleProfiler
from toys import NumberData, NumberTask

import lt_cli.__main__ as program
from lt_cli.cli import run
from lt_cli.trainer import make_trainer

FIT = ["fit", f"--config={ROOT / 'tests' / 'contract' / 'pixel_generation.yaml'}", "--trainer.max_steps=40"]
FIT += ["--trainer.accumulate_grad_batches=1", "--trainer.limit_train_batches=40", "--trainer.log_every_n_steps=1000"]


class Watched(Callback):
    """Notes which functions twenty steps call, and how often each."""

    calls: dict[tuple[str, str], float]
    num_calls: float

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 10:
            self.profile = cProfile.Profile()
            self.profile.enable()
        if batch_idx == 30:
            self.profile.disable()
            found: Any = pstats.Stats(self.profile)
            counts = {(Path(file).name, name): stat[1] / 20 for (file, _, name), stat in found.stats.items()}
            Watched.calls, Watched.num_calls = counts, found.total_calls / 20


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], float]:
    """Calls of each function in a step of a run as it is by default, with loggers and a progress bar."""
    torch.set_num_threads(1)
    place = str(tmp_path_factory.mktemp("watched"))
    run([*FIT, f"--trainer.default_root_dir={place}", "--trainer.enable_progress_bar=true",
         "--trainer.callbacks+=test_lean.Watched"])  # fmt: skip
    return Watched.calls


@pytest.mark.parametrize(
    "function",
    [
        ("callback.py", "on_before_zero_grad"),  # of callbacks that have none
        ("callback.py", "on_train_batch_start"),
        ("callback.py", "on_train_batch_end"),
        ("profiler.py", "profile"),
        ("signature_utils.py", "is_param_in_hook_signature"),
        ("data_connector.py", "get_instance"),
        ("apply_func.py", "move_data_to_device"),
        ("module.py", "clip_gradients"),
        ("logger_connector.py", "log_metrics"),
        ("__init__.py", "_raw_device_count_nvml"),
    ],
    ids=lambda function: function[1],
)
def test_a_step_leaves_out(calls: dict[tuple[str, str], float], function: tuple[str, str]) -> None:
    """Each of them takes time at each step where Lightning has its way; where it has another, this says so."""
    assert ("training_epoch_loop.py", "advance") in calls
    assert calls.get(function, 0) == 0


def test_the_progress_bar_is_told_seldom(calls: dict[tuple[str, str], float]) -> None:
    """Of the time that twenty steps take depends whether it is told at all, but never at each."""
    assert calls.get(("rich_progress.py", "on_train_batch_end"), 0) < 1


def options(**given: Any) -> dict[str, Any]:
    """What a command line would say of the trainer."""
    said = {"callbacks": None, "logger": False, "max_time": None, "plugins": None, "profiler": None}
    said |= dict.fromkeys(("accumulate_grad_batches", "check_val_every_n_epoch"), 1)
    said |= {
        "val_check_interval": 1.0,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    return said | {"accelerator": "cpu", "devices": 1, "num_sanity_val_steps": 0, "max_steps": 3} | given


def test_a_hook_given_to_an_instance_is_called() -> None:
    seen: list[str] = []
    callback = LambdaCallback(on_after_backward=lambda *_: seen.append("backward"))
    make_trainer(options(callbacks=[callback]), [], Path("run")).fit(NumberTask(), NumberData())
    assert seen == ["backward"] * 3


def test_a_profiler_is_the_one_that_was_asked_for() -> None:
    trainer = make_trainer(options(profiler="simple"), [], Path("run"))
    trainer.fit(NumberTask(), NumberData())
    assert isinstance(trainer.profiler, SimpleProfiler)
    assert "run_training_batch" in trainer.profiler.summary()


class Doubling(NumberData):
    """Numbers, doubled on their way to the model."""

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch | {"x": batch["x"] * 2}


class Changing(NumberTask):
    """A task that changes its batches itself."""

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch | {"x": batch["x"] * 2}


@pytest.mark.parametrize(("task", "data"), [(NumberTask, Doubling), (Changing, NumberData)])
def test_hooks_that_change_batches_are_called(task: Any, data: Any) -> None:
    plain, changing = NumberTask(), task()
    for one, other in ((plain, NumberData()), (changing, data())):
        make_trainer(options(max_steps=1, limit_train_batches=1), [], Path("run")).fit(one, other)
    assert changing.losses["train"] != plain.losses["train"]
    assert changing.losses["val"] != plain.losses["val"]


def test_a_task_may_change_its_data_between_runs() -> None:
    """The hooks of the datamodule at hand count, whatever the task trained on before."""
    task, plain = NumberTask(), NumberTask()
    for one in (task, plain):
        make_trainer(options(max_steps=1, limit_train_batches=1), [], Path("run")).fit(one, NumberData())
    for one, data in ((task, Doubling()), (plain, NumberData())):
        make_trainer(options(), [], Path("run")).validate(one, data, verbose=False)
    assert task.losses["val"][-1] != plain.losses["val"][-1]


class OneArgument(NumberTask):
    """A task whose step wants no number."""

    def training_step(self, batch: Any) -> Any:  # type: ignore[override]
        return super().training_step(batch, 0)


def test_a_training_step_of_one_argument() -> None:
    task = OneArgument()
    make_trainer(options(), [], Path("run")).fit(task, NumberData())
    assert len(task.losses["train"]) == 3


def test_gradients_are_clipped() -> None:
    """To nothing here, so that nothing moves."""
    task = NumberTask(optimizer=torch.optim.SGD)
    before = [parameter.detach().clone() for parameter in task.parameters()]
    make_trainer(options(gradient_clip_val=1e-30), [], Path("run")).fit(task, NumberData())
    assert all(torch.allclose(*pair, rtol=0, atol=1e-20) for pair in zip(before, task.parameters(), strict=True))


def test_the_program_leaves_what_is_loaded_out_of_garbage_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Any] = []
    monkeypatch.setattr("lt_cli.cli.main", lambda: found.extend([gc.isenabled(), gc.get_freeze_count()]))
    monkeypatch.setattr(sys, "argv", ["main.py"])
    try:
        program.main()
    finally:
        atexit.unregister(program.end)
        gc.unfreeze()
    assert found[0] is True
    assert found[1] > 10_000
