"""What tasks with a head share: its start, checks of their options, and probabilities as files have them."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lt_cli.data.base import run_seed
from lt_cli.errors import UserError

DIGITS = 6
"""Of the numbers that predict writes: decimals of probabilities, and digits of scores, whose unit may be any.

What lies beyond depends on the batch's size.
"""


def check_parts(**parts: float) -> None:
    """Refuses what is no part of a whole, such as a dropout."""
    for name, part in parts.items():
        if not 0 <= part < 1:
            raise UserError(f"{name} ({part}) must be at least 0 and less than 1")


def linear_head(embed_dim: int, num_outputs: int, *, bias: bool = True) -> nn.Linear:
    """Features to outputs, drawn from N(0, 0.02) (Devlin et al. 2018) by the run's seed, so alike in all processes.

    A head at zero lets Adam take full steps of the backbone on gradients that a few first batches alone have shaped:
    fine-tuning then learns more slowly.
    """
    head = nn.Linear(embed_dim, num_outputs, bias=bias)
    # on the CPU, as heads are made under the default device and dtype of a trainer's strategy
    generator = torch.Generator("cpu").manual_seed(run_seed())
    drawn = torch.randn(head.weight.shape, generator=generator, device="cpu", dtype=torch.float32)
    with torch.no_grad():
        head.weight.copy_(0.02 * drawn)
    if bias:
        nn.init.zeros_(head.bias)
    return head


def by_name(names: Sequence[str], likely: Tensor) -> list[dict[str, float]]:
    """The probability of each class, by its name.

    Shape:
        - likely: (N, C), C = len(names)
    """
    return [{name: round(value, DIGITS) for name, value in zip(names, row, strict=True)} for row in likely.tolist()]
