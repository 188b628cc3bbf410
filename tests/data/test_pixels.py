"""Pictures as tokens: exact, computed once, split and augmented as functions of seeds, written back as pictures."""

import csv
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from toys import Pictures, message, pixel_data, ready, slow_tokens, tiny_gpt, trainer

from lt_cli.data.base import Loader
from lt_cli.data.images import ImageSet, ImageSource
from lt_cli.data.palette import GreyLevels, KMeansPalette
from lt_cli.data.pixels import CropFlip, PixelData, TokenSplit
from lt_cli.data.quantize import NearestColors
from lt_cli.pictures import grid
from lt_cli.tasks.pixel_generation import PixelGeneration


def split_of(data: PixelData, name: Any) -> TokenSplit:
    split = data.splits[name]
    assert isinstance(split, TokenSplit)
    return split


def training_rows(data: PixelData, source: Pictures) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the source that went to training and to validation, found by their pixels."""
    images = source.load("train", None, 1)
    assert images is not None
    assert data.centroids is not None
    tokens = [tuple(row) for row in NearestColors(data.centroids).quantize(images.images).tolist()]
    assert len(set(tokens)) == len(tokens), "each picture is another one"
    rows = {row: i for i, row in enumerate(tokens)}
    train, val = (split_of(data, name).tokens.tolist() for name in ("train", "val"))
    return np.array([rows[tuple(row)] for row in train]), np.array([rows[tuple(row)] for row in val])


class TestTokens:
    """Exact, small in memory, long in batches."""

    @pytest.mark.parametrize("channels", [1, 3])
    def test_nearest_colours(self, channels: Any) -> None:
        source = Pictures()
        data = ready(pixel_data(source, palette=KMeansPalette(num_colors=6), channels=channels), "fit", "test")
        images = source.load("test", None, channels)
        assert images is not None
        assert data.centroids is not None
        assert split_of(data, "test").tokens.tolist() == slow_tokens(images.images, data.centroids)

    @pytest.mark.parametrize(("num_colors", "dtype"), [(256, torch.uint8), (257, torch.int16)])
    def test_types(self, num_colors: int, dtype: torch.dtype) -> None:
        data = pixel_data(palette=KMeansPalette(num_colors=num_colors), channels=3, flip=True)
        assert split_of(ready(data), "train").tokens.dtype == dtype
        batch = data.splits["train"].batch([3, 1], 0)
        assert {name: value.dtype for name, value in batch.items()} == dict.fromkeys(batch, torch.int64)
        assert batch["input_ids"].shape == (2, 16)
        assert batch["index"].tolist() == [3, 1]
        assert batch["input_ids"].max() < num_colors

    def test_black_and_white_are_the_ends(self) -> None:
        """1.0 / 255 steps do not wrap around."""
        white = np.full((20, 2, 2, 1), 255, np.uint8)
        white[:, 0] = 0
        data = ready(pixel_data(Given(white), palette=GreyLevels(num_colors=256)))
        assert data.splits["train"].batch([0], 0)["input_ids"].tolist() == [[0, 0, 255, 255]]
        np.testing.assert_array_equal(data.to_images(torch.tensor([[0, 1, 254, 255]]))[0, ..., 0], [[0, 1], [254, 255]])

    def test_a_row_stays_a_row(self) -> None:
        """Pixels come row by row, in pictures that are not square too."""
        source = Pictures(size=(3, 5))
        data = ready(pixel_data(source, palette=GreyLevels(num_colors=256)), "fit", "test")
        images = source.load("test", None, 1)
        assert images is not None
        tokens = data.splits["test"].batch([4], 0)["input_ids"]
        assert (data.image_shape, data.max_seq_len, data.vocab_size) == ((3, 5), 15, 256)
        np.testing.assert_array_equal(tokens[0].view(3, 5), images.images[4, ..., 0])
        np.testing.assert_array_equal(data.to_images(tokens)[0], images.images[4])

    def test_a_training_step_sees_the_same_tokens_in_every_precision(self) -> None:
        """Quantised within a step under bf16, some tenth of them would be wrong."""

        class Watched(PixelGeneration):
            def step(self, batch: Any, stage: Any) -> Any:
                seen.append(batch["input_ids"].clone())
                return super().step(batch, stage)

        found = []
        for precision in ("32-true", "bf16-mixed", "bf16-true"):
            seen: list[torch.Tensor] = []
            data = pixel_data(Pictures(num_train=1000), palette=KMeansPalette(num_colors=128))
            task = Watched(backbone=tiny_gpt(vocab_size=128), schedule=None)
            trainer(max_steps=3, precision=precision, limit_val_batches=0).fit(task, data)
            found.append(torch.cat(seen))
            assert found[-1].dtype == torch.int64
        assert torch.equal(found[0], found[1])
        assert torch.equal(found[0], found[2])
        train = split_of(data, "train").tokens
        rows = torch.cat([batch["index"] for batch, _ in zip(data.train_dataloader(), range(3), strict=False)])
        assert torch.equal(found[0], train[rows].long())


class Given(ImageSource):
    """These pictures, without labels, for training only."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = images

    def load(self, split: Any, size: Any = None, channels: int = 3) -> ImageSet | None:
        return ImageSet(self.images) if split == "train" else None


