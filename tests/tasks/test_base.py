"""What every task does, on a line through numbers."""

import csv
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassAccuracy
from toys import Line, NumberData, NumberTask, pixel_data, ready, tiny_gpt, trainer

from lt_cli.data.base import Batch
from lt_cli.errors import UserError
from lt_cli.tasks.base import CHECKPOINT_FORMAT, Stage, evaluating, run_directory
from lt_cli.tasks.pixel_generation import PixelGeneration
from lt_cli.version import VERSION


def logged(task: NumberTask, name: str, **options: Any) -> dict[int, float]:
    """What a fit writes under a name, by step."""
    logger = CSVLogger(".", "logs", "")
    trainer(logger=logger, **options).fit(task, NumberData())
    with Path(logger.log_dir, "metrics.csv").open() as file:
        return {int(row["step"]): float(row[name]) for row in csv.DictReader(file) if row.get(name)}


class TestLogging:
    """Names, moments and means. Epochs have 6 batches."""

    @pytest.mark.parametrize("interval", [1, 2, 4, 5])
    def test_a_training_step_logs_its_own_loss(self, interval: int) -> None:
        task = NumberTask()
        found = logged(task, "train/loss", max_epochs=3, log_every_n_steps=interval)
        assert found == {
            step: pytest.approx(loss) for step, loss in enumerate(task.losses["train"]) if (step + 1) % interval == 0
        }

    def test_an_accumulated_step_logs_the_loss_of_its_last_batch(self) -> None:
        task = NumberTask()
        found = logged(task, "train/loss", max_epochs=2, log_every_n_steps=2, accumulate_grad_batches=3)
        assert found == {step: pytest.approx(task.losses["train"][3 * step + 2]) for step in (1, 3)}

    def test_an_interval_of_zero_logs_no_step(self) -> None:
        run = trainer(max_epochs=1, log_every_n_steps=0)
        run.fit(NumberTask(), NumberData())
        assert "train/loss" not in run.logged_metrics
        assert "val/loss" in run.logged_metrics

    def test_the_same_names_in_every_stage(self) -> None:
        task, data, run = NumberTask(), NumberData(), trainer(max_epochs=1, log_every_n_steps=1)
        run.fit(task, data)
        assert set(run.callback_metrics) == {"train/loss", "val/loss"}
        run.validate(task, data, verbose=False)
        assert set(run.callback_metrics) == {"val/loss"}
        run.test(task, data, verbose=False)
        assert set(run.callback_metrics) == {"test/loss"}

    def test_a_short_last_batch_counts_by_its_rows(self) -> None:
        task, run = NumberTask(), trainer(max_epochs=1)
        run.fit(task, NumberData())
        expected = sum(loss * rows for loss, rows in zip(task.losses["val"], (4, 4, 2), strict=True)) / 10
        assert run.callback_metrics["val/loss"].item() == pytest.approx(expected)

    def test_metrics_of_training_are_a_batch_s_own_and_of_validation_the_epoch_s(self) -> None:
        task = Scored()
        found = logged(task, "train/recall", max_epochs=1, log_every_n_steps=1)
        assert found == {step: pytest.approx(recall(rows)) for step, rows in enumerate(task.rows["train"])}
        batches = [recall(rows) for rows in task.rows["val"]]
        assert batches == [0, 0.5, 1]
        assert task.trainer.callback_metrics["val/recall"].item() == 0.5
        assert not any(name.endswith(("scores", "labels")) for name in task.trainer.logged_metrics)
        assert not task.metrics["train_metrics"]["recall"].update_called, "nothing piles up"


