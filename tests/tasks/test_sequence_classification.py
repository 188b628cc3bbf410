"""Classes, several classes and scores of texts: losses and metrics against plain loops and scikit-learn."""

import itertools
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, classification_report, f1_score, mean_squared_error
from torch import Tensor, nn
from toys import message, trainer

from lt_cli.backbones.encoder import Encoder
from lt_cli.data.labeled_text import LabeledText
from lt_cli.data.labels import Labels, OneLabel, Score, SeveralLabels
from lt_cli.data.row_sources import RowSource
from lt_cli.data.rows import Row
from lt_cli.data.tokenizers import ByteTokenizer
from lt_cli.metrics import macro_f1
from lt_cli.tasks.base import Task
from lt_cli.tasks.pooling import pooled
from lt_cli.tasks.sequence_classification import (
    MultiLabelClassification,
    SequenceClassification,
    SequenceRegression,
)

SPLITS = {"train": 61, "val": 47, "test": 53}


class Letters(RowSource):
    """Random texts of 1 to 20 letters, and labels of three kinds that follow from them."""

    def __init__(self) -> None:
        self.made: dict[str, list[dict[str, Any]]] = {}
        for seed, (split, number) in enumerate(SPLITS.items()):
            generator = np.random.default_rng(seed)
            texts = [
                "".join(generator.choice(list("abcd"), generator.integers(1, 21), p=generator.dirichlet([0.4] * 4)))
                for _ in range(number)
            ]
            self.made[split] = [
                {
                    "text": text,
                    "one": max("abc", key=text.count),
                    "several": [letter for letter in "abc" if text.count(letter) > 2],
                    "score": 1000.0 + 50 * text.count("a"),
                }
                for text in texts
            ]

    def rows(self, split: Any) -> list[Row] | None:
        return (
            [Row(fields, f"{split} {i}") for i, fields in enumerate(self.made[split])] if split in self.made else None
        )

    def write(self, rows: Any, split: Any, directory: Path) -> list[Path]:
        return []


COLUMNS: dict[type[Labels], str] = {OneLabel: "one", SeveralLabels: "several", Score: "score"}


def letters(kind: type[Labels] = OneLabel, **options: Any) -> LabeledText:
    return LabeledText(
        source=Letters(),
        tokenizer=ByteTokenizer(),
        labels=kind(),
        label_column=COLUMNS[kind],
        **{"max_seq_len": 24, "batch_size": 9, **options},
    )


def encoder(*, large: bool = True) -> Encoder:
    """Small, with weights large enough for texts to differ, or those that training begins with."""
    torch.manual_seed(0)
    made = Encoder(vocab_size=258, max_seq_len=24, embed_dim=16, num_heads=2, num_layers=2, dropout=0.0)
    for parameter in made.parameters() if large else ():
        nn.init.normal_(parameter, std=0.5)
    return made


def fitted(task: Task, data: LabeledText, steps: int = 40) -> Any:
    """After some steps, so that it says different things of different rows."""
    trainer(max_steps=steps, limit_val_batches=0).fit(task, data)
    task.eval()
    return task


def attached(task: Task, data: LabeledText) -> Any:
    """With a head that is not at zero."""
    data.prepare_data()
    data.setup("fit")
    task.attach(data)
    for parameter in task.head.parameters():  # type: ignore[operator,union-attr]
        nn.init.normal_(parameter)
    return task.eval()


FAST = {"optimizer": partial(torch.optim.AdamW, lr=0.01), "schedule": None}
KINDS: dict[type[Labels], Any] = {
    OneLabel: SequenceClassification,
    SeveralLabels: MultiLabelClassification,
    Score: SequenceRegression,
}


def truth(data: LabeledText, split: Any) -> Any:
    labels: Any = [fields[data.label_column] for fields in data.source.made[split]]  # type: ignore[attr-defined]
    return labels


def said_of(task: Task, data: LabeledText, split: Any) -> list[Any]:
    """What predict says of each row, a row at a time."""
    examples = data.splits[split]
    with torch.no_grad():
        return [task.predict_step(examples.batch([i], 0), 0)["label"][0] for i in range(len(examples))]


class TestPooling:
    """Against loops."""

    def test_each(self) -> None:
        features = torch.randn(5, 7, 3)
        lengths = [1, 7, 4, 2, 6]
        mask = torch.tensor([[1] * length + [0] * (7 - length) for length in lengths])
        for i, length in enumerate(lengths):
            rows = features[i, :length]
            assert torch.equal(pooled(features, mask, "first")[i], rows[0])
            assert torch.equal(pooled(features, mask, "last")[i], rows[-1])
            torch.testing.assert_close(pooled(features, mask, "mean")[i], rows.mean(0))

    @pytest.mark.parametrize("pooling", ["first", "mean", "last"])
    def test_padding_has_no_effect(self, pooling: Any) -> None:
        data = letters()
        task = attached(SequenceClassification(backbone=encoder(), pooling=pooling), data)
        examples = data.splits["val"]
        together = task.scores(examples.batch(range(len(examples)), 0))
        alone = torch.cat([task.scores(examples.batch([i], 0)) for i in range(len(examples))])
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
        assert together.std(0).min() > 0.01, "texts differ"


