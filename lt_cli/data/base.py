"""What every datamodule shares: resumable loaders over splits, learned state, predictions written back."""

import csv
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, Trainer
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lt_cli.data.buckets import LengthSampler
from lt_cli.data.rows import write_jsonl
from lt_cli.data.sampler import BatchSampler, State
from lt_cli.dtensors import shares_out
from lt_cli.errors import UserError

SplitName = Literal["train", "val", "test", "predict"]
Batch = dict[str, Any]


def run_seed() -> int:
    """The seed of this run, which ``--seed_everything`` sets on every process; 0 where nothing did."""
    return int(os.environ.get("PL_GLOBAL_SEED", "0"))


class Split(Protocol):
    """The rows of one split, fetched a batch at a time.

    A batch is a dict; ``index`` holds the row numbers. What is drawn at random (crops, flips) is a pure
    function of the epoch and the row, so that a resumed run sees what an uninterrupted one does.
    """

    def __len__(self) -> int:
        """Number of rows."""
        ...

    def batch(self, rows: Sequence[int], epoch: int) -> Batch:
        """The rows with these numbers, as they look in this epoch."""
        ...


@runtime_checkable
class PictureData(Protocol):
    """What a task over pixel tokens asks of its data.

    Attributes:
        image_shape: Height and width of the pictures; None before ``setup``.
    """

    image_shape: tuple[int, int] | None

    def to_images(self, tokens: Tensor) -> NDArray[np.uint8]:
        """Tokens (..., H * W) to pictures (..., H, W, C)."""
        ...


@runtime_checkable
class TextData(Protocol):
    """What a language model asks of its data.

    Attributes:
        tokens_per_byte: Tokens to predict for each byte of text, by stage; filled in ``setup``.
        start_id: The token that begins a text.
        end_id: The token that ends one.
        mask_id: The token to fill in, where rows are masked; None where the next token is predicted.
        separate_documents: Whether rows say where documents begin, which see nothing of one another.
    """

    tokens_per_byte: dict[str, float]
    separate_documents: bool

    @property
    def start_id(self) -> int:
        """See above."""
        ...

    @property
    def end_id(self) -> int:
        """See above."""
        ...

    @property
    def mask_id(self) -> int | None:
        """See above."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens."""
        ...

    def shows(self, text: str) -> bool:
        """Whether ``decode`` can ever have a text in what it gives."""
        ...

    def place(self, index: int) -> str:
        """What messages call the row of a prompt."""
        ...


@runtime_checkable
class InputData(Protocol):
    """What a task over ``inputs`` asks of its data: rows of a table, or pictures.

    Attributes:
        input_shape: Shape of a row's input: (F,) or (C, H, W); None where nobody has said it yet.
        input_dtype: Of the batch's ``inputs``.
    """

    input_shape: tuple[int, ...] | None
    input_dtype: torch.dtype


@runtime_checkable
class PictureInputs(Protocol):
    """What a task over pictures also asks of its data."""

    def suit(self, *, size: tuple[int, int], resize: int, interpolation: str) -> None:
        """Takes over how a backbone wants pictures cut out, where the user does not say it.

        Args:
            size: Height and width in pixels.
            resize: Shorter side in pixels, of which the middle is then cut out.
            interpolation: ``nearest``, ``bilinear``, ``bicubic`` or ``lanczos``.
        """
        ...

    def pictures(self, split: SplitName, rows: Sequence[int]) -> NDArray[np.uint8]:
        """Rows of a split as the model sees them in evaluation, (N, H, W, 3)."""
        ...


class _Rows(Dataset[Batch | UserError]):
    """A split as torch's DataLoader wants it: one item is a whole batch."""

    def __init__(self, split: Split) -> None:
        self.split = split

    def __getitem__(self, key: tuple[int, list[int]]) -> Batch | UserError:
        epoch, rows = key
        try:
            return self.split.batch(rows, epoch)
        except UserError as error:  # returned, as torch would put a worker's traceback into the message
            return error