class TestSplit:
    """Training and validation."""

    def test_disjoint_and_complete(self) -> None:
        source = Pictures()
        data = ready(pixel_data(source, val_fraction=0.3, palette=GreyLevels(num_colors=256)))
        train, val = training_rows(data, source)
        assert (len(train), len(val)) == (28, 12)
        assert sorted([*train, *val]) == list(range(40))
        assert val.tolist() != list(range(12))
        assert val.tolist() != list(range(28, 40))

    def test_labels_go_with_their_pictures(self) -> None:
        source = Pictures()
        data = ready(pixel_data(source, palette=GreyLevels(num_colors=256)))
        images = source.load("train", None, 1)
        assert images is not None
        assert images.labels is not None
        for name, rows in zip(("train", "val"), training_rows(data, source), strict=True):
            batch = data.splits[name].batch(range(len(rows)), 0)
            assert batch["labels"].tolist() == images.labels[rows].tolist()

    def test_chosen_by_its_own_seed_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        found = []
        for run_seed, split_seed in (("0", 0), ("1", 0), ("0", 1)):
            monkeypatch.setenv("PL_GLOBAL_SEED", run_seed)
            torch.manual_seed(int(run_seed))
            data = ready(pixel_data(split_seed=split_seed))
            found.append(split_of(data, "val").tokens)
        assert torch.equal(found[0], found[1])
        assert not torch.equal(found[0], found[2])

    def test_the_same_alone_as_beside_training(self) -> None:
        alone, beside = ready(pixel_data(), "validate"), ready(pixel_data())
        assert torch.equal(split_of(alone, "val").tokens, split_of(beside, "val").tokens)
        assert set(alone.splits) == {"val"}

    def test_training_is_shuffled_and_validation_is_not(self) -> None:
        data = ready(pixel_data())
        train, val = (
            torch.cat([batch["index"] for batch in loader]).tolist()
            for loader in (data.train_dataloader(), data.val_dataloader())
        )
        assert train != sorted(train) == list(range(36))
        assert val == list(range(4))

    @pytest.mark.parametrize(("fraction", "number"), [(0.01, 40), (0.99, 2)])
    def test_no_split_may_be_empty(self, fraction: float, number: int) -> None:
        data = pixel_data(Pictures(num_train=number), val_fraction=fraction)
        assert f"val_fraction ({fraction}) of {number} pictures leaves a split empty" in message(lambda: ready(data))

    def test_mistakes(self) -> None:
        for fraction in (0.0, 1.0, -0.1):
            assert f"val_fraction ({fraction})" in message(partial(pixel_data, val_fraction=fraction))
        assert "crop_padding (-1)" in message(lambda: pixel_data(crop_padding=-1))
        said = message(lambda: ready(pixel_data(crop_padding=4)))
        assert said == "crop_padding (4) must be less than the pictures' side (4)"


