"""FSDP2: what is learned, kept and read where the weights are shared out, by backbone and by task."""

import csv
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsdp2_processes as processes
import pytest
import torch
from contract_suite import (
    CONFIGS,
    TEST_ALL,
    assert_same_weights,
    in_two_processes,
    without_dropout,
)
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import ModelParallelStrategy
from pretrained import pretrained_gpt2
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from lt_cli import fsdp2
from lt_cli.backbones.base import Backbone
from lt_cli.backbones.encoder import Encoder
from lt_cli.backbones.gpt import GPT
from lt_cli.backbones.hf_encoder import HuggingFaceEncoder
from lt_cli.backbones.hf_seq2seq import HuggingFaceSeq2Seq
from lt_cli.backbones.hf_vision import HuggingFaceVision
from lt_cli.backbones.huggingface import HuggingFaceCausalLM, HuggingFaceMaskedLM
from lt_cli.backbones.lora import LoRA
from lt_cli.backbones.mlp import MLP
from lt_cli.backbones.module import ModuleBackbone
from lt_cli.backbones.resnet import ResNet
from lt_cli.backbones.torchvision_models import TorchvisionBackbone
from lt_cli.backbones.video_text import VideoText
from lt_cli.checkpoint import load
from lt_cli.checkpoint_io import read
from lt_cli.cli import run
from lt_cli.dtensors import whole_of
from lt_cli.errors import UserError
from lt_cli.fsdp2 import FSDP2, share_out
from lt_cli.losses import linear_cross_entropy
from lt_cli.optim import MuonAdamW, parameter_groups

TRAINER = Path(__file__).parent.parent / "configs" / "trainer"
STEPS = 8


