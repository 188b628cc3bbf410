"""Pictures as sequences of palette tokens, row by row."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray
from torch import Tensor

from lt_cli.data.base import Batch, DataModule, SplitName, run_seed
from lt_cli.data.images import ImageSet, ImageSource
from lt_cli.data.mapped import ManyPictures, is_too_large, memory_limit
from lt_cli.data.palette import Palette, fit_cached
from lt_cli.data.quantize import NearestColors, dequantize
from lt_cli.errors import UserError
from lt_cli.pictures import grid, save_png

PICTURED_ROWS = 32
"""Rows that the picture of predictions shows; the .npz holds them all."""
STAGES: dict[str, list[SplitName]] = {"fit": ["train", "val"], "validate": ["val"]}
STAGES |= {"test": ["test"], "predict": ["predict"]}
"""Which splits a stage of the trainer needs."""


class CropFlip:
    """Reflect-padded random crops and horizontal flips of token grids, a pure function of seed, epoch and row.

    Args:
        num_rows: Rows of the split.
        padding: Pixels reflected at each side before the crop.
        flip: Whether half of the pictures are mirrored.
        seed: Seed of all epochs.
    """

    def __init__(self, *, num_rows: int, padding: int, flip: bool, seed: int) -> None:
        """Draws nothing yet."""
        self.num_rows, self.padding, self.flip, self.seed = num_rows, padding, flip, seed
        self._epoch = -1
        self._down = self._right = torch.empty(0, dtype=torch.long)

    def __call__(self, grids: Tensor, rows: Tensor, epoch: int) -> Tensor:
        """These rows, as they look in this epoch.

        Shape:
            - grids: (B, H, W)
            - rows: (B,), int64
            - output: (B, H, W)
        """
        if epoch != self._epoch:
            self._draw(epoch)
        num_grids, height, width = grids.shape
        y = _crops(height, self.padding, flip=False).index_select(0, self._down.index_select(0, rows))
        y += torch.arange(0, num_grids * height, height)[:, None]  # lines are copied whole, which is fast
        lines = grids.reshape(-1, width).index_select(0, y.view(-1)).view(grids.shape)
        x = _crops(width, self.padding, self.flip).index_select(0, self._right.index_select(0, rows))
        return lines.gather(2, x[:, None].expand(grids.shape))

    def _draw(self, epoch: int) -> None:
        """Which crop each row has in this epoch, as numbers of ``_crops``."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        draws = torch.rand(self.num_rows, 3, generator=generator)
        self._down, self._right = (draws[:, :2] * (2 * self.padding + 1)).long().unbind(1)
        if self.flip:
            self._right = self._right + (draws[:, 2] < 0.5) * (2 * self.padding + 1)
        self._epoch = epoch


@cache
def _crops(size: int, padding: int, flip: bool) -> Tensor:
    """Positions within a line that each of its crops shows; then, if they flip, those of the mirrored crops.

    Positions beyond an end come back from it; the pixel at the end itself is not repeated.

    Shape:
        - output: (2 * padding + 1, size), or twice as many rows
    """
    positions = (torch.arange(size) + torch.arange(-padding, padding + 1)[:, None]).abs()
    positions = torch.where(positions >= size, 2 * (size - 1) - positions, positions)
    return torch.cat([positions, positions.flip(1)]) if flip else positions


class TokenSplit:
    """Token sequences of one split, as small integers, with labels where the pictures have them.

    Args:
        tokens: (N, H * W), uint8 or int16; of all pictures that a part was taken of, where ``images`` has ``rows``.
        images: The pictures' labels and names.
        shape: (H, W).
        augment: Applied to training rows.
        file: What the tokens are mapped from; None where they are in memory.
    """

    def __init__(
        self,
        tokens: NDArray[Any],
        images: ImageSet,
        shape: tuple[int, int],
        augment: CropFlip | None = None,
        file: Path | None = None,
    ) -> None:
        """Keeps the tokens and lets go of the pixels."""
        self.tokens = torch.from_numpy(tokens)
        self.rows = None if images.rows is None else torch.from_numpy(images.rows)
        self.file = file
        self.labels = None if images.labels is None else torch.from_numpy(images.labels)
        self.names = images.names
        self.shape = shape
        self.augment = augment

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.tokens if self.rows is None else self.rows)

    def batch(self, rows: Sequence[int], epoch: int) -> Batch:
        """``index`` (B,), ``input_ids`` (B, H * W), and ``labels`` (B,) where there are any."""
        index = torch.from_numpy(np.array(rows, np.int64))  # a third of the time that torch takes for a list
        tokens = self.tokens.index_select(0, index if self.rows is None else self.rows.index_select(0, index))
        if self.augment is not None:
            tokens = self.augment(tokens.view(-1, *self.shape), index, epoch).flatten(1)
        batch = {"index": index, "input_ids": tokens.long()}
        if self.labels is not None:
            batch["labels"] = self.labels.index_select(0, index)
        return batch