def slow_augment(grids: np.ndarray, draws: np.ndarray, padding: int, flip: bool) -> np.ndarray:
    """Pad, crop, flip, a picture at a time."""
    height, width = grids.shape[1:]
    out = []
    for one, (down, right, mirror) in zip(grids, draws.tolist(), strict=True):
        padded = np.pad(one, padding, mode="reflect")
        top, left = int(down * (2 * padding + 1)), int(right * (2 * padding + 1))
        crop = padded[top : top + height, left : left + width]
        out.append(crop[:, ::-1] if flip and mirror < 0.5 else crop)
    return np.stack(out)


class TestAugmentation:
    """Random crops and flips that come again."""

    @pytest.mark.parametrize("flip", [False, True])
    @pytest.mark.parametrize("padding", [0, 1, 2, 3])
    def test_equals_a_plain_loop(self, padding: int, flip: bool) -> None:
        grids = np.arange(200 * 4 * 6).reshape(200, 4, 6)
        rows, epoch, seed = list(range(0, 400, 2)), 3, 5
        augment = CropFlip(num_rows=400, padding=padding, flip=flip, seed=seed)
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        draws = torch.rand(400, 3, generator=generator)[rows].numpy()
        found = augment(torch.from_numpy(grids), torch.tensor(rows), epoch).numpy()
        np.testing.assert_array_equal(found, slow_augment(grids, draws, padding, flip))
        assert len({str(one - one.min()) for one in found}) >= (2 * padding + 1) * (1 + flip), "all of them occur"

    @pytest.mark.parametrize(("options", "changes"), [({"crop_padding": 2}, 24 / 25), ({"flip": True}, 1 / 2), ({}, 0)])
    def test_each_alone(self, options: dict[str, Any], changes: float) -> None:
        data = ready(pixel_data(Pictures(num_train=400, size=(8, 8)), palette=GreyLevels(num_colors=64), **options))
        split = split_of(data, "train")
        moved = (split.batch(range(len(split)), 0)["input_ids"] != split.tokens).any(dim=1).double().mean().item()
        assert moved == pytest.approx(changes, abs=0.1)

    def test_independent_of_the_other_rows(self) -> None:
        split = ready(pixel_data(crop_padding=2, flip=True)).splits["train"]
        together = split.batch(range(36), 7)["input_ids"]
        torch.manual_seed(5)
        split.batch([1], 8)
        for row in (35, 3, 8):
            assert torch.equal(split.batch([row], 7)["input_ids"][0], together[row])
        assert torch.equal(split.batch([9, 4, 9], 7)["input_ids"], together[[9, 4, 9]])

    def test_changes_with_epoch_and_seed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        found = []
        for seed in ("0", "1"):
            monkeypatch.setenv("PL_GLOBAL_SEED", seed)
            split = ready(pixel_data(crop_padding=2, flip=True)).splits["train"]
            found += [split.batch(range(36), epoch)["input_ids"] for epoch in (0, 1, 0)]
        assert torch.equal(found[0], found[2])
        assert not torch.equal(found[0], found[1])
        assert not torch.equal(found[0], found[3])

    def test_the_same_in_workers(self) -> None:
        tokens = []
        for num_workers in (0, 2):
            loader = ready(pixel_data(crop_padding=2, flip=True, num_workers=num_workers)).train_dataloader()
            for epoch in (0, 1):
                loader.sampler.set_epoch(epoch)
                tokens.append(torch.cat([batch["input_ids"] for batch in loader]))
        assert torch.equal(torch.cat(tokens[:2]), torch.cat(tokens[2:]))

    def test_validation_test_and_predict_have_none(self) -> None:
        data = ready(pixel_data(crop_padding=2, flip=True), "fit", "test", "predict")
        for name in ("val", "test", "predict"):
            split = split_of(data, name)
            assert torch.equal(split.batch(range(len(split)), 3)["input_ids"], split.tokens.long())


class Unwanted(GreyLevels):
    """A palette that nobody may fit."""

    def fit(self, images: np.ndarray) -> np.ndarray:
        raise AssertionError("the palette was there already")


