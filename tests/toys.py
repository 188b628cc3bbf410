"""Tiny pictures, models and trainers that several tests share."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from lt_cli.backbones.base import Backbone
from lt_cli.backbones.gpt import GPT
from lt_cli.data.base import Batch, DataModule
from lt_cli.data.decode import stack_pictures
from lt_cli.data.images import ImageSet, ImageSource
from lt_cli.data.palette import GreyLevels
from lt_cli.data.pixels import PixelData
from lt_cli.data.row_sources import RowSource
from lt_cli.data.rows import Row, write_jsonl
from lt_cli.data.text_sources import TextSource
from lt_cli.errors import UserError
from lt_cli.tasks.base import Stage, Task


def message(call: Callable[[], Any]) -> str:
    """What a mistake is told."""
    with pytest.raises(UserError) as caught:
        call()
    return str(caught.value)


def slow_tokens(images: np.ndarray, centroids: np.ndarray) -> list[list[int]]:
    """The definition, a pixel and a colour at a time."""
    tokens = []
    for image in images:
        row = []
        for pixel in image.reshape(-1, image.shape[-1]):
            values = [float(np.float32(value) / np.float32(255)) for value in pixel]
            distances = [sum((v - float(c)) ** 2 for v, c in zip(values, color, strict=True)) for color in centroids]
            row.append(distances.index(min(distances)))
        tokens.append(row)
    return tokens


class Pictures(ImageSource):
    """Random pictures; what is loaded is counted."""

    def __init__(
        self,
        *,
        num_train: int = 40,
        num_test: int = 12,
        size: tuple[int, int] = (4, 4),
        label_names: Sequence[str] | None = ("cat", "dog"),
        test_label_names: Sequence[str] | None = None,
        named: bool = False,
        seed: int = 0,
    ) -> None:
        self.numbers = {"train": num_train, "test": num_test}
        self.size, self.named, self.seed = size, named, seed
        self.label_names = {"train": label_names, "test": test_label_names or label_names}
        self.loads: list[str] = []
        self.prepared = 0

    def prepare(self) -> None:
        self.prepared += 1

    def load(self, split: Any, size: tuple[int, int] | None = None, channels: int = 3) -> ImageSet | None:
        self.loads.append(split)
        number, names = self.numbers[split], self.label_names[split]
        if not number:
            return None
        generator = np.random.default_rng([self.seed, split == "test"])
        pictures = generator.integers(256, size=(number, *self.size, channels), dtype=np.uint8)
        labels = None if names is None else generator.integers(len(names), size=number)
        files = [f"{split}/{row:03}.png" for row in range(number)] if self.named else None
        images = stack_pictures(pictures, split, size, channels)
        return ImageSet(images, labels, None if names is None else list(names), files)


def pixel_data(source: ImageSource | None = None, **options: Any) -> PixelData:
    """Random pictures in five grey levels."""
    return PixelData(
        **{"source": source or Pictures(), "palette": GreyLevels(num_colors=5), "batch_size": 8, **options}
    )


def ready(data: PixelData, *stages: str) -> PixelData:
    """The data as a trainer would set it up."""
    data.prepare_data()
    for stage in stages or ("fit",):
        data.setup(stage)
    return data


def tiny_gpt(**options: Any) -> GPT:
    """A GPT for 4x4 pictures in five colours, whose output is not at zero."""
    gpt = GPT(
        **{"vocab_size": 5, "max_seq_len": 16, "embed_dim": 8, "num_heads": 2, "num_layers": 2, "bias": True} | options
    )
    for parameter in gpt.parameters():
        nn.init.normal_(parameter, std=0.4)
    return gpt


class Sentences(TextSource):
    """Random sentences of letters; what is read is counted.

    Args:
        num_documents: Documents of the training split.
        num_test: Documents of the test split; 0 for none.
    """

    def __init__(self, num_documents: int = 40, num_test: int = 8) -> None:
        self.numbers = {"train": num_documents, "test": num_test}
        self.reads: list[str] = []

    def documents(self, split: Any) -> list[str] | None:
        if not self.numbers.get(split):
            return None
        self.reads.append(split)
        generator = np.random.default_rng(split == "test")

        def word() -> str:
            return "".join(generator.choice(list("aeinrst"), generator.integers(1, 8)))

        words = [[word() for _ in range(generator.integers(8, 20))] for _ in range(self.numbers[split])]
        return [" ".join(sentence) + "." for sentence in words]


class Questions(RowSource):
    """Random words, and questions that name one of them, whose answer is the word behind it; some name none.

    Args:
        num_train: Questions to train on.
        num_test: Questions of the test split; 0 for none.
        num_words: Words of a context.
        unanswerable: How many of ten questions have no answer.
    """

    def __init__(self, num_train: int = 60, num_test: int = 12, num_words: int = 9, unanswerable: int = 2) -> None:
        self.numbers = {"train": num_train, "test": num_test}
        self.num_words, self.unanswerable = num_words, unanswerable

    def rows(self, split: Any) -> list[Row] | None:
        if not self.numbers.get(split):
            return None
        generator = np.random.default_rng(split == "test")
        return [Row(self._fields(i, generator), f"{split}, row {i}") for i in range(self.numbers[split])]

    def _fields(self, number: int, generator: np.random.Generator) -> dict[str, Any]:
        words = ["".join(generator.choice(list("aeinrst"), generator.integers(2, 6))) for _ in range(self.num_words)]
        place = int(generator.integers(self.num_words - 1))
        fields = {"id": str(number), "context": " ".join(words), "question": f"{words[place]}?"}
        if number % 10 < self.unanswerable:
            return {**fields, "question": "xyz?", "answers": {"text": [], "answer_start": []}}
        start = len(" ".join(words[: place + 1])) + 1
        return {**fields, "answers": {"text": [words[place + 1]], "answer_start": [start]}}

    def write(self, rows: Sequence[dict[str, Any]], split: Any, directory: Path) -> list[Path]:
        return [write_jsonl(rows, directory / "predictions.jsonl")]


class RandomRows(RowSource):
    """Rows of chance.

    Args:
        num_train: Rows to train on.
        num_test: Rows of each other split.
    """

    def __init__(self, num_train: int = 140, num_test: int = 29) -> None:
        self.numbers = {"train": num_train, "val": num_test, "test": num_test}

    @abstractmethod
    def fields(self, number: int, generator: np.random.Generator) -> dict[str, Any]:
        """One row."""

    def rows(self, split: Any) -> list[Row] | None:
        if split not in self.numbers:
            return None
        generator = np.random.default_rng(list(self.numbers).index(split))
        return [Row({"id": i} | self.fields(i, generator), f"row {i}") for i in range(self.numbers[split])]

    def write(self, rows: Any, split: Any, directory: Path) -> list[Path]:
        return [write_jsonl(rows, directory / "predictions.jsonl")]


class Opinions(RandomRows):
    """Texts of different lengths and replies to them, which are good where there are more a's than b's."""

    def fields(self, number: int, generator: np.random.Generator) -> dict[str, Any]:
        def text() -> str:
            return "".join(generator.choice(list("ab c"), generator.integers(1, 14))) + "."

        a, b = text(), text()
        score = a.count("a") - a.count("b")
        return {"text": a, "reply": b, "label": "good" if score > 0 else "bad", "score": score}


class Riddles(RandomRows):
    """Texts with two to four choices, of which the right one has the letter that the text repeats."""

    def fields(self, number: int, generator: np.random.Generator) -> dict[str, Any]:
        letters = generator.permutation(list("abcdefgh"))[: generator.integers(2, 5)].tolist()
        label = int(generator.integers(len(letters)))
        context = " ".join(letters[label] * int(times) for times in generator.integers(1, 4, 3)) + "."
        lengths = generator.integers(1, 9, 4)
        choices = [letter * int(length) for letter, length in zip(letters, lengths, strict=False)]
        return {"context": context, "choices": choices, "label": label}


class Beginnings(RandomRows):
    """Texts of different lengths, and the first one to four letters of each backwards."""

    def fields(self, number: int, generator: np.random.Generator) -> dict[str, Any]:
        text = "".join(generator.choice(list("abc"), generator.integers(3, 14)))
        return {"source": text, "target": text[: 1 + number % 4][::-1]}


class TaggedWords(RowSource):
    """Random words: some are of places or persons, in IOB1.

    Args:
        num_rows: Sentences of the training split.
        num_test: Sentences of the test split.
        given: Rows by split, in place of random ones.
    """

    def __init__(
        self, num_rows: int = 160, num_test: int = 12, given: dict[str, list[dict[str, Any]]] | None = None
    ) -> None:
        self.numbers, self.given = {"train": num_rows, "test": num_test}, given

    def rows(self, split: Any) -> list[Row] | None:
        if self.given is not None:
            fields = self.given.get(split)
            return None if fields is None else [Row(row, f"{split}:{i}") for i, row in enumerate(fields, 1)]
        if split not in self.numbers:
            return None
        generator = np.random.default_rng(split == "test")
        found = []
        for i in range(self.numbers[split]):
            kinds = generator.choice(["O", "I-LOC", "I-PER"], generator.integers(1, 13), p=[0.5, 0.25, 0.25]).tolist()
            letters = {"O": "aei", "I-LOC": "lmn", "I-PER": "pqr"}
            words = ["".join(generator.choice(list(letters[kind]), generator.integers(1, 4))) for kind in kinds]
            found.append(Row({"tokens": words, "labels": kinds, "id": i}, f"{split}:{i + 1}"))
        return found

    def write(self, rows: Sequence[dict[str, Any]], split: Any, directory: Path) -> list[Path]:
        return [write_jsonl(rows, directory / "predictions.jsonl")]


class Numbers:
    """Rows that are their own numbers."""

    def __init__(self, num_rows: int) -> None:
        self.num_rows = num_rows

    def __len__(self) -> int:
        return self.num_rows

    def batch(self, rows: Sequence[int], epoch: int) -> Batch:
        index = torch.tensor(rows)
        return {"index": index, "x": (index / 10 + epoch)[:, None], "drawn": torch.rand(())}


class NumberData(DataModule):
    """Numbers for every stage."""

    def __init__(self, *, batch_size: int = 4, num_workers: int = 0, num_train: int = 24, num_val: int = 10) -> None:
        super().__init__(batch_size=batch_size, num_workers=num_workers)
        self.splits = {"train": Numbers(num_train), "val": Numbers(num_val)}
        self.splits |= {"test": Numbers(num_val), "predict": Numbers(num_val)}

    def setup(self, stage: str) -> None:
        """Nothing, as all is there."""


class Line(Backbone):
    """A weight and a bias behind a norm and dropout."""

    embed_dim = 1

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(1)
        self.dropout = nn.Dropout(0.5)
        self.layer = nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.dropout(self.norm(x)))


class NumberTask(Task):
    """Remembers the rows and losses of each stage, and what it drew from torch's random numbers."""

    def __init__(self, backbone: Backbone | None = None, **options: Any) -> None:
        torch.manual_seed(1)
        super().__init__(backbone or Line(), **{"schedule": None, **options})
        self.rows: dict[str, list[list[int]]] = {"train": [], "val": [], "test": [], "predict": []}
        self.losses: dict[str, list[float]] = {"train": [], "val": [], "test": []}
        self.drawn: list[float] = []

    def step(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        loss = (self.backbone(batch["x"]) - batch["x"]).square().mean()
        if stage == "train":
            self.drawn.append(torch.rand(()).item())
        self.rows[stage].append(batch["index"].tolist())
        self.losses[stage].append(loss.item())
        return {"loss": loss}

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        self.rows["predict"].append(batch["index"].tolist())
        return {"index": batch["index"], "double": batch["x"][:, 0] * 2, "name": [f"row {i}" for i in batch["index"]]}


QUIET = {
    **dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False),
    "accelerator": "cpu",
    "devices": 1,
    "num_sanity_val_steps": 0,
}


def trainer(*callbacks: Any, **options: Any) -> Trainer:
    """One that prints and writes nothing, unless a callback does."""
    return Trainer(callbacks=list(callbacks), **{**QUIET, **options})
