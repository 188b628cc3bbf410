"""Colours to tokens and back: a palette is a plain array of colours, and a pixel's token the nearest one's index.

Tokens are computed once, exactly, and outside any training step, where half precision would make many of them wrong.
Shapes: N pictures, H x W pixels, C channels (1 grey, 3 RGB), K colours.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np

from lt_cli.data.cache import cached
from lt_cli.errors import UserError

MAX_COLORS = 2**15  # what int16 tokens can tell apart


class Palette(ABC):
    """A way to choose the colours that pictures are painted with; what it chooses is kept by the caller.

    Attributes:
        num_colors: Number of colours, or None where a file says it.
        learned: Whether ``fit`` looks at the pictures' pixels, so that its result is worth keeping.
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

    Pictures of more than 262 144 distinct colours are first reduced to the means of 4x4x4 neighbouring ones.

    Args:
        num_colors: Number of colours; 1 to 32 768.
        seed: Seed of the first guess.
    """

    learned = True

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
        for _, codes in _codes(images):
            np.add.at(counts, codes, 1)
        codes = np.flatnonzero(counts)
        if len(codes) < self.num_colors:
            raise UserError(f"num_colors ({self.num_colors}) must be at most {len(codes)}: there are no more colours")
        colors: np.ndarray = _colors(codes, channels) / 255
        weights: np.ndarray = counts[codes].astype(np.float64)
        if len(codes) > max(2**18, 64 * self.num_colors):
            cells = np.unique(codes & 0xFCFCFC, return_inverse=True)[1]
            sums = [np.bincount(cells, weights * values) for values in colors.T]
            weights = np.bincount(cells, weights)
            colors = np.stack(sums, axis=1) / weights[:, None]
        kmeans = KMeans(self.num_colors, n_init=10 if channels == 1 else 1, max_iter=20, random_state=self.seed)
        with threadpool_limits(1):  # threads add in any order, and so differ in the last digits
            centroids: np.ndarray = kmeans.fit(colors, sample_weight=weights).cluster_centers_
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


def fit_cached(palette: Palette, images: np.ndarray, cache_dir: Path | None) -> np.ndarray:
    """``palette.fit(images)``, kept in a file where it is learned; safe while other runs do the same.

    Args:
        palette: The palette.
        images: Training pictures.
        cache_dir: Directory of the file; None for ``$XDG_CACHE_HOME/lt_cli``, by default ~/.cache/lt_cli.

    Shape:
        - images: (N, H, W, C), uint8
        - output: (K, C), float32 in [0, 1]
    """
    if not palette.learned:
        return palette.fit(images)
    cls = type(palette)
    key = [cls.__module__, cls.__qualname__, cls.version, vars(palette), images.shape]
    digest = hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode())
    digest.update(np.ascontiguousarray(images).data)
    return cached("palette", digest.hexdigest(), lambda: {"colors": palette.fit(images)}, cache_dir)["colors"]


def quantize(images: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Each pixel's nearest colour by squared distance; the first of equally near ones.

    Shape:
        - images: (N, H, W, C), uint8
        - centroids: (K, C), float32 in [0, 1]
        - output: (N, H*W), row by row; uint8 where K <= 256, else int16

    Raises:
        UserError: If the numbers of channels differ, or the palette is too large.
    """
    channels = images.shape[-1]
    if centroids.shape[1] != channels:
        raise UserError(f"the palette has {centroids.shape[1]} channels, the pictures have {channels}: set both alike")
    if len(centroids) > MAX_COLORS:
        raise UserError(f"the palette has {len(centroids)} colours; it must have at most {MAX_COLORS}")
    occurs = np.zeros(256**channels, bool)
    for _, codes in _codes(images):
        occurs[codes] = True
    present = np.flatnonzero(occurs)
    token_of = np.zeros(256**channels, np.uint8 if len(centroids) <= 256 else np.int16)
    token_of[present] = _nearest(_colors(present, channels), centroids.astype(np.float64))
    tokens = np.empty((len(images), images.shape[1] * images.shape[2]), token_of.dtype)
    for rows, codes in _codes(images):
        tokens[rows] = token_of[codes]
    return tokens


def dequantize(tokens: np.ndarray, centroids: np.ndarray, height: int, width: int) -> np.ndarray:
    """The pictures that tokens stand for.

    Shape:
        - tokens: (..., H*W), integers in [0, K)
        - centroids: (K, C), float32 in [0, 1]
        - output: (..., H, W, C), uint8
    """
    colors: np.ndarray = np.rint(255 * centroids).astype(np.uint8)
    images: np.ndarray = colors[tokens].reshape(*tokens.shape[:-1], height, width, centroids.shape[1])
    return images


def _codes(images: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Some pictures at a time, with their pixels as numbers: (n, H*W), 8 bits a channel, the first one highest."""
    step = max(1, 2**18 // (images.shape[1] * images.shape[2]))
    for start in range(0, len(images), step):
        rows = slice(start, start + step)
        codes = images[rows, ..., 0].astype(np.int32)
        for channel in range(1, images.shape[-1]):
            codes <<= 8
            codes |= images[rows, ..., channel]
        yield rows, codes.reshape(len(codes), -1)


def _colors(codes: np.ndarray, channels: int) -> np.ndarray:
    """Numbers back to colours: (M,) to (M, C), uint8."""
    return (codes[:, None] >> np.arange(8 * channels - 8, -1, -8)).astype(np.uint8)


def _nearest(colors: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Index of the centroid (K, C) nearest to each colour (M, C), by direct differences in float64.

    Colours are taken by cells of 16 levels a side. Only those centroids are tried that come as near to a
    cell's box as the one whose farthest corner is nearest does; as rounding keeps order, no nearest is missed.
    """
    values = (np.arange(256, dtype=np.float32) / np.float32(255)).astype(np.float64)
    cells = (colors >> 4).astype(np.int64) @ 16 ** np.arange(colors.shape[1])
    order = np.argsort(cells, kind="stable")
    nearest = np.empty(len(colors), np.int64)
    for rows in np.split(order, np.flatnonzero(np.diff(cells[order])) + 1):
        points = values[colors[rows]]
        low, high = points.min(0), points.max(0)
        gap = np.maximum(np.maximum(low - centroids, centroids - high), 0)
        reach = np.maximum(abs(centroids - low), abs(centroids - high))
        tried = np.flatnonzero(_squared(gap) <= _squared(reach).min())
        nearest[rows] = tried[_squared(points[:, None] - centroids[tried]).argmin(1)]
    return nearest


def _squared(differences: np.ndarray) -> np.ndarray:
    """Squared length over the last axis, always summed in the same order."""
    total: np.ndarray = differences[..., 0] ** 2
    for channel in range(1, differences.shape[-1]):
        total += differences[..., channel] ** 2
    return total


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
