"""Parts that our transformers are built of.

B: rows, T: tokens, D: embed_dim.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from lt_cli.errors import UserError

Activation = Literal["quick_gelu", "gelu_tanh", "gelu"]
Norm = Literal["rmsnorm", "layernorm"]
Init = Literal["gpt2", "fan_in"]


class MLP(nn.Module):
    """Two layers, four times as wide inside."""

    def __init__(self, *, embed_dim: int, activation: Activation, bias: bool) -> None:
        """Widens, then narrows."""
        super().__init__()
        self.activation = activation
        self.up = nn.Linear(embed_dim, 4 * embed_dim, bias=bias)
        self.down = nn.Linear(4 * embed_dim, embed_dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) to (B, T, D)."""
        x = self.up(x)
        if self.activation == "quick_gelu":
            # x * sigmoid(1.702 x), in fewer passes over memory and with nothing new but what silu keeps
            x = F.silu(x.mul_(1.702)).div_(1.702)
        else:
            x = F.gelu(x, approximate="tanh" if self.activation == "gelu_tanh" else "none")
        return self.down(x)  # type: ignore[no-any-return]


class Block(nn.Module):
    """Pre-norm residual block: the residual stream itself is never normalised."""

    def __init__(
        self, attention: nn.Module, *, embed_dim: int, norm: Norm, activation: Activation, bias: bool, dropout: float
    ) -> None:
        """Attention, then MLP, each behind its own norm."""
        super().__init__()
        self.attention_norm = make_norm(norm, embed_dim, bias)
        self.attention = attention
        self.mlp_norm = make_norm(norm, embed_dim, bias)
        self.mlp = MLP(embed_dim=embed_dim, activation=activation, bias=bias)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        """(B, T, D) to (B, T, D); the context is what the attention takes besides."""
        x = x + self.dropout(self.attention(self.attention_norm(x), *context))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))  # type: ignore[no-any-return]


def make_norm(norm: Norm, embed_dim: int, bias: bool) -> nn.Module:
    """The norm of image GPT (a gain, no mean, no bias) or of GPT-2."""
    return nn.RMSNorm(embed_dim, eps=1e-5) if norm == "rmsnorm" else nn.LayerNorm(embed_dim, eps=1e-5, bias=bias)


def check_sizes(sizes: Mapping[str, int | None], *, rotary_axes: int, dropout: float) -> None:
    """Refuses what no transformer can be built of.

    Args:
        sizes: By the names of the options, embed_dim and num_heads among them; None is not checked.
        rotary_axes: Numbers that a rotary position has; 0 where none are.
        dropout: A probability.

    Raises:
        UserError: If a size is below 1, heads do not share the features evenly, or dropout is outside [0, 1).
    """
    for name, size in sizes.items():
        if size is not None and size < 1:
            raise UserError(f"{name} ({size}) must be at least 1")
    embed_dim, num_heads = sizes["embed_dim"] or 1, sizes["num_heads"] or 1
    if embed_dim % num_heads:
        raise UserError(f"embed_dim ({embed_dim}) must be divisible by num_heads ({num_heads})")
    if rotary_axes and embed_dim // num_heads % (2 * rotary_axes):
        raise UserError(
            f"embed_dim / num_heads ({embed_dim // num_heads}) must be divisible by {2 * rotary_axes} "
            "where rotary is true"
        )
    if not 0 <= dropout < 1:
        raise UserError(f"dropout ({dropout}) must be at least 0 and less than 1")


def initialise_linears(model: nn.Module, init: Init, num_layers: int) -> None:
    """N(0, 0.02) or a variance of 1 / inputs, residual projections divided by sqrt(2 num_layers), biases 0."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            std = 0.02 if init == "gpt2" else module.in_features**-0.5
            if name.endswith(("attention.out", "mlp.down")):
                std /= math.sqrt(2 * num_layers)
            nn.init.normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
