"""Every shipped YAML is parsed, and every experiment fitted and tested with a tiny overlay."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pretrained import pretrained_bert, pretrained_gpt2, pretrained_t5, pretrained_vit, vocab_size
from toys import Sentences

from lt_cli.cli import run
from lt_cli.data.rows import write_jsonl

CONFIGS = Path(__file__).parent.parent / "configs"
EXPERIMENTS = sorted(CONFIGS.glob("*.yaml"))
FRAGMENTS = {
    path: option
    for directory, option in (("backbone", "--model.backbone"), ("data", "--data.source"), ("trainer", "--trainer"))
    for path in sorted((CONFIGS / directory).glob("*.yaml"))
}
TINY = ["--trainer.max_steps=2", "--trainer.limit_train_batches=2", "--trainer.limit_val_batches=1"]
TINY += ["--trainer.limit_test_batches=1", "--trainer.accelerator=cpu", "--trainer.devices=1"]
TINY += ["--trainer.logger=false", "--trainer.enable_progress_bar=false"]
TINY += ["--data.batch_size=2", "--model.schedule=null", "--sample_images=null", "--sample_texts=null"]


SMALL_PALETTE = ["--data.palette.num_colors=8", "--model.backbone.vocab_size=8"]
SMALL_TEXT = ["--data.source=toys.Sentences", "--data.max_seq_len=16"]
SMALL_WORDS = ["--data.source=toys.TaggedWords", "--data.label_column=labels"]
SMALL_CHOICES = ["--data.source=toys.Riddles", "--data.text_column=context", "--data.question_column=null"]
SMALL_CHOICES += ["--data.choice_columns=null", "--data.choices_column=choices"]
SMALL_QUESTIONS = ["--data.source=toys.Questions", "--data.max_seq_len=64", "--data.stride=16"]
SMALL_QUESTIONS += ["--data.max_question_len=16"]
SMALL_DIALOGS = ["--data.source=lt_cli.data.scenes.Scenes", "--data.features=lt_cli.data.scenes.SceneFrames"]
SMALL_DIALOGS += ["--model.backbone.video_dim=192", "--data.max_seq_len=256"]
SMALL_PAIRS = ["--data.source=toys.Beginnings", "--data.source_column=source", "--data.target_column=target"]
SMALL_PAIRS += ["--data.max_target_len=16", "--model.max_new_tokens=4", "--data.val_fraction=null"]
SMALL_PAIRS += ["--data.test_fraction=null"]


@pytest.fixture
def generative_runs(offline_pictures: None) -> None:
    """What fine-tuning and probing start from."""
    run(["fit", *TINY])
    run(["fit", f"--config={CONFIGS / 'igpt_cifar.yaml'}", *TINY, *SMALL_PALETTE])


def tiny(config: str, folder: Path) -> list[str]:
    """What makes a config small, and independent of the network."""
    if "KMeans" in config:
        return SMALL_PALETTE
    if "LabeledImages" in config:
        return small_pictures(config, folder)
    if "AvsdFiles" in config:
        return [*SMALL_DIALOGS, *small_gpt2(folder, "--model.backbone.text.pretrained")]
    if "pretrained: " not in config:
        return []
    if "TextToText" in config:
        pretrained = [f"--model.backbone.pretrained={pretrained_t5(folder)}", f"--data.tokenizer.path={folder}"]
        return [*pretrained, f"--model.backbone.vocab_size={vocab_size(folder)}", *SMALL_PAIRS]
    make = pretrained_gpt2 if "gpt2" in config else pretrained_bert
    pretrained = [f"--model.backbone.pretrained={make(folder)}", f"--data.tokenizer.path={folder}"]
    if "StreamedText" in config:
        return [*pretrained, *small_stream(folder.parent / "stream")]
    toys = {
        "ChoiceData": SMALL_CHOICES,
        "QuestionData": SMALL_QUESTIONS,
        "LabeledTokens": SMALL_WORDS,
        "LabeledText": small_rows(config),
        "PackedText": SMALL_TEXT,
    }
    return pretrained + next(small for data, small in toys.items() if data in config)


def small_gpt2(folder: Path, option: str) -> list[str]:
    """Weights and tokenizer of a small GPT-2."""
    return [f"{option}={pretrained_gpt2(folder)}", f"--data.tokenizer.path={folder}"]


def small_stream(folder: Path) -> list[str]:
    """A toy's sentences in files, as a stream reads them."""
    texts = list(Sentences().documents("train") or ())
    folder.mkdir()
    for part in (0, 1):
        write_jsonl([{"text": text} for text in texts[part::2]], folder / f"{part}.jsonl")
    options = ["--data.path=json", "--data.config_name=null", f"--data.data_files={folder}/*.jsonl"]
    return [*options, "--data.val_documents=4", "--data.test_documents=4", "--data.max_seq_len=16"]


