"""The loss of GPT-2's vocabulary beside transformers' own: time, memory, error.

    python benchmarks/lm_head.py

Forward and backward through the output of 50 257 tokens, 768 wide, for two rows of 1024 tokens.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from interleaved import Report, Row, added_memory, in_its_own_process, interleave
from torch import Tensor

from lt_cli.losses import IGNORE, linear_cross_entropy

VOCAB, WIDTH = 50_257, 768
GOALS = {"bf16": 1.2, "float32": 1.1}
"""How many times as fast; in float32 nine tenths of the time are products of matrices, which both have to compute."""


class Inputs(NamedTuple):
    """What leaves a model, its output's matrix, and the tokens that it has seen."""

    features: Tensor
    matrix: Tensor
    tokens: Tensor


Loss = Callable[[Inputs], Tensor]


def inputs(length: int = 1024) -> Inputs:
    """Random, as large as in a model that has just begun."""
    torch.manual_seed(0)
    features = torch.randn(2, length, WIDTH, requires_grad=True)
    matrix = (0.02 * torch.randn(VOCAB, WIDTH)).requires_grad_()
    return Inputs(features, matrix, torch.randint(VOCAB, (2, length)))


def ours(given: Inputs) -> Tensor:
    """In chunks; the last token of a row has nothing to predict."""
    return linear_cross_entropy(given.features, given.matrix, None, F.pad(given.tokens[:, 1:], (0, 1), value=IGNORE))


def transformers_loss(given: Inputs) -> Tensor:
    """What a model of transformers returns for ``labels=``."""
    from transformers.loss.loss_utils import ForCausalLMLoss

    logits = F.linear(given.features, given.matrix)
    return ForCausalLMLoss(logits, given.tokens, VOCAB)  # type: ignore[no-any-return]


CONTESTANTS: dict[str, Loss] = {"lt_cli": ours, "transformers": transformers_loss}


def passes(loss: Loss, given: Inputs, precision: str) -> Callable[[], float]:
    """Forward and backward."""

    def call() -> float:
        given.features.grad = given.matrix.grad = None
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            value = loss(given)
        value.backward()  # type: ignore[no-untyped-call]
        return value.item()

    return call


def peak_memory(loss: Loss, precision: str) -> float:
    """MiB that both passes add to features and weights, the gradients included; two rows of 2 tokens warm all up."""
    passes(loss, inputs(length=2), precision)()
    return added_memory(passes(loss, inputs(), precision))


def exact(given: Inputs) -> float:
    """The loss in float64."""
    logits = given.features.detach()[:, :-1].flatten(0, 1).double() @ given.matrix.detach().double().T
    return F.cross_entropy(logits, given.tokens[:, 1:].flatten()).item()


def main() -> None:
    """All rows."""
    report = Report("lm_head", (__doc__ or "").partition("\n")[0])
    given = inputs()
    truth = exact(given)
    for precision, goal in GOALS.items():
        calls = {name: passes(loss, given, precision) for name, loss in CONTESTANTS.items()}
        seconds = interleave(calls, report.rounds)
        report.faster(f"loss of 2048 tokens, {precision}", seconds, "lt_cli", "transformers", goal)
        memory = {name: in_its_own_process(peak_memory, loss, precision) for name, loss in CONTESTANTS.items()}
        share = memory["lt_cli"] / memory["transformers"]
        units = [f"{value:,.0f} MiB" for value in memory.values()]
        report.add(
            Row(f"its memory, {precision}", units[0], "transformers", units[1], 1 / share, "≤ 1/3", share <= 1 / 3)
        )
        error = abs(calls["lt_cli"]() / truth - 1)
        report.at_most(f"its error, {precision}", 1e6 * error, 1000 if precision == "bf16" else 10, "millionths")
    report.finish()


if __name__ == "__main__":
    main()
