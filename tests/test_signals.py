"""Ctrl-C, SIGTERM and SLURM's warning: wherever a run stands, it ends with its state safe and resumes from there."""

import os
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from contract_suite import ROOT, assert_same_weights, only_run, shell, weights
from lightning.pytorch import Callback, Trainer

from lt_cli.callbacks.checkpoints import Checkpoints
from lt_cli.checkpoint_io import read
from lt_cli.cli import run
from lt_cli.signals import Signals, Stopped, slurm_job
from lt_cli.trainer import make_trainer

CONFIG = ROOT / "tests" / "contract" / "pixel_generation.yaml"
FIT = ["fit", f"--config={CONFIG}"]
"""Two epochs of 8 batches and 4 optimiser steps; each ends with 2 batches of validation."""


class Sender(Callback):
    """Sends signals to this process at one place of the run.

    Args:
        hook: The callback's hook to send in.
        at: How many times that hook was called before.
        numbers: What to send.
    """

    def __init__(self, hook: str, at: int = 0, numbers: tuple[int, ...] = (signal.SIGTERM,)) -> None:
        self.calls = 0

        def send(*_: Any, **__: Any) -> None:
            self.calls += 1
            if self.calls == at + 1:
                for number in numbers:
                    os.kill(os.getpid(), number)

        setattr(self, hook, send)


@pytest.fixture
def sending(monkeypatch: pytest.MonkeyPatch) -> Callable[[Sender], None]:
    """Adds a sender to the next runs' callbacks, before ours."""

    def add(sender: Sender) -> None:
        def with_sender(options: dict[str, Any], callbacks: list[Callback], run: Path) -> Trainer:
            return make_trainer({**options, "callbacks": [sender, *(options["callbacks"] or [])]}, callbacks, run)

        monkeypatch.setattr("lt_cli.cli.make_trainer", with_sender)

    return add


def stopped(args: list[str]) -> Stopped:
    with pytest.raises(Stopped) as caught:
        run(args)
    return caught.value


def scores(root: str) -> list[str]:
    """The lines of metrics.csv that have a validation score."""
    header, *rows = (only_run("pixel_generation", root) / "metrics.csv").read_text().splitlines()
    column = header.split(",").index("val/loss")
    return [line.split(",")[column] for line in rows if line.split(",")[column]]


PLACES = {
    "first batch": ("on_train_batch_start", 0, 1),
    "within an accumulated step": ("on_train_batch_end", 2, 2),
    "between two steps": ("on_train_batch_end", 3, 2),
    "last batch of an epoch": ("on_train_batch_start", 7, 4),
    "validation starts": ("on_validation_epoch_start", 0, 4),
    "middle of validation": ("on_validation_batch_start", 1, 4),
    "end of an epoch": ("on_train_epoch_end", 0, 5),
    "last step of the run": ("on_train_batch_start", 15, 8),
    "last validation": ("on_validation_batch_end", 3, 8),
}
"""Where a signal arrives, and the optimiser step after which the run ends."""


@pytest.mark.parametrize("length", ["--trainer.max_epochs=2", "--trainer.max_steps=8"])
@pytest.mark.parametrize("place", PLACES)
def test_wherever_it_arrives(place: str, length: str, sending: Callable[[Sender], None]) -> None:
    """The run ends within the step; resumed, it has the weights, the best checkpoint and the scores of a whole run."""
    fit = [*FIT, length, "--trainer.num_sanity_val_steps=0"]
    whole = run([*fit, "--trainer.default_root_dir=whole"]).model.state_dict()
    hook, at, step = PLACES[place]
    sender = Sender(hook, at)
    sending(sender)
    end = stopped([*fit, "--trainer.default_root_dir=broken"])
    assert end.code == 128 + signal.SIGTERM
    last = only_run("pixel_generation", "broken") / "checkpoints" / "last.ckpt"
    assert end.message.startswith(f"stopped at step {step}; go on with: ")
    assert end.message.endswith(f"fit --ckpt_path={last}")
    assert read(last)["global_step"] == step
    resumed = run(["fit", f"--ckpt_path={last}"])
    assert resumed.trainer.global_step == 8
    assert_same_weights(resumed.model.state_dict(), whole)
    assert scores("broken") == scores("whole"), "every validation once"
    best = only_run("pixel_generation", "whole") / "checkpoints" / "best.ckpt"
    assert_same_weights(weights(last.with_name("best.ckpt")), weights(best))