class Loader:
    """Batches of one split; iterating after ``load_state_dict`` goes on in the middle of the epoch.

    Not a subclass of torch's DataLoader but at most a user of it: Lightning rebuilds DataLoaders in predict, under
    DDP and when overfitting, and leaves any other iterable as it is.

    Args:
        split: The rows.
        sampler: The order.
        num_workers: Processes that fetch batches; 0 fetches in this one.
        pin_memory: Whether batches are put where a GPU copies from fastest.
    """

    def __init__(self, split: Split, sampler: BatchSampler, *, num_workers: int = 0, pin_memory: bool = False) -> None:
        """Starts at row 0."""
        self.sampler = sampler  # Lightning calls its set_epoch
        self.batch_sampler = None  # Lightning asks for it where there is a sampler
        self._rows = _Rows(split)
        self._loader: DataLoader[Batch | UserError] | None = None  # it would cost more than fetching tokens does
        if num_workers or pin_memory:
            self._loader = DataLoader(
                self._rows,
                sampler=sampler,  # its items are batches of row numbers
                batch_size=None,
                num_workers=num_workers,
                pin_memory=pin_memory,
                persistent_workers=num_workers > 0,
                generator=torch.Generator(),  # of its own, so that iterating draws nothing from the global one
            )
        self._state: State = {"epoch": 0, "rows": 0}
        self._resuming = False

    @property
    def batches_done(self) -> int:
        """Batches of the epoch that are done, counted in those of this loader, so that the rest is still to come."""
        return len(self.sampler) - self.sampler.batches_left(self._state)

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        """The batches of the current epoch; once after ``load_state_dict``, those that it still has."""
        self._state = state = self.sampler.begin(self._state if self._resuming else None)
        self._resuming = False
        for batch in map(self._rows.__getitem__, self.sampler) if self._loader is None else self._loader:
            if isinstance(batch, UserError):
                raise batch
            self._state = state = self.sampler.after(state)
            yield batch

    def state_dict(self) -> State:
        """Epoch, number of rows handed out in it over all processes, and what else their order follows from."""
        return dict(self._state)

    def load_state_dict(self, state: State) -> None:
        """Makes the next iteration, if it is over the same epoch, begin after the rows already handed out."""
        self._state = dict(state)
        self._resuming = True


def write_rows(columns: dict[str, list[Any]], path: Path) -> Path:
    """Writes equally long columns, row by row, as the suffix says: .csv or .jsonl; returns the path."""
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    if path.suffix != ".csv":
        return write_jsonl(rows, path)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(columns))
        writer.writeheader()
        writer.writerows(rows)
    return path


