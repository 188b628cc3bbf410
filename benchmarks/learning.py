"""How fast image GPT learns: our recipe, our recipe less one part at a time, and the classic way, over several seeds.

    python benchmarks/learning.py                                                    # digits: 8 x 8, 17 greys
    python benchmarks/learning.py --data fashion_mnist --root DIRECTORY              # 28 x 28, 16 greys, size (a)

The classic way is a GPT-2 block of torch's LayerNorm and default initialisation under Adam 3e-3, with 500 steps of
warm-up and a cosine. Prints nats per pixel on validation after all steps, the lowest on the way, and how many steps it
takes until the loss is at most the lowest of the classic way.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import seed_everything
from torch import nn

from lt_cli.backbones.gpt import GPT
from lt_cli.data.images import Digits, TorchvisionImages
from lt_cli.data.palette import GreyLevels
from lt_cli.data.pixels import PixelData
from lt_cli.optim import MuonAdamW, WarmupCosine, parameter_groups
from lt_cli.tasks.pixel_generation import pixel_loss, with_start

ADAMW = partial(torch.optim.AdamW, lr=3e-3, betas=(0.9, 0.95), weight_decay=0.0)


@dataclass(frozen=True)
class Recipe:
    """How a model is built and trained.

    Attributes:
        backbone: Options of the GPT, beside its sizes.
        optimizer: Built from the parameter groups.
        warmup_steps: Steps until the learning rate's peak.
        default_init: Whether every weight begins as torch's modules have it.
    """

    backbone: dict[str, Any]
    optimizer: Callable[[Iterable[Any]], torch.optim.Optimizer]
    warmup_steps: int = 50
    default_init: bool = False


@dataclass(frozen=True)
class Scale:
    """Data and sizes to learn with.

    Attributes:
        sizes: Of the GPT.
        side: Pixels of a picture's side.
        batch_size: Pictures of a step.
        classic_steps: Of the classic way.
        steps: Of all others.
        every: Steps between validations.
        val_fraction: Of the training pictures.
        parts: Options of our GPT, beside the positions'.
        lr: Muon's learning rate.
        adamw_lr: The one beside it.
    """

    sizes: dict[str, int]
    side: int
    batch_size: int
    classic_steps: int
    steps: int
    every: int
    val_fraction: float
    parts: dict[str, Any]
    lr: float
    adamw_lr: float


DIGITS = {"vocab_size": 17, "embed_dim": 64, "num_heads": 4, "num_layers": 4}
SIZE_A = {"vocab_size": 16, "embed_dim": 16, "num_heads": 2, "num_layers": 8}
SCALES = {
    "digits": Scale(
        sizes=DIGITS,
        side=8,
        batch_size=64,
        classic_steps=600,
        steps=400,
        every=25,
        val_fraction=0.1,
        parts={"norm": "layernorm", "dropout": 0.1},
        lr=0.02,
        adamw_lr=0.003,
    ),
    "fashion_mnist": Scale(
        sizes=SIZE_A,
        side=28,
        batch_size=8,
        classic_steps=1000,
        steps=250,
        every=50,
        val_fraction=0.005,
        parts={"norm": "layernorm", "init": "fan_in"},
        lr=0.05,
        adamw_lr=0.03,
    ),
}
"""As igpt_digits.yaml and igpt_fashion_mnist.yaml have it, for fewer steps."""
CLASSIC = Recipe(
    {"norm": "layernorm", "activation": "gelu", "bias": True},
    partial(torch.optim.Adam, lr=3e-3),
    warmup_steps=500,
    default_init=True,
)


def recipes(scale: Scale) -> dict[str, Recipe]:
    """The classic way, ours, and ours less one part."""
    parts: dict[str, Any] = {"grid_width": scale.side, "rotary": True, **scale.parts}
    ours = Recipe(parts, partial(MuonAdamW, lr=scale.lr, adamw_lr=scale.adamw_lr))
    other_init = "gpt2" if parts.get("init") == "fan_in" else "fan_in"
    return {
        "classic": CLASSIC,
        "ours": ours,
        "AdamW in place of Muon": replace(ours, optimizer=ADAMW),
        "learned positions only": replace(ours, backbone={**parts, "rotary": False}),
        "positions of one number": replace(ours, backbone={**parts, "grid_width": None}),
        "RMS norm": replace(ours, backbone={**parts, "norm": "rmsnorm"}),
        f"init {other_init}": replace(ours, backbone={**parts, "init": other_init}),
    }


def learn(recipe: Recipe, scale: Scale, data: PixelData, seed: int, steps: int) -> list[tuple[int, float, float]]:
    """Step, processor seconds of training, and validation loss, at every ``scale.every`` steps."""
    seed_everything(seed, verbose=False)
    backbone = GPT(max_seq_len=scale.side**2, **scale.sizes, **recipe.backbone)
    if recipe.default_init:
        for module in backbone.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                module.reset_parameters()
    optimizer = recipe.optimizer(parameter_groups(backbone))
    schedule = WarmupCosine(optimizer, steps, warmup_steps=min(recipe.warmup_steps, steps // 2))
    loader, curve, step, seconds = data.train_dataloader(), [], 0, 0.0
    while step < steps:
        for batch in loader:
            began = time.process_time()
            loss = loss_of(backbone, batch["input_ids"])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            seconds += time.process_time() - began
            step += 1
            if step % scale.every == 0 or step == steps:
                curve.append((step, seconds, validate(backbone, data)))
            if step == steps:
                break
        loader.sampler.set_epoch(loader.sampler.epoch + 1)
    return curve


def loss_of(backbone: GPT, tokens: torch.Tensor) -> torch.Tensor:
    """Mean nats per pixel."""
    return pixel_loss(backbone, backbone(with_start(backbone, tokens)), tokens)


@torch.no_grad()
def validate(backbone: GPT, data: PixelData) -> float:
    """Mean nats per pixel over all validation pictures."""
    backbone.eval()
    losses = [(loss_of(backbone, batch["input_ids"]).item(), len(batch["index"])) for batch in data.val_dataloader()]
    backbone.train()
    return sum(loss * rows for loss, rows in losses) / sum(rows for _, rows in losses)


def main() -> None:
    """Trains everything, prints a table, writes every curve as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", choices=SCALES, default="digits")
    parser.add_argument("--root", default="data", help="where torchvision finds Fashion-MNIST, or puts it")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", help="recipes to run again; the others' curves are those of the file")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    scale = SCALES[arguments.data]
    digits = arguments.data == "digits"
    data = PixelData(
        source=Digits() if digits else TorchvisionImages(name="FashionMNIST", root=arguments.root),
        palette=GreyLevels(num_colors=scale.sizes["vocab_size"]),
        val_fraction=scale.val_fraction,
        batch_size=scale.batch_size,
    )
    data.prepare_data()
    data.setup("fit")
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / f"learning_{arguments.data}.json"
    curves: dict[str, list[list[tuple[int, float, float]]]] = {}
    if arguments.only is not None and path.exists():
        curves = json.loads(path.read_text())
    print(f"{'':34}{'steps':>7}{'seconds':>9}{'loss':>20}{'lowest':>10}{'steps to classic':>20}")
    for name, recipe in recipes(scale).items():
        steps = scale.classic_steps if name == "classic" else scale.steps
        if arguments.only is None or name in arguments.only:
            curves[name] = [learn(recipe, scale, data, seed, steps) for seed in range(arguments.seeds)]
            path.write_text(json.dumps(curves, indent=1) + "\n")
        elif name not in curves:
            continue
        best = [min(loss for _, _, loss in curve) for curve in curves[name]]
        if name == "classic":
            lowest = statistics.mean(best)
        last = [curve[-1][2] for curve in curves[name]]
        reached = [next((step for step, _, loss in curve if loss <= lowest), None) for curve in curves[name]]
        if name == "classic":
            reached = [min(curve, key=lambda point: point[2])[0] for curve in curves[name]]
        seconds = statistics.mean(curve[-1][1] for curve in curves[name])
        spread = statistics.stdev(last) if len(last) > 1 else 0.0
        when = "never" if None in reached else f"{statistics.mean(s for s in reached if s):.0f}"
        final = f"{statistics.mean(last):.4f} ± {spread:.4f}"
        print(f"{name:34}{steps:>7}{seconds:>9.0f}{final:>20}{statistics.mean(best):>10.4f}{when:>20}", flush=True)
    print(f"written to {path}")


if __name__ == "__main__":
    main()
