"""Every mistake of a user is one line: the option or file with its full name, the value, the rule, what to do."""

import contextlib
import io
import itertools
import re
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import yaml
from contract_suite import ROOT
from errors_corpus import CORPUS, TASKS, Wrong
from errors_of_choices import CHOICES_CORPUS
from errors_of_classification import CLASSIFICATION_CORPUS
from errors_of_images import IMAGE_CORPUS
from errors_of_question_answering import QUESTION_CORPUS
from errors_of_tables import TABLE_CORPUS
from errors_of_text import TEXT_CORPUS
from errors_of_text_generation import GENERATION_CORPUS
from errors_of_tokens import TOKEN_CORPUS
from errors_of_video_dialogue import VIDEO_CORPUS

from lt_cli.cli import main, run
from lt_cli.errors import did_you_mean

CONTRACT = ROOT / "tests" / "contract" / "pixel_generation.yaml"
GOLDEN = ROOT / "tests" / "golden" / "pixel_generation.ckpt"
FIT = ["fit", f"--config={CONTRACT}", "--trainer.max_steps=2", "--model.schedule.warmup_steps=0"]


NOISE = ("Parser key", "Namespace(", "NestedArg", "Union", "NoneType", "<class", "typing.", "Traceback", "object at 0x")
"""What only who knows jsonargparse or Python could read."""


def mistake(*args: str, code: int = 2) -> str:
    """The message of a command line that a user has to mend, from the shell's entry."""
    errors = io.StringIO()
    with (
        mock.patch("sys.argv", ["main.py", *args]),
        contextlib.redirect_stderr(errors),
        pytest.raises(SystemExit) as stop,
    ):
        main()
    before, found, message = errors.getvalue().rpartition("error: ")
    assert stop.value.code == code
    assert found, "a line on stderr begins with error:"
    assert before == "" or before.endswith("\n")
    assert "Traceback" not in before
    assert message.endswith("\n")
    message = message[:-1]
    assert message == message.strip() != ""
    assert 1 <= len(message.splitlines()) <= 3
    assert len(message) <= 600, message
    for noise in NOISE:
        assert noise not in message
    return message


CORPORA = [*CORPUS, *TEXT_CORPUS, *CLASSIFICATION_CORPUS, *TOKEN_CORPUS, *QUESTION_CORPUS, *CHOICES_CORPUS]
CORPORA += [*GENERATION_CORPUS, *TABLE_CORPUS, *IMAGE_CORPUS, *VIDEO_CORPUS]


@pytest.mark.parametrize("wrong", CORPORA, ids=str)
def test_corpus(wrong: Wrong) -> None:
    if wrong.before is not None:
        wrong.before()
    began = time.monotonic()
    message = mistake(*wrong.args, code=wrong.code)
    seconds = time.monotonic() - began
    expected, ends_elsewhere, _ = wrong.says.partition("…")
    assert message.startswith(expected) if ends_elsewhere else message == expected
    assert seconds < 5 or not wrong.parser_finds_it
    assert not Path("ran").exists(), "code in a file is never run"


def test_the_corpus_is_of_everything() -> None:
    """Every subcommand with every task, each from its configuration or its checkpoint."""
    assert len(CORPUS) >= 150
    seen = {(wrong.args[0], task) for wrong in CORPUS for task in TASKS if any(task in arg for arg in wrong.args[1:])}
    assert seen >= set(itertools.product(("fit", "validate", "test", "predict"), TASKS))


def test_values_that_disagree_are_told_all_at_once() -> None:
    message = mistake(*FIT, "--data.palette.num_colors=7", "--data.size=[8,8]")
    assert "--model.backbone.init_args.vocab_size=7" in message
    assert "--model.backbone.init_args.max_seq_len=64" in message
    run([*FIT, "--data.palette.num_colors=7", "--data.size=[8,8]", *re.findall(r"--model\S+=\d+", message)])


