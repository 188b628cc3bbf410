"""Checkpoints in shards, as FSDP writes them: whole, exact, checked, and without code."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from contract_suite import CONFIGS, assert_same_weights, in_two_processes, only_run
from sharded_processes import FIT_TEXT
from torch.distributed import checkpoint as dcp

from lt_cli import shards
from lt_cli.callbacks.checkpoints import Checkpoints
from lt_cli.checkpoint import load
from lt_cli.checkpoint_io import read
from lt_cli.cli import run
from lt_cli.errors import UserError

NAME = "pixel_generation"


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What sharded_processes.py leaves."""
    return in_two_processes("sharded_processes.py", tmp_path_factory.mktemp("sharded"))


@pytest.fixture
def last(sharded: Path) -> Path:
    """A copy of last.ckpt to do harm to."""
    shutil.copytree(only_run(NAME, sharded / "whole") / "checkpoints", "mine/checkpoints", symlinks=True)
    return Path("mine/checkpoints/last.ckpt")


def test_killed_and_resumed_is_bit_identical(sharded: Path) -> None:
    for which in ("last", "best"):
        whole, resumed = (
            read(only_run(NAME, sharded / root) / "checkpoints" / f"{which}.ckpt") for root in ("whole", "resumed")
        )
        assert whole["global_step"] == resumed["global_step"] == 8
        assert_same_weights(resumed["state_dict"], whole["state_dict"])


def test_what_is_old_goes_and_what_is_kept_stays(sharded: Path) -> None:
    directory = only_run(NAME, sharded / "resumed") / "checkpoints"
    links = {path.name: os.readlink(path) for path in directory.glob("*.ckpt")}
    assert links.keys() == {"best.ckpt", "last.ckpt", "step-0000007.ckpt", "step-0000008.ckpt"}
    assert links["last.ckpt"] == links["step-0000008.ckpt"]
    kept = {path.name for path in directory.glob("*.shards")} - set(links.values())
    assert {name.split("-")[1] for name in kept} <= {"9"}, "which a full disk left incomplete"
    assert not list(directory.glob("*.part"))


def test_a_language_model_learns_what_one_process_does(sharded: Path) -> None:
    """Its loss reads the output's weights outside the backbone."""
    cli = run([*FIT_TEXT, "--data.batch_size=16"])
    expected = {name: value.item() for name, value in cli.trainer.callback_metrics.items() if name.startswith("val/")}
    assert json.loads((sharded / "text.json").read_text()) == pytest.approx(expected, rel=1e-4)


def test_a_full_disk_leaves_the_last_good_one(sharded: Path) -> None:
    left = json.loads((sharded / "said.json").read_text())
    assert left["step"] == 8
    assert "last.ckpt could not be written: " in left["said"]
    assert "No space left on device" in left["said"]
    assert left["said"].endswith("last.ckpt is the last good checkpoint")


def test_one_process_evaluates_it(last: Path) -> None:
    config = next(path for path in CONFIGS if path.stem == NAME)
    cli = run(["test", f"--config={config}", f"--ckpt_path={last}", "--trainer.limit_test_batches=2"])
    loaded = load(last)
    loaded.data.setup("test")
    assert_same_weights(loaded.task.state_dict(), cli.model.state_dict())
    assert load(last.parent / os.readlink(last)).task.state_dict().keys() == cli.model.state_dict().keys()


def test_one_process_trains_it_further(last: Path) -> None:
    config = next(path for path in CONFIGS if path.stem == NAME)
    cli = run(["fit", f"--config={config}", f"--ckpt_path={last}", "--trainer.max_epochs=3"])
    assert cli.trainer.global_step == 12
    states = cli.trainer.optimizers[0].state.values()
    assert {int(state["step"]) for state in states} == {12}
    assert last.is_file()


def test_weights_alone_are_not_trained_further(sharded: Path, tmp_path: Path) -> None:
    """As shards of a run that saved no optimiser's state."""
    at = tmp_path / "weights"
    shutil.copytree(only_run(NAME, sharded / "whole") / "checkpoints" / "last.ckpt", at)
    content = read(at)
    (at / ".metadata").unlink()
    dcp.save({"state_dict": content["state_dict"]}, checkpoint_id=at, no_dist=True)
    (at / "checksums.json").write_text("{}")
    config = next(path for path in CONFIGS if path.stem == NAME)
    with pytest.raises(UserError, match=r"weights holds no optimiser state .*strategy that wrote it"):
        run(["fit", f"--config={config}", f"--ckpt_path={at}", "--trainer.max_epochs=3"])


