"""Which feature stands for a whole text."""

from typing import Literal

import torch
from torch import Tensor

Pooling = Literal["first", "mean", "last"]


def pooled(features: Tensor, mask: Tensor, pooling: Pooling) -> Tensor:
    """One feature for each text.

    Shape:
        - features: (B, T, D)
        - mask: (B, T), 1 for tokens, 0 for padding behind them
        - output: (B, D)
    """
    if pooling == "first":
        return features[:, 0]
    if pooling == "last":
        return features[torch.arange(len(features), device=features.device), mask.sum(1) - 1]
    weights = mask.to(features.dtype)[..., None]
    return (features * weights).sum(1) / weights.sum(1)
