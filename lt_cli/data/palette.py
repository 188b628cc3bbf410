"""Which colours pictures are painted with: a palette chooses them, as a plain array.

Shapes: N pictures, H x W pixels, C channels (1 grey, 3 RGB), K colours.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

import numpy as np

from lt_cli.data.cache import cached
from lt_cli.data.mapped import ManyPictures
from lt_cli.data.quantize import MAX_COLORS, color_codes
from lt_cli.errors import UserError


class Palette(ABC):
    """A way to choose the colours that pictures are painted with; what it chooses is kept by the caller.

    Attributes:
        num_colors: Number of colours, or None where a file says it.
        learned: Whether ``fit`` looks at the pictures' pixels, so that its result is worth keeping. Where it does
            not, a blank picture may stand for pictures of which there are too many for memory.
        version: Raised when the same arguments come to give other colours, so that kept ones are not used.
    """

    num_colors: int | None = None
    learned: ClassVar[bool] = False
    version: ClassVar[int] = 1

    @abstractmethod
    def fit(self, images: np.ndarray) -> np.ndarray:
        """Chooses the colours for these training pictures.

        Shape:
            - images: (N, H, W, C), uint8
            - output: (K, C), float32 in [0, 1]
        """


class GreyLevels(Palette):
    """Evenly spaced grey levels from black to white.

    Args:
        num_colors: Number of levels; 2 to 256.
    """

    def __init__(self, *, num_colors: int = 16) -> None:
        """Checks the number."""
        if not 2 <= num_colors <= 256:
            raise UserError(f"num_colors ({num_colors}) must be from 2 to 256")
        self.num_colors: int = num_colors

    def fit(self, images: np.ndarray) -> np.ndarray:
        """The levels, whatever the pictures; these must be grey.

        Raises:
            UserError: If the pictures have colours.
        """
        if images.shape[-1] != 1:
            raise UserError(f"GreyLevels needs pictures of 1 channel, these have {images.shape[-1]}: use KMeansPalette")
        return np.linspace(0, 1, self.num_colors, dtype=np.float32)[:, None]


class KMeansPalette(Palette):
    """K-means of the training pixels, as Image GPT uses (Chen et al. 2020), from darkest to lightest.

    Pictures of more than 262 144 distinct colours are first reduced to the means of 4x4x4 neighbouring ones; where
    there are many, what is found for the means of 8x8x8 is the first guess.

    Args:
        num_colors: Number of colours; 1 to 32 768.
        seed: Seed of the first guess.
    """

    learned = True
    version = 2

    def __init__(self, *, num_colors: int = 512, seed: int = 0) -> None:
        """Checks the number."""
        if not 1 <= num_colors <= MAX_COLORS:
            raise UserError(f"num_colors ({num_colors}) must be from 1 to {MAX_COLORS}")
        if not 0 <= seed < 2**32:
            raise UserError(f"seed ({seed}) must be from 0 to {2**32 - 1}")
        self.num_colors: int = num_colors
        self.seed = seed

    def fit(self, images: np.ndarray) -> np.ndarray:
        """Clusters the distinct colours, weighted by how often they occur.

        Raises:
            UserError: If the pictures have fewer distinct colours than ``num_colors``.
        """
        from sklearn.cluster import KMeans
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        channels = images.shape[-1]
        counts = np.zeros(256**channels, np.int64)
        for _, codes in color_codes(images):
            np.add.at(counts, codes, 1)
        codes = np.flatnonzero(counts)
        if len(codes) < self.num_colors:
            raise UserError(f"num_colors ({self.num_colors}) must be at most {len(codes)}: there are no more colours")
        colors = np.stack([(codes >> shift).astype(np.uint8) for shift in range(8 * channels - 8, -1, -8)])
        weights = counts[codes].astype(np.float64)
        if len(codes) > max(2**18, 64 * self.num_colors):
            colors, weights = _means(colors, weights, bits=6)
        with threadpool_limits(1):  # threads add in any order, and so differ in the last digits
            kmeans = KMeans(self.num_colors, n_init=10 if channels == 1 else 1, max_iter=20, random_state=self.seed)
            coarse, coarse_weights = _means(colors, weights, bits=5)
            if channels == 3 and len(weights) > 2 * len(coarse_weights) > 32 * self.num_colors:
                guess = KMeans(self.num_colors, n_init=1, max_iter=10, random_state=self.seed)
                guess.fit(coarse.T / 255, sample_weight=coarse_weights)
                kmeans = KMeans(self.num_colors, n_init=1, max_iter=3, init=guess.cluster_centers_)
            centroids: np.ndarray = kmeans.fit(colors.T / 255, sample_weight=weights).cluster_centers_
        luma = centroids @ np.array([0.299, 0.587, 0.114][:channels])
        return centroids[np.lexsort((*centroids.T, luma))].astype(np.float32)


class PaletteFile(Palette):
    """Colours from a NumPy file: K rows of grey or RGB values in [0, 1], or in [-1, 1] as OpenAI's clusters are.

    Args:
        path: The .npy file; values are taken to be in [-1, 1] where any is negative.
    """

    def __init__(self, *, path: str) -> None:
        """Reads nothing."""
        self.path = Path(path).expanduser()

    def fit(self, images: np.ndarray) -> np.ndarray:
        """The file's colours, whatever the pictures; these must have as many channels.

        Raises:
            UserError: If there is no such file, or it holds anything else.
        """
        colors = _load(self.path, images.shape[-1])
        return (colors + 1) / 2 if (colors < 0).any() else colors


def fit_cached(palette: Palette, images: np.ndarray | ManyPictures, cache_dir: Path | None) -> np.ndarray:
    """``palette.fit(images)``, kept in a file where it is learned; safe while other runs do the same.

    Args:
        palette: The palette.
        images: Training pictures; of many, those that are ``first``, which are decoded only where no file is there.
        cache_dir: Directory of the file; None for ``$XDG_CACHE_HOME/lt_cli``, by default ~/.cache/lt_cli.

    Shape:
        - images: (N, H, W, C), uint8
        - output: (K, C), float32 in [0, 1]
    """
    if not palette.learned:
        return palette.fit(images) if isinstance(images, np.ndarray) else _fit_blank(palette, images.shape)
    cls = type(palette)
    key = [cls.__module__, cls.__qualname__, cls.version, vars(palette), images.shape]
    digest = hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode())
    if isinstance(images, ManyPictures):
        digest.update(images.names()[0].encode())
        digest.update(images.first.data)
    else:
        digest.update(np.ascontiguousarray(images).data)

    def fit() -> dict[str, np.ndarray]:
        return {"colors": palette.fit(images if isinstance(images, np.ndarray) else images.first_pictures())}

    return cached("palette", digest.hexdigest(), fit, cache_dir)["colors"]


def _fit_blank(palette: Palette, shape: tuple[int, ...]) -> np.ndarray:
    """What a palette chooses that does not look at pixels; refuses one that does, as it would see none."""
    black, white = (palette.fit(np.full((1, *shape[1:]), level, np.uint8)) for level in (0, 255))
    if not np.array_equal(black, white):
        raise UserError(f"{type(palette).__name__} looks at pixels: it must have the class attribute learned = True")
    return black


def _means(colors: np.ndarray, weights: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """The means of the colours that agree in the highest bits of each channel, and the weights of those.

    Shape:
        - colors: (C, M), in 0..255
        - weights: (M,)
        - output: (C, P), and (P,)
    """
    cells = np.zeros(len(weights), np.intp)
    for channel in colors:
        cells = cells << bits | channel.astype(np.uint8) >> 8 - bits
    totals = np.bincount(cells, weights)
    present = np.flatnonzero(totals)
    sums = [np.bincount(cells, weights * channel)[present] for channel in colors]
    return np.stack(sums) / totals[present], totals[present]


def _load(path: Path, channels: int) -> np.ndarray:
    """Colours of a file, checked: (K, C), float32 in [-1, 1]."""
    try:
        colors: np.ndarray = np.load(path)
        ok = colors.dtype.kind == "f" and colors.ndim == 2
    except FileNotFoundError as error:
        raise UserError(f"palette file {path} does not exist: set path to a .npy file") from error
    except Exception as error:  # damaged files fail in many ways
        raise UserError(f"palette file {path} is no readable .npy file: {error}") from error
    if not (ok and colors.shape[1] == channels and 1 <= len(colors) <= MAX_COLORS):
        needed = f"floating-point numbers of shape (number of colours, {channels})"
        raise UserError(f"palette file {path} must hold {needed}; it holds {colors.dtype} {colors.shape}")
    if not (abs(colors) <= 1).all():
        raise UserError(f"palette file {path} must hold values in [0, 1]; it has {colors.min()} to {colors.max()}")
    return colors.astype(np.float32)
