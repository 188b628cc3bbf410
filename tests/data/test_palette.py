"""Palettes, and the file that a learned one is kept in."""

import logging
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toys import message

from lt_cli.data.palette import GreyLevels, KMeansPalette, Palette, PaletteFile, fit_cached
from lt_cli.data.quantize import NearestColors, dequantize


def pictures(*shape: int, seed: int = 0) -> np.ndarray:
    """Random pictures."""
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


class TestGreyLevels:
    """Levels that need no pictures."""

    def test_levels(self) -> None:
        levels = GreyLevels(num_colors=6).fit(pictures(1, 2, 2, 1))
        assert levels.dtype == np.float32
        np.testing.assert_allclose(levels, [[0], [0.2], [0.4], [0.6], [0.8], [1]], rtol=1e-6)
        assert GreyLevels().num_colors == 16
        assert not GreyLevels.learned

    @pytest.mark.parametrize("num_colors", [-1, 1, 257])
    def test_number(self, num_colors: int) -> None:
        assert f"num_colors ({num_colors})" in message(lambda: GreyLevels(num_colors=num_colors))

    def test_colour_pictures(self) -> None:
        said = message(lambda: GreyLevels().fit(pictures(1, 2, 2, 3)))
        assert "3" in said
        assert "KMeansPalette" in said


class TestKMeansPalette:
    """Colours learned from pixels."""

    @pytest.mark.parametrize("channels", [1, 3])
    def test_as_many_colours_as_there_are(self, channels: int) -> None:
        colors = np.unique(pictures(9, channels, seed=3), axis=0)
        images = colors.repeat(5, axis=0)[np.random.default_rng(0).permutation(5 * len(colors))][None, None]
        found = KMeansPalette(num_colors=len(colors)).fit(images)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found[np.lexsort(found.T[::-1])] * 255, colors, atol=1e-4)

    def test_weights_and_order(self) -> None:
        images = np.array([250] * 10 + [10] * 30 + [12] * 10 + [248] * 30, np.uint8).reshape(1, 8, 10, 1)
        found = KMeansPalette(num_colors=2).fit(images)
        np.testing.assert_allclose(found * 255, [[10.5], [248.5]], rtol=1e-5)

    def test_darkest_first(self) -> None:
        found = KMeansPalette(num_colors=32).fit(pictures(4, 16, 16, 3))
        assert found.shape == (32, 3)
        assert (np.diff(found @ [0.299, 0.587, 0.114]) >= 0).all()
        assert ((found >= 0) & (found <= 1)).all()

    def test_repeats_itself_whatever_the_order_of_pictures(self) -> None:
        images = pictures(8, 16, 16, 3)
        first = KMeansPalette(num_colors=16).fit(images)
        np.testing.assert_array_equal(first, KMeansPalette(num_colors=16).fit(images[::-1]))
        assert (first != KMeansPalette(num_colors=16, seed=1).fit(images)).any()

    def test_better_than_even_levels(self) -> None:
        grey = (np.random.default_rng(0).beta(0.4, 2, (20, 16, 16, 1)) * 255).astype(np.uint8)

        def error(centroids: np.ndarray) -> float:
            back = dequantize(NearestColors(centroids).quantize(grey), centroids, 16, 16)
            return float(((back.astype(float) - grey) ** 2).mean())

        assert error(KMeansPalette(num_colors=8).fit(grey)) < 0.6 * error(GreyLevels(num_colors=8).fit(grey))

    def test_more_colours_than_clustering_takes(self) -> None:
        """Beyond 2**18 colours, cells of neighbours stand for them; four far corners must still come out."""
        corners = np.array([[30, 30, 30], [220, 30, 40], [30, 215, 40], [30, 40, 210]], np.float32)
        noise = np.random.default_rng(0).integers(-28, 29, (4, 110_000, 3))
        images = (corners[:, None] + noise).astype(np.uint8).reshape(4, 110, 1000, 3)
        assert len(np.unique(images.reshape(-1, 3), axis=0)) > 2**18
        found = KMeansPalette(num_colors=4).fit(images)
        expected = images.reshape(4, -1, 3).mean(1)
        luma = expected @ [0.299, 0.587, 0.114]
        np.testing.assert_allclose(found * 255, expected[luma.argsort()], atol=0.01)

    def test_clusters_well_from_coarse_to_fine(self) -> None:
        """Smooth pictures of very many colours: as good as scikit-learn's k-means of a part of the pixels itself."""
        from sklearn.cluster import KMeans

        waves = np.random.default_rng(0).normal(size=(40, 3, 3))
        places = np.stack(np.meshgrid(*[np.linspace(0, 3, 100)] * 2), axis=-1)
        phases = waves[:, None, None, :, :2] @ places[..., None]
        images = (127 + 127 * np.sin(phases[..., 0] + waves[:, None, None, :, 2])).astype(np.uint8)
        assert len(np.unique(images.reshape(-1, 3), axis=0)) > 2**16
        pixels = images.reshape(-1, 3)[:: images.size // 30_000] / 255

        def error(centroids: np.ndarray) -> float:
            return float(((pixels[:, None] - centroids) ** 2).sum(2).min(1).mean())

        whole = KMeans(64, n_init=1, random_state=0).fit(pixels).cluster_centers_
        assert error(KMeansPalette(num_colors=64).fit(images)) < 1.1 * error(whole)

    def test_too_many_colours_asked(self) -> None:
        images = np.array([0, 7, 9, 9], np.uint8).reshape(1, 2, 2, 1)
        said = message(lambda: KMeansPalette(num_colors=5).fit(images))
        assert "num_colors (5)" in said
        assert "3" in said
        for number in (0, 40_000):
            assert f"num_colors ({number})" in message(lambda number=number: KMeansPalette(num_colors=number))  # type: ignore[misc]


class TestPaletteFile:
    """Colours given by a file."""

    def test_both_ranges(self, tmp_path: Path) -> None:
        colors = np.random.default_rng(0).random((7, 3), dtype=np.float32)
        path = tmp_path / "colors.npy"
        palette = PaletteFile(path=str(path))
        assert palette.num_colors is None
        np.save(path, colors)
        np.testing.assert_array_equal(palette.fit(pictures(1, 2, 2, 3)), colors)
        np.save(path, 2 * colors.astype(np.float64) - 1)
        found = palette.fit(pictures(1, 2, 2, 3))
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, colors, atol=1e-6)

    @pytest.mark.parametrize(
        ("content", "parts"),
        [
            (None, ["does not exist"]),
            (b"\x93NUMPY", ["no readable .npy"]),
            (np.zeros((4, 1), np.float32), ["(4, 1)", "3)"]),
            (np.zeros(3, np.float32), ["(3,)"]),
            (np.zeros((0, 3), np.float32), ["(0, 3)"]),
            (np.zeros((4, 3), np.uint8), ["uint8", "floating-point"]),
            (np.full((4, 3), 255.0), ["255.0", "[0, 1]"]),
            (np.full((4, 3), np.nan), ["nan", "[0, 1]"]),
            (np.array([[{}, 1, 2]], object), ["no readable .npy"]),
        ],
        ids=["missing", "cut", "channels", "flat", "empty", "integers", "bytes", "nan", "objects"],
    )
    def test_mistakes(self, tmp_path: Path, content: Any, parts: list[str]) -> None:
        path = tmp_path / "colors.npy"
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content is not None:
            np.save(path, content, allow_pickle=True)
        said = message(lambda: PaletteFile(path=str(path)).fit(pictures(1, 2, 2, 3)))
        assert all(part in said for part in [str(path), *parts]), said


