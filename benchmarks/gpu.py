"""Image GPT at the paper's sizes on one GPU, through the command line: share of the peak arithmetic rate, and drawing.

    python benchmarks/gpu.py --peak_tflops 989 --bandwidth_tbs 4.8     # a H100 or H200 in bfloat16

Trains sizes S and M for some steps on random pictures of 1024 tokens, and draws 16 pictures with S.
"""

import argparse
import csv
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lt_cli.cli import run
from lt_cli.data.images import ImageSet, ImageSource
from lt_cli.generation import Sampling, generate

CONFIGS = Path(__file__).parent.parent / "configs"
BATCH_SIZES = {"s": 64, "m": 24}
GOALS = {"s": 40, "m": 45}
STEPS = 60


class RandomImages(ImageSource):
    """Pictures of 32 x 32 random pixels."""

    def load(self, split: str, size: Any = None, channels: int = 3) -> ImageSet:
        """The same pictures for all splits."""
        pixels = np.random.default_rng(0).integers(256, size=(4096, 32, 32, channels), dtype=np.uint8)
        return ImageSet(pixels)


def flop_per_token(width: int, layers: int, vocabulary: int, length: int) -> float:
    """Of a forward and a backward pass, causal attention counted by half."""
    return 6 * (12 * layers * width**2 + width * vocabulary) + 6 * layers * length * width


def tokens_per_second(size: str, runs: Path) -> tuple[float, Any]:
    """Median of what the run itself logged, the first of which is left out; and the run."""
    cli = run(
        [
            "fit",
            f"--config={CONFIGS / 'igpt_cifar.yaml'}",
            f"--model.backbone={CONFIGS / 'backbone' / f'gpt_{size}.yaml'}",
            f"--trainer={CONFIGS / 'trainer' / 'gpu.yaml'}",
            f"--trainer.default_root_dir={runs}",
            f"--trainer.max_steps={STEPS}",
            "--trainer.log_every_n_steps=10",
            "--trainer.limit_val_batches=0",
            "--model.schedule.warmup_steps=10",
            "--data.source=gpu.RandomImages",
            f"--data.batch_size={BATCH_SIZES[size]}",
            "--sample_images=null",
        ]
    )
    with (Path(cli.trainer.default_root_dir) / "metrics.csv").open() as file:
        rates = [row["train/tokens_per_second"] for row in csv.DictReader(file)]
    return float(np.median([float(rate) for rate in rates if rate][1:])), cli


def drawing(backbone: Any, bandwidth: float) -> tuple[float, float]:
    """Seconds for 16 pictures, and the least that reading all weights and the cache for each token takes."""
    pictures, length = 16, backbone.max_seq_len
    prompt = torch.full((pictures, 1), backbone.start_id, device="cuda")
    with torch.autocast("cuda", torch.bfloat16):
        generate(backbone, prompt, 32, Sampling(), range(pictures))
        torch.cuda.synchronize()
        began = time.perf_counter()
        generate(backbone, prompt, length, Sampling(), range(pictures))
        torch.cuda.synchronize()
    weights = 2 * sum(parameter.numel() for parameter in backbone.parameters())
    cache = 2 * 2 * pictures * backbone.num_layers * backbone.embed_dim * length / 2
    return time.perf_counter() - began, length * (weights + cache) / (bandwidth * 1e12)


def main() -> None:
    """Prints a line per figure; writes them as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--peak_tflops", type=float, required=True, help="the GPU's dense bfloat16 peak")
    parser.add_argument("--bandwidth_tbs", type=float, required=True, help="the GPU's memory, terabytes a second")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks"))
    arguments = parser.parse_args()
    found: dict[str, float] = {}
    for size, goal in GOALS.items():
        rate, cli = tokens_per_second(size, arguments.output / "gpu")
        backbone = cli.model.backbone.to("cuda").eval()
        flop = flop_per_token(backbone.embed_dim, backbone.num_layers, backbone.vocab_size, backbone.max_seq_len)
        found[f"tokens per second, {size}"] = rate
        found[f"per cent of the peak, {size} (to reach: {goal})"] = 100 * rate * flop / (arguments.peak_tflops * 1e12)
        if size == "s":
            seconds, least = drawing(backbone, arguments.bandwidth_tbs)
            found["seconds for 16 pictures, s"] = seconds
            found["times what memory needs (to reach: 4)"] = seconds / least
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "gpu.json").write_text(json.dumps(found, indent=2) + "\n")
    print("\n".join(f"{name:50}{value:,.4g}" for name, value in found.items()))


if __name__ == "__main__":
    main()
