"""Scores, losses and accuracies of choices, against slow loops and against the softmax of transformers."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from contract_suite import ROOT, only_run
from pretrained import BERT
from torch import nn
from toys import Riddles, message, pixel_data, ready, trainer

from lt_cli.backbones.encoder import Encoder
from lt_cli.backbones.hf_encoder import HuggingFaceEncoder
from lt_cli.checkpoint import load
from lt_cli.cli import run
from lt_cli.data.choices import ChoiceData
from lt_cli.data.row_sources import RowSource
from lt_cli.data.rows import Row
from lt_cli.data.tokenizers import ByteTokenizer
from lt_cli.optim import WarmupCosine
from lt_cli.tasks.multiple_choice import MultipleChoice


class FourEach(Riddles):
    """The same with as many choices everywhere."""

    def rows(self, split: Any) -> list[Row] | None:
        rows = super().rows(split)
        return rows and [
            Row({**row.fields, "choices": [*row.fields["choices"], *"xyz"][:4]}, row.place) for row in rows
        ]


def data_of(source: RowSource | None = None, **options: Any) -> ChoiceData:
    data = ChoiceData(source=source or Riddles(), tokenizer=ByteTokenizer(), choices_column="choices", **options)
    data.prepare_data()
    for stage in ("fit", "test", "predict"):
        data.setup(stage)
    return data


def task_of(source: RowSource | None = None, **options: Any) -> MultipleChoice:
    """A task with its data, in eval mode, whose weights are not small."""
    backbone = Encoder(vocab_size=258, max_seq_len=128, embed_dim=8, num_heads=2, num_layers=2)
    task = MultipleChoice(**{"backbone": backbone, "schedule": None, **options})
    for parameter in task.parameters():
        nn.init.normal_(parameter, std=0.4)
    task.attach(data_of(source))
    return task.eval()


def batch_of(task: MultipleChoice, rows: list[int], split: Any = "test") -> Any:
    assert task.data is not None
    return task.data.splits[split].batch(rows, 0)


@torch.no_grad()
def slow_scores(task: MultipleChoice, fields: dict[str, Any]) -> list[float]:
    """A choice at a time, no padding anywhere."""
    scores = []
    for choice in fields["choices"]:
        context, choice = (list(text.encode()) for text in (fields["context"], choice))
        ids = torch.tensor([[256, *context, 256, *choice, 256]])
        types = torch.tensor([[0] * (len(context) + 2) + [1] * len(choice) + [0]])
        features = task.backbone(ids, token_type_ids=types)[0]
        one = {"first": features[0], "last": features[-1], "mean": features.mean(0)}[task.pooling]
        scores.append((task.head.weight[0] @ one).item())
    return scores


def fields_of(split: str, source: RowSource | None = None) -> list[dict[str, Any]]:
    return [row.fields for row in (source or Riddles()).rows(split) or []]


class TestLoss:
    """Cross entropy over a row's own choices."""

    @pytest.mark.parametrize("pooling", ["first", "mean", "last"])
    @pytest.mark.parametrize("smoothing", [0.0, 0.1])
    def test_by_hand(self, pooling: Any, smoothing: float) -> None:
        task, numbers = task_of(pooling=pooling, label_smoothing=smoothing), [3, 0, 21, 8, 14]
        losses, plain, right = [], [], []
        for number in numbers:
            fields = fields_of("test")[number]
            scores, label = slow_scores(task, fields), fields["label"]
            total = sum(np.exp(scores))
            each = [-np.log(np.exp(score) / total) for score in scores]
            plain.append(each[label])
            losses.append((1 - smoothing) * each[label] + smoothing * sum(each) / len(each))
            right.append(np.argmax(scores) == label)
        batch = batch_of(task, numbers)
        assert {*batch["is_choice"].sum(1).tolist()} == {2, 3, 4}
        outputs = task.step(batch, "train")
        assert outputs["loss"].item() == pytest.approx(np.mean(losses), rel=1e-5)
        assert outputs["accuracy"].item() == pytest.approx(np.mean(right))
        assert task.step(batch, "val")["loss"].item() == pytest.approx(np.mean(plain), rel=1e-5), "without smoothing"

    @pytest.mark.parametrize("smoothing", [0.0, 0.2])
    def test_equal_numbers_are_a_table(self, smoothing: float) -> None:
        """As transformers' models for multiple choice reshape their logits; gradients too."""
        task = task_of(FourEach(), label_smoothing=smoothing)
        batch = batch_of(task, list(range(9)))
        features = task.backbone(
            batch["input_ids"], attention_mask=batch["attention_mask"], token_type_ids=batch["token_type_ids"]
        )
        mask = batch["attention_mask"][..., None]
        logits = task.head((features * mask).sum(1) / mask.sum(1)).view(-1, 4)
        expected = F.cross_entropy(logits, batch["labels"], label_smoothing=smoothing)
        loss = task.step(batch, "train")["loss"]
        torch.testing.assert_close(loss, expected)
        weights = list(task.parameters())
        for one, other in zip(torch.autograd.grad(loss, weights), torch.autograd.grad(expected, weights), strict=True):
            torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)

    def test_against_transformers(self) -> None:
        """Bert without its pooler: the same scores, and the same loss."""
        from transformers import BertForMultipleChoice

        backbone = HuggingFaceEncoder(architecture=BERT, vocab_size=258, max_seq_len=64)
        task = MultipleChoice(backbone=backbone, schedule=None, pooling="first")
        task.attach(data_of(FourEach(), max_seq_len=64))
        nn.init.normal_(task.head.weight)
        reference = BertForMultipleChoice(backbone.hf_model.config).eval()
        reference.bert.load_state_dict(backbone.hf_model.state_dict(), strict=False)
        reference.bert.pooler = _First()
        reference.classifier.weight.data = task.head.weight.data
        reference.classifier.bias.data.zero_()
        batch = batch_of(task.eval(), list(range(7)))
        names = ("input_ids", "attention_mask", "token_type_ids")
        expected = reference(**{name: batch[name].unflatten(0, (7, 4)) for name in names}, labels=batch["labels"])
        torch.testing.assert_close(task.scores(batch), expected.logits, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(task.step(batch, "val")["loss"], expected.loss)

    def test_the_company_of_other_rows_changes_nothing(self) -> None:
        task = task_of()
        together = task.scores(batch_of(task, list(range(29))))
        for number in range(29):
            torch.testing.assert_close(task.scores(batch_of(task, [number]))[0], together[number], atol=1e-5, rtol=1e-5)

    def test_choices_that_are_not_there_take_no_part(self) -> None:
        task = task_of()
        batch = batch_of(task, list(range(12)))
        scores = task.scores(batch)
        assert torch.equal(scores.isfinite(), batch["is_choice"])
        loss = task.step(batch, "train")["loss"]
        loss.backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in task.parameters())
        assert task.backbone.blocks[0].mlp.up.weight.grad.abs().max() > 0

    @pytest.mark.parametrize(("source", "formula"), [(Riddles(), "mean of ln C"), (FourEach(), "ln C")])
    def test_starts_as_one_who_knows_nothing(self, source: RowSource, formula: str) -> None:
        """The head is near zero."""
        backbone = Encoder(vocab_size=258, max_seq_len=128, embed_dim=8, num_heads=2, num_layers=1)
        task = MultipleChoice(backbone=backbone, schedule=None)
        task.attach(data_of(source))
        expected = np.mean([np.log(len(fields["choices"])) for fields in fields_of("train", source)])
        assert task.uninformed_loss() == (formula, pytest.approx(expected))
        loss = task.step(batch_of(task, list(range(140)), "train"), "train")["loss"]
        assert loss.item() == pytest.approx(expected, abs=0.02)

    @pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
    def test_half_precision(self, precision: Any) -> None:
        one, task = trainer(max_epochs=1, precision=precision), task_of(label_smoothing=0.1)
        one.fit(task, data_of())
        assert torch.isfinite(one.callback_metrics["val/loss"])