def test_a_schedule_needs_a_length() -> None:
    endless = ["--trainer.max_steps=-1", "--trainer.max_epochs=-1"]
    message = mistake(*FIT, *endless)
    assert message.startswith("a schedule needs the run's length: set --trainer.max_steps or --trainer.max_epochs, or ")
    assert "--model.schedule=null" in message


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_missing_gpu() -> None:
    assert mistake(*FIT, "--trainer.accelerator=gpu").startswith("--trainer.accelerator=gpu --trainer.devices=auto")
    assert "--trainer.accelerator=gpu" in mistake(*FIT, "--trainer.accelerator=gpu", "--trainer.devices=2")


def test_a_callback_in_the_list_is_named() -> None:
    """The first branch of the union, which is the list, says what is wrong."""
    message = mistake(*FIT, "--trainer.callbacks+=ModelSummary", "--trainer.callbacks.max_dept=1")
    assert message == "--trainer.callbacks: ModelSummary has no option max_dept; did you mean max_depth?"
    message = mistake(*FIT, "--trainer.callbacks+=ModelSummary", "--trainer.callbacks.max_depth=deep")
    assert message == "--trainer.callbacks.max_depth: expected int, got deep"


def write(name: str, content: str | bytes) -> str:
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return name


BROKEN = {
    "empty.yaml": ("", "is empty"),
    "comment.yaml": ("# nothing yet\n", "is empty"),
    "broken.yaml": ("model: [", "is not YAML: "),
    "indented.yaml": ("model:\n  class_path: a\n class_path: b\n", "is not YAML: "),
    "list.yaml": ("- 1\n- 2\n", "must hold options and their values, not a list"),
    "word.yaml": ("word\n", "must hold options and their values, not a str"),
    "bytes.yaml": (b"\xff\xfe\x00", ": "),
    "null.yaml": (b"a: \x00", "is not YAML: "),
}


@pytest.mark.parametrize("name", [*BROKEN, "missing.yaml"])
@pytest.mark.parametrize("option", ["--config", "--trainer", "--model.backbone", "--data.palette"])
def test_broken_file(option: str, name: str) -> None:
    """A configuration and a fragment alike, whichever option names it."""
    content, rule = BROKEN.get(name, (None, ": No such file or directory"))
    if content is not None:
        write(name, content)
    message = mistake(*FIT, f"{option}={name}")
    assert message.startswith(f"{option} {name}")
    assert rule in message


def test_configuration_that_is_no_file() -> None:
    Path("directory").mkdir()
    assert mistake("fit", "--config", "directory") == "--config directory: Is a directory"
    assert mistake("fit", "--config") == "--config needs a file"
    assert mistake("fit", "--config=") == "--config needs a file"


def edited(edit: Callable[[dict[str, Any]], Any]) -> str:
    """The contract's configuration, changed in one place."""
    config = yaml.safe_load(CONTRACT.read_text())
    edit(config)
    return write("mine.yaml", yaml.safe_dump(config))


