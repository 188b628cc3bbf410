"""Where pictures come from: each source is a class that loads a split as one uint8 array."""

import contextlib
import difflib
import inspect
import io
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lt_cli.data.decode import Origin, Size, decode, decode_once, stack_pictures, state_of
from lt_cli.data.mapped import ManyPictures
from lt_cli.errors import UserError, one_line

TrainOrTest = Literal["train", "test"]
SUFFIXES = (".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class ImageSet:
    """The pictures of one split, and what is known about them.

    Attributes:
        images: (N, H, W, C), uint8; C is 1 (grey) or 3 (RGB). ``ManyPictures`` only within ``memory_limit``.
        labels: (N,), int64 in [0, number of classes), or None where pictures have no labels.
        label_names: Class names in the order of their indices, or None.
        names: File names relative to the source's root, or None where pictures are not files.
        rows: Which of ``images`` these are; None for all. Labels and names are those of these rows.
    """

    images: np.ndarray | ManyPictures
    labels: np.ndarray | None = None
    label_names: list[str] | None = None
    names: list[str] | None = None
    rows: np.ndarray | None = None

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.images if self.rows is None else self.rows)

    def take(self, rows: np.ndarray) -> "ImageSet":
        """The pictures with these row numbers, in this order; copied where they are in memory."""
        labels = None if self.labels is None else self.labels[rows]
        names = None if self.names is None else [self.names[row] for row in rows]
        if isinstance(self.images, ManyPictures):
            return ImageSet(
                self.images, labels, self.label_names, names, rows if self.rows is None else self.rows[rows]
            )
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
        self._read: dict[str, Any] = {}

    @property
    def cache_dir(self) -> Path:
        """The directory that holds the set."""
        return self.root

    def prepare(self) -> None:
        """Downloads both splits, or checks that they are there."""
        for split in ("train", "test"):
            try:
                self._read[split] = self._dataset(split, download=False)
            except UserError:
                if not self.download:
                    raise
                self._read[split] = self._dataset(split, download=True)

    def load(self, split: TrainOrTest, size: Size = None, channels: int = 3) -> ImageSet:
        """The split at once where torchvision holds it as an array, else picture by picture."""
        dataset = self._read.pop(split) if split in self._read else self._dataset(split, download=False)
        rows: Any = np.asarray(getattr(dataset, "data", None))
        try:
            if rows.dtype == np.uint8 and rows.shape[3:] in ((), (1,), (3,)) and hasattr(dataset, "targets"):
                rows, labels = rows.reshape(*rows.shape[:3], -1), np.asarray(dataset.targets, np.int64)
            else:
                pairs = [(decode(image, size, channels), int(label)) for image, label in dataset]
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
            raise UserError(f"{failed}: {one_line(error)}\n{cure}") from error


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
        pictures = self._column(dataset.features, "image_column", self.image_column, datasets.Image)
        try:
            rows = dataset.cast_column(pictures, datasets.Image(decode=False))[pictures]
        except (TypeError, ValueError, RuntimeError) as error:
            kind = dataset.features[pictures]
            raise UserError(f"image_column ({pictures}) must hold pictures; it has {kind}") from error
        column = self._column(dataset.features, "label_column", self.label_column, datasets.ClassLabel)
        labels = dataset[column][:] if column else []
        origin = Origin([self.path, self.config_name, split_name, pictures], _state(dataset, pictures), self.cache_dir)
        if all(label in (None, -1) for label in labels):
            return ImageSet(decode_once(rows, where, size, channels, origin))
        if odd := [row for row, label in enumerate(labels) if not isinstance(label, int) or label < 0]:
            raise UserError(f"label_column ({column}) must hold classes; {where}, row {odd[0]} has {labels[odd[0]]!r}")
        names = getattr(dataset.features[column], "names", [str(label) for label in range(max(labels) + 1)])
        return ImageSet(decode_once(rows, where, size, channels, origin), np.array(labels), names)

    def _dataset(self, split_name: str | None) -> Any:
        import datasets

        try:
            return datasets.load_dataset(self.path, self.config_name, split=split_name)
        except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
            named = f"path ({self.path}), config_name ({self.config_name}), split ({split_name})"
            cure = "set path to a name on the hub or a directory, train_split and test_split to its splits or null"
            raise UserError(f"{named} could not be loaded: {one_line(error)}\n{cure}") from error

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
        classes, own = sub_folders(splits.get("train", folder)), sub_folders(folder)
        files, labels = picture_files(folder, "*"), []
        if files and own:
            raise UserError(f"{folder} must hold pictures or class folders, not both: {files[0].name} and {own[0]}/")
        for name in own:
            if name not in classes:
                raise UserError(f"{folder / name}: {name!r} must be one of the training pictures' classes {classes}")
            if not (found := picture_files(folder / name, "**/*")):
                raise UserError(f"{folder / name} must hold pictures ({' '.join(SUFFIXES)}); add some or remove it")
            files += found
            labels += [classes.index(name)] * len(found)
        if not files:
            raise UserError(f"{folder} must hold pictures ({' '.join(SUFFIXES)}); set root to a folder that does")
        names = [path.relative_to(self.root).as_posix() for path in files]
        origin = Origin([str(self.root.resolve()), split], state_of(files), self.cache_dir)
        images = decode_once(files, str(folder), size, channels, origin)
        return ImageSet(images, np.array(labels), classes, names) if own else ImageSet(images, names=names)


def _state(dataset: Any, column: str | None) -> str | None:
    """The files of ``datasets``, which it writes once for each state of the pictures; None if they only name others."""
    content = dataset.data.column(column)
    if not str(content.type).startswith("struct") or any(chunk.field("bytes").null_count for chunk in content.chunks):
        return None
    files = [Path(file["filename"]) for file in dataset.cache_files]
    return state_of(files, written_once=True) if files else None


def sub_folders(folder: Path) -> list[str]:
    """Names of the folders within one that are not hidden, sorted."""
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def picture_files(folder: Path, pattern: str) -> list[Path]:
    """Files of a pattern that are pictures by their names and not hidden, sorted."""
    found = [path for path in folder.glob(pattern) if path.suffix.lower() in SUFFIXES and path.is_file()]
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def _torchvision_files(cls: Any, root: Path) -> str:
    """What must lie where for torchvision to find a set, so far as its class says it."""
    if hasattr(cls, "resources"):
        return f"{', '.join(Path(name).stem for name, _ in cls.resources)} into {root / cls.__name__ / 'raw'}"
    if hasattr(cls, "split_list"):
        return f"{', '.join(cls.split_list[split][1] for split in ('train', 'test'))} into {root}"
    return f"the folder {cls.base_folder} into {root}" if hasattr(cls, "base_folder") else f"its files into {root}"
