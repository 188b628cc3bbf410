"""The command line beats the configuration, the configuration beats the checkpoint, in any order of arguments."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from contract_suite import ROOT

from lt_cli.arguments import DEFAULT_CONFIG, DEFAULT_NAME, arrange
from lt_cli.checkpoint_io import read
from lt_cli.cli import run
from lt_cli.errors import UserError

CONFIG = f"--config={ROOT / 'tests' / 'contract' / 'pixel_generation.yaml'}"
GOLDEN = ROOT / "tests" / "golden" / "pixel_generation.ckpt"
TINY_NET = {"class_path": "lt_cli.backbones.gpt.GPT", "init_args": {"embed_dim": 12, "num_heads": 3, "num_layers": 5}}


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the command line says before it parses."""
    messages: list[str] = []
    monkeypatch.setattr("lt_cli.arguments.rank_zero_info", messages.append)
    return messages


def write(name: str, content: Any) -> str:
    """A YAML file, and its name."""
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content))
    return name


def touch(*names: str) -> None:
    for name in names:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


class Parsed:
    """Runs a command line as far as --print_config, and looks into what it prints."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *args: str) -> dict[str, Any]:
        """The whole configuration."""
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            run([*args, "--print_config"])
        assert stop.value.code == 0
        config: dict[str, Any] = yaml.safe_load(self.capsys.readouterr().out)
        return config

    def backbone(self, *args: str) -> dict[str, Any]:
        """The arguments of the backbone."""
        arguments: dict[str, Any] = self(*args)["model"]["init_args"]["backbone"]["init_args"]
        return arguments


@pytest.fixture
def parsed(capsys: pytest.CaptureFixture[str]) -> Parsed:
    return Parsed(capsys)


@pytest.mark.parametrize("fragment", ["none", "first", "last"])
@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize(
    "spelling", ["model.backbone.init_args", "model.backbone", "model.init_args.backbone.init_args", "two tokens"]
)
def test_an_override_wins_wherever_it_stands(parsed: Parsed, spelling: str, place: str, fragment: str) -> None:
    """In every spelling, before or after --config, and before or after a fragment that says otherwise."""
    override = ["--model.backbone.num_layers", "8"] if spelling == "two tokens" else [f"--{spelling}.num_layers=8"]
    net = [f"--model.backbone={write('net.yaml', TINY_NET)}"] if fragment != "none" else []
    overrides = [*net, *override] if fragment == "first" else [*override, *net]
    found = parsed.backbone("fit", *([*overrides, CONFIG] if place == "before" else [CONFIG, *overrides]))
    assert found["num_layers"] == 8
    assert found["embed_dim"] == (8 if fragment == "none" else 12)
    assert found["vocab_size"] == 5, "what the fragment leaves open stays"


def test_a_class_keeps_the_compatible_arguments(parsed: Parsed) -> None:
    model = parsed("fit", "--model.layer=1", "--model=lt_cli.tasks.pixel_classification.PixelClassification", CONFIG)
    model = model["model"]
    assert model["class_path"].endswith(".PixelClassification")
    assert model["init_args"]["layer"] == 1
    assert model["init_args"]["backbone"]["init_args"]["embed_dim"] == 8


def test_overlays_hold_only_what_they_change(parsed: Parsed) -> None:
    deep = write("deep.yaml", {"model": {"init_args": {"backbone": {"init_args": {"num_layers": 3, "dropout": 0.5}}}}})
    wide = write("wide.yaml", {"model": {"init_args": {"backbone": {"init_args": {"num_layers": 4}}}}})
    found = parsed.backbone("fit", CONFIG, f"--config={deep}", f"--config={wide}")
    assert (found["num_layers"], found["dropout"], found["embed_dim"]) == (4, 0.5, 8)
    found = parsed.backbone("fit", "--model.backbone.num_layers=6", CONFIG, "-c", wide, "-c", deep)
    assert (found["num_layers"], found["dropout"]) == (6, 0.5)


def test_an_overlay_alone_lies_on_the_default(parsed: Parsed) -> None:
    overlay = write("overlay.yaml", {"model": {"init_args": {"backbone": {"init_args": {"num_layers": 1}}}}})
    found = parsed.backbone("fit", f"--config={overlay}")
    assert (found["num_layers"], found["embed_dim"]) == (1, 64)


def test_an_overlay_alone_lies_on_the_checkpoint(parsed: Parsed) -> None:
    overlay = write("overlay.yaml", {"model": {"init_args": {"num_completions": 7}}, "data": {"batch_size": 3}})
    config = parsed("test", f"--config={overlay}", f"--ckpt_path={GOLDEN}")
    assert config["model"]["init_args"]["num_completions"] == 7
    assert config["model"]["init_args"]["backbone"]["init_args"]["embed_dim"] == 8
    assert config["data"]["init_args"]["batch_size"] == 3


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (["--trainer.max_steps=3"], ["--trainer.max_steps=4"]),
        (["--trainer.max_steps", "3"], ["--trainer.max_steps=4"]),
        (["--trainer.max_steps=3"], ["--trainer.max_steps", "4"]),
    ],
)
def test_the_last_of_two_equal_options_wins(parsed: Parsed, first: list[str], second: list[str]) -> None:
    assert parsed("fit", *first, CONFIG, *second)["trainer"]["max_steps"] == 4
    assert parsed("fit", *second, CONFIG, *first)["trainer"]["max_steps"] == 3


def test_equal_options_in_two_spellings(parsed: Parsed) -> None:
    layers = ["--model.backbone.num_layers=3", "--model.backbone.init_args.num_layers=4"]
    assert parsed.backbone("fit", *layers, CONFIG)["num_layers"] == 4
    assert parsed.backbone("fit", *reversed(layers), CONFIG)["num_layers"] == 3


def test_values_may_be_negative_empty_or_lists(parsed: Parsed) -> None:
    config = parsed("fit", "--trainer.max_steps", "-1", "--freeze.modules=backbone", "--data.size", "[6, 6]", CONFIG)
    assert config["trainer"]["max_steps"] == -1
    assert config["data"]["init_args"]["size"] == [6, 6]
    assert config["freeze"]["init_args"]["modules"] == "backbone"
    assert parsed("fit", CONFIG, "--model.schedule=null")["model"]["init_args"]["schedule"] is None


def test_callbacks_come_in_the_order_given(parsed: Parsed) -> None:
    """Each is appended and then configured, whatever stands in between and before the config."""
    config = parsed(
        "fit",
        "--trainer.callbacks+=ModelSummary",
        "--trainer.callbacks.max_depth=3",
        "--trainer.max_steps=2",
        "--trainer.callbacks+=lightning.pytorch.callbacks.GradientAccumulationScheduler",
        "--trainer.callbacks.scheduling={0: 2}",
        CONFIG,
        "--trainer.callbacks+=ModelSummary",
        "--trainer.callbacks.max_depth=1",
    )
    callbacks = config["trainer"]["callbacks"]
    names = [callback["class_path"].rpartition(".")[2] for callback in callbacks]
    assert names == ["ModelSummary", "GradientAccumulationScheduler", "ModelSummary"]
    assert [callback["init_args"].get("max_depth") for callback in callbacks] == [3, None, 1]
    assert config["trainer"]["max_steps"] == 2


def test_a_fragment_of_the_trainer(parsed: Parsed) -> None:
    fragment = write("cpu.yaml", {"max_steps": 7, "precision": "bf16-mixed"})
    trainer = parsed("fit", "--trainer.max_steps=9", f"--trainer={fragment}", CONFIG)["trainer"]
    assert (trainer["max_steps"], trainer["precision"], trainer["max_epochs"]) == (9, "bf16-mixed", 2)


def test_fragments_within_a_configuration_are_beside_it(parsed: Parsed) -> None:
    config = yaml.safe_load(Path(CONFIG.partition("=")[2]).read_text())
    write("parts/cpu.yaml", config["trainer"] | {"max_steps": 7})
    write("parts/net.yaml", config["model"]["init_args"]["backbone"] | {"class_path": "lt_cli.backbones.gpt.GPT"})
    config["trainer"] = "../parts/cpu.yaml"
    config["model"]["init_args"]["backbone"] = "../parts/net.yaml"
    found = parsed("fit", f"--config={write('configs/x.yaml', config)}", "--trainer.max_epochs=1")
    assert (found["trainer"]["max_steps"], found["trainer"]["max_epochs"]) == (7, 1)
    assert found["model"]["init_args"]["backbone"]["init_args"]["embed_dim"] == 8


def test_without_a_configuration_the_default_runs(parsed: Parsed) -> None:
    config = parsed("fit", "--trainer.max_steps=3")
    assert config["trainer"]["max_steps"] == 3
    default = yaml.safe_load(DEFAULT_CONFIG.read_text())
    assert config["model"]["class_path"] == default["model"]["class_path"]
    assert config["data"]["init_args"]["batch_size"] == default["data"]["init_args"]["batch_size"]
    assert arrange(["fit"]).name == DEFAULT_NAME


def test_a_configuration_may_be_given_as_text(parsed: Parsed) -> None:
    assert parsed("fit", CONFIG, "--config={trainer: {max_steps: 5}}")["trainer"]["max_steps"] == 5
    assert parsed("fit", CONFIG, "--config", "trainer:\n  max_steps: 6\n")["trainer"]["max_steps"] == 6
    assert parsed("fit", CONFIG, "--trainer={max_steps: 7, gradient_clip_val: 0.5}")["trainer"]["max_steps"] == 7


class TestNames:
    """Runs lie under the name of their configuration."""

    def test_first_file(self) -> None:
        assert arrange(["fit", CONFIG]).name == "pixel_generation"
        assert arrange(["fit", CONFIG, f"--config={write('overlay.yaml', {'trainer': {}})}"]).name == "pixel_generation"

    def test_a_runs_own_configuration_has_the_runs_name(self) -> None:
        touch("runs/digits/now/checkpoints/last.ckpt")
        config = yaml.safe_load(Path(CONFIG.partition("=")[2]).read_text())
        assert arrange(["fit", f"--config={write('runs/digits/now/config.yaml', config)}"]).name == "digits"
        assert arrange(["fit", f"--config={write('mine/config.yaml', config)}"]).name == "config"

    def test_a_checkpoint_in_a_run_has_the_runs_name(self) -> None:
        Path("runs/digits/now/checkpoints").mkdir(parents=True)
        inside = Path("runs/digits/now/checkpoints/last.ckpt")
        inside.write_bytes(GOLDEN.read_bytes())
        assert arrange(["test", f"--ckpt_path={inside}"]).name == "digits"
        assert arrange(["test", f"--ckpt_path={GOLDEN}"]).name == "pixel_generation"


class TestCheckpoints:
    """best, last, a file or a directory: which one it is, is found before parsing, and said."""

    RUNS = ("runs/pixel_generation/2026-01-01_00-00-00", "runs/pixel_generation/2026-01-02_00-00-00", "runs/other/2027")

    @pytest.fixture(autouse=True)
    def runs(self) -> None:
        """The newest run of the config has no best checkpoint yet; a run of another config is newer."""
        older, newer, other = self.RUNS
        touch(f"{older}/checkpoints/best.ckpt", f"{older}/checkpoints/last.ckpt", f"{newer}/checkpoints/last.ckpt")
        touch(f"{other}/checkpoints/best.ckpt", f"{other}/checkpoints/last.ckpt")

    @pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
    @pytest.mark.parametrize(
        ("which", "found"),
        [
            ("last", f"{RUNS[1]}/checkpoints/last.ckpt"),
            ("best", f"{RUNS[0]}/checkpoints/best.ckpt"),
            ("runs", f"{RUNS[2]}/checkpoints/best.ckpt"),
            ("runs/other", f"{RUNS[2]}/checkpoints/best.ckpt"),
            (RUNS[0], f"{RUNS[0]}/checkpoints/best.ckpt"),
        ],
    )
    def test_of_a_named_configuration(self, command: str, which: str, found: str, said: list[str]) -> None:
        invocation = arrange([command, CONFIG, "--ckpt_path", which])
        assert invocation.ckpt_path == Path(found)
        assert f"--ckpt_path={found}" in invocation.args
        assert which not in invocation.args
        assert said == [f"--ckpt_path {which} is {found}"]

    def test_a_file_is_itself(self, said: list[str]) -> None:
        assert arrange(["test", CONFIG, f"--ckpt_path={GOLDEN}"]).ckpt_path == GOLDEN
        assert said == []

    def test_evaluation_without_a_configuration_takes_any_run(self, said: list[str]) -> None:
        Path(f"{self.RUNS[2]}/checkpoints/best.ckpt").write_bytes(GOLDEN.read_bytes())
        invocation = arrange(["test", "--ckpt_path=best"])
        assert invocation.ckpt_path == Path(f"{self.RUNS[2]}/checkpoints/best.ckpt")
        assert invocation.name == "other"
        assert len(said) == 1

    def test_in_the_directory_of_all_runs(self) -> None:
        touch("elsewhere/pixel_generation/2020/checkpoints/last.ckpt")
        found = Path("elsewhere/pixel_generation/2020/checkpoints/last.ckpt")
        last = ["fit", CONFIG, "--ckpt_path=last"]
        fragment = write("trainer.yaml", {"default_root_dir": "elsewhere"})
        overlay = write("overlay.yaml", {"trainer": {"default_root_dir": "elsewhere"}})
        outer = write("outer.yaml", {"trainer": "trainer.yaml"})
        for said_where in ("--trainer.default_root_dir=elsewhere", f"--trainer={fragment}", f"--config={overlay}"):
            assert arrange([*last, said_where]).ckpt_path == found
        assert arrange([*last, f"--config={outer}"]).ckpt_path == found
        assert arrange([*last, f"--trainer={fragment}", "--trainer.default_root_dir=runs"]).ckpt_path != found

    def test_said_in_the_configuration(self, said: list[str]) -> None:
        overlay = f"--config={write('overlay.yaml', {'ckpt_path': 'last'})}"
        assert arrange(["fit", CONFIG, overlay]).ckpt_path == Path(f"{self.RUNS[1]}/checkpoints/last.ckpt")
        assert said == [f"--ckpt_path last is {self.RUNS[1]}/checkpoints/last.ckpt"]
        best = arrange(["fit", CONFIG, overlay, "--ckpt_path=best"])
        assert best.ckpt_path == Path(f"{self.RUNS[0]}/checkpoints/best.ckpt")
        assert arrange(["fit", CONFIG, overlay, "--ckpt_path=null"]).ckpt_path is None

    def test_fit_starts_where_there_is_no_last(self, said: list[str], parsed: Parsed) -> None:
        last = ["fit", CONFIG, "--trainer.default_root_dir=new", "--ckpt_path=last"]
        assert arrange(last).ckpt_path is None
        assert said == ["no run in new/pixel_generation has a last checkpoint yet: starting one"]
        assert parsed(*last)["ckpt_path"] is None

    @pytest.mark.parametrize(
        ("command", "which", "rule"),
        [
            ("fit", "best", "new/pixel_generation has a best.ckpt"),
            ("test", "last", "new/pixel_generation has a last.ckpt"),
            ("predict", "best", "new/pixel_generation has a best.ckpt"),
            ("validate", "empty", "empty has a checkpoint"),
            ("fit", "empty", "empty has a checkpoint"),
        ],
    )
    def test_otherwise_it_is_an_error(self, command: str, which: str, rule: str) -> None:
        Path("empty").mkdir()
        with pytest.raises(UserError) as caught:
            arrange([command, CONFIG, "--trainer.default_root_dir=new", f"--ckpt_path={which}"])
        assert str(caught.value).startswith(f"--ckpt_path {which}: no run in {rule}; ")


def test_evaluation_takes_model_and_data_from_the_checkpoint_but_no_trainer() -> None:
    checkpoint = read(GOLDEN)
    checkpoint["lt_cli"]["config"]["trainer"].update(accelerator="gpu", devices=8)
    torch.save(checkpoint, "big.ckpt")
    taken = yaml.safe_load(arrange(["test", "--ckpt_path=big.ckpt"]).args[2])
    assert set(taken) == {"seed_everything", "model", "data"}
    assert taken["model"] == checkpoint["lt_cli"]["config"]["model"]
    resumed = yaml.safe_load(arrange(["fit", "--ckpt_path=big.ckpt"]).args[2])
    assert resumed["trainer"]["devices"] == 8, "a run that goes on has the trainer it had"


def test_the_configuration_beats_the_checkpoint(parsed: Parsed) -> None:
    config = parsed("test", CONFIG, "--model.num_completions=9", f"--ckpt_path={GOLDEN}")
    assert config["model"]["init_args"]["num_completions"] == 9
    config = parsed("test", f"--ckpt_path={GOLDEN}", "--model.num_completions=9", "--data.batch_size=3")
    assert config["model"]["init_args"]["num_completions"] == 9
    assert config["data"]["init_args"]["batch_size"] == 3
    assert config["model"]["init_args"]["backbone"]["init_args"]["vocab_size"] == 5
