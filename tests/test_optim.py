"""What decays and what does not, and the learning rate of every step."""

import copy
import math
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR
from toys import NumberData, NumberTask, tiny_gpt, trainer
from transformers import get_linear_schedule_with_warmup

from lt_cli.backbones.base import Backbone
from lt_cli.backbones.encoder import Encoder
from lt_cli.backbones.hf_encoder import HuggingFaceEncoder
from lt_cli.backbones.huggingface import HuggingFaceCausalLM, HuggingFaceImageGPT
from lt_cli.backbones.torchvision_models import TorchvisionBackbone
from lt_cli.callbacks.exact_resume import ExactResume
from lt_cli.errors import UserError
from lt_cli.optim import MuonAdamW, OneCycle, WarmupCosine, WarmupLinear, parameter_groups
from lt_cli.optimizer_settings import scale_rates
from lt_cli.tasks.classification import Classification
from lt_cli.tasks.sequence_classification import SequenceClassification


def decays(module: nn.Module) -> dict[str, bool]:
    """Whether each parameter decays, under an optimiser that would let all of them."""
    optimizer = torch.optim.AdamW(parameter_groups(module), weight_decay=0.5)
    settings = {parameter: group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]}
    assert set(settings.values()) <= {0.0, 0.5}
    return {name: settings[parameter] == 0.5 for name, parameter in module.named_parameters()}


class TestParameterGroups:
    """Weight matrices decay; nothing else does."""

    def test_of_a_gpt(self) -> None:
        for norm in ("rmsnorm", "layernorm"):
            found = decays(tiny_gpt(norm=norm))
            expected = {
                name: name.endswith((".qkv.weight", ".out.weight", ".up.weight", ".down.weight")) for name in found
            }
            assert found == expected | {"output.weight": True}
            assert sum(found.values()) == 2 * 4 + 1

    def test_a_tied_output_is_an_embedding(self) -> None:
        found = decays(tiny_gpt(tie_embeddings=True))
        assert not found["token_embedding.weight"]
        assert not found["position_embedding.weight"]
        assert "output.weight" not in found

    @pytest.mark.parametrize("cls", [HuggingFaceCausalLM, HuggingFaceImageGPT])
    def test_of_models_of_transformers(self, cls: Any) -> None:
        kind = "gpt2" if cls is HuggingFaceCausalLM else "imagegpt"
        found = decays(cls(architecture={"model_type": kind, "n_layer": 1, "n_head": 2, "n_embd": 8}, vocab_size=5))
        embeddings = {name for name in found if "wte" in name or "wpe" in name}
        assert len(embeddings) == 2
        for name, decayed in found.items():
            matrix = "weight" in name and "ln" not in name and name not in embeddings
            assert decayed == matrix, name

    def test_every_parameter_is_in_one_group_once_frozen_or_not(self) -> None:
        gpt = tiny_gpt(tie_embeddings=True)
        gpt.blocks.requires_grad_(False)
        grouped = [parameter for group in parameter_groups(gpt) for parameter in group["params"]]
        assert len(grouped) == len(set(grouped))
        assert set(grouped) == set(gpt.parameters())

    def test_no_empty_group(self) -> None:
        assert [set(group) for group in parameter_groups(nn.LayerNorm(3))] == [{"params", "weight_decay"}]
        assert [set(group) for group in parameter_groups(nn.Linear(3, 3, bias=False))] == [{"params"}]


