"""Inputs as batches hold them to what a model computes with."""

import torch
from torch import Tensor


def as_float(inputs: Tensor, dtype: torch.dtype) -> Tensor:
    """Pictures of uint8 as numbers in [0, 1]; all others as they are, but of the dtype.

    Shape:
        - inputs, output: any
    """
    return inputs.to(dtype) / 255 if inputs.dtype == torch.uint8 else inputs.to(dtype)
