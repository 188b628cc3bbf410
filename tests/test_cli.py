"""The command line as a whole: what it prints, where runs lie, how they go on, and what ends them."""

import contextlib
import csv
import io
import os
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from contract_suite import ROOT, assert_same_weights, kill_when, only_run, weights
from lightning.pytorch import Trainer

from lt_cli.arguments import DEFAULT_CONFIG
from lt_cli.checkpoint_io import read
from lt_cli.cli import run
from lt_cli.errors import UserError
from lt_cli.optim import WarmupCosine

CONFIG = ROOT / "tests" / "contract" / "pixel_generation.yaml"
TINY = ["--trainer.max_steps=2", "--model.schedule.warmup_steps=0"]
FIT = ["fit", f"--config={CONFIG}", *TINY]
CPU = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
LIMITS = [*CPU, "--trainer.limit_test_batches=1", "--trainer.limit_val_batches=1", "--trainer.limit_predict_batches=1"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of one fit of one epoch, to be copied."""
    torch.set_num_threads(1)
    place = tmp_path_factory.mktemp("trained")
    with contextlib.chdir(place):
        run(["fit", f"--config={CONFIG}", "--trainer.max_epochs=1"])
    return place / "runs"


@pytest.fixture
def finished_run(trained: Path) -> Path:
    """The directory of a run of one epoch, under runs/ of the working directory."""
    shutil.copytree(trained, "runs")
    return only_run("pixel_generation")


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What runs say."""
    messages: list[str] = []
    for module in ("arguments", "callbacks.checkpoints", "callbacks.exact_resume", "callbacks.session_record"):
        monkeypatch.setattr(f"lt_cli.{module}.rank_zero_info", messages.append)
    return messages


def user_module(name: str, text: str) -> None:
    Path(f"{name}.py").write_text(textwrap.dedent(text))


def rows(directory: Path) -> list[dict[str, str]]:
    with (directory / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


class TestPrintConfig:
    """--print_config shows all that a run uses, and is itself a runnable configuration."""

    @staticmethod
    def printed(capsys: pytest.CaptureFixture[str], *args: str) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            run([*args, "--print_config"])
        assert stop.value.code == 0
        return capsys.readouterr().out

    @pytest.mark.parametrize("args", [[], [f"--config={CONFIG}"]], ids=["default", "config"])
    def test_it_is_complete_and_prints_itself(self, args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        text = self.printed(capsys, "fit", *args, "--model.backbone.num_layers=1", "--weight_noise.std=0.5")
        config = yaml.safe_load(text)
        model = config["model"]["init_args"]
        assert model["backbone"]["init_args"]["num_layers"] == 1
        assert model["backbone"]["init_args"]["activation"] == "quick_gelu", "defaults of classes are shown"
        assert "weight_decay" in model["optimizer"]["init_args"], "and those of the optimiser"
        assert model["schedule"]["init_args"]["final_ratio"] == 0.0
        assert config["weight_noise"]["init_args"]["mode"] == "transient"
        assert config["freeze"] is None, "what may be switched on is shown"
        assert config["trainer"]["gradient_clip_val"] is None
        assert config["checkpoints"]["every_minutes"] == 10.0
        Path("printed.yaml").write_text(text)
        assert self.printed(capsys, "fit", "--config=printed.yaml") == text
        flags = [*TINY, "--trainer.limit_train_batches=4", "--trainer.limit_val_batches=1", "--data.batch_size=4"]
        assert run(["fit", "--config=printed.yaml", *CPU, *flags]).trainer.global_step > 0
        assert only_run("printed").is_dir()

    def test_the_default_is_what_the_file_says(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.printed(capsys, "fit") == self.printed(capsys, "fit", f"--config={DEFAULT_CONFIG}")

    def test_nothing_is_built_and_nothing_read(self, capsys: pytest.CaptureFixture[str]) -> None:
        user_module(
            "exploding",
            """
            from lt_cli.backbones.gpt import GPT
            from lt_cli.data.images import ImageSource
            from lt_cli.data.pixels import PixelData
            from lt_cli.tasks.pixel_generation import PixelGeneration
            from lightning.pytorch import Callback
            import torch

            class Net(GPT):
                def __init__(self, vocab_size: int = 5, max_seq_len: int = 16):
                    raise AssertionError("a backbone was built")

            class Task(PixelGeneration):
                def __init__(self, *, backbone: GPT):
                    raise AssertionError("a task was built")

            class Source(ImageSource):
                def __init__(self):
                    raise AssertionError("a source was built")

                def load(self, *args, **kwargs):
                    raise AssertionError("data was read")

            class Data(PixelData):
                def __init__(self, source: ImageSource, batch_size: int = 3):
                    raise AssertionError("a datamodule was built")

            class Bell(Callback):
                def __init__(self, tone: int = 1):
                    raise AssertionError("a callback was built")
            """,
        )
        flags = ["--model=exploding.Task", "--model.backbone=exploding.Net", "--trainer.callbacks+=exploding.Bell"]
        flags += ["--data=exploding.Data", "--data.source=exploding.Source"]
        text = self.printed(capsys, *FIT[:2], *flags)
        for name in ("Task", "Net", "Bell", "Data", "Source"):
            assert f"exploding.{name}" in text
        assert not Path("runs").exists()

    def test_of_a_checkpoint(self, finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
        text = self.printed(capsys, "test", f"--ckpt_path={finished_run}/checkpoints/best.ckpt")
        config = yaml.safe_load(text)
        assert config["model"]["init_args"]["backbone"]["init_args"]["vocab_size"] == 5
        assert config["trainer"]["max_epochs"] is None, "the trainer is not the checkpoint's"


class TestRunDirectory:
    """Runs go to runs/<config's name>/<time>/, each to its own."""

    def test_two_runs_in_one_second(self, monkeypatch: pytest.MonkeyPatch, said: list[str]) -> None:
        now = time.localtime(1_800_000_000)
        strftime = time.strftime
        monkeypatch.setattr("time.strftime", lambda form, when=now: strftime(form, when))
        for steps in (1, 2):
            run([*FIT, f"--trainer.max_steps={steps}"])
        first, second = sorted(Path("runs/pixel_generation").iterdir())
        assert weights_step(first) == 1
        assert weights_step(second) == 2
        assert (first / "config.yaml").read_text() != (second / "config.yaml").read_text()
        resumed = run([*FIT, "--trainer.max_steps=3", "--ckpt_path=last"])
        assert resumed.trainer.global_step == 3
        assert weights_step(second) == 3, "the newest is the second of the two"

    def test_where_default_root_dir_says(self) -> None:
        Path("cpu.yaml").write_text("default_root_dir: fragments\naccelerator: cpu\n")
        run([*FIT, "--trainer=cpu.yaml"])
        assert (only_run("pixel_generation", "fragments") / "config.yaml").is_file()
        assert not Path("runs").exists()

    def test_other_processes_make_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The first process tells them where the run is (the contract suite runs two)."""
        made = []
        monkeypatch.setattr("lt_cli.runs.new_run", lambda parent: made.append(parent) or parent / "made")
        monkeypatch.setattr("lightning.pytorch.utilities.rank_zero_only.rank", 1)
        run(["fit", f"--config={CONFIG}", "--trainer.fast_dev_run=true"])
        assert made == []

    def test_fast_dev_run_leaves_no_checkpoint(self) -> None:
        assert run([*FIT, "--trainer.fast_dev_run=true"]).trainer.global_step == 1
        assert not list(Path().glob("runs/*/*/checkpoints"))
        assert not list(Path().glob("runs/*/*/config.yaml"))

    @pytest.mark.parametrize("switch", ["--trainer.logger=false", "--trainer.enable_checkpointing=false"])
    def test_less_is_left_when_asked(self, switch: str) -> None:
        run([*FIT, switch])
        directory = only_run("pixel_generation")
        assert (directory / "metrics.csv").exists() == (switch != "--trainer.logger=false")
        assert (directory / "checkpoints").exists() == (switch != "--trainer.enable_checkpointing=false")

    def test_its_configuration_runs_again(self, finished_run: Path) -> None:
        """Also that of a run which went on: the file starts one, under the run's name."""
        config = finished_run / "config.yaml"
        run(["fit", f"--config={config}", "--ckpt_path=last", "--trainer.max_epochs=2"])
        assert yaml.safe_load(config.read_text())["ckpt_path"] is None
        assert yaml.safe_load(config.read_text())["trainer"]["max_epochs"] == 2
        again = run(["fit", f"--config={config}"])
        assert again.trainer.global_step == 8
        assert len(list(Path("runs/pixel_generation").iterdir())) == 2
        assert_same_weights(again.model.state_dict(), weights(finished_run / "checkpoints" / "last.ckpt"))


def weights_step(directory: Path) -> int:
    """The number of optimiser steps behind a run's last checkpoint."""
    step: int = read(directory / "checkpoints" / "last.ckpt")["global_step"]
    return step


class TestEvaluation:
    """A checkpoint is enough, and untrained weights are not."""

    @pytest.mark.parametrize("command", ["validate", "test", "predict"])
    def test_from_a_checkpoint_alone(self, command: str, finished_run: Path, said: list[str]) -> None:
        cli = run([command, "--ckpt_path=best", *LIMITS])
        assert_same_weights(cli.model.state_dict(), weights(finished_run / "checkpoints" / "best.ckpt"))
        assert said[0] == f"--ckpt_path best is {finished_run}/checkpoints/best.ckpt"
        assert len(list(Path("runs/pixel_generation").iterdir())) == 1, "its files go to the checkpoint's run"
        assert cli.trainer.accumulate_grad_batches == 1, "the trainer is not the checkpoint's"

    def test_training_s_configuration_stays(self, finished_run: Path) -> None:
        before = (finished_run / "config.yaml").read_text()
        run(["test", "--ckpt_path=last", "--data.batch_size=2", *LIMITS])
        assert (finished_run / "config.yaml").read_text() == before

    def test_best_of_a_named_configuration(self, finished_run: Path) -> None:
        """Another configuration's newer run is not taken for it."""
        shutil.copytree(finished_run, "runs/other/2999-01-01_00-00-00")
        cli = run(["validate", f"--config={CONFIG}", "--ckpt_path=best", *LIMITS])
        assert cli.trainer.ckpt_path == str(finished_run / "checkpoints" / "best.ckpt")
        cli = run(["validate", "--ckpt_path=best", *LIMITS])
        assert "2999" in str(cli.trainer.ckpt_path)

    def test_the_trainer_refuses_untrained_weights_too(self) -> None:
        cli = run([*FIT, "--trainer.fast_dev_run=true"])
        untrained = type(cli.model)(backbone=cli.model.backbone)
        for evaluate in ("validate", "test", "predict"):
            trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, limit_test_batches=1)
            with pytest.raises(UserError, match="the weights of PixelGeneration are untrained: give --ckpt_path"):
                getattr(trainer, evaluate)(untrained, cli.datamodule)
        trainer.test(cli.model, cli.datamodule)

    def test_pretrained_weights_need_no_checkpoint(self) -> None:
        """But a task with a head does, as its head is drawn at random."""
        user_module(
            "downloaded",
            """
            from lt_cli.backbones.gpt import GPT

            class Net(GPT):
                pretrained = True
            """,
        )
        run(["test", f"--config={CONFIG}", "--model.backbone=downloaded.Net", *LIMITS])
        headed = ROOT / "tests" / "contract" / "pixel_classification.yaml"
        with pytest.raises(UserError, match="the weights of PixelClassification are untrained"):
            run(["test", f"--config={headed}", "--model.backbone=downloaded.Net", *LIMITS])


class TestResume:
    """A run goes on in its own directory; the command line beats the configuration, that the checkpoint."""

    def test_in_the_same_directory_with_one_table_of_metrics(self, finished_run: Path, said: list[str]) -> None:
        before = rows(finished_run)
        cli = run(["fit", f"--config={CONFIG}", "--ckpt_path=last"])
        assert said[0] == f"--ckpt_path last is {finished_run}/checkpoints/last.ckpt"
        assert cli.trainer.global_step == 8
        assert only_run("pixel_generation") == finished_run
        after = rows(finished_run)
        steps = [int(row["step"]) for row in after]
        assert [{k: v for k, v in row.items() if k in before[0]} for row in after[: len(before)]] == before
        assert steps == sorted(steps)
        assert steps[-1] == 7
        for logs in finished_run.glob("events*"):
            assert logs.stat().st_size

    def test_fit_from_a_checkpoint_alone(self, finished_run: Path) -> None:
        cli = run(["fit", f"--ckpt_path={finished_run}/checkpoints/last.ckpt", "--trainer.max_epochs=2"])
        assert cli.trainer.global_step == 8
        assert cli.trainer.accumulate_grad_batches == 2, "the trainer is the run's"
        assert only_run("pixel_generation") == finished_run

    def test_the_best_score_is_remembered(self, finished_run: Path) -> None:
        best = finished_run / "checkpoints" / "best.ckpt"
        before = best.read_bytes()
        run(["fit", "--ckpt_path=last", f"--config={CONFIG}", "--model.optimizer.lr=100"])
        assert best.read_bytes() == before, "what got worse is not the best"
        assert weights_step(finished_run) == 8

    def test_fit_starts_where_there_is_no_last(self, said: list[str]) -> None:
        assert run([*FIT, "--ckpt_path=last"]).trainer.global_step == 2
        assert said[0] == "no run in runs/pixel_generation has a last checkpoint yet: starting one"

    @staticmethod
    def rates(monkeypatch: pytest.MonkeyPatch, *args: str) -> list[float]:
        """The learning rate of each optimiser step of a fit, as the optimiser has it."""
        seen: list[float] = []

        def note(task: Any, optimizer: torch.optim.Optimizer) -> None:
            assert len({group["lr"] for group in optimizer.param_groups}) == 1
            seen.append(optimizer.param_groups[0]["lr"])

        with monkeypatch.context() as patch:
            patch.setattr("lt_cli.tasks.base.Task.on_before_optimizer_step", note)
            run(list(args))
        return seen

    @pytest.mark.parametrize("where", ["command line", "configuration", "nowhere"])
    def test_the_learning_rate_is_the_one_asked_for(
        self, where: str, finished_run: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
    ) -> None:
        """And the schedule goes on with it where it stood: the fifth of eight steps."""
        Path("faster.yaml").write_text("model: {init_args: {optimizer: {init_args: {lr: 0.5}}}}")
        flags = {"command line": ["--model.optimizer.lr=0.5"], "configuration": ["--config=faster.yaml"], "nowhere": []}
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.003 if where == "nowhere" else 0.5)
        schedule = WarmupCosine(optimizer, total_steps=8, warmup_steps=3)
        whole = []
        for _ in range(8):
            whole += schedule.get_last_lr()
            optimizer.step()
            schedule.step()
        resumed = self.rates(monkeypatch, "fit", f"--config={CONFIG}", *flags[where], "--ckpt_path=last")
        assert resumed == pytest.approx(whole[4:])
        assert len(set(resumed)) == 4, "the schedule goes on"
        assert ("resuming with model.optimizer.lr 0.5 (was 0.003)" in said) == (where != "nowhere")

    def test_a_constant_rate_is_the_one_asked_for(self, finished_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        constant = ["--model.schedule=null", "--model.optimizer.lr=0.25", f"--config={CONFIG}", "--ckpt_path=last"]
        assert self.rates(monkeypatch, "fit", *constant) == [0.25] * 4

    def test_other_settings_of_the_optimizer(self, finished_run: Path, said: list[str]) -> None:
        cli = run(["fit", f"--config={CONFIG}", "--ckpt_path=last", "--model.optimizer.betas=[0.5,0.6]"])
        assert [tuple(group["betas"]) for group in cli.trainer.optimizers[0].param_groups] == [(0.5, 0.6)] * 2
        assert any(message.startswith("resuming with model.optimizer.betas [0.5, 0.6]") for message in said)

    def test_a_copied_checkpoint_begins_a_new_run(self, finished_run: Path) -> None:
        shutil.copy(finished_run / "checkpoints" / "last.ckpt", "mine.ckpt")
        run(["fit", "--ckpt_path=mine.ckpt", "--trainer.max_epochs=2", "--trainer.default_root_dir=runs"])
        assert weights_step(only_run("mine")) == 8
        assert weights_step(finished_run) == 4


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--help"], "{fit,validate,test,predict}"),
        (["fit", "--help"], "--weight_noise.help"),
        (["test", "-h"], "--ckpt_path CKPT_PATH"),
        (["fit", "--model.help"], "--model.backbone BACKBONE"),
        (["fit", "--model.backbone.help=lt_cli.backbones.gpt.GPT"], "Tokens it predicts"),
    ],
)
def test_help(args: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run(args)
    assert stop.value.code == 0
    output = capsys.readouterr()
    assert expected in output.out
    assert output.err == ""


PROGRAMS = {
    signal.SIGINT: [sys.executable, str(ROOT / "main.py")],
    signal.SIGTERM: [sys.executable, "-m", "lt_cli"],
}
"""What the shell starts, and what it then ends it with."""


def test_a_signal_ends_a_run_that_can_go_on() -> None:
    """It exits with the shell's code for the signal, leaves a whole checkpoint, and says how to go on.

    Two programs at once, as starting one takes seconds, away from the repository, with a module of the user's.
    """
    user_module(
        "bench",
        """
        from lt_cli.backbones.gpt import GPT

        class Shallow(GPT):
            def __init__(self, vocab_size: int, max_seq_len: int, embed_dim: int = 4):
                super().__init__(
                    vocab_size=vocab_size, max_seq_len=max_seq_len, embed_dim=embed_dim, num_heads=1, num_layers=1
                )
        """,
    )
    endless = ["--model.schedule.warmup_steps=0", "--trainer.max_epochs=-1", "--trainer.max_steps=1000000"]
    flags = [f"--config={CONFIG}", "--model.backbone=bench.Shallow", "--checkpoints.every_minutes=0", *endless]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    processes = {
        number: subprocess.Popen(
            [*program, "fit", *flags, f"--trainer.default_root_dir={number.name}"],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number, program in PROGRAMS.items()
    }
    for number, process in processes.items():
        last = kill_when(process, f"{number.name}/pixel_generation/*/checkpoints/last.ckpt", number)
        assert process.returncode == 128 + number
        assert process.stderr is not None
        errors = process.stderr.read()
        assert "Traceback" not in errors
        step = read(last)["global_step"]
        assert errors.splitlines()[-1].startswith(f"stopped at step {step}; go on with: ")
        command = shlex.split(errors.rpartition("go on with: ")[2])
        program = PROGRAMS[number]
        assert command == [*program, "fit", f"--ckpt_path={last}"]
        cli = run([*command[len(program) :], f"--trainer.max_steps={step + 2}"])
        assert cli.trainer.global_step == step + 2
        assert type(cli.model.backbone).__name__ == "Shallow"
        assert only_run("pixel_generation", number.name) == last.parent.parent


def test_signals_are_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a run within Python, whether it ends well or not."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    run(FIT)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before

    def defect(*args: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr("lt_cli.callbacks.throughput.Throughput.on_train_batch_end", defect)
    with pytest.raises(RuntimeError, match="a defect"):
        run(FIT)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_what_lightning_refuses_late_is_one_line() -> None:
    with pytest.raises(UserError, match="val_check_interval"):
        run(["fit", f"--config={CONFIG}", "--trainer.val_check_interval=1000", "--trainer.enable_progress_bar=false"])


def test_options_that_another_class_leaves_out_are_named(caplog: pytest.LogCaptureFixture) -> None:
    other = "--model=lt_cli.tasks.pixel_classification.PixelClassification"
    Path("rows.yaml").write_text("model: {init_args: {keep_rows: 2}}")
    with pytest.raises(SystemExit), caplog.at_level("INFO"):
        run(["fit", "--config=rows.yaml", other, "--print_config"])
    assert "PixelClassification in place of PixelGeneration leaves out what was said of keep_rows" in caplog.text


class TestNull:
    """jsonargparse hands a value to the class within as Python writes it, where None is a text like any other."""

    GPT2 = "--model.backbone=lt_cli.backbones.huggingface.HuggingFaceCausalLM"

    def printed(self, *options: str) -> dict[str, Any]:
        output = io.StringIO()
        with contextlib.redirect_stdout(output), pytest.raises(SystemExit):
            run(["fit", *options, "--print_config"])
        backbone: dict[str, Any] = yaml.safe_load(output.getvalue())["model"]["init_args"]["backbone"]["init_args"]
        return backbone

    @pytest.mark.parametrize("option", ["--model.backbone.grid_width", "--model.backbone.init_args.grid_width"])
    def test_of_a_number(self, option: str) -> None:
        assert self.printed(f"{option}=null")["grid_width"] is None

    def test_of_a_text(self) -> None:
        assert (
            self.printed(self.GPT2, "--model.backbone.pretrained=x", "--model.backbone.pretrained=null")["pretrained"]
            is None
        )

    def test_within_a_mapping(self) -> None:
        option = "--model.backbone.architecture={model_type: gpt2, pad_token_id: null, names: [null, None of it]}"
        architecture = self.printed(self.GPT2, option)["architecture"]
        assert architecture == {"model_type": "gpt2", "pad_token_id": None, "names": [None, "None of it"]}

    def test_not_of_a_text_that_begins_so(self) -> None:
        assert self.printed(self.GPT2, "--model.backbone.pretrained=None of it")["pretrained"] == "None of it"


@pytest.mark.parametrize("value", ["#1 String", "# a", " #b"])
@pytest.mark.parametrize("option", ["text_column", "pair_column"])
def test_a_text_that_begins_with_a_hash_is_no_comment(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ROOT / "configs" / "sentence_pair.yaml"
    with pytest.raises(SystemExit):
        run(["fit", f"--config={config}", f"--data.{option}={value}", "--print_config"])
    assert yaml.safe_load(capsys.readouterr().out)["data"]["init_args"][option] == value
    Path("mine.yaml").write_text(f'data: {{init_args: {{{option}: "{value}"}}}}')
    with pytest.raises(SystemExit):
        run(["fit", f"--config={config}", "--config=mine.yaml", "--print_config"])
    assert yaml.safe_load(capsys.readouterr().out)["data"]["init_args"][option] == value


def test_defaults_that_another_class_leaves_out_are_not_named(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(SystemExit), caplog.at_level("INFO"):
        run(["fit", f"--config={ROOT / 'configs' / 'cifar10_resnet.yaml'}", "--print_config"])
    assert "leaves out" not in caplog.text
