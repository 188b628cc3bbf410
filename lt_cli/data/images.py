"""Where pictures come from: each source is a class that loads a split as one uint8 array."""

import contextlib
import difflib
import inspect
import io
import os
import re
import textwrap
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageOps

from lt_cli.errors import UserError

TrainOrTest = Literal["train", "test"]
Size = tuple[int, int] | None
SUFFIXES = (".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class ImageSet:
    """The pictures of one split, and what is known about them.

    Attributes:
        images: (N, H, W, C), uint8; C is 1 (grey) or 3 (RGB).
        labels: (N,), int64 in [0, number of classes), or None where pictures have no labels.
        label_names: Class names in the order of their indices, or None.
        names: File names relative to the source's root, or None where pictures are not files.
    """

    images: np.ndarray
    labels: np.ndarray | None = None
    label_names: list[str] | None = None
    names: list[str] | None = None

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.images)

    def take(self, rows: np.ndarray) -> "ImageSet":
        """The pictures with these row numbers, in this order."""
        labels = None if self.labels is None else self.labels[rows]
        names = None if self.names is None else [self.names[row] for row in rows]
        return ImageSet(self.images[rows], labels, self.label_names, names)


class ImageSource(ABC):
    """A place that pictures come from; constructing one reads nothing."""

    @property
    def cache_dir(self) -> Path | None:
        """Where results computed from these pictures may be kept; None stands for the user's cache directory."""
        return None

    def prepare(self) -> None:  # noqa: B027  # most sources have nothing to download
        """Downloads what is missing; called on one process."""

    @abstractmethod
    def load(self, split: TrainOrTest, size: Size = None, channels: int = 3) -> ImageSet | None:
        """Reads one split, or returns None where the source has no such split.

        Args:
            split: ``train`` or ``test``.
            size: Height and width to scale (the shorter side) and crop (the longer one, about its centre) to;
                None leaves pictures as they are, and then all must have one size.
            channels: 1 for grey (ITU-R 601-2 luma), 3 for RGB.

        Raises:
            UserError: If a picture does not decode, or sizes differ while ``size`` is None.
        """


