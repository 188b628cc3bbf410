"""Frozen parts stay as they are to the bit, thaw when told to, also after a resume and under DDP."""

import copy
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

import lt_cli
from lt_cli.backbones.base import Backbone
from lt_cli.callbacks.freeze import Freeze
from lt_cli.callbacks.weight_noise import WeightNoise
from lt_cli.data.base import Batch, DataModule
from lt_cli.errors import UserError
from lt_cli.optim import OptimizerFactory
from lt_cli.tasks.base import Stage, Task

NUM_FEATURES, NUM_CLASSES, NUM_ROWS = 3, 2, 16
ADAMW = partial(torch.optim.AdamW, lr=0.1, weight_decay=0.5)
State = dict[str, Tensor]


class Rows:
    """Three numbers, and whether their sum is large."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x = 2 + 3 * torch.randn(NUM_ROWS, NUM_FEATURES, generator=generator)
        self.labels = (self.x.sum(1) > 6).long()

    def __len__(self) -> int:
        return NUM_ROWS

    def batch(self, rows: Sequence[int], epoch: int) -> Batch:
        index = torch.tensor(rows)
        return {"index": index, "x": self.x[index], "labels": self.labels[index]}


class ToyData(DataModule):
    """The same rows for training and validation."""

    def setup(self, stage: str) -> None:
        self.splits = {"train": Rows(), "val": Rows()}


class ToyBackbone(Backbone):
    """All that freezing is about: nested modules, BatchNorm, dropout, a parameter of its own."""

    embed_dim = 4

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(NUM_FEATURES, 4), nn.Linear(4, 4)])
        self.norm = nn.BatchNorm1d(4)
        self.dropout = nn.Dropout(dropout)
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.norm(self.blocks[1](self.blocks[0](x).tanh()))) * self.scale


class ToyTask(Task):
    """Its head comes late, as every head does."""

    def __init__(self, optimizer: OptimizerFactory = ADAMW, dropout: float = 0.0) -> None:
        torch.manual_seed(1)
        super().__init__(ToyBackbone(dropout), optimizer, schedule=None)
        self.train_features: list[tuple[Tensor, Tensor]] = []

    def build(self, data: DataModule) -> None:
        torch.manual_seed(2)
        self.head = nn.Linear(self.backbone.embed_dim, NUM_CLASSES)

    def step(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        features = self.backbone(batch["x"])
        if stage == "train":
            self.train_features.append((batch["x"], features.detach()))
        return {"loss": nn.functional.cross_entropy(self.head(features), batch["labels"])}

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        return {"index": batch["index"]}


class Recorder(Callback):
    """The weights before fit and after each epoch, and in between what trained."""

    def __init__(self) -> None:
        self.states: list[State] = []
        self.gradients: list[set[str]] = []
        self.eval_modules: list[set[str]] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.states.append(copy.deepcopy(pl_module.state_dict()))

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.gradients.append({name for name, p in pl_module.named_parameters() if p.grad is not None})
        self.eval_modules.append({name for name, module in pl_module.named_modules() if not module.training})

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.states.append(copy.deepcopy(pl_module.state_dict()))


def fit(
    task: Task, *callbacks: Callback, batch_size: int = 4, ckpt_path: Path | None = None, **options: Any
) -> Recorder:
    recorder = Recorder()
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    options = {"accelerator": "cpu", "devices": 1, "max_epochs": 1, **quiet, **options}
    Trainer(callbacks=[recorder, *callbacks], **options).fit(task, ToyData(batch_size=batch_size), ckpt_path=ckpt_path)
    return recorder


def changed(before: State, after: State) -> set[str]:
    """Names without what torch counts, such as batches."""
    return {name for name in after if not torch.equal(before[name], after[name]) and "num_batches" not in name}


def within(task: Task, prefix: str) -> set[str]:
    return {name for name in task.state_dict() if name.startswith(prefix) and "num_batches" not in name}


def weights(task: Task, prefix: str = "") -> set[str]:
    return {name for name, _ in task.named_parameters() if name.startswith(prefix)}


@pytest.mark.parametrize("accumulate", [1, 2])
def test_frozen_weights_stay_to_the_bit_despite_weight_decay(accumulate: int) -> None:
    task = ToyTask()
    before, after = fit(task, Freeze("backbone"), accumulate_grad_batches=accumulate).states
    assert changed(before, after) == within(task, "head")


def test_frozen_batch_norm_and_dropout_work_as_in_evaluation() -> None:
    task = ToyTask(dropout=0.5)
    recorder = fit(task, Freeze("backbone"), max_epochs=2, val_check_interval=2)
    assert all(modules >= {"backbone", "backbone.norm", "backbone.dropout"} for modules in recorder.eval_modules)
    assert not any("head" in modules for modules in recorder.eval_modules)
    task.eval()
    for x, features in task.train_features:
        assert torch.equal(features, task.backbone(x))


def test_eval_mode_returns_whoever_sets_train_mode() -> None:
    class Restless(ToyTask):
        def on_train_epoch_start(self) -> None:
            self.train()

        def on_validation_model_train(self) -> None:
            self.train()

    recorder = fit(Restless(), Freeze("backbone"), val_check_interval=2)
    assert all("backbone.norm" in modules for modules in recorder.eval_modules)


def test_modules_replaced_after_setup_are_frozen_too() -> None:
    class Converting(ToyTask):
        def on_fit_start(self) -> None:
            """What ``Trainer(sync_batchnorm=True)`` does: another module, the same parameters."""
            super().on_fit_start()
            old = self.backbone.norm
            self.backbone.norm = nn.BatchNorm1d(4)
            self.backbone.norm.weight, self.backbone.norm.bias = old.weight, old.bias

    task = Converting()
    before, after = fit(task, Freeze("backbone")).states
    assert changed(before, after) == within(task, "head")


@pytest.mark.parametrize(
    ("modules", "frozen"),
    [
        ("head", {"head.weight", "head.bias"}),
        ("backbone.blocks.[0-1]", {f"backbone.blocks.{i}.{kind}" for i in (0, 1) for kind in ("weight", "bias")}),
        ("backbone.blocks.?", {f"backbone.blocks.{i}.{kind}" for i in (0, 1) for kind in ("weight", "bias")}),
        ("backbone.scale", {"backbone.scale"}),
        (["*.bias", "backbone.norm"], None),
    ],
)
def test_names_and_globs_of_modules_and_parameters(modules: list[str] | str, frozen: set[str] | None) -> None:
    task = ToyTask()
    recorder = fit(task, Freeze(modules))
    if frozen is None:
        frozen = {name for name in weights(task) if name.endswith("bias")} | weights(task, "backbone.norm")
    assert all(gradients == weights(task) - frozen for gradients in recorder.gradients)
    assert changed(*recorder.states) & weights(task) == weights(task) - frozen


def test_a_tied_parameter_is_frozen_under_either_name() -> None:
    class Tied(ToyTask):
        def build(self, data: DataModule) -> None:
            super().build(data)
            self.again = nn.Linear(NUM_FEATURES, 4)
            self.again.weight = self.backbone.blocks[0].weight

    task = Tied()
    recorder = fit(task, Freeze("again.weight"))
    assert "backbone.blocks.0.weight" not in changed(*recorder.states)


def test_thaws_happen_at_their_epochs() -> None:
    task = ToyTask()
    states = fit(task, Freeze("backbone", {2: "backbone.*", 1: ["backbone.blocks.1"]}), max_epochs=4).states
    trained = [changed(before, after) for before, after in pairwise(states)]
    head, block, everything = within(task, "head"), within(task, "backbone.blocks.1"), within(task, "")
    assert trained == [head, head | block, everything, everything]


def test_thawed_modules_train_in_train_mode_while_their_parent_stays_frozen() -> None:
    recorder = fit(ToyTask(), Freeze("backbone", {1: "backbone.norm"}), max_epochs=2)
    assert "backbone.norm" in recorder.eval_modules[3]
    assert "backbone.norm" not in recorder.eval_modules[4]
    assert recorder.eval_modules[4] >= {"backbone", "backbone.dropout"}


def test_what_never_trained_does_not_train_after_a_thaw() -> None:
    task = ToyTask()
    task.backbone.blocks[0].requires_grad_(False)
    task.backbone.norm.eval()
    recorder = fit(task, Freeze("backbone", {1: "backbone"}), max_epochs=2)
    assert recorder.gradients[-1] == weights(task) - weights(task, "backbone.blocks.0")
    assert recorder.eval_modules[-1] == {"backbone.norm"}
    assert not task.backbone.blocks[0].weight.requires_grad
    assert not task.backbone.norm.training


class Save(Callback):
    """Saves after one batch of one epoch."""

    def __init__(self, path: Path, epoch: int, batch_idx: int) -> None:
        self.path, self.epoch, self.batch_idx = path, epoch, batch_idx

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if (trainer.current_epoch, args[-1]) == (self.epoch, self.batch_idx):
            trainer.save_checkpoint(self.path)


class SaveAtEpochEnd(Callback):
    """Saves at the end of one epoch."""

    def __init__(self, path: Path, epoch: int) -> None:
        self.path, self.epoch = path, epoch

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == self.epoch:
            trainer.save_checkpoint(self.path)


EPOCHS, STEPS = {"max_epochs": 3}, {"max_epochs": -1, "max_steps": 12}


@pytest.mark.parametrize(
    ("save", "length"),
    [
        (partial(Save, epoch=1, batch_idx=0), EPOCHS),
        (partial(Save, epoch=1, batch_idx=0), STEPS),
        (partial(Save, epoch=1, batch_idx=3), EPOCHS),
        (partial(Save, epoch=1, batch_idx=3), STEPS),
        (partial(SaveAtEpochEnd, epoch=0), EPOCHS),
        (partial(SaveAtEpochEnd, epoch=1), EPOCHS),
    ],
)
def test_a_resumed_run_ends_as_an_uninterrupted_one(
    save: Callable[[Path], Callback], length: dict[str, int], tmp_path: Path
) -> None:
    path = tmp_path / "some.ckpt"
    task = ToyTask()
    whole = fit(task, Freeze("backbone", {1: "backbone"}), save(path), **length)
    resumed = fit(ToyTask(), Freeze("backbone", {1: "backbone"}), ckpt_path=path, **length)
    assert len(resumed.gradients) < len(whole.gradients) == 12
    assert changed(whole.states[1], whole.states[-1]) == within(task, "")
    assert not changed(whole.states[-1], resumed.states[-1])


@pytest.mark.parametrize("epoch", [0, 1])
def test_a_run_counted_in_steps_resumes_thawed_from_an_epochs_end(epoch: int, tmp_path: Path) -> None:
    path = tmp_path / "some.ckpt"
    fit(ToyTask(), Freeze("backbone", {1: "backbone"}), SaveAtEpochEnd(path, epoch), **STEPS)
    task = ToyTask()
    resumed = fit(task, Freeze("backbone", {1: "backbone"}), ckpt_path=path, **STEPS)
    assert resumed.gradients == [weights(task)] * (12 - 4 * (epoch + 1))


def test_clipping_counts_only_what_trains() -> None:
    norms: list[float] = []

    class Measuring(ToyTask):
        def configure_gradient_clipping(self, *args: Any, **kwargs: Any) -> None:
            super().configure_gradient_clipping(*args, **kwargs)
            norms.append(torch.cat([p.grad.flatten() for p in self.head.parameters()]).norm().item())

    fit(Measuring(), Freeze("backbone", {1: "backbone"}), max_epochs=2, gradient_clip_val=1e-3)
    assert norms[:4] == pytest.approx([1e-3] * 4, rel=1e-3)
    assert all(norm < 0.99e-3 for norm in norms[4:])


class Failing(ToyTask):
    """Raises in its first training step."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        raise RuntimeError("as planned")


