"""Fine-tuning and probing, against losses and scores computed by hand."""

import csv
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from contract_suite import ROOT
from sklearn.metrics import accuracy_score, f1_score
from torch import nn
from toys import Pictures, pixel_data, ready, tiny_gpt, trainer

from lt_cli.backbones.gpt import GPT
from lt_cli.backbones.huggingface import HuggingFaceImageGPT
from lt_cli.callbacks.freeze import Freeze
from lt_cli.callbacks.prediction_writer import PredictionWriter
from lt_cli.cli import run
from lt_cli.data.images import ImageSet, ImageSource
from lt_cli.data.pixels import PixelData
from lt_cli.errors import UserError
from lt_cli.metrics import accuracy
from lt_cli.optim import WarmupCosine
from lt_cli.tasks.pixel_classification import PixelClassification

NAMES = ("ant", "bee", "cow")


def animals(**options: Any) -> PixelData:
    return pixel_data(Pictures(num_train=60, num_test=21, label_names=NAMES), val_fraction=0.5, **options)


def task_of(**options: Any) -> PixelClassification:
    """A task with its data, in eval mode, whose head is not at zero."""
    task = PixelClassification(**{"backbone": tiny_gpt(), "schedule": None, **options})
    task.attach(ready(animals(), "fit", "test", "predict"))
    nn.init.normal_(task.head.weight)
    nn.init.normal_(task.head.bias)
    if task.layer is not None:
        nn.init.normal_(task.standardize.running_mean)
        nn.init.uniform_(task.standardize.running_var, 0.5, 2.0)
    return task.eval()


def batch_of(task: PixelClassification, rows: list[int], split: Any = "test") -> Any:
    assert task.data is not None
    return task.data.splits[split].batch(rows, 0)


@torch.no_grad()
def slow_scores(task: PixelClassification, tokens: torch.Tensor) -> torch.Tensor:
    """A picture at a time, the mean and the standardised features of a probe written out."""
    scores = []
    for picture in tokens.tolist():
        inputs = torch.tensor([[5, *picture[:-1]]])
        features = task.backbone(inputs) if task.layer is None else task.backbone.hidden_states(inputs, task.layer)
        pooled = sum(features[0]) / len(picture)
        if task.layer is not None:
            pooled = (pooled - task.standardize.running_mean) / (task.standardize.running_var + 1e-5).sqrt()
        scores.append(task.head.weight @ pooled + task.head.bias)
    return torch.stack(scores)


class TestLoss:
    """Classification + weight * generation."""

    @pytest.mark.parametrize("layer", [None, 0, 1, 2])
    @pytest.mark.parametrize("weight", [0.0, 1.0, 0.25])
    def test_by_hand(self, weight: float, layer: int | None) -> None:
        task = task_of(generative_weight=weight, layer=layer)
        batch = batch_of(task, [0, 3, 4, 9])
        scores = slow_scores(task, batch["input_ids"])
        chosen = scores.log_softmax(-1)[range(4), batch["labels"]]
        features = task.backbone(torch.cat([torch.full((4, 1), 5), batch["input_ids"][:, :-1]], dim=1))
        logits = task.backbone.unembed(features)
        pixels = logits.log_softmax(-1).gather(2, batch["input_ids"][..., None])
        outputs = task.step(batch, "train")
        torch.testing.assert_close(outputs["scores"], scores)
        torch.testing.assert_close(outputs["loss"], -chosen.mean() - weight * pixels.mean())
        assert torch.equal(outputs["labels"], batch["labels"])
        if weight:
            torch.testing.assert_close(outputs["classification_loss"], -chosen.mean())
            torch.testing.assert_close(outputs["generative_loss"], -pixels.mean())
        else:
            assert set(outputs) == {"loss", "scores", "labels"}

    def test_starts_at_ln_of_the_classes(self) -> None:
        """The head is at zero, so that fine-tuning begins with what was learned undisturbed."""
        task = PixelClassification(backbone=tiny_gpt(), schedule=None)
        task.attach(ready(animals()))
        outputs = task.step(batch_of(task, [0, 1], "train"), "train")
        assert outputs["classification_loss"].item() == pytest.approx(np.log(3), rel=1e-6)
        assert task.head.weight.shape == (3, 8)

    def test_both_parts_train_the_backbone(self) -> None:
        for weight in (0.0, 1.0):
            task = task_of(generative_weight=weight)
            task.step(batch_of(task, [0, 1]), "train")["loss"].backward()
            assert task.backbone.blocks[0].mlp.up.weight.grad.abs().max() > 0
            assert (task.backbone.output.weight.grad is None) == (weight == 0)

    def test_names_in_every_stage(self) -> None:
        task, data = PixelClassification(backbone=tiny_gpt(), schedule=None), animals()
        one = trainer(max_epochs=1, log_every_n_steps=1)
        one.fit(task, data)
        names = ("loss", "classification_loss", "generative_loss", "accuracy")
        assert set(one.callback_metrics) == {f"{stage}/{name}" for stage in ("train", "val") for name in names}
        assert task.monitor == ("val/accuracy", "max")


