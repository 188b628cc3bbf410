"""Checkpoints: what is written survives a full disk, what is read can do no harm, and one file is a whole run."""

import errno
import os
import pickle
import random
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
import yaml
from contract_suite import ROOT, assert_same_weights, only_run, weights

from lt_cli.arguments import arrange
from lt_cli.backbones.gpt import GPT
from lt_cli.checkpoint import load, restore_data, run_config
from lt_cli.checkpoint_io import CheckpointIO, read
from lt_cli.cli import run
from lt_cli.data.base import DataModule
from lt_cli.errors import RunError, UserError
from lt_cli.reuse import CheckpointPalette, causal_backbone
from lt_cli.runs import find, new_run, run_of
from lt_cli.tasks.base import CHECKPOINT_FORMAT
from lt_cli.tasks.pixel_generation import PixelGeneration

GOLDEN = ROOT / "tests" / "golden" / "pixel_generation.ckpt"
CLASSIFICATION = ROOT / "tests" / "contract" / "pixel_classification.yaml"
GENERATION = ROOT / "tests" / "contract" / "pixel_generation.yaml"
SEQUENCES = ROOT / "tests" / "contract" / "sequence_classification.yaml"
FIT = ["fit", f"--config={GENERATION}"]
needs_full_disk = pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
CONTENT = {"state_dict": {"weight": torch.arange(3.0)}, "lt_cli": {"format": 1, "config": None}}


