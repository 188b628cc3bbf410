"""Classes, several classes and scores of pictures and tables: losses against torch's, reports, what does not fit."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.metrics import classification_report
from torch import Tensor, nn
from toys import Pictures, message, trainer

from lt_cli.backbones.base import PooledBackbone, Preprocessing
from lt_cli.backbones.encoder import Encoder
from lt_cli.backbones.mlp import MLP
from lt_cli.backbones.module import ModuleBackbone
from lt_cli.data.image_rows import ImageSets
from lt_cli.data.labeled_images import LabeledImages
from lt_cli.data.labeled_table import LabeledTable
from lt_cli.data.labeled_text import LabeledText
from lt_cli.data.labels import Score, SeveralLabels
from lt_cli.data.row_sources import RowSource
from lt_cli.data.rows import Row
from lt_cli.data.tokenizers import ByteTokenizer
from lt_cli.metrics import macro_f1
from lt_cli.tasks.base import Task
from lt_cli.tasks.classification import Classification, MultiLabel, Regression
from lt_cli.tasks.mistakes import Mistakes
from lt_cli.tasks.sequence_classification import SequenceClassification


class Points(RowSource):
    """Points in a plane: by quarters, by both signs, and the sum of their coordinates."""

    def rows(self, split: Any) -> list[Row] | None:
        seeds = {"train": 0, "val": 1, "test": 2}
        if split not in seeds:
            return None
        rows = []
        for i, (x, y) in enumerate(np.random.default_rng(seeds[split]).normal(size=(60, 2)).tolist()):
            several = [name for name, yes in (("right", x > 0), ("up", y > 0)) if yes]
            quarter = "+".join(several) or "neither"
            rows.append(Row({"x": x, "y": y, "one": quarter, "several": several, "score": 100 + x + y}, f"{split}:{i}"))
        return rows

    def write(self, rows: Any, split: Any, directory: Path) -> list[Path]:
        return []


class Colours(PooledBackbone):
    """The mean colour of a picture, behind a norm; says no width."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.norm((inputs if inputs.is_floating_point() else inputs.float() / 255).mean((2, 3)))


def points(label: str = "one", **options: Any) -> LabeledTable:
    """A table of points."""
    return LabeledTable(
        **{
            "source": Points(),
            "label_column": label,
            "ignore_columns": sorted({"one", "several", "score"} - {label}),
            "batch_size": 16,
            **options,
        }
    )


def pictures(**options: Any) -> LabeledImages:
    """Pictures of two classes."""
    return LabeledImages(**{"source": ImageSets(Pictures(num_train=40, num_test=12)), "size": (4, 4), **options})


def attached(task: Task, data: Any) -> Any:
    """A task with data that was read for every stage."""
    data.prepare_data()
    for stage in ("fit", "test", "predict"):
        data.setup(stage)
    task.attach(data)
    return task.eval()


def mlp(**options: Any) -> MLP:
    torch.manual_seed(0)
    return MLP(**{"num_features": 2, "hidden_dims": [16], **options})