class TestMuonAdamW:
    """Matrices are torch's Muon's, all else is torch's AdamW's."""

    def train(self, gpt: nn.Module, *optimizers: torch.optim.Optimizer, steps: int = 3) -> None:
        for step in range(steps):
            for one in optimizers:
                one.zero_grad()
            tokens = torch.randint(5, (4, 16), generator=torch.Generator().manual_seed(step))
            gpt(tokens).square().sum().backward()
            for one in optimizers:
                one.step()

    def test_is_both(self) -> None:
        torch.manual_seed(0)
        ours = tiny_gpt(norm="layernorm")
        theirs = copy.deepcopy(ours)
        self.train(ours, MuonAdamW(parameter_groups(ours), lr=0.1, adamw_lr=0.02, weight_decay=0.3))
        matrices = [p for n, p in theirs.named_parameters() if p.ndim == 2 and "embedding" not in n]
        others = [p for n, p in theirs.named_parameters() if p.ndim == 1 or "embedding" in n]
        muon = torch.optim.Muon(matrices, lr=0.1, weight_decay=0.3)
        self.train(theirs, muon, torch.optim.AdamW(others, lr=0.02, betas=(0.9, 0.95), weight_decay=0.0))
        for (name, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            assert torch.equal(one, other), name

    def test_a_step_is_nearly_orthogonal(self) -> None:
        layer = nn.Linear(6, 12, bias=False)
        before = layer.weight.detach().clone()
        one = MuonAdamW(parameter_groups(layer), lr=0.5)
        layer(torch.randn(9, 6)).square().sum().backward()
        one.step()
        singular = torch.linalg.svdvals((layer.weight - before).detach()) / (0.5 * math.sqrt(12 / 6))
        assert (singular > 0.5).all()
        assert (singular < 1.5).all()

    def test_goes_on_from_its_state(self) -> None:
        torch.manual_seed(0)
        whole = tiny_gpt()
        halves = copy.deepcopy(whole)
        self.train(whole, MuonAdamW(parameter_groups(whole)), steps=3)
        first = MuonAdamW(parameter_groups(halves))
        self.train(halves, first, steps=2)
        second = MuonAdamW(parameter_groups(halves))
        second.load_state_dict(copy.deepcopy(first.state_dict()))
        second.zero_grad()
        tokens = torch.randint(5, (4, 16), generator=torch.Generator().manual_seed(2))
        halves(tokens).square().sum().backward()
        second.step()
        for one, other in zip(halves.parameters(), whole.parameters(), strict=True):
            assert torch.equal(one, other)

    def test_one_schedule_scales_both(self) -> None:
        of = MuonAdamW(parameter_groups(tiny_gpt()), lr=0.1, adamw_lr=0.01)
        WarmupCosine(of, 50, warmup_steps=9)
        assert [group["lr"] for group in of.param_groups] == pytest.approx([0.01, 0.001])

    def test_frozen_parameters_stay(self) -> None:
        gpt = tiny_gpt()
        gpt.blocks[0].requires_grad_(False)
        before = copy.deepcopy(gpt.state_dict())
        self.train(gpt, MuonAdamW(parameter_groups(gpt), weight_decay=0.5), steps=2)
        changed = {name for name, value in gpt.state_dict().items() if not torch.equal(value, before[name])}
        assert changed == {name for name in before if not name.startswith("blocks.0.") and name != "output.weight"}

    def test_no_matrices(self) -> None:
        with pytest.raises(UserError, match=r"needs weight matrices, and the model has none: use torch\.optim\.AdamW"):
            MuonAdamW(parameter_groups(nn.LayerNorm(3)))

    def test_only_matrices(self) -> None:
        layer = nn.Linear(3, 3, bias=False)
        assert len(MuonAdamW(parameter_groups(layer)).param_groups) == 1


def optimizer(*rates: float) -> torch.optim.Optimizer:
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates]
    return torch.optim.SGD(groups)


def rate(step: int, peak: float, total: int, warmup: int, final: float) -> float:
    """The formula, of one step."""
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    share = (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) / 2
    return peak * (final + (1 - final) * share)


class TestWarmupCosine:
    """Up in a line, down in half a cosine."""

    @pytest.mark.parametrize(
        ("total", "warmup", "final"), [(50, 10, 0.0), (50, 0, 0.1), (7, 6, 0.5), (1, 0, 0.0), (20, 5, 1.0)]
    )
    def test_every_step(self, total: int, warmup: int, final: float) -> None:
        of = optimizer(0.4, 0.1)
        schedule = WarmupCosine(of, total, warmup_steps=warmup, final_ratio=final)
        for step in range(total + 1):
            for group, peak in zip(of.param_groups, (0.4, 0.1), strict=True):
                assert group["lr"] == pytest.approx(rate(step, peak, total, warmup, final))
            of.step()
            schedule.step()
        assert of.param_groups[0]["lr"] == pytest.approx(0.4 * final), "past the end it stays"

    def test_shape(self) -> None:
        of = optimizer(1.0)
        schedule = WarmupCosine(of, 100, warmup_steps=20, final_ratio=0.1)
        rates = []
        for _ in range(100):
            rates.append(of.param_groups[0]["lr"])
            of.step()
            schedule.step()
        assert rates[0] > 0, "no step is wasted"
        assert max(rates) == rates[20] == 1.0
        assert rates[:20] == sorted(set(rates[:20]))
        assert rates[20:] == sorted(set(rates[20:]), reverse=True)
        assert rates[-1] > 0.1

    def test_state_is_only_a_position(self) -> None:
        of = optimizer(1.0)
        schedule = WarmupCosine(of, 50, warmup_steps=10)
        for _ in range(17):
            of.step()
            schedule.step()
        state = schedule.state_dict()
        assert all(type(value) is int for value in state.values())
        other = optimizer(2.0)
        resumed = WarmupCosine(other, 80, warmup_steps=5, final_ratio=0.5)
        resumed.load_state_dict(state)
        other.step()
        resumed.step()
        assert other.param_groups[0]["lr"] == pytest.approx(rate(18, 2.0, 80, 5, 0.5))

    def test_mistakes(self) -> None:
        for total, warmup in ((10, 10), (10, 11), (10, -1)):
            with pytest.raises(UserError, match=rf"warmup_steps \({warmup}\) must .* less than the run's 10 optimiser"):
                WarmupCosine(optimizer(1.0), total, warmup_steps=warmup)
        with pytest.raises(UserError, match=r"set --model\.schedule\.warmup_steps=1 or train longer"):
            WarmupCosine(optimizer(1.0), 10)
        for ratio in (-0.1, 1.1):
            with pytest.raises(UserError, match=rf"final_ratio \({ratio}\) must be between 0 and 1"):
                WarmupCosine(optimizer(1.0), 10, warmup_steps=0, final_ratio=ratio)


