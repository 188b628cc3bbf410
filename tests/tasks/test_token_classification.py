"""Classes of words against plain loops, scikit-learn and seqeval's definition; what predict says of new sentences."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import seed_everything
from sklearn.metrics import f1_score
from toys import TaggedWords, message, trainer

from lt_cli.backbones.encoder import Encoder
from lt_cli.checkpoint import load
from lt_cli.cli import run
from lt_cli.data.labeled_tokens import LabeledTokens
from lt_cli.data.tokenizers import ByteTokenizer
from lt_cli.spans import spans
from lt_cli.tasks.token_classification import TokenClassification

CONTRACT = Path(__file__).parent.parent / "contract" / "token_classification.yaml"
TAGS = {"I-LOC": "NOUN", "I-PER": "VERB", "O": "DET"}


def tags(num_rows: int) -> list[dict[str, Any]]:
    """Random rows whose labels are no spans."""
    rows = TaggedWords(num_rows).rows("train") or []
    return [{**row.fields, "labels": [TAGS[label] for label in row.fields["labels"]]} for row in rows]


def made(source: TaggedWords | None = None, **options: Any) -> tuple[TokenClassification, LabeledTokens]:
    """The task with data, of random weights that predict every class."""
    seed_everything(0, verbose=False)
    backbone = Encoder(vocab_size=258, max_seq_len=24, embed_dim=8, num_heads=2, num_layers=1, dropout=0.0)
    data = LabeledTokens(
        source=source or TaggedWords(40), tokenizer=ByteTokenizer(), max_seq_len=12, stride=4, batch_size=7
    )
    data.prepare_data()
    for stage in ("fit", "test", "predict"):
        data.setup(stage)
    task = TokenClassification(backbone=backbone, schedule=None, **options)
    task.attach(data)
    torch.nn.init.normal_(task.head.weight)
    return task.eval(), data


def slow_scores(task: TokenClassification, data: LabeledTokens, split: Any, row: int) -> list[torch.Tensor]:
    """Each word of a row from its window alone, by the definition of the best window."""
    words = data.rows["test"][row].fields["tokens"] if split == "test" else None
    assert words is not None
    text, room = " ".join(words).encode(), data.max_seq_len - 2
    starts = [0]
    while starts[-1] + room < len(text):
        starts.append(starts[-1] + room - data.stride)
    scores, place = [], 0
    for word in words:
        best = max(
            (start for start in starts if start <= place < start + room),
            key=lambda start: min(
                math.inf if start == 0 else place - start,
                math.inf if start + room >= len(text) else start + room - 1 - place,
            ),
        )
        ids = torch.tensor([[256, *text[best : best + room], 256]])
        scores.append(task.head(task.backbone(ids))[0, 1 + place - best])
        place += len(word.encode()) + 1
    return scores


def all_batches(data: LabeledTokens, split: Any) -> list[dict[str, Any]]:
    examples = data.splits[split]
    return [examples.batch(range(i, min(i + 7, len(examples))), 0) for i in range(0, len(examples), 7)]


class TestStep:
    """The loss, and what it is a mean over."""

    @torch.no_grad()
    def test_words_are_read_where_they_have_most_context(self) -> None:
        """Each row alone gives what it gives in a batch."""
        task, data = made()
        batch = data.splits["test"].batch([3, 0, 7], 0)
        expected = [score for row in (3, 0, 7) for score in slow_scores(task, data, "test", row)]
        torch.testing.assert_close(task.scores(batch), torch.stack(expected), atol=1e-5, rtol=1e-4)

    def test_loss(self) -> None:
        task, data = made()
        batch = data.splits["test"].batch([1, 2], 0)
        scores = task.scores(batch)
        losses = [-score.log_softmax(-1)[label] for score, label in zip(scores, batch["labels"], strict=True)]
        for stage in ("train", "val", "test"):
            outputs = task.step(batch, stage)  # type: ignore[arg-type]
            assert outputs["loss"].item() == pytest.approx(sum(losses).item() / len(losses), rel=1e-5)  # type: ignore[union-attr]
            assert outputs["weight"] == len(losses) == batch["num_words"].sum()

    def test_weights_and_smoothing_are_for_training_only(self) -> None:
        plain, data = made()
        task, _ = made(class_weights={"O": 0.25}, label_smoothing=0.2)
        batch = data.splits["train"].batch([1, 2], 0)
        assert task.step(batch, "val")["loss"] == plain.step(batch, "val")["loss"]
        weights = torch.tensor([0.25 if name == "O" else 1.0 for name in data.label_names])
        scores, labels = task.scores(batch), batch["labels"]
        outputs = task.step(batch, "train")
        assert outputs["loss"] == F.cross_entropy(scores, labels, weights, label_smoothing=0.2)
        assert outputs["weight"] == weights[labels].sum()

    def test_balanced_weights(self) -> None:
        task, data = made(class_weights="balanced")
        labels = np.concatenate([batch["labels"] for batch in all_batches(data, "train")])
        assert task.loss_weights is not None
        expected = len(labels) / (len(data.label_names) * np.bincount(labels))
        assert task.loss_weights.numpy() == pytest.approx(expected)


class TestScores:
    """What an epoch logs."""

    def test_spans(self) -> None:
        """All words of all rows count the same, whatever the batches; spans as sets."""
        task, data = made()
        with torch.no_grad():
            batches = all_batches(data, "test")
            predicted = [[data.label_names[i] for i in task.scores(b).argmax(-1).tolist()] for b in batches]
            losses = [F.cross_entropy(task.scores(b), b["labels"], reduction="sum").item() for b in batches]
        rows = data.rows["test"]
        flat = [label for batch in predicted for label in batch]
        labels = [label for row in rows for label in data.token_labels.of(row, "labels")]
        right = guessed = wanted = 0
        taken = 0
        for row in rows:
            of_row = [str(label) for label in data.token_labels.of(row, "labels")]
            guess, truth = set(spans(flat[taken : taken + len(of_row)], "bio")), set(spans(of_row, "bio"))
            right, guessed, wanted = right + len(guess & truth), guessed + len(guess), wanted + len(truth)
            taken += len(of_row)
        assert 0 < right < min(guessed, wanted)
        task._has_trained_weights = True
        (logged,) = trainer().test(task, data, verbose=False)
        assert logged["test/loss"] == pytest.approx(sum(losses) / len(flat), rel=1e-5)
        assert logged["test/accuracy"] == pytest.approx(np.mean([a == b for a, b in zip(flat, labels, strict=True)]))
        assert logged["test/span_precision"] == pytest.approx(right / guessed)
        assert logged["test/span_recall"] == pytest.approx(right / wanted)
        assert logged["test/span_f1"] == pytest.approx(2 * right / (guessed + wanted))
        assert task.monitor == ("val/span_f1", "max")

    def test_tags(self) -> None:
        rows = tags(40)
        task, data = made(TaggedWords(given={"train": rows, "test": rows[:9]}))
        with torch.no_grad():
            batches = all_batches(data, "test")
            predicted = np.concatenate([task.scores(batch).argmax(-1) for batch in batches])
        labels = np.concatenate([batch["labels"] for batch in batches])
        task._has_trained_weights = True
        (logged,) = trainer().test(task, data, verbose=False)
        assert logged["test/accuracy"] == pytest.approx((predicted == labels).mean())
        assert logged["test/macro_f1"] == pytest.approx(f1_score(labels, predicted, average="macro"))
        assert task.monitor == ("val/accuracy", "max")

    @pytest.mark.parametrize("has_spans", [True, False])
    def test_report(self, has_spans: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        rows = tags(40)
        task, data = made(None if has_spans else TaggedWords(given={"train": rows, "test": rows}))
        task._has_trained_weights = True
        with caplog.at_level("INFO"):
            trainer(default_root_dir=tmp_path).test(task, data, verbose=False)
        assert (tmp_path / "pictures" / "confusion.png").stat().st_size > 1000
        table = next(record.message for record in caplog.records if "confusion matrix" in record.message).split()
        expected = {"type", "LOC", "PER", "micro"} if has_spans else {"class", "DET", "NOUN", "VERB", "accuracy"}
        assert expected <= set(table)
        assert "B-LOC" not in table

    def test_first_loss(self) -> None:
        task, data = made()
        assert task.uninformed_loss() == ("ln C", pytest.approx(math.log(len(data.label_names))))


class TestPredict:
    """Labels in the scheme of the data."""

    def test_a_trained_model_finds_spans(self) -> None:
        """Words of one alphabet in a row are a place, of another a person."""
        cli = run(
            [
                *("fit", f"--config={CONTRACT}", "--model.optimizer.lr=0.01", "--trainer.max_epochs=8"),
                *(
                    "--trainer.accumulate_grad_batches=1",
                    "--trainer.limit_train_batches=1.0",
                    "--data.source.num_rows=400",
                ),
                *("--model.backbone.embed_dim=16", "--model.backbone.dropout=0", "--model.dropout=0"),
                *("--model.backbone.max_seq_len=64", "--data.max_seq_len=64"),
            ]
        )
        assert cli.trainer.callback_metrics["val/span_f1"] > 0.8
        last = next(Path("runs").rglob("last.ckpt"))
        rows = load(last).predict(["ai ln mm qr", ["ee", "lml"], {"tokens": ["e"], "id": 3}])
        assert [row["labels"] for row in rows] == [["O", "I-LOC", "I-LOC", "I-PER"], ["O", "I-LOC"], ["O"]]
        assert rows[2] == {"tokens": ["e"], "id": 3, "labels": ["O"]}

    def test_probabilities(self) -> None:
        task, data = made(probabilities=True)
        batch = data.splits["predict"].batch([2, 5], 0)
        with torch.no_grad():
            columns = task.predict_step(batch, 0)
        assert list(columns) == ["index", "labels", "probabilities"]
        for labels, likely, number in zip(columns["labels"], columns["probabilities"], batch["num_words"], strict=True):
            assert len(labels) == len(likely) == number
            for label, of_word in zip(labels, likely, strict=True):
                assert max(of_word, key=of_word.get) == label
                assert list(of_word) == data.label_names
                assert sum(of_word.values()) == pytest.approx(1, abs=1e-5)


def test_mistakes() -> None:
    assert message(lambda: made(dropout=1.0)) == "dropout (1.0) must be at least 0 and less than 1"
    assert message(lambda: made(label_smoothing=-0.1)) == "label_smoothing (-0.1) must be at least 0 and less than 1"
    told = message(lambda: made(class_weights={"B-LOK": 2.0}))
    assert told.startswith("class_weights names 'B-LOK', and the classes are B-LOC, B-PER, ")