class TestOneLabel:
    """One of several classes."""

    def test_the_head_is_as_wide_as_features_and_classes(self) -> None:
        task = attached(Classification(backbone=mlp()), points())
        assert tuple(task.head.weight.shape) == (4, 16)
        assert task.uninformed_loss() == ("ln C", math.log(4))

    def test_loss_in_training_and_otherwise(self) -> None:
        weights = {"right": 3.0}
        task = attached(Classification(backbone=mlp(), label_smoothing=0.2, class_weights=weights), points())
        batch = task.data.splits["train"].batch(range(30), 0)
        of_class = torch.tensor([3.0 if name == "right" else 1.0 for name in task.classes.names])
        scores = task.scores(batch)
        for stage, expected in (
            ("train", F.cross_entropy(scores, batch["labels"], of_class, label_smoothing=0.2)),
            ("val", F.cross_entropy(scores, batch["labels"])),
        ):
            torch.testing.assert_close(task.step(batch, stage)["loss"], expected)

    def test_a_loss_of_one_s_own(self) -> None:
        task = attached(Classification(backbone=mlp(), loss=nn.MultiMarginLoss()), points())
        batch = task.data.splits["train"].batch(range(30), 0)
        for stage in ("train", "val"):
            expected = F.multi_margin_loss(task.scores(batch), batch["labels"])
            torch.testing.assert_close(task.step(batch, stage)["loss"], expected)
        assert task.uninformed_loss() is None
        task = attached(Classification(backbone=mlp(), loss=nn.CrossEntropyLoss(reduction="none")), points())
        assert "loss (CrossEntropyLoss) must give one number for a batch, not (30,)" in message(
            lambda: task.step(batch, "val")
        )
        assert "have no use beside a loss of one's own" in message(
            lambda: Classification(backbone=mlp(), loss=nn.MultiMarginLoss(), label_smoothing=0.1)
        )

    def test_everything_that_predict_can_say(self) -> None:
        outputs: list[Any] = ["label", "label_index", "probability", "probabilities", "logits"]
        task = attached(Classification(backbone=mlp(), outputs=outputs), points())
        batch = task.data.splits["predict"].batch(range(20), 0)
        assert "labels" not in batch
        columns, logits = task.predict_step(batch, 0), task.scores(batch)
        assert list(columns) == ["index", *outputs]
        assert columns["label_index"] == logits.argmax(-1).tolist()
        assert columns["label"] == [task.classes.names[i] for i in columns["label_index"]]
        likely = logits.softmax(-1)
        assert columns["probability"] == pytest.approx(likely.amax(-1).tolist(), abs=1e-6)
        for i in range(20):
            assert columns["probabilities"][i] == pytest.approx(
                dict(zip(task.classes.names, likely[i].tolist(), strict=True)), abs=1e-6
            )
            assert columns["logits"][i] == pytest.approx(
                dict(zip(task.classes.names, logits[i].tolist(), strict=True)), abs=1e-6
            )

    def test_outputs_that_make_no_sense(self) -> None:
        assert "outputs ([]) must name something" in message(lambda: Classification(backbone=mlp(), outputs=[]))
        assert "nothing twice" in message(lambda: Classification(backbone=mlp(), outputs=["label", "label"]))
        assert message(lambda: MultiLabel(backbone=mlp(), outputs=["probability"])) == (
            "outputs (probability) must be some of label, label_index, probabilities, logits in MultiLabel"
        )

    def test_mixtures(self) -> None:
        data = pictures(mixup=1.0, train_transforms=[])
        task = attached(Classification(backbone=Colours(), class_weights={"cat": 2.0}, label_smoothing=0.1), data)
        batch = data.splits["train"].batch(range(8), 0)
        assert batch["labels"].shape == (8, 2)
        expected = F.cross_entropy(task.scores(batch), batch["labels"], torch.tensor([2.0, 1.0]), label_smoothing=0.1)
        torch.testing.assert_close(task.step(batch, "train")["loss"], expected)
        metrics = task.metrics["train_metrics"]
        task.update_metrics(metrics, task.step(batch, "train"), batch)
        right = (task.scores(batch).argmax(-1) == batch["labels"].argmax(-1)).float().mean()
        assert metrics.compute()["train/accuracy"] == right

    def test_learns(self) -> None:
        task = Classification(backbone=mlp(), optimizer=partial(torch.optim.Adam, lr=0.02), schedule=None)
        one = trainer(max_epochs=20)
        one.fit(task, points())
        assert one.callback_metrics["val/accuracy"] > 0.8
        assert set(one.callback_metrics) >= {"val/loss", "val/macro_f1", "train/accuracy"}

    def test_metrics_of_one_s_own(self) -> None:
        task = attached(Classification(backbone=mlp(), metrics={"f1": macro_f1}), points())
        assert task.monitor == ("val/loss", "min")
        assert set(task.metrics["val_metrics"].compute()) == {"val/f1"}