class _First(nn.Module):
    """In a pooler's place."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden[:, 0]


class TestMistakes:
    """Said before the first step."""

    def test_sizes(self) -> None:
        backbone = Encoder(vocab_size=258, max_seq_len=16, embed_dim=8, num_heads=2, num_layers=1)
        for options, rule in (
            ({"dropout": 1.0}, "dropout (1.0) must be at least 0 and less than 1"),
            ({"label_smoothing": -0.1}, "label_smoothing (-0.1) must be at least 0 and less than 1"),
        ):
            assert message(lambda options=options: MultipleChoice(backbone=backbone, **options)) == rule
        task = MultipleChoice(backbone=backbone)
        assert "add --model.backbone.init_args.max_seq_len=128" in message(lambda: task.attach(data_of()))

    def test_data_of_another_kind(self) -> None:
        task = MultipleChoice(backbone=Encoder(vocab_size=258, max_seq_len=16, embed_dim=8, num_heads=2, num_layers=1))
        rule = "MultipleChoice needs data of choices, such as lt_cli.data.choices.ChoiceData, not PixelData"
        assert message(lambda: task.attach(ready(pixel_data()))) == rule


class TestPredict:
    """The best choice of each row, whatever the batches."""

    def test_columns(self) -> None:
        task = task_of(probabilities=True)
        columns = task.predict_step(batch_of(task, [4, 0, 13], "predict"), 0)
        for place, number in enumerate([4, 0, 13]):
            scores = torch.tensor(slow_scores(task, fields_of("test")[number]))
            assert columns["choice"][place] == scores.argmax()
            assert columns["probabilities"][place] == pytest.approx(scores.softmax(0).tolist(), abs=1e-5)
        assert columns["index"].tolist() == [4, 0, 13]

    def test_in_python(self) -> None:
        cli = run(["fit", f"--config={ROOT / 'tests' / 'contract' / 'multiple_choice.yaml'}"])
        loaded = load(only_run("multiple_choice") / "checkpoints" / "last.ckpt")
        rows = [("aaa.", ["b", "aa"]), ("c dd.", ["e", "f", "g", "dd"]), ("b.", ["b", "c", "d"])]
        mappings = [{"context": context, "choices": choices, "id": i} for i, (context, choices) in enumerate(rows)]
        found, again = loaded.predict(rows), loaded.predict(mappings)
        for fields, row, one, other in zip(mappings, rows, found, again, strict=True):
            scores = slow_scores(cli.model.eval(), fields)
            assert one["label"] == other["label"] == np.argmax(scores)
            assert isinstance(one["label"], int), "as in the training rows"
            assert one["probabilities"] == pytest.approx(torch.tensor(scores).softmax(0).tolist(), abs=1e-5)
            assert len(one["probabilities"]) == len(row[1])
            assert other == {**fields, "label": one["label"], "probabilities": one["probabilities"]}


class Easy(Riddles):
    """The right choice, and only it, has a z."""

    def rows(self, split: Any) -> list[Row] | None:
        rows = super().rows(split) or []
        for row in rows:
            row.fields["choices"][row.fields["label"]] = "zzz"
        return rows or None


def test_learns_what_is_easy() -> None:
    task = MultipleChoice(
        backbone=Encoder(vocab_size=258, max_seq_len=32, embed_dim=16, num_heads=2, num_layers=1, dropout=0.0),
        optimizer=partial(torch.optim.AdamW, lr=0.01),
        schedule=partial(WarmupCosine, warmup_steps=5),
    )
    one, data = trainer(max_epochs=6), data_of(Easy(), max_seq_len=32)
    one.fit(task, data)
    assert set(one.callback_metrics) == {f"{s}/{name}" for s in ("train", "val") for name in ("loss", "accuracy")}
    (tested,) = one.test(task, data, verbose=False)
    assert tested["test/accuracy"] > 0.9


def test_accuracy_is_over_all_rows() -> None:
    """Of batches of different sizes."""
    task, data = task_of(), data_of(batch_size=5)
    (tested,) = trainer().test(_trained(task), data, verbose=False)
    right = [np.argmax(slow_scores(task, fields)) == fields["label"] for fields in fields_of("test")]
    assert tested["test/accuracy"] == pytest.approx(np.mean(right))
    assert 0 < np.mean(right) < 1


def _trained(task: MultipleChoice) -> MultipleChoice:
    task.on_fit_start()
    return task


def test_file(tmp_path: Path) -> None:
    """Predictions of a folder of .jsonl, unlabeled, are its rows with labels, by the command line."""
    import json

    for name in ("train", "val"):
        rows = [json.dumps(fields) + "\n" for fields in fields_of(name)]
        Path(f"mine/{name}.jsonl").parent.mkdir(exist_ok=True)
        Path(f"mine/{name}.jsonl").write_text("".join(rows))
    unlabeled = [{k: v for k, v in fields.items() if k != "label"} for fields in fields_of("test")]
    Path("unlabeled.jsonl").write_text("".join(json.dumps(fields) + "\n" for fields in unlabeled))
    config = ROOT / "tests" / "contract" / "multiple_choice.yaml"
    run(["fit", f"--config={config}", "--data.source=TableFiles", "--data.source.path=mine"])
    predict = ["predict", "--ckpt_path=best", "--data.source.predict_path=unlabeled.jsonl"]
    run([*predict, "--trainer.accelerator=cpu", "--predictions.directory=out"])
    written = [json.loads(line) for line in Path("out/predictions.jsonl").read_text().splitlines()]
    for row, fields in zip(written, unlabeled, strict=True):
        assert {k: v for k, v in row.items() if k not in ("label", "probabilities")} == fields
        assert row["label"] == np.argmax(row["probabilities"])
        assert len(row["probabilities"]) == len(fields["choices"])
