"""Noise that goes before the optimiser step, and noise that stays, against loops written by hand."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from lt_cli.backbones.base import Backbone
from lt_cli.callbacks.freeze import Freeze
from lt_cli.callbacks.weight_noise import WeightNoise
from lt_cli.data.base import Batch, DataModule
from lt_cli.errors import UserError
from lt_cli.optim import OptimizerFactory
from lt_cli.tasks.base import Stage, Task

MOMENTUM = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
STILL = partial(torch.optim.SGD, lr=0.0)
Weights = dict[str, Tensor]


class Rows:
    """Twelve points of a noisy plane."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(12, 3, generator=generator)
        self.y = self.x.sum(1, keepdim=True) + torch.randn(12, 1, generator=generator)

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, rows: Sequence[int], epoch: int) -> Batch:
        index = torch.tensor(rows)
        return {"index": index, "x": self.x[index], "y": self.y[index]}


class ToyData(DataModule):
    """The same rows for training and validation, six batches each."""

    def setup(self, stage: str) -> None:
        self.splits = {"train": Rows(), "val": Rows()}


class ToyBackbone(Backbone):
    """A layer wide enough that torch draws its noise in its fast way, too."""

    embed_dim = 20

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 20)
        self.activation = nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.layer(x))


class ToyTask(Task):
    """Remembers the training batches, and the weights it had in each batch of each stage."""

    def __init__(self, optimizer: OptimizerFactory = MOMENTUM) -> None:
        torch.manual_seed(1)
        super().__init__(ToyBackbone(), optimizer, schedule=None)
        self.train_batches: list[Batch] = []
        self.weights_in: dict[Stage, list[Weights]] = {"train": [], "val": [], "test": []}

    def build(self, data: DataModule) -> None:
        torch.manual_seed(2)
        self.head = nn.Linear(self.backbone.embed_dim, 1)

    def step(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        self.weights_in[stage].append(weights(self))
        if stage == "train":
            self.train_batches.append(batch)
        return {"loss": nn.functional.mse_loss(self.head(self.backbone(batch["x"])), batch["y"])}

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        return {"index": batch["index"]}


class Recorder(Callback):
    """The weights at the start and after each batch, and saved as other callbacks save them; comes first."""

    def __init__(self, directory: Path | None = None) -> None:
        self.history: list[Weights] = []
        self.directory = directory

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.history.append(weights(pl_module))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.history.append(weights(pl_module))
        if self.directory is not None:
            for kind, weights_only in (("weights", True), ("all", False)):
                path = self.directory / f"{trainer.current_epoch}-{batch_idx}-{kind}.ckpt"
                trainer.save_checkpoint(path, weights_only=weights_only)


def weights(module: nn.Module) -> Weights:
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


def same(first: Weights, second: Weights) -> bool:
    return all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def fit(
    task: Task, *callbacks: Callback, recorder: Recorder | None = None, ckpt_path: Path | None = None, **options: Any
) -> list[Weights]:
    """The weights before, and after each batch."""
    recorder = recorder or Recorder()
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    options = {"accelerator": "cpu", "devices": 1, "max_epochs": 2, **quiet, **options}
    Trainer(callbacks=[recorder, *callbacks], **options).fit(task, ToyData(batch_size=2), ckpt_path=ckpt_path)
    return recorder.history


def noise_of_step(step: int, std: float, seed: int, like: Sequence[Tensor]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    return [torch.normal(0.0, std, tensor.shape, generator=generator) for tensor in like]


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("mode", ["transient", "permanent"])
def test_training_equals_a_loop_written_by_hand(mode: Literal["transient", "permanent"], accumulate: int) -> None:
    task = ToyTask()
    history = fit(task, WeightNoise(0.3, mode=mode, seed=7), accumulate_grad_batches=accumulate)
    by_hand = ToyTask()
    by_hand.build(ToyData())
    parameters = list(by_hand.parameters())
    optimizer = MOMENTUM(parameters)
    for step in range(12 // accumulate):
        clean = [parameter.detach().clone() for parameter in parameters]
        with torch.no_grad():
            for parameter, noise in zip(parameters, noise_of_step(step, 0.3, 7, parameters), strict=True):
                parameter += noise
        optimizer.zero_grad()
        for batch in task.train_batches[step * accumulate : (step + 1) * accumulate]:
            (by_hand.step(batch, "train")["loss"] / accumulate).backward()
        if mode == "transient":
            with torch.no_grad():
                for parameter, before in zip(parameters, clean, strict=True):
                    parameter.copy_(before)
        optimizer.step()
        assert same(history[(step + 1) * accumulate], weights(by_hand))
    assert len(task.train_batches) == 12


def test_validation_and_checkpoints_of_any_batch_see_clean_weights(tmp_path: Path) -> None:
    task = ToyTask()
    options = {"accumulate_grad_batches": 3, "val_check_interval": 1, "num_sanity_val_steps": 0}
    history = fit(task, WeightNoise(0.3), recorder=Recorder(tmp_path), **options)
    for i in range(12):
        before, after = history[i : i + 2]
        assert same(before, after) == ((i + 1) % 3 != 0)
        assert not same(task.weights_in["train"][i], before)
        assert all(same(validated, after) for validated in task.weights_in["val"][6 * i : 6 * (i + 1)])
        for kind in ("weights", "all"):
            saved = torch.load(tmp_path / f"{i // 6}-{i % 6}-{kind}.ckpt", weights_only=True)["state_dict"]
            assert same(after, saved)
    assert len(task.weights_in["val"]) == 12 * 6


def test_the_batches_of_a_step_share_its_noise() -> None:
    task = ToyTask(STILL)
    fit(task, WeightNoise(0.3), accumulate_grad_batches=3)
    noisy = task.weights_in["train"]
    assert same(noisy[0], noisy[1])
    assert same(noisy[0], noisy[2])
    assert not same(noisy[2], noisy[3])


class Faltering(ToyTask):
    """Raises, gives no loss, or ends the epoch, at the third batch."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> int | None:
        return -1 if batch_idx == 2 and self.how == "ends the epoch" else None

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        loss = super().training_step(batch, batch_idx)
        if batch_idx == 2 and self.how == "raises":
            raise RuntimeError("as planned")
        return None if batch_idx == 2 and self.how == "no loss" else loss


def test_noise_goes_when_a_step_raises() -> None:
    task, recorder = Faltering("raises"), Recorder()
    with pytest.raises(RuntimeError, match="as planned"):
        fit(task, WeightNoise(0.3), recorder=recorder)
    assert len(recorder.history) == 3
    assert same(weights(task), recorder.history[2])


def test_noise_goes_when_the_task_ends_the_epoch() -> None:
    task = Faltering("ends the epoch")
    history = fit(task, WeightNoise(0.3), max_epochs=1)
    assert len(history) == 3
    assert same(weights(task), history[2])


@pytest.mark.parametrize("accumulate", [1, 6])
def test_noise_goes_when_a_batch_has_no_loss(accumulate: int) -> None:
    task = Faltering("no loss")
    options = {"accumulate_grad_batches": accumulate, "val_check_interval": 1, "num_sanity_val_steps": 0}
    history = fit(task, WeightNoise(0.3), max_epochs=1, **options)
    assert same(history[2], task.weights_in["val"][12])
    assert not same(history[0], history[6])


def test_a_step_whose_last_batch_has_no_loss_starts_from_clean_weights() -> None:
    task = Faltering("no loss")
    options = {"accumulate_grad_batches": 3, "limit_train_batches": 3, "limit_val_batches": 0}
    history = fit(task, WeightNoise(0.3), max_epochs=1, **options)
    for name, parameter in task.named_parameters():
        torch.testing.assert_close(history[3][name], history[0][name] - 0.1 * parameter.grad)


@pytest.mark.parametrize("mode", ["transient", "permanent"])
def test_a_resumed_run_ends_as_an_uninterrupted_one(mode: Literal["transient", "permanent"], tmp_path: Path) -> None:
    noise, options = WeightNoise(0.3, mode=mode), {"accumulate_grad_batches": 2}
    whole = fit(ToyTask(), noise, recorder=Recorder(tmp_path), **options)
    for at in ("0-1", "0-5", "1-3"):
        resumed = fit(ToyTask(), WeightNoise(0.3, mode=mode), ckpt_path=tmp_path / f"{at}-all.ckpt", **options)
        assert len(resumed) < len(whole)
        assert same(whole[-1], resumed[-1])


def test_a_walk_resumed_within_a_step_takes_that_step_once(tmp_path: Path) -> None:
    noise, options = WeightNoise(0.3, mode="permanent"), {"accumulate_grad_batches": 3}
    whole = fit(ToyTask(STILL), noise, recorder=Recorder(tmp_path), **options)
    resumed = fit(ToyTask(STILL), noise, ckpt_path=tmp_path / "1-0-all.ckpt", **options)
    assert same(whole[-1], resumed[-1])
    assert not same(whole[-1], whole[6])


def moved(task: Task, *callbacks: Callback) -> list[set[str]]:
    """Names of the weights that the first and the second epoch change."""
    history = fit(task, *callbacks)
    epochs = [(history[0], history[6]), (history[6], history[12])]
    return [{name for name in before if not torch.equal(before[name], after[name])} for before, after in epochs]


def test_only_what_is_named_and_trains_gets_noise() -> None:
    head, layer = {"head.weight", "head.bias"}, {"backbone.layer.weight", "backbone.layer.bias"}
    noise = partial(WeightNoise, 0.3, mode="permanent")
    assert moved(ToyTask(STILL), noise()) == [head | layer] * 2
    assert moved(ToyTask(STILL), noise(modules=["head", "*.bias"])) == [head | {"backbone.layer.bias"}] * 2
    assert moved(ToyTask(STILL), Freeze("backbone"), noise()) == [head] * 2
    assert moved(ToyTask(STILL), noise(), Freeze("backbone", {1: "backbone"})) == [head, head | layer]
    assert moved(ToyTask(STILL), Freeze("backbone", {1: "backbone"}), noise(modules="backbone")) == [set(), layer]
    task = ToyTask(STILL)
    task.backbone.requires_grad_(False)
    assert moved(task, noise()) == [head] * 2


def test_the_seed_makes_the_noise() -> None:
    third, again, fourth = (fit(ToyTask(STILL), WeightNoise(0.3, mode="permanent", seed=seed)) for seed in (3, 3, 4))
    assert same(third[-1], again[-1])
    assert not same(third[-1], fourth[-1])


def test_noise_has_its_deviation_and_the_weights_own_type() -> None:
    task = ToyTask(STILL)
    task.backbone.extra = nn.Parameter(torch.zeros(100_000))
    before, after = fit(task, WeightNoise(0.5, mode="permanent"), precision="bf16-true", max_steps=1)
    noise = after["backbone.extra"] - before["backbone.extra"]
    assert noise.dtype == torch.bfloat16
    assert noise.float().std().item() == pytest.approx(0.5, rel=0.02)
    assert noise.float().mean().item() == pytest.approx(0.0, abs=0.01)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("mode", ["transient", "permanent"])
def test_on_a_gpu(mode: Literal["transient", "permanent"]) -> None:
    task = ToyTask(STILL)
    history = fit(task, WeightNoise(0.3, mode=mode), accelerator="gpu")
    assert same(history[0], history[-1]) == (mode == "transient")
    assert not same(history[0], task.weights_in["train"][0])


@pytest.mark.parametrize("std", [0.0, -1.0, float("inf"), float("nan")])
def test_std_is_positive_and_finite(std: float) -> None:
    with pytest.raises(UserError, match=rf"weight_noise.std \({std}\) must be above 0 and finite"):
        WeightNoise(std)


def test_other_mistakes_are_named() -> None:
    with pytest.raises(UserError, match=r"weight_noise.mode \('static'\) must be one of transient, permanent"):
        WeightNoise(0.1, mode="static")  # type: ignore[arg-type]
    with pytest.raises(
        UserError, match=r"weight_noise.modules: 'backbone.layers' matches .* did you mean 'backbone.layer'"
    ):
        fit(ToyTask(), WeightNoise(0.1, modules="backbone.layers"))
    with pytest.raises(
        UserError, match=r"weight_noise.modules \(backbone.activation\) names modules without parameters"
    ):
        fit(ToyTask(), WeightNoise(0.1, modules="backbone.activation"))


def test_the_command_line() -> None:
    parser = ArgumentParser()
    parser.add_argument("--weight_noise", type=WeightNoise | None, default=None)
    noise = parser.instantiate(parser.parse_args(["--weight_noise.std=0.1"])).weight_noise
    assert (noise.std, noise.modules, noise.mode, noise.seed) == (0.1, "*", "transient", 0)
    args = ["--weight_noise.std=0.1", "--weight_noise.mode=permanent", "--weight_noise.modules=[head]"]
    noise = parser.instantiate(parser.parse_args(args)).weight_noise
    assert (noise.modules, noise.mode) == (["head"], "permanent")
