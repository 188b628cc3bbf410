"""A multi-layer perceptron, for rows of a table."""

import torch
from torch import Tensor, nn

from lt_cli.backbones.base import PooledBackbone
from lt_cli.backbones.inputs import as_float
from lt_cli.errors import UserError


class MLP(PooledBackbone):
    """Multi-layer perceptron of Linear, ReLU and BatchNorm1d, as lightning-flash's template has it.

    Its ``mlp-128`` is ``hidden_dims=[128]``, and ``mlp-128-256`` is ``[128, 256]``.

    Args:
        num_features: Numbers in a row, at least 1; of a picture, channels times height times width.
        hidden_dims: Width of each layer, at least 1; the last is that of the features. With none, the features are the
            inputs, so that a linear head on them is a linear model.
        dropout: Probability in [0, 1) of dropping an output of a layer, in training.

    Shape:
        - inputs: (B, num_features), or of more dimensions with as many numbers in a row; uint8 is scaled to [0, 1]
        - output: (B, D), D = embed_dim

    Raises:
        UserError: If a number is out of its range.
    """

    def __init__(
        self,
        *,
        num_features: int,
        hidden_dims: list[int] = [128],  # noqa: B006  # never written to
        dropout: float = 0.0,
    ) -> None:
        """Builds the layers as torch initialises them."""
        super().__init__()
        if num_features < 1:
            raise UserError(
                f"num_features ({num_features}) must be at least 1: --model.backbone.init_args.num_features=N"
            )
        if min(hidden_dims, default=1) < 1:
            raise UserError(
                f"hidden_dims ({hidden_dims}) must be widths of at least 1: "
                "--model.backbone.init_args.hidden_dims=[128]"
            )
        if not 0 <= dropout < 1:
            raise UserError(
                f"dropout ({dropout}) must be at least 0 and below 1: --model.backbone.init_args.dropout=0.1"
            )
        self.num_features = num_features
        widths = [num_features, *hidden_dims]
        self.embed_dim = widths[-1]
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Linear(width, wider),
                nn.ReLU(),
                nn.BatchNorm1d(wider),
                *([nn.Dropout(dropout)] if dropout else []),
            )
            for width, wider in zip(widths, hidden_dims, strict=False)
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """See PooledBackbone.

        Raises:
            UserError: If a row has not ``num_features`` numbers.
        """
        rows = inputs.flatten(1)
        if rows.shape[1] != self.num_features:
            raise UserError(
                f"the rows have {rows.shape[1]} numbers, the backbone num_features ({self.num_features}): "
                f"add --model.backbone.init_args.num_features={rows.shape[1]}"
            )
        weight = next(self.parameters(), None)
        x = as_float(rows, torch.get_default_dtype() if weight is None else weight.dtype)
        for block in self.blocks:
            x = block(x)
        return x
