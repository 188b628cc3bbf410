"""One training step of image GPT beside the same model of transformers: time, arithmetic rate, memory, half precision.

    python benchmarks/train_step.py

Sizes: (a) 16 wide, 2 heads, 8 layers, 16 colours, 784 pixels; (b) 256 wide, 8 heads, 8 layers, 512 colours, 1024.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from interleaved import Report, Row, added_memory, in_its_own_process, interleave
from torch import Tensor, nn

from lt_cli.backbones.gpt import GPT
from lt_cli.optim import parameter_groups
from lt_cli.tasks.pixel_generation import pixel_loss, with_start

SIZES = {
    "(a)": {"vocab_size": 16, "max_seq_len": 784, "embed_dim": 16, "num_heads": 2, "num_layers": 8},
    "(b)": {"vocab_size": 512, "max_seq_len": 1024, "embed_dim": 256, "num_heads": 8, "num_layers": 8},
}
RECIPE = {"(a)": {"grid_width": 28}, "(b)": {"grid_width": 32}}
"""What the shipped configurations choose beside the sizes, with layer norm and rotary positions."""

BATCH_SIZES = {"(a)": 8, "(b)": 4}
Step = Callable[[], float]


@contextmanager
def rows_of_a_batch(size: str, rows: int) -> Iterator[None]:
    """Other batches for a while."""
    usual, BATCH_SIZES[size] = BATCH_SIZES[size], rows
    yield
    BATCH_SIZES[size] = usual


def batch_of(size: str) -> Tensor:
    """Random tokens (B, T)."""
    shape = (BATCH_SIZES[size], SIZES[size]["max_seq_len"])
    return torch.randint(SIZES[size]["vocab_size"], shape, generator=torch.Generator().manual_seed(0))


def stepper(model: nn.Module, loss: Callable[[], Tensor], groups: object, *, bf16: bool = False) -> Step:
    """Forward, backward, AdamW."""
    optimizer = torch.optim.AdamW(groups, lr=3e-3, betas=(0.9, 0.95), weight_decay=0.0)  # type: ignore[arg-type]

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            value = loss()
        optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return value.item()

    model.train()
    return step


def backbone_of(size: str) -> GPT:
    """Image GPT as the shipped configurations build it."""
    torch.manual_seed(0)
    return GPT(norm="layernorm", rotary=True, **SIZES[size], **RECIPE[size])


def ours(size: str, *, bf16: bool = False) -> Step:
    """Ours; half precision keeps weights and loss in float32."""
    backbone, tokens = backbone_of(size), batch_of(size)
    inputs = with_start(backbone, tokens)
    return stepper(
        backbone, lambda: pixel_loss(backbone, backbone(inputs), tokens), parameter_groups(backbone), bf16=bf16
    )


def transformers_config(cls: Any, size: str) -> Any:
    """A configuration of transformers' GPT-2 or ImageGPT with the same sizes, a start token and no dropout."""
    sizes = SIZES[size]
    return cls(
        vocab_size=sizes["vocab_size"] + 1,
        n_positions=sizes["max_seq_len"],
        n_embd=sizes["embed_dim"],
        n_head=sizes["num_heads"],
        n_layer=sizes["num_layers"],
        embd_pdrop=0.0,
        resid_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=None,
        eos_token_id=None,
    )


def transformers_gpt2(size: str) -> Step:
    """GPT-2, with torch's fused attention."""
    from transformers import GPT2Config, GPT2LMHeadModel

    return transformers_step(GPT2LMHeadModel(transformers_config(GPT2Config, size)), size)


def transformers_image_gpt(size: str) -> Step:
    """Image GPT of transformers, whose attention is not fused."""
    from transformers import ImageGPTConfig, ImageGPTForCausalImageModeling

    return transformers_step(ImageGPTForCausalImageModeling(transformers_config(ImageGPTConfig, size)), size)


def transformers_step(model: nn.Module, size: str) -> Step:
    """The same loss from a model that takes input_ids and gives logits."""
    tokens = batch_of(size)
    inputs = torch.cat([torch.full_like(tokens[:, :1], SIZES[size]["vocab_size"]), tokens[:, :-1]], dim=1)

    def loss() -> Tensor:
        return F.cross_entropy(model(inputs, use_cache=False).logits.flatten(0, 1), tokens.flatten())

    return stepper(model, loss, model.parameters())


