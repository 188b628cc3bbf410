"""Our residual network against torchvision's ResNet-18 with a stem for small pictures, and mistakes."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from lt_cli.backbones.resnet import ResNet
from lt_cli.errors import UserError
from lt_cli.optim import parameter_groups

TINY = {"widths": [4, 8], "blocks": [1, 2]}


def pictures() -> Tensor:
    return torch.randint(256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_is_torchvisions_resnet18_with_a_small_stem() -> None:
    own = models.resnet18()
    own.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    own.maxpool, own.fc = nn.Identity(), nn.Identity()
    backbone = ResNet()
    assert [tuple(weight.shape) for weight in backbone.parameters()] == [tuple(w.shape) for w in own.parameters()]
    for weight in own.parameters():
        nn.init.normal_(weight, std=0.1)
    backbone.load_state_dict(dict(zip(backbone.state_dict(), own.state_dict().values(), strict=True)))
    scaled = (pictures() / 255 - backbone.mean) / backbone.std
    with torch.no_grad():
        for training in (True, False):
            features = backbone.train(training)(pictures())
            torch.testing.assert_close(features, own.train(training)(scaled), atol=1e-4, rtol=1e-4)
    assert features.shape == (3, backbone.embed_dim) == (3, 512)


def test_blocks_add_nothing_at_first() -> None:
    shallow, deep = ResNet(widths=[4], blocks=[1]), ResNet(widths=[4], blocks=[3])
    deep.load_state_dict(shallow.state_dict(), strict=False)
    torch.testing.assert_close(shallow(pictures()), deep(pictures()))


def test_float_and_grey_pictures_are_the_same() -> None:
    backbone = ResNet(**TINY).eval()
    torch.testing.assert_close(backbone(pictures() / 255), backbone(pictures()))
    grey = pictures()[:, :1]
    torch.testing.assert_close(backbone(grey), backbone(grey.expand(-1, 3, -1, -1)))
    assert backbone(pictures()[..., :20, :14]).shape == (3, 8)
    assert backbone.preprocessing is None


def test_a_row_depends_on_others_in_training_only() -> None:
    backbone = ResNet(**TINY)
    assert not torch.allclose(backbone(pictures())[:1], backbone(pictures()[:1]), atol=1e-3)
    backbone.eval()
    torch.testing.assert_close(backbone(pictures())[:1], backbone(pictures()[:1]))


def test_stages_freeze_and_learn_at_rates_of_their_own() -> None:
    backbone = ResNet(**TINY)
    backbone.get_submodule("stages.0").requires_grad_(False).eval()
    before = copy.deepcopy(backbone.stages[0].state_dict())
    backbone(pictures()).square().sum().backward()
    assert {name.split(".")[1] for name, weight in backbone.named_parameters() if weight.grad is None} == {"0"}
    assert all(torch.equal(weight, before[name]) for name, weight in backbone.stages[0].state_dict().items())
    scales = {group["lr_scale"] for group in parameter_groups(backbone, layer_decay=0.5)}
    assert scales == {0.5, 0.25, 0.125}


def test_scales_as_it_is_told() -> None:
    backbone = ResNet(**TINY, mean=[0.0] * 3, std=[1.0] * 3)
    torch.testing.assert_close(backbone.normalized(pictures()), pictures() / 255)
    assert backbone.rebuild_config is None


def test_computes_in_bfloat16_and_on_meta() -> None:
    assert ResNet(**TINY).to(torch.bfloat16)(pictures()).dtype == torch.bfloat16
    with torch.device("meta"):
        assert ResNet(**TINY)(torch.empty(2, 3, 8, 8)).shape == (2, 8)


@pytest.mark.parametrize(
    ("init_args", "message"),
    [
        ({"widths": []}, r"widths \(\[\]\) must be one number of at least 1 for each stage: --model.*\.widths=\[2,2\]"),
        ({"blocks": [1, 0]}, r"blocks \(\[1, 0\]\) must be one number of at least 1 for each stage"),
        ({"widths": [8]}, r"widths \(\[8\]\) must be as many as blocks \(\[1, 2\]\), one for each stage: --model"),
        ({"std": [0.0, 1.0, 1.0]}, r"std \(\[0.0, 1.0, 1.0\]\) must be numbers above 0"),
        ({"mean": [0.0]}, r"mean \(\[0.0\]\) must be 3 numbers"),
    ],
)
def test_errors_name_what_to_mend(init_args: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ResNet(**TINY | init_args)
