"""What a run was made with is in its directory, and making it again gives the same bits."""

import contextlib
import csv
import io
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from contract_suite import CONFIGS, ROOT, assert_same_weights, only_run
from lightning.pytorch import LightningModule
from torch.utils.data import DataLoader
from toys import NumberData, NumberTask, trainer

from lt_cli.callbacks.exact_resume import ExactResume
from lt_cli.callbacks.session_record import git_state
from lt_cli.checkpoint import changes
from lt_cli.checkpoint_io import read
from lt_cli.cli import run
from lt_cli.data.base import _Rows
from lt_cli.errors import UserError

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

    def test_the_entries_of_a_mapping(self, said: list[str]) -> None:
        freeze = ["--freeze.modules=backbone.blocks", "--freeze.thaw={1: backbone.blocks.0}"]
        run([*FIT, *freeze, "--trainer.max_epochs=1"])
        run([*FIT, "--ckpt_path=last", freeze[0], "--freeze.thaw={1: backbone.blocks.0, 2: backbone.blocks.1}"])
        was = "(was {'1': 'backbone.blocks.0'})"
        assert f"resuming with freeze.thaw {{'1': 'backbone.blocks.0', '2': 'backbone.blocks.1'}} {was}" in said

    def test_from_an_earlier_checkpoint(self, said: list[str]) -> None:
        """The newer one is replaced; and it is the oldest that goes, not the one of the lowest step."""
        run([*FIT, "--checkpoints.every_minutes=0", "--checkpoints.keep=-1"])
        directory = only_run(CONFIG.stem) / "checkpoints"
        step = directory / "step-0000002.ckpt"
        run(["fit", f"--ckpt_path={step}", "--trainer.max_steps=4", "--checkpoints.keep=2"])
        assert f"going on from {step}: {directory / 'last.ckpt'} will be replaced" in said
        assert sorted(path.name for path in directory.glob("step-*")) == ["step-0000003.ckpt", "step-0000004.ckpt"]

    def test_with_a_loader_of_ones_own(self, said: list[str]) -> None:
        class Plain(NumberData):
            def train_dataloader(self) -> Any:
                return DataLoader(_Rows(self.splits["train"]), sampler=[(0, [0, 1]), (0, [2, 3])], batch_size=None)

        half = Path("half.ckpt")
        one = trainer(ExactResume(), max_epochs=1)
        one.fit(NumberTask(), Plain())
        one.save_checkpoint(half)
        trainer(ExactResume(), max_epochs=2).fit(NumberTask(), Plain(), ckpt_path=half)
        assert any("a loader that is not of lt_cli.data: in another order, so not bit for bit" in m for m in said)

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


def test_one_process_at_a_time_trains_in_a_directory() -> None:
    """Two would write the same files. The hold ends with the process, however that ends."""
    run([*FIT, "--trainer.max_epochs=1"])
    directory = only_run(CONFIG.stem)
    hold = "import fcntl, sys; lock = open(sys.argv[1], 'w'); fcntl.lockf(lock, fcntl.LOCK_EX); print(1, flush=True)"
    with subprocess.Popen(
        [sys.executable, "-c", f"{hold}; input()", directory / ".lock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(UserError, match=f"another process is training in {directory}: wait for it"):
            run([*FIT, "--ckpt_path=last"])
        run(["test", "--ckpt_path=last", "--trainer.accelerator=cpu"])
        other.kill()
    assert run([*FIT, "--ckpt_path=last"]).trainer.global_step == 8


@pytest.mark.parametrize("cut", [1, 5, 20, 60])
def test_a_half_written_line_of_metrics_is_dropped(cut: int) -> None:
    """As a power cut leaves it; the rest is kept, and the run goes on."""
    run([*FIT, "--trainer.max_epochs=1", "--trainer.log_every_n_steps=1", "--trainer.limit_val_batches=0"])
    path = only_run(CONFIG.stem) / "metrics.csv"
    path.write_bytes(path.read_bytes()[:-cut])
    kept = path.read_text().splitlines()[1:-1]
    run([*FIT, "--ckpt_path=last", "--trainer.log_every_n_steps=1"])
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > len(kept)
    assert all(None not in row and None not in row.values() for row in rows)
    assert {int(row["step"]) for row in rows} >= {4, 5, 6, 7}
    assert any(row["train/loss"] for row in rows[: len(kept)])
    assert any(row["val/loss"] for row in rows)


def test_metrics_that_cannot_be_read_make_way() -> None:
    run([*FIT, "--trainer.max_epochs=1"])
    path = only_run(CONFIG.stem) / "metrics.csv"
    path.write_bytes(b"\xff\xfe\n")
    with pytest.warns(UserWarning, match="could not be read"):
        run([*FIT, "--ckpt_path=last"])
    assert "val/loss" in path.read_text()
    assert path.with_name("metrics-damaged.csv").read_bytes() == b"\xff\xfe\n"


def test_checkpoints_stay_in_the_run_whatever_the_logger() -> None:
    logger = ["--trainer.logger=lightning.pytorch.loggers.CSVLogger", "--trainer.logger.save_dir=logs"]
    run([*FIT, *logger, "--trainer.max_epochs=1"])
    assert (only_run(CONFIG.stem) / "checkpoints" / "last.ckpt").is_file()
    assert run([*FIT, *logger, "--ckpt_path=last"]).trainer.global_step == 8
    assert len(sessions()) == 2