def small_pictures(config: str, folder: Path) -> list[str]:
    """Pictures of a toy, and a small network that nobody has to fetch."""
    toy = ["--data.source=lt_cli.data.image_rows.ImageSets", "--data.source.images=toys.Pictures"]
    toy += ["--data.label_column=label", "--data.num_workers=0"]
    if "HuggingFaceVision" in config:
        return [*toy, f"--model.backbone.pretrained={pretrained_vit(folder)}"]
    if "TorchvisionBackbone" in config:
        return [*toy, "--model.backbone.weights=null", "--data.size=[32,32]"]
    return [*toy, "--data.source.images.size=[32,32]", "--model.backbone.widths=[4,8]", "--model.backbone.blocks=[1,1]"]


def small_rows(config: str) -> list[str]:
    """Rows of a toy in place of a dataset's."""
    columns = {"text": "text", "label": "score" if "labels.Score" in config else "label"}
    columns |= {"pair": "reply"} if "pair_column" in config else {}
    return ["--data.source=toys.Opinions", *(f"--data.{name}_column={column}" for name, column in columns.items())]


def printed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run([*arguments, "--print_config"])
    assert stop.value.code == 0
    config: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)
    return config


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_experiment_fits_and_tests(path: Path, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    config = path.read_text()
    if "reuse." in config or "TorchvisionImages" in config:
        request.getfixturevalue("generative_runs")
    small = tiny(config, tmp_path / "pretrained")
    cli = run(["fit", f"--config={path}", *TINY, *small])
    assert cli.trainer.global_step == 2
    tested = run(["test", f"--config={path}", "--ckpt_path=last", *TINY, *small])
    assert tested.trainer.callback_metrics["test/loss"] > 0


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_printing_fetches_nothing(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither weights nor tokenizers nor text: there is no network here, and no file."""
    wanted = yaml.safe_load(path.read_text())
    assert printed(["fit", f"--config={path}"], capsys)["model"]["class_path"] == wanted["model"]["class_path"]


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_header_gives_the_command(path: Path) -> None:
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any("python main.py fit" in line for line in header)


@pytest.mark.parametrize("path", FRAGMENTS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_fragment_fits_into_the_default(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    option = FRAGMENTS[path]
    assert option in path.read_text(), "the header says how to use it"
    bases = {"text_sources": "lm_bytes.yaml", "row_sources": "unicode_names.yaml"}
    base = [f"--config={CONFIGS / name}" for kind, name in bases.items() if kind in path.read_text()]
    config = printed(["fit", *base, f"{option}={path}"], capsys)
    place: Any = config
    for key in option.removeprefix("--").split("."):
        place = place.get("init_args", place)[key]
    fragment = yaml.safe_load(path.read_text())
    wanted = fragment.get("init_args", fragment)
    found = place.get("init_args", place)
    assert {key: found[key] for key in wanted} == wanted


def test_default_is_the_digits_config() -> None:
    assert (CONFIGS / "igpt_digits.yaml").resolve() == CONFIGS.parent / "lt_cli" / "default.yaml"
