"""Pictures with a label each: a class, several classes, or a score."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.transforms import v2

from lt_cli.data.base import Batch, SplitName
from lt_cli.data.labeled_inputs import LabeledInputs
from lt_cli.data.labels import Labels, OneLabel
from lt_cli.data.picture_split import Cut, PictureSplit
from lt_cli.data.row_sources import RowSource
from lt_cli.data.rows import Row, field_of, with_field
from lt_cli.errors import UserError
from lt_cli.pictures import grid, save_png

SHOWN = 32
"""Pictures of a batch that the first page draws."""


class LabeledImages(LabeledInputs):
    """Rows of files to batches of pictures with labels, decoded as they are needed, and predictions to files.

    The classes are exactly those of the training rows, sorted. Pictures are colours of 8 bits until the backbone scales
    them; what augments them at random is a function of seed, epoch and row, so that a run resumes exactly.

    Args:
        source: Where the pictures come from: lt_cli.data.image_rows.ClassFolders or ImageSets,
            lt_cli.data.row_sources.TableFiles or HubRows, lt_cli.data.numpy_rows.NumpyFiles.
        labels: What a label is: lt_cli.data.labels.OneLabel, SeveralLabels, or Score.
        image_column: Column of the pictures: names of files, or the pictures themselves.
        label_column: Column of the label; predictions are written there.
        image_folder: Folder that names of files begin in; null for the working directory.
        size: Height and width in pixels that the backbone sees; null for what the backbone is made for.
        train_transforms: Changes of training pictures, of torchvision.transforms.v2, one after the other, before what
            is larger or smaller than size is scaled to it; null for a random part, mirrored at random; [] for none.
        eval_transforms: The same for all other pictures; null for none.
        mixup: Strength of mixtures of two training pictures and their labels (Zhang et al. 2017,
            https://arxiv.org/abs/1710.09412), such as 0.2; 0 for none.
        cutmix: Strength of pasting a part of one training picture into another (Yun et al. 2019,
            https://arxiv.org/abs/1905.04899), such as 1; 0 for none. With mixup too, each batch has one of the two.
        stratify: Whether what is held out has each class's share.
        val_fraction: Part of the training rows kept for validation; null for 0.1, or none where the source has its own.
        test_fraction: The same for test; null for none.
        split_seed: Seed of that choice; the run's own seed does not change it.
        batch_size: Rows per batch and process.
        num_workers: Processes that decode pictures; 0 decodes in the training process.

    Raises:
        UserError: If an option is out of range, a split is missing, or a row has no picture, or no label that is known.
    """

    input_dtype = torch.uint8

    def __init__(
        self,
        *,
        source: RowSource,
        labels: Labels | None = None,
        image_column: str = "image",
        label_column: str = "label",
        image_folder: str | None = None,
        size: tuple[int, int] | None = None,
        train_transforms: list[nn.Module] | None = None,
        eval_transforms: list[nn.Module] | None = None,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        stratify: bool = True,
        val_fraction: float | None = None,
        test_fraction: float | None = None,
        split_seed: int = 0,
        batch_size: int = 32,
        num_workers: int = 0,
    ) -> None:
        """Reads nothing."""
        super().__init__(
            source=source,
            labels=labels,
            label_column=label_column,
            stratify=stratify,
            val_fraction=val_fraction,
            test_fraction=test_fraction,
            split_seed=split_seed,
            batch_size=batch_size,
            num_workers=num_workers,
        )
        if image_column == label_column:
            raise UserError(f"image_column and label_column ({label_column}) must be different columns")
        if size is not None and min(size) < 1:
            raise UserError(f"size {list(size)} must be a height and a width of at least 1 pixel")
        for name, strength in (("mixup", mixup), ("cutmix", cutmix)):
            if strength < 0:
                raise UserError(f"{name} ({strength}) must be above 0, or 0 for none")
            if strength and not isinstance(self.labels, OneLabel):
                raise UserError(
                    f"{name} ({strength}) must be 0 with {type(self.labels).__name__}: it mixes two classes"
                )
        for name, transforms in (("train_transforms", train_transforms), ("eval_transforms", eval_transforms)):
            if any(isinstance(transform, v2.Normalize) for transform in transforms or []):
                raise UserError(f"{name} must not have Normalize, as backbones do it: leave it out")
        self.image_column = image_column
        self.image_folder = Path() if image_folder is None else Path(image_folder).expanduser()
        self.train_transforms, self.eval_transforms = train_transforms, eval_transforms or []
        self.mixup, self.cutmix = mixup, cutmix
        self.size = size
        self.cut = Cut(size)

    @property
    def input_shape(self) -> tuple[int, ...] | None:  # type: ignore[override]
        """Colours, height and width, where somebody has said the size."""
        return None if self.cut.size is None else (3, *self.cut.size)

    def suit(self, *, size: tuple[int, int], resize: int, interpolation: str) -> None:
        """Takes over how a backbone wants pictures cut out; a size of one's own shows as much of each as it can."""
        self.cut.interpolation = interpolation
        if self.size is None:
            self.cut.size, self.cut.resize = size, resize

    def examples(self, rows: list[Row], split: SplitName) -> PictureSplit:
        """Pictures that are decoded later, with their labels."""
        training = split == "train"
        labels = self.targets(rows, split)
        return PictureSplit(
            [self._picture(row) for row in rows],
            [row.place for row in rows],
            cut=self.cut,
            transforms=self.train_transforms if training else self.eval_transforms,
            mix=self._mix() if training else None,
            labels=labels,
        )

    def _picture(self, row: Row) -> Any:
        """What a row has in the pictures' column; the path of a file, which must be there."""
        value = field_of(row, self.image_column)
        if isinstance(value, str | Path):
            path = self.image_folder / value
            if not value or not path.is_file():
                raise UserError(
                    f"{row.place}: {self.image_column} ({value}) must be a file, and there is none in "
                    f"{self.image_folder.resolve()}: correct it, or say the folder with --data.image_folder"
                )
            return path
        if value is None or isinstance(value, bool | int | float):
            raise UserError(f"{row.place}: {self.image_column} must be a picture or a file's name, not {value!r:.80}")
        if isinstance(value, np.ndarray):
            is_picture = value.ndim == 2 or (value.ndim == 3 and value.shape[2] in (1, 3, 4))
            if value.dtype != np.uint8 or not is_picture:
                raise UserError(
                    f"{row.place}: {self.image_column} must be an array (H, W) or (H, W, C), uint8, C 1, 3 or 4, not "
                    f"{value.shape}, {value.dtype}"
                )
        return value

    def _mix(self) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None:
        kinds = {v2.MixUp: self.mixup, v2.CutMix: self.cutmix}
        wanted = [kind(alpha=alpha, num_classes=len(self.label_names or [])) for kind, alpha in kinds.items() if alpha]
        return v2.RandomChoice(wanted) if wanted else None

    def fields_of(self, item: Any) -> dict[str, Any]:
        """A row from Python: a file's name, an array (H, W, C), a picture of Pillow, or a mapping with the columns."""
        return item if isinstance(item, dict) else {self.image_column: item}

    def pictures(self, split: SplitName, rows: Sequence[int]) -> NDArray[np.uint8]:
        """Rows of a split as the model sees them in evaluation, (N, H, W, 3)."""
        return np.stack([_shown(picture) for picture in self.splits[split].batch(rows, 0)["inputs"]])

    def preview(self, batch: Batch, directory: Path) -> list[str]:
        """Draws a batch as the model sees it and says where."""
        pictures = np.stack([_shown(picture) for picture in batch["inputs"][:SHOWN]])
        return [f"a batch: {save_png(grid(pictures, num_columns=8), directory / 'batch.png')}"]

    def describe(self) -> list[str]:
        """Rows and labels of each split, and how large pictures are."""
        size = "each {} × {} pixels".format(*self.cut.size) if self.cut.size is not None else "of any size"
        return [*super().describe(), size]

    def write_predictions(self, columns: dict[str, list[Any]], directory: Path, format: Any) -> list[Path]:
        """The predicted rows; pictures that are no files by their places, and without any others."""
        self.rows["predict"] = [self._without_pictures(row) for row in self.rows["predict"]]
        return super().write_predictions(columns, directory, format)

    def _without_pictures(self, row: Row) -> Row:
        fields = row.fields
        if not isinstance(field_of(row, self.image_column), str):
            fields = with_field(fields, self.image_column, row.place)
        return Row({name: value for name, value in fields.items() if not callable(value)}, row.place)


def _shown(picture: Tensor) -> NDArray[np.uint8]:
    """A picture (3, H, W) of a batch as (H, W, 3), uint8."""
    levels = (picture.clamp(0, 1) * 255).round().to(torch.uint8) if picture.is_floating_point() else picture
    return levels.permute(1, 2, 0).numpy()
