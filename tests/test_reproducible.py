"""What a run was made with is in its directory, and making it again gives the same bits."""

import contextlib
import io
import json
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from contract_suite import CONFIGS, ROOT, assert_same_weights, only_run
from lightning.pytorch import LightningModule

from lt_cli.callbacks.session_record import git_state
from lt_cli.checkpoint import changes
from lt_cli.checkpoint_io import read
from lt_cli.cli import run

CONFIG = ROOT / "tests" / "contract" / "pixel_generation.yaml"
FIT = ["fit", f"--config={CONFIG}"]


def printed(*args: str) -> str:
    """What --print_config prints."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output), pytest.raises(SystemExit) as end:
        run([*args, "--print_config"])
    assert end.value.code == 0
    return output.getvalue()


def sessions(root: str | Path = "runs") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (only_run(CONFIG.stem, root) / "sessions.jsonl").read_text().splitlines()]


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What runs say of how they go on."""
    messages: list[str] = []
    for module in ("callbacks.session_record", "callbacks.exact_resume"):
        monkeypatch.setattr(f"lt_cli.{module}.rank_zero_info", messages.append)
    return messages


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_the_same_configuration_gives_the_same_bits(config: Path) -> None:
    """Twice, from what --print_config prints, from the run's own file and its checkpoint; not with another seed."""
    fit = ["fit", f"--config={config}", "--data.batch_size=12", "--model.optimizer.lr=0.002"]
    once = run([*fit, "--trainer.default_root_dir=once"]).model.state_dict()
    Path("printed.yaml").write_text(printed(*fit))
    directory = only_run(config.stem, "once")
    Path("of_checkpoint.yaml").write_text(printed("fit", f"--ckpt_path={directory / 'checkpoints' / 'last.ckpt'}"))
    for again in (
        fit,
        *(["fit", f"--config={c}"] for c in ("printed.yaml", directory / "config.yaml", "of_checkpoint.yaml")),
    ):
        assert_same_weights(run([*again, "--trainer.default_root_dir=again"]).model.state_dict(), once)
    other = run([*fit, "--seed_everything=4", "--trainer.default_root_dir=other"]).model.state_dict()
    assert any(not torch.equal(other[name], once[name]) for name in once)


def test_each_session_is_recorded() -> None:
    run([*FIT, "--trainer.max_epochs=1", "--seed_everything=7"])
    last = only_run(CONFIG.stem) / "checkpoints" / "last.ckpt"
    run([*FIT, "--ckpt_path=last", "--model.optimizer.lr=0.01"])
    first, second = sessions()
    assert first["command"] == [*FIT, "--trainer.max_epochs=1", "--seed_everything=7"]
    assert (first["seed"], first["resumed_from"], first["changes"]) == (7, None, [])
    assert first["versions"]["torch"] == version("torch")
    assert first["machine"]["processes"] == 1
    assert second["command"] == [*FIT, "--ckpt_path=last", "--model.optimizer.lr=0.01"]
    assert second["resumed_from"] == str(last)
    expected = ["seed_everything 3 (was 7)", "trainer.max_epochs 2 (was 1)", "model.optimizer.lr 0.01 (was 0.003)"]
    assert sorted(second["changes"]) == sorted(expected)


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_evaluation_is_no_session(command: str) -> None:
    run([*FIT, "--trainer.max_epochs=1"])
    run([command, "--ckpt_path=last", "--trainer.accelerator=cpu", "--trainer.limit_predict_batches=1"])
    assert len(sessions()) == 1


def test_git_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(Path.cwd()))
    assert git_state() is None, "outside a repository"
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], [*identity, "commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run(["git", *command], check=True)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    assert git_state() == {"commit": commit, "changed": []}
    Path("new.py").touch()
    assert git_state() == {"commit": commit, "changed": ["new.py"]}
    monkeypatch.setenv("PATH", "")
    assert git_state() is None, "without git"


class TestResuming:
    """With another configuration: what is different is said, and nothing else."""

    def test_nothing_changed(self, said: list[str]) -> None:
        run([*FIT, "--trainer.max_epochs=1"])
        run(["fit", "--ckpt_path=last"])
        assert [message for message in said if message.startswith("resuming")] == []

    def test_options_classes_and_callbacks(self, said: list[str]) -> None:
        run([*FIT, "--trainer.max_epochs=1"])
        run(
            [
                *[*FIT, "--ckpt_path=last", "--data.flip=false", "--weight_noise.std=0.5", "--trainer.max_epochs=3"],
                *["--model.schedule=null", "--data.palette=lt_cli.data.palette.KMeansPalette"],
                *["--data.palette.num_colors=5", "--trainer.enable_progress_bar=true"],
            ]
        )
        assert sorted(message for message in said if message.startswith("resuming")) == [
            "resuming with data.flip False (was True)",
            "resuming with data.palette lt_cli.data.palette.KMeansPalette (was lt_cli.data.palette.GreyLevels)",
            "resuming with model.schedule None (was lt_cli.optim.WarmupCosine)",
            "resuming with trainer.max_epochs 3 (was 1)",
            "resuming with weight_noise lt_cli.callbacks.weight_noise.WeightNoise (was None)",
        ]

    def test_what_an_earlier_version_did_not_know_is_no_change(self) -> None:
        old = {"model": {"class_path": "a.B", "init_args": {"x": [1, 2]}}}
        new = {"model": {"class_path": "a.B", "init_args": {"x": (1, 2), "y": 3}}, "new": 4}
        assert changes({"lt_cli": {"config": old}}, new) == []
        assert changes({}, new) == []

    def test_on_another_machine(self, said: list[str]) -> None:
        """Exactness needs the same number of processes, the same kind of device and the same torch."""
        run([*FIT, "--trainer.max_epochs=1"])
        last = only_run(CONFIG.stem) / "checkpoints" / "last.ckpt"
        content = torch.load(last, weights_only=True)
        content["lt_cli"]["machine"] |= {"processes": 4, "torch": "1.0"}
        torch.save(content, last)
        run(["fit", "--ckpt_path=last"])
        assert "resuming with processes 1 (was 4): where it stood, but not bit for bit" in said
        assert f"resuming with torch {torch.__version__} (was 1.0): where it stood, but not bit for bit" in said


def test_another_number_of_processes_takes_every_remaining_row_once(
    two_processes: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    """A run of two processes, killed within an epoch, goes on with one where it stood."""
    rows: list[int] = []

    def note(self: LightningModule, batch: Any, batch_idx: int) -> None:
        rows.extend(batch["index"].tolist())

    monkeypatch.setattr("lt_cli.tasks.base.Task.on_train_batch_start", note)
    run([*FIT, "--trainer.default_root_dir=whole"])
    whole, done = rows.copy(), 3 * 2 * 16  # three steps of two batches of 16 rows
    rows.clear()
    broken = two_processes / "broken" / CONFIG.stem
    last = next(broken.glob("*/checkpoints/last.ckpt"))
    assert read(last)["global_step"] == 3
    copy = Path("last.ckpt")
    copy.write_bytes(last.read_bytes())
    run(["fit", f"--config={CONFIG}", f"--ckpt_path={copy}", "--trainer.strategy=auto", "--trainer.devices=1"])
    assert rows == whole[done:]
    assert "resuming with processes 1 (was 2): where it stood, but not bit for bit" in said
