"""From pictures to batches of tokens: palettes, tokens and loaders, beside what else can be installed.

    python benchmarks/images.py
    python benchmarks/images.py --set DIRECTORY

Pictures: 1000 smooth random ones of 32 x 32 pixels, or the training pictures of a directory of parquet files, such as a
copy of CIFAR-10 from the Hugging Face hub, which the goals are for. Loaders: tokens of 28 x 28 pixels.
"""

import argparse
import functools
from collections.abc import Callable

import numpy as np
import torch
from interleaved import Report, Row, interleave
from PIL import Image
from torch.utils.data import DataLoader, Dataset, TensorDataset

from lt_cli.data.base import Loader
from lt_cli.data.images import HuggingFaceImages, ImageSet
from lt_cli.data.palette import KMeansPalette
from lt_cli.data.pixels import CropFlip, TokenSplit
from lt_cli.data.quantize import NearestColors
from lt_cli.data.sampler import BatchSampler

NUM_COLORS = 512
NUM_GENERATED = 1000
NUM_ROWS = 10_000  # of loaders
SIDE = 28
BATCH_GOALS = {8: 500_000, 64: 1_500_000}


def generated() -> np.ndarray:
    """Pictures (N, 32, 32, 3), uint8: colours that change slowly over the picture, with some noise."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(NUM_GENERATED, 3, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bicubic")
    noisy = smooth + 0.01 * torch.randn(smooth.shape, generator=generator)
    return (noisy.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def pictures_of(directory: str | None) -> np.ndarray:
    """The pictures that the options ask for."""
    if directory is None:
        return generated()
    images = HuggingFaceImages(path=directory).load("train")
    assert images is not None
    return images.images


def error(images: np.ndarray, centroids: np.ndarray) -> float:
    """Mean over the pixels of the squared distance to the nearest colour, in levels of 0..255."""
    total = 0.0
    nearest = NearestColors(centroids)
    for start in range(0, len(images), 1000):
        some = images[start : start + 1000]
        painted = 255 * centroids.astype(np.float64)[nearest.quantize(some).reshape(-1)]
        total += ((some.reshape(-1, 3) - painted) ** 2).sum()
    return float(total / (images.size // 3))


def mini_batch(images: np.ndarray) -> np.ndarray:
    """The palette of scikit-learn's MiniBatchKMeans, of all pixels, with its own settings."""
    from sklearn.cluster import MiniBatchKMeans

    pixels = images.reshape(-1, 3).astype(np.float32) / 255
    found = MiniBatchKMeans(NUM_COLORS, random_state=0).fit(pixels).cluster_centers_
    return found.astype(np.float32)  # type: ignore[no-any-return]


def argmin_tokens(images: np.ndarray, centroids: np.ndarray) -> torch.Tensor:
    """Tokens by matrix products in float32, some pixels at a time; not exact."""
    colors = torch.from_numpy(centroids)
    lengths = colors.square().sum(1)
    parts = torch.from_numpy(images).reshape(-1, 3).split(2**14)
    return torch.cat([torch.addmm(lengths, part / 255, colors.T, alpha=-2).argmin(1) for part in parts])


class Pictures(Dataset[tuple[torch.Tensor, int]]):
    """Rows as torchvision's own sets give them: a picture of Pillow's, made into a tensor."""

    def __init__(self, pictures: np.ndarray) -> None:
        """Keeps the pictures (N, H, W)."""
        from torchvision.transforms import ToTensor

        self.pictures, self.transform = pictures, ToTensor()

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.pictures)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        """One picture and its label."""
        return self.transform(Image.fromarray(self.pictures[row])), 0


def tokens_of_rows() -> np.ndarray:
    """Random tokens (N, H * W), uint8."""
    return np.random.default_rng(0).integers(0, 256, (NUM_ROWS, SIDE * SIDE), dtype=np.uint8)


def our_loader(batch_size: int, *, augmented: bool) -> Callable[[], object]:
    """An epoch of batches."""
    images = ImageSet(np.zeros((NUM_ROWS, 1, 1, 1), np.uint8), np.zeros(NUM_ROWS, np.int64), ["any"])
    augment = CropFlip(num_rows=NUM_ROWS, padding=4, flip=True, seed=0) if augmented else None
    order = BatchSampler(
        num_rows=NUM_ROWS, batch_size=batch_size, shuffle=True, even=True, seed=0, rank=0, world_size=1
    )
    loader = Loader(TokenSplit(tokens_of_rows(), images, (SIDE, SIDE), augment), order)
    return functools.partial(_exhaust, loader)