@pytest.fixture(scope="module")
def shared_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What fsdp2_processes.py leaves, of which one process began a part and did all once."""
    root = tmp_path_factory.mktemp("fsdp2")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        torch.set_num_threads(1)
        pretrained_gpt2(Path("gpt2"), num_layers=2)
        for config in CONFIGS:
            without_dropout(config)
        for name, case in processes.CASES.items():
            run(processes.arguments(case, f"{name}/one"))
            processes.rewind(case, f"{name}/one", f"{name}/begun")
    return in_two_processes("fsdp2_processes.py", root)


@pytest.fixture(scope="module")
def said(shared_out: Path) -> dict[str, Any]:
    """Scores and refusals of the two processes."""
    content: dict[str, Any] = json.loads((shared_out / "said.json").read_text())
    return content


def content(directory: Path, case: tuple[Path, list[str]]) -> dict[str, Any]:
    """Of the last checkpoint of a run."""
    found: dict[str, Any] = read(processes.last(str(directory), case), optimizers=True)
    assert found["global_step"] == STEPS
    return found


def assert_close(one: dict[str, Any], other: dict[str, Any], tolerance: float = 2e-6) -> None:
    """Weights and optimiser states, but for what is left out of one as it is given."""
    for name, weight in one["state_dict"].items():
        if name in other["state_dict"]:
            torch.testing.assert_close(weight, other["state_dict"][name], atol=tolerance, rtol=1e-5, msg=name)
    for mine, theirs in zip(one["optimizer_states"], other["optimizer_states"], strict=True):
        assert mine["param_groups"] == theirs["param_groups"]
        assert mine["state"].keys() == theirs["state"].keys()
        for number, kinds in mine["state"].items():
            for kind, value in kinds.items():
                torch.testing.assert_close(value, theirs["state"][number][kind], atol=tolerance, rtol=1e-4)


def losses(directory: Path, case: tuple[Path, list[str]]) -> list[float]:
    """Of each validation."""
    log = processes.last(str(directory), case).parent.parent / "metrics.csv"
    return [float(row["val/loss"]) for row in csv.DictReader(log.open()) if row["val/loss"]]


@pytest.mark.parametrize("name", processes.CASES)
class TestTwoProcesses:
    """Of half the batch each, blocks computed twice, one of them frozen, gradients clipped and gathered."""

    def test_learn_what_one_learns(self, name: str, shared_out: Path) -> None:
        case = processes.CASES[name]
        one, two = (content(shared_out / name / kind, case) for kind in ("one", "whole"))
        assert_close(one, two)
        assert one["state_dict"].keys() <= two["state_dict"].keys()

    def test_log_what_one_logs(self, name: str, shared_out: Path) -> None:
        """The loss of validation after each epoch."""
        one, two = (losses(shared_out / name / kind, processes.CASES[name]) for kind in ("one", "whole"))
        assert len(one) == 2
        assert two == pytest.approx(one, rel=1e-5)

    def test_killed_and_resumed_are_bit_identical(self, name: str, shared_out: Path) -> None:
        case = processes.CASES[name]
        whole, resumed = (content(shared_out / name / kind, case) for kind in ("whole", "resumed"))
        assert_same_weights(resumed["state_dict"], whole["state_dict"])

    def test_go_on_with_what_one_began(self, name: str, shared_out: Path) -> None:
        case = processes.CASES[name]
        assert_close(content(shared_out / name / "one", case), content(shared_out / name / "begun", case))

    def test_begin_what_one_finishes(self, name: str, shared_out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(shared_out)
        case = processes.CASES[name]
        processes.go_on(case, f"{name}/to_finish")
        assert_close(content(Path(f"{name}/one"), case), content(Path(f"{name}/to_finish"), case))

    def test_leave_what_one_evaluates(self, name: str, shared_out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(shared_out)
        case = processes.CASES[name]
        path = processes.last(f"{name}/whole", case)
        cli = run(["test", f"--ckpt_path={path}", *TEST_ALL, "--data.batch_size=64"])
        assert cli.trainer.callback_metrics["test/loss"].isfinite()
        assert_same_weights(load(path).task.state_dict(), cli.model.state_dict())


def test_shards_and_a_file_are_evaluated_alike(said: dict[str, Any]) -> None:
    """By two processes, of a run of two and of one."""
    shards, file = said["evaluations"]["whole"], said["evaluations"]["one"]
    assert "test/loss" in shards
    assert shards == pytest.approx(file, rel=1e-4)


def test_a_whole_file_goes_on_anywhere(shared_out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shared_out)
    case = processes.CASES["sequence_classification"]
    assert processes.last("file/to_finish", case).is_file()
    processes.go_on(case, "file/to_finish")
    one = content(Path("sequence_classification/one"), case)
    assert_close(one, content(Path("file/resumed"), case))
    assert_close(one, content(Path("file/to_finish"), case))


def test_batch_norms_are_those_of_ddp(shared_out: Path, said: dict[str, Any]) -> None:
    """Each process has its own batches' statistics in training, and the first one's in evaluation and checkpoints."""
    ddp, whole, resumed = (
        content(shared_out / "norms" / kind, processes.RESNET) for kind in ("ddp", "whole", "resumed")
    )
    assert any("running_mean" in name for name in ddp["state_dict"])
    assert_close(ddp, whole)
    assert_same_weights(resumed["state_dict"], whole["state_dict"])
    assert said["norms"]["norms"] == pytest.approx(said["norms"]["ddp"], rel=1e-5)


def test_a_block_without_gradients_does_not_keep_a_run_from_going_on(shared_out: Path) -> None:
    whole, resumed = (content(shared_out / "unused" / kind, processes.PROBE) for kind in ("whole", "resumed"))
    assert len(whole["optimizer_states"][0]["state"]) < len(whole["state_dict"])
    assert_same_weights(resumed["state_dict"], whole["state_dict"])


def test_muon_puts_matrices_together(shared_out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its steps, in bfloat16, are those of ``ddp`` but for their rounding; one process goes on with what is left."""
    monkeypatch.chdir(shared_out)
    ddp, whole, resumed = (content(Path("muon") / kind, processes.MUON) for kind in ("ddp", "whole", "resumed"))
    assert_close(ddp, whole, 5e-4)
    assert_same_weights(resumed["state_dict"], whole["state_dict"])
    shutil.copytree("muon/whole", "muon/to_finish", symlinks=True)
    end = processes.last("muon/to_finish", processes.MUON)
    end.unlink()
    end.symlink_to("step-0000004.ckpt")
    processes.go_on(processes.MUON, "muon/to_finish")
    assert_close(whole, content(Path("muon/to_finish"), processes.MUON), 5e-4)