@pytest.mark.parametrize(
    ("edit", "rule"),
    [
        (lambda c: c.update(modle=c.pop("model"), model=None), "there is no option --modle.init_args.backbone"),
        (lambda c: c.update(extra=3), "there is no option --extra"),
        (lambda c: c["trainer"].update(max_step=3), "there is no option --trainer.max_step; did you mean --trainer.ma"),
        (lambda c: c["trainer"].update(max_steps="x"), "--trainer.max_steps: expected int, got x"),
        (lambda c: c["model"]["init_args"].update(layer=1), "--model: PixelGeneration has no option layer"),
        (
            lambda c: c["model"]["init_args"]["backbone"]["init_args"].update(num_layer=1),
            "--model.backbone: GPT has no option num_layer; did you mean num_layers?",
        ),
        (
            lambda c: c["model"]["init_args"].update(sampling={"temp": 1}),
            "there is no option --model.sampling.temp; did you mean --model.sampling.temperature?",
        ),
        (lambda c: c["model"]["init_args"].pop("backbone"), "--model.backbone must be given"),
        (lambda c: c.pop("data"), "--data must be given"),
        (lambda c: c.update(trainer=[1]), "mine.yaml: trainer must hold options and their values, not a list"),
        (lambda c: c.update(trainer="gone.yaml"), "mine.yaml: trainer gone.yaml: No such file or directory"),
        (lambda c: c["model"]["init_args"].update(backbone="gone.yaml"), "--model.backbone: there is no file gone."),
        (lambda c: c["model"].update(class_path="lt_cli.tasks.Gone"), "--model: there is no Gone in lt_cli.tasks"),
    ],
)
def test_mistake_in_a_configuration(edit: Callable[[dict[str, Any]], Any], rule: str) -> None:
    assert mistake("fit", f"--config={edited(edit)}").startswith(rule)


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_evaluation_needs_trained_weights(command: str) -> None:
    assert mistake(command).startswith(f"{command} needs trained weights: give --ckpt_path=best, last or a file")
    message = mistake(command, f"--config={CONTRACT}")
    assert message == "the weights of PixelGeneration are untrained: give --ckpt_path=best, last or a file"


@pytest.mark.parametrize("command", ["fit", "test"])
def test_checkpoint_of_another_task(command: str) -> None:
    other = ROOT / "tests" / "contract" / "pixel_classification.yaml"
    message = mistake(command, f"--config={other}", f"--ckpt_path={GOLDEN}")
    assert message.startswith(f"the checkpoint {GOLDEN} is of another model: ")
    assert message.endswith("leave out --config to use the checkpoint's own configuration")


def test_checkpoint_of_another_size() -> None:
    message = mistake("test", f"--ckpt_path={GOLDEN}", "--model.backbone.num_layers=1", "--trainer.accelerator=cpu")
    assert message.startswith(f"the checkpoint {GOLDEN} is of another model: Unexpected key(s)")


def test_resuming_with_another_optimizer() -> None:
    longer = ["--trainer.max_epochs=9", "--trainer.max_steps=99"]
    message = mistake(*FIT, f"--ckpt_path={GOLDEN}", "--model.optimizer=torch.optim.SGD", *longer)
    assert message.startswith("SGD has ")
    assert "the checkpoint's optimiser has not: go on with the same --model.optimizer" in message


@pytest.mark.parametrize("place", ["taken", "taken/below", "/dev/null/below"])
def test_output_directory_that_cannot_be(place: str) -> None:
    """As root may write anywhere: a file where a directory should be."""
    Path("taken").write_text("a file")
    message = mistake(*FIT, f"--trainer.default_root_dir={place}")
    assert message.startswith(f"--trainer.default_root_dir: {place}/pixel_generation/")
    assert message.endswith(" cannot be made: Not a directory")


