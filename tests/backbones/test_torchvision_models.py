"""Torchvision's classifiers as backbones against the untouched models: logits, files, aux heads, mistakes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from rebuilt import rebuilt
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import models

from lt_cli.backbones.base import Preprocessing
from lt_cli.backbones.torchvision_models import TorchvisionBackbone
from lt_cli.errors import UserError

IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
HEADS = {
    "resnet18": "fc",
    "mobilenet_v3_small": "classifier.3",
    "mnasnet0_5": "classifier.1",
    "regnet_x_400mf": "fc",
    "shufflenet_v2_x0_5": "fc",
    "squeezenet1_1": "classifier.1",
    "googlenet": "fc",
    "efficientnet_b0": "classifier.1",
    "densenet121": "classifier",
}


def own_model(name: str) -> nn.Module:
    """Random weights, large enough for all parts to matter."""
    torch.manual_seed(0)
    model: nn.Module = models.get_model(name, **({"init_weights": False} if name == "googlenet" else {}))
    for weight in model.parameters():
        if weight.ndim > 1:
            nn.init.normal_(weight, std=0.1)
    return model.eval()


def scaled(pictures: Tensor) -> Tensor:
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in IMAGENET)
    return (pictures / 255 - mean) / std


def pictures(side: int = 64) -> Tensor:
    return torch.randint(256, (2, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def no_grad() -> Any:
    with torch.no_grad():
        yield


@pytest.mark.parametrize("name", HEADS)
def test_features_are_what_the_output_layer_reads(name: str, tmp_path: Path) -> None:
    model = own_model(name)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    backbone = TorchvisionBackbone(name=name, weights=str(tmp_path / "weights.pth"))
    assert backbone.training
    assert backbone.pretrained
    features = backbone.eval()(pictures())
    assert features.shape == (2, backbone.embed_dim)
    torch.testing.assert_close(backbone(pictures() / 255), features)
    if name == "googlenet":
        model.transform_input = True  # as torchvision sets it where its own weights are loaded
    head = model.get_submodule(HEADS[name])
    if isinstance(head, nn.Linear):
        own = model(scaled(pictures()))
        torch.testing.assert_close(head(features), own, atol=1e-5 * float(own.abs().max()), rtol=0)
    else:
        torch.testing.assert_close(features, model.features(scaled(pictures())).mean((2, 3)))

    (tmp_path / "weights.pth").unlink()
    again = rebuilt(backbone.rebuild_config)
    assert not again.pretrained
    again.load_state_dict(backbone.state_dict(), strict=True)
    assert torch.equal(again(pictures()), features)
    assert again.rebuild_config == backbone.rebuild_config
    assert isinstance(backbone.train()(pictures()), Tensor)


def test_a_vision_transformer_is_built_for_its_size(tmp_path: Path) -> None:
    wanted = Preprocessing(size=(64, 64), resize=72, interpolation="bicubic")
    backbone = TorchvisionBackbone(name="vit_b_32", preprocessing=wanted).eval()
    assert not backbone.pretrained
    assert backbone(pictures()).shape == (2, 768)
    assert backbone.preprocessing == wanted
    own = models.vit_b_32(image_size=64).eval()
    own.load_state_dict(backbone.model.state_dict(), strict=False)
    torch.testing.assert_close(own.heads(backbone(pictures())), own(scaled(pictures())))
    assert rebuilt(backbone.rebuild_config).preprocessing == wanted
    with pytest.raises(UserError, match=r"preprocessing.size \(\[64, 32\]\) must be a square for vit_b_32"):
        TorchvisionBackbone(name="vit_b_32", preprocessing=Preprocessing(size=(64, 32), resize=64))
    with pytest.raises(UserError, match=r"vit_b_32 cannot be built for preprocessing.size \(\[40, 40\]\): "):
        TorchvisionBackbone(name="vit_b_32", preprocessing=Preprocessing(size=(40, 40), resize=64))


def test_pictures_look_as_the_weights_want_them(tmp_path: Path) -> None:
    backbone = TorchvisionBackbone(name="resnet18")
    assert backbone.preprocessing == Preprocessing(size=(224, 224), resize=256, interpolation="bilinear")
    assert (backbone.mean.flatten().tolist(), backbone.std.flatten().tolist()) == (
        pytest.approx(IMAGENET[0]),
        pytest.approx(IMAGENET[1]),
    )
    newest = TorchvisionBackbone(name="mobilenet_v2").preprocessing
    assert newest == Preprocessing(size=(224, 224), resize=232)
    file = tmp_path / models.MobileNet_V2_Weights.IMAGENET1K_V1.url.rpartition("/")[2]
    torch.save(models.mobilenet_v2().state_dict(), file)
    older = TorchvisionBackbone(name="mobilenet_v2", weights=str(file))
    assert older.preprocessing == Preprocessing(size=(224, 224), resize=256)
    assert rebuilt(older.rebuild_config).preprocessing == older.preprocessing
    own = TorchvisionBackbone(name="resnet18", mean=[0.5] * 3, std=[0.25] * 3)
    assert own.rebuild_config["init_args"] | {"preprocessing": None} == {
        "name": "resnet18",
        "weights": None,
        "mean": [0.5] * 3,
        "std": [0.25] * 3,
        "preprocessing": None,
    }


def test_torchvisions_own_weights_are_taken_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    state = own_model("resnet18").state_dict()
    fetched = []

    def fetch(self: Any, *args: Any, **kwargs: Any) -> Any:
        fetched.append(self.name)
        return state

    monkeypatch.setattr(models.WeightsEnum, "get_state_dict", fetch)
    backbone = TorchvisionBackbone(name="resnet18", weights="DEFAULT")
    assert fetched == ["IMAGENET1K_V1"]
    assert backbone.pretrained
    assert torch.equal(backbone.model.conv1.weight, state["conv1.weight"])


def test_names_of_densenets_files_are_read(tmp_path: Path) -> None:
    state = own_model("densenet121").state_dict()
    old = {key.replace("norm1", "norm.1").replace("conv2", "conv.2"): weight for key, weight in state.items()}
    assert old.keys() != state.keys()
    save_file(old, tmp_path / "weights.safetensors")
    backbone = TorchvisionBackbone(name="densenet121", weights=str(tmp_path / "weights.safetensors"))
    key = "features.denseblock1.denselayer1.conv2.weight"
    assert torch.equal(backbone.model.state_dict()[key], state[key])


def test_computes_in_bfloat16_and_on_meta() -> None:
    backbone = TorchvisionBackbone(name="mobilenet_v3_small").to(torch.bfloat16).eval()
    assert backbone(pictures()).dtype == torch.bfloat16
    with torch.device("meta"):
        meta = TorchvisionBackbone(name="mobilenet_v3_small")
        assert meta(torch.empty(2, 3, 64, 64)).shape == (2, meta.embed_dim)


def test_trains_all_that_is_not_frozen() -> None:
    backbone = TorchvisionBackbone(name="mobilenet_v3_small")
    backbone.model.features[0].requires_grad_(False)
    with torch.enable_grad():
        backbone(pictures()).square().sum().backward()
    without = {name.split(".")[2] for name, weight in backbone.named_parameters() if weight.grad is None}
    assert without == {"0"}


@pytest.mark.parametrize(
    ("init_args", "message"),
    [
        (
            {"name": "resnet_18"},
            r"name \('resnet_18'\) must be a classifier of torchvision.*: --model.backbone.init_args.name=NAME; "
            "did you mean resnet18",
        ),
        ({"name": "fcn_resnet50"}, "must be a classifier of torchvision"),
        (
            {"name": "resnet50", "weights": "IMAGENET1K_V3"},
            r"weights \('IMAGENET1K_V3'\) must be one of IMAGENET1K_V1, IMAGENET1K_V2, DEFAULT of resnet50, or a file "
            r".*: --model.backbone.init_args.weights=DEFAULT; did you mean IMAGENET1K_V2",
        ),
        ({"name": "resnet18", "weights": "no.pth"}, r"weights \('no.pth'\) must be a file, and there is none"),
        ({"name": "resnet18", "mean": [1.0]}, r"mean \(\[1.0\]\) must be 3 numbers"),
    ],
)
def test_errors_name_what_to_mend(init_args: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TorchvisionBackbone(**init_args)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    torch.save(models.resnet34().state_dict(), tmp_path / "weights.pth")
    with pytest.raises(UserError, match=r"must be those of resnet18, and also have layer1.2.conv1.weight and \d+ more"):
        TorchvisionBackbone(name="resnet18", weights=str(tmp_path / "weights.pth"))


def test_without_a_network_the_file_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"weights \('DEFAULT'\) of resnet18 cannot be fetched: ") as error:
        TorchvisionBackbone(name="resnet18", weights="DEFAULT")
    url = "https://download.pytorch.org/models/resnet18-f37072fd.pth"
    assert f"download {url} on a machine with a network, and give the file: --model.backbone" in str(error.value)
    assert "\n" not in str(error.value)