class Counting(KMeansPalette):
    """Counts how often it is asked to learn."""

    fits = 0

    def fit(self, images: np.ndarray) -> np.ndarray:
        """As usual."""
        type(self).fits += 1
        return super().fit(images)


class TestFitCached:
    """What is learned is learned once."""

    @pytest.fixture(autouse=True)
    def _count(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Counting, "fits", 0)

    def test_kept(self, tmp_path: Path) -> None:
        images = pictures(2, 4, 4, 3)
        first, second = (fit_cached(Counting(num_colors=4), images, tmp_path / "new" / "dir") for _ in range(2))
        np.testing.assert_array_equal(first, second)
        assert second.dtype == np.float32
        assert Counting.fits == 1
        (file,) = (tmp_path / "new" / "dir").iterdir()
        assert len(file.name) == len("palette-0123456789abcdef.npz")
        assert file.stat().st_mode & 0o777 == 0o666 & ~self.umask()

    @staticmethod
    def umask() -> int:
        os.umask(mask := os.umask(0))
        return mask

    def test_whatever_changes_the_colours_changes_the_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        images = pictures(2, 4, 4, 3)
        other = images.copy()
        other[1, 3, 3, 2] ^= 1
        fit_cached(Counting(num_colors=4), images, tmp_path)
        fit_cached(Counting(num_colors=5), images, tmp_path)
        fit_cached(Counting(num_colors=4, seed=1), images, tmp_path)
        fit_cached(Counting(num_colors=4), other, tmp_path)
        fit_cached(Counting(num_colors=4), images.reshape(4, 2, 4, 3), tmp_path)
        fit_cached(KMeansPalette(num_colors=4), images, tmp_path)
        monkeypatch.setattr(Counting, "version", KMeansPalette.version + 1)
        fit_cached(Counting(num_colors=4), images, tmp_path)
        assert len(list(tmp_path.glob("palette-*.npz"))) == 7
        assert Counting.fits == 6

    def test_default_directory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        images = pictures(2, 4, 4, 1)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        fit_cached(Counting(num_colors=4), images, None)
        assert len(list((tmp_path / "xdg" / "lt_cli").iterdir())) == 1
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        fit_cached(Counting(num_colors=4), images, None)
        assert len(list((tmp_path / "home" / ".cache" / "lt_cli").iterdir())) == 1

    def test_nothing_learned_nothing_kept(self, tmp_path: Path) -> None:
        palettes: list[Palette] = [GreyLevels(num_colors=3), PaletteFile(path=str(tmp_path / "given.npy"))]
        np.save(tmp_path / "given.npy", np.zeros((2, 1), np.float32))
        assert [len(fit_cached(palette, pictures(1, 2, 2, 1), tmp_path / "cache")) for palette in palettes] == [3, 2]
        assert not (tmp_path / "cache").exists()

    @pytest.mark.parametrize("damage", [b"", b"\x93NUMPY\x01\x00v\x00{'descr'", b"PK\x03\x04", None])
    def test_damaged_file(self, tmp_path: Path, damage: bytes | None) -> None:
        images = pictures(2, 4, 4, 3)
        first = fit_cached(Counting(num_colors=4), images, tmp_path)
        (file,) = tmp_path.iterdir()
        file.write_bytes(file.read_bytes()[:-1] if damage is None else damage)
        with pytest.warns(UserWarning, match=file.name):
            again = fit_cached(Counting(num_colors=4), images, tmp_path)
        np.testing.assert_array_equal(again, first)
        assert Counting.fits == 2
        fit_cached(Counting(num_colors=4), images, tmp_path)
        assert Counting.fits == 2

    def test_a_wrong_bit_anywhere(self, tmp_path: Path) -> None:
        """Colours that are merely wrong would never be noticed."""
        images = pictures(2, 4, 4, 3)
        first = fit_cached(Counting(num_colors=4), images, tmp_path)
        (file,) = tmp_path.iterdir()
        whole = file.read_bytes()
        middle = whole.index(first.tobytes())
        for position in (middle, middle + first.nbytes - 1, len(whole) // 2):
            file.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
            with pytest.warns(UserWarning, match="is damaged"):
                np.testing.assert_array_equal(fit_cached(Counting(num_colors=4), images, tmp_path), first)
            assert file.read_bytes() == whole, "computed and written anew"

    def test_unwritable_directory(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        (tmp_path / "file").write_text("not a directory")
        with caplog.at_level(logging.INFO):
            found = fit_cached(Counting(num_colors=4), pictures(2, 4, 4, 3), tmp_path / "file")
        assert found.shape == (4, 3)
        said = [record.getMessage() for record in caplog.records if str(tmp_path / "file") in record.getMessage()]
        assert len(said) == 1
        assert "not kept" in said[0]
        assert "\n" not in said[0]

    def test_failed_write_leaves_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: Any) -> None:
            raise OSError("no space left")

        monkeypatch.setattr(os, "fsync", full)
        assert fit_cached(Counting(num_colors=4), pictures(2, 4, 4, 3), tmp_path).shape == (4, 3)
        assert list(tmp_path.iterdir()) == []

    def test_two_at_once(self, tmp_path: Path) -> None:
        """Each writes a file of its own and puts it in place whole."""
        images = pictures(2, 4, 4, 3)
        together = threading.Barrier(4)
        found: list[np.ndarray] = []

        class Meeting(KMeansPalette):
            def fit(self, images: np.ndarray) -> np.ndarray:
                centroids = super().fit(images)
                together.wait(30)
                return centroids

        threads = [
            threading.Thread(target=lambda: found.append(fit_cached(Meeting(num_colors=4), images, tmp_path)))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 4
        (file,) = tmp_path.iterdir()
        for centroids in found:
            np.testing.assert_array_equal(centroids, np.load(file)["colors"])