def matrix_flop(size: str) -> float:
    """Floating-point operations of the matrix products of a step, as the model's formulas ask for them.

    6 per weight and token, and of causal attention half of 12 T D per token and layer.
    """
    sizes = SIZES[size]
    width, length, layers = sizes["embed_dim"], sizes["max_seq_len"], sizes["num_layers"]
    weights = 12 * layers * width**2 + width * sizes["vocab_size"]
    return BATCH_SIZES[size] * length * (6 * weights + 6 * layers * length * width)


def sgemm() -> Callable[[], object]:
    """2e10 floating-point operations in one product of square matrices."""
    a, b = torch.randn(2154, 2154), torch.randn(2154, 2154)
    return lambda: a @ b


def peak_memory(make: Callable[[str], Step], size: str) -> float:
    """MiB that a step adds beyond weights, gradients, optimiser and libraries; a step of one row warms all up first."""
    with rows_of_a_batch(size, 1):
        make(size)()
    return added_memory(make(size))


def main() -> None:
    """All rows."""
    report = Report("train_step", (__doc__ or "").partition("\n")[0])
    goals = {"(a)": (1.10, 4.0, 1.5), "(b)": (1.15, 2.5, 1.9)}
    for size, (over_gpt2, over_image_gpt, over_float32) in goals.items():
        makers = {
            "lt_cli": ours,
            "transformers GPT2": transformers_gpt2,
            "transformers ImageGPT": transformers_image_gpt,
        }
        contestants: dict[str, Callable[[], object]] = {name: make(size) for name, make in makers.items()}
        contestants |= {"bf16": ours(size, bf16=True), "sgemm": sgemm()}
        seconds = interleave(contestants, report.rounds)
        report.faster(f"train step {size}, float32", seconds, "lt_cli", "transformers GPT2", over_gpt2)
        report.faster(f"train step {size}, float32", seconds, "lt_cli", "transformers ImageGPT", over_image_gpt)
        report.faster(f"train step {size}, bf16", seconds, "bf16", "lt_cli", over_float32)
        if size == "(b)":
            rate, limit = matrix_flop(size) / seconds["lt_cli"], 2 * 2154**3 / seconds["sgemm"]
            report.at_least("arithmetic rate (b), of sgemm's", 100 * rate / limit, 70, "%")
            memory = {name: in_its_own_process(peak_memory, make, size) for name, make in list(makers.items())[:2]}
            share = memory["lt_cli"] / memory["transformers GPT2"]
            units = [f"{value:,.0f} MiB" for value in memory.values()]
            report.add(
                Row("memory of a step (b)", units[0], "transformers GPT2", units[1], 1 / share, "≤ 0.5×", share <= 0.5)
            )
        report.at_most(f"loss {size} after 100 steps, bf16", loss_difference(size), 1, "% from float32's")
    report.finish()


def waves(size: str, number: int) -> Tensor:
    """A picture (1, T) of one wave across it, another one for each number."""
    width = RECIPE[size]["grid_width"]
    rows, columns = torch.meshgrid(torch.arange(width), torch.arange(width), indexing="ij")
    across, down, phase = torch.rand(3, generator=torch.Generator().manual_seed(number))
    heights = torch.sin(across * columns + down * rows + 6 * phase) / 2 + 0.5
    return (heights * (SIZES[size]["vocab_size"] - 1)).round().long().view(1, -1)


def loss_difference(size: str) -> float:
    """Per cent between the losses in bf16 and float32 after 100 steps of a picture each, as means of the last ten."""
    losses = []
    for bf16 in (False, True):
        backbone, pictures = backbone_of(size), (waves(size, number) for number in range(100))

        def loss(backbone: GPT = backbone, pictures: Iterator[Tensor] = pictures) -> Tensor:
            tokens = next(pictures)
            return pixel_loss(backbone, backbone(with_start(backbone, tokens)), tokens)

        step = stepper(backbone, loss, parameter_groups(backbone), bf16=bf16)
        losses.append(sum([step() for _ in range(100)][-10:]))
    return 100 * abs(losses[1] / losses[0] - 1)


if __name__ == "__main__":
    main()
