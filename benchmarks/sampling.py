"""Drawing 16 pictures beside transformers' generate, and beside computing the whole prefix again for every pixel.

    python benchmarks/sampling.py

Sizes: (a) 16 wide, 2 heads, 8 layers, 16 colours, 784 pixels; (b) 256 wide, 8 heads, 8 layers, 512 colours, 1024.
"""

import statistics
import time
from collections.abc import Callable

import torch
from interleaved import Report, Row, interleave
from torch import Tensor
from train_step import SIZES, backbone_of, transformers_config

from lt_cli.backbones.gpt import GPT
from lt_cli.generation import Sampling, generate

PICTURES = 16


def ours(size: str, prompt_len: int) -> Callable[[], Tensor]:
    """Draws what follows ``prompt_len`` tokens of a picture, from a model of no training."""
    backbone = untrained(size)
    length = SIZES[size]["max_seq_len"]
    prompt = prompt_of(size, 1 + prompt_len)
    return lambda: generate(backbone, prompt, length - prompt_len, Sampling(), range(PICTURES))


def untrained(size: str) -> GPT:
    """Random weights, the output's too, so that the likeliest token is not always the first."""
    backbone = backbone_of(size).eval()
    assert backbone.output is not None
    torch.nn.init.normal_(backbone.output.weight)
    return backbone


def prompt_of(size: str, length: int) -> Tensor:
    """The start token, and random colours."""
    generator = torch.Generator().manual_seed(1)
    prompt = torch.randint(SIZES[size]["vocab_size"], (PICTURES, length), generator=generator)
    prompt[:, 0] = SIZES[size]["vocab_size"]
    return prompt


def transformers_generate(size: str) -> Callable[[], Tensor]:
    """GPT-2 of transformers with the same sizes, drawing whole pictures."""
    from transformers import GPT2Config, GPT2LMHeadModel

    length = SIZES[size]["max_seq_len"]
    model = GPT2LMHeadModel(transformers_config(GPT2Config, size)).eval()
    prompt = prompt_of(size, 1)

    def draw() -> Tensor:
        mask = torch.ones_like(prompt)
        # one less than a picture has: its start token takes a position too
        return model.generate(  # type: ignore[no-any-return, operator]
            prompt, attention_mask=mask, max_new_tokens=length - 1, do_sample=True, pad_token_id=0, eos_token_id=None
        )

    return draw


@torch.no_grad()
def prefix_seconds(size: str) -> float:
    """What 16 pictures cost where each pixel computes all before it: an integral over eight lengths of prefix."""
    backbone, length = untrained(size), SIZES[size]["max_seq_len"]
    lengths = [1, *(length * i // 8 for i in range(1, 9))]
    seconds = []
    for prefix in lengths:
        tokens = prompt_of(size, prefix)
        times = []
        for _ in range(3):
            began = time.process_time()
            backbone.unembed(backbone(tokens)[:, -1])
            times.append(time.process_time() - began)
        seconds.append(statistics.median(times))
    pairs = zip(lengths, lengths[1:], seconds, seconds[1:], strict=False)
    return sum((b - a) * (s + t) / 2 for a, b, s, t in pairs)


@torch.no_grad()
def greedy_differences(size: str) -> int:
    """Pixels at which greedy drawing with the cache and one forward pass over the result disagree."""
    backbone, length = untrained(size), SIZES[size]["max_seq_len"]
    start = prompt_of(size, 1)
    drawn = generate(backbone, start, length, Sampling(temperature=0), range(PICTURES))
    logits = backbone.unembed(backbone(torch.cat([start, drawn[:, :-1]], dim=1)))
    return int((logits.argmax(-1) != drawn).sum())


def main() -> None:
    """All rows."""
    report = Report("sampling", (__doc__ or "").partition("\n")[0])
    for size, goal in {"(a)": 2.0, "(b)": 1.6}.items():
        length = SIZES[size]["max_seq_len"]
        contestants = {
            "lt_cli": ours(size, 0),
            "transformers generate": transformers_generate(size),
            "half": ours(size, length // 2),
        }
        seconds = interleave(contestants, report.rounds if size == "(a)" else 1)
        report.faster(f"16 pictures {size}", seconds, "lt_cli", "transformers generate", goal)
        seconds["whole prefix again"] = prefix_seconds(size)
        report.faster(f"16 pictures {size}", seconds, "lt_cli", "whole prefix again", 100)
        report.faster(f"16 lower halves {size}", seconds, "half", "lt_cli", 1)
        differences = greedy_differences(size)
        pixels = f"of {PICTURES * length:,} pixels"
        report.add(Row(f"greedy, other than one pass {size}", str(differences), "", pixels, None, "0", not differences))
    report.finish()


if __name__ == "__main__":
    main()
