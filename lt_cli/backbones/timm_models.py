"""Models of timm without their output layer."""

from math import floor
from typing import Any

import torch
from torch import Tensor, nn

from lt_cli.backbones.base import Preprocessing
from lt_cli.backbones.vision import Look, PictureBackbone
from lt_cli.backbones.weights_file import OPTION, SUFFIXES, is_file, load_weights, read_weights
from lt_cli.errors import UserError, did_you_mean, one_line

PRETRAINED = "pretrained"
"""What ``weights`` are called that timm has itself."""


class TimmBackbone(PictureBackbone):
    """Any model of timm, https://huggingface.co/docs/timm: ResNets, vision transformers, ConvNeXts and so on.

    Its features are what timm gives where there are no classes, which is what the output layer would have read.

    Args:
        name: Of the model there, such as ``resnet50`` or, with the tag of its weights, ``resnet50.a1_in1k``.
        weights: ``pretrained`` for those that timm has under the name, which are fetched once; or a file of weights
            with timm's names for them, .pth or .safetensors, with an output layer or without; None draws them at
            random.
        mean: Of each channel of pictures in [0, 1]; None for that of timm's weights.
        std: Deviation of each channel; None as for ``mean``.
        preprocessing: How it wants pictures to be cut out; None as for ``mean``. Models for one size only, such as
            vision transformers, are built for this one.

    Shape:
        - inputs: (B, C, H, W), C = 1 or 3, uint8, or float in [0, 1]
        - output: (B, D), D = embed_dim

    Raises:
        UserError: If there is no such model, its weights cannot be loaded, or it makes no feature of a picture.
    """

    def __init__(
        self,
        *,
        name: str,
        weights: str | None = None,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        preprocessing: Preprocessing | None = None,
    ) -> None:
        """Builds the model, and loads its weights if there are any."""
        super().__init__()
        settings = _settings(name)
        _check_weights(name, weights)
        look = _look(settings).but(mean, std, preprocessing)
        self.model = _build(name, settings, weights == PRETRAINED, look)
        if weights not in (None, PRETRAINED):
            off = [settings.classifier] if isinstance(settings.classifier, str) else settings.classifier or ()
            load_weights(self.model, read_weights(weights), path=weights, name=name, without=off)
        self.pretrained = weights is not None
        self.look_at(look)
        self.embed_dim = self._width(name)
        self.rebuild_config = {
            "class_path": f"{type(self).__module__}.{type(self).__name__}",
            "init_args": {"name": name, "weights": None, **look.init_args()},
        }

    @torch.no_grad()
    def _width(self, name: str) -> int:
        """Of the features, tried out, as timm's own number is that of the maps before a head's other layers."""
        assert self.preprocessing is not None
        size = self.preprocessing.size
        self.eval()
        try:
            features = self(torch.zeros(1, 3, *size, dtype=self.mean.dtype, device=self.mean.device))
        except Exception as error:  # of any of a thousand models
            raise UserError(_unfit(name, size, error)) from error
        self.train()
        if not (isinstance(features, Tensor) and features.ndim == 2):
            made = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise UserError(
                f"name ({name!r}) must be a model that makes a feature (1, embed_dim) of a picture, not {made}: "
                "--model.backbone.init_args.name=NAME"
            )
        return int(features.shape[1])

    def forward(self, inputs: Tensor) -> Tensor:
        """See PictureBackbone."""
        features: Tensor = self.model(self.normalized(inputs))
        return features


def _settings(name: str) -> Any:
    """What timm knows of the weights of this name."""
    import timm

    option = "--model.backbone.init_args.name=NAME"
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        known = timm.list_models()
        raise UserError(
            f"name ({name!r}) must be a model of timm, such as 'resnet50': {option}{did_you_mean(architecture, known)}"
        )
    tagged = timm.list_pretrained(f"{architecture}.*")
    if tag and name not in tagged:
        choice = ", ".join(tagged) or architecture
        raise UserError(f"name ({name!r}) must be one of {choice}: {option}{did_you_mean(name, tagged)}")
    return timm.get_pretrained_cfg(name)


def _check_weights(name: str, weights: str | None) -> None:
    import timm

    choices = f"null, {PRETRAINED}, or a file that ends in {', '.join(SUFFIXES)}"
    if weights == PRETRAINED and not timm.is_model_pretrained(name):
        raise UserError(f"weights ({weights!r}) must be a file or null for {name}, of which timm has none: {OPTION}")
    if weights not in (None, PRETRAINED) and not is_file(weights):
        raise UserError(
            f"weights ({weights!r}) must be {choices}: --model.backbone.init_args.weights={PRETRAINED}"
            f"{did_you_mean(weights, [PRETRAINED])}"
        )


def _look(settings: Any) -> Look:
    """How pictures look to timm's weights."""
    from timm.data import resolve_data_config

    wanted = resolve_data_config(pretrained_cfg=settings.to_dict())
    height, width = wanted["input_size"][1:]
    cut = Preprocessing(
        size=(height, width),
        resize=floor(min(height, width) / wanted["crop_pct"]),
        interpolation=wanted["interpolation"],
    )
    return Look([*wanted["mean"]], [*wanted["std"]], cut)


def _build(name: str, settings: Any, pretrained: bool, look: Look) -> nn.Module:
    import timm

    assert look.preprocessing is not None
    size, options = look.preprocessing.size, dict[str, Any]()
    if settings.fixed_input_size and tuple(size) != tuple(settings.input_size[1:]):
        options["img_size"] = tuple(size)
    try:
        model: nn.Module = timm.create_model(name, pretrained=pretrained, num_classes=0, **options)
    except Exception as error:  # of any of a thousand models, or of the hub
        if options and isinstance(error, AssertionError | TypeError | ValueError):
            raise UserError(_unfit(name, size, error)) from error
        source = settings.hf_hub_id or settings.url
        raise UserError(
            f"weights ({PRETRAINED!r}) of {name} cannot be fetched: {one_line(error)}: download them from {source} "
            f"on a machine with a network, and give the file: {OPTION}"
        ) from error
    return model


def _unfit(name: str, size: tuple[int, int], error: Exception) -> str:
    return (
        f"{name} does not take pictures of preprocessing.size ({[*size]}): {one_line(error)}: "
        "leave --model.backbone.init_args.preprocessing out"
    )