class Counted(KMeansPalette):
    """A palette that remembers what it was fitted on."""

    fitted: list[np.ndarray] = []  # noqa: RUF012  # of the class, as its attributes name the cache

    def fit(self, images: np.ndarray) -> np.ndarray:
        self.fitted.append(images)
        return super().fit(images)


@pytest.fixture
def counted() -> type[Counted]:
    Counted.fitted = []
    return Counted


class TestPalette:
    """Learned once, from training pictures, and kept."""

    def test_fitted_on_training_pictures_only(self, counted: type[Counted]) -> None:
        source = Pictures()
        data = ready(pixel_data(source, palette=counted(num_colors=4)), "fit", "test", "predict")
        (images,) = counted.fitted
        train, _ = training_rows_of(data, source)
        np.testing.assert_array_equal(images, train)

    def test_fitted_once_by_the_first_process(self, counted: type[Counted]) -> None:
        first = pixel_data(palette=counted(num_colors=4))
        first.prepare_data()
        assert len(counted.fitted) == 1
        first.setup("fit")
        second = pixel_data(palette=counted(num_colors=4))
        second.setup("fit")
        assert len(counted.fitted) == 1, "another process finds it in the cache"
        np.testing.assert_array_equal(first.centroids, second.centroids)

    def test_each_picture_is_read_once(self) -> None:
        source = Pictures()
        data = ready(pixel_data(source, palette=KMeansPalette(num_colors=4)))
        data.setup("validate")
        assert source.loads == ["train"]
        assert source.prepared == 1

    def test_the_cache_lies_where_the_source_says(self, tmp_path: Path) -> None:
        class Placed(Pictures):
            cache_dir = tmp_path / "here"

        ready(pixel_data(Placed(), palette=KMeansPalette(num_colors=4)))
        assert [path.suffix for path in (tmp_path / "here").iterdir()] == [".npz"]

    def test_disagreement_with_what_was_learned(self) -> None:
        resumed = pixel_data(palette=GreyLevels(num_colors=7))
        resumed.load_state_dict(ready(pixel_data()).state_dict())
        said = message(lambda: resumed.setup("fit"))
        assert "the palette has 7 colours, the run that goes on learned 5" in said
        assert "--data.palette.num_colors=5" in said


def training_rows_of(data: PixelData, source: Pictures) -> tuple[np.ndarray, np.ndarray]:
    """The pictures of training and of validation, as the split's seed says."""
    images = source.load("train", None, data.channels)
    assert images is not None
    order = np.random.default_rng(data.split_seed).permutation(len(images))
    num_val = round(len(images) * data.val_fraction)
    return images.images[np.sort(order[num_val:])], images.images[np.sort(order[:num_val])]


class TestState:
    """What a checkpoint keeps."""

    def test_round_trip_in_plain_types(self, tmp_path: Path) -> None:
        data = ready(pixel_data(palette=KMeansPalette(num_colors=5)))
        torch.save(data.state_dict(), tmp_path / "state.pt")
        state = torch.load(tmp_path / "state.pt", weights_only=True)
        restored = pixel_data(palette=Unwanted(num_colors=5))
        restored.load_state_dict(state)
        assert (restored.vocab_size, restored.max_seq_len, restored.label_names) == (5, 16, ["cat", "dog"])
        assert restored.image_shape == (4, 4)
        ready(restored, "fit", "validate", "test", "predict")
        for name in ("train", "val"):
            assert torch.equal(split_of(restored, name).tokens, split_of(data, name).tokens)
        assert torch.equal(torch.from_numpy(restored.centroids), state["centroids"])

    def test_nothing_is_learned_yet(self) -> None:
        data = pixel_data()
        assert (data.vocab_size, data.max_seq_len, data.label_names) == (None, None, None)
        restored = pixel_data()
        restored.load_state_dict(data.state_dict())
        assert ready(restored).vocab_size == 5

    def test_test_and_predict_need_no_training_pictures(self) -> None:
        """Colours, size and label names come from the checkpoint, wherever it is read."""
        source = Pictures(num_train=0)
        data = pixel_data(source, palette=Unwanted(num_colors=5))
        data.load_state_dict(ready(pixel_data()).state_dict())
        ready(data, "test", "predict")
        assert set(source.loads) == {"test"}

    def test_setup_keeps_the_loaded_label_names(self) -> None:
        data = pixel_data()
        data.load_state_dict({**ready(pixel_data()).state_dict(), "label_names": ["dog", "cat"]})
        assert "are not those of training (['dog', 'cat'])" in message(lambda: data.setup("fit"))