class TestOthers:
    """Several classes, and scores."""

    def test_several(self) -> None:
        data = points("several", labels=SeveralLabels())
        task = attached(MultiLabel(backbone=mlp(), threshold=0.3, outputs=["label", "label_index", "logits"]), data)
        batch = data.splits["val"].batch(range(20), 0)
        scores = task.scores(batch)
        expected = F.binary_cross_entropy_with_logits(scores, batch["labels"])
        torch.testing.assert_close(task.step(batch, "train")["loss"], expected)
        columns = task.predict_step(batch, 0)
        for label, numbers, likely in zip(columns["label"], columns["label_index"], scores.sigmoid(), strict=True):
            assert numbers == [i for i in range(2) if likely[i] >= 0.3]
            assert label == [("right", "up")[i] for i in numbers]

    def test_several_are_reported(self, caplog: pytest.LogCaptureFixture) -> None:
        task = MultiLabel(backbone=mlp(), schedule=None)
        one, data = trainer(max_epochs=1), points("several", labels=SeveralLabels())
        one.fit(task, data)
        with caplog.at_level("INFO"):
            one.test(task, data)
        batch = data.splits["test"].batch(range(60), 0)
        chosen = (task.eval().scores(batch) > 0).numpy()
        report = classification_report(batch["labels"].numpy(), chosen, output_dict=True, zero_division=0)
        rows = {line.split()[0]: line.split()[1:] for line in caplog.text.splitlines() if line.strip()}
        for i, name in enumerate(task.classes.names):
            expected = [f"{report[str(i)][kind]:.3f}" for kind in ("precision", "recall", "f1-score")]
            assert rows[name] == [*expected, f"{report[str(i)]['support']:.0f}"]

    def test_several_learn(self) -> None:
        task = MultiLabel(backbone=mlp(), optimizer=partial(torch.optim.Adam, lr=0.02), schedule=None)
        one = trainer(max_epochs=20)
        one.fit(task, points("several", labels=SeveralLabels()))
        assert one.callback_metrics["val/micro_f1"] > 0.95

    def test_scores(self) -> None:
        data = points("score", labels=Score())
        task = attached(Regression(backbone=mlp()), data)
        batch = data.splits["val"].batch(range(20), 0)
        targets = torch.tensor([row.fields["score"] for row in Points().rows("train") or []], dtype=torch.float64)
        variance = targets.var(unbiased=False)
        expected = F.mse_loss(task.scores(batch), batch["labels"]) / variance
        torch.testing.assert_close(task.step(batch, "val")["loss"], expected.float())
        columns = task.predict_step(batch, 0)
        assert columns["label"] == pytest.approx(task.scores(batch).tolist(), rel=1e-5)

    def test_scores_learn_and_take_a_loss(self) -> None:
        task = Regression(
            backbone=mlp(), optimizer=partial(torch.optim.Adam, lr=0.02), schedule=None, loss=nn.SmoothL1Loss()
        )
        one = trainer(max_epochs=20)
        one.fit(task, points("score", labels=Score()))
        assert one.callback_metrics["val/pearson"] > 0.95


