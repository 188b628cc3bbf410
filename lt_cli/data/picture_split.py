"""Pictures of any size, decoded and cut out when a batch wants them; what is drawn is a function of epoch and row."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from lt_cli.data.base import Batch, run_seed
from lt_cli.data.decode import decode
from lt_cli.errors import UserError, one_line

SMALLEST = 0.35
"""Least part of a picture's area that a random crop shows; 0.08, as for ImageNet, is for long training."""


@dataclass
class Cut:
    """How pictures are cut out.

    Attributes:
        size: Height and width in pixels; None where nobody has said it yet.
        resize: Shorter side in pixels, of which the middle is then cut out; None for what just covers ``size``.
        interpolation: ``nearest``, ``bilinear``, ``bicubic`` or ``lanczos``.
    """

    size: tuple[int, int] | None = None
    resize: int | None = None
    interpolation: str = "bilinear"

    def middle(self, picture: Tensor) -> Tensor:
        """The middle of a picture, scaled as evaluation sees it.

        Shape:
            - picture: (C, H, W)
            - output: (C, *size)
        """
        assert self.size is not None
        height, width = picture.shape[-2:]
        if (height, width) == self.size and self.resize in (None, min(self.size)):
            return picture
        if self.resize is not None and self.size[0] == self.size[1]:
            wanted = [self.resize]  # torchvision's own rounding, for the same pixels as the weights' transforms
        else:
            factor = (self.resize or min(self.size)) / min(self.size)
            scale = factor * max(self.size[0] / height, self.size[1] / width)
            wanted = [max(self.size[0], round(scale * height)), max(self.size[1], round(scale * width))]
        resized = tv.resize(picture, wanted, v2.InterpolationMode(self.interpolation), antialias=True)
        cropped: Tensor = tv.center_crop(resized, list(self.size))
        return cropped


@contextmanager
def drawn_from(*numbers: int) -> Iterator[None]:
    """Within it, torch draws what follows from the run's seed and these numbers; afterwards all is as it was."""
    seed = run_seed()
    for number in numbers:
        seed = (seed * 1_000_003 + number) % 2**63
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


class PictureSplit:
    """Pictures of one split.

    Args:
        pictures: What ``decode`` takes, by row.
        places: What messages call them.
        cut: How they are cut out; shared, as a backbone says it late.
        transforms: Of a picture (3, H, W), uint8, before that; None for those of training that suit most pictures.
        mix: Makes mixtures of a batch's pictures and labels, or None.
        labels: Targets (N,) or (N, C), or None where they are to be predicted.
    """

    def __init__(
        self,
        pictures: Sequence[Any],
        places: Sequence[str],
        *,
        cut: Cut,
        transforms: Sequence[nn.Module] | None,
        mix: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
        labels: NDArray[Any] | None,
    ) -> None:
        """Decodes nothing yet."""
        self.pictures_of_rows, self.places, self.cut, self.labels = pictures, places, cut, labels
        self.transforms, self.mix = transforms, mix

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.pictures_of_rows)

    def batch(self, rows: Sequence[int], epoch: int) -> Batch:
        """``index`` (B,), ``inputs`` (B, 3, H, W), uint8 unless a transform makes them floats, and ``labels``."""
        batch: Batch = {"index": torch.tensor(rows), "inputs": torch.stack([self._row(row, epoch) for row in rows])}
        if self.labels is not None:
            batch["labels"] = torch.from_numpy(self.labels[np.asarray(rows)])
        if self.mix is not None:
            with drawn_from(epoch, rows[0], len(self)):
                inputs = batch["inputs"]
                inputs = inputs if inputs.is_floating_point() else inputs.float() / 255
                batch["inputs"], batch["labels"] = self.mix(inputs, batch["labels"])
        return batch

    def _row(self, row: int, epoch: int) -> Tensor:
        picture = self.decoded(row)
        if self.transforms == []:
            return self.cut.middle(picture)
        transforms = self._usual() if self.transforms is None else self.transforms
        changed: Any = picture
        with drawn_from(epoch, row):
            for transform in transforms:
                try:
                    changed = transform(changed)
                except Exception as error:  # of any library
                    raise UserError(
                        f"{self.places[row]}: {type(transform).__name__} does not take this picture of "
                        f"{picture.shape[1]} × {picture.shape[2]} pixels ({one_line(error)}): change or leave it out"
                    ) from error
        if not isinstance(changed, Tensor) or changed.ndim != 3 or len(changed) != 3:
            made = tuple(changed.shape) if isinstance(changed, Tensor) else type(changed).__name__
            raise UserError(f"the transforms of pictures must make a tensor (3, H, W), not {made}: leave out the last")
        if changed.is_floating_point() and not 0 <= changed.min() <= changed.max() <= 1:
            raise UserError(
                "the transforms of pictures must make whole numbers up to 255, or floats between 0 and 1, not floats "
                f"from {changed.min():.3g} to {changed.max():.3g}: give ToDtype scale=true, leave out what normalises"
            )
        return self.cut.middle(changed)

    def _usual(self) -> list[nn.Module]:
        """A part by chance, mirrored by chance (Szegedy et al. 2014, https://arxiv.org/abs/1409.4842)."""
        assert self.cut.size is not None
        mode = v2.InterpolationMode(self.cut.interpolation)
        crop = v2.RandomResizedCrop(self.cut.size, scale=(SMALLEST, 1.0), interpolation=mode)
        return [crop, v2.RandomHorizontalFlip()]

    def decoded(self, row: int) -> Tensor:
        """The whole picture of a row, (3, H, W), uint8."""
        picture = self.pictures_of_rows[row]
        try:
            levels = decode(picture() if callable(picture) else picture, None, 3)
        except Exception as error:  # Pillow raises many kinds
            raise UserError(
                f"{self.places[row]} is no readable picture ({one_line(error)}): mend or remove it"
            ) from error
        return torch.from_numpy(np.array(levels)).permute(2, 0, 1)  # as it lies in memory, which scales fastest