class TestLabels:
    """Names come from the training pictures."""

    def test_from_training(self) -> None:
        data = ready(pixel_data(Pictures(label_names=("x", "y", "z"))), "fit", "test")
        assert data.label_names == ["x", "y", "z"]
        for name in ("train", "val", "test"):
            labels = data.splits[name].batch(range(4), 0)["labels"]
            assert labels.dtype == torch.int64
            assert labels.max() < 3

    def test_other_names_in_the_test_pictures(self) -> None:
        data = ready(pixel_data(Pictures(test_label_names=("dog", "cat"))))
        said = message(lambda: data.setup("test"))
        assert said == "labels of test (['dog', 'cat']) are not those of training (['cat', 'dog'])"

    def test_pictures_without_labels(self) -> None:
        data = ready(pixel_data(Pictures(label_names=None)), "fit", "test")
        assert data.label_names is None
        assert set(data.splits["test"].batch([0], 0)) == {"index", "input_ids"}

    def test_predict_has_none(self) -> None:
        data = ready(pixel_data(Pictures(test_label_names=("never", "seen"))), "fit", "predict")
        assert set(data.splits["predict"].batch([0], 0)) == {"index", "input_ids"}

    def test_description(self) -> None:
        data = ready(pixel_data())
        labels = split_of(data, "train").labels
        assert labels is not None
        counts = torch.bincount(labels, minlength=2).tolist()
        assert data.describe()[0] == f"train: 36 pictures · cat {counts[0]} dog {counts[1]}"
        assert data.describe()[-1] == "each 4 × 4, 5 colours"


class TestPredictSource:
    """Pictures of another place."""

    def test_resized_to_the_learned_size(self) -> None:
        data = ready(pixel_data(predict_source=Pictures(size=(9, 7), num_test=3)), "fit", "predict")
        assert data.splits["predict"].batch([0, 1, 2], 0)["input_ids"].shape == (3, 16)

    def test_resized_to_the_training_pictures_size_without_a_fit(self) -> None:
        data = ready(pixel_data(predict_source=Pictures(size=(9, 7), num_test=3)), "predict")
        assert data.image_shape == (4, 4)
        assert len(data.splits["predict"]) == 3

    def test_a_source_without_test_pictures_gives_its_others(self) -> None:
        other = Pictures(num_train=6, num_test=0, seed=9)
        data = ready(pixel_data(predict_source=other), "fit", "predict")
        images = other.load("train", (4, 4), 1)
        assert images is not None
        assert data.centroids is not None
        assert split_of(data, "predict").tokens.tolist() == slow_tokens(images.images, data.centroids)

    def test_by_default_the_test_pictures_or_else_validation(self) -> None:
        data = ready(pixel_data(), "test", "predict")
        assert torch.equal(split_of(data, "predict").tokens, split_of(data, "test").tokens)
        data = ready(pixel_data(Pictures(num_test=0)), "fit", "predict")
        assert torch.equal(split_of(data, "predict").tokens, split_of(data, "val").tokens)

    def test_test_pictures_that_are_not_there(self) -> None:
        assert message(lambda: ready(pixel_data(Pictures(num_test=0)), "test")) == "Pictures has no test pictures"

    @pytest.mark.parametrize("stage", ["fit", "test", "predict"])
    def test_another_size_than_the_learned_one(self, stage: str) -> None:
        data = pixel_data(size=(8, 8))
        data.load_state_dict(ready(pixel_data()).state_dict())
        assert "size (8, 8), the training pictures (4, 4): set --data.size" in message(lambda: data.setup(stage))