class TestMeeting:
    """What backbone and data have to agree on."""

    def test_a_width_that_nobody_says_is_found(self) -> None:
        task = attached(Classification(backbone=Colours()), pictures())
        assert task.backbone.embed_dim == 3
        module = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU())
        task = attached(Classification(backbone=ModuleBackbone(module=module)), pictures())
        assert task.head.in_features == 5

    def test_trying_out_leaves_no_trace(self) -> None:
        backbone = Colours()
        before = {name: value.clone() for name, value in backbone.state_dict().items()}
        attached(Classification(backbone=backbone), pictures())
        backbone.train()
        assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
        assert all(parameter.grad is None for parameter in backbone.parameters())

    def test_a_width_that_is_not_so(self) -> None:
        backbone = Colours()
        backbone.embed_dim = 7
        assert "embed_dim (7) of Colours must be the width of its features (3)" in message(
            lambda: attached(Classification(backbone=backbone), pictures())
        )

    def test_the_backbone_says_how_pictures_are_cut_out(self) -> None:
        backbone = Colours()
        backbone.preprocessing = Preprocessing((6, 6), 8, "bicubic")
        data = pictures(size=None)
        attached(Classification(backbone=backbone), data)
        assert data.splits["test"].batch([0], 0)["inputs"].shape == (1, 3, 6, 6)

    @pytest.mark.parametrize(
        ("module", "found"),
        [
            (nn.Linear(3, 2), "ModuleBackbone does not take the data's rows of shape (3, 4, 4): "),
            (
                nn.Flatten(0),
                "ModuleBackbone must make a feature (1, embed_dim) of a row, not (48,): pool and",
            ),
        ],
    )
    def test_modules_that_do_not_fit(self, module: nn.Module, found: str) -> None:
        assert found in message(lambda: attached(Classification(backbone=ModuleBackbone(module=module)), pictures()))

    def test_data_that_does_not_fit(self) -> None:
        assert "the rows have 2 numbers, the backbone num_features (3): add " in message(
            lambda: attached(Classification(backbone=mlp(num_features=3)), points())
        )
        assert "Classification needs pictures of one size, and Colours says none: add --data.size=[32,32]" in message(
            lambda: attached(Classification(backbone=Colours()), pictures(size=None))
        )
        assert "add --data.labels=lt_cli.data.labels.SeveralLabels" in message(
            lambda: attached(MultiLabel(backbone=mlp()), points())
        )
        text = LabeledText(source=Points(), tokenizer=ByteTokenizer(), text_column="one", label_column="x")
        task = Classification(backbone=mlp())
        assert "Classification needs data of pictures or tables with labels, such as" in task.problems(text)[0]
        encoder = Encoder(vocab_size=300, max_seq_len=8, embed_dim=8, num_heads=2, num_layers=1)
        assert (
            "SequenceClassification needs data of texts with labels"
            in (SequenceClassification(backbone=encoder).problems(points())[0])
        )


class TestBatchNorm:
    """A last batch of one row."""

    def test_a_row_alone_uses_the_running_statistics_and_leaves_them(self) -> None:
        task = attached(Classification(backbone=mlp()), points())
        norm = task.backbone.blocks[0][2]
        norm.running_mean.fill_(0.5)
        task.train()
        batch = task.data.splits["train"].batch([3], 0)
        loss = task.step(batch, "train")["loss"]
        assert torch.isfinite(loss)
        assert norm.training
        assert norm.num_batches_tracked == 0
        assert (norm.running_mean == 0.5).all()
        task.eval()
        assert task.step(batch, "train")["loss"] == loss

    def test_more_rows_use_their_own(self) -> None:
        task = attached(Classification(backbone=mlp()), points()).train()
        task.step(task.data.splits["train"].batch([3, 4], 0), "train")
        assert task.backbone.blocks[0][2].num_batches_tracked == 1

    def test_one_picture_has_statistics_of_its_own(self) -> None:
        net = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(4)
        )
        task = attached(Classification(backbone=ModuleBackbone(module=net)), pictures()).train()
        task.step(task.data.splits["train"].batch([3], 0), "train")
        assert (net[1].num_batches_tracked, net[-1].num_batches_tracked) == (1, 0)
        assert not net[1]._forward_pre_hooks

    def test_batches_of_one_row_are_refused(self) -> None:
        one = trainer(max_epochs=1)
        found = message(lambda: one.fit(Classification(backbone=mlp(), schedule=None), points(batch_size=1)))
        assert found.startswith("batch_size (1) must be at least 2, as the BatchNorm of MLP learns nothing")
        one.fit(Classification(backbone=mlp(hidden_dims=[]), schedule=None), points(batch_size=1))

    def test_an_epoch_that_ends_with_one_row(self) -> None:
        one = trainer(max_epochs=2)
        one.fit(Classification(backbone=mlp(), schedule=None), points(batch_size=59))
        assert one.global_step == 4
        assert torch.isfinite(one.callback_metrics["val/loss"])


