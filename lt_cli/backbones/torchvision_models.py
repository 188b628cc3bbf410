"""Classifiers of torchvision without their output layer."""

import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lt_cli.backbones.base import Preprocessing
from lt_cli.backbones.vision import Look, PictureBackbone, take_off_output_layer
from lt_cli.backbones.weights_file import OPTION, SUFFIXES, is_file, load_weights, read_weights
from lt_cli.errors import UserError, did_you_mean, one_line

AUXILIARY = {"googlenet": ("aux1", "aux2"), "inception_v3": ("AuxLogits",)}
"""Models with more than one output layer, and the names of the others."""

DENSE_LAYER = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..*)$")
"""A name as the files of DenseNet still have it, with a dot that the model's names have lost."""


class TorchvisionBackbone(PictureBackbone):
    """Any classifier of torchvision, https://docs.pytorch.org/vision/stable/models.html#classification.

    Its features are what the output layer would have read; those of SqueezeNet, whose output layer is a convolution,
    are the means of the maps that it would have read.

    Args:
        name: Of the model there, such as ``resnet18``.
        weights: Name of torchvision's own weights for it, such as ``DEFAULT`` or ``IMAGENET1K_V2``, which are fetched
            once; or a file of weights, .pth or .safetensors, with an output layer or without; None draws them at
            random.
        mean: Of each channel of pictures in [0, 1]; None for that of the weights, or of torchvision's default ones
            where these are random, or a file whose name is none of theirs.
        std: Deviation of each channel; None as for ``mean``.
        preprocessing: How it wants pictures to be cut out; None as for ``mean``. Vision transformers are built for
            its size.

    Shape:
        - inputs: (B, C, H, W), C = 1 or 3, uint8, or float in [0, 1]
        - output: (B, D), D = embed_dim

    Raises:
        UserError: If there is no such model, or its weights cannot be loaded.
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
        from torchvision import models

        super().__init__()
        known = models.list_models(module=models)
        if name not in known:
            raise UserError(
                f"name ({name!r}) must be a classifier of torchvision, such as 'resnet18': "
                f"--model.backbone.init_args.name=NAME{did_you_mean(name, known)}"
            )
        choices = models.get_model_weights(name)
        named = _named(choices, name, weights)
        look = _look(named or _origin(choices, weights), name).but(mean, std, preprocessing)
        self.model = _build(name, named, look, weights)
        layer_name, layer = take_off_output_layer(self.model)
        if weights is not None and named is None:
            off = [layer_name, *AUXILIARY.get(name, ())]
            load_weights(self.model, _renamed(read_weights(weights)), path=weights, name=name, without=off)
        self.pretrained = weights is not None
        self.embed_dim = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
        self.look_at(look)
        self.rebuild_config = {
            "class_path": f"{type(self).__module__}.{type(self).__name__}",
            "init_args": {"name": name, "weights": None, **look.init_args()},
        }

    def forward(self, inputs: Tensor) -> Tensor:
        """See PictureBackbone."""
        features: Tensor = self.model(self.normalized(inputs))
        return features


def _named(choices: Any, name: str, weights: str | None) -> Any:
    """Torchvision's weights of this name, or None where the weights are a file, or there are none."""
    if weights is None or weights in choices.__members__:
        return None if weights is None else choices[weights]
    if is_file(weights):
        return None
    raise UserError(
        f"weights ({weights!r}) must be one of {', '.join(choices.__members__)} of {name}, or a file that ends in "
        f"{', '.join(SUFFIXES)}: --model.backbone.init_args.weights=DEFAULT"
        f"{did_you_mean(weights, choices.__members__)}"
    )


def _origin(choices: Any, weights: str | None) -> Any:
    """Those of torchvision's weights that a file has the name of, else its default ones."""
    file = None if weights is None else Path(weights).name
    return next((choice for choice in choices if choice.url.rpartition("/")[2] == file), choices.DEFAULT)


def _look(weights: Any, name: str) -> Look:
    """How pictures look to torchvision's weights."""
    wanted = weights.transforms()
    (crop,), (resize,) = wanted.crop_size, wanted.resize_size
    preprocessing = Preprocessing(size=(crop, crop), resize=resize, interpolation=wanted.interpolation.value)
    if name in AUXILIARY:  # they undo the scaling and do their own, as transform_input says
        return Look([0.5] * 3, [0.5] * 3, preprocessing)
    return Look([*wanted.mean], [*wanted.std], preprocessing)


def _build(name: str, weights: Any, look: Look, said: str | None) -> nn.Module:
    """The whole model, with torchvision's weights, of which the user said the name, or none."""
    from torchvision import models

    assert look.preprocessing is not None
    size, options = look.preprocessing.size, dict[str, Any]()
    if name in AUXILIARY:
        options |= {"aux_logits": False} | ({"init_weights": True} if weights is None else {})
    if name.startswith("vit_"):
        if size[0] != size[1]:
            raise UserError(
                f"preprocessing.size ({[*size]}) must be a square for {name}: "
                f"--model.backbone.init_args.preprocessing.size=[{size[0]},{size[0]}]"
            )
        options["image_size"] = size[0]
    if name.startswith("maxvit_"):
        options["input_size"] = [*size]
    try:
        model = models.get_model(name, weights=weights, **options)
    except (AssertionError, ValueError) as error:
        raise UserError(
            f"{name} cannot be built for preprocessing.size ({[*size]}): {one_line(error)}: leave "
            "--model.backbone.init_args.preprocessing out"
        ) from error
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"weights ({said!r}) of {name} cannot be fetched: {one_line(error)}: download {weights.url} "
            f"on a machine with a network, and give the file: {OPTION}"
        ) from error
    if name in AUXILIARY:
        model.transform_input = False
    built: nn.Module = model
    return built


def _renamed(weights: "OrderedDict[str, Tensor]") -> "OrderedDict[str, Tensor]":
    """Of DenseNet, by the names that the model has."""
    for key in [key for key in weights if DENSE_LAYER.match(key)]:
        weights[DENSE_LAYER.sub(r"\1\2", key)] = weights.pop(key)
    return weights
