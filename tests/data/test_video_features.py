"""Features in files: joined, cut, and checked before they are needed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonargparse import ArgumentParser
from toys import message

from lt_cli.data.video_features import NpyFeatures

DIMS = {"i3d_flow": 3, "i3d_rgb": 2, "vggish": 1}


def save(video: str, lengths: tuple[int, int, int] = (5, 4, 6), kind: str = "<f4") -> dict[str, np.ndarray]:
    """The files of a video, of random numbers."""
    generator = np.random.default_rng(len(video))
    arrays = {}
    for (name, dim), length in zip(DIMS.items(), lengths, strict=True):
        arrays[name] = generator.normal(size=(length, dim)).astype(kind)
        Path("f", name).mkdir(parents=True, exist_ok=True)
        np.save(f"f/{name}/{video}.npy", arrays[name])
    return arrays


def open_files() -> int:
    """Of this process: each mapped file counts."""
    return Path("/proc/self/maps").read_text().count(".npy") + len([*Path("/proc/self/fd").iterdir()])


class TestFrames:
    """What a video has."""

    def test_kinds_are_joined_and_cut(self) -> None:
        arrays = save("a")
        save("bb", (7, 7, 7))
        features = NpyFeatures("f")
        assert features.check(["bb", "a", "bb"]).tolist() == [7, 4, 7]
        assert features.dim == 6
        found = features.frames("a")
        assert found.dtype == np.float32
        assert np.array_equal(found, np.hstack([array[:4] for array in arrays.values()]))

    def test_order_of_kinds(self) -> None:
        arrays = save("a")
        features = NpyFeatures("f", kinds=["vggish", "i3d_flow"])
        assert features.check(["a"]).tolist() == [5]
        assert features.dim == 4
        assert np.array_equal(features.frames("a"), np.hstack([arrays["vggish"][:5], arrays["i3d_flow"]]))

    def test_no_kinds(self) -> None:
        arrays = save("a")
        features = NpyFeatures("f/i3d_rgb", kinds=None)
        assert features.check(["a"]).tolist() == [4]
        assert np.array_equal(features.frames("a"), arrays["i3d_rgb"])

    @pytest.mark.parametrize("kind", ["<f2", "<f8", ">f4"])
    def test_kinds_of_floats(self, kind: str) -> None:
        arrays = save("a", kind=kind)
        features = NpyFeatures("f")
        assert features.check(["a"]).tolist() == [4]
        expected = np.hstack([array[:4] for array in arrays.values()]).astype(np.float32)
        assert np.array_equal(features.frames("a"), expected)

    def test_by_columns(self) -> None:
        array = np.asfortranarray(np.arange(12, dtype=np.float32).reshape(4, 3))
        np.save("a.npy", array)
        features = NpyFeatures(".", kinds=None, max_frames=2)
        assert features.check(["a"]).tolist() == [2]
        assert np.array_equal(features.frames("a"), array[[0, 3]])

    @pytest.mark.parametrize(
        ("most", "rows"),
        [(1, [3]), (2, [0, 7]), (3, [0, 3, 7]), (7, [0, 1, 2, 3, 4, 5, 7]), (8, [*range(8)]), (9, [*range(8)])],
    )
    def test_evenly_spaced(self, most: int, rows: list[int]) -> None:
        np.save("a.npy", np.arange(8, dtype=np.float32)[:, None])
        features = NpyFeatures(".", kinds=None, max_frames=most)
        assert features.check(["a"]).tolist() == [len(rows)]
        assert features.frames("a")[:, 0].tolist() == rows

    @pytest.mark.parametrize("length", [2, 3, 7, 16, 39])
    def test_no_frame_is_taken_twice(self, length: int) -> None:
        np.save("a.npy", np.arange(length, dtype=np.float32)[:, None])
        for most in range(2, length + 1):
            found = NpyFeatures(".", kinds=None, max_frames=most).frames("a")[:, 0]
            assert (found[0], found[-1], len(found)) == (0, length - 1, most)
            steps = np.diff(found)
            assert steps.min() >= 1
            assert steps.max() - steps.min() <= 1

    @pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux tells it there")
    def test_no_file_stays_open(self) -> None:
        save("a")
        features = NpyFeatures("f")
        features.frames("a")
        before = open_files()
        kept = [features.frames("a") for _ in range(20)]
        features.check(["a"])
        assert open_files() == before
        assert len(kept) == 20

    def test_what_cannot_be_read_later(self) -> None:
        save("a")
        features = NpyFeatures("f")
        features.check(["a"])
        Path("f/i3d_rgb/a.npy").unlink()
        assert message(lambda: features.frames("a")) == (
            "f/i3d_rgb/a.npy cannot be read: No such file or directory: mend it, or leave the video out"
        )

    @pytest.mark.parametrize("value", [np.nan, 1e300])
    def test_what_is_not_finite(self, value: float) -> None:
        np.save("a.npy", np.array([[0.0, value]]))
        assert message(lambda: NpyFeatures(".", kinds=None).frames("a")) == (
            "a.npy has numbers that are not finite as float32: mend it, or leave the video out"
        )


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def integers(path: Path) -> None:
    np.save(path, np.ones((4, 2), dtype=np.int64))


def flat(path: Path) -> None:
    np.save(path, np.ones(4))


def wider(path: Path) -> None:
    np.save(path, np.ones((4, 1200), dtype=np.float32))


def no_frame(path: Path) -> None:
    np.save(path, np.ones((0, 2), dtype=np.float32))


def objects(path: Path) -> None:
    np.save(path, np.array([{}]), allow_pickle=True)


def cut_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:20])


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


class TestCheck:
    """All that is wrong, at once and before training."""

    @pytest.mark.parametrize(
        ("spoil", "says"),
        [
            (Path.unlink, "is missing"),
            (lambda path: path.write_bytes(b""), "is empty"),
            (lambda path: path.write_text("version https://git-lfs"), "is no .npy of numpy, which np.save writes"),
            (cut_header, "is no .npy of numpy, which np.save writes"),
            (cut_off, "is cut off: it has 159 bytes, where it says 160"),
            (integers, "has numbers of type int64, where they must be floats"),
            (objects, "has numbers of type object, where they must be floats"),
            (flat, "must be of shape (frames, numbers for each), and is (4,)"),
            (wider, "has 1,200 numbers for each frame, where that of a has 2"),
            (no_frame, "has no frame"),
            (folder, "cannot be read: Is a directory"),
        ],
        ids=lambda value: getattr(value, "__name__", None),
    )
    def test_a_file_that_cannot_be_used(self, spoil: Any, says: str) -> None:
        save("a")
        save("bb")
        spoil(Path("f/i3d_rgb/bb.npy"))
        assert message(lambda: NpyFeatures("f").check(["a", "bb", "bb"])) == (
            f"1 of 2 videos have no features that can be used in f: i3d_rgb/bb.npy {says}: leave these dialogs out, or "
            "give the files"
        )

    def test_many(self) -> None:
        save("a")
        assert message(lambda: NpyFeatures("f").check(["1", "a", "2", "../a", "3", "4"])) == (
            "5 of 6 videos have no features that can be used in f: i3d_flow/1.npy is missing; i3d_flow/2.npy is "
            "missing; '../a', an id that is no file's name and 2 more: leave these dialogs out, or give the files"
        )

    @pytest.mark.parametrize("video", ["..", ".", "", "x/a", "x\\a", "a\0"])
    def test_ids_that_are_no_names_of_files(self, video: str) -> None:
        save("a")
        said = message(lambda: NpyFeatures("f").check([video]))
        assert said == (
            f"1 of 1 videos have no features that can be used in f: {video!r}, an id that is no file's name: leave "
            "these dialogs out, or give the files"
        )

    def test_other_splits_are_as_wide(self) -> None:
        save("a")
        save("bb")
        wider(Path("f/vggish/bb.npy"))
        features = NpyFeatures("f")
        features.check(["a"])
        assert "has 1,200 numbers for each frame, where that of a has 1:" in message(lambda: features.check(["bb"]))

    def test_no_folder(self) -> None:
        assert message(lambda: NpyFeatures("g").check(["a"])) == (
            "features.path (g) must be a folder, and there is none: correct --data.features.path"
        )

    def test_no_folder_of_a_kind(self) -> None:
        save("a")
        assert message(lambda: NpyFeatures("f", kinds=["i3d_rbg"]).check(["a"])) == (
            "f has no folder 'i3d_rbg' of kinds ['i3d_rbg'], only i3d_flow, i3d_rgb, vggish; did you mean i3d_rgb?"
        )
        assert message(lambda: NpyFeatures("f/vggish").check(["a"])) == (
            "f/vggish has no folder 'i3d_flow' of kinds ['i3d_flow', 'i3d_rgb', 'vggish'], only none: correct "
            "--data.features.kinds, or set it to null where the folder has the files"
        )


class TestOptions:
    """What the constructor takes."""

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"max_frames": 0}, "max_frames (0) must be at least 1, or null for all"),
            ({"kinds": []}, "kinds ([]) must name one folder at least, and each once; null for none"),
            ({"kinds": ["a", "a"]}, "kinds (['a', 'a']) must name one folder at least, and each once; null for none"),
        ],
    )
    def test_mistakes(self, options: dict[str, Any], says: str) -> None:
        assert message(lambda: NpyFeatures("f", **options)) == says

    def test_they_can_be_configured(self) -> None:
        parser = ArgumentParser(exit_on_error=False)
        parser.add_class_arguments(NpyFeatures, "features")
        for given, kinds in (
            ([], ["i3d_flow", "i3d_rgb", "vggish"]),
            (["--features.kinds=[b,a]"], ["b", "a"]),
            (["--features.kinds=null"], [""]),
        ):
            config = parser.parse_args(["--features.path=f", *given])
            assert parser.instantiate(config).features.kinds == kinds