def test_an_optimiser_without_state(shared_out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shared_out)
    whole, resumed = (content(Path("sgd") / kind, processes.SGD) for kind in ("whole", "resumed"))
    assert whole["optimizer_states"][0]["state"] == {}
    assert_same_weights(resumed["state_dict"], whole["state_dict"])
    path = processes.last("sgd/whole", processes.SGD)
    assert run(["test", f"--ckpt_path={path}", *TEST_ALL]).trainer.callback_metrics["test/loss"].isfinite()
    assert "optimizer_states" not in read(path), "who does not train needs no memory for them"


def test_a_schedule_where_there_was_none(shared_out: Path) -> None:
    groups = content(shared_out / "constant", processes.MUON)["optimizer_states"][0]["param_groups"]
    assert [group["initial_lr"] for group in groups] == [0.003] * len(groups)
    assert all(group["lr"] < 0.003 for group in groups)


def test_what_follows_the_last_step_is_made_up_for(shared_out: Path, said: dict[str, Any]) -> None:
    assert said["late"]["val/loss"] > 0
    assert (processes.last(str(shared_out / "late"), processes.PIXELS).parent / "best.ckpt").exists()


def test_half_precision(shared_out: Path, said: dict[str, Any]) -> None:
    case = processes.CASES["causal_language_modeling"]
    assert_close(content(shared_out / "mixed/ddp", case), content(shared_out / "mixed/fsdp2", case))
    assert said["precision"]["mixed"] == pytest.approx(said["precision"]["ddp"], rel=1e-5)
    narrow = content(shared_out / "true/fsdp2", case)
    assert {weight.dtype for weight in narrow["state_dict"].values()} == {torch.bfloat16}
    assert said["precision"]["true"]["val/loss"] == pytest.approx(said["precision"]["ddp"]["val/loss"], rel=0.01)


def test_evaluations_leave_weights_that_can_be_trained(said: dict[str, Any]) -> None:
    """With nccl, Lightning would evaluate in inference mode, before the first step already."""
    assert said["gpus"] == pytest.approx(said["cases"]["pixel_generation"], rel=1e-4)


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("whole layers", "is of another model or optimiser: Missing key in checkpoint state_dict: .*blocks.2"),
        ("whole fewer layers", "is of another model or optimiser: Unexpected key in checkpoint .*blocks.1"),
        ("one fewer layers", "is of another model: Unexpected key.*blocks.1"),
        ("whole width", "is of another model or optimiser: .*Size mismatch"),
        ("one layers", "is of another model: Missing key.*blocks.2"),
        ("one width", "is of another model: size mismatch for backbone.token_embedding.weight"),
        ("groups", "is of another model or optimiser: .*groups"),
    ],
)
def test_refusals(name: str, rule: str, said: dict[str, Any]) -> None:
    message = said["refusals"][name]
    assert "\n" not in message
    with pytest.raises(UserError, match=rule):
        raise UserError(message)


FIT = ["fit", f"--config={next(one for one in CONFIGS if one.stem == 'pixel_generation')}"]


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        (["--trainer.strategy.data_parallel_size=2"], r"data_parallel_size \(2\) must be .* all processes \(1\)"),
        (
            ["--trainer.callbacks=lightning.pytorch.callbacks.EMAWeightAveraging"],
            "EMAWeightAveraging copies all weights",
        ),
        (
            [
                "--trainer.callbacks=lightning.pytorch.callbacks.StochasticWeightAveraging",
                "--trainer.callbacks.swa_lrs=1",
            ],
            "StochasticWeightAveraging copies all weights, which FSDP2 shares out: use --trainer.strategy=ddp",
        ),
        (["--trainer.precision=64-true"], r"precision \(64-true\) must be one of 32-true"),
    ],
)
def test_mistakes(options: list[str], rule: str) -> None:
    with pytest.raises(UserError, match=rule) as caught:
        run([*FIT, "--trainer.devices=1", "--trainer.strategy=lt_cli.fsdp2.FSDP2", *options])
    assert "\n" not in str(caught.value)
    assert not distributed.is_initialized()