def test_numbers_go_by_groups() -> None:
    """As torch's optimisers number their parameters, in place of names."""
    groups = [{"params": ["b", "c"], "lr": 1.0}, {"params": ["a"], "lr": 2.0}]
    named = {"state": {"a": {"step": 1}, "b": {"step": 2}}, "param_groups": groups}
    assert shards.numbered(named) == {
        "state": {2: {"step": 1}, 0: {"step": 2}},
        "param_groups": [{"params": [0, 1], "lr": 1.0}, {"params": [2], "lr": 2.0}],
    }


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read(path, weights=False)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "list missing": (lambda at: (at / "checksums.json").unlink(), "it is incomplete"),
    "shard missing": (lambda at: (at / "__1_0.distcp").unlink(), "__1_0.distcp is missing"),
    "shard truncated": (lambda at: os.truncate(at / "__0_0.distcp", 100), "the checksum of __0_0.distcp is wrong"),
    "shard flipped": (lambda at: flip(at / "__0_0.distcp"), "the checksum of __0_0.distcp is wrong"),
    "rest flipped": (lambda at: flip(at / "meta.pt"), "the checksum of meta.pt is wrong"),
}


def flip(path: Path) -> None:
    """Changes a bit in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_noticed_and_another_one_offered(kind: str, last: Path) -> None:
    harm, rule = DAMAGE[kind]
    harm(last.resolve())
    message = refusal(last)
    assert rule in message
    assert message.endswith(f"the newest good one is {last.with_name('best.ckpt')}")


class Malice:
    """Would run a command where it is unpickled."""

    def __reduce__(self) -> Any:
        return os.system, ("touch harmed",)


def evil_description(at: Path) -> None:
    (at / ".metadata").write_bytes(pickle.dumps(Malice()))


def evil_rest(at: Path) -> None:
    torch.save(Malice(), at / "meta.pt")


def evil_shard(at: Path) -> None:
    """What is no tensor is pickled within a shard."""
    rest = (at / "meta.pt").read_bytes()
    shutil.rmtree(at)
    dcp.save(
        {"state_dict": {"weight": torch.zeros(2)}, "optimizer_0": {"evil": Malice()}}, checkpoint_id=at, no_dist=True
    )
    (at / "meta.pt").write_bytes(rest)


@pytest.mark.parametrize("evil", [evil_description, evil_rest, evil_shard])
@pytest.mark.filterwarnings("ignore")
def test_code_is_never_run(evil: Callable[[Path], None], last: Path) -> None:
    at = last.resolve()
    evil(at)
    Path("harmed").unlink(missing_ok=True)
    (at / "checksums.json").write_text("{}")
    assert "code, which is never run" in refusal(last)
    with pytest.raises(UserError):
        run(["test", f"--ckpt_path={last}"])
    with pytest.raises(UserError):
        load(last)
    assert not Path("harmed").exists()


def test_a_link_changes_in_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """And only then does the old one go."""
    Path("checkpoints").mkdir()
    path = Path("checkpoints/last.ckpt")
    for name in ("old.shards", "new.shards", "abandoned.shards"):
        (path.parent / name).mkdir()
    shards.link(path, "old.shards")
    assert [one.name for one in path.parent.glob("*.shards")] == ["old.shards"]
    (path.parent / "new.shards").mkdir()
    replace = Path.replace

    def look(self: Path, target: Path) -> Path:
        assert (path.parent / "old.shards").is_dir()
        assert path.resolve().name == "old.shards"
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", look)
    shards.link(path, "new.shards")
    assert path.resolve().name == "new.shards"
    assert not (path.parent / "old.shards").exists()


def test_a_kept_one_is_a_copy_where_names_cannot_be_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on file systems without hard links."""

    def refuse(*_: Any) -> None:
        raise OSError("not supported")

    monkeypatch.setattr("os.link", refuse)
    config = next(path for path in CONFIGS if path.stem == NAME)
    run(["fit", f"--config={config}", "--checkpoints.every_minutes=0", "--checkpoints.keep=3"])
    directory = only_run(NAME) / "checkpoints"
    kept = sorted(path.name for path in directory.glob("step-*.ckpt"))
    assert kept == [f"step-000000{step}.ckpt" for step in (6, 7, 8)]
    assert [read(directory / name)["global_step"] for name in kept] == [6, 7, 8]


@pytest.mark.parametrize(("keep", "steps"), [(0, []), (1, [8]), (3, [6, 7, 8]), (-1, [1, 2, 3, 4, 5, 6, 7, 8])])
def test_how_many_are_kept(keep: int, steps: list[int]) -> None:
    config = next(path for path in CONFIGS if path.stem == NAME)
    run(["fit", f"--config={config}", "--checkpoints.every_minutes=0", f"--checkpoints.keep={keep}"])
    directory = only_run(NAME) / "checkpoints"
    assert sorted(path.name for path in directory.glob("step-*.ckpt")) == [f"step-{step:07d}.ckpt" for step in steps]
    for step in steps:
        assert read(directory / f"step-{step:07d}.ckpt")["global_step"] == step


@pytest.mark.parametrize(("option", "rule"), [({"keep": -2}, r"keep \(-2\)"), ({"on_failure": "cry"}, "on_failure")])
def test_mistakes(option: dict[str, Any], rule: str) -> None:
    with pytest.raises(UserError, match=rule):
        Checkpoints(**option)