@pytest.mark.parametrize(("total", "warmup", "final"), [(50, 10, 0.0), (50, 0, 0.1), (1, 0, 0.0)])
def test_warmup_linear_goes_down_in_a_line(total: int, warmup: int, final: float) -> None:
    """Behind the warm-up it is transformers' own."""
    ours, theirs = optimizer(0.4), optimizer(0.4)
    schedule = WarmupLinear(ours, total, warmup_steps=warmup, final_ratio=final)
    other = get_linear_schedule_with_warmup(theirs, warmup, total)
    for step in range(total + 1):
        wanted = final * 0.4 + (1 - final) * theirs.param_groups[0]["lr"]
        if step < warmup:
            wanted = 0.4 * (step + 1) / (warmup + 1)
        assert ours.param_groups[0]["lr"] == pytest.approx(wanted)
        for one in (ours, theirs, schedule, other):
            one.step()


class Rates(Callback):
    """The learning rate of every optimiser step; saves a checkpoint after some of them."""

    def __init__(self, save_after: int = -1) -> None:
        self.rates: list[float] = []
        self.save_after = save_after

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.rates.append(optimizer.param_groups[0]["lr"])

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.save_after:
            trainer.save_checkpoint("half.ckpt")


def rates_of(
    schedule: Any, *, lr: float = 0.4, save_after: int = -1, ckpt_path: Path | None = None, **options: Any
) -> list[float]:
    rates = Rates(save_after)
    task = NumberTask(optimizer=partial(torch.optim.SGD, lr=lr), schedule=schedule)
    trainer(rates, ExactResume(), limit_val_batches=0, **options).fit(task, NumberData(), ckpt_path=ckpt_path)
    return rates.rates


COSINE = partial(WarmupCosine, warmup_steps=4)


class TestResume:
    """The configuration says how a run goes on; the checkpoint says only where. Epochs have 6 steps."""

    def expected(self, lr: float, total: int) -> Any:
        return pytest.approx([rate(step, lr, total, 4, 0.0) for step in range(total)])

    def test_every_optimiser_step_has_its_rate(self) -> None:
        assert rates_of(COSINE, max_epochs=2) == self.expected(0.4, 12)
        assert rates_of(COSINE, max_epochs=4, accumulate_grad_batches=2) == self.expected(0.4, 12)
        assert rates_of(COSINE, max_steps=9) == self.expected(0.4, 9)

    def test_unchanged(self) -> None:
        whole = rates_of(COSINE, save_after=8, max_epochs=2)
        assert rates_of(COSINE, ckpt_path=Path("half.ckpt"), max_epochs=2) == whole[8:]

    @pytest.mark.parametrize("half", [3, 8, 12])
    def test_a_longer_run(self, half: int) -> None:
        rates_of(COSINE, save_after=half, max_epochs=2)
        resumed = rates_of(COSINE, ckpt_path=Path("half.ckpt"), max_epochs=4)
        assert resumed == pytest.approx([rate(step, 0.4, 24, 4, 0.0) for step in range(half, 24)])

    def test_another_peak(self) -> None:
        rates_of(COSINE, save_after=8, max_epochs=2)
        resumed = rates_of(COSINE, lr=0.1, ckpt_path=Path("half.ckpt"), max_epochs=2)
        assert resumed == pytest.approx([rate(step, 0.1, 12, 4, 0.0) for step in range(8, 12)])

    def test_from_a_schedule_to_none_and_back(self) -> None:
        rates_of(COSINE, save_after=8, max_epochs=2)
        assert rates_of(None, ckpt_path=Path("half.ckpt"), max_epochs=2) == [0.4] * 4
        rates_of(None, save_after=8, max_epochs=2)
        resumed = rates_of(COSINE, ckpt_path=Path("half.ckpt"), max_epochs=2)
        assert resumed == pytest.approx([rate(step, 0.4, 12, 4, 0.0) for step in range(8, 12)])

    def test_a_schedule_of_torch(self) -> None:
        def halving(optimizer: Any, total_steps: int) -> Any:
            return torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)

        whole = rates_of(halving, save_after=8, max_epochs=2)
        resumed = rates_of(halving, lr=0.2, ckpt_path=Path("half.ckpt"), max_epochs=2)
        assert resumed == pytest.approx([old / 2 for old in whole[8:]])


