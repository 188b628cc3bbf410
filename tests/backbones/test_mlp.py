"""The perceptron against the same layers by hand, rows of any shape, and mistakes."""

from typing import Any

import pytest
import torch
from torch import nn

from lt_cli.backbones.mlp import MLP
from lt_cli.errors import UserError


def test_is_the_template_of_flash() -> None:
    backbone = MLP(num_features=4, hidden_dims=[8, 16])
    own = nn.Sequential(
        *(nn.Linear(4, 8), nn.ReLU(), nn.BatchNorm1d(8)),
        *(nn.Linear(8, 16), nn.ReLU(), nn.BatchNorm1d(16)),
    )
    own.load_state_dict(dict(zip(own.state_dict(), backbone.state_dict().values(), strict=True)))
    inputs = torch.randn(5, 4)
    for _ in range(3):
        torch.testing.assert_close(backbone(inputs), own(inputs))
    assert backbone.embed_dim == 16
    torch.testing.assert_close(backbone.eval()(inputs), own.eval()(inputs))
    assert not torch.allclose(backbone.train()(inputs), own(inputs), atol=1e-3)
    assert [name for name, _ in backbone.blocks.named_children()] == ["0", "1"]


def test_one_layer_of_128_unless_told() -> None:
    backbone = MLP(num_features=4)
    assert backbone.embed_dim == 128
    assert [tuple(weight.shape) for weight in backbone.parameters()] == [(128, 4), (128,), (128,), (128,)]


def test_pictures_are_flattened_and_scaled() -> None:
    pictures = torch.randint(256, (3, 1, 4, 4), dtype=torch.uint8)
    backbone = MLP(num_features=16, hidden_dims=[8]).eval()
    torch.testing.assert_close(backbone(pictures), backbone(pictures.flatten(1) / 255))
    assert torch.equal(MLP(num_features=16, hidden_dims=[])(pictures), pictures.flatten(1) / 255)


def test_rows_have_the_dtype_of_the_weights() -> None:
    backbone = MLP(num_features=4).to(torch.bfloat16).eval()
    assert backbone(torch.randn(2, 4)).dtype == torch.bfloat16


def test_no_layers_make_a_linear_model_of_the_head() -> None:
    backbone = MLP(num_features=4, hidden_dims=[])
    inputs = torch.randn(2, 4)
    assert backbone.embed_dim == 4
    assert torch.equal(backbone(inputs), inputs)
    assert not list(backbone.parameters())


def test_drops_behind_each_layer_in_training_only() -> None:
    backbone = MLP(num_features=4, hidden_dims=[64, 64], dropout=0.5)
    assert [len(block) for block in backbone.blocks] == [4, 4]
    features = backbone(torch.randn(32, 4))
    assert 0.4 < (features == 0).float().mean() < 0.6
    assert not (backbone.eval()(torch.randn(32, 4)) == 0).any()


def test_builds_on_meta() -> None:
    with torch.device("meta"):
        assert MLP(num_features=4)(torch.empty(2, 4)).shape == (2, 128)


@pytest.mark.parametrize(
    ("init_args", "message"),
    [
        ({"num_features": 0}, r"num_features \(0\) must be at least 1: --model.backbone.init_args.num_features=N"),
        (
            {"hidden_dims": [8, 0]},
            r"hidden_dims \(\[8, 0\]\) must be widths of at least 1: --model.backbone.init_args.hidden_dims=\[128\]",
        ),
        ({"dropout": 1.0}, r"dropout \(1.0\) must be at least 0 and below 1: --model.backbone.init_args.dropout=0.1"),
        ({"dropout": -0.1}, r"dropout \(-0.1\) must be at least 0"),
    ],
)
def test_errors_name_what_to_mend(init_args: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        MLP(**{"num_features": 4} | init_args)


def test_rows_of_another_width_are_refused() -> None:
    with pytest.raises(UserError, match=r"have 5 numbers, .* num_features \(4\): add --model.*\.num_features=5$"):
        MLP(num_features=4)(torch.randn(2, 5))