class TestClassification:
    """One of several classes."""

    @pytest.mark.parametrize("smoothing", [0.0, 0.2])
    @pytest.mark.parametrize("weights", [None, "balanced", {"a": 3.0, "c": 0.5}])
    def test_loss(self, smoothing: float, weights: Any) -> None:
        data = letters()
        made = SequenceClassification(backbone=encoder(), label_smoothing=smoothing, class_weights=weights)
        task = attached(made, data)
        batch = data.splits["train"].batch(range(20), 0)
        logs = task.scores(batch).double().log_softmax(-1)
        if weights == "balanced":
            counts = [truth(data, "train").count(name) for name in "abc"]
            weight = [61 / (3 * count) for count in counts]
        else:
            weight = [(weights or {}).get(name, 1.0) for name in "abc"]
        plain = weighted = total = 0.0
        for row, label in zip(logs.tolist(), batch["labels"].tolist(), strict=True):
            plain -= row[label] / 20
            weighted -= (1 - smoothing) * weight[label] * row[label]
            weighted -= smoothing / 3 * sum(w * log for w, log in zip(weight, row, strict=True))
            total += weight[label]
        assert task.step(batch, "train")["loss"].item() == pytest.approx(weighted / total, rel=1e-5)
        for stage in ("val", "test"):
            assert task.step(batch, stage)["loss"].item() == pytest.approx(plain, rel=1e-5)

    def test_the_first_loss_is_that_of_who_knows_nothing(self) -> None:
        data = letters()
        data.setup("fit")
        task = SequenceClassification(backbone=encoder())
        task.attach(data)
        formula, loss = task.uninformed_loss()
        assert (formula, loss) == ("ln C", math.log(3))
        assert task.step(data.splits["train"].batch([0, 1], 0), "val")["loss"].item() == pytest.approx(loss, abs=0.1)

    def test_metrics_over_batches_of_unequal_sizes(self) -> None:
        data = letters(tokens_per_batch=80)
        task = fitted(SequenceClassification(backbone=encoder(large=False), **FAST), data)
        sizes = {len(batch["index"]) for batch in data.val_dataloader()}
        assert len(sizes) > 2
        (scores,) = trainer().validate(task, data)
        right, found = truth(data, "val"), said_of(task, data, "val")
        assert len({*found}) > 1
        assert scores["val/accuracy"] == pytest.approx(accuracy_score(right, found))
        assert scores["val/macro_f1"] == pytest.approx(f1_score(right, found, average="macro"))
        examples = data.splits["val"]
        every = examples.batch(range(len(examples)), 0)
        assert scores["val/loss"] == pytest.approx(task.step(every, "val")["loss"].item(), rel=1e-5)

    def test_metrics_of_a_step(self) -> None:
        """The training batch's own."""
        data = letters(batch_size=61)
        task = attached(SequenceClassification(backbone=encoder(), dropout=0.0, **FAST), data)
        before = task.step(data.splits["train"].batch(range(61), 0), "train")
        one = trainer(max_steps=1, limit_val_batches=0, log_every_n_steps=1)
        one.fit(task, data)
        right = (before["scores"].argmax(-1) == before["labels"]).float().mean().item()
        assert one.callback_metrics["train/loss"].item() == pytest.approx(before["loss"].item(), rel=1e-5)
        assert one.callback_metrics["train/accuracy"].item() == pytest.approx(right)

    def test_report(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        printed: list[str] = []
        monkeypatch.setattr("lt_cli.tasks.class_report.rank_zero_info", printed.append)
        data = letters()
        task = fitted(SequenceClassification(backbone=encoder(large=False), **FAST), data)
        for _ in range(2):  # the second is not of both
            printed.clear()
            trainer(default_root_dir=tmp_path).test(task, data)
            expected = classification_report(truth(data, "test"), said_of(task, data, "test"), output_dict=True)
            lines = [line.split("  ") for line in printed[0].splitlines()]
            table = {cells[0]: [cell for cell in cells[1:] if cell.strip()] for cells in lines if len(cells) > 3}
            for name in ("a", "b", "c", "macro avg", "weighted avg"):
                numbers = [f"{expected[name][key]:.3f}" for key in ("precision", "recall", "f1-score")]
                assert [cell.strip() for cell in table[name]] == [*numbers, f"{expected[name]['support']:.0f}"]
            assert table["accuracy"][0].strip() == f"{expected['accuracy']:.3f}"
            assert printed[0].endswith(f"confusion matrix: {tmp_path / 'pictures' / 'confusion.png'}")
        assert (tmp_path / "pictures" / "confusion.png").stat().st_size > 500

    def test_predictions(self) -> None:
        data = letters()
        task = attached(SequenceClassification(backbone=encoder(), probabilities=True), data)
        batch = data.splits["val"].batch(range(20), 0)
        columns = task.predict_step(batch, 0)
        assert set(columns) == {"index", "label", "probabilities"}
        for label, likely, scores in zip(columns["label"], columns["probabilities"], task.scores(batch), strict=True):
            assert list(likely) == ["a", "b", "c"]
            assert sum(likely.values()) == pytest.approx(1, abs=3e-6)
            assert label == max(likely, key=likely.__getitem__)
            assert [*likely.values()] == pytest.approx(scores.softmax(-1).tolist(), abs=1e-6)
        task.outputs = ("label",)
        assert set(task.predict_step(batch, 0)) == {"index", "label"}

    def test_classes_of_whole_numbers_stay_so(self) -> None:
        data = letters()
        for rows in data.source.made.values():  # type: ignore[attr-defined]
            for fields in rows:
                fields["one"] = "abc".index(fields["one"]) * 5
        task = attached(SequenceClassification(backbone=encoder(), class_weights={"5": 2.0}), data)
        assert set(said_of(task, data, "val")) <= {0, 5, 10}
        assert task.loss_weights.tolist() == [1, 2, 1]


class TestMultiLabel:
    """Any number of classes."""

    def test_loss(self) -> None:
        data = letters(SeveralLabels)
        task = attached(MultiLabelClassification(backbone=encoder()), data)
        batch = data.splits["train"].batch(range(20), 0)
        likely = task.scores(batch).double().sigmoid()
        total = 0.0
        for row, labels in zip(likely.tolist(), batch["labels"].tolist(), strict=True):
            total -= sum(math.log(p if label else 1 - p) for p, label in zip(row, labels, strict=True))
        for stage in ("train", "val"):
            assert task.step(batch, stage)["loss"].item() == pytest.approx(total / 60, rel=1e-5)

    def test_metrics(self) -> None:
        data = letters(SeveralLabels, tokens_per_batch=80)
        task = fitted(MultiLabelClassification(backbone=encoder(large=False), **FAST), data)
        (scores,) = trainer().validate(task, data)

        def binary(rows: list[list[str]]) -> list[list[int]]:
            return [[int(name in row) for name in "abc"] for row in rows]

        right, found = binary(truth(data, "val")), binary(said_of(task, data, "val"))
        assert len({*map(tuple, found)}) > 1
        assert scores["val/micro_f1"] == pytest.approx(f1_score(right, found, average="micro"))
        assert scores["val/macro_f1"] == pytest.approx(f1_score(right, found, average="macro"))
        assert scores["val/subset_accuracy"] == pytest.approx(accuracy_score(right, found))

    @pytest.mark.parametrize("threshold", [0.2, 0.5, 0.9])
    def test_predictions(self, threshold: float) -> None:
        data = letters(SeveralLabels)
        made = MultiLabelClassification(backbone=encoder(), threshold=threshold, probabilities=True)
        task = attached(made, data)
        columns = task.predict_step(data.splits["val"].batch(range(20), 0), 0)
        for labels, likely in zip(columns["label"], columns["probabilities"], strict=True):
            assert labels == [name for name in "abc" if likely[name] >= threshold]


class TestRegression:
    """Scores, whatever their unit."""

    def test_loss_and_scores(self) -> None:
        data = letters(Score)
        task = attached(SequenceRegression(backbone=encoder()), data)
        batch = data.splits["train"].batch(range(20), 0)
        mask = batch["attention_mask"]
        features = task.backbone(batch["input_ids"], attention_mask=mask, token_type_ids=batch["token_type_ids"])
        standard = task.head(pooled(features, mask, "mean")).squeeze(1)
        values = np.array(truth(data, "train"))
        expected = mean_squared_error((values[:20] - values.mean()) / values.std(), standard.detach())
        assert task.step(batch, "train")["loss"].item() == pytest.approx(expected, rel=1e-4)
        own = standard.detach().numpy() * values.std() + values.mean()
        assert task.predict_step(batch, 0)["label"] == pytest.approx(own, rel=1e-4)

    def test_metrics_are_in_the_scores_own_unit(self) -> None:
        data = letters(Score, tokens_per_batch=80)
        task = fitted(SequenceRegression(backbone=encoder(large=False), **FAST), data)
        (scores,) = trainer().validate(task, data)
        right, found = truth(data, "val"), said_of(task, data, "val")
        assert scores["val/mean_squared_error"] == pytest.approx(mean_squared_error(right, found), rel=1e-3)
        assert scores["val/pearson"] == pytest.approx(pearsonr(right, found).statistic, abs=1e-3)
        assert scores["val/spearman"] == pytest.approx(spearmanr(right, found).statistic, abs=1e-2)
        assert scores["val/loss"] == pytest.approx(
            mean_squared_error(right, found) / np.var(truth(data, "train")), rel=1e-3
        )

    def test_small_scores_keep_their_digits(self) -> None:
        data = letters(Score)
        for rows in data.source.made.values():  # type: ignore[attr-defined]
            for fields in rows:
                fields["score"] /= 1e12
        task = attached(SequenceRegression(backbone=encoder()), data)
        batch = data.splits["val"].batch(range(20), 0)
        assert task.predict_step(batch, 0)["label"] == pytest.approx(task.scores(batch).tolist(), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
class TestEveryKind:
    """What the three share."""

    def test_predictions_do_not_depend_on_the_batch(self, kind: type[Labels]) -> None:
        data = letters(kind)
        task = attached(KINDS[kind](backbone=encoder()), data)
        alone = said_of(task, data, "val")
        data.setup("predict")
        for size, by_length in itertools.product((2, 50), (True, False)):
            other = letters(kind, batch_size=size, bucket_by_length=by_length)
            other.source.made["predict"] = other.source.made["val"]  # type: ignore[attr-defined]
            other.load_state_dict(data.state_dict())
            other.setup("predict")
            found: dict[int, Any] = {}
            for batch in other.predict_dataloader():
                columns = task.predict_step(batch, 0)
                found |= dict(zip(columns["index"].tolist(), columns["label"], strict=True))
            in_order = [found[i] for i in range(len(alone))]
            assert in_order == (pytest.approx(alone, rel=1e-4) if kind is Score else alone)

    def test_monitor(self, kind: type[Labels]) -> None:
        made = KINDS[kind]
        assert made(backbone=encoder()).monitor == made.monitor
        assert made.monitor[0].removeprefix("val/") in made(backbone=encoder()).metric_factories
        assert made(backbone=encoder(), metrics={}).monitor == ("val/loss", "min")
        assert made(backbone=encoder(), metrics={"other": macro_f1}).monitor == ("val/loss", "min")

    def test_dropout_only_trains(self, kind: type[Labels]) -> None:
        data = letters(kind)
        task = attached(KINDS[kind](backbone=encoder(), dropout=0.5), data)
        batch = data.splits["train"].batch(range(9), 0)

        def twice() -> list[Tensor]:
            return [task.scores(batch) for _ in range(2)]

        assert torch.equal(*twice())
        task.train()
        assert not torch.equal(*twice())

    def test_learns(self, kind: type[Labels]) -> None:
        data = letters(kind)
        task = KINDS[kind](backbone=encoder(large=False), **FAST)
        one = trainer(max_epochs=20)
        one.fit(task, data)
        assert one.callback_metrics[task.monitor[0]] > (0.75 if kind is OneLabel else 0.6)

    def test_labels_of_another_kind(self, kind: type[Labels]) -> None:
        for other in COLUMNS.keys() - {kind}:
            data = letters(other)
            data.setup("fit")
            said = message(lambda data=data: KINDS[kind](backbone=encoder()).attach(data))  # type: ignore[misc]
            assert said == (
                f"{KINDS[kind].__name__} needs labels of another kind than {other.__name__}: "
                f"add --data.labels=lt_cli.data.labels.{kind.__name__}"
            )

    @pytest.mark.parametrize("dropout", [-0.1, 1.0])
    def test_dropout(self, kind: type[Labels], dropout: float) -> None:
        said = message(lambda: KINDS[kind](backbone=encoder(), dropout=dropout))
        assert said == f"dropout ({dropout}) must be at least 0 and less than 1"


class TestMistakes:
    """Said before the first step."""

    @pytest.mark.parametrize("smoothing", [-0.1, 1.0])
    def test_smoothing(self, smoothing: float) -> None:
        said = message(lambda: SequenceClassification(backbone=encoder(), label_smoothing=smoothing))
        assert said == f"label_smoothing ({smoothing}) must be at least 0 and less than 1"

    @pytest.mark.parametrize("threshold", [0.0, 1.0])
    def test_threshold(self, threshold: float) -> None:
        said = message(lambda: MultiLabelClassification(backbone=encoder(), threshold=threshold))
        assert said == f"threshold ({threshold}) must be above 0 and below 1"

    def test_weights(self) -> None:
        data = letters()
        data.setup("fit")
        task = SequenceClassification(backbone=encoder(), class_weights={"d": 2.0})
        assert message(lambda: task.attach(data)).startswith("class_weights names 'd', and the classes are a, b, c")
