"""Any module of torch as a backbone."""

import torch
from torch import Tensor, nn

from lt_cli.backbones.base import PooledBackbone
from lt_cli.backbones.inputs import as_float


class ModuleBackbone(PooledBackbone):
    """A module of torch, or of your own, that makes a feature of each row.

    Where it says its ``embed_dim``, that is the width of the features; else it is tried out.

    Args:
        module: Takes rows of a table, or pictures as numbers in [0, 1]; makes features (B, D), or maps (B, D, H, W) of
            which the mean is taken.

    Shape:
        - inputs: (B, ...), of any dtype; uint8 is scaled to [0, 1]
        - output: (B, D), D = embed_dim
    """

    def __init__(self, *, module: nn.Module) -> None:
        """Keeps it."""
        super().__init__()
        self.module = module
        if isinstance(width := getattr(module, "embed_dim", None), int):
            self.embed_dim = width

    def forward(self, inputs: Tensor) -> Tensor:
        """See PooledBackbone."""
        if inputs.dtype == torch.uint8:
            weight = next(self.parameters(), None)
            inputs = as_float(inputs, torch.get_default_dtype() if weight is None else weight.dtype)
        features: Tensor = self.module(inputs)
        return features.mean((2, 3)) if isinstance(features, Tensor) and features.ndim == 4 else features