class Nested(nn.Module):
    """Two blocks of three experts each, so that the longest list is within another."""

    def __init__(self) -> None:
        super().__init__()
        self.below = nn.Linear(2, 2)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"experts": nn.ModuleList(nn.Linear(2, 2) for _ in range(3))}) for _ in range(2)
        )
        self.above = nn.Linear(2, 2)


def rates_by_name(module: nn.Module, layer_decay: float, lr: float = 1.0) -> dict[str, float]:
    """The learning rate of each parameter."""
    optimizer = torch.optim.AdamW(parameter_groups(module, layer_decay), lr=lr)
    scale_rates(optimizer, layer_decay)
    rates = {parameter: group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    assert len(rates) == len(list(module.parameters()))
    return {name: rates[parameter] for name, parameter in module.named_parameters()}


def classifier(backbone: Any) -> SequenceClassification:
    """A task with a head."""
    task = SequenceClassification(backbone=backbone)
    task.make_head(2)
    return task


class TestLayerDecay:
    """A lower learning rate the deeper a parameter lies."""

    @pytest.mark.parametrize(
        ("make", "blocks"),
        [
            (lambda: Encoder(vocab_size=9, max_seq_len=4, embed_dim=8, num_heads=2, num_layers=3), "backbone.blocks."),
            (
                lambda: HuggingFaceEncoder(
                    architecture={
                        "model_type": "bert",
                        "hidden_size": 8,
                        "num_attention_heads": 2,
                        "num_hidden_layers": 3,
                        "intermediate_size": 8,
                    },
                    vocab_size=9,
                ),
                "backbone.encoder.layer.",
            ),
            (lambda: tiny_gpt(num_layers=3), "backbone.blocks."),
        ],
        ids=["encoder", "bert", "gpt"],
    )
    def test_every_parameter(self, make: Any, blocks: str) -> None:
        task = classifier(make())
        found = rates_by_name(task, 0.5, lr=8.0)
        seen = set()
        for name, rate in found.items():
            if name.startswith(blocks):
                expected = 8 * 0.5 ** (3 - int(name.removeprefix(blocks).split(".")[0]))
            else:
                expected = 8 * 0.5**4 if "embedding" in name else 8.0
            assert rate == expected, name
            seen.add(rate)
        assert seen == {8, 4, 2, 1, 0.5}

    def test_weight_decay_is_as_without(self) -> None:
        gpt = tiny_gpt()
        groups = parameter_groups(gpt, 0.5)
        optimizer = torch.optim.AdamW(groups, weight_decay=0.5)
        found = {p: group["weight_decay"] == 0.5 for group in optimizer.param_groups for p in group["params"]}
        assert {name: found[p] for name, p in gpt.named_parameters()} == decays(gpt)

    def test_lists_within_blocks_are_no_depths(self) -> None:
        found = rates_by_name(Nested(), 0.5)
        assert {found[name] for name in found if name.startswith("below")} == {0.125}
        assert {found[name] for name in found if name.startswith("blocks.0")} == {0.25}
        assert {found[name] for name in found if name.startswith("blocks.1")} == {0.5}
        assert {found[name] for name in found if name.startswith("above")} == {1}

    def test_a_sequence_of_blocks_with_most_of_the_weights(self) -> None:
        class Stacked(nn.Module):
            def __init__(self, width: int) -> None:
                super().__init__()
                self.below = nn.Linear(width, 4)
                self.blocks = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(3)))
                self.above = nn.Sequential(nn.Linear(4, 4), nn.ReLU())

        rates = rates_by_name(Stacked(1), 0.5)
        expected = {"below": 1 / 16, "blocks.0.0": 1 / 8, "blocks.1.0": 1 / 4, "blocks.2.0": 1 / 2, "above.0": 1.0}
        assert rates == {f"{name}.{kind}": rate for name, rate in expected.items() for kind in ("weight", "bias")}
        with pytest.raises(UserError, match="without a list of blocks"):
            rates_by_name(Stacked(100), 0.5)

    @pytest.mark.parametrize(
        ("name", "depths"), [("mobilenet_v2", 19), ("vit_b_32", 14), ("densenet121", 10), ("resnet18", 3)]
    )
    def test_of_torchvision(self, name: str, depths: int) -> None:
        rates = rates_by_name(Classification(backbone=TorchvisionBackbone(name=name)), 0.5)
        assert len({*rates.values()}) == depths

    def test_a_longer_sequence_comes_before_a_short_list(self) -> None:
        class Two(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.blocks = nn.Sequential(*(nn.Linear(4, 4, bias=False) for _ in range(3)))
                self.late = nn.ModuleList(nn.Linear(4, 4, bias=False) for _ in range(2))

        rates = rates_by_name(Two(), 0.5)
        assert rates == {
            **{f"blocks.{i}.weight": 0.5 ** (3 - i) for i in range(3)},
            "late.0.weight": 1,
            "late.1.weight": 1,
        }

    def test_one_is_none(self) -> None:
        assert parameter_groups(tiny_gpt(), 1.0)[0].keys() == {"params"}
        assert {*rates_by_name(tiny_gpt(), 1.0, lr=3.0).values()} == {3}

    def test_a_schedule_scales_all(self) -> None:
        gpt = tiny_gpt()
        optimizer = torch.optim.AdamW(parameter_groups(gpt, 0.5), lr=8.0)
        scale_rates(optimizer, 0.5)
        peaks = [group["lr"] for group in optimizer.param_groups]
        schedule = WarmupCosine(optimizer, 20, warmup_steps=4)
        for step in range(20):
            expected = [rate(step, peak, 20, 4, 0.0) for peak in peaks]
            assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(expected)
            optimizer.step()
            schedule.step()

    def test_resumed_with_another_rate(self) -> None:
        """Every depth has its part of the new one."""

        def fit(lr: float, schedule: Any, **options: Any) -> list[list[float]]:
            seen: list[list[float]] = []

            class Seen(Rates):
                def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
                    seen.append([group["lr"] for group in optimizer.param_groups])

            task = NumberTask(Deep(), optimizer=partial(torch.optim.SGD, lr=lr), schedule=schedule, layer_decay=0.5)
            one = trainer(Seen(options.pop("save_after", -1)), ExactResume(), limit_val_batches=0, max_epochs=2)
            one.fit(task, NumberData(), **options)
            return seen

        parts = [1, 0.5, 0.25, 0.125]
        for schedule in (COSINE, None):
            fit(0.4, schedule, save_after=8)
            resumed = fit(0.1, schedule, ckpt_path="half.ckpt")
            for step, rates in enumerate(resumed, 8):
                peak = 0.1 if schedule is None else rate(step, 0.1, 12, 4, 0.0)
                assert sorted({*rates}, reverse=True) == pytest.approx([peak * part for part in parts])

    def test_resumed_with_another_decay(self) -> None:
        """Every depth has its own again; but there must be as many groups as before."""

        def fit(layer_decay: float, **options: Any) -> list[float]:
            task = NumberTask(Deep(), optimizer=partial(torch.optim.SGD, lr=0.1), layer_decay=layer_decay)
            one = trainer(Rates(options.pop("save_after", -1)), ExactResume(), limit_val_batches=0, max_epochs=2)
            one.fit(task, NumberData(), **options)
            return sorted({group["lr"] for group in one.optimizers[0].param_groups}, reverse=True)

        fit(0.5, save_after=8)
        assert fit(0.25, ckpt_path="half.ckpt") == pytest.approx([0.1, 0.1 / 4, 0.1 / 16, 0.1 / 64])
        with pytest.raises(UserError, match=r"SGD has 2 groups of parameters, the checkpoint's 8: go on with the same"):
            fit(1.0, ckpt_path="half.ckpt")

    def test_refused(self) -> None:
        gpt = tiny_gpt()
        muon = MuonAdamW(parameter_groups(gpt, 0.5))
        with pytest.raises(
            UserError, match=r"layer_decay \(0\.5\) must be 1 with MuonAdamW, which makes groups of its"
        ):
            scale_rates(muon, 0.5)
        scale_rates(muon, 1.0)
        with pytest.raises(UserError, match=r"layer_decay \(0\.5\) must be 1 for a backbone without a list of blocks"):
            parameter_groups(nn.Linear(2, 2), 0.5)
        for wrong in (0.0, -1.0, 1.5):
            with pytest.raises(UserError, match=rf"layer_decay \({wrong}\) must be above 0 and at most 1"):
                NumberTask(layer_decay=wrong)


class Deep(Backbone):
    """A weight below two blocks, and one above them."""

    embed_dim = 1

    def __init__(self) -> None:
        super().__init__()
        self.below = nn.Linear(1, 1)
        self.blocks = nn.ModuleList(nn.Linear(1, 1) for _ in range(2))
        self.above = nn.Linear(1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.below(x)
        for block in self.blocks:
            x = block(x)
        return self.above(x)


class TestOneCycle:
    """Torch's OneCycleLR is the reference."""

    @pytest.mark.parametrize("total", [2, 3, 5, 10, 100, 101])
    @pytest.mark.parametrize(("rising", "initial", "final"), [(0.3, 0.04, 4e-6), (0.5, 0.1, 0.0), (0.25, 1.0, 0.5)])
    def test_every_step(self, total: int, rising: float, initial: float, final: float) -> None:
        ours, theirs = (torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.4) for _ in range(2))
        one = OneCycle(ours, total, rising, initial, final)
        options = {"div_factor": 1 / initial, "final_div_factor": initial / final if final else 1e30}
        try:
            other = OneCycleLR(theirs, 0.4, total, pct_start=rising, cycle_momentum=False, **options)
        except ZeroDivisionError:  # where a quarter of four steps is one
            pytest.skip("torch divides by zero")
        for _ in range(total - 1):
            assert ours.param_groups[0]["lr"] == pytest.approx(theirs.param_groups[0]["lr"], abs=1e-12)
            for part in (ours, theirs, one, other):
                part.step()
        assert ours.param_groups[0]["lr"] == pytest.approx(theirs.param_groups[0]["lr"], abs=1e-12)

    def test_a_quarter_of_four_steps(self) -> None:
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.4)
        OneCycle(optimizer, 4, rising=0.25)
        assert 0 < optimizer.param_groups[0]["lr"] <= 0.4

    def test_a_resumed_run_has_the_rates_of_its_configuration(self) -> None:
        whole = rates_of(OneCycle, lr=0.1, max_epochs=2)
        rates_of(OneCycle, save_after=8, max_epochs=2)
        resumed = rates_of(OneCycle, lr=0.1, ckpt_path=Path("half.ckpt"), max_epochs=2)
        assert len(resumed) == 4
        assert resumed == pytest.approx(whole[8:])

    def test_mistakes(self) -> None:
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.4)
        for options, found in (
            ({"rising": 1.0}, "rising (1.0) must be above 0 and below 1"),
            ({"initial_ratio": 2.0}, "initial_ratio (2.0) must be between 0 and 1"),
            ({"final_ratio": -1.0}, "final_ratio (-1.0) must be between 0 and 1"),
        ):
            with pytest.raises(UserError, match=re.escape(found)):
                OneCycle(optimizer, 10, **options)  # type: ignore[arg-type]


class TestBackboneScale:
    """One factor for all of the backbone, beside the decay from layer to layer."""

    @pytest.mark.parametrize("decay", [1.0, 0.5])
    def test_every_parameter(self, decay: float) -> None:
        task = classifier(Encoder(vocab_size=9, max_seq_len=8, embed_dim=8, num_heads=2, num_layers=2))
        before = rates_by_name(task, decay)
        optimizer = torch.optim.AdamW(parameter_groups(task, decay, 0.1), lr=1.0)
        scale_rates(optimizer, decay, 0.1)
        rates = {parameter: group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
        for name, parameter in task.named_parameters():
            factor = 0.1 if name.startswith("backbone.") else 1.0
            assert rates[parameter] == pytest.approx(before[name] * factor), name

    def test_refused(self) -> None:
        muon = MuonAdamW(parameter_groups(tiny_gpt(), 1.0))
        with pytest.raises(UserError, match=r"backbone_lr_scale \(0\.5\) must be 1 with MuonAdamW"):
            scale_rates(muon, 1.0, 0.5)
