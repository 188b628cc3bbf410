"""Every command block of README and CONTRIBUTING is executed, every file in them written and used, every link there."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pretrained import pretrained_bert, pretrained_gpt2

from lt_cli.cli import run

ROOT = Path(__file__).parent.parent
DOCUMENTS = ["README.md", "CONTRIBUTING.md"]
TINY = {
    "--trainer.max_steps": "2",
    "--trainer.limit_train_batches": "2",
    "--trainer.limit_val_batches": "1",
    "--trainer.limit_test_batches": "1",
    "--trainer.limit_predict_batches": "1",
    "--trainer.accelerator": "cpu",
    "--trainer.enable_progress_bar": "false",
    "--data.batch_size": "2",
}


def blocks(document: str) -> Iterator[tuple[str, str]]:
    """Language and content of each fenced block."""
    yield from re.findall(r"^```(\w+)\n(.*?)^```", (ROOT / document).read_text(), re.DOTALL | re.MULTILINE)


def commands(block: str) -> Iterator[str]:
    for line in block.replace("\\\n", " ").splitlines():
        command = re.sub(r"\s+#.*", "", line).strip()
        if command:
            yield command


def execute(command: str) -> None:
    """One shell line of the documents, made small; targets of make are looked up."""
    words = shlex.split(command)
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), command
        return
    if words[0] == "source":
        assert words[1] == ".venv/bin/activate"
        return
    assert words[:2] == ["python", "main.py"], command
    arguments = words[2:]
    if "--print_config" in arguments:
        with pytest.raises(SystemExit):
            run(arguments)
        return
    given = {word.split("=")[0] for word in arguments}
    interval = "val_check_interval" if re.search("cifar|lm_|avsd", command) else "check_val_every_n_epoch"
    tiny = dict(TINY) | {f"--trainer.{interval}": "1"}
    if "lm_gpt2" in command:
        tiny |= {"--model.backbone.pretrained": "MODEL", "--data.tokenizer.path": "MODEL"}
        tiny |= {"--data.source": "configs/data/text_files.yaml", "--data.source.path": "TEXT"}
    if "reviews.yaml" in command:
        tiny |= {"--model.backbone.pretrained": "ENCODER", "--data.tokenizer.path": "ENCODER"}
    if "image_folder" in command:
        tiny |= {"--data.num_workers": "0", "--data.size": "[32,32]"}
        tiny |= {} if "ModuleBackbone" in command else {"--model.backbone.weights": "null"}
    if arguments[0] == "fit":
        tiny |= {"--sample_images": "null"}
        if "--model.schedule.warmup_steps" in given:
            tiny["--model.schedule.warmup_steps"] = "0"
        elif not re.search("brightness|smooth|focal", command):
            tiny["--model.schedule"] = "null"
    run([*arguments, *(f"{option}={value}" for option, value in tiny.items())])


@pytest.fixture
def workplace(offline_pictures: None) -> None:
    """The working directory of a reader: a clone, and pictures, text and a model of their own."""
    Path("configs").symlink_to(ROOT / "configs")
    for name in ("pictures", "DIRECTORY"):
        Path(name).mkdir()
        for i in range(12):
            pixels = np.random.default_rng(i).integers(256, size=(32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(Path(name) / f"{i}.png")
    Path("TEXT").mkdir()
    for name in ("TEXT/book.txt", "input.txt"):
        Path(name).write_text("It was a dark and stormy night. " * 500)
    small_pictures()
    pretrained_gpt2(Path("MODEL"))
    pretrained_bert(Path("ENCODER"))
    small_corpora()
    texts = ["the pacing is perfect", "a story that goes nowhere"]
    Path("reviews.tsv").write_text(
        "".join(f"{text}\t{label}\n" for text, label in zip(texts, ("good", "bad"), strict=True) for _ in range(20))
    )
    Path("new.tsv").write_text("\n".join(texts))


def small_pictures() -> None:
    """Pictures in class folders, new ones, CIFAR-10 as parquet files, and a table."""
    import datasets

    pictures = [Image.open(f"pictures/{i}.png") for i in range(12)]
    for i, picture in enumerate(pictures):
        for place in (f"FOLDER/{('cat', 'dog')[i % 2]}/{i}.png", f"NEW/{i}.png"):
            Path(place).parent.mkdir(parents=True, exist_ok=True)
            picture.save(place)
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    rows = {"img": pictures * 10, "label": [i % 2 for i in range(120)]}
    Path("CIFAR10").mkdir()
    for split in ("train", "test"):
        datasets.Dataset.from_dict(rows, features=features).to_parquet(f"CIFAR10/{split}-0.parquet")
    lines = [f"{i},{i % 5},{i % 3},{('moss', 'fern')[i % 2]}" for i in range(40)]
    Path("plants.csv").write_text("height,width,age,label\n" + "\n".join(lines))


def small_corpora() -> None:
    """Files as SST-2 and CoNLL-2003 have them."""
    Path("SST2").mkdir()
    rows = [f"it is {'good' if i % 2 else 'bad'}\t{i % 2}" for i in range(8)]
    for split in ("train", "dev"):
        (Path("SST2") / f"{split}.tsv").write_text("\n".join(["sentence\tlabel", *rows]))
    for name in ("eng.train", "eng.testa"):
        Path(name).write_text("EU NNP I-NP I-ORG\nis VB I-VP O\n\nParis NNP I-NP I-LOC\n" * 4)


@pytest.mark.parametrize("document", DOCUMENTS)
@pytest.mark.usefixtures("workplace")
def test_blocks_run(document: str) -> None:
    for language, block in blocks(document):
        if name := re.match(r"# (\w+\.(py|yaml))\n", block):
            Path(name[1]).write_text(block)
        elif language == "python":
            exec(compile(block, document, "exec"), {})
        elif language == "bash":
            for command in commands(block):
                execute(command)
        else:
            assert language == "text", f"a block of {language} in {document} is neither run nor shown"


@pytest.mark.parametrize("document", [*DOCUMENTS, "CHANGELOG.md"])
def test_links_lead_somewhere(document: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / document).read_text()):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_options_in_the_table_exist(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(["fit", "--help"])
    known = capsys.readouterr().out
    for option in re.findall(r"`(--[a-z_]+)", (ROOT / "README.md").read_text()):
        assert option in known, option