class TestMistakes:
    """The pictures that a test took most wrongly for another class."""

    def test_the_worst_come_first_whatever_the_batches(self) -> None:
        torch.manual_seed(0)
        scores, labels = torch.randn(200, 3), torch.randint(3, (200,))
        nats = F.cross_entropy(scores, labels, reduction="none")
        wrong = [i for i in nats.argsort(descending=True).tolist() if scores[i].argmax() != labels[i]]
        for size in (200, 7):
            mistakes = Mistakes()
            for first in range(0, 200, size):
                rows = slice(first, first + size)
                mistakes.update(scores[rows], labels[rows], torch.arange(200)[rows])
            found = mistakes.compute()
            assert found["index"] == wrong[:32]
            assert found["label"] == labels[wrong[:32]].tolist()
            assert found["prediction"] == scores[wrong[:32]].argmax(-1).tolist()

    def test_over_processes_they_are_the_worst_of_all(self) -> None:
        torch.manual_seed(0)
        scores, labels, index = torch.randn(60, 3), torch.randint(3, (60,)), torch.arange(60)
        whole, first, second = Mistakes(), Mistakes(), Mistakes()
        whole.update(scores, labels, index)
        first.update(scores[:9], labels[:9], index[:9])
        second.update(scores[9:], labels[9:], index[9:])
        for name in ("index", "label", "prediction", "nats"):  # as torchmetrics has states of several processes
            setattr(first, name, torch.stack([getattr(first, name), getattr(second, name)]))
        assert first.compute() == whole.compute()

    def test_a_test_draws_them(self, caplog: pytest.LogCaptureFixture) -> None:
        data = pictures(source=ImageSets(Pictures(num_train=40, num_test=30)))
        task = Classification(backbone=Colours(), schedule=None)
        one = trainer(max_epochs=1, default_root_dir="here")
        one.fit(task, data)
        with caplog.at_level("INFO"):
            one.test(task, data)
        wrong = round(30 * (1 - one.callback_metrics["test/accuracy"].item()))
        assert 0 < wrong < 30
        assert "worst mistakes: here/pictures/mistakes.png" in caplog.text
        sheet = np.asarray(Image.open("here/pictures/mistakes.png"))
        tiles = data.pictures("test", range(30)).repeat(24, axis=1).repeat(24, axis=2)
        first = sheet[9 : 9 + 96, 9 : 9 + 96]
        assert any(np.array_equal(first, tile) for tile in tiles)
        assert Path("here/pictures/confusion.png").is_file()

    def test_none_are_drawn_of_tables_or_where_all_is_right(self) -> None:
        one = trainer(max_epochs=1, default_root_dir="here")
        task, data = Classification(backbone=mlp(), schedule=None), points()
        one.fit(task, data)
        one.test(task, data)
        assert not Path("here/pictures/mistakes.png").exists()
        mistakes = Mistakes()
        mistakes.update(torch.eye(3), torch.arange(3), torch.arange(3))
        assert mistakes.compute() == {"index": [], "label": [], "prediction": []}


def test_one_row_s_prediction_does_not_depend_on_the_others() -> None:
    task = attached(Classification(backbone=Colours(), outputs=["logits"]), pictures())
    split = task.data.splits["predict"]
    together = task.predict_step(split.batch(range(12), 0), 0)["logits"]
    alone = [task.predict_step(split.batch([i], 0), 0)["logits"][0] for i in range(12)]
    for one, other in zip(together, alone, strict=True):
        assert one == pytest.approx(other, abs=1e-5)


def test_the_backbone_learns_more_slowly() -> None:
    task = Classification(
        backbone=mlp(), optimizer=partial(torch.optim.SGD, lr=0.4), schedule=None, backbone_lr_scale=0.1
    )
    one = trainer(max_steps=1, limit_val_batches=0)
    one.fit(task, points())
    rates = {id(p): group["lr"] for group in one.optimizers[0].param_groups for p in group["params"]}
    assert [rates[id(p)] for p in task.backbone.parameters()] == pytest.approx([0.04] * 4)
    assert {rates[id(p)] for p in task.head.parameters()} == {0.4}
    assert "backbone_lr_scale (0.0) must be above 0 and at most 1" in message(
        lambda: Classification(backbone=mlp(), backbone_lr_scale=0.0)
    )
