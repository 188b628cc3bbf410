"""Pictures as rows: of class folders, or of a set that comes as a whole."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_info

from lt_cli.data.base import SplitName
from lt_cli.data.held_out import SPLIT_NAMES
from lt_cli.data.images import SUFFIXES, ImageSource, TrainOrTest, picture_files, sub_folders
from lt_cli.data.row_sources import RowSource
from lt_cli.data.rows import Row
from lt_cli.errors import UserError


class ClassFolders(RowSource):
    """A folder for each class, whose name is the label of the pictures in it, at any depth.

    Rows have the columns ``image``, the file's name, and ``label``; predictions go into a .csv of these. Hidden files
    do not count.

    Args:
        path: Folder of the class folders; or of folders called train, val (also valid, validation, dev) and test that
            have them. null where only predict_path is read.
        predict_path: Folder of pictures to predict, at any depth; null for those of test, or of validation.
    """

    def __init__(self, path: str | None = None, *, predict_path: str | None = None) -> None:
        """Reads nothing."""
        self.path = None if path is None else Path(path).expanduser()
        self.predict_path = None if predict_path is None else Path(predict_path).expanduser()

    def has(self, split: SplitName) -> bool:
        """Whether it has a folder."""
        return self._folder(split) is not None

    def rows(self, split: SplitName) -> list[Row] | None:
        """The pictures of a split, by class and name."""
        folder = self._folder(split)
        if folder is None:
            return None
        if split == "predict":
            files = picture_files(folder, "**/*")
            if not files:
                raise UserError(
                    f"source.predict_path ({folder}) must have pictures ({' '.join(SUFFIXES)}), and has none"
                )
            return [Row({"image": str(file)}, str(file)) for file in files]
        loose, classes = picture_files(folder, "*"), sub_folders(folder)
        if not classes:
            taken = f" (taken for the split {split})" if folder != self.path else ""
            raise UserError(f"{folder}{taken} must have a folder for each class, with its pictures in it, and has none")
        if loose:
            raise UserError(
                f"{folder} must have class folders only, or folders of splits, and has the picture {loose[0].name} "
                f"beside {classes[0]}/: move it into the folder of its class"
            )
        rows = []
        for name in classes:
            files = picture_files(folder / name, "**/*")
            if not files:
                raise UserError(
                    f"{folder / name} has no picture ({' '.join(SUFFIXES)}): add some, or remove the folder"
                )
            rows += [Row({"image": str(file), "label": name}, str(file)) for file in files]
        if split == "train":
            _say_left_out(folder, len(rows))
            self._say_no_splits()
        return rows

    def _say_no_splits(self) -> None:
        """What lies beside the folders of splits."""
        assert self.path is not None
        splits = [folder.name for names in SPLIT_NAMES.values() if (folder := _named(self.path, names)) is not None]
        others = [name for name in sub_folders(self.path) if name not in splits] if splits else []
        if "train" in splits or "training" in splits:
            for name in others:
                rank_zero_info(f"{self.path / name} is left out, as its name is no split's")

    def _folder(self, split: SplitName) -> Path | None:
        option, path = ("predict_path", self.predict_path) if split == "predict" else ("path", self.path)
        if path is None:
            if split == "train":
                raise UserError("source.path (null) must name a folder to train on: set --data.source.path")
            return None
        if not path.is_dir():
            raise UserError(
                f"source.{option} ({path}) must be a folder of pictures, and there is none: correct the path"
            )
        if split == "predict":
            return path
        splits = {known: _named(path, names) for known, names in SPLIT_NAMES.items()}
        if splits["train"] is None:
            return path if split == "train" else None
        return splits[split]


def _named(folder: Path, names: Sequence[str]) -> Path | None:
    """The folder with one of these names."""
    found = [folder / name for name in names if (folder / name).is_dir()]
    if len(found) > 1:
        raise UserError(f"{folder} has {found[0].name}/ and {found[1].name}/, where one must be the split: rename one")
    return found[0] if found else None


def _say_left_out(folder: Path, number: int) -> None:
    """Files that are no pictures by their names."""
    every = sum(1 for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    if every > number:
        rank_zero_info(f"{every - number:,} files in {folder} are left out, as their names do not end as a picture's")


class ImageSets(RowSource):
    """A set of pictures that comes as a whole, such as CIFAR-10 of torchvision, with its test split.

    Args:
        images: The set; its pictures are held in memory.
    """

    def __init__(self, images: ImageSource) -> None:
        """Reads nothing."""
        self.images = images
        self._rows: dict[SplitName, list[Row] | None] = {}

    def prepare(self) -> None:
        """Downloads what is missing."""
        self.images.prepare()

    def has(self, split: SplitName) -> bool:
        """Whether the set has the split, which only reading it tells."""
        return self.rows(split) is not None

    def rows(self, split: SplitName) -> list[Row] | None:
        """The pictures of train or test; there is no other split."""
        if split not in ("train", "test"):
            return None
        if split not in self._rows:
            self._rows[split] = self._read(split)
        return self._rows[split]

    def _read(self, split: TrainOrTest) -> list[Row] | None:
        found = self.images.load(split)
        if found is None:
            return None
        name = getattr(self.images, "name", type(self.images).__name__)
        rows = []
        for i, image in enumerate(found.images):
            fields: dict[str, Any] = {"image": image}
            if found.labels is not None and found.label_names is not None:
                fields["label"] = found.label_names[found.labels[i]]
            rows.append(Row(fields, f"{name}, {split}, row {i}" if found.names is None else found.names[i]))
        return rows
