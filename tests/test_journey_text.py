"""An engineer's afternoon: a bare file of texts and labels, one page of YAML, and predictions in the same format."""

import random
import shutil
from pathlib import Path

import pytest
from contract_suite import only_run

from lt_cli.checkpoint import load
from lt_cli.cli import run

EXPERIMENT = """
seed_everything: 0
model:
  class_path: lt_cli.tasks.sequence_classification.SequenceClassification
  init_args:
    backbone:
      class_path: lt_cli.backbones.encoder.Encoder
      init_args: {vocab_size: 258, max_seq_len: 64, embed_dim: 32, num_heads: 2, num_layers: 2}
    optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 0.01}}
    schedule: {class_path: lt_cli.optim.WarmupCosine, init_args: {warmup_steps: 10}}
data:
  class_path: lt_cli.data.labeled_text.LabeledText
  init_args:
    source:
      class_path: lt_cli.data.row_sources.TableFiles
      init_args: {path: mine.tsv, columns: [text, label]}
    tokenizer: lt_cli.data.tokenizers.ByteTokenizer
    max_seq_len: 64
    test_fraction: 0.1
trainer:
  max_epochs: 12
  accelerator: cpu
  enable_progress_bar: false
"""
WORDS = {
    "billing": ["invoice", "refund", "charged", "card"],
    "delivery": ["parcel", "courier", "late", "tracking"],
    "praise": ["lovely", "thanks", "great", "größe"],
}


def tickets(number: int, seed: int) -> list[tuple[str, str]]:
    """Texts of made-up and telling words, and what they are about."""
    generator = random.Random(seed)

    def made_up() -> str:
        return "".join(generator.choices("klmno", k=generator.randint(1, 6)))

    rows = []
    for _ in range(number):
        label = generator.choice(sorted(WORDS))
        words = [made_up() for _ in range(generator.randint(0, 4))] + generator.choices(WORDS[label], k=2)
        generator.shuffle(words)
        rows.append((" ".join(words), label))
    return rows


def test_an_engineers_journey(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # a bare file without a header, and one page of YAML
    Path("mine.tsv").write_text("".join(f"{text}\t{label}\n" for text, label in tickets(600, seed=0)), encoding="utf-8")
    Path("tickets.yaml").write_text(EXPERIMENT)
    fitted = run(["fit", "--config=tickets.yaml"])
    assert fitted.trainer.callback_metrics["val/accuracy"] > 0.9
    tested = run(["test", "--config=tickets.yaml", "--ckpt_path=best"])
    assert tested.trainer.callback_metrics["test/accuracy"] > 0.9
    assert len(list(only_run("tickets").glob("**/pictures/confusion.png"))) == 1

    # a file without labels comes back with them, in its own order
    new = tickets(100, seed=1)
    Path("new.tsv").write_text("".join(f"{text}\n" for text, _ in new), encoding="utf-8")
    run(["predict", "--config=tickets.yaml", "--ckpt_path=best", "--data.source.predict_path=new.tsv"])
    (written,) = only_run("tickets").glob("predictions/*/predictions.tsv")
    rows = [line.split("\t") for line in written.read_text(encoding="utf-8").splitlines()]
    assert [text for text, _ in rows] == [text for text, _ in new]
    assert sum(label == right for (_, label), (_, right) in zip(rows, new, strict=True)) > 90

    # what was written is a file to train on
    again = ["fit", "--config=tickets.yaml", f"--data.source.path={written}", "--trainer.max_steps=12"]
    run([*again, "--trainer.default_root_dir=again"])

    # elsewhere, from the checkpoint alone
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(only_run("tickets") / "checkpoints" / "best.ckpt", elsewhere / "tickets.ckpt")
    shutil.copy("new.tsv", elsewhere)
    for left in (Path("runs"), Path("again")):
        shutil.rmtree(left)
    for name in ("mine.tsv", "new.tsv", "tickets.yaml"):
        Path(name).unlink()
    monkeypatch.chdir(elsewhere)
    loaded = load("tickets.ckpt")
    assert loaded.predict([text for text, _ in new]) == [{"text": text, "label": label} for text, label in rows]
    assert loaded.predict(["refund my card"]) == [{"text": "refund my card", "label": "billing"}]
    arguments = ["--data.source.predict_path=new.tsv", "--predictions.directory=out", "--model.probabilities=true"]
    run(["predict", "--ckpt_path=tickets.ckpt", *arguments])
    lines = [line.split("\t") for line in (elsewhere / "out" / "predictions.tsv").read_text().splitlines()]
    assert [line[:2] for line in lines] == rows
    assert all(line[2].startswith('{"billing": ') for line in lines)