class TestMistakes:
    """Said before the first step."""

    @pytest.mark.parametrize("layer", [-1, 3])
    def test_layer(self, layer: int) -> None:
        with pytest.raises(
            UserError, match=rf"layer \({layer}\) must be between 0 and the backbone's num_layers \(2\)"
        ):
            task_of(layer=layer)

    def test_weight(self) -> None:
        with pytest.raises(UserError, match=r"generative_weight \(-0.5\) must not be negative"):
            task_of(generative_weight=-0.5)

    def test_pictures_without_labels(self) -> None:
        task = PixelClassification(backbone=tiny_gpt())
        with pytest.raises(UserError, match="the data has no labels: a folder of pictures needs one sub-folder per"):
            trainer(max_epochs=1).fit(task, pixel_data(Pictures(label_names=None)))

    def test_sizes_start_token_and_labels_at_once(self) -> None:
        task = PixelClassification(backbone=tiny_gpt(vocab_size=6, max_seq_len=8, start_token=False))
        with pytest.raises(UserError) as caught:
            task.attach(ready(pixel_data(Pictures(label_names=None))))
        for part in ("vocab_size=5", "max_seq_len=16", "start_token=true", "no labels"):
            assert part in str(caught.value)


class TestMetrics:
    """Over all rows of a split, whatever its batches."""

    def test_validation_accuracy(self) -> None:
        task, data = PixelClassification(backbone=tiny_gpt(), schedule=None), animals(batch_size=7)
        one = trainer(max_epochs=2)
        one.fit(task, data)
        val = data.splits["val"]
        assert len(val) == 30
        batch = val.batch(range(30), 0)
        guesses = slow_scores(task.eval(), batch["input_ids"]).argmax(-1)
        expected = accuracy_score(batch["labels"], guesses)
        assert 0 < expected < 1
        assert one.callback_metrics["val/accuracy"].item() == pytest.approx(expected)
        (tested,) = one.test(task, data, verbose=False)
        batch = data.splits["test"].batch(range(21), 0)
        guesses = slow_scores(task.eval(), batch["input_ids"]).argmax(-1)
        assert tested["test/accuracy"] == pytest.approx(accuracy_score(batch["labels"], guesses))

    def test_chosen_on_the_command_line(self) -> None:
        """A function of the number of classes, or a class of torchmetrics with options."""
        Path("metrics.yaml").write_text(
            "model:\n  init_args:\n    metrics:\n"
            "      right: lt_cli.metrics.accuracy\n"
            "      f1: {class_path: torchmetrics.classification.MulticlassF1Score, init_args: {average: macro}}\n"
        )
        config = ROOT / "tests" / "contract" / "pixel_classification.yaml"
        cli = run(["fit", f"--config={config}", "--config=metrics.yaml", "--checkpoints.every_minutes=100"])
        val = cli.datamodule.splits["val"]
        batch = val.batch(range(2 * cli.datamodule.batch_size), 0)
        guesses = cli.model.eval().step(batch, "val")["scores"].argmax(-1)
        metrics = cli.trainer.callback_metrics
        assert metrics["val/right"].item() == pytest.approx(accuracy_score(batch["labels"], guesses))
        expected = f1_score(batch["labels"], guesses, average="macro", labels=np.unique([*batch["labels"], *guesses]))
        assert metrics["val/f1"].item() == pytest.approx(expected)
        assert {"train/right", "train/f1"} <= set(metrics)

    def test_without_accuracy_the_loss_says_which_checkpoint_is_best(self) -> None:
        assert PixelClassification(backbone=tiny_gpt(), metrics={"right": accuracy}).monitor == ("val/loss", "min")
        assert PixelClassification(backbone=tiny_gpt(), metrics={"accuracy": accuracy}).monitor[0] == "val/accuracy"


