"""Wrapped image classifiers against transformers' own: logits, scaling, LoRA, weights that travel, mistakes."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from rebuilt import rebuilt
from torch import Tensor, nn
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES as MODELS

from lt_cli.backbones.base import Preprocessing
from lt_cli.backbones.hf_vision import HuggingFaceVision
from lt_cli.backbones.lora import LoRA
from lt_cli.errors import UserError

SMALL = {"num_hidden_layers": 2, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
PATCHES = SMALL | {"image_size": 32, "patch_size": 8}
STAGES = {"depths": [1, 1], "hidden_sizes": [8, 16], "num_stages": 2, "image_size": 32}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "vit": PATCHES,
    "deit": PATCHES,
    "beit": PATCHES | {"use_relative_position_bias": True},
    "dinov2": {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2, "image_size": 32, "patch_size": 8},
    "convnext": STAGES,
    "resnet": {"depths": [1, 1], "hidden_sizes": [8, 16], "embedding_size": 8, "layer_type": "basic"},
    "swin": {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4, "image_size": 32},
    "mobilenet_v2": {"depth_multiplier": 0.35, "image_size": 32},
    "clip": {"vision_config": PATCHES, "text_config": SMALL},
}
KINDS = [*ARCHITECTURES]
FEATURES = {"dinov2": 32, "mobilenet_v2": 1280}
PROCESSORS: dict[str, dict[str, Any]] = {
    "ViTImageProcessor": {"size": {"height": 32, "width": 32}, "image_mean": [0.1, 0.2, 0.3], "resample": 3},
    "ConvNextImageProcessor": {"size": {"shortest_edge": 32}, "crop_pct": 0.5},
    "CLIPImageProcessor": {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}},
    "DeiTImageProcessor": {"size": {"height": 40, "width": 40}, "crop_size": {"height": 32, "width": 32}},
    "EfficientNetImageProcessor": {"size": {"height": 32, "width": 32}, "rescale_factor": 1 / 127.5}
    | {"rescale_offset": True, "include_top": True, "image_std": [0.4, 0.5, 0.6]},
    "BitImageProcessor": {"size": {"shortest_edge": 32}, "do_center_crop": False, "do_normalize": False},
}
CUTS = {
    "ViTImageProcessor": Preprocessing(size=(32, 32), resize=32, interpolation="bicubic"),
    "ConvNextImageProcessor": Preprocessing(size=(32, 32), resize=64, interpolation="bicubic"),
    "CLIPImageProcessor": Preprocessing(size=(32, 32), resize=36, interpolation="bicubic"),
    "DeiTImageProcessor": Preprocessing(size=(32, 32), resize=40, interpolation="bicubic"),
    "EfficientNetImageProcessor": Preprocessing(size=(32, 32), resize=32, interpolation="bicubic"),
    "BitImageProcessor": Preprocessing(size=(32, 32), resize=32, interpolation="bicubic"),
}


def architecture(kind: str) -> dict[str, Any]:
    return {"model_type": kind, **ARCHITECTURES[kind]}


def own_model(kind: str, head: str = "") -> Any:
    """Random weights, large enough for all parts to matter."""
    config = transformers.AutoConfig.for_model(**architecture(kind), num_labels=5)
    first = MODELS[kind] if isinstance(MODELS[kind], str) else MODELS[kind][0]
    model = getattr(transformers, head or first)._from_config(config).eval()
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    return model


def pictures() -> Tensor:
    return torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def no_grad() -> Any:
    with torch.no_grad():
        yield


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_what_the_output_layer_reads_and_the_directory_is_not_needed_again(
    kind: str, tmp_path: Path
) -> None:
    model = own_model(kind)
    model.save_pretrained(tmp_path / "weights")
    backbone = HuggingFaceVision(pretrained=str(tmp_path / "weights"))
    assert backbone.training
    assert backbone.hf_model.training
    assert backbone.pretrained
    assert backbone.embed_dim == FEATURES.get(kind, 16)
    features = backbone.eval()(pictures())
    assert features.shape == (2, backbone.embed_dim)
    torch.testing.assert_close(backbone(pictures() / 255), features)
    head = [part for part in model.modules() if isinstance(part, nn.Linear)][-1]
    own = model(pixel_values=pictures() / 127.5 - 1).logits
    assert own.shape == (2, 5)
    torch.testing.assert_close(head(features), own, atol=1e-5, rtol=1e-4)

    (tmp_path / "weights").rename(tmp_path / "gone")
    again = rebuilt(backbone.rebuild_config)
    assert not again.pretrained
    again.load_state_dict(backbone.state_dict(), strict=True)
    assert torch.equal(again(pictures()), features)
    assert again.rebuild_config == backbone.rebuild_config


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_that_trains_gets_a_gradient(kind: str) -> None:
    backbone = HuggingFaceVision(architecture=architecture(kind))
    with torch.enable_grad():
        backbone(pictures()).square().sum().backward()
    trains = {name for name, weight in backbone.named_parameters() if weight.requires_grad}
    assert trains == {name for name, weight in backbone.named_parameters() if weight.grad is not None}
    still = {name.rpartition(".")[2] for name, _ in backbone.named_parameters()} - {
        name.rpartition(".")[2] for name in trains
    }
    assert still == ({"mask_token"} if kind == "dinov2" else set())


@pytest.mark.parametrize("name", PROCESSORS)
def test_pictures_look_as_the_file_beside_the_weights_says(name: str, tmp_path: Path) -> None:
    own_model("vit").save_pretrained(tmp_path)
    processor = getattr(transformers, name)(**PROCESSORS[name])
    processor.save_pretrained(tmp_path)
    backbone = HuggingFaceVision(pretrained=str(tmp_path))
    own = processor(list(pictures()), do_resize=False, do_center_crop=False, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(backbone.normalized(pictures()), own, atol=1e-5, rtol=1e-4)
    assert backbone.preprocessing == CUTS[name]
    again = rebuilt(backbone.rebuild_config)
    assert torch.equal(again.normalized(pictures()), backbone.normalized(pictures()))
    assert again.preprocessing == backbone.preprocessing


def test_pictures_look_as_the_architecture_says_without_such_a_file(tmp_path: Path) -> None:
    backbone = HuggingFaceVision(architecture=architecture("vit"), std=[0.25] * 3)
    assert backbone.preprocessing == Preprocessing(size=(32, 32), resize=32)
    assert (backbone.mean.flatten().tolist(), backbone.std.flatten().tolist()) == ([0.5] * 3, [0.25] * 3)
    assert not backbone.pretrained
    own_model("vit").save_pretrained(tmp_path)
    wanted = Preprocessing(size=(32, 32), resize=36, interpolation="lanczos")
    assert HuggingFaceVision(pretrained=str(tmp_path), preprocessing=wanted).preprocessing == wanted
    any_size = HuggingFaceVision(architecture=architecture("resnet"))
    assert any_size.preprocessing == Preprocessing(size=(224, 224), resize=224)
    assert HuggingFaceVision(architecture=architecture("clip")).preprocessing == backbone.preprocessing


def test_weights_without_an_output_layer_are_whole_and_others_are_not(tmp_path: Path) -> None:
    own_model("convnext", "ConvNextModel").save_pretrained(tmp_path / "base")
    assert HuggingFaceVision(pretrained=str(tmp_path / "base")).pretrained
    model = own_model("vit")
    state = {name: weight for name, weight in model.state_dict().items() if "layers.1" not in name}
    model.save_pretrained(tmp_path / "less", state_dict=state)
    assert not HuggingFaceVision(pretrained=str(tmp_path / "less")).pretrained


def test_parts_have_the_names_of_the_hub() -> None:
    assert {name.split(".")[0] for name in HuggingFaceVision(architecture=architecture("vit")).state_dict()} == {"vit"}


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], "all-linear"])
def test_lora_trains_adapters_over_weights_that_are_given(targets: Any, tmp_path: Path) -> None:
    own_model("vit").save_pretrained(tmp_path)
    source = HuggingFaceVision(pretrained=str(tmp_path)).eval()
    backbone = HuggingFaceVision(pretrained=str(tmp_path), lora=LoRA(rank=2, target_modules=targets)).eval()
    torch.testing.assert_close(backbone(pictures()), source(pictures()), atol=1e-5, rtol=1e-5)
    trained = {name for name, parameter in backbone.named_parameters() if parameter.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    assert backbone.state_dict().keys() - backbone.given == trained
    assert backbone.given_fingerprint
    assert not backbone.pretrained
    for name in trained:
        backbone.get_parameter(name).normal_()
    again = rebuilt(backbone.rebuild_config)
    assert not torch.allclose(again(pictures()), backbone(pictures()), atol=1e-3)
    again.load_state_dict({name: backbone.state_dict()[name] for name in trained}, strict=False)
    assert torch.equal(again(pictures()), backbone(pictures()))


def test_computes_in_bfloat16() -> None:
    backbone = HuggingFaceVision(architecture=architecture("vit")).to(torch.bfloat16).eval()
    assert backbone(pictures()).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("init_args", "message"),
    [
        ({}, "pretrained and architecture are both None"),
        (
            {"architecture": {"model_type": "vitt"}},
            r"model_type \('vitt'\) must be an image classifier of transformers, such as 'vit'; did you mean vit",
        ),
        ({"architecture": {"model_type": "bert"}}, r"model_type \('bert'\) must be an image classifier"),
        (
            {"architecture": architecture("vit") | {"layers": 2}},
            "architecture.layers is no setting of model_type 'vit'",
        ),
        (
            {"architecture": architecture("vit") | {"num_channels": 1}},
            r"architecture.num_channels \(1\) must be 3; .*: --model.backbone.init_args.architecture.num_channels=3",
        ),
        (
            {"architecture": {"model_type": "imagegpt", "n_layer": 1, "n_embd": 8, "n_head": 1}},
            r"model_type \('imagegpt'\) does not work as a picture backbone: ",
        ),
        ({"architecture": architecture("vit"), "lora": LoRA()}, "peft chooses none for 'vit': there are .*q_proj"),
        ({"architecture": architecture("vit"), "mean": [0.5]}, r"mean \(\[0.5\]\) must be 3 numbers"),
        ({"pretrained": "./no/such/dir"}, r"pretrained \('./no/such/dir'\) must be a local directory"),
    ],
)
def test_errors_name_what_to_mend(init_args: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        HuggingFaceVision(**init_args)
    assert "\n" not in str(error.value)


def test_logits_that_are_not_of_one_layer_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"depths": [1, 1, 1, 1], "embed_dims": [8, 8, 8, 8], "image_size": 32}
    with pytest.raises(UserError, match=r"'swiftformer'\) does not work as a picture backbone: "):
        HuggingFaceVision(architecture={"model_type": "swiftformer", **sizes})
    forward = transformers.ViTForImageClassification.forward

    def capped(self: Any, **inputs: Any) -> Any:
        output = forward(self, **inputs)
        output.logits = output.logits.square()
        return output

    monkeypatch.setattr(transformers.ViTForImageClassification, "forward", capped)
    with pytest.raises(UserError, match=r"'vit'\) does not work .*: its logits are not features times a matrix"):
        HuggingFaceVision(architecture=architecture("vit"))


def test_files_beside_the_weights_that_cannot_be_followed_are_refused(tmp_path: Path) -> None:
    own_model("vit").save_pretrained(tmp_path)
    transformers.MobileViTImageProcessor().save_pretrained(tmp_path)
    way_out = r"give --model.backbone.init_args.mean, .*std and .*preprocessing, and it is not read"
    with pytest.raises(UserError, match=rf"preprocessor_config.json of '.*' wants blue, green, red, .*: {way_out}"):
        HuggingFaceVision(pretrained=str(tmp_path))
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(UserError, match=rf"preprocessor_config.json of '.*' cannot be read: .*: {way_out}") as error:
        HuggingFaceVision(pretrained=str(tmp_path))
    assert "\n" not in str(error.value)
    cut = Preprocessing(size=(32, 32), resize=32)
    assert HuggingFaceVision(pretrained=str(tmp_path), mean=[0.5] * 3, std=[0.5] * 3, preprocessing=cut).pretrained


def test_another_size_than_that_of_the_weights_is_refused(tmp_path: Path) -> None:
    own_model("vit").save_pretrained(tmp_path)
    message = r"but settings in architecture make it \(1, 65, 16\): leave these out"
    with pytest.raises(UserError, match=message):
        HuggingFaceVision(pretrained=str(tmp_path), architecture={"image_size": 64})