class TwoLosses(NumberTask):
    """The second loss is over the even rows only."""

    other_losses = {"even_loss": 0.5}  # noqa: RUF012  # a constant

    def step(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        outputs = super().step(batch, stage)
        is_even = batch["index"] % 2 == 0
        even = (self.backbone(batch["x"]) - 1).square().squeeze(1)[is_even]
        return outputs | {"even_loss": even.sum() / is_even.sum(), "even_loss_weight": is_even.sum()}


def plain(task: NumberTask) -> NumberTask:
    """Without norm and dropout: a weight and a bias."""
    assert isinstance(task.backbone, Line)
    task.backbone.norm = task.backbone.dropout = nn.Identity()  # type: ignore[assignment]
    return task


class TestOtherLosses:
    """Losses that are trained on beside the first, each a mean over things of its own."""

    def test_all_are_trained_on(self) -> None:
        """A step of gradient descent on the sum, with the factor."""
        optimizer = partial(torch.optim.SGD, lr=0.1)
        task, run = plain(TwoLosses(optimizer=optimizer)), trainer(max_steps=1)
        slope, offset = (weight.item() for weight in task.backbone.parameters())
        run.fit(task, NumberData())
        x = NumberData().splits["train"].batch(task.rows["train"][0], 0)["x"].flatten()
        even = x[torch.tensor(task.rows["train"][0]) % 2 == 0]
        error, other = slope * x + offset - x, slope * even + offset - 1
        gradients = [2 * (error * x).mean() + (other * even).mean(), 2 * error.mean() + other.mean()]
        found = [weight.item() for weight in task.backbone.parameters()]
        assert found == pytest.approx([slope - 0.1 * gradients[0].item(), offset - 0.1 * gradients[1].item()])

    def test_each_is_logged_over_what_it_is_a_mean_over(self) -> None:
        task, run = plain(TwoLosses()), trainer(max_epochs=1, log_every_n_steps=1)
        run.fit(task, NumberData())
        assert set(run.callback_metrics) == {"train/loss", "train/even_loss", "val/loss", "val/even_loss"}
        run.validate(task, data := NumberData(), verbose=False)
        evens = [row for row in range(len(data.splits["val"])) if row % 2 == 0]
        expected = task.step(data.splits["val"].batch(evens, run.current_epoch), "val")["even_loss"].item()
        assert run.callback_metrics["val/even_loss"].item() == pytest.approx(expected)


def recall(rows: list[int]) -> float:
    """Mean over the classes that occur, of which class 0 is always found and class 1, rows 0 to 4, never."""
    return len([row for row in rows if row >= 5][:1]) / len({row >= 5 for row in rows})


class Scored(NumberTask):
    """Always says class 0."""

    def build(self, data: Any) -> None:
        self.make_metrics({"recall": lambda number: MulticlassAccuracy(number, average="macro")}, 2)

    def step(self, batch: Any, stage: Any) -> Any:
        scores = torch.tensor([[1.0, 0.0]]).expand(len(batch["index"]), 2)
        return {**super().step(batch, stage), "scores": scores, "labels": (batch["index"] < 5).long()}


class Built(NumberTask):
    """Counts how often it is built."""

    built = 0

    def build(self, data: Any) -> None:
        self.built += 1
        self.head = nn.Linear(1, len(data.splits))


class TestBuilding:
    """Heads come once, when the data is known."""

    def test_once_over_all_stages(self) -> None:
        task, data, run = Built(), NumberData(), trainer(max_epochs=1)
        run.fit(task, data)
        head = task.head
        run.test(task, data, verbose=False)
        task.configure_model()
        assert task.built == 1
        assert task.head is head

    def test_outside_a_trainer(self) -> None:
        task, data = Built(), NumberData()
        assert task.data is None
        task.attach(data)
        assert task.data is data
        assert task.head.out_features == 4

    def test_foreign_data(self) -> None:
        class Foreign(LightningDataModule):
            def train_dataloader(self) -> Any:
                return DataLoader([{"index": row, "x": torch.ones(1)} for row in range(2)], batch_size=2)

        task = Built()
        trainer(max_epochs=1).fit(task, Foreign())
        assert task.data is None
        assert task.rows["train"] == [[0, 1]]

    def test_all_disagreements_at_once(self) -> None:
        task = PixelGeneration(backbone=tiny_gpt(vocab_size=7, max_seq_len=9, start_token=False))
        with pytest.raises(UserError) as caught:
            trainer(max_epochs=1).fit(task, pixel_data())
        said = str(caught.value)
        assert "the data has 5 tokens, the backbone a vocabulary of 7" in said
        assert "the data has sequences of 16 tokens, the backbone takes 9" in said
        for option in ("vocab_size=5", "max_seq_len=16", "start_token=true"):
            assert f"add --model.backbone.init_args.{option}" in said

    def test_a_grid_of_another_width(self) -> None:
        with pytest.raises(UserError, match=r"pictures 4 wide, the backbone a grid of 8: add .*\.grid_width=4"):
            PixelGeneration(backbone=tiny_gpt(grid_width=8)).attach(ready(pixel_data()))
        with pytest.raises(UserError, match=r"no pictures, the backbone a grid of 8: add .*\.grid_width=null"):
            PixelGeneration(backbone=tiny_gpt(grid_width=8)).attach(NumberData())

    def test_room_to_spare_is_no_disagreement(self) -> None:
        PixelGeneration(backbone=tiny_gpt(max_seq_len=99)).attach(ready(pixel_data()))


class TestTrainedWeights:
    """Nobody scores what nobody trained."""

    @pytest.mark.parametrize("stage", ["validate", "test", "predict"])
    def test_untrained(self, stage: str) -> None:
        with pytest.raises(UserError, match=r"weights of NumberTask are untrained: give --ckpt_path=best, last or"):
            getattr(trainer(), stage)(NumberTask(), NumberData())

    def test_untrained_head_on_a_pretrained_backbone(self) -> None:
        backbone = Line()
        backbone.pretrained = True
        trainer().predict(NumberTask(backbone), NumberData())
        task = Built(backbone)
        with pytest.raises(UserError, match="untrained"):
            trainer().predict(task, NumberData())

    def test_from_a_checkpoint(self) -> None:
        run = trainer(max_epochs=1)
        run.fit(NumberTask(), NumberData())
        run.save_checkpoint("task.ckpt")
        trainer().test(NumberTask(), NumberData(), ckpt_path="task.ckpt", verbose=False, weights_only=True)


class TestCheckpoints:
    """What a task adds to them, and how it reads them."""

    def saved(self, task: NumberTask) -> dict[str, Any]:
        run = trainer(max_epochs=1)
        run.fit(task, NumberData())
        run.save_checkpoint("task.ckpt")
        return torch.load("task.ckpt", weights_only=True)

    def test_content(self) -> None:
        task = NumberTask(optimizer=partial(torch.optim.AdamW, lr=0.25, weight_decay=0.5))
        task.run_config = {"model": {"init_args": {"backbone": {"class_path": "x"}}}, "seed_everything": 3}
        content = self.saved(task)["lt_cli"]
        assert (content["format"], content["version"]) == (CHECKPOINT_FORMAT, VERSION)
        assert content["config"] == task.run_config
        assert [group["lr"] for group in content["optimizer_settings"][0]] == [0.25, 0.25]
        assert [group["weight_decay"] for group in content["optimizer_settings"][0]] == [0.5, 0.0]

    def test_the_backbone_says_how_to_build_it_again(self) -> None:
        task = NumberTask()
        task.backbone.rebuild_config = {"class_path": "y", "init_args": {}}
        task.run_config = {"model": {"init_args": {"backbone": {"class_path": "x"}}}}
        config = self.saved(task)["lt_cli"]["config"]
        assert config == {"model": {"init_args": {"backbone": {"class_path": "y", "init_args": {}}}}}
        assert task.run_config["model"]["init_args"]["backbone"] == {"class_path": "x"}, "the run's own stays"

    def test_outside_the_command_line(self) -> None:
        assert self.saved(NumberTask())["lt_cli"]["config"] is None

    def test_weights_of_another_model(self) -> None:
        task = NumberTask()
        state = task.state_dict()
        del state["backbone.layer.bias"]
        with pytest.raises(UserError) as caught:
            task.load_state_dict({**state, "head.weight": torch.zeros(1)})
        said = str(caught.value)
        assert said.startswith("the checkpoint is of another model: Missing key")
        assert "backbone.layer.bias" in said
        assert "(and 1 more)" in said
        assert "\n" not in said

    def test_settings_of_the_configuration_beat_the_checkpoint_s(self) -> None:
        first = partial(torch.optim.AdamW, betas=(0.9, 0.95), weight_decay=0.5)
        self.saved(NumberTask(optimizer=first))
        second = partial(torch.optim.AdamW, betas=(0.8, 0.99), weight_decay=0.25)
        seen = []

        class Resumed(NumberTask):
            def on_before_optimizer_step(self, optimizer: Any) -> None:
                seen.append([(group["betas"], group["weight_decay"]) for group in optimizer.param_groups])

        trainer(max_epochs=2).fit(Resumed(optimizer=second), NumberData(), ckpt_path="task.ckpt")
        assert seen == [[((0.8, 0.99), 0.25), ((0.8, 0.99), 0.0)]] * 6


class TestSchedules:
    """A schedule needs a length."""

    def test_a_run_without_end(self) -> None:
        def schedule(optimizer: Any, total_steps: int) -> Any:
            raise AssertionError("there is no length to give it")

        with pytest.raises(UserError, match=r"set --trainer.max_steps or .*max_epochs, or --model.schedule=null"):
            trainer(max_epochs=-1).fit(NumberTask(schedule=schedule), NumberData())

    def test_without_one_the_rate_stays(self) -> None:
        run = trainer(max_epochs=-1, limit_val_batches=0, max_time="00:00:00:00")
        run.fit(NumberTask(optimizer=partial(torch.optim.SGD, lr=0.125)), NumberData())
        assert run.optimizers[0].param_groups[0]["lr"] == 0.125

    def test_the_optimiser_has_the_groups(self) -> None:
        run = trainer(max_epochs=1)
        run.fit(NumberTask(optimizer=partial(torch.optim.AdamW, weight_decay=0.5)), NumberData())
        sizes = [[parameter.ndim for parameter in group["params"]] for group in run.optimizers[0].param_groups]
        assert sizes == [[2], [1, 1, 1]]


def test_evaluating_leaves_each_part_in_its_mode() -> None:
    task = NumberTask()
    task.backbone.dropout.eval()
    with pytest.raises(KeyError), evaluating(task):
        assert not any(module.training for module in task.modules())
        raise KeyError
    assert task.training
    assert task.backbone.norm.training
    assert not task.backbone.dropout.training


def test_run_directory(tmp_path: Path) -> None:
    assert run_directory(Trainer(default_root_dir=tmp_path, logger=False)) == tmp_path
    logger = CSVLogger("elsewhere", "name", "version")
    assert run_directory(Trainer(default_root_dir=tmp_path, logger=logger)) == tmp_path, "whatever the logger"
