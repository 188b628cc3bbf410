"""Image classifiers of Hugging Face transformers without their output layer."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lt_cli.backbones.base import Interpolation, Preprocessing
from lt_cli.backbones.hf_base import HuggingFaceModel
from lt_cli.backbones.hf_build import user_error
from lt_cli.backbones.lora import LoRA
from lt_cli.backbones.vision import Look, PictureBackbone, take_off_output_layer
from lt_cli.errors import UserError, one_line

INTERPOLATIONS: dict[int, Interpolation] = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Those of pillow, which image processors say by their numbers."""

WHOLE = 384
"""From how many pixels on ConvNeXt's pictures are not cut."""

OPTIONS = "--model.backbone.init_args."


class HuggingFaceVision(HuggingFaceModel, PictureBackbone):
    """Any image classifier of transformers, https://huggingface.co/docs/transformers: ViT, ConvNeXt, Swin and so on.

    Its features are what the output layer would have read. Weights that they do not depend on, such as the mask of
    DINOv2, do not train.

    Args:
        pretrained: Name on the Hugging Face hub or local directory of the weights; None draws them at random.
        architecture: Settings of transformers' configuration, by their names there. With ``pretrained``, those to
            change in it; without, ``model_type`` and what differs from its defaults.
        lora: Trains low-rank adapters and keeps all other weights as they are; None trains all weights.
        mean: Of each channel of pictures in [0, 1]; None for what the preprocessor_config.json beside the weights
            says, or 0.5 where there is none.
        std: Deviation of each channel; None as for ``mean``.
        preprocessing: How it wants pictures to be cut out; None as for ``mean``, or for the architecture's image_size
            where there is no such file.

    Shape:
        - inputs: (B, C, H, W), C = 1 or 3, uint8, or float in [0, 1]
        - output: (B, D), D = embed_dim

    Raises:
        UserError: If no such model can be built or loaded, or its logits are not of a linear layer on features.
    """

    role = "a picture backbone"
    kind = "an image classifier of transformers, such as 'vit'"
    size_settings = "settings in architecture"

    def __init__(
        self,
        *,
        pretrained: str | None = None,
        architecture: dict[str, Any] | None = None,
        lora: LoRA | None = None,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        preprocessing: Preprocessing | None = None,
    ) -> None:
        """Builds the model, and loads its weights if there are any."""
        from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES as MODELS

        names = {kind: name if isinstance(name, str) else name[0] for kind, name in MODELS.items()}
        super().__init__(names, pretrained, architecture, {}, lora)
        size = _size(self.hf_model.config)
        look = Look([0.5] * 3, [0.5] * 3, Preprocessing(size=size, resize=min(size)))
        if pretrained is not None and None in (mean, std, preprocessing):
            look = _look(pretrained) or look
        look = look.but(mean, std, preprocessing)
        self.look_at(look)
        self.rebuild_config["init_args"] |= look.init_args()
        self.train()  # from_pretrained returns eval mode, and Lightning would keep it

    def _fit(self, model: Any, drawn: set[str]) -> set[str]:
        """Takes the output layer off, and checks that it made the logits of what is now the output.

        Weights also move to where new ones would lie: convolutions round others, which a file holds at any address.
        """
        for weight in model.parameters():
            weight.data = weight.data.clone()
        config = model.config
        if (channels := getattr(config, "num_channels", 3)) != 3:
            raise UserError(
                f"architecture.num_channels ({channels}) must be 3; a grey picture's channel is read three times: "
                f"{OPTIONS}architecture.num_channels=3"
            )
        with user_error(f"model_type ({config.model_type!r}) does not work as {self.role}"):
            model.eval()
            height, width = _size(config)
            picture = torch.linspace(0, 1, 3 * height * width).view(1, 3, height, width)
            with torch.no_grad():
                logits = model(pixel_values=picture).logits
            _, layer = take_off_output_layer(model)
            with torch.enable_grad():
                features = model(pixel_values=picture).logits
                _rest_unread(model, features)
            agrees = isinstance(layer, nn.Linear) and features.shape == (1, layer.in_features)
            if not agrees or (layer(features) - logits).abs().max() > 1e-3 * logits.abs().max():
                raise UserError("its logits are not features times a matrix")
            assert isinstance(layer, nn.Linear)
        self.embed_dim = layer.in_features
        return {name for name in model.state_dict() if name in drawn}

    def forward(self, inputs: Tensor) -> Tensor:
        """See PictureBackbone."""
        features: Tensor = self.hf_model(pixel_values=self.normalized(inputs)).logits
        return features


def _rest_unread(model: Any, features: Tensor) -> None:
    """Lets weights that the features do not depend on not train, as their gradients would be waited for under DDP."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    gradients = torch.autograd.grad(features.sum(), weights, allow_unused=True)
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.requires_grad_(gradient is not None)


def _size(config: Any) -> tuple[int, int]:
    """Height and width of the pictures that an architecture is for; 224 where it says none, as any will do."""
    nested = getattr(config, "vision_config", None)
    said: Any = getattr(config, "image_size", None) or getattr(nested, "image_size", None) or 224
    height, width = (said, said) if isinstance(said, int) else said
    return height, width


def _look(pretrained: str) -> Look | None:
    """How pictures look to weights, as the file beside them says; None where a directory has no such file."""
    from transformers import AutoImageProcessor

    name = "preprocessor_config.json"
    if Path(pretrained).is_dir() and not (Path(pretrained) / name).exists():
        return None
    way_out = f"give {OPTIONS}mean, {OPTIONS}std and {OPTIONS}preprocessing, and it is not read"
    try:
        wanted = AutoImageProcessor.from_pretrained(pretrained)
        found = Look(*_scale(wanted), _cut(wanted))
    except Exception as error:  # of a broken file, or of one that says things in its own way
        raise UserError(f"{name} of {pretrained!r} cannot be read: {one_line(error)}: {way_out}") from error
    if getattr(wanted, "do_flip_channel_order", False):
        raise UserError(
            f"{name} of {pretrained!r} wants blue, green, red, where pictures here are red, green, blue: {way_out}"
        )
    return found


def _scale(wanted: Any) -> tuple[list[float], list[float]]:
    """Mean and deviation that make of pictures in [0, 1] what an image processor makes of those in [0, 255]."""
    factor = 255 * (wanted.rescale_factor if wanted.do_rescale else 1)
    offset = 1 if getattr(wanted, "rescale_offset", False) else 0  # EfficientNet may scale to [-1, 1]
    mean, std = (wanted.image_mean, wanted.image_std) if wanted.do_normalize else ([0.0] * 3, [1.0] * 3)
    twice = bool(getattr(wanted, "include_top", False))  # as EfficientNet does too, the second time without the mean
    return [(m + offset) / factor for m in mean], [s ** (1 + twice) / factor for s in std]


def _cut(wanted: Any) -> Preprocessing:
    """Where an image processor cuts; what it squeezes into a square is cut out here."""
    size, share = wanted.size, getattr(wanted, "crop_pct", None) or 1
    resize = int(size.shortest_edge or min(size.height, size.width))
    cut = wanted.crop_size if wanted.do_center_crop else size
    height, width = cut.height or resize, cut.width or resize
    if share != 1 and resize < WHOLE:
        resize = int(resize / share)
    return Preprocessing(
        size=(height, width), resize=resize, interpolation=INTERPOLATIONS.get(int(wanted.resample), "bilinear")
    )
