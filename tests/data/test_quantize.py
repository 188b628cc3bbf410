"""Exact tokens, and pictures back from them."""

import numpy as np
import pytest
from toys import message, slow_tokens

from lt_cli.data.palette import GreyLevels
from lt_cli.data.quantize import NearestColors, dequantize


def pictures(*shape: int, seed: int = 0) -> np.ndarray:
    """Random pictures."""
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def quantize(images: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    return NearestColors(centroids).quantize(images)


class TestQuantize:
    """Exact tokens, and back."""

    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize("num_colors", [1, 5, 300])
    def test_nearest(self, channels: int, num_colors: int) -> None:
        images = pictures(3, 8, 7, channels)
        centroids = np.random.default_rng(1).random((num_colors, channels), dtype=np.float32)
        tokens = quantize(images, centroids)
        assert tokens.shape == (3, 56)
        assert tokens.dtype == (np.uint8 if num_colors <= 256 else np.int16)
        assert tokens.tolist() == slow_tokens(images, centroids)

    def test_smallest_type(self) -> None:
        colors = np.linspace(0, 1, 257, dtype=np.float32)[:, None]
        images = np.full((1, 1, 1, 1), 255, np.uint8)
        assert quantize(images, colors[1:]).dtype == np.uint8
        assert quantize(images, colors[1:]).item() == 255
        assert quantize(images, colors).dtype == np.int16
        assert quantize(images, colors).item() == 256

    def test_every_grey(self) -> None:
        images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
        centroids = GreyLevels(num_colors=16).fit(images)
        tokens = quantize(images, centroids)
        assert tokens.tolist() == slow_tokens(images, centroids)
        assert tokens.tolist() == [[(value + 8) // 17 for value in range(256)]]

    def test_ties_take_the_first(self) -> None:
        images = np.array([[[[0, 0, 0], [255, 255, 255], [255, 0, 0]]]], np.uint8)
        centroids = np.array([[1, 1, 0], [1, 0, 1], [1, 1, 0], [0, 1, 1]], np.float32)
        assert quantize(images, centroids).tolist() == [[0, 0, 0]]
        assert quantize(images, centroids[::-1].copy()).tolist() == [[0, 0, 1]]

    def test_crowded_colours(self) -> None:
        """Many colours in one corner, where a search by cells could miss the nearest."""
        images = np.concatenate([pictures(2, 8, 8, 3) // 8, pictures(2, 8, 8, 3)])
        rng = np.random.default_rng(2)
        crowd = rng.random((150, 3), dtype=np.float32) / 10
        lattice = (rng.integers(0, 6, (150, 3)) * 51 / 255).astype(np.float32)
        centroids = np.concatenate([crowd, lattice])
        assert quantize(images, centroids).tolist() == slow_tokens(images, centroids)

    @pytest.mark.parametrize("spread", [0, 1e-16, 1e-3])
    def test_more_colours_in_one_place_than_are_tried_at_once(self, spread: float) -> None:
        """Equal ones, ones that differ in the last digits, and ones that lie within a level of each other."""
        colors = 0.5 + spread * np.random.default_rng(3).random((700, 3))
        images = pictures(1, 4, 4, 3)
        assert quantize(images, colors).tolist() == slow_tokens(images, colors)

    def test_all_levels_of_a_palette_s_own_colours(self) -> None:
        """Every colour of some cells, on bisectors too: brute force in float64, all colours at once."""
        levels = np.arange(0, 256, 5)
        images = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, 1, -1, 3).astype(np.uint8)
        centroids = np.random.default_rng(4).choice(images[0, 0] / np.float32(255), 40)
        squares = (images[0, 0, :, None] / np.float32(255) - centroids.astype(np.float64)) ** 2
        distances = squares[..., 0] + squares[..., 1] + squares[..., 2]
        np.testing.assert_array_equal(quantize(images, centroids)[0], distances.argmin(1))

    def test_one_table_for_several_sets(self) -> None:
        """What is asked for later is filled in then."""
        centroids = np.random.default_rng(1).random((20, 3), dtype=np.float32)
        nearest = NearestColors(centroids)
        for images in (pictures(1, 4, 4, 3) // 16, pictures(2, 8, 8, 3), pictures(1, 4, 4, 3) // 16):
            assert nearest.quantize(images).tolist() == slow_tokens(images, centroids)

    def test_many_pictures(self) -> None:
        """Pictures are taken some at a time; none may be lost or moved."""
        images = pictures(170, 64, 64, 1)
        levels = np.linspace(0, 1, 256, dtype=np.float32)[:, None]
        np.testing.assert_array_equal(quantize(images, levels), images.reshape(170, -1))

    def test_mistakes(self) -> None:
        said = message(lambda: quantize(pictures(1, 2, 2, 3), np.zeros((4, 1), np.float32)))
        assert "1 channels" in said
        assert "have 3" in said
        assert "40000" in message(lambda: quantize(pictures(1, 2, 2, 1), np.zeros((40_000, 1), np.float32)))

    def test_round_trip(self) -> None:
        centroids = np.array([[0, 0.5, 1], [0.1, 0.2, 0.999], [1, 1, 1]], np.float32)
        tokens = np.array([[[0, 1, 2, 2, 1, 0]]], np.int16)
        images = dequantize(tokens, centroids, 2, 3)
        assert images.shape == (1, 1, 2, 3, 3)
        assert images.dtype == np.uint8
        assert images[0, 0, 0].tolist() == [[0, 128, 255], [26, 51, 255], [255, 255, 255]]
        np.testing.assert_array_equal(quantize(images[0], centroids), tokens[0])
