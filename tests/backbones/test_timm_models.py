"""Timm's models as backbones against the untouched models: logits, files, sizes, mistakes."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from rebuilt import rebuilt
from torch import Tensor, nn

from lt_cli.backbones.base import Preprocessing
from lt_cli.backbones.timm_models import TimmBackbone
from lt_cli.errors import UserError

NAMES = ["resnet10t", "mobilenetv3_small_050.lamb_in1k", "test_vit", "test_convnext"]
SMALL = Preprocessing(size=(64, 64), resize=72, interpolation="bicubic")


def own_model(name: str) -> nn.Module:
    """Random weights, large enough for all parts to matter."""
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(name, **({"img_size": 64} if "vit" in name else {}))
    for weight in model.parameters():
        if weight.ndim > 1:
            nn.init.normal_(weight, std=0.1)
    return model.eval()


def pictures(side: int = 64) -> Tensor:
    return torch.randint(256, (2, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def no_grad() -> Any:
    with torch.no_grad():
        yield


@pytest.mark.parametrize("name", NAMES)
def test_features_are_what_the_output_layer_reads(name: str, tmp_path: Path) -> None:
    model = own_model(name)
    torch.save({"epoch": 1, "state_dict": model.state_dict()}, tmp_path / "weights.pth")
    backbone = TimmBackbone(name=name, weights=str(tmp_path / "weights.pth"), preprocessing=SMALL)
    assert backbone.training
    assert backbone.pretrained
    features = backbone.eval()(pictures())
    assert features.shape == (2, backbone.embed_dim)
    torch.testing.assert_close(backbone(pictures() / 255), features)
    data = timm.data.resolve_model_data_config(model)
    mean, std = (torch.tensor(data[key])[:, None, None] for key in ("mean", "std"))
    own = model((pictures() / 255 - mean) / std)
    torch.testing.assert_close(model.get_classifier()(features), own, atol=1e-5 * float(own.abs().max()), rtol=0)

    (tmp_path / "weights.pth").unlink()
    again = rebuilt(backbone.rebuild_config)
    assert not again.pretrained
    again.load_state_dict(backbone.state_dict(), strict=True)
    assert torch.equal(again(pictures()), features)
    assert again.rebuild_config == backbone.rebuild_config
    assert again.preprocessing == SMALL


def test_pictures_look_as_the_weights_want_them() -> None:
    backbone = TimmBackbone(name="resnet10t")
    assert not backbone.pretrained
    assert backbone.preprocessing == Preprocessing(size=(176, 176), resize=201, interpolation="bicubic")
    assert backbone.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    vit = TimmBackbone(name="vit_tiny_patch16_224", std=[0.25] * 3)
    assert vit.preprocessing == Preprocessing(size=(224, 224), resize=248, interpolation="bicubic")
    assert (vit.mean.flatten().tolist(), vit.std.flatten().tolist()) == ([0.5] * 3, [0.25] * 3)
    assert vit.embed_dim == 192
    again = rebuilt(vit.rebuild_config)
    assert torch.equal(again.std, vit.std)
    assert again.preprocessing == vit.preprocessing


def test_models_of_one_size_are_built_for_it() -> None:
    backbone = TimmBackbone(name="vit_tiny_patch16_224", preprocessing=SMALL)
    assert backbone.model.pos_embed.shape[1] == 4 * 4 + 1
    assert backbone(pictures()).shape == (2, 192)


def test_timms_own_weights_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    create, asked = timm.create_model, []

    def fetch(name: str, pretrained: bool = False, **options: Any) -> Any:
        asked.append((name, pretrained, options))
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", fetch)
    assert TimmBackbone(name="resnet10t", weights="pretrained").pretrained
    assert asked == [("resnet10t", True, {"num_classes": 0})]


def test_computes_in_bfloat16_and_on_meta() -> None:
    backbone = TimmBackbone(name="test_vit").to(torch.bfloat16).eval()
    assert backbone(pictures(160)).dtype == torch.bfloat16
    with torch.device("meta"):
        meta = TimmBackbone(name="test_resnet")
        assert meta(torch.empty(2, 3, 64, 64)).shape == (2, meta.embed_dim)


def test_trains_all_weights() -> None:
    backbone = TimmBackbone(name="test_vit")
    with torch.enable_grad():
        backbone(pictures(160)).square().sum().backward()
    assert all(weight.grad is not None for weight in backbone.parameters())


@pytest.mark.parametrize(
    ("init_args", "message"),
    [
        (
            {"name": "resnet_10t"},
            r"name \('resnet_10t'\) must be a model of timm.*: --model.backbone.init_args.name=NAME; "
            "did you mean resnet10t",
        ),
        ({"name": "hf-hub:timm/resnet10t"}, "must be a model of timm"),
        (
            {"name": "resnet10t.c3_in2k"},
            r"name \('resnet10t.c3_in2k'\) must be one of resnet10t.c3_in1k: .*; did you mean resnet10t.c3_in1k",
        ),
        (
            {"name": "resnet10t", "weights": "pretraind"},
            r"weights \('pretraind'\) must be null, pretrained, or a file that ends in .pth, .*"
            "weights=pretrained; did you mean pretrained",
        ),
        ({"name": "resnet10t", "weights": "no.pth"}, r"weights \('no.pth'\) must be a file, and there is none"),
        ({"name": "resnet10t", "std": [0.0] * 3}, "must be numbers above 0"),
        (
            {"name": "test_vit", "preprocessing": Preprocessing(size=(4, 4), resize=4)},
            r"test_vit does not take pictures of preprocessing.size \(\[4, 4\]\): .*: leave --model",
        ),
        (
            {"name": "resnet10t", "weights": "pretrained"},
            r"weights \('pretrained'\) of resnet10t cannot be fetched: .*: download them from timm/resnet10t.c3_in1k "
            "on a machine with a network, and give the file: --model.backbone.init_args.weights=FILE",
        ),
    ],
)
def test_errors_name_what_to_mend(init_args: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as error:
        TimmBackbone(**init_args)
    assert "\n" not in str(error.value)


def test_a_name_without_weights_asks_for_a_file() -> None:
    without = next(name for name in timm.list_models("resnet*") if not timm.is_model_pretrained(name))
    with pytest.raises(UserError, match=rf"weights \('pretrained'\) must be a file or null for {without}, of which"):
        TimmBackbone(name=without, weights="pretrained")


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    torch.save(own_model("test_convnext").state_dict(), tmp_path / "weights.pth")
    with pytest.raises(UserError, match=r"must be those of resnet10t, and lack conv1.0.weight and \d+ more"):
        TimmBackbone(name="resnet10t", weights=str(tmp_path / "weights.pth"))


def test_a_model_without_features_of_pictures_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Maps(nn.Conv2d):
        """Makes no feature."""

    monkeypatch.setattr(timm, "create_model", lambda *args, **options: Maps(3, 7, 1))
    with pytest.raises(UserError, match=r"must be a model that makes a feature \(1, embed_dim\).*not \(1, 7, 176, 176"):
        TimmBackbone(name="resnet10t")