class DataModule(LightningDataModule, ABC):
    """Files to batches, and predictions back to files.

    A subclass fills ``splits`` in ``setup``; what it learns from the training data (label names, palette,
    tokenizer) goes through ``state_dict``, and ``setup`` never overwrites what was loaded.

    Args:
        batch_size: Rows per batch and process.
        num_workers: Processes that fetch batches; 0 fetches in the training process.

    Attributes:
        splits: The rows of each split, by name.
        vocab_size: Distinct tokens the data holds, or None where it has none.
        max_seq_len: Longest sequence of tokens, or None.
        label_names: Class names in the order of their indices, or None.
        tokens_per_batch: At most so many tokens, padding included, in a batch of one process; None for no limit. A
            subclass whose rows have ``lengths`` may set it.
        has_own_format: Whether predictions are written as its files are, so that nobody can choose a format.
    """

    vocab_size: int | None = None
    max_seq_len: int | None = None
    label_names: list[str] | None = None
    tokens_per_batch: int | None = None
    has_own_format: bool = False

    def __init__(self, *, batch_size: int = 64, num_workers: int = 0) -> None:
        """Checks the sizes; reads nothing."""
        super().__init__()
        if batch_size < 1:
            raise UserError(f"batch_size ({batch_size}) must be at least 1")
        if num_workers < 0:
            raise UserError(f"num_workers ({num_workers}) must not be negative")
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.splits: dict[SplitName, Split] = {}

    @abstractmethod
    def setup(self, stage: str) -> None:
        """Fills ``splits`` for Lightning's stage fit, validate, test or predict; cheap, on every process."""

    def lengths(self, name: SplitName) -> NDArray[np.int64] | None:
        """Tokens of each row of a split, for batches of rows of about one length; None for any rows in a batch."""
        return None

    def describe(self) -> list[str]:
        """Lines for the page before the first step: sizes, label counts, sample rows."""
        return [f"{name}: {len(split):,} rows" for name, split in self.splits.items()]

    def preview(self, batch: Batch, directory: Path) -> list[str]:
        """Lines that show a batch as the model sees it; may write pictures into the run's directory."""
        return []

    def write_predictions(
        self, columns: dict[str, list[Any]], directory: Path, format: Literal["csv", "jsonl"]
    ) -> list[Path]:
        """Writes one row per prediction, in input order, and returns the files it wrote.

        Args:
            columns: Equally long columns, ``index`` among them.
            directory: An existing directory.
            format: ``csv`` or ``jsonl``.
        """
        return [write_rows(columns, directory / f"predictions.{format}")]

    def given(self, items: Sequence[Any]) -> tuple[Split, list[dict[str, Any]]]:
        """Rows from Python to predict, and their fields as files have them."""
        raise UserError(f"{type(self).__name__} takes no rows from Python: predict from the command line")

    def with_predictions(
        self, fields: Sequence[dict[str, Any]], columns: Mapping[str, list[Any]]
    ) -> list[dict[str, Any]]:
        """The fields of rows with what was predicted of them, from equally long columns."""
        names = [name for name in columns if name != "index"]
        values = zip(*(columns[name] for name in names), strict=True)
        return [row | dict(zip(names, some, strict=True)) for row, some in zip(fields, values, strict=True)]

    def loader(self, name: SplitName) -> Loader:
        """The one place where a split becomes batches, for every stage and number of processes."""
        if name not in self.splits:
            raise UserError(f"{type(self).__name__} has no {name!r} split; it has {sorted(self.splits)}")
        trainer = self.trainer
        sampler = self._sampler(name, trainer)
        if trainer is not None:
            _refuse_unshareable(name, sampler, self.tokens_per_batch, trainer)
        on_gpu = trainer is not None and trainer.strategy.root_device.type == "cuda"
        return Loader(self.splits[name], sampler, num_workers=self.num_workers, pin_memory=on_gpu)

    def _sampler(self, name: SplitName, trainer: Trainer | None) -> BatchSampler:
        training, lengths = name == "train", self.lengths(name)
        shuffle = training and not getattr(trainer, "overfit_batches", 0)
        rank, world_size = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        if lengths is None:
            if self.tokens_per_batch is not None:
                raise UserError(
                    f"tokens_per_batch ({self.tokens_per_batch}) has no meaning for {name}, whose rows "
                    f"{type(self).__name__} knows no lengths of: use --data.batch_size"
                )
            return BatchSampler(
                num_rows=len(self.splits[name]),
                batch_size=self.batch_size,
                shuffle=shuffle,
                even=training,
                seed=run_seed(),
                rank=rank,
                world_size=world_size,
            )
        if len(lengths) != len(self.splits[name]):
            raise ValueError(f"{name} has {len(self.splits[name])} rows, but {len(lengths)} lengths")
        return LengthSampler(
            lengths=lengths,
            batch_size=self.batch_size,
            tokens_per_batch=self.tokens_per_batch,
            shuffle=shuffle,
            even=training,
            seed=run_seed(),
            rank=rank,
            world_size=world_size,
        )

    def train_dataloader(self) -> Loader:
        """Shuffled batches of ``train``."""
        return self.loader("train")

    def val_dataloader(self) -> Loader:
        """Batches of ``val``, in order."""
        return self.loader("val")

    def test_dataloader(self) -> Loader:
        """Batches of ``test``, in order."""
        return self.loader("test")

    def predict_dataloader(self) -> Loader:
        """Batches of ``predict``, in order."""
        return self.loader("predict")


def _refuse_unshareable(name: SplitName, sampler: BatchSampler, tokens_per_batch: int | None, trainer: Trainer) -> None:
    """Every process needs a row; where they share out the weights too, a row of each evaluated batch.

    Or who has a batch more would wait for ever for the weights of the others.
    """
    rows, processes = sampler.num_rows, trainer.world_size
    if rows < processes:
        raise UserError(f"{name} has {rows} rows, fewer than the {processes} processes: use --trainer.devices={rows}")
    limit = getattr(trainer, f"limit_{name}_batches", 1.0)

    def reached(batches: int) -> int:
        return min(batches, limit) if isinstance(limit, int) else int(batches * limit)

    if (
        shares_out(trainer.strategy)
        and name != "train"
        and reached(sampler.shared_batches) < reached(sampler.global_batches)
    ):
        option = "batch_size" if tokens_per_batch is None else "tokens_per_batch"
        raise UserError(
            f"{name} has {rows} rows, so that the last batch has {rows % processes} for {processes} processes, all of "
            f"which must have one where they share out the weights: use another --data.{option}"
        )