class TestProbe:
    """A frozen backbone and a head on one of its layers."""

    @pytest.mark.parametrize("layer", [None, 0, 1, 2])
    def test_only_the_head_learns(self, layer: int | None) -> None:
        backbone = tiny_gpt(dropout=0.5)
        task = PixelClassification(backbone=backbone, schedule=None, layer=layer, generative_weight=0.0)
        before = {name: weight.clone() for name, weight in backbone.state_dict().items()}
        one = trainer(Freeze("backbone"), max_epochs=2)
        one.fit(task, animals())
        for name, weight in backbone.state_dict().items():
            assert torch.equal(weight, before[name]), name
        assert task.head.weight.abs().max() > 0
        assert 0 <= one.callback_metrics["val/accuracy"] <= 1

    def test_blocks_above_the_layer_do_not_matter(self) -> None:
        task = task_of(layer=1, generative_weight=0.0)
        batch = batch_of(task, [0, 1])
        before = task.step(batch, "val")["loss"]
        nn.init.normal_(task.backbone.blocks[1].mlp.up.weight)
        assert torch.equal(task.step(batch, "val")["loss"], before)
        nn.init.normal_(task.backbone.blocks[0].mlp.up.weight)
        assert not torch.equal(task.step(batch, "val")["loss"], before)

    def test_training_standardises_by_the_batch(self) -> None:
        task = task_of(layer=1, generative_weight=0.0).train()
        batch = batch_of(task, list(range(6)))
        inputs = torch.cat([torch.full((6, 1), 5), batch["input_ids"][:, :-1]], dim=1)
        pooled = task.backbone.hidden_states(inputs, 1).mean(1)
        expected = (pooled - pooled.mean(0)) / (pooled.var(0, correction=0) + 1e-5).sqrt()
        torch.testing.assert_close(task.step(batch, "train")["scores"], task.head(expected))

    def test_a_last_batch_of_one_row(self) -> None:
        data = pixel_data(Pictures(num_train=20, label_names=NAMES), batch_size=5, val_fraction=0.2)
        task = PixelClassification(backbone=tiny_gpt(), schedule=None, layer=1, generative_weight=0.0)
        trainer(max_epochs=1).fit(task, data)
        assert len(data.splits["train"]) == 16

    @pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
    def test_half_precision(self, precision: Any) -> None:
        task = PixelClassification(backbone=tiny_gpt(), schedule=None, layer=1, generative_weight=0.0)
        one = trainer(max_epochs=1, precision=precision)
        one.fit(task, animals())
        assert torch.isfinite(one.callback_metrics["val/loss"])

    def test_on_a_model_of_transformers(self) -> None:
        architecture = {"model_type": "imagegpt", "n_layer": 2, "n_head": 2, "n_embd": 8}
        backbone = HuggingFaceImageGPT(architecture=architecture, vocab_size=5, max_seq_len=16)
        task = PixelClassification(backbone=backbone, schedule=None, layer=1)
        trainer(max_epochs=1).fit(task, animals())
        assert task.head.weight.abs().max() > 0


class TestPredict:
    """Names and probabilities, in input order."""

    def test_columns(self) -> None:
        task = task_of()
        batch = batch_of(task, [4, 0, 13], "predict")
        columns = task.predict_step(batch, 0)
        assert list(columns) == ["index", "label", "probability"]
        assert columns["index"].tolist() == [4, 0, 13]
        likely = slow_scores(task, batch["input_ids"]).softmax(-1).max(-1)
        assert columns["label"] == [NAMES[i] for i in likely.indices]
        torch.testing.assert_close(columns["probability"], likely.values)

    def test_file(self) -> None:
        task, data = PixelClassification(backbone=tiny_gpt(), schedule=None), animals(batch_size=4)
        one = trainer(PredictionWriter(directory="predictions"), max_epochs=1)
        one.fit(task, data)
        one.predict(task, data)
        with Path("predictions/predictions.csv").open() as file:
            rows = list(csv.DictReader(file))
        scores = slow_scores(task.eval(), data.splits["predict"].batch(range(21), 0)["input_ids"])
        assert [int(row["index"]) for row in rows] == list(range(21))
        assert [row["label"] for row in rows] == [NAMES[i] for i in scores.argmax(-1)]
        expected = scores.softmax(-1).max(-1).values.tolist()
        assert [float(row["probability"]) for row in rows] == pytest.approx(expected, rel=1e-5)


class DarkAndLight(ImageSource):
    """Noise around one of three greys."""

    def load(self, split: Any, size: Any = None, channels: int = 3) -> ImageSet:
        generator = np.random.default_rng(split == "test")
        labels = generator.integers(3, size=90)
        noise = generator.integers(-40, 41, size=(90, 4, 4, 1))
        return ImageSet((50 + 75 * labels[:, None, None, None] + noise).astype(np.uint8), labels, list(NAMES))


@pytest.mark.parametrize("layer", [None, 2])
def test_learns_what_is_easy(layer: int | None) -> None:
    task = PixelClassification(
        backbone=GPT(vocab_size=5, max_seq_len=16, embed_dim=16, num_heads=2, num_layers=2),
        optimizer=partial(torch.optim.AdamW, lr=0.01),
        schedule=partial(WarmupCosine, warmup_steps=5),
        layer=layer,
        generative_weight=0.5,
    )
    one, data = trainer(max_epochs=10), pixel_data(DarkAndLight())
    one.fit(task, data)
    (tested,) = one.test(task, data, verbose=False)
    assert tested["test/accuracy"] > 0.9