class TestMain:
    """The shell sees an exit code and one line."""

    @pytest.fixture
    def shell(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
        """Runs the console's entry; returns the exit code and what stood on stderr."""

        def call(*args: str) -> tuple[Any, str]:
            monkeypatch.setattr("sys.argv", ["main.py", *args])
            with pytest.raises(SystemExit) as stop:
                main()
            return stop.value.code, capsys.readouterr().err

        return call

    @pytest.mark.parametrize(
        "args", [[], ["fti"], ["fit", "--config=gone.yaml"], [*FIT, "--data.bach_size=3"], ["test"]]
    )
    def test_a_mistake_is_one_line(self, shell: Any, args: list[str]) -> None:
        code, errors = shell(*args)
        assert code == 2
        assert errors.startswith("error: ")
        assert len(errors.splitlines()) == 1

    @pytest.mark.parametrize(
        "args",
        [
            [*FIT, "--trainer.accelerator=abacus"],
            [*FIT, "--trainer.limit_val_batches=nonsense"],
            [*FIT, "--data.palette.num_colors=7"],
            ["test", f"--config={CONTRACT}"],
        ],
    )
    def test_a_mistake_found_later_is_the_last_line(self, shell: Any, args: list[str]) -> None:
        code, errors = shell(*args)
        assert code == 2
        assert errors.splitlines()[-1].startswith("error: ")
        assert "Traceback" not in errors

    def test_a_failed_run_has_another_code(self, shell: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*args: object, **kwargs: object) -> None:
            raise OSError(28, "No space left on device", "metrics.csv")

        monkeypatch.setattr("lt_cli.loggers.AppendingCSVLogger.log_metrics", full)
        code, errors = shell(*FIT, "--trainer.log_every_n_steps=1")
        assert code == 1
        assert errors.splitlines()[-1] == "error: [Errno 28] No space left on device: 'metrics.csv'"
        assert "Traceback" not in errors

    def test_the_traceback_is_shown_on_request(self, shell: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LT_CLI_TRACEBACK", "1")
        code, errors = shell("fit", "--config=gone.yaml")
        assert code == 2
        assert "Traceback (most recent call last)" in errors
        assert "FileNotFoundError" in errors, "with its cause"
        assert errors.splitlines()[-1] == "error: --config gone.yaml: No such file or directory"

    def test_an_interruption_before_training(self, shell: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupt(*args: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("lt_cli.cli.arrange", interrupt)
        assert shell(*FIT) == (130, "")

    def test_a_process_that_was_killed(self, shell: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        def lose(*args: object) -> None:
            raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")

        monkeypatch.setattr("lt_cli.tasks.pixel_generation.PixelGeneration.step", lose)
        code, errors = shell(*FIT)
        assert code == 1
        assert errors.splitlines()[-1].startswith(
            "error: DataLoader worker (pid 7) is killed by signal: Killed: it may"
        )
        assert "Traceback" not in errors

    @pytest.mark.parametrize(
        ("error", "rule"),
        [
            (
                RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer"),
                "Connection closed by peer",
            ),
            (
                torch.distributed.DistBackendError("NCCL error: remote process exited\nmore"),
                "NCCL error: remote process",
            ),
        ],
    )
    def test_another_process_that_is_gone(
        self, error: Exception, rule: str, shell: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def lose(*args: object) -> None:
            raise error

        monkeypatch.setattr("lt_cli.tasks.pixel_generation.PixelGeneration.step", lose)
        code, errors = shell(*FIT)
        assert code == 1
        assert errors.splitlines()[-1].startswith(
            f"error: the processes of the run lost or did not find one another: {rule}"
        )
        assert "Traceback" not in errors

    @pytest.mark.parametrize(("restarts", "said"), [("3", True), ("0", False)])
    def test_restarts_that_hang_are_said(
        self, restarts: str, said: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Where torchrun's processes share its store, which TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 turns off."""
        monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
        monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", restarts)
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            run([*FIT, "--trainer.max_steps=1"])
        texts = [str(one.message) for one in found] + caplog.messages
        assert any("TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1" in text for text in texts) is said

    def test_a_defect_is_not_hidden(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What the user cannot mend keeps its traceback."""

        def defect(*args: object) -> None:
            raise RuntimeError("a defect")

        monkeypatch.setattr("lt_cli.tasks.pixel_generation.PixelGeneration.step", defect)
        monkeypatch.setattr("sys.argv", ["main.py", *FIT])
        with pytest.raises(RuntimeError, match="a defect"):
            main()


def test_did_you_mean() -> None:
    assert did_you_mean("num_layer", ["num_heads", "num_layers"]) == "; did you mean num_layers?"
    assert did_you_mean("--data.x.y", ["--data", "--model"]) == "; did you mean --data?"
    assert did_you_mean("temp", ["top_p", "temperature"]) == "; did you mean temperature?", "beginnings come first"
    assert did_you_mean("zzz", ["num_layers"]) == ""