VALIDATIONS = {
    "within an epoch": ("--trainer.val_check_interval=4", 2, 4),
    "within an accumulated step, whose gradients are in no checkpoint": ("--trainer.val_check_interval=3", 2, 4),
    "of averaged weights, which Lightning puts in the trained ones' place": (
        "--trainer.callbacks+=EMAWeightAveraging",
        4,
        2,
    ),
}
"""An option, the optimiser step after which the run then ends, and how many validations a whole run has."""


@pytest.mark.parametrize("kind", VALIDATIONS)
def test_in_a_validation(kind: str, sending: Callable[[Sender], None]) -> None:
    option, step, validations = VALIDATIONS[kind]
    fit = [*FIT, option, "--trainer.num_sanity_val_steps=0"]
    whole = run([*fit, "--trainer.default_root_dir=whole"]).model.state_dict()
    sending(Sender("on_validation_batch_start", 1))
    assert f"stopped at step {step}; " in stopped([*fit, "--trainer.default_root_dir=broken"]).message
    resumed = run([*fit, "--trainer.default_root_dir=broken", "--ckpt_path=last"])
    assert_same_weights(resumed.model.state_dict(), whole)
    assert scores("broken") == scores("whole")
    assert len(scores("whole")) == validations


@pytest.mark.parametrize("hook", ["setup", "on_fit_start", "on_sanity_check_start", "on_validation_batch_start"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_before_the_first_step_it_stops_at_once(hook: str, number: int, sending: Callable[[Sender], None]) -> None:
    sending(Sender(hook, 0, (number,)))
    end = stopped(FIT)
    assert (end.code, end.message) == (128 + number, "stopped")
    assert not list(Path().rglob("*.ckpt"))


def test_when_a_resumed_run_is_stopped_before_its_first_step(sending: Callable[[Sender], None]) -> None:
    """There is a checkpoint to go on from: the one it came from."""
    run([*FIT, "--trainer.max_epochs=1"])
    last = only_run("pixel_generation") / "checkpoints" / "last.ckpt"
    sending(Sender("on_fit_start"))
    end = stopped([*FIT, "--ckpt_path=last"])
    assert end.message.startswith("stopped; go on with: ")
    assert end.message.endswith(f"--ckpt_path={last}")


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_evaluation_stops_at_once(command: str, sending: Callable[[Sender], None]) -> None:
    run([*FIT, "--trainer.max_epochs=1"])
    stage = {"validate": "validation"}.get(command, command)
    sending(Sender(f"on_{stage}_batch_start", 0, (signal.SIGINT,)))
    end = stopped([command, "--ckpt_path=last", "--trainer.accelerator=cpu"])
    assert end.code == 130
    assert not list(Path().rglob("predictions.*"))


def test_a_second_ctrl_c_does_not_wait(sending: Callable[[Sender], None]) -> None:
    run([*FIT, "--trainer.max_epochs=1"])
    last = only_run("pixel_generation") / "checkpoints" / "last.ckpt"
    sending(Sender("on_train_batch_start", 0, (signal.SIGINT, signal.SIGINT)))
    end = stopped([*FIT, "--ckpt_path=last"])
    assert end.code == 130
    assert end.message.startswith("stopped; go on with: ")
    assert read(last)["global_step"] == 4, "the step under way is lost"


def test_a_closed_terminal_ends_it_like_sigterm(sending: Callable[[Sender], None]) -> None:
    sending(Sender("on_train_batch_start", 0, (signal.SIGHUP,)))
    end = stopped(FIT)
    assert end.code == 128 + signal.SIGHUP
    assert read(only_run("pixel_generation") / "checkpoints" / "last.ckpt")["global_step"] == 1


def test_a_second_ctrl_c_within_a_save(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no failed write, whatever torch's writer makes of it; the checkpoint before it stays."""
    run([*FIT, "--trainer.max_epochs=1"])
    last = only_run("pixel_generation") / "checkpoints" / "last.ckpt"
    save = torch.save

    def interrupted(content: Any, file: Any) -> None:
        if isinstance(content, dict) and "loops" in content:
            os.kill(os.getpid(), signal.SIGINT)
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except SystemExit:
                raise RuntimeError("unexpected pos 64 vs 0")  # noqa: B904  # as torch does
        save(content, file)

    monkeypatch.setattr("torch.save", interrupted)
    end = stopped([*FIT, "--ckpt_path=last", "--checkpoints.on_failure=continue"])
    assert end.code == 130
    assert end.message.startswith("stopped; go on with: ")
    assert read(last)["global_step"] == 4


def test_without_checkpoints(sending: Callable[[Sender], None]) -> None:
    """It ends between two steps all the same, and promises nothing."""
    sending(Sender("on_train_batch_start"))
    end = stopped([*FIT, "--trainer.enable_checkpointing=false"])
    assert end.message == "stopped at step 1"


def test_where_nothing_could_be_saved(sending: Callable[[Sender], None], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    sending(Sender("on_train_batch_start"))
    with pytest.warns(UserWarning, match="No space left"):
        end = stopped([*FIT, "--checkpoints.on_failure=continue"])
    assert end.message == "stopped at step 1"


@pytest.mark.parametrize("moment", [0.3, 2.0])
def test_ctrl_c_while_the_program_loads(moment: float) -> None:
    """Importing takes seconds; no traceback."""
    process = shell(*FIT)
    time.sleep(moment)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode in (-signal.SIGINT, 130)
    assert "Traceback" not in output


def test_a_repeated_sigterm_waits(sending: Callable[[Sender], None]) -> None:
    """Schedulers repeat themselves."""
    sending(Sender("on_train_batch_start", 0, (signal.SIGTERM, signal.SIGTERM)))
    end = stopped(FIT)
    assert end.message.startswith("stopped at step 1; ")


def test_ctrl_c_after_sigterm_does_not_wait(sending: Callable[[Sender], None]) -> None:
    sending(Sender("on_train_batch_start", 0, (signal.SIGTERM, signal.SIGINT)))
    assert stopped(FIT).message == "stopped"


def test_handlers_are_given_back() -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in numbers]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_JOB_ID", "7")
        with Signals().heard():
            assert all(signal.getsignal(number) != handler for number, handler in zip(numbers, before, strict=True))
    assert [signal.getsignal(number) for number in numbers] == before


def test_what_the_shell_ignores_stays_ignored() -> None:
    """As nohup and background jobs of a script have it."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Signals().heard():
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


class TestSlurm:
    """Its warning before the time is over: --signal=SIGUSR1@90."""

    @pytest.fixture
    def scontrol(self, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A stand-in that notes how it was called."""
        program = Path("bin", "scontrol")
        program.parent.mkdir()
        program.write_text('#!/bin/sh\necho "$@" > called\n')
        program.chmod(program.stat().st_mode | stat.S_IEXEC)
        monkeypatch.setenv("PATH", f"{program.parent.absolute()}:{os.environ['PATH']}")
        monkeypatch.setenv("SLURM_JOB_ID", "42")
        return program

    def test_the_job_is_queued_again_and_goes_on(
        self, scontrol: Path, sending: Callable[[Sender], None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = run([*FIT, "--trainer.default_root_dir=whole"]).model.state_dict()
        run(FIT)  # another, finished run of the same job and one of another job are not meant
        monkeypatch.setenv("SLURM_JOB_ID", "43")
        waited: list[bool] = []
        wait = "lightning.pytorch.strategies.SingleDeviceStrategy.barrier"
        monkeypatch.setattr(wait, lambda *_: waited.append(Path("called").exists()))
        sender = Sender("on_train_batch_start", 5, (signal.SIGUSR1,))
        sending(sender)
        end = stopped(FIT)
        last = max(Path("runs/pixel_generation").iterdir()) / "checkpoints" / "last.ckpt"
        assert end.code == 128 + signal.SIGUSR1
        assert end.message.startswith("stopped at step 3; SLURM job 43 is queued again; go on with: ")
        assert end.message.endswith(f"--ckpt_path={last}")
        assert Path("called").read_text() == "requeue 43\n"
        assert True in waited, "who ends first may end the others, so it is asked for before anyone does"
        monkeypatch.setenv("SLURM_JOB_ID", "44")
        run(FIT)
        monkeypatch.setenv("SLURM_JOB_ID", "43")
        monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
        resumed = run(FIT)
        assert_same_weights(resumed.model.state_dict(), whole)
        assert read(last)["global_step"] == 8, "in the run that it began"
        assert len(list(Path("runs/pixel_generation").iterdir())) == 3

    def test_two_runs_of_one_job_go_on_each_from_its_own(
        self, scontrol: Path, sending: Callable[[Sender], None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A job script with several fits: the command line tells them apart, also where it names no config."""
        first = [*FIT, "--model.optimizer.lr=0.001"]
        run(first)
        done = only_run("pixel_generation") / "checkpoints" / "last.ckpt"
        second = ["fit", f"--ckpt_path={done}", "--trainer.max_epochs=4"]
        monkeypatch.setattr("lt_cli.runs.time.strftime", lambda form: "2126-01-01_00-00-00")
        copy = Path("copy.ckpt")
        copy.write_bytes(done.read_bytes())
        third = ["fit", f"--ckpt_path={copy}", "--trainer.max_epochs=3"]
        sending(Sender("on_train_batch_start", 2, (signal.SIGUSR1,)))
        assert "stopped at step 10; " in stopped(third).message
        monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
        assert run(third).trainer.global_step == 12
        assert len(list(Path("runs/copy").iterdir())) == 1, "in the run that it began"
        before = done.read_bytes()
        assert run(first).trainer.global_step == 8, "it was finished"
        assert done.read_bytes() == before
        assert run(second).trainer.global_step == 16

    def test_before_the_first_step_too(self, scontrol: Path, sending: Callable[[Sender], None]) -> None:
        sending(Sender("setup", 0, (signal.SIGUSR1,)))
        assert stopped(FIT).message == "stopped; SLURM job 42 is queued again"
        assert Path("called").read_text() == "requeue 42\n"

    @pytest.mark.parametrize("count", ["", "abc", "2"])
    def test_a_damaged_record_is_no_obstacle(self, count: str, monkeypatch: pytest.MonkeyPatch) -> None:
        run([*FIT, "--trainer.max_epochs=1"])
        with (only_run("pixel_generation") / "sessions.jsonl").open("a") as record:
            record.write('[1]\n{"slurm_job"\n\n{}\n{"slurm_job": 3')
        monkeypatch.setenv("SLURM_JOB_ID", "3")
        monkeypatch.setenv("SLURM_RESTART_COUNT", count)
        assert run(FIT).trainer.global_step == 8

    def test_where_it_cannot_be_queued(self, scontrol: Path, sending: Callable[[Sender], None]) -> None:
        scontrol.write_text("#!/bin/sh\necho 'Requested operation not supported' >&2\nexit 1\n")
        sending(Sender("on_train_batch_start", 0, (signal.SIGUSR1,)))
        message = stopped(FIT).message
        assert "SLURM job 42 could not be queued again (Requested operation not supported); go on with: " in message

    def test_a_task_of_an_array(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert slurm_job() is None
        monkeypatch.setenv("SLURM_JOB_ID", "99")
        monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "90")
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
        assert slurm_job() == "90_3"


def test_a_signal_during_a_save_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkpoint is whole, and the run still ends."""
    save = Checkpoints.save_last

    def interrupted(self: Checkpoints, trainer: Trainer) -> Path:
        os.kill(os.getpid(), signal.SIGTERM)
        return save(self, trainer)

    monkeypatch.setattr(Checkpoints, "save_last", interrupted)
    end = stopped([*FIT, "--checkpoints.every_minutes=0"])
    assert end.message.startswith("stopped at step 2; ")
    assert read(only_run("pixel_generation") / "checkpoints" / "last.ckpt")["global_step"] == 2


DDP = ["--trainer.devices=2", "--trainer.strategy=ddp", "--data.batch_size=8"]
ENDLESS = ["--trainer.max_epochs=-1", "--trainer.max_steps=1000000", "--model.schedule=null"]


def children(process: subprocess.Popen[str]) -> list[int]:
    """The processes that a process started and that are still there."""
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True)
    return [int(pid) for pid in listed.stdout.split()]


def running(pid: int) -> bool:
    """Whether a process is there, and not merely waiting to be noticed."""
    state = Path("/proc", str(pid), "stat")
    return state.is_file() and state.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
class TestTwoProcesses:
    """No process hangs, none stays behind."""

    def start(self, pattern: str) -> tuple[subprocess.Popen[str], int]:
        """The first process of a run under DDP, in which a file has appeared, and the second one's number."""
        process = shell(*FIT, *DDP, *ENDLESS, "--checkpoints.every_minutes=0")
        deadline = time.monotonic() + 120
        while not list(Path().glob(pattern)):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.01)
        (second,) = children(process)
        return process, second

    def gone(self, pid: int, within: float) -> bool:
        deadline = time.monotonic() + within
        while running(pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        return not running(pid)

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_to_the_first_ends_both(self, number: int) -> None:
        process, second = self.start("runs/*/*/checkpoints/last.ckpt")
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 128 + number, output
        assert self.gone(second, 1), "nobody stays behind"
        assert "Traceback" not in output
        last = only_run("pixel_generation") / "checkpoints" / "last.ckpt"
        assert output.splitlines()[-1].startswith(f"stopped at step {read(last)['global_step']}; go on with: ")
        assert output.count("stopped at step") == 1

    def test_before_the_first_step(self) -> None:
        process, second = self.start("runs/*/*/sessions.jsonl")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        assert process.returncode == 143
        assert self.gone(second, 1)

    @pytest.mark.parametrize("killed", ["first", "second"])
    def test_whoever_is_killed_the_other_ends_too(self, killed: str) -> None:
        process, second = self.start("runs/*/*/checkpoints/last.ckpt")
        os.kill(process.pid if killed == "first" else second, signal.SIGKILL)
        process.communicate(timeout=60)
        assert process.returncode != 0
        assert self.gone(second, 30)
        resumed = read(only_run("pixel_generation") / "checkpoints" / "last.ckpt")
        assert resumed["lt_cli"]["machine"]["processes"] == 2


def test_a_lock_that_nobody_lets_go_of() -> None:
    """An exception from a signal may come while a lock is taken; whoever waits for it must not stay."""
    session = os.fork()
    if not session:
        lock = threading.Lock()
        try:
            with Signals(patience=0.5).heard():
                lock.acquire()
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(60)
        finally:
            lock.acquire()
    began = time.monotonic()
    _, status = os.waitpid(session, 0)
    assert os.waitstatus_to_exitcode(status) == 143
    assert time.monotonic() - began < 30


def test_a_run_from_python_ends_no_process() -> None:
    with pytest.raises(Stopped), Signals().heard():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