def tensor_loader(batch_size: int) -> Callable[[], object]:
    """An epoch of the same tokens by torch's own loader."""
    dataset = TensorDataset(torch.from_numpy(tokens_of_rows()), torch.zeros(NUM_ROWS, dtype=torch.long))
    return functools.partial(_exhaust, DataLoader(dataset, batch_size=batch_size, shuffle=True))


def picture_loader(batch_size: int) -> Callable[[], object]:
    """An epoch of pictures as torchvision's own sets give them."""
    dataset = Pictures(tokens_of_rows().reshape(-1, SIDE, SIDE))
    return functools.partial(_exhaust, DataLoader(dataset, batch_size=batch_size, shuffle=True))


def _exhaust(loader: Loader | DataLoader[tuple[torch.Tensor, ...]] | DataLoader[tuple[torch.Tensor, int]]) -> None:
    for _ in loader:
        pass


def measure_palette(report: Report, images: np.ndarray) -> np.ndarray:
    """Our palette beside scikit-learn's, which takes so long that once must do."""
    palette = KMeansPalette(num_colors=NUM_COLORS)
    found: dict[str, np.ndarray] = {}
    ours = interleave({"KMeansPalette": lambda: found.update(ours=palette.fit(images))}, rounds=3)
    theirs = interleave({"MiniBatchKMeans": lambda: found.update(theirs=mini_batch(images))}, rounds=1, warmup=0)
    what = f"palette of {len(images):,} pictures"
    report.at_most(what, ours["KMeansPalette"], 2, "s")
    report.faster(what, ours | theirs, "KMeansPalette", "MiniBatchKMeans", 5)
    errors = {name: error(images, centroids) for name, centroids in found.items()}
    ratio = errors["theirs"] / errors["ours"]
    texts = [f"{errors[name]:.1f}" for name in ("ours", "theirs")]
    report.add(Row("its mean squared error", texts[0], "MiniBatchKMeans", texts[1], ratio, "≥ 1.11×", ratio >= 1 / 0.9))
    return found["ours"]


def measure_tokens(report: Report, images: np.ndarray, centroids: np.ndarray) -> None:
    """The table, and pictures that it is there for."""
    levels = np.arange(0, 256, 16, dtype=np.uint8)
    one_of_each_cell = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, 64, 64, 3)
    some, few = images[:10_000], images[:200]
    nearest = NearestColors(centroids)
    nearest.quantize(one_of_each_cell)
    contestants = {
        "table": lambda: NearestColors(centroids).quantize(one_of_each_cell),
        "lt_cli": lambda: nearest.quantize(some),
        "products and argmin": lambda: argmin_tokens(few, centroids),
    }
    seconds = interleave(contestants, report.rounds)
    seconds["products and argmin"] *= len(some) / len(few)
    report.at_most(f"table of {NUM_COLORS} colours, whole", seconds["table"], 2.5, "s")
    report.at_least("pictures to tokens", len(some) / seconds["lt_cli"], 100_000, "images/s")
    report.faster(f"{len(some):,} pictures to tokens", seconds, "lt_cli", "products and argmin", 20)


def measure_loaders(report: Report) -> None:
    """Batches of tokens, with and without crops and flips."""
    for batch_size, goal in BATCH_GOALS.items():
        contestants = {
            "lt_cli": our_loader(batch_size, augmented=False),
            "cropped": our_loader(batch_size, augmented=True),
            "DataLoader of TensorDataset": tensor_loader(batch_size),
            "DataLoader of Pillow, ToTensor": picture_loader(batch_size),
        }
        seconds = interleave(contestants, report.rounds)
        what = f"batches of {batch_size}"
        report.at_least(what, NUM_ROWS / seconds["lt_cli"], goal, "images/s")
        report.at_least(f"{what}, crop and flip", NUM_ROWS / seconds["cropped"], goal / 4, "images/s")
        report.faster(f"{what}, an epoch", seconds, "lt_cli", "DataLoader of TensorDataset", 2)
        report.faster(f"{what}, an epoch", seconds, "lt_cli", "DataLoader of Pillow, ToTensor", 10)


def main() -> None:
    """All rows."""

    def add_options(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--set", metavar="DIRECTORY", help="parquet files with pictures of one size")

    report = Report("images", (__doc__ or "").partition("\n")[0], add_options)
    images = pictures_of(report.arguments.set)
    measure_loaders(report)
    measure_tokens(report, images, measure_palette(report, images))
    report.finish()


if __name__ == "__main__":
    main()
