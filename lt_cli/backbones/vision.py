"""What all backbones over pictures share: how pictures are scaled, and models without their output layer."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lt_cli.backbones.base import PooledBackbone, Preprocessing
from lt_cli.backbones.inputs import as_float
from lt_cli.errors import UserError


@dataclass(frozen=True)
class Look:
    """How pictures look to a model.

    Attributes:
        mean: What is subtracted of each channel of pictures in [0, 1].
        std: What each channel is then divided by.
        preprocessing: How pictures are cut out; None where any way will do.
    """

    mean: list[float]
    std: list[float]
    preprocessing: Preprocessing | None = None

    def __post_init__(self) -> None:
        """Checks the numbers."""
        for name, numbers in (("mean", self.mean), ("std", self.std)):
            option = f"--model.backbone.init_args.{name}=[0.5,0.5,0.5]"
            if len(numbers) != 3:
                raise UserError(f"{name} ({numbers}) must be 3 numbers, one for each channel: {option}")
            if name == "std" and not min(numbers) > 0:
                raise UserError(f"std ({numbers}) must be numbers above 0: {option}")

    def but(
        self, mean: list[float] | None, std: list[float] | None, preprocessing: Preprocessing | None = None
    ) -> "Look":
        """This with what is said in place of its own."""
        said = {"mean": mean, "std": std, "preprocessing": preprocessing}
        return replace(self, **{name: value for name, value in said.items() if value is not None})  # type: ignore[arg-type]

    def init_args(self) -> dict[str, Any]:
        """The arguments that say all of it, in plain types."""
        plain: dict[str, Any] = {"mean": [*self.mean], "std": [*self.std]}
        if self.preprocessing is not None:
            plain["preprocessing"] = asdict(self.preprocessing) | {"size": [*self.preprocessing.size]}
        return plain


class PictureBackbone(PooledBackbone):
    """A backbone over pictures, which it scales by itself.

    Attributes:
        mean: What is subtracted of each channel of pictures in [0, 1], (3, 1, 1).
        std: What each channel is then divided by, (3, 1, 1).
    """

    mean: Tensor
    std: Tensor

    def look_at(self, look: Look) -> None:
        """Makes pictures look to it like this; the checkpoint's configuration says it, not its weights."""
        for name, numbers in (("mean", look.mean), ("std", look.std)):
            self.register_buffer(name, torch.tensor(numbers)[:, None, None], persistent=False)
        self.preprocessing = look.preprocessing
        self.to(
            memory_format=torch.channels_last
        )  # in which a step of a convolutional network takes 0.7 to 0.97 of the time

    def normalized(self, inputs: Tensor) -> Tensor:
        """Pictures as its weights want them, in their precision; a grey one has its channel three times.

        Shape:
            - inputs: (B, C, H, W), C = 1 or 3, uint8, or float in [0, 1]
            - output: (B, 3, H, W)

        Raises:
            UserError: If there are no pictures of 1 or 3 channels.
        """
        if inputs.ndim != 4 or inputs.shape[1] not in (1, 3):
            raise UserError(
                f"{type(self).__name__} needs pictures of 1 or 3 channels, (B, C, H, W), not inputs of shape "
                f"{tuple(inputs.shape)}: for other rows use --model.backbone=lt_cli.backbones.mlp.MLP"
            )
        scaled = (as_float(inputs, self.mean.dtype) - self.mean) / self.std
        return scaled.contiguous(memory_format=torch.channels_last)

    @abstractmethod
    def forward(self, inputs: Tensor) -> Tensor:
        """The features of pictures.

        Shape:
            - inputs: (B, C, H, W), C = 1 or 3, uint8, or float in [0, 1]
            - output: (B, D), D = embed_dim
        """


def take_off_output_layer(model: nn.Module) -> tuple[str, nn.Linear | nn.Conv2d]:
    """Puts nothing in the place of a classifier's last layer, so that it gives what that would have read.

    Returns:
        The layer's name and the layer.

    Raises:
        UserError: If it has none.
    """
    parts = [*model.named_modules()]
    linear = [(name, part) for name, part in parts if isinstance(part, nn.Linear)]
    # SqueezeNet's is a convolution, whose maps are averaged behind it
    convolutions = [
        (name, part) for name, part in parts if isinstance(part, nn.Conv2d) and name.startswith("classifier.")
    ]
    layers: Sequence[tuple[str, nn.Linear | nn.Conv2d]] = linear or convolutions
    if not layers:
        raise UserError(f"{type(model).__name__} has no output layer to be taken off")
    name, layer = layers[-1]
    model.set_submodule(name, nn.Identity())
    return name, layer