@pytest.mark.parametrize(
    ("task", "ends"), [(ToyTask(), nullcontext()), (Failing(), pytest.raises(RuntimeError, match="as planned"))]
)
def test_the_task_is_as_before_after_fit_and_after_an_error(task: Task, ends: AbstractContextManager[Any]) -> None:
    with ends:
        fit(task, Freeze("backbone"))
    assert all(parameter.requires_grad for parameter in task.parameters())
    assert all(module.training for module in task.modules())


def test_it_says_how_much_is_frozen_at_the_start_and_at_each_thaw(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("lt_cli.callbacks.freeze.rank_zero_info", said.append)
    fit(ToyTask(), Freeze("backbone", {1: "backbone.blocks", 2: "backbone"}), max_epochs=4)
    assert said == [
        "epoch 0: 48 parameters frozen, 10 trainable",
        "epoch 1: 12 parameters frozen, 46 trainable",
        "epoch 2: 0 parameters frozen, 58 trainable",
    ]


@pytest.mark.parametrize(
    ("modules", "thaw", "message"),
    [
        ("hed", None, "freeze.modules: 'hed' matches no module or parameter of ToyTask: did you mean 'head'"),
        ("encoder.*", None, "'encoder.*' matches no module or parameter of ToyTask: did you mean 'backbone' or"),
        ([], None, "freeze.modules must name at least one of 'backbone' or 'metrics' or 'head'"),
        ("backbone", {2: "backbone.blocks.7"}, "freeze.thaw of epoch 2: 'backbone.blocks.7' matches no"),
        ("backbone", {1: "head"}, r"freeze.thaw of epoch 1 \(head\) must name parts that freeze.modules \(backbone\)"),
        ("backbone.norm", {1: "backbone"}, r"freeze.thaw of epoch 1 \(backbone\) must name parts"),
        ("backbone", {1: "backbone", 2: "backbone.norm"}, r"freeze.thaw of epoch 2 \(backbone.norm\) must name"),
        ("*", None, r"freeze.modules \(\*\) leaves nothing to train in epoch 0"),
        (["backbone", "head"], {1: "head"}, "leaves nothing to train in epoch 0"),
    ],
)
def test_mistakes_are_named(modules: list[str] | str, thaw: dict[int, list[str] | str] | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        fit(ToyTask(), Freeze(modules, thaw))


def test_a_thaw_on_several_processes_needs_ddp() -> None:
    trainer = SimpleNamespace(world_size=2, strategy=SimpleNamespace(model=None))
    with pytest.raises(UserError, match=r"freeze.thaw needs one process or --trainer.strategy=ddp"):
        Freeze("backbone", {1: "backbone"}).on_train_start(cast(Trainer, trainer), ToyTask())


@pytest.mark.parametrize("epoch", [0, -1])
def test_a_thaw_comes_after_epoch_0(epoch: int) -> None:
    with pytest.raises(UserError, match=f"epoch {epoch} must be at least 1"):
        Freeze("backbone", {epoch: "backbone"})


@pytest.mark.parametrize(
    "args",
    [
        ["--freeze.modules=backbone", "--freeze.thaw={1: backbone.norm, 2: [backbone]}"],
        ['--freeze={"modules": "backbone", "thaw": {"1": "backbone.norm", "2": ["backbone"]}}'],
    ],
)
def test_the_command_line(args: list[str]) -> None:
    parser = ArgumentParser()
    parser.add_argument("--freeze", type=Freeze | None, default=None)
    freeze = parser.instantiate(parser.parse_args(args)).freeze
    assert (freeze.modules, freeze.thaw) == ("backbone", {1: "backbone.norm", 2: ["backbone"]})


def staged_run(batch_size: int, **options: Any) -> Recorder:
    """Two thaws, clipping, and noise, which must leave alone what is frozen on every process."""
    freeze = Freeze("backbone", {1: "backbone.blocks.1", 2: "backbone.blocks.0"})
    noise = WeightNoise(0.01, mode="permanent")
    task = ToyTask(optimizer=partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.01))
    return fit(task, freeze, noise, batch_size=batch_size, max_epochs=4, gradient_clip_val=0.5, **options)


def test_two_processes_thaw_alike_and_as_one_does(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(lt_cli.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, __file__, str(tmp_path)], env=environment, check=True, timeout=120)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    single = staged_run(batch_size=8).states
    assert len(first) == len(single) == 5
    head, blocks = {"head.weight", "head.bias"}, "backbone.blocks.{}.{}"
    due = [head, *({blocks.format(i, kind) for kind in ("weight", "bias")} for i in (1, 0)), set()]
    trained: set[str] = set()
    for epoch in range(4):
        trained |= due[epoch]
        assert not changed(first[epoch + 1], second[epoch + 1])
        assert changed(first[epoch], first[epoch + 1]) == trained
        torch.testing.assert_close(first[epoch + 1], single[epoch + 1])


if __name__ == "__main__":
    torch.set_num_threads(1)
    states = staged_run(batch_size=4, strategy="ddp", devices=2).states
    torch.save(states, Path(sys.argv[1]) / f"{os.environ.get('LOCAL_RANK', '0')}.pt")
