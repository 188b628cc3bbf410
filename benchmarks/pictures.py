"""Pictures with labels beside torchvision's ImageFolder: decoded, augmented and stacked; a step in channels last.

    python benchmarks/pictures.py

Files made at random: of photographs' size (500 by 375, .jpg, a random part scaled to 224 by 224 and mirrored) and of
CIFAR-10's (32 by 32, .png, a random crop of the padded picture, mirrored). The step is MobileNetV2's on 16 pictures of
96 by 96.
"""

import contextlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from interleaved import Report, interleave
from PIL import Image
from torch import nn
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from lt_cli.backbones.torchvision_models import TorchvisionBackbone
from lt_cli.data.image_rows import ClassFolders
from lt_cli.data.labeled_images import LabeledImages
from lt_cli.data.picture_split import SMALLEST

NUMBER = 64
"""Pictures of a batch."""


def make(folder: str, suffix: str, size: tuple[int, int]) -> None:
    """Blurred random colours, in two classes."""
    draws = np.random.default_rng(0)
    for i in range(2 * NUMBER):
        path = Path(folder, "ab"[i % 2], f"{i}{suffix}")
        path.parent.mkdir(parents=True, exist_ok=True)
        colours = draws.integers(256, size=(12, 16, 3), dtype=np.uint8)
        Image.fromarray(colours).resize(size, Image.Resampling.BICUBIC).save(path)


def batches(folder: str, size: int, transforms: list[nn.Module]) -> dict[str, Callable[[], Any]]:
    """The same batch, ours and torchvision's."""
    data = LabeledImages(source=ClassFolders(folder), size=(size, size), train_transforms=transforms)
    data.setup("fit")
    split = data.splits["train"]
    theirs = ImageFolder(folder, transform=v2.Compose([*transforms, v2.PILToTensor()]))
    return {
        "lt_cli": lambda: split.batch(range(NUMBER), 0),
        "ImageFolder": lambda: torch.stack([theirs[i][0] for i in range(NUMBER)]),
    }


def steps() -> dict[str, Callable[[], Any]]:
    """Forward and backward, as we do it and with torch's usual layout in memory."""

    def step(backbone: TorchvisionBackbone, layout: torch.memory_format) -> Callable[[], Any]:
        model = backbone.to(memory_format=layout).model
        pictures = torch.rand(16, 3, 96, 96).contiguous(memory_format=layout)
        return lambda: model(pictures).sum().backward()

    ours, other = (TorchvisionBackbone(name="mobilenet_v2") for _ in range(2))
    return {"lt_cli": step(ours, torch.channels_last), "channels first": step(other, torch.contiguous_format)}


def main() -> None:
    """The three claims."""
    report = Report("pictures", (__doc__ or "").partition("\n")[0])
    flip = v2.RandomHorizontalFlip()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        make("photographs", ".jpg", (500, 375))
        make("small", ".png", (32, 32))
        crops: dict[str, tuple[str, int, nn.Module]] = {
            "64 photographs": ("photographs", 224, v2.RandomResizedCrop(224, scale=(SMALLEST, 1.0))),
            "64 small pictures": ("small", 32, v2.RandomCrop(32, padding=4, padding_mode="reflect")),
        }
        for name, (place, size, crop) in crops.items():
            seconds = interleave(batches(place, size, [crop, flip]), report.rounds)
            report.faster(name, seconds, "lt_cli", "ImageFolder", 1.0)
    report.faster("a step of MobileNetV2", interleave(steps(), report.rounds), "lt_cli", "channels first", 1.0)
    report.finish()


if __name__ == "__main__":
    main()