class Alone(LightningModule):
    """A backbone and a loss of it, in a group of one process."""

    def __init__(self, backbone: nn.Module, loss: Callable[[Any], Tensor], *, recomputing: bool = False) -> None:
        super().__init__()
        self.backbone, self.loss, self.strategy = backbone, loss, FSDP2(activation_checkpointing=recomputing)

    @property
    def trainer(self) -> Any:
        return SimpleNamespace(strategy=self.strategy)

    def share_out(self) -> None:
        self._device_mesh = init_device_mesh("cpu", (1, 1), mesh_dim_names=("data_parallel", "tensor_parallel"))
        share_out(self)

    def training_step(self, seed: int) -> Tensor:
        torch.manual_seed(seed)
        return self.loss(self.backbone)

    def predict_step(self, seed: int) -> Tensor:
        return self.training_step(seed)

    test_step = validation_step = predict_step

    def gradients(self) -> dict[str, Tensor]:
        self.zero_grad()
        self.training_step(0).backward()
        whole = ((name, p.grad) for name, p in self.named_parameters() if p.grad is not None)
        return {name: (g.full_tensor() if isinstance(g, DTensor) else g).clone() for name, g in whole}


@pytest.fixture
def group() -> Iterator[None]:
    """Of this process alone."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        distributed.destroy_process_group()


IDS = torch.randint(0, 50, (2, 12), generator=torch.Generator().manual_seed(0))
SIZES = {"vocab_size": 50, "max_seq_len": 16}
OURS = {"embed_dim": 16, "num_heads": 2, "num_layers": 2}
THEIRS = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
T5 = {"model_type": "t5", "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
BART = {"model_type": "bart", "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2}
BART |= {"decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
SWIN: dict[str, Any] = {"model_type": "swin", "image_size": 16, "patch_size": 2, "window_size": 2}
SWIN |= {"embed_dim": 8, "depths": [2, 6], "num_heads": [2, 2]}
GPT2 = {"model_type": "gpt2", "n_embd": 16, "n_layer": 2, "n_head": 2}


def of_next(backbone: Any) -> Tensor:
    return linear_cross_entropy(backbone(IDS), *backbone.output_matrix(), IDS)


def of_target(backbone: Any) -> Tensor:
    return linear_cross_entropy(backbone(IDS, decoder_input_ids=IDS), *backbone.output_matrix(), IDS)


def of_answer(backbone: Any) -> Tensor:
    kinds, frames = torch.zeros_like(IDS), torch.tensor([3, 2])
    features = backbone(IDS, token_type_ids=kinds, video=torch.ones(2, 3, 5), num_frames=frames)
    return linear_cross_entropy(features, *backbone.output_matrix(), IDS)


def of_text(backbone: Any) -> Tensor:
    return backbone(IDS, attention_mask=torch.ones_like(IDS)).square().mean()


def of_picture(backbone: Any) -> Tensor:
    return backbone(torch.rand(2, 3, 16, 16)).square().mean()


def gpt2(lora: LoRA | None = None) -> HuggingFaceCausalLM:
    return HuggingFaceCausalLM(architecture=GPT2, **SIZES, lora=lora)


def text(**settings: Any) -> HuggingFaceEncoder:
    return HuggingFaceEncoder(architecture={**THEIRS, **settings}, **SIZES)


BACKBONES: dict[str, tuple[Callable[[], Backbone], Callable[[Any], Tensor], int]] = {
    "gpt": (lambda: GPT(**SIZES, **OURS, dropout=0.2), of_next, 2),
    "gpt tied": (lambda: GPT(**SIZES, **OURS, tie_embeddings=True), of_next, 2),
    "encoder": (lambda: Encoder(**SIZES, **OURS), of_text, 2),
    "mlp": (lambda: MLP(num_features=768, hidden_dims=[16, 8]), of_picture, 2),
    "no blocks": (lambda: ModuleBackbone(module=nn.Linear(16, 4)), of_picture, 0),
    "resnet": (lambda: ResNet(widths=[4, 8], blocks=[1, 2]), of_picture, 5),
    "gpt2": (gpt2, of_next, 2),
    "gpt2 with adapters": (lambda: gpt2(LoRA(rank=2)), of_next, 2),
    "llama": (lambda: HuggingFaceCausalLM(architecture={"model_type": "llama", **THEIRS}, **SIZES), of_next, 2),
    "bert": (lambda: text(model_type="bert"), of_text, 2),
    "masked bert": (lambda: HuggingFaceMaskedLM(architecture={"model_type": "bert", **THEIRS}, **SIZES), of_next, 2),
    "albert, one block many times": (lambda: text(model_type="albert", embedding_size=8), of_text, 1),
    "t5": (lambda: HuggingFaceSeq2Seq(architecture=T5, **SIZES), of_target, 4),
    "bart": (lambda: HuggingFaceSeq2Seq(architecture=BART, **SIZES), of_target, 4),
    "vit": (
        lambda: HuggingFaceVision(architecture={"model_type": "vit", "image_size": 16, "patch_size": 4, **THEIRS}),
        of_picture,
        2,
    ),
    "torchvision's resnet": (lambda: TorchvisionBackbone(name="resnet18"), of_picture, 8),
    "frames before a gpt": (
        lambda: VideoText(text=GPT(**SIZES, **OURS, start_token=False), video_dim=5),
        of_answer,
        2,
    ),
}


@pytest.mark.usefixtures("group")
class TestBackbones:
    """In this process alone, which is a group too."""

    @pytest.mark.parametrize("name", BACKBONES)
    def test_gradients_names_and_statistics_stay(self, name: str) -> None:
        """With dropout, as blocks draw the same numbers when they are computed again; a batch norm counts once."""
        make, loss, number = BACKBONES[name]
        task = Alone(make().train(), loss, recomputing=True)
        task.to(memory_format=torch.contiguous_format)  # as weights are then, so that they are summed in one order
        begin = {name: value.clone() for name, value in task.state_dict().items()}
        gradients = task.gradients()
        buffers = {name: buffer.clone() for name, buffer in task.named_buffers()}
        task.load_state_dict(begin)
        kind, names = type(task.backbone), [name for name, _ in task.named_parameters()]
        assert len(fsdp2.blocks(task)) == number
        task.share_out()
        task.share_out()  # as each of fit, validate and test asks for it
        assert type(task.backbone) is kind
        assert [name for name, _ in task.named_parameters()] == names
        assert list(task.state_dict()) == list(begin)
        again = task.gradients()
        assert again.keys() == gradients.keys()
        for parameter, gradient in gradients.items():
            torch.testing.assert_close(again[parameter], gradient, msg=parameter)
        for buffer_name, buffer in task.named_buffers():
            torch.testing.assert_close(buffer, buffers[buffer_name], msg=buffer_name)
        with torch.no_grad():
            task.predict_step(0)
        assert all(isinstance(parameter, DTensor) for parameter in task.parameters())

    def test_blocks_keep_their_inputs_only(self) -> None:
        kept, calls = {}, {}
        for recomputing in (False, True):
            torch.manual_seed(0)
            task = Alone(GPT(**SIZES, **OURS), of_next, recomputing=recomputing)
            task.share_out()
            inside = task.get_submodule("backbone.blocks.0.mlp")
            calls[recomputing], numbers = [], []
            inside.register_forward_pre_hook(lambda *_, of=calls[recomputing]: of.append(1))
            with torch.autograd.graph.saved_tensors_hooks(lambda t, to=numbers: to.append(t.numel()) or t, lambda t: t):
                loss = task.training_step(0)
            kept[recomputing] = sum(numbers)
            loss.backward()
        assert [len(calls[recomputing]) for recomputing in (False, True)] == [1, 2]
        assert kept[True] < 0.4 * kept[False]

    def test_a_weight_of_two_blocks_is_left_to_the_rest(self) -> None:
        gpt = GPT(**SIZES, **OURS)
        first, second = gpt.blocks
        assert isinstance(second.attention, nn.Module)
        second.attention.qkv = first.attention.qkv
        task = Alone(gpt, of_next)
        gradients = task.gradients()
        assert fsdp2.blocks(task) == []
        task.share_out()
        for name, gradient in task.gradients().items():
            torch.testing.assert_close(gradient, gradients[name], msg=name)

    def test_muon_steps_alike(self) -> None:
        """To the bit, as one process puts together what it has anyway."""
        weights = {}
        for shared in (False, True):
            torch.manual_seed(0)
            task = Alone(GPT(**SIZES, **OURS), of_next)
            if shared:
                task.share_out()
            optimizer = MuonAdamW(parameter_groups(task.backbone))
            for _ in range(3):
                task.gradients()
                optimizer.step()
            weights[shared] = {name: whole_of(weight) for name, weight in task.state_dict().items()}
            kinds = {type(value) for state in optimizer.state.values() for value in state.values() if value.ndim}
            assert kinds == {DTensor if shared else Tensor}
        assert_same_weights(weights[True], weights[False])

    def test_parts_of_parts(self) -> None:
        """Lists within lists have no forward; a stage of most weights is shared out by its own blocks."""
        nested = nn.ModuleList(nn.ModuleList([nn.Linear(4, 4), nn.LayerNorm(4)]) for _ in range(2))
        stages = nn.Sequential(nn.Linear(4, 4), nn.Sequential(*(nn.Sequential(nn.Linear(4, 4)) for _ in range(5))))
        for parts, expected in ((nested, [*nested[0], *nested[1]]), (stages, [stages[0], *stages[1]])):
            task = Alone(nn.ModuleDict({"parts": parts}), of_next)
            assert fsdp2.blocks(task) == expected
            task.share_out()
        swin = HuggingFaceVision(architecture=SWIN)
        sizes = [sum(p.numel() for p in block.parameters()) for block in fsdp2.blocks(Alone(swin, of_picture))]
        assert len(sizes) > len(SWIN["depths"])
        assert max(sizes) < sum(sizes) / 2

    def test_weights_of_any_layout(self) -> None:
        layer = nn.Linear(4, 3)
        layer.weight = nn.Parameter(torch.rand(4, 3).T)
        task = Alone(nn.Sequential(layer), lambda backbone: backbone(torch.ones(2, 4)).sum())
        gradients = task.gradients()
        task.share_out()
        for name, gradient in task.gradients().items():
            torch.testing.assert_close(gradient, gradients[name], msg=name)

    def test_a_number_cannot_be_cut(self) -> None:
        task = Alone(nn.ParameterDict({"temperature": nn.Parameter(torch.tensor(1.0))}), of_next)
        with pytest.raises(UserError, match=r"and backbone\.temperature has none: make it a vector of one number"):
            task.share_out()

    def test_another_strategy_of_parts(self) -> None:
        """Whose mesh may leave each process alone with all weights, and rows of its own."""
        task = Alone(GPT(**SIZES, **OURS), of_next)
        task.strategy = ModelParallelStrategy()  # type: ignore[assignment]
        with pytest.raises(UserError, match=r"ModelParallelStrategy leaves it to each model .*lt_cli\.fsdp2\.FSDP2"):
            task.share_out()

    def test_lightnings_synchronised_norms(self) -> None:
        """Its own strategy forgets ``--trainer.sync_batchnorm=true``."""
        task = Alone(ResNet(widths=[4], blocks=[1]), of_picture)
        task.strategy._layer_sync = SimpleNamespace(apply=nn.SyncBatchNorm.convert_sync_batchnorm)
        task.share_out()
        norms = [module for module in task.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        assert norms
        assert all(isinstance(norm, nn.SyncBatchNorm) for norm in norms)


def test_autocast_keeps_no_copies_while_weights_are_shared_out() -> None:
    """And does again afterwards."""
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fsdp2.ModelParallelStrategy, "setup", lambda *_: seen.append(torch.is_autocast_cache_enabled()))
        patch.setattr(fsdp2.ModelParallelStrategy, "teardown", lambda _: None)
        strategy = FSDP2()
        loop = SimpleNamespace(inference_mode=True)
        fit = SimpleNamespace(epoch_loop=SimpleNamespace(val_loop=loop))
        strategy.setup(SimpleNamespace(fit_loop=fit, validate_loop=loop, test_loop=loop, predict_loop=loop))
        strategy.teardown()
    assert seen == [False]
    assert torch.is_autocast_cache_enabled()


class TestFragments:
    """Of ``trainer``."""

    def test_bf16_trains_anywhere(self) -> None:
        cli = run([*FIT, f"--trainer={TRAINER / 'bf16.yaml'}", "--trainer.accelerator=cpu"])
        assert cli.trainer.precision == "bf16-mixed"
        assert cli.trainer.callback_metrics["val/loss"].isfinite()

    def test_fsdp2_is_what_it_says(self) -> None:
        with pytest.raises(UserError, match=r"--trainer\.accelerator=gpu .*No supported gpu"):
            run([*FIT, f"--trainer={TRAINER / 'fsdp2.yaml'}"])

    def test_deepspeed_says_how_to_install_it(self) -> None:
        with pytest.raises(
            UserError, match=r"--trainer\.strategy=deepspeed_stage_2.*`pip install -U deepspeed`"
        ) as caught:
            run([*FIT, f"--trainer={TRAINER / 'deepspeed.yaml'}", "--trainer.accelerator=cpu", "--trainer.devices=1"])
        assert "\n" not in str(caught.value)
