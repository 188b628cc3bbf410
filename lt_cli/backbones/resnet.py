"""A residual network for small pictures."""

import torch.nn.functional as F
from torch import Tensor, nn

from lt_cli.backbones.vision import Look, PictureBackbone
from lt_cli.errors import UserError


class ResNet(PictureBackbone):
    """Residual network for small pictures (He et al. 2015, https://arxiv.org/abs/1512.03385, section 4.2).

    A 3x3 convolution that keeps the pictures' size, stages of blocks of two 3x3 convolutions, each stage but the
    first at half the size of the one before it, and the mean over all that is left. The defaults are ResNet-18.

    Args:
        widths: Channels of each stage, at least 1; the last is the width of the features.
        blocks: Blocks in each stage, at least 1.
        mean: Of each channel of pictures in [0, 1]; by default CIFAR-10's.
        std: Deviation of each channel; by default CIFAR-10's.

    Shape:
        - inputs: (B, C, H, W), C = 1 or 3, uint8, or float in [0, 1]
        - output: (B, D), D = embed_dim

    Raises:
        UserError: If a number is out of its range, or there are not as many widths as numbers of blocks.
    """

    def __init__(
        self,
        *,
        widths: list[int] = [64, 128, 256, 512],  # noqa: B006  # never written to
        blocks: list[int] = [2, 2, 2, 2],  # noqa: B006  # never written to
        mean: list[float] = [0.4914, 0.4822, 0.4465],  # noqa: B006  # never written to
        std: list[float] = [0.2470, 0.2435, 0.2616],  # noqa: B006  # never written to
    ) -> None:
        """Builds the stages."""
        super().__init__()
        for name, numbers in (("widths", widths), ("blocks", blocks)):
            if min(numbers, default=0) < 1:
                raise UserError(
                    f"{name} ({numbers}) must be one number of at least 1 for each stage: "
                    f"--model.backbone.init_args.{name}=[2,2]"
                )
        if len(widths) != len(blocks):
            raise UserError(
                f"widths ({widths}) must be as many as blocks ({blocks}), one for each stage: "
                "--model.backbone.init_args.widths=[64,128] --model.backbone.init_args.blocks=[2,2]"
            )
        self.embed_dim = widths[-1]
        self.stem = nn.Sequential(_convolution(3, widths[0]), nn.BatchNorm2d(widths[0]), nn.ReLU())
        before = [widths[0], *widths]
        self.stages = nn.ModuleList(
            nn.Sequential(
                _Block(before[stage], width, stride=2 if stage else 1),
                *(_Block(width, width) for _ in range(blocks[stage] - 1)),
            )
            for stage, width in enumerate(widths)
        )
        self._initialise()
        self.look_at(Look([*mean], [*std]))

    def _initialise(self) -> None:
        """Convolutions as ReLU wants them; each block at first adds nothing, which trains more steadily.

        See He et al. 2015, https://arxiv.org/abs/1502.01852, and Goyal et al. 2017, https://arxiv.org/abs/1706.02677.
        """
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            if isinstance(part, _Block):
                nn.init.zeros_(part.norm2.weight)

    def forward(self, inputs: Tensor) -> Tensor:
        """See PictureBackbone."""
        x = self.stem(self.normalized(inputs))
        for stage in self.stages:
            x = stage(x)
        features: Tensor = x.mean((2, 3))
        return features


class _Block(nn.Module):
    """Two convolutions beside a shortcut, which is one too where the shape changes."""

    def __init__(self, before: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = _convolution(before, width, stride=stride)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = _convolution(width, width)
        self.norm2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential()
        if stride != 1 or before != width:
            self.shortcut.extend([_convolution(before, width, size=1, stride=stride), nn.BatchNorm2d(width)])

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, H, W) to (B, width, H / stride, W / stride)."""
        y = F.relu(self.norm1(self.conv1(x)), inplace=True)
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x), inplace=True)


def _convolution(before: int, width: int, size: int = 3, stride: int = 1) -> nn.Conv2d:
    """Keeps the size of what it sees but for its stride; the norm behind it has the bias."""
    return nn.Conv2d(before, width, size, stride=stride, padding=size // 2, bias=False)