class Digits(ImageSource):
    """1797 handwritten digits, 8x8 pixels (Alpaydin & Kaynak 1998, in scikit-learn); the last 360 are for testing."""

    def load(self, split: TrainOrTest, size: Size = None, channels: int = 3) -> ImageSet:
        """The digits, with their 17 grey levels spread over 0..255."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        rows = slice(None, -360) if split == "train" else slice(-360, None)
        grey = np.rint(digits.images[rows, ..., None] * (255 / 16)).astype(np.uint8)
        images = stack_pictures(grey, f"Digits, {split}", size, channels)
        return ImageSet(images, digits.target[rows].astype(np.int64), [str(digit) for digit in range(10)])


class TorchvisionImages(ImageSource):
    """A classification set of torchvision.datasets that has train and test splits: MNIST, CIFAR10, SVHN, ...

    Args:
        name: Class name in torchvision.datasets.
        root: Directory that holds the set, or that it is downloaded to.
        download: Whether to download what is missing.
    """

    def __init__(self, *, name: str, root: str = "data", download: bool = True) -> None:
        """Reads nothing."""
        self.name, self.root, self.download = name, Path(root).expanduser(), download

    @property
    def cache_dir(self) -> Path:
        """The directory that holds the set."""
        return self.root

    def prepare(self) -> None:
        """Downloads both splits, or checks that they are there."""
        for split in ("train", "test"):
            self._dataset(split, download=self.download)

    def load(self, split: TrainOrTest, size: Size = None, channels: int = 3) -> ImageSet:
        """The split at once where torchvision holds it as an array, else picture by picture."""
        dataset = self._dataset(split, download=False)
        rows: Any = np.asarray(getattr(dataset, "data", None))
        try:
            if rows.dtype == np.uint8 and rows.shape[3:] in ((), (1,), (3,)) and hasattr(dataset, "targets"):
                rows, labels = rows.reshape(*rows.shape[:3], -1), np.asarray(dataset.targets, np.int64)
            else:
                pairs = [(_decode(image, size, channels), int(label)) for image, label in dataset]
                rows, labels = [image for image, _ in pairs], np.array([label for _, label in pairs])
        except (AttributeError, TypeError, ValueError) as error:
            raise UserError(f"name ({self.name}) must be a set whose pictures have one label each") from error
        names = [str(name) for name in getattr(dataset, "classes", range(labels.max() + 1))]
        return ImageSet(stack_pictures(rows, f"{self.name}, {split}", size, channels), labels, names)

    def _dataset(self, split: str, download: bool) -> Any:
        from torchvision import datasets

        known = {name: inspect.signature(cls).parameters for name, cls in inspect.getmembers(datasets, inspect.isclass)}
        names = {name.lower(): name for name, of in known.items() if "download" in of and {"train", "split"} & set(of)}
        if self.name not in names.values():
            close = difflib.get_close_matches(self.name.lower(), names, cutoff=0.5)
            choice = " or ".join(names[name] for name in close) or "one of " + ", ".join(names.values())
            raise UserError(f"name ({self.name}) must be a class of torchvision.datasets with train and test: {choice}")
        cls = getattr(datasets, self.name)
        which = {"train": split == "train"} if "train" in known[self.name] else {"split": split}
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                return cls(self.root, download=download, **which)
        except Exception as error:  # whatever torchvision trips over, the cure is the same
            failed = f"{self.name} ({split}) could not be {'downloaded to' if download else 'read from'} {self.root}"
            cure = "" if self.download else "set download to true, "
            cure += f"set root to a directory that has it, or put {_torchvision_files(cls, self.root)}"
            raise UserError(f"{failed}: {_one_line(error)}\n{cure}") from error


class HuggingFaceImages(ImageSource):
    """A dataset of the Hugging Face hub, or a local directory of parquet files or pictures, read by ``datasets``.

    Args:
        path: Name on the hub, or a directory.
        config_name: Configuration of the dataset, where it has several.
        image_column: Column of the pictures; found by its type where only one is of type Image.
        label_column: Column of the classes; found by its type where only one is of type ClassLabel.
        train_split: Split to train on; may be a slice, such as ``train[:1000]``.
        test_split: Split to test on, or null for none.
    """

    def __init__(
        self,
        *,
        path: str,
        config_name: str | None = None,
        image_column: str | None = None,
        label_column: str | None = None,
        train_split: str = "train",
        test_split: str | None = "test",
    ) -> None:
        """Reads nothing."""
        self.path, self.config_name = path, config_name
        self.image_column, self.label_column = image_column, label_column
        self.split_names = {"train": train_split, "test": test_split}

    def prepare(self) -> None:
        """Downloads the dataset, and converts it into files that load at once."""
        self._dataset(None)

    def load(self, split: TrainOrTest, size: Size = None, channels: int = 3) -> ImageSet | None:
        """The split from the cache of ``datasets``; its labels are None where it marks all as unknown (-1)."""
        import datasets

        if (split_name := self.split_names[split]) is None:
            return None
        dataset, where = self._dataset(split_name), f"{self.path}, {split_name}"
        column = self._column(dataset.features, "image_column", self.image_column, datasets.Image)
        try:
            rows = dataset.cast_column(column, datasets.Image(decode=False))[column]
        except (TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"image_column ({column}) must hold pictures; it has {dataset.features[column]}") from error
        column = self._column(dataset.features, "label_column", self.label_column, datasets.ClassLabel)
        labels = dataset[column][:] if column else []
        if all(label in (None, -1) for label in labels):
            return ImageSet(stack_pictures(rows, where, size, channels))
        if odd := [row for row, label in enumerate(labels) if not isinstance(label, int) or label < 0]:
            raise UserError(f"label_column ({column}) must hold classes; {where}, row {odd[0]} has {labels[odd[0]]!r}")
        names = getattr(dataset.features[column], "names", [str(label) for label in range(max(labels) + 1)])
        return ImageSet(stack_pictures(rows, where, size, channels), np.array(labels), names)

    def _dataset(self, split_name: str | None) -> Any:
        import datasets

        try:
            return datasets.load_dataset(self.path, self.config_name, split=split_name)
        except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
            named = f"path ({self.path}), config_name ({self.config_name}), split ({split_name})"
            cure = "set path to a name on the hub or a directory, train_split and test_split to its splits or null"
            raise UserError(f"{named} could not be loaded: {_one_line(error)}\n{cure}") from error

    def _column(self, features: dict[str, Any], argument: str, given: str | None, kind: type) -> str | None:
        found = [name for name, feature in features.items() if isinstance(feature, kind)]
        if given in features or (given is None and not found and argument == "label_column"):
            return given
        if given is None and len(found) == 1:
            return found[0]
        columns = ", ".join(f"{name} ({type(feature).__name__})" for name, feature in features.items())
        raise UserError(f"{argument} ({given}) must be set to one of the columns of {self.path}: {columns}")


class FolderImages(ImageSource):
    """One's own pictures: files in a folder, or in one sub-folder per class; under train/ and test/ where they exist.

    Classes are those of the training pictures, by sorted name; files come in sorted order. Hidden files, and
    files that are no pictures by their suffix, do not count.

    Args:
        root: The folder.
    """

    def __init__(self, *, root: str) -> None:
        """Reads nothing."""
        self.root = Path(root).expanduser()

    def load(self, split: TrainOrTest, size: Size = None, channels: int = 3) -> ImageSet | None:
        """The files of the split, with the classes that their folders say."""
        if not self.root.is_dir():
            raise UserError(f"root ({self.root}) must be a folder of pictures; there is none")
        splits = {name: self.root / name for name in ("train", "test") if (self.root / name).is_dir()}
        if (folder := (splits or {"train": self.root}).get(split)) is None:
            return None
        classes, own = _folders(splits.get("train", folder)), _folders(folder)
        files, labels = _files(folder, "*"), []
        if files and own:
            raise UserError(f"{folder} must hold pictures or class folders, not both: {files[0].name} and {own[0]}/")
        for name in own:
            if name not in classes:
                raise UserError(f"{folder / name}: {name!r} must be one of the training pictures' classes {classes}")
            if not (found := _files(folder / name, "**/*")):
                raise UserError(f"{folder / name} must hold pictures ({' '.join(SUFFIXES)}); add some or remove it")
            files += found
            labels += [classes.index(name)] * len(found)
        if not files:
            raise UserError(f"{folder} must hold pictures ({' '.join(SUFFIXES)}); set root to a folder that does")
        names = [path.relative_to(self.root).as_posix() for path in files]
        images = stack_pictures(files, str(folder), size, channels)
        return ImageSet(images, np.array(labels), classes, names) if own else ImageSet(images, names=names)


def stack_pictures(rows: Any, where: str, size: Size, channels: int) -> np.ndarray:
    """Every picture with one size and number of channels.

    Args:
        rows: What slices into arrays (H, W, C), PIL images, paths, or dicts with ``bytes`` or a ``path``.
        where: What messages call the rows, where these are no paths.
        size: As in ``ImageSource.load``.
        channels: As in ``ImageSource.load``.

    Shape:
        - output: (N, H, W, C), uint8
    """
    if channels not in (1, 3):
        raise UserError(f"channels ({channels}) must be 1 (grey) or 3 (RGB)")
    if size is not None and min(size) < 1:
        raise UserError(f"size {size} must be a height and a width of at least 1 pixel")
    if len(rows) == 0:
        raise UserError(f"{where}: there are no pictures")
    if isinstance(rows, np.ndarray) and rows.shape[3] == channels and size in (None, rows.shape[1:3]):
        return rows

    def place(row: int) -> str:
        return str(rows[row]) if isinstance(rows[row], Path) else f"{where}, row {row}"

    def decode(row: int, picture: Any) -> np.ndarray:
        try:
            return _decode(picture, size, channels)
        except Exception as error:  # Pillow raises many kinds
            raise UserError(f"{place(row)} is no readable picture ({_one_line(error)}); mend or remove it") from error

    first = decode(0, rows[:1][0])
    images = np.empty((len(rows), *first.shape), np.uint8)
    chunk = 256  # one at a time, small pictures would make the threads wait for each other

    def fill(start: int) -> None:
        for row, picture in enumerate(rows[start : start + chunk], start):
            image = decode(row, picture)
            if image.shape != first.shape:
                sizes = "{}x{} pixels, {} has {}x{}".format(*image.shape[:2], place(0), *first.shape[:2])
                raise UserError(f"{place(row)} has {sizes}: set size to the height and width that all shall have")
            images[row] = image

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        list(pool.map(fill, range(0, len(rows), chunk)))
    return images


def _decode(picture: Any, size: Size, channels: int) -> np.ndarray:
    """One picture of any kind and mode: (H, W, C), uint8."""
    if isinstance(picture, dict):
        picture = picture["bytes"] or Path(picture["path"])
    if isinstance(picture, Path):
        picture = picture.read_bytes()
    if isinstance(picture, bytes):
        picture = Image.open(io.BytesIO(picture))
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(picture.squeeze(-1) if picture.shape[-1] == 1 else picture)
    image: Image.Image = ImageOps.exif_transpose(picture)
    if image.mode[0] in "IF":  # Pillow would clip these to 8 bits
        levels = np.asarray(image)
        if image.mode == "F" or levels.min() < 0 or levels.max() > 65535:
            raise ValueError("its values must be integers of 8 or 16 bits")
        image = Image.fromarray(np.rint(levels / 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = (image if image.mode == "L" else image.convert("RGB")).convert("L" if channels == 1 else "RGB")
    if size is not None:
        image = ImageOps.fit(image, (size[1], size[0]), Image.Resampling.BICUBIC)
    return np.asarray(image).reshape(image.height, image.width, channels)


def _folders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _files(folder: Path, pattern: str) -> list[Path]:
    found = [path for path in folder.glob(pattern) if path.suffix.lower() in SUFFIXES and path.is_file()]
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def _one_line(error: Exception) -> str:
    text = re.sub(r" <[^>]* object at 0x\w+>", "", str(error))
    return textwrap.shorten(text, 200, placeholder=" ...")


def _torchvision_files(cls: Any, root: Path) -> str:
    """What must lie where for torchvision to find a set, so far as its class says it."""
    if hasattr(cls, "resources"):
        return f"{', '.join(Path(name).stem for name, _ in cls.resources)} into {root / cls.__name__ / 'raw'}"
    if hasattr(cls, "split_list"):
        return f"{', '.join(cls.split_list[split][1] for split in ('train', 'test'))} into {root}"
    return f"the folder {cls.base_folder} into {root}" if hasattr(cls, "base_folder") else f"its files into {root}"
