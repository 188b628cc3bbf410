"""Every source of pictures, on tiny files of every kind, and what each says when something is wrong."""

import io
import os
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.error import URLError

import datasets
import numpy as np
import pytest
import torchvision
from PIL import Image
from toys import message

from lt_cli.data import decode
from lt_cli.data.decode import stack_pictures
from lt_cli.data.images import Digits, FolderImages, HuggingFaceImages, ImageSet, TorchvisionImages
from lt_cli.data.mapped import ManyPictures


def colors(*shape: int, seed: int = 0) -> np.ndarray:
    """Random pictures."""
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(path: Path, picture: np.ndarray | Image.Image) -> Path:
    """Writes a file, and the folders it lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(path)
    return path


def loaded(images: ImageSet | None) -> ImageSet:
    assert images is not None
    return images


def test_importing_is_cheap() -> None:
    heavy = "{'torch', 'torchvision', 'datasets', 'sklearn'}"
    code = f"import sys, lt_cli.data.images; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_rows_of_a_set() -> None:
    images = ImageSet(colors(3, 2, 2, 1), np.array([5, 6, 7]), None, ["a", "b", "c"])
    taken = images.take(np.array([2, 0]))
    assert len(images) == 3
    assert len(taken) == 2
    assert taken.names == ["c", "a"]
    assert taken.labels is not None
    assert taken.labels.tolist() == [7, 5]
    np.testing.assert_array_equal(taken.images, images.images[[2, 0]])


def test_rows_of_many_pictures_are_numbers() -> None:
    many = ManyPictures.of(colors(3, 2, 2, 1), None)
    taken = ImageSet(many, np.array([5, 6, 7]), None, ["a", "b", "c"]).take(np.array([2, 0])).take(np.array([1]))
    assert (len(taken), taken.names, taken.images) == (1, ["a"], many)
    assert taken.rows is not None
    assert taken.rows.tolist() == [0]


class TestDigits:
    """The digits that need no file."""

    def test_splits(self) -> None:
        from sklearn.datasets import load_digits

        train, test = Digits().load("train", channels=1), Digits().load("test", channels=1)
        assert train.images.shape == (1437, 8, 8, 1)
        assert test.images.shape == (360, 8, 8, 1)
        assert train.images.dtype == np.uint8
        expected = [round(255 * value / 16) for value in load_digits().data.reshape(-1).tolist()]
        assert np.concatenate([train.images, test.images]).reshape(-1).tolist() == expected
        assert train.label_names == [str(digit) for digit in range(10)]
        assert train.labels is not None
        assert test.labels is not None
        assert train.labels.dtype == np.int64
        assert np.concatenate([train.labels, test.labels]).tolist() == load_digits().target.tolist()

    def test_size_and_channels(self) -> None:
        grey, rgb = Digits().load("test", (16, 12), 1), Digits().load("test", (16, 12), 3)
        assert grey.images.shape == (360, 16, 12, 1)
        np.testing.assert_array_equal(rgb.images, grey.images.repeat(3, axis=3))

    def test_mistakes(self) -> None:
        assert "channels (2)" in message(lambda: Digits().load("train", channels=2))
        assert "size (0, 4)" in message(lambda: Digits().load("train", (0, 4), 1))


class TestTorchvisionImages:
    """Sets of torchvision, without its network."""

    @staticmethod
    def write_mnist(root: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """MNIST's own files, a few pictures each."""
        (root / "MNIST" / "raw").mkdir(parents=True)
        written = {}
        for split, prefix, count in (("train", "train", 7), ("test", "t10k", 3)):
            images, labels = colors(count, 28, 28, seed=count), np.arange(count, dtype=np.uint8)
            for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
                header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
                (root / "MNIST" / "raw" / f"{prefix}-{kind}-ubyte").write_bytes(header + array.tobytes())
            written[split] = (images, labels)
        return written

    @pytest.mark.parametrize("split", ["train", "test"])
    def test_mnist(self, tmp_path: Path, split: Any) -> None:
        images, labels = self.write_mnist(tmp_path)[split]
        source = TorchvisionImages(name="MNIST", root=str(tmp_path))
        source.prepare()
        found = source.load(split, channels=1)
        np.testing.assert_array_equal(found.images, images[..., None])
        assert found.labels is not None
        assert found.labels.dtype == np.int64
        assert found.labels.tolist() == labels.tolist()
        assert found.label_names is not None
        assert found.label_names[:2] == ["0 - zero", "1 - one"]
        assert source.cache_dir == tmp_path

    def test_missing_files_are_named(self, tmp_path: Path) -> None:
        said = message(TorchvisionImages(name="MNIST", root=str(tmp_path), download=False).prepare)
        for part in ("MNIST", str(tmp_path / "MNIST" / "raw"), "t10k-labels-idx1-ubyte", "set download to true"):
            assert part in said

    @pytest.mark.parametrize(
        ("name", "where", "files"),
        [
            ("MNIST", "mnist.download_and_extract_archive", "train-images-idx3-ubyte"),
            ("CIFAR10", "cifar.download_and_extract_archive", "cifar-10-batches-py"),
            ("SVHN", "svhn.download_url", "train_32x32.mat, test_32x32.mat"),
            ("Food101", "food101.download_and_extract_archive", "its files"),
        ],
    )
    def test_no_network(
        self,
        name: str,
        where: str,
        files: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        def download(*_: Any, **__: Any) -> None:
            print("chatter")
            raise URLError("no route to host")

        monkeypatch.setattr(f"torchvision.datasets.{where}", download)
        said = message(TorchvisionImages(name=name, root=str(tmp_path)).prepare)
        for part in (name, "could not be downloaded", str(tmp_path), files, "set root"):
            assert part in said
        assert len(said.splitlines()) <= 2
        assert "set download" not in said
        assert capfd.readouterr().out == ""

    def test_damaged_files(self, tmp_path: Path) -> None:
        self.write_mnist(tmp_path)
        (tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03")
        said = message(lambda: TorchvisionImages(name="MNIST", root=str(tmp_path)).load("train"))
        assert f"MNIST (train) could not be read from {tmp_path}" in said

    def test_unknown_name(self) -> None:
        source = TorchvisionImages(name="cifar-10")
        said = message(lambda: source.load("train"))
        assert "name (cifar-10)" in said
        assert "CIFAR10" in said
        assert "FashionMNIST" in message(TorchvisionImages(name="??").prepare)

    def test_what_was_prepared_is_not_read_again(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        images, _ = self.write_mnist(tmp_path)["train"]
        source = TorchvisionImages(name="MNIST", root=str(tmp_path))
        source.prepare()
        with monkeypatch.context() as patched:
            patched.setattr(torchvision.datasets.MNIST, "__init__", lambda *_, **__: pytest.fail("read again"))
            np.testing.assert_array_equal(source.load("train", channels=1).images, images[..., None])
        np.testing.assert_array_equal(source.load("train", channels=1).images, images[..., None])

    def test_arrays_and_items(self, monkeypatch: pytest.MonkeyPatch) -> None:
        images = colors(5, 4, 4, 3)

        class Arrays:
            classes = ("cat", "dog")

            def __init__(self, root: Path, train: bool = True, download: bool = False) -> None:
                self.data, self.targets = (images, [0, 1, 0, 1, 1]) if train else (images[:2], [1, 0])

        class Items:
            def __init__(self, root: Path, split: str = "train", download: bool = False) -> None:
                self.data, self.targets = images.transpose(0, 3, 1, 2), [0] * len(images)
                self.label: Any = 2 if split == "train" else {"box": 1}

            def __len__(self) -> int:
                return len(images)

            def __getitem__(self, row: int) -> tuple[Image.Image, Any]:
                if row == len(images):
                    raise IndexError
                return Image.fromarray(images[row]), self.label

        monkeypatch.setattr(torchvision.datasets, "Arrays", Arrays, raising=False)
        monkeypatch.setattr(torchvision.datasets, "Items", Items, raising=False)
        arrays, items = TorchvisionImages(name="Arrays"), TorchvisionImages(name="Items")
        np.testing.assert_array_equal(arrays.load("train").images, images)
        np.testing.assert_array_equal(items.load("train").images, images)
        assert len(arrays.load("test")) == 2
        assert arrays.load("test").label_names == ["cat", "dog"]
        assert items.load("train").label_names == ["0", "1", "2"]
        assert "name (Items)" in message(lambda: items.load("test"))


class TestHuggingFaceImages:
    """Local parquet files and image folders."""

    @pytest.fixture(autouse=True)
    def _own_cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf_cache")

    @staticmethod
    def write(folder: Path, split: str, **columns: tuple[Any, list[Any]]) -> None:
        """A parquet file as the hub has it."""
        folder.mkdir(exist_ok=True)
        features = datasets.Features({name: feature for name, (feature, _) in columns.items()})
        rows = {name: values for name, (_, values) in columns.items()}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}-00000-of-00001.parquet")

    def write_both(self, folder: Path) -> np.ndarray:
        images, classes = colors(6, 5, 4, 3), datasets.ClassLabel(names=["cat", "dog"])
        for split, rows in (("train", slice(0, 4)), ("test", slice(4, 6))):
            pictures = [Image.fromarray(image) for image in images[rows]]
            labels = [0, 1, 1, 0, 1, 0][rows]
            self.write(folder, split, img=(datasets.Image(), pictures), label=(classes, labels))
        return images

    def test_parquet(self, tmp_path: Path) -> None:
        images = self.write_both(tmp_path / "set")
        source = HuggingFaceImages(path=str(tmp_path / "set"))
        source.prepare()
        train, test = loaded(source.load("train")), loaded(source.load("test", channels=1))
        np.testing.assert_array_equal(train.images, images[:4])
        assert test.images.shape == (2, 5, 4, 1)
        assert train.labels is not None
        assert train.labels.dtype == np.int64
        assert train.labels.tolist() == [0, 1, 1, 0]
        assert train.label_names == ["cat", "dog"]
        assert source.cache_dir is None

    def test_splits(self, tmp_path: Path) -> None:
        images = self.write_both(tmp_path / "set")
        source = HuggingFaceImages(path=str(tmp_path / "set"), train_split="train[1:3]", test_split=None)
        np.testing.assert_array_equal(loaded(source.load("train")).images, images[1:3])
        assert source.load("test") is None
        said = message(lambda: HuggingFaceImages(path=str(tmp_path / "set"), test_split="val").load("test"))
        for part in (str(tmp_path / "set"), "split (val)", "'train'", "test_split", "null"):
            assert part in said

    def test_image_folder(self, tmp_path: Path) -> None:
        images = colors(2, 3, 3, 3)
        save(tmp_path / "set" / "train" / "cat" / "a.png", images[0])
        save(tmp_path / "set" / "train" / "dog" / "b.png", images[1])
        found = loaded(HuggingFaceImages(path=str(tmp_path / "set")).load("train"))
        np.testing.assert_array_equal(found.images, images)
        assert found.label_names == ["cat", "dog"]

    def test_missing(self, tmp_path: Path) -> None:
        said = message(HuggingFaceImages(path=str(tmp_path / "nothing")).prepare)
        assert f"path ({tmp_path / 'nothing'})" in said
        assert len(said.splitlines()) == 2

    def test_columns(self, tmp_path: Path) -> None:
        folder = tmp_path / "set"
        pictures = [Image.fromarray(image) for image in colors(4, 3, 3, 3)]
        self.write(
            folder,
            "train",
            before=(datasets.Image(), pictures),
            after=(datasets.Image(), pictures[::-1]),
            fine=(datasets.ClassLabel(num_classes=4), [0, 1, 2, 3]),
            coarse=(datasets.ClassLabel(num_classes=2), [0, 1, 0, 1]),
            number=(datasets.Value("int32"), [0, 2, 1, 1]),
            unknown=(datasets.Value("int32"), [-1, -1, -1, -1]),
            gaps=(datasets.Value("int32"), [0, 1, None, 1]),
            partly=(datasets.Value("int32"), [0, -1, 0, 1]),
            text=(datasets.Value("string"), ["a", "b", "c", "d"]),
        )

        def load(image_column: str | None, label_column: str | None) -> ImageSet:
            source = HuggingFaceImages(path=str(folder), image_column=image_column, label_column=label_column)
            return loaded(source.load("train"))

        np.testing.assert_array_equal(load("after", "fine").images[0], np.asarray(pictures[3]))
        coarse, number = load("before", "coarse"), load("before", "number")
        assert coarse.labels is not None
        assert coarse.labels.tolist() == [0, 1, 0, 1]
        assert number.label_names == ["0", "1", "2"]
        unknown = load("before", "unknown")
        assert unknown.labels is None
        assert unknown.label_names is None
        for arguments, parts in (
            ((None, "fine"), ("image_column", "before (Image)", "after (Image)")),
            (("before", None), ("label_column", "fine (ClassLabel)", "coarse (ClassLabel)")),
            (("now", "fine"), ("image_column (now)", "before (Image)")),
            (("before", "class"), ("label_column (class)", "text (Value)")),
            (("number", "fine"), ("image_column (number)", "int32")),
            (("before", "gaps"), ("label_column (gaps)", "train, row 2", "None")),
            (("before", "partly"), ("label_column (partly)", "train, row 1", "-1")),
            (("before", "text"), ("label_column (text)", "train, row 0", "'a'")),
        ):
            said = message(lambda arguments=arguments: load(*arguments))  # type: ignore[misc]
            assert all(part in said for part in parts), said

    def test_no_image_column(self, tmp_path: Path) -> None:
        self.write(tmp_path / "set", "train", text=(datasets.Value("string"), ["a"]))
        said = message(lambda: HuggingFaceImages(path=str(tmp_path / "set")).load("train"))
        assert "image_column" in said
        assert "text (Value)" in said

    def test_pictures_without_labels_and_damaged_ones(self, tmp_path: Path) -> None:
        png = io.BytesIO()
        Image.fromarray(colors(3, 3, 3)).save(png, "png")
        good, bad = ({"bytes": data, "path": None} for data in (png.getvalue(), png.getvalue()[:40]))
        self.write(tmp_path / "good", "train", image=(datasets.Image(), [good] * 3))
        assert loaded(HuggingFaceImages(path=str(tmp_path / "good")).load("train")).labels is None
        self.write(tmp_path / "bad", "train", image=(datasets.Image(), [good, good, bad]))
        said = message(lambda: HuggingFaceImages(path=str(tmp_path / "bad")).load("train"))
        assert f"{tmp_path / 'bad'}, train, row 2" in said


class TestFolderImages:
    """One's own files."""

    def test_flat(self, tmp_path: Path) -> None:
        images = colors(3, 4, 5, 3)
        for name, image in zip(["b.png", "c.PNG", "a.bmp"], images, strict=True):
            save(tmp_path / name, image)
        (tmp_path / "notes.txt").write_text("no picture")
        (tmp_path / ".hidden.png").write_text("no picture")
        (tmp_path / ".cache").mkdir()
        source = FolderImages(root=str(tmp_path))
        found = loaded(source.load("train"))
        assert found.names == ["a.bmp", "b.png", "c.PNG"]
        np.testing.assert_array_equal(found.images, images[[2, 0, 1]])
        assert found.labels is None
        assert found.label_names is None
        assert source.load("test") is None
        assert source.cache_dir is None

    def test_classes_and_splits(self, tmp_path: Path) -> None:
        names = ["train/dog/1.png", "train/cat/more/3.png", "train/cat/2.png", "train/bee/4.png", "test/dog/5.png"]
        for value, name in enumerate(names):
            save(tmp_path / name, np.full((2, 2, 3), value, np.uint8))
        save(tmp_path / "train" / "cat" / ".checkpoints" / "6.png", np.zeros((9, 9), np.uint8))
        source = FolderImages(root=str(tmp_path))
        train, test = loaded(source.load("train")), loaded(source.load("test"))
        assert train.names == [names[3], names[2], names[1], names[0]]
        assert train.images[:, 0, 0, 0].tolist() == [3, 2, 1, 0]
        assert train.labels is not None
        assert train.labels.dtype == np.int64
        assert train.labels.tolist() == [0, 1, 1, 2]
        assert train.label_names == test.label_names == ["bee", "cat", "dog"]
        assert test.labels is not None
        assert test.labels.tolist() == [2]
        save(tmp_path / "test" / "owl" / "7.png", np.zeros((2, 2), np.uint8))
        said = message(lambda: source.load("test"))
        assert str(tmp_path / "test" / "owl") in said
        assert "['bee', 'cat', 'dog']" in said

    def test_unlabelled_test_pictures(self, tmp_path: Path) -> None:
        save(tmp_path / "train" / "cat" / "1.png", colors(2, 2, 3))
        save(tmp_path / "test" / "2.png", colors(2, 2, 3))
        assert loaded(FolderImages(root=str(tmp_path)).load("test")).labels is None

    def test_nothing_there(self, tmp_path: Path) -> None:
        for split in ("train", "test"):
            assert "root (/no/such) must be a folder" in message(lambda: FolderImages(root="/no/such").load(split))  # type: ignore[arg-type]  # noqa: B023
        source = FolderImages(root=str(tmp_path))
        said = message(lambda: source.load("train"))
        assert str(tmp_path) in said
        assert ".png" in said
        save(tmp_path / "cat" / "1.png", colors(2, 2, 3))
        (tmp_path / "dog").mkdir()
        (tmp_path / "dog" / "readme.txt").write_text("soon")
        assert f"{tmp_path / 'dog'} must hold pictures" in message(lambda: source.load("train"))

    def test_pictures_beside_classes(self, tmp_path: Path) -> None:
        save(tmp_path / "1.png", colors(2, 2, 3))
        save(tmp_path / "cat" / "2.png", colors(2, 2, 3))
        said = message(lambda: FolderImages(root=str(tmp_path)).load("train"))
        assert "1.png" in said
        assert "cat/" in said

    @pytest.mark.parametrize("place", [0, 299])
    def test_damaged_file_is_named(self, tmp_path: Path, place: int) -> None:
        for row in range(300):
            save(tmp_path / f"{row:03}.png", np.full((2, 2), row % 251, np.uint8))
        source = FolderImages(root=str(tmp_path))
        found = loaded(source.load("train", channels=1))
        assert found.images[:, 0, 0, 0].tolist() == [row % 251 for row in range(300)]
        broken = tmp_path / f"{place:03}.png"
        broken.write_bytes(broken.read_bytes()[:45])
        assert str(broken) in message(lambda: source.load("train"))
        broken.write_bytes(b"")
        assert str(broken) in message(lambda: source.load("train"))

    def test_sizes_that_differ(self, tmp_path: Path) -> None:
        for row in range(5):
            save(tmp_path / f"{row}.png", colors(4, 6 if row == 3 else 4, 3))
        source = FolderImages(root=str(tmp_path))
        said = message(lambda: source.load("train"))
        for part in (str(tmp_path / "3.png"), "4x6", str(tmp_path / "0.png"), "4x4", "set size"):
            assert part in said
        assert loaded(source.load("train", (4, 4))).images.shape == (5, 4, 4, 3)


class TestDecoding:
    """Pictures of every size and mode."""

    @staticmethod
    def decode(
        folder: Path, picture: np.ndarray | Image.Image, size: tuple[int, int] | None = None, channels: int = 3
    ) -> np.ndarray:
        save(folder / "picture.tif", picture)
        images: np.ndarray = loaded(FolderImages(root=str(folder)).load("train", size, channels)).images[0]
        return images

    def test_crop_about_the_centre(self, tmp_path: Path) -> None:
        wide = np.zeros((20, 60, 3), np.uint8)
        wide[:, 20:40] = 200
        np.testing.assert_array_equal(self.decode(tmp_path, wide, (20, 20)), np.full((20, 20, 3), 200))
        tall = wide.transpose(1, 0, 2).copy()
        np.testing.assert_array_equal(self.decode(tmp_path, tall, (20, 20)), np.full((20, 20, 3), 200))
        assert self.decode(tmp_path, wide, (5, 10)).shape == (5, 10, 3)
        assert self.decode(tmp_path, wide, (50, 40)).shape == (50, 40, 3)

    def test_shrinking_averages(self, tmp_path: Path) -> None:
        board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
        small = self.decode(tmp_path, board, (8, 8), 1)[1:-1, 1:-1]
        assert abs(small.astype(int) - 127).max() <= 2

    def test_same_size_changes_nothing(self, tmp_path: Path) -> None:
        image = colors(7, 9, 3)
        np.testing.assert_array_equal(self.decode(tmp_path, image, (7, 9)), image)

    def test_luma(self, tmp_path: Path) -> None:
        primaries = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]], np.uint8)
        assert self.decode(tmp_path, primaries, channels=1).reshape(-1).tolist() == [76, 150, 29, 255]

    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize(
        ("picture", "expected"),
        [
            (Image.new("1", (3, 2), 1), 255),
            (Image.new("L", (3, 2), 77), 77),
            (Image.new("RGB", (3, 2), (77, 77, 77)), 77),
            (Image.new("LA", (3, 2), (0, 0)), 255),
            (Image.new("RGBA", (3, 2), (10, 10, 10, 255)), 10),
            (Image.new("RGBA", (3, 2), (10, 200, 30, 0)), 255),
            (Image.new("RGBA", (3, 2), (0, 0, 0, 51)), 204),
            (Image.new("RGB", (3, 2), (50, 50, 50)).quantize(4), 50),
            (Image.new("CMYK", (3, 2), (0, 0, 0, 155)), 100),
            (Image.fromarray(np.full((2, 3), 100 * 257, np.uint16)), 100),
            (Image.fromarray(np.full((2, 3), 65535, np.int32)), 255),
        ],
        ids=["1", "L", "RGB", "LA", "opaque", "clear", "half", "P", "CMYK", "I;16", "I"],
    )
    def test_modes(self, tmp_path: Path, picture: Image.Image, expected: int, channels: int) -> None:
        found = self.decode(tmp_path, picture, channels=channels)
        np.testing.assert_array_equal(found, np.full((2, 3, channels), expected))

    def test_transparent_palette(self, tmp_path: Path) -> None:
        picture = Image.new("P", (2, 1))
        picture.putpalette([10, 20, 30, 40, 50, 60])
        picture.putpixel((1, 0), 1)
        picture.save(tmp_path / "a.png", transparency=0)
        found = loaded(FolderImages(root=str(tmp_path)).load("train")).images[0]
        assert found.tolist() == [[[255, 255, 255], [40, 50, 60]]]

    def test_orientation(self, tmp_path: Path) -> None:
        image = colors(2, 3, 3)
        exif = Image.Exif()
        exif[0x0112] = 6  # the camera was turned
        Image.fromarray(image).save(tmp_path / "a.png", exif=exif)
        found = loaded(FolderImages(root=str(tmp_path)).load("train")).images[0]
        np.testing.assert_array_equal(found, np.rot90(image, -1))

    @pytest.mark.parametrize("value", [np.float32(0.5), np.int32(70000), np.int32(-1)])
    def test_values_that_have_no_scale(self, tmp_path: Path, value: Any) -> None:
        said = message(lambda: self.decode(tmp_path, Image.fromarray(np.full((2, 2), value))))
        assert str(tmp_path / "picture.tif") in said
        assert "8 or 16 bits" in said