def touch(*names: str) -> None:
    for name in names:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def refusal(path: Path | str) -> str:
    """The message with which a file is refused: one line that names it."""
    with pytest.raises(UserError) as caught:
        read(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


class TestWriting:
    """The old file or the new one, whole."""

    def test_what_is_written_is_read(self) -> None:
        CheckpointIO().save_checkpoint(CONTENT, "new/directory/last.ckpt")
        assert torch.equal(read("new/directory/last.ckpt")["state_dict"]["weight"], CONTENT["state_dict"]["weight"])
        assert os.listdir("new/directory") == ["last.ckpt"], "nothing is left beside it"

    def test_the_old_file_is_replaced_not_overwritten(self) -> None:
        """So a process killed while writing leaves the old one, and who reads it meanwhile reads it whole."""
        CheckpointIO().save_checkpoint(CONTENT, "last.ckpt")
        os.link("last.ckpt", "old.ckpt")
        before = Path("old.ckpt").read_bytes()
        CheckpointIO().save_checkpoint({"state_dict": {"weight": torch.zeros(9)}}, "last.ckpt")
        assert Path("old.ckpt").read_bytes() == before
        assert len(read("last.ckpt")["state_dict"]["weight"]) == 9

    @needs_full_disk
    @pytest.mark.parametrize("size", [10, 5_000_000], ids=["small", "large"])
    def test_full_disk_keeps_the_last_good_checkpoint(self, size: int) -> None:
        io, target = CheckpointIO(), Path("last.ckpt")
        io.save_checkpoint(CONTENT, target)
        before = target.read_bytes()
        Path("last.ckpt.part").symlink_to("/dev/full")
        with pytest.raises(UserError, match="No space left on device") as caught:
            io.save_checkpoint({"state_dict": {"weight": torch.zeros(size)}}, target)
        assert str(caught.value).startswith("the checkpoint last.ckpt could not be written: ")
        assert str(caught.value).endswith("last.ckpt is the last good checkpoint")
        assert target.read_bytes() == before
        assert not Path("last.ckpt.part").is_symlink()
        io.save_checkpoint(CONTENT, target)

    @needs_full_disk
    def test_full_disk_at_the_first_checkpoint(self) -> None:
        Path("last.ckpt.part").symlink_to("/dev/full")
        with pytest.raises(UserError, match="No space left on device") as caught:
            CheckpointIO().save_checkpoint(CONTENT, "last.ckpt")
        assert "last good checkpoint" not in str(caught.value)
        assert not Path("last.ckpt").exists()

    @needs_full_disk
    def test_full_disk_in_a_run(self) -> None:
        arguments = ["fit", f"--config={GENERATION}"]
        run([*arguments, "--trainer.max_epochs=1"])
        last = only_run("pixel_generation") / "checkpoints" / "last.ckpt"
        before = last.read_bytes()
        last.with_name("last.ckpt.part").symlink_to("/dev/full")
        with pytest.raises(UserError, match=r"last\.ckpt could not be written: .*No space left"):
            run([*arguments, f"--ckpt_path={last}"])
        assert last.read_bytes() == before
        assert run([*arguments, f"--ckpt_path={last}"]).trainer.global_step == 8, "it goes on when there is space"

    @pytest.mark.parametrize(
        ("part", "what"), [({"score": np.float64(1)}, "numpy"), ({"path": Path("x")}, "pathlib"), (lambda: 0, "lambda")]
    )
    def test_what_could_not_be_read_back_is_not_written(self, part: Any, what: str) -> None:
        """The run would be lost when it is resumed, not now."""
        CheckpointIO().save_checkpoint(CONTENT, "last.ckpt")
        with pytest.raises(
            RunError, match=f"the checkpoint's callbacks holds .*{what}.*, which could not be read back"
        ):
            CheckpointIO().save_checkpoint({**CONTENT, "callbacks": part}, "last.ckpt")
        assert "callbacks" not in read("last.ckpt")

    def test_a_run_can_go_on_without_a_checkpoint(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It says so each time, and keeps the last good one."""
        run([*FIT, "--trainer.max_epochs=1"])
        last = only_run("pixel_generation") / "checkpoints" / "last.ckpt"
        before = last.read_bytes()

        def full(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("os.fsync", full)
        arguments = [*FIT, "--ckpt_path=last", "--checkpoints.on_failure=continue", "--checkpoints.every_minutes=0"]
        with pytest.warns(UserWarning, match="No space left") as said:
            cli = run(arguments)
        assert cli.trainer.global_step == 8
        assert len([one for one in said if "going on without" in str(one.message)]) >= 4
        assert last.read_bytes() == before
        assert [path.name for path in last.parent.iterdir() if path.suffix == ".part"] == []

    def test_a_directory_that_vanishes_is_made_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nothing of what the run still knows is lost."""

        def remove(self: Any) -> None:
            if self.trainer.current_epoch == 1:
                shutil.rmtree("runs")

        monkeypatch.setattr("lt_cli.tasks.base.Task.on_train_epoch_start", remove, raising=False)
        run(FIT)
        directory = only_run("pixel_generation")
        assert read(directory / "checkpoints" / "last.ckpt")["global_step"] == 8
        assert "val/loss" in (directory / "metrics.csv").read_text()

    def test_a_file_where_a_directory_should_be(self) -> None:
        touch("taken")
        with pytest.raises(UserError, match=r"taken/last\.ckpt could not be written: .*(exists|directory)"):
            CheckpointIO().save_checkpoint(CONTENT, "taken/last.ckpt")


class TestReading:
    """Tensors and plain types, or one line that says why not."""

    def test_missing(self) -> None:
        assert refusal("nothing.ckpt") == "there is no checkpoint nothing.ckpt"

    def test_empty(self) -> None:
        touch("empty.ckpt")
        assert "truncated or no checkpoint" in refusal("empty.ckpt")

    @pytest.mark.parametrize("part", [1, 10, 100, 1000, 0.5, 0.99])
    def test_truncated(self, part: float) -> None:
        whole = GOLDEN.read_bytes()
        Path("cut.ckpt").write_bytes(whole[: int(part * len(whole)) if part < 1 else int(part)])
        refusal("cut.ckpt")

    @pytest.mark.parametrize("seed", range(20))
    def test_random_bytes(self, seed: int) -> None:
        """With the beginnings of a zip, a tar and a pickle among them."""
        start = [b"", b"PK\x03\x04", b"\x80\x02", b"\x80\x04\x95"][seed % 4]
        Path("noise.ckpt").write_bytes(start + random.Random(seed).randbytes(2000))
        refusal("noise.ckpt")

    def test_damaged_anywhere(self) -> None:
        """Whatever bit is wrong, it is refused, or what is read is right: torch alone would read wrong weights."""
        whole, generator = GOLDEN.read_bytes(), random.Random(0)
        right, refused = read(GOLDEN), 0
        for _ in range(100):
            damaged = bytearray(whole)
            damaged[generator.randrange(len(whole))] ^= 1 << generator.randrange(8)
            Path("damaged.ckpt").write_bytes(damaged)
            try:
                content = read("damaged.ckpt")
            except UserError:
                refused += 1
            else:
                assert_same_weights(content["state_dict"], right["state_dict"])
                assert content["lt_cli"] == right["lt_cli"]
        assert refused > 50

    def test_a_wrong_bit_in_the_weights(self) -> None:
        torch.save({"state_dict": {"weight": torch.zeros(100_000)}}, "zeros.ckpt")
        damaged = bytearray(Path("zeros.ckpt").read_bytes())
        damaged[len(damaged) // 2] ^= 1
        Path("zeros.ckpt").write_bytes(damaged)
        assert torch.load("zeros.ckpt", weights_only=True)["state_dict"]["weight"].any(), "torch does not notice"
        assert refusal("zeros.ckpt").startswith("zeros.ckpt is truncated or no checkpoint: the checksum of ")

    def test_the_newest_good_one_is_offered(self) -> None:
        """Of the same run, or else of the config's other runs."""
        run = Path("runs/a/2026-01-02_00-00-00/checkpoints")
        other = Path("runs/a/2026-01-01_00-00-00/checkpoints/last.ckpt")
        for age, path in enumerate((run / "last.ckpt", run / "best.ckpt", run / "step-0000001.ckpt", other)):
            CheckpointIO().save_checkpoint(CONTENT, path)
            os.utime(path, (1e9 - age, 1e9 - age))
        for good in (run / "best.ckpt", run / "step-0000001.ckpt", other):
            broken = run / "last.ckpt"
            broken.write_bytes(broken.read_bytes()[:-100])
            assert refusal(broken).endswith(f"; the newest good one is {good}")
            with pytest.raises(UserError, match=f"the newest good one is {good}"):
                arrange(["fit", "--ckpt_path=last"])
            good.write_bytes(good.read_bytes()[:-100])
        assert "newest good" not in refusal(run / "last.ckpt")

    def test_remote_files_are_never_run_either(self) -> None:
        class Malice:
            def __reduce__(self) -> Any:
                return os.system, ("touch harmed",)

        remote = fsspec.filesystem("memory")
        for name, content in (("evil", {**CONTENT, "callbacks": Malice()}), ("good", CONTENT)):
            with remote.open(f"/{name}.ckpt", "wb") as file:
                torch.save(content, file)
        assert torch.equal(read("memory://good.ckpt")["state_dict"]["weight"], CONTENT["state_dict"]["weight"])
        assert "code, which is never run" in refusal("memory://evil.ckpt")
        with pytest.raises(UserError, match=r"memory://evil\.ckpt"):
            run(["test", "--ckpt_path=memory://evil.ckpt"])
        for given in ("false", "true"):
            with pytest.raises(UserError, match="there is no option --weights_only"):
                run(["test", f"--ckpt_path={GOLDEN}", f"--weights_only={given}"])
        assert not Path("harmed").exists()

    @pytest.mark.parametrize("zipped", [True, False])
    def test_code_is_never_run(self, zipped: bool) -> None:
        class Malice:
            def __reduce__(self) -> Any:
                return os.system, ("touch harmed",)

        evil = {**CONTENT, "callbacks": Malice()}
        if zipped:
            torch.save(evil, "evil.ckpt")
        else:
            Path("evil.ckpt").write_bytes(pickle.dumps(evil))
        assert "code, which is never run" in refusal("evil.ckpt")
        for attempt in (
            ["test", "--ckpt_path=evil.ckpt"],
            ["fit", f"--config={GENERATION}", "--ckpt_path=evil.ckpt"],
            ["fit", "--ckpt_path=evil.ckpt"],
        ):
            with pytest.raises(UserError, match=r"evil\.ckpt"):
                run(attempt)
        with pytest.raises(UserError, match=r"evil\.ckpt"):
            load("evil.ckpt")
        assert not Path("harmed").exists()

    @pytest.mark.parametrize("part", ["optimizer", "schedule", "backbone"])
    def test_configuration_calls_no_function_of_any_kind(self, part: str) -> None:
        """The parser would call it: it takes any function where a callable is asked for."""
        checkpoint = read(GOLDEN)
        harm = {"class_path": "os.system", "init_args": {"command": "touch harmed"}}
        checkpoint["lt_cli"]["config"]["model"]["init_args"][part] = harm
        torch.save(checkpoint, "evil.ckpt")
        test, fit = ["test", "--ckpt_path=evil.ckpt"], ["fit", "--ckpt_path=evil.ckpt"]
        for attempt in (lambda: load("evil.ckpt"), lambda: run(test), lambda: run(fit)):
            with pytest.raises(UserError, match=r"evil\.ckpt is refused: os\.system"):
                attempt()
        assert not Path("harmed").exists()

    @pytest.mark.parametrize(
        ("option", "gone", "now"),
        [
            ("model", "lt_cli.tasks.gone.Task", "lt_cli.tasks.pixel_generation.PixelGeneration"),
            ("model.backbone", "lt_cli.backbones.gpt.Gone", "lt_cli.backbones.gpt.GPT"),
            ("data.source", "my_module.Source", "lt_cli.data.images.Digits"),
        ],
    )
    def test_a_class_that_was_renamed(self, option: str, gone: str, now: str) -> None:
        """One line that names the file, the class and the option; what the class is called now is enough."""
        checkpoint = read(GOLDEN)
        part = checkpoint["lt_cli"]["config"]
        for key in option.split("."):
            part = part.get("init_args", part)[key]
        part["class_path"] = gone
        torch.save(checkpoint, "old.ckpt")
        short = ["--trainer.accelerator=cpu", "--trainer.limit_test_batches=1"]
        test, fit = ["test", "--ckpt_path=old.ckpt", *short], ["fit", "--ckpt_path=old.ckpt"]
        for attempt in (lambda: load("old.ckpt"), lambda: run(test), lambda: run(fit)):
            with pytest.raises(UserError) as caught:
                attempt()
            assert str(caught.value).startswith(f"old.ckpt was written with the class {gone}, which is not there: ")
            assert str(caught.value).endswith(f"--{option}=CLASS")
        assert "test/loss" in run([*test, f"--{option}={now}"]).trainer.callback_metrics

    @pytest.mark.parametrize("content", [[1, 2], {"model": {}}, torch.zeros(3), "text"], ids=str)
    def test_tensors_but_no_checkpoint(self, content: Any) -> None:
        torch.save(content, "other.ckpt")
        assert "it has no state_dict" in refusal("other.ckpt")

    @pytest.mark.parametrize("about", [None, 3, [1], {"format": "new"}, {"format": 1, "config": [1]}], ids=str)
    def test_strange_notes_of_our_own(self, about: Any) -> None:
        torch.save({"state_dict": {}, "lt_cli": about}, "strange.ckpt")
        with pytest.raises(UserError, match=r"strange\.ckpt"):
            load("strange.ckpt")

    def test_later_format(self) -> None:
        torch.save({"state_dict": {}, "lt_cli": {"format": CHECKPOINT_FORMAT + 1}}, "later.ckpt")
        assert f"has format {CHECKPOINT_FORMAT + 1}" in refusal("later.ckpt")
        assert f"reads up to {CHECKPOINT_FORMAT}: update lt_cli" in refusal("later.ckpt")

    def test_without_our_configuration(self) -> None:
        """As Lightning writes it outside the command line."""
        torch.save({"state_dict": {}, "pytorch-lightning_version": "2.6.6"}, "plain.ckpt")
        with pytest.raises(UserError, match=r"plain\.ckpt holds no configuration .*: give --config"):
            run_config(read("plain.ckpt"), "plain.ckpt")
        with pytest.raises(UserError, match="give --config"):
            run(["test", "--ckpt_path=plain.ckpt"])


class TestFinding:
    """Which file is meant by best, last or a directory."""

    def test_newest_run(self) -> None:
        touch("runs/a/2026-01-02_00-00-00/checkpoints/last.ckpt", "runs/b/2026-01-03_00-00-00/checkpoints/last.ckpt")
        touch("runs/b/2026-01-01_23-59-59/checkpoints/best.ckpt", "runs/a/2026-01-01_00-00-00/checkpoints/last.ckpt")
        os.utime("runs/a/2026-01-01_00-00-00/checkpoints/last.ckpt", (2e9, 2e9))  # written last, but begun first
        assert find("last") == Path("runs/b/2026-01-03_00-00-00/checkpoints/last.ckpt")
        assert find("last", name="a") == Path("runs/a/2026-01-02_00-00-00/checkpoints/last.ckpt")
        assert find("best") == Path("runs/b/2026-01-01_23-59-59/checkpoints/best.ckpt"), "the newest that has one"
        assert find("best", name="a") == find("last", name="a"), "of a config that never validates, best is last"
        assert find("best", name="c") is None
        assert find("last", root="elsewhere") is None

    def test_among_runs_of_one_second_and_at_home(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for number in ("", "-2", "-9", "-10"):
            touch(f"runs/a/2026-01-01_00-00-00{number}/checkpoints/last.ckpt")
        assert find("last") == Path("runs/a/2026-01-01_00-00-00-10/checkpoints/last.ckpt")
        touch("runs/b/mine/checkpoints/last.ckpt")
        assert find("last", name="b") == Path("runs/b/mine/checkpoints/last.ckpt"), "whatever it is called"
        monkeypatch.setenv("HOME", str(Path.cwd()))
        assert find("~/model.ckpt") == Path.cwd() / "model.ckpt"

    @pytest.mark.parametrize("place", ["runs", "runs/a", "runs/a/2026-01-02_00-00-00"])
    def test_best_of_a_directory(self, place: str) -> None:
        touch("runs/a/2026-01-01_00-00-00/checkpoints/best.ckpt", "runs/a/2026-01-02_00-00-00/checkpoints/best.ckpt")
        assert find(place) == Path("runs/a/2026-01-02_00-00-00/checkpoints/best.ckpt")

    def test_last_of_a_directory_where_none_is_best(self) -> None:
        touch("runs/a/2026-01-02_00-00-00/checkpoints/last.ckpt")
        assert find("runs") == Path("runs/a/2026-01-02_00-00-00/checkpoints/last.ckpt")
        touch("runs/a/2026-01-01_00-00-00/checkpoints/best.ckpt")
        assert find("runs") == Path("runs/a/2026-01-01_00-00-00/checkpoints/best.ckpt")

    def test_a_directory_without_runs(self) -> None:
        Path("empty").mkdir()
        assert find("empty") is None

    def test_run_of(self, monkeypatch: pytest.MonkeyPatch) -> None:
        touch("runs/a/now/checkpoints/last.ckpt")
        assert run_of(Path("runs/a/now/checkpoints/last.ckpt")) == Path("runs/a/now")
        assert run_of(Path("model.ckpt")) is None
        assert run_of(Path("somewhere/model.ckpt")) is None
        here = Path("runs/a/now").absolute()
        monkeypatch.chdir("runs/a/now/checkpoints")
        assert run_of(Path("last.ckpt")) == here

    def test_no_two_runs_share_a_directory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("time.strftime", lambda form: "2026-01-01_00-00-00")
        with ThreadPoolExecutor(8) as pool:
            runs = list(pool.map(new_run, [Path("runs/a")] * 8))
        assert len(set(runs)) == 8
        assert all(made.is_dir() for made in runs)
        touch(*(f"{made}/checkpoints/last.ckpt" for made in runs))
        newest = find("last")
        assert newest is not None
        assert newest.parent.parent.name == "2026-01-01_00-00-00-8"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the runs of a generative fit with a palette of its own."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("trained") / "runs"
    flags = ["--data.palette=lt_cli.data.palette.KMeansPalette", "--data.palette.num_colors=5"]
    run(["fit", f"--config={GENERATION}", "--trainer.max_epochs=1", f"--trainer.default_root_dir={root}", *flags])
    return root


class TestLoading:
    """A file is a task and its data, back in Python."""

    def test_file_and_directory(self, trained: Path) -> None:
        best = only_run("pixel_generation", trained) / "checkpoints" / "best.ckpt"
        for path in (best, str(best), trained, only_run("pixel_generation", trained)):
            loaded = load(path)
            assert isinstance(loaded.task, PixelGeneration)
            assert not loaded.task.training
            assert_same_weights(loaded.task.state_dict(), weights(best))

    def test_data_knows_what_it_learned(self, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("lt_cli.data.palette.KMeansPalette.fit", lambda *args: pytest.fail("learned again"))
        monkeypatch.setattr("lt_cli.data.images.Digits.load", lambda *args, **kwargs: pytest.fail("read data"))
        loaded = load(trained)
        assert loaded.data.vocab_size == 5
        assert loaded.data.image_shape == (4, 4)

    def test_nothing_there(self) -> None:
        Path("empty").mkdir()
        with pytest.raises(UserError, match="there is no checkpoint under empty"):
            load("empty")
        with pytest.raises(UserError, match=r"there is no checkpoint nothing\.ckpt"):
            load("nothing.ckpt")

    def test_state_of_other_data_is_left_alone(self, trained: Path) -> None:
        loaded = load(trained)
        restore_data(loaded.data, {"state_dict": {}})
        assert loaded.data.vocab_size == 5


class TestReuse:
    """Parts of a finished run in a new one."""

    def test_backbone(self, trained: Path) -> None:
        backbone = causal_backbone(str(trained))
        assert isinstance(backbone, GPT)
        assert backbone.training, "ready for fine-tuning"
        assert_same_weights(backbone.state_dict(), load(trained).task.backbone.state_dict())

    def test_missing(self) -> None:
        with pytest.raises(UserError, match=r"there is no checkpoint nothing\.ckpt"):
            causal_backbone("nothing.ckpt")
        Path("empty").mkdir()
        for build in (causal_backbone, lambda path: CheckpointPalette(path).fit(None)):
            with pytest.raises(UserError, match="there is no checkpoint under empty"):
                build("empty")

    def test_palette_of_a_checkpoint_without_one(self) -> None:
        torch.save({"state_dict": {}}, "plain.ckpt")
        with pytest.raises(UserError, match=r"the data of plain\.ckpt has no palette"):
            CheckpointPalette("plain.ckpt").fit(torch.zeros(1, 2, 2, 1).numpy())

    def test_fine_tuning_needs_the_generative_run_once(
        self, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The checkpoint of the fine-tuned task holds the backbone's sizes and weights, and the palette."""
        shutil.copytree(trained, "pretrained")
        source = load("pretrained").task.backbone.state_dict()
        flags = [
            "--model.backbone=lt_cli.reuse.causal_backbone",
            "--model.backbone.path=pretrained",
            "--data.palette=lt_cli.reuse.CheckpointPalette",
            "--data.palette.path=pretrained",
        ]
        seen: dict[str, torch.Tensor] = {}
        with monkeypatch.context() as patch:
            patch.setattr(
                "lt_cli.tasks.base.Task.on_train_start",
                lambda task: seen.update({k: v.clone() for k, v in task.backbone.state_dict().items()}),
            )
            fitted = run(["fit", f"--config={CLASSIFICATION}", *flags])
        assert_same_weights(seen, source)
        assert torch.equal(
            torch.as_tensor(fitted.datamodule.state_dict()["centroids"]),
            torch.as_tensor(load("pretrained").data.state_dict()["centroids"]),
        )
        score = fitted.trainer.test(fitted.model, fitted.datamodule)[0]["test/loss"]

        shutil.rmtree("pretrained")
        last = only_run("pixel_classification") / "checkpoints" / "last.ckpt"
        shutil.move(last, "alone.ckpt")
        shutil.rmtree("runs")
        limits = ["--trainer.limit_test_batches=2", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
        again = run(["test", "--ckpt_path=alone.ckpt", *limits])
        assert again.trainer.callback_metrics["test/loss"].item() == pytest.approx(score)
        assert_same_weights(load("alone.ckpt").task.state_dict(), fitted.model.state_dict())
        resumed = run(["fit", "--ckpt_path=alone.ckpt", "--trainer.max_epochs=3"])
        assert resumed.trainer.global_step == 12


def said(index: int) -> str:
    """The text of a row from Python."""
    return ["aaaa b", "b", "c" * 60, "abab", "bbb a c"][index % 5]


class TestPredictInPython:
    """What predict writes into files, of rows that Python has."""

    @pytest.fixture(scope="class")
    def several(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """The last checkpoint of a fit over several labels, whose files are gone."""
        torch.set_num_threads(1)
        root = tmp_path_factory.mktemp("several")
        rows = [f"{said(i)}\t{'|'.join(sorted({*said(i)} & {*'ab'}))}\n" for i in range(40)]
        (root / "mine.tsv").write_text("text\tlabel\n" + "".join(rows))
        flags = [
            "--model=lt_cli.tasks.sequence_classification.MultiLabelClassification",
            "--data.source=lt_cli.data.row_sources.TableFiles",
            f"--data.source.path={root / 'mine.tsv'}",
            "--data.labels=lt_cli.data.labels.SeveralLabels",
            "--data.labels.separator=|",
            "--data.pair_column=null",
            "--model.probabilities=true",
            f"--trainer.default_root_dir={root / 'runs'}",
        ]
        config = yaml.safe_load(SEQUENCES.read_text())
        for name in ("label_smoothing", "dropout"):
            config["model"]["init_args"].pop(name)
        (root / "several.yaml").write_text(yaml.safe_dump(config))
        run(["fit", f"--config={root / 'several.yaml'}", "--model.schedule.warmup_steps=0", *flags])
        (root / "mine.tsv").unlink()
        return only_run("several", root / "runs") / "checkpoints" / "last.ckpt"

    def test_several_labels_are_lists(self, several: Path) -> None:
        """Without any file; in .tsv they are text."""
        loaded = load(several)
        found = loaded.predict(["ab", {"text": "b", "id": 7}])
        assert [row["text"] for row in found] == ["ab", "b"]
        assert found[1]["id"] == 7
        for row in found:
            assert row["label"] == [name for name in ("a", "b") if row["probabilities"][name] >= 0.5]
        Path("new.tsv").write_text("text\nab\nb\n")
        arguments = ["--data.source.predict_path=new.tsv", "--model.threshold=0.001", "--model.probabilities=false"]
        run(["predict", f"--ckpt_path={several}", *arguments, "--predictions.directory=out"])
        assert Path("out/predictions.tsv").read_text() == "text\tlabel\nab\ta|b\nb\ta|b\n"

    def test_order_and_size_of_batches(self, several: Path) -> None:
        """Rows go by length, and come back in their own order, whatever the batch."""
        loaded = load(several)
        texts = [said(i) + "b" * (i % 3) for i in range(23)]
        whole = loaded.predict(texts)
        assert [row["text"] for row in whole] == texts
        assert [loaded.predict([text])[0]["label"] for text in texts] == [row["label"] for row in whole]
        assert isinstance(loaded.data, DataModule)
        loaded.data.batch_size = 2
        assert [row["label"] for row in loaded.predict(texts)] == [row["label"] for row in whole]
        assert loaded.predict([]) == []

    def test_leaves_the_task_as_it_was(self, several: Path) -> None:
        loaded = load(several)
        loaded.task.train()
        assert loaded.predict(["ab"]) == loaded.predict(["ab"]), "without dropout"
        assert loaded.task.training
        rows = [{"text": "ab"}]
        loaded.predict(rows)
        assert rows == [{"text": "ab"}]

    def test_mistakes(self, several: Path, trained: Path) -> None:
        with pytest.raises(UserError, match="PixelData takes no rows from Python: predict from the command line"):
            load(trained).predict(["a"])
        with pytest.raises(UserError, match="3 must be a text, or a mapping with text"):
            load(several).predict([3])
        with pytest.raises(UserError, match=r"row 1 has no text in text: give it some"):
            load(several).predict(["a", ""])