class PixelData(DataModule):
    """Pictures of any source as palette tokens, exact and computed once, in float32, outside the training step.

    Args:
        source: Where the pictures come from.
        palette: Which colours there are, and so the vocabulary.
        size: Height and width in pixels that pictures are scaled and cropped to; null keeps theirs.
        channels: 1 for grey, 3 for colour.
        val_fraction: Part of the training pictures kept for validation, chosen by split_seed.
        split_seed: Seed of that choice; the run's own seed does not change it.
        crop_padding: Pixels by which training pictures are reflect-padded before a random crop; 0 for no crop.
        flip: Whether half of the training pictures are mirrored.
        predict_source: Pictures for predict; null takes the test split, or validation where there is none.
        memory_limit: GiB of decoded pictures up to which a set is kept in memory; a larger one becomes a file of tokens
            in the cache directory, of which batches read what they need. 0 makes a file of every set.
        batch_size: Pictures per batch and process.
        num_workers: Processes that fetch batches; 0 is fastest for tokens in memory.

    Raises:
        UserError: If a fraction or padding is out of range, or a split is missing or empty.
    """

    def __init__(
        self,
        *,
        source: ImageSource,
        palette: Palette,
        size: tuple[int, int] | None = None,
        channels: Literal[1, 3] = 1,
        val_fraction: float = 0.1,
        split_seed: int = 0,
        crop_padding: int = 0,
        flip: bool = False,
        predict_source: ImageSource | None = None,
        memory_limit: float = 4.0,
        batch_size: int = 64,
        num_workers: int = 0,
    ) -> None:
        """Reads nothing."""
        super().__init__(batch_size=batch_size, num_workers=num_workers)
        if not 0 < val_fraction < 1:
            raise UserError(f"val_fraction ({val_fraction}) must be above 0 and below 1")
        if split_seed < 0:
            raise UserError(f"split_seed ({split_seed}) must not be negative")
        if crop_padding < 0:
            raise UserError(f"crop_padding ({crop_padding}) must not be negative")
        if not memory_limit >= 0:
            raise UserError(f"memory_limit ({memory_limit}) must not be negative")
        self.source, self.palette, self.predict_source = source, palette, predict_source
        self.size, self.channels = size, channels
        self.val_fraction, self.split_seed = val_fraction, split_seed
        self.crop_padding, self.flip = crop_padding, flip
        self.memory_limit = memory_limit
        self.centroids: NDArray[np.float32] | None = None
        self.image_shape: tuple[int, int] | None = None
        self._loaded: dict[str, ImageSet] = {}

    @property
    def vocab_size(self) -> int | None:  # type: ignore[override]
        """Colours of the palette."""
        return None if self.centroids is None else len(self.centroids)

    @property
    def max_seq_len(self) -> int | None:  # type: ignore[override]
        """Pixels of a picture."""
        return None if self.image_shape is None else self.image_shape[0] * self.image_shape[1]

    def prepare_data(self) -> None:
        """Downloads, fits and caches the palette, and writes what is too large for memory, on one process."""
        self.source.prepare()
        if self.predict_source is not None:
            self.predict_source.prepare()
        if self.centroids is None and self.palette.learned:
            self._fit_palette()
        stage = None if self.trainer is None else self.trainer.state.fn
        wanted = [] if stage is None else [name for name in STAGES[stage] if name not in self.splits]
        if many := [name for name in wanted if isinstance(self._images(name).images, ManyPictures)]:
            nearest = self._nearest_colors()
            for name in many:  # other processes wait for this hook as long as it takes, which they do for no other
                self._tokenize(name, nearest)

    def setup(self, stage: str) -> None:
        """Quantises the splits that the stage needs and does not have yet."""
        nearest = self._nearest_colors()
        for name in STAGES[stage]:
            if name not in self.splits:
                self.splits[name] = self._tokenize(name, nearest)
        self._loaded.clear()

    def state_dict(self) -> dict[str, Any]:
        """What was learned: colours, size of the pictures, label names."""
        return {
            "centroids": None if self.centroids is None else torch.from_numpy(self.centroids),
            "image_shape": self.image_shape,
            "label_names": self.label_names,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over what was learned; ``setup`` then fits nothing."""
        self.centroids = None if state_dict["centroids"] is None else state_dict["centroids"].numpy()
        self.image_shape = None if state_dict["image_shape"] is None else tuple(state_dict["image_shape"])
        self.label_names = state_dict["label_names"]

    def to_images(self, tokens: Tensor | NDArray[Any]) -> NDArray[np.uint8]:
        """Tokens (..., H * W) to pictures (..., H, W, C), uint8."""
        assert self.centroids is not None
        assert self.image_shape is not None
        tokens = tokens.cpu().numpy() if isinstance(tokens, Tensor) else tokens
        return dequantize(tokens, self.centroids, *self.image_shape)

    def describe(self) -> list[str]:
        """Sizes, and label counts of each split."""
        lines = []
        splits = {name: split for name, split in self.splits.items() if isinstance(split, TokenSplit)}
        for name, split in splits.items():
            line = f"{name}: {len(split):,} pictures"
            if split.labels is not None and self.label_names is not None:
                counts = Counter(split.labels.tolist())
                line += " · " + " ".join(f"{label} {counts[i]:,}" for i, label in enumerate(self.label_names))
            lines.append(line)
        for file in dict.fromkeys(split.file for split in splits.values() if split.file is not None):
            names = ", ".join(name for name, split in splits.items() if split.file == file)
            lines.append(f"{names}: {file.stat().st_size:,} bytes of tokens, mapped from {file}")
        if self.image_shape is not None:
            lines.append("each {} × {}, {} colours".format(*self.image_shape, self.vocab_size))
        return lines

    def preview(self, batch: Batch, directory: Path) -> list[str]:
        """Draws a batch as the model sees it and says where."""
        pictures = self.to_images(batch["input_ids"][:PICTURED_ROWS])
        return [f"a batch: {save_png(grid(pictures, num_columns=8), directory / 'batch.png')}"]

    def write_predictions(
        self, columns: dict[str, list[Any]], directory: Path, format: Literal["csv", "jsonl"]
    ) -> list[Path]:
        """Completions as a picture and an .npz of tokens; any other prediction as rows, with file names."""
        split = self.splits["predict"]
        assert isinstance(split, TokenSplit)
        if "completions" in columns:
            return self._write_completions(columns, directory)
        if split.names is not None:
            columns = {"file": [split.names[i] for i in columns["index"]], **columns}
        return super().write_predictions(columns, directory, format)

    def _write_completions(self, columns: dict[str, list[Any]], directory: Path) -> list[Path]:
        tokens = {name: np.asarray(columns[name]) for name in ("index", "input_ids", "completions", "prompt_len")}
        np.savez_compressed(directory / "completions.npz", allow_pickle=False, **tokens)
        shown = {name: values[:PICTURED_ROWS] for name, values in tokens.items()}
        inputs = self.to_images(shown["input_ids"])
        hidden = np.arange(shown["input_ids"].shape[1]) >= shown["prompt_len"][:, None]
        masked = np.where(hidden.reshape(*inputs.shape[:3], 1), np.uint8(127), inputs)
        pictures = np.concatenate([inputs[:, None], masked[:, None], self.to_images(shown["completions"])], axis=1)
        sheet = grid(pictures.reshape(-1, *inputs.shape[1:]), num_columns=pictures.shape[1])
        if len(tokens["index"]) > PICTURED_ROWS:
            rank_zero_info(f"completions.png shows the first {PICTURED_ROWS} of {len(tokens['index'])} rows")
        return [save_png(sheet, directory / "completions.png"), directory / "completions.npz"]

    def _fit_palette(self) -> None:
        self.centroids = fit_cached(self.palette, self._images("train").images, self.source.cache_dir)

    def _nearest_colors(self) -> NearestColors:
        if self.centroids is None:
            self._fit_palette()
        if self.palette.num_colors not in (None, self.vocab_size):
            raise UserError(
                f"the palette has {self.palette.num_colors} colours, the run that goes on learned {self.vocab_size}: "
                f"set --data.palette.num_colors={self.vocab_size}, or start a new run"
            )
        assert self.centroids is not None
        return NearestColors(self.centroids)

    def _images(self, name: str) -> ImageSet:
        """The pictures of a split; train and val are parts of the source's training pictures."""
        if name not in self._loaded:
            if name in ("train", "val"):
                self._loaded.update(self._split(self._load(self.source, "train")))
            elif name == "test":
                self._loaded[name] = self._load(self.source, "test")
            elif self.predict_source is not None:
                source = self.predict_source
                images = self._load_any(source, "test")
                self._loaded[name] = images if images is not None else self._load(source, "train")
            else:
                images = self._load_any(self.source, "test")
                self._loaded[name] = images if images is not None else self._images("val")
        return self._loaded[name]

    def _load(self, source: ImageSource, split: Literal["train", "test"]) -> ImageSet:
        images = self._load_any(source, split)
        if images is None:
            raise UserError(f"{type(source).__name__} has no {split} pictures")
        return images

    def _load_any(self, source: ImageSource, split: Literal["train", "test"]) -> ImageSet | None:
        with memory_limit(self.memory_limit * 2**30):
            images = source.load(split, self._target_size(), self.channels)
            if images is not None and isinstance(images.images, np.ndarray) and is_too_large(images.images.shape):
                images = replace(images, images=ManyPictures.of(images.images, source.cache_dir))
        return images

    def _target_size(self) -> tuple[int, int] | None:
        """Pictures come in the size that was asked for or learned, so that one's own fit without a word."""
        return self.size or self.image_shape

    def _split(self, images: ImageSet) -> dict[str, ImageSet]:
        num_val = round(len(images) * self.val_fraction)
        if not 0 < num_val < len(images):
            raise UserError(
                f"val_fraction ({self.val_fraction}) of {len(images)} pictures leaves a split empty: "
                "set --data.val_fraction or give more pictures"
            )
        order = np.random.default_rng(self.split_seed).permutation(len(images))
        if self.image_shape is None:
            self.image_shape = (images.images.shape[1], images.images.shape[2])
        if self.label_names is None:
            self.label_names = images.label_names
        train, val = np.sort(order[num_val:]), np.sort(order[:num_val])
        if isinstance(images.images, ManyPictures):
            images.images.first = train
        return {"train": images.take(train), "val": images.take(val)}

    def _tokenize(self, name: str, nearest: NearestColors) -> TokenSplit:
        images = self._images(name)
        if name == "predict":
            images = replace(images, labels=None)
        elif images.labels is not None and images.label_names != self.label_names:
            raise UserError(f"labels of {name} ({images.label_names}) are not those of training ({self.label_names})")
        shape = (images.images.shape[1], images.images.shape[2])
        if shape != self.image_shape:
            raise UserError(
                f"pictures of {name} have size {shape}, the training pictures {self.image_shape}: set --data.size"
            )
        augment = None
        if name == "train" and (self.crop_padding or self.flip):
            if self.crop_padding >= min(shape):
                raise UserError(
                    f"crop_padding ({self.crop_padding}) must be less than the pictures' side ({min(shape)})"
                )
            augment = CropFlip(num_rows=len(images), padding=self.crop_padding, flip=self.flip, seed=run_seed())
        if isinstance(images.images, np.ndarray):
            return TokenSplit(nearest.quantize(images.images), images, shape, augment)
        checks = self.trainer is None or self.trainer.local_rank == 0
        tokens, file = images.images.tokens(nearest, checks)
        return TokenSplit(tokens, images, shape, augment, file)
