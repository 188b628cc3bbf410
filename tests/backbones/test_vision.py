"""What backbones over pictures share: scaling, output layers, files of weights."""

import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lt_cli.backbones.base import Preprocessing
from lt_cli.backbones.vision import Look, PictureBackbone, take_off_output_layer
from lt_cli.backbones.weights_file import load_weights, read_weights
from lt_cli.errors import UserError

MEAN, STD = [0.1, 0.2, 0.3], [0.5, 0.25, 0.125]


class Pixels(PictureBackbone):
    """Gives what a model would see."""

    def __init__(self) -> None:
        super().__init__()
        self.look_at(Look(MEAN, STD, Preprocessing(size=(2, 2), resize=3)))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.normalized(inputs).flatten(1)


def test_pictures_are_scaled_once_whatever_they_are() -> None:
    pictures = torch.randint(256, (4, 3, 2, 2), dtype=torch.uint8)
    backbone = Pixels()
    expected = (pictures / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    for inputs in (pictures, pictures / 255, (pictures / 255).double()):
        torch.testing.assert_close(backbone(inputs), expected.flatten(1))
    scaled = pictures / 255
    before = scaled.clone()
    backbone(scaled)
    assert torch.equal(scaled, before)
    assert not backbone.state_dict()
    assert backbone.preprocessing == Preprocessing(size=(2, 2), resize=3, interpolation="bilinear")


def test_grey_is_of_three_equal_channels() -> None:
    grey = torch.randint(256, (4, 1, 2, 2), dtype=torch.uint8)
    assert torch.equal(Pixels()(grey), Pixels()(grey.expand(-1, 3, -1, -1)))


def test_the_precision_is_that_of_the_buffers() -> None:
    backbone = Pixels().to(torch.bfloat16)
    pictures = torch.randint(256, (4, 3, 2, 2), dtype=torch.uint8)
    assert backbone(pictures).dtype == torch.bfloat16
    torch.testing.assert_close(backbone(pictures).float(), Pixels()(pictures), atol=0.06, rtol=0.02)


@pytest.mark.parametrize("shape", [(2, 2, 4, 4), (2, 4, 4, 4), (3, 4, 4), (2, 5)])
def test_what_is_no_picture_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"Pixels needs pictures of 1 or 3 channels.* not inputs of shape \(\d, "):
        Pixels()(torch.zeros(shape))


@pytest.mark.parametrize(
    ("init_args", "message"),
    [
        ({"mean": [0.5]}, r"mean \(\[0.5\]\) must be 3 numbers.*: --model.backbone.init_args.mean=\[0.5,0.5,0.5\]"),
        ({"std": [1.0, 1.0]}, r"std \(\[1.0, 1.0\]\) must be 3 numbers"),
        ({"std": [1.0, 0.0, 1.0]}, r"std \(\[1.0, 0.0, 1.0\]\) must be numbers above 0"),
    ],
)
def test_looks_are_checked(init_args: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Look(MEAN, STD).but(**{"mean": None, "std": None} | init_args)


def test_cuts_are_checked() -> None:
    with pytest.raises(UserError, match=r"size \(\[0, 4\]\) and preprocessing.resize \(4\) must be at least 1 pixel"):
        Preprocessing(size=(0, 4), resize=4)


def small() -> nn.Sequential:
    return nn.Sequential(OrderedDict(stem=nn.Linear(4, 6), norm=nn.BatchNorm1d(6), head=nn.Linear(6, 2)))


def test_the_last_layer_is_taken_off() -> None:
    model = small().eval()
    inputs = torch.randn(3, 4)
    logits = model(inputs)
    name, layer = take_off_output_layer(model)
    assert (name, layer.weight.shape) == ("head", (2, 6))
    torch.testing.assert_close(layer(model(inputs)), logits)
    with pytest.raises(UserError, match="Sequential has no output layer to be taken off"):
        take_off_output_layer(nn.Sequential(nn.Conv2d(3, 4, 1)))


def fill(path: Path) -> nn.Module:
    """The small model without its head, from a file."""
    model = small()
    take_off_output_layer(model)
    load_weights(model, read_weights(str(path)), path=str(path), name="small", without=["head"])
    return model


@pytest.mark.parametrize("container", [None, "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("head", [True, False])
def test_files_of_training_scripts_are_read(container: str | None, prefix: str, head: bool, tmp_path: Path) -> None:
    own = small()
    own.stem.weight.data.fill_(7)
    state = OrderedDict((prefix + key, weight) for key, weight in own.state_dict().items() if head or "head" not in key)
    torch.save({"epoch": 3, container: state} if container else state, tmp_path / "weights.pth")
    filled = fill(tmp_path / "weights.pth")
    take_off_output_layer(own)
    for key, weight in own.state_dict().items():
        assert torch.equal(filled.state_dict()[key], weight), key


def test_safetensors_and_old_files_are_read(tmp_path: Path) -> None:
    own = small()
    save_file(own.state_dict(), tmp_path / "weights.safetensors")
    assert torch.equal(fill(tmp_path / "weights.safetensors").stem.weight, own.stem.weight)
    old = {key: weight for key, weight in own.state_dict().items() if "num_batches" not in key}
    torch.save(old, tmp_path / "old.pth")
    assert torch.equal(fill(tmp_path / "old.pth").stem.weight, own.stem.weight)


def without(*keys: str, **more: Tensor) -> dict[str, Tensor]:
    return {key: weight for key, weight in small().state_dict().items() if key not in keys} | more


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (without("stem.weight", "norm.bias"), r"must be those of small, and lack stem.weight and 1 more: --model"),
        (without("stem.weight"), r"must be those of small, and lack stem.weight: --model"),
        (without(other=torch.ones(1), more=torch.ones(1)), r"must be those of small, and also have other and 1 more"),
        (
            without(**{"stem.weight": torch.ones(1)}),
            r"must be those of small, and have another shape of stem.weight: --model",
        ),
        ({"epoch": 3}, r"must be a file of weights by their names, as state_dict\(\) gives"),
        ({}, r"must be a file of weights by their names"),
        (small(), r"must be a file of weights alone, .pth or .safetensors: Weights only load failed"),
    ],
)
def test_other_files_are_refused(content: Any, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(UserError, match=r"^weights \('/.*/weights.pth'\) " + message) as error:
        fill(tmp_path / "weights.pth")
    assert "\n" not in str(error.value)


def test_no_file_and_a_broken_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"weights \('.*no.pth'\) must be a file, and there is none: --model"):
        fill(tmp_path / "no.pth")
    (tmp_path / "broken.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match=r"broken.safetensors'\) must be a file of weights alone"):
        fill(tmp_path / "broken.safetensors")


def test_import_is_cheap() -> None:
    modules = ("hf_vision", "mlp", "module", "resnet", "timm_models", "torchvision_models")
    names = ", ".join(f"lt_cli.backbones.{name}" for name in modules)
    code = f"import sys, {names}; sys.exit(bool({{'timm', 'torchvision', 'transformers'}} & sys.modules.keys()))"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
