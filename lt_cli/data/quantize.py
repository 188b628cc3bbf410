"""Colours to tokens and back: a pixel's token is the index of the nearest colour of a palette.

Tokens are computed once, exactly, and outside any training step, where half precision would make many of them wrong.
Shapes: N pictures, H x W pixels, C channels (1 grey, 3 RGB), K colours.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from lt_cli.errors import UserError

MAX_COLORS = 2**15  # what int16 tokens can tell apart
LEVELS = (np.arange(256, dtype=np.float32) / np.float32(255)).astype(np.float64)
SIDE = 16  # levels of a cell's side; 8 would halve the colours that are tried, and take eight times as many turns


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


def token_type(num_colors: int) -> type[np.integer[Any]]:
    """The smallest type that tells so many colours apart."""
    return np.uint8 if num_colors <= 256 else np.int16


def color_codes(images: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Some pictures at a time, with their pixels as numbers: (n, H*W), int32, 8 bits a channel, the first one highest.

    Shape:
        - images: (N, H, W, C), uint8
    """
    step = max(1, 2**16 // (images.shape[1] * images.shape[2]))  # what stays in the processor's own memory
    for start in range(0, len(images), step):
        rows = slice(start, start + step)
        codes = images[rows, ..., 0].astype(np.int32)
        for channel in range(1, images.shape[-1]):
            codes <<= 8
            codes |= images[rows, ..., channel]
        yield rows, codes.reshape(len(codes), -1)


class NearestColors:
    """A table of the nearest colour to every colour that 8 bits can say, filled in where pixels first ask for it.

    It is filled in by cells of 16 levels a side, exactly: distances are taken in float64, by direct differences, of all
    those colours that are not beaten everywhere in the cell by the one nearest to its middle.

    Args:
        centroids: The palette: (K, C), in [0, 1].

    Attributes:
        centroids: The same.

    Raises:
        UserError: If the palette is too large.
    """

    def __init__(self, centroids: np.ndarray) -> None:
        """Fills in nothing yet."""
        if len(centroids) > MAX_COLORS:
            raise UserError(f"the palette has {len(centroids)} colours; it must have at most {MAX_COLORS}")
        self.centroids = centroids
        self._channels = centroids.shape[1]
        self._colors: np.ndarray = centroids.astype(np.float64).T  # (C, K)
        self._tokens = np.full(256**self._channels, -1, np.int16)
        self._from_low = (LEVELS[::SIDE, None, None] - self._colors) ** 2  # (cells a side, C, K)
        self._from_high = (LEVELS[SIDE - 1 :: SIDE, None, None] - self._colors) ** 2

    def quantize(self, images: np.ndarray) -> np.ndarray:
        """Each pixel's nearest colour by squared distance; the first of equally near ones.

        Shape:
            - images: (N, H, W, C), uint8
            - output: (N, H*W), row by row; uint8 where K <= 256, else int16

        Raises:
            UserError: If the numbers of channels differ.
        """
        channels = images.shape[-1]
        if self._channels != channels:
            raise UserError(f"the palette has {self._channels} channels, the pictures have {channels}: set both alike")
        tokens = np.empty((len(images), images.shape[1] * images.shape[2]), token_type(self._colors.shape[1]))
        for rows, codes in color_codes(images):
            found = self._tokens[codes]
            if found.min() < 0:
                self._fill(codes[found < 0])
                found = self._tokens[codes]
            tokens[rows] = found
        return tokens

    def _fill(self, codes: np.ndarray) -> None:
        """Fills in the cells that these colours lie in."""
        cells_a_side = 256 // SIDE
        wanted = np.zeros((cells_a_side,) * self._channels, bool)
        shifts = range(8 * self._channels - 8, -1, -8)
        wanted[tuple((codes >> shift & 255) // SIDE for shift in shifts)] = True
        table = self._tokens.reshape((cells_a_side, SIDE) * self._channels)
        for cell in np.argwhere(wanted):
            box = tuple(item for index in cell for item in (index, slice(None)))
            table[box] = self._nearest_in(cell).reshape((SIDE,) * self._channels)

    def _nearest_in(self, cell: np.ndarray) -> np.ndarray:
        """The tokens of one cell, by its place along each channel: (16 ** C,)."""
        tried = self._candidates(cell)
        levels = cell[:, None] * SIDE + np.arange(SIDE)
        squares = (LEVELS[levels][:, None] - self._colors[:, tried, None]) ** 2  # (C, tried, 16)
        pieces = min(SIDE, 1 + len(tried) // 256)  # in bounded memory, however many colours crowd together
        tokens = []
        for distances in np.array_split(squares[0], pieces, axis=1):
            for square in squares[1:]:
                distances = (distances[:, :, None] + square[:, None]).reshape(len(tried), -1)
            tokens.append(tried[distances.argmin(0)])
        return np.concatenate(tokens)

    def _candidates(self, cell: np.ndarray) -> np.ndarray:
        """The colours that may be nearest somewhere in a cell, in order.

        By how much a colour is farther away than another one is linear in the place, so that channel by channel it is
        least at one of the cell's ends. The sum of those is far below 1e-12 from what float64 makes of it anywhere.
        """
        channels = np.arange(self._channels)
        low, high = self._from_low[cell, channels], self._from_high[cell, channels]  # (C, K)
        middle = (low + high).sum(0).argmin()
        farther = np.minimum(low - low[:, middle, None], high - high[:, middle, None]).sum(0)
        return np.flatnonzero(farther <= 1e-12)