class TestPredictions:
    """Files that people look at."""

    def columns(self, data: PixelData, rows: list[int]) -> dict[str, list[Any]]:
        tokens = data.splits["predict"].batch(rows, 0)["input_ids"]
        completions = (tokens[:, None] + torch.arange(1, 3)[:, None]) % 5
        return {
            "index": rows,
            "input_ids": tokens.tolist(),
            "prompt_len": [8] * len(rows),
            "completions": completions.tolist(),
        }

    def test_completions(self, tmp_path: Path) -> None:
        data = ready(pixel_data(Pictures(num_test=3)), "fit", "predict")
        columns = self.columns(data, [0, 1, 2])
        png, npz = data.write_predictions(columns, tmp_path, "csv")
        inputs = data.to_images(np.array(columns["input_ids"]))
        masked = inputs.copy()
        masked[:, 2:] = 127
        first, second = (data.to_images(np.array(columns["completions"])[:, copy]) for copy in range(2))
        tiles = [picture for row in zip(inputs, masked, first, second, strict=True) for picture in row]
        np.testing.assert_array_equal(np.asarray(Image.open(png)), grid(np.stack(tiles), num_columns=4))
        with np.load(npz) as arrays:
            assert sorted(arrays) == ["completions", "index", "input_ids", "prompt_len"]
            for name in arrays:
                np.testing.assert_array_equal(arrays[name], columns[name])

    def test_many_completions(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        data = ready(pixel_data(Pictures(num_test=40)), "fit", "predict")
        with caplog.at_level("INFO"):
            png, npz = data.write_predictions(self.columns(data, list(range(40))), tmp_path, "csv")
        assert "completions.png shows the first 32 of 40 rows" in caplog.text
        assert len(np.load(npz)["completions"]) == 40
        assert Image.open(png).height == grid(np.zeros((32, 4, 4, 1), np.uint8), num_columns=1).shape[0]

    @pytest.mark.parametrize("format", ["csv", "jsonl"])
    def test_rows_with_file_names(self, format: Any, tmp_path: Path) -> None:
        data = ready(pixel_data(Pictures(named=True)), "fit", "predict")
        columns = {"index": [0, 1, 3], "label": ["cat", "dog", "cat"], "probability": [0.5, 0.75, 1.0]}
        (path,) = data.write_predictions(columns, tmp_path, format)
        with path.open() as file:
            rows = list(csv.DictReader(file)) if format == "csv" else [json.loads(line) for line in file]
        assert [row["file"] for row in rows] == ["test/000.png", "test/001.png", "test/003.png"]
        assert [row["label"] for row in rows] == ["cat", "dog", "cat"]
        assert list(rows[0]) == ["file", "index", "label", "probability"]

    def test_rows_without_file_names(self, tmp_path: Path) -> None:
        data = ready(pixel_data(), "fit", "predict")
        (path,) = data.write_predictions({"index": [0], "label": ["cat"]}, tmp_path, "csv")
        assert path.read_text().split() == ["index,label", "0,cat"]

    def test_preview_of_a_batch(self, tmp_path: Path) -> None:
        data = ready(pixel_data())
        batch = data.splits["train"].batch(range(8), 0)
        (line,) = data.preview(batch, tmp_path)
        path = Path(line.removeprefix("a batch: "))
        np.testing.assert_array_equal(np.asarray(Image.open(path)), grid(data.to_images(batch["input_ids"]), 8))


def test_a_resumed_loader_repeats_crops_and_flips() -> None:
    """The rest of an epoch looks as it would have."""
    one = ready(pixel_data(crop_padding=2, flip=True)).train_dataloader()
    assert isinstance(one, Loader)
    one.sampler.set_epoch(2)
    batches = iter(one)
    next(batches)
    resumed = ready(pixel_data(crop_padding=2, flip=True)).train_dataloader()
    resumed.load_state_dict(one.state_dict())
    resumed.sampler.set_epoch(2)
    for mine, theirs in zip(resumed, batches, strict=True):
        assert torch.equal(mine["input_ids"], theirs["input_ids"])