class TestDecodedOnce:
    """What took long to decode is kept, and never used once the files are others."""

    @pytest.fixture
    def kept(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Where pictures are kept, as if decoding any were slow."""
        monkeypatch.setattr(decode, "SLOW", 0.0)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf_cache")
        return tmp_path / "xdg" / "lt_cli"

    @pytest.fixture
    def decodings(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """What was decoded."""
        found: list[str] = []

        def stack(rows: Any, where: str, *options: Any) -> np.ndarray:
            found.append(where)
            return stack_pictures(rows, where, *options)

        monkeypatch.setattr(decode, "stack_pictures", stack)
        return found

    @staticmethod
    def write(root: Path, *images: np.ndarray, age: float = 60) -> None:
        """Files of some seconds ago."""
        for row, image in enumerate(images):
            path = save(root / f"{row}.png", image)
            os.utime(path, (time.time() - age,) * 2)

    def test_folder(self, tmp_path: Path, kept: Path, decodings: list[str]) -> None:
        images = colors(3, 4, 4, 3)
        self.write(tmp_path / "set", *images)
        source = FolderImages(root=str(tmp_path / "set"))
        for _ in range(3):
            np.testing.assert_array_equal(loaded(source.load("train")).images, images)
        assert len(decodings) == 1
        assert loaded(source.load("train", (2, 2))).images.shape == (3, 2, 2, 3)
        assert loaded(source.load("train", None, 1)).images.shape == (3, 4, 4, 1)
        assert len(decodings) == len(list(kept.iterdir())) == 3

    @pytest.mark.parametrize("change", ["content", "time", "less", "more", "name"])
    def test_changed_files(self, tmp_path: Path, kept: Path, decodings: list[str], change: str) -> None:
        root, images = tmp_path / "set", [*colors(3, 4, 4, 3)]
        self.write(root, *images)
        source = FolderImages(root=str(root))
        loaded(source.load("train"))
        if change == "content":
            images[1] = colors(4, 4, 3, seed=9)
        if change == "more":
            images.append(images[0])
        if change == "less":
            (root / "2.png").unlink()
            images.pop()
        self.write(root, *images, age=50 if change in ("time", "content") else 60)
        if change == "name":
            (root / "0.png").rename(root / "9.png")
            images = [*images[1:], images[0]]
        np.testing.assert_array_equal(loaded(source.load("train")).images, np.stack(images))
        assert len(decodings) == 2
        assert len(list(kept.iterdir())) == 1, "in place of what it was"

    def test_files_that_are_still_being_written(self, tmp_path: Path, kept: Path, decodings: list[str]) -> None:
        """Within a step of the file system's clock, another picture may have the same size and time."""
        self.write(tmp_path / "set", *colors(2, 4, 4, 3), age=0)
        for _ in range(2):
            loaded(FolderImages(root=str(tmp_path / "set")).load("train"))
        assert len(decodings) == 2
        assert not kept.exists()

    def test_what_is_decoded_at_once_is_not_kept(
        self, tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(decode, "SLOW", 60.0)
        self.write(tmp_path / "set", *colors(2, 4, 4, 3))
        loaded(FolderImages(root=str(tmp_path / "set")).load("train"))
        assert not kept.exists()

    def test_damage(self, tmp_path: Path, kept: Path, decodings: list[str]) -> None:
        images = colors(2, 4, 4, 3)
        self.write(tmp_path / "set", *images)
        source = FolderImages(root=str(tmp_path / "set"))
        loaded(source.load("train"))
        (file,) = kept.iterdir()
        content = bytearray(file.read_bytes())
        content[content.index(images.tobytes()) + 5] ^= 1
        file.write_bytes(content)
        with pytest.warns(UserWarning, match="is damaged"):
            np.testing.assert_array_equal(loaded(source.load("train")).images, images)
        np.testing.assert_array_equal(loaded(source.load("train")).images, images)
        assert len(decodings) == 2

    def test_parquet(self, tmp_path: Path, kept: Path, decodings: list[str]) -> None:
        images, path = colors(6, 5, 4, 3), str(tmp_path / "set")
        for seed in (0, 1):
            images = colors(6, 5, 4, 3, seed=seed)
            pictures = [Image.fromarray(image) for image in images]
            labels = (datasets.ClassLabel(names=["cat", "dog"]), [0, 1, 1, 0, 1, seed])
            TestHuggingFaceImages.write(tmp_path / "set", "train", img=(datasets.Image(), pictures), label=labels)
            os.utime(tmp_path / "set" / "train-00000-of-00001.parquet", (1e9 + seed,) * 2)
            for _ in range(2):
                found = loaded(HuggingFaceImages(path=path).load("train"))
                np.testing.assert_array_equal(found.images, images)
                assert found.labels is not None
                assert found.labels.tolist() == [0, 1, 1, 0, 1, seed]
            assert len(decodings) == seed + 1
        for _ in range(2):
            part = loaded(HuggingFaceImages(path=path, train_split="train[1:3]").load("train"))
            np.testing.assert_array_equal(part.images, images[1:3])
        assert len(decodings) == 3

    def test_pictures_that_the_dataset_only_names(self, tmp_path: Path, kept: Path, decodings: list[str]) -> None:
        """Its own files stay as they are when those change."""
        save(tmp_path / "set" / "train" / "cat" / "a.png", colors(3, 3, 3))
        for _ in range(2):
            loaded(HuggingFaceImages(path=str(tmp_path / "set")).load("train"))
        assert len(decodings) == 2
        assert not kept.exists()
