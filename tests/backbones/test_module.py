"""A module of the user's as a backbone."""

import pytest
import torch
from torch import nn

from lt_cli.backbones.module import ModuleBackbone


class Wide(nn.Linear):
    """Says how wide its features are."""

    embed_dim = 5


def test_features_are_the_modules_own() -> None:
    module = nn.Linear(4, 5)
    backbone = ModuleBackbone(module=module)
    inputs = torch.randn(3, 4)
    assert torch.equal(backbone(inputs), module(inputs))
    assert not hasattr(backbone, "embed_dim")
    assert backbone.rebuild_config is None
    assert not backbone.pretrained
    assert backbone.state_dict().keys() == {"module.weight", "module.bias"}


def test_a_width_that_it_says_is_taken_over() -> None:
    assert ModuleBackbone(module=Wide(4, 5)).embed_dim == 5
    attention = nn.MultiheadAttention(8, 2)
    assert ModuleBackbone(module=attention).embed_dim == 8


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pictures_are_scaled_and_maps_averaged(dtype: torch.dtype) -> None:
    pictures = torch.randint(256, (2, 3, 6, 6), dtype=torch.uint8)
    module = nn.Conv2d(3, 7, 3).to(dtype)
    features = ModuleBackbone(module=module)(pictures)
    torch.testing.assert_close(features, module(pictures.to(dtype) / 255).mean((2, 3)))
    assert features.shape == (2, 7)
    assert torch.equal(ModuleBackbone(module=nn.Flatten())(pictures), pictures.flatten(1) / 255)
