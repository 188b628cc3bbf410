"""Sets that are beyond memory_limit: the same in every bit, on disk, made once, whole or not at all."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn
from PIL import Image
from toys import Pictures, message, pixel_data, ready, tiny_gpt, trainer

from lt_cli.data import decode, mapped
from lt_cli.data.base import Loader
from lt_cli.data.decode import Origin, decode_once
from lt_cli.data.images import Digits, FolderImages, HuggingFaceImages, ImageSet, ImageSource
from lt_cli.data.palette import GreyLevels, KMeansPalette, PaletteFile
from lt_cli.data.pixels import PixelData, TokenSplit
from lt_cli.tasks.pixel_generation import PixelGeneration

EVERY_STAGE = ("fit", "validate", "test", "predict")


@pytest.fixture(autouse=True)
def _few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight pictures a chunk, so that small sets have several."""
    monkeypatch.setattr(mapped, "CHUNK", 1)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Pictures that were decoded."""
    found: list[Any] = []
    whole = decode.decode

    def counted(picture: Any, *options: Any) -> np.ndarray:
        found.append(picture)
        return whole(picture, *options)

    monkeypatch.setattr(decode, "decode", counted)
    return found


def cache() -> Path:
    return Path(os.environ["XDG_CACHE_HOME"]) / "lt_cli"


def token_files(directory: Path | None = None) -> list[Path]:
    return sorted((directory or cache()).glob("tokens-*"))


def pictures(number: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(256, size=(number, 6, 6, 3), dtype=np.uint8)


def folder(root: Path, age: float = 60, seed: int = 0) -> FolderImages:
    """Files of two classes, under train/ and test/, of some seconds ago."""
    for split, number in (("train", 30), ("test", 10)):
        for row, picture in enumerate(pictures(number, seed + number)):
            path = root / split / ("cat", "dog")[row % 3 == 0] / f"{row:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(path)
            os.utime(path, (time.time() - age,) * 2)
    return FolderImages(root=str(root))


def parquet(root: Path) -> HuggingFaceImages:
    """A table of pictures for each split."""
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["cat", "dog"]))
    root.mkdir()
    for split, number in (("train", 30), ("test", 10)):
        rows = {
            "image": [Image.fromarray(one) for one in pictures(number)],
            "label": [row % 2 for row in range(number)],
        }
        datasets.Dataset.from_dict(rows, features=features).to_parquet(root / f"{split}.parquet")
    return HuggingFaceImages(path=str(root))


def data_of(source: ImageSource, **options: Any) -> PixelData:
    colors = {"palette": KMeansPalette(num_colors=12), "channels": 3, "crop_padding": 2, "flip": True}
    return pixel_data(source, **{**colors, "memory_limit": 0, **options})


def split_of(data: PixelData, name: Any) -> TokenSplit:
    split = data.splits[name]
    assert isinstance(split, TokenSplit)
    return split


def assert_same(data: PixelData, other: PixelData, directory: Path) -> None:
    """Whatever can be seen of the data, but for where it lies."""
    mine, theirs = ([line for line in one.describe() if "mapped from" not in line] for one in (data, other))
    assert mine == theirs
    for name, value in data.state_dict().items():
        expected = other.state_dict()[name]
        assert torch.equal(value, expected) if isinstance(value, torch.Tensor) else value == expected
    assert set(data.splits) == set(other.splits)
    for name in data.splits:
        assert split_of(data, name).names == split_of(other, name).names
        for epoch in (0, 3):
            loaders = data.loader(name), other.loader(name)
            for loader in loaders:
                loader.sampler.set_epoch(epoch)
            for batch, expected in zip(*loaders, strict=True):
                assert set(batch) == set(expected)
                assert all(torch.equal(batch[key], expected[key]) for key in batch)
    if "predict" in data.splits:
        written = []
        for one in (data, other):
            tokens = one.splits["predict"].batch([0, 2], 0)["input_ids"]
            columns = {"index": [0, 2], "input_ids": tokens, "prompt_len": [9, 9], "completions": tokens[:, None]}
            png, _ = one.write_predictions(columns, directory, "csv")
            written.append(png.read_bytes())
        assert written[0] == written[1]


def digits(_: Path) -> Digits:
    return Digits()


def arrays(_: Path) -> Pictures:
    return Pictures(size=(6, 6), named=True)


class TestTheSameAsInMemory:
    """Batches, colours, labels, names, checkpoint, first page and predictions."""

    @pytest.mark.parametrize("make", [folder, parquet, digits, arrays], ids=lambda make: make.__name__)
    def test_sources(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], ImageSource]
    ) -> None:
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf_cache")
        source = make(tmp_path / "set")
        expected = ready(data_of(source, memory_limit=4.0), *EVERY_STAGE)
        assert not token_files()
        for _ in range(2):  # made, then found
            data = ready(data_of(source), *EVERY_STAGE)
            assert {split_of(data, name).file for name in data.splits} == set(token_files())
            assert len(token_files()) == 2, "one of train and val, one of test and predict"
            assert_same(data, expected, tmp_path)

    @pytest.mark.parametrize("colors", [256, 257])
    def test_a_palette_that_is_not_learned(self, tmp_path: Path, colors: int) -> None:
        np.save(tmp_path / "colors.npy", np.random.default_rng(0).random((colors, 3), np.float32))
        options = {"palette": PaletteFile(path=str(tmp_path / "colors.npy"))}
        expected = ready(data_of(folder(tmp_path / "set"), memory_limit=4.0, **options), *EVERY_STAGE)
        data = ready(data_of(folder(tmp_path / "set"), **options), *EVERY_STAGE)
        assert split_of(data, "train").tokens.dtype == split_of(expected, "train").tokens.dtype
        assert_same(data, expected, tmp_path)

    def test_another_predict_source_and_size(self, tmp_path: Path) -> None:
        options: dict[str, Any] = {"predict_source": Pictures(size=(9, 7), num_test=0, num_train=11), "size": (5, 4)}
        found = [
            ready(data_of(folder(tmp_path / "set"), memory_limit=limit, **options), "predict") for limit in (0, 4.0)
        ]
        assert_same(*found, tmp_path)

    def test_another_choice_of_validation_pictures_reads_the_same_file(self, tmp_path: Path) -> None:
        for options in ({"split_seed": 5}, {"val_fraction": 0.4}):
            found = [
                ready(
                    data_of(
                        arrays(tmp_path), palette=GreyLevels(num_colors=9), channels=1, memory_limit=limit, **options
                    )
                )
                for limit in (0, 4.0)
            ]
            assert_same(*found, tmp_path)
        assert len(token_files()) == 1

    def test_workers(self, tmp_path: Path) -> None:
        found = [ready(data_of(arrays(tmp_path), memory_limit=limit, num_workers=1)) for limit in (0, 4.0)]
        assert_same(*found, tmp_path)

    def test_training_and_resuming(self, tmp_path: Path) -> None:
        weights = []
        for limit in (4.0, 0):
            torch.manual_seed(3)
            task = PixelGeneration(backbone=tiny_gpt(), schedule=None)
            fitter = trainer(max_steps=6, limit_val_batches=1)
            fitter.fit(task, pixel_data(memory_limit=limit, crop_padding=1, flip=True))
            weights.append(torch.cat([one.flatten() for one in task.parameters()]))
        assert torch.equal(*weights)
        loaders = [ready(data_of(arrays(tmp_path), memory_limit=limit)).train_dataloader() for limit in (4.0, 0)]
        one, resumed = loaders
        assert isinstance(one, Loader)
        one.sampler.set_epoch(2)
        batches = iter(one)
        next(batches)
        resumed.load_state_dict(one.state_dict())
        resumed.sampler.set_epoch(2)
        for mine, theirs in zip(resumed, batches, strict=True):
            assert torch.equal(mine["input_ids"], theirs["input_ids"])


class TestThreshold:
    """What is too large."""

    @pytest.mark.parametrize(("num_bytes", "is_mapped"), [(40 * 36, False), (40 * 36 - 1, True)])
    def test_decoded_pictures(self, tmp_path: Path, num_bytes: int, is_mapped: bool) -> None:
        data = ready(pixel_data(arrays(tmp_path), memory_limit=num_bytes / 2**30), "fit", "test")
        assert (split_of(data, "train").file is not None) == is_mapped
        assert split_of(data, "test").file is None, "12 pictures only"

    def test_outside_the_data_nothing_is_left_undecoded(self, tmp_path: Path) -> None:
        images = folder(tmp_path / "set").load("train")
        assert images is not None
        assert isinstance(images.images, np.ndarray)

    def test_mistakes(self) -> None:
        assert message(lambda: pixel_data(memory_limit=-1)) == "memory_limit (-1) must not be negative"
        assert "memory_limit (nan)" in message(lambda: pixel_data(memory_limit=float("nan")))

    def test_a_palette_that_looks_at_pixels_unsaid(self, tmp_path: Path) -> None:
        """It would see a blank picture, as nobody decodes any for it."""

        class Brightest(GreyLevels):
            def fit(self, images: np.ndarray) -> np.ndarray:
                return super().fit(images) * np.float32(images.max() / 255)

        said = message(lambda: ready(pixel_data(arrays(tmp_path), palette=Brightest(), memory_limit=0)))
        assert said == "Brightest looks at pixels: it must have the class attribute learned = True"


class TestMadeOnce:
    """Found by what the pictures and colours are."""

    def test_decoded_once(self, tmp_path: Path, decoded: list[Any]) -> None:
        source = folder(tmp_path / "set")
        ready(data_of(source), *EVERY_STAGE)
        before = len(decoded)
        assert 40 <= before <= 40 + 4, "the first of a set says its size"
        ready(data_of(source), *EVERY_STAGE)
        assert len(decoded) - before <= 4
        assert len(token_files()) == 2

    def test_decoded_never_again(self, tmp_path: Path, decoded: list[Any]) -> None:
        """Where the size is said, not even a first one."""
        source = folder(tmp_path / "set")
        for _ in range(2):
            ready(data_of(source, size=(6, 6)), *EVERY_STAGE)
            assert len(decoded) == 40

    def test_a_run_that_goes_on_finds_what_it_made(self, tmp_path: Path, decoded: list[Any]) -> None:
        """The checkpoint says the pictures' size, which nobody had said before."""
        first, second = (data_of(folder(tmp_path / "set")) for _ in range(2))
        ready(first)
        del decoded[:]
        second.load_state_dict(first.state_dict())
        assert_same(ready(second), first, tmp_path)
        assert not decoded
        assert len(token_files()) == 1

    def test_pictures_that_were_brought_to_one_size(self, tmp_path: Path) -> None:
        """They still are of different sizes."""
        source = folder(tmp_path / "set")
        Image.new("RGB", (9, 9)).save(path := tmp_path / "set" / "train" / "dog" / "21.png")
        os.utime(path, (1e9, 1e9))
        ready(data_of(source, size=(6, 6)))
        assert "set size to the height and width" in message(lambda: ready(data_of(source)))

    def test_changed_pictures(self, tmp_path: Path) -> None:
        root, palette = tmp_path / "set", GreyLevels(num_colors=256)
        for age, seed in ((60, 0), (50, 1)):
            source = folder(root, age=age, seed=seed)
            found = [ready(data_of(source, palette=palette, channels=1, memory_limit=limit)) for limit in (0, 4.0)]
            assert_same(*found, tmp_path)
        assert len(token_files()) == 2

    def test_pictures_that_may_change_unseen(self, tmp_path: Path, decoded: list[Any]) -> None:
        """New files: they are decoded each time, and the tokens found by what they show."""
        for _ in range(2):
            data = ready(data_of(folder(tmp_path / "set", age=0), size=(6, 6)))
            assert len(decoded) == 30
            assert_same(data, ready(data_of(folder(tmp_path / "set"), memory_limit=4.0)), tmp_path)
            assert len(token_files()) == 1
            del decoded[:]

    def test_one_process_writes(self, tmp_path: Path, decoded: list[Any]) -> None:
        """In the only hook in which the others wait for as long as it takes."""
        first, second = (data_of(folder(tmp_path / "set"), size=(6, 6)) for _ in range(2))
        for data, rank in ((first, 0), (second, 1)):
            data.trainer = trainer()
            data.trainer.state.fn = TrainerFn.FITTING
            data.trainer.strategy._local_rank = rank
        first.prepare_data()
        assert len(decoded) == 30
        assert len(token_files()) == 1
        assert not first.splits
        for data in (first, second):
            data.setup("fit")
        assert len(decoded) == 30
        assert_same(first, ready(data_of(folder(tmp_path / "set"), memory_limit=4.0)), tmp_path)

    def test_pixels_in_memory_are_let_go(self) -> None:
        kept: list[Any] = []

        class Held(Pictures):
            def load(self, *options: Any) -> ImageSet | None:
                images = super().load(*options)
                assert images is not None
                kept.append(weakref.ref(images.images))
                return images

        data = ready(pixel_data(Held(), memory_limit=0))
        assert len(data.splits) == 2
        assert [one() for one in kept] == [None]

    def test_said(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level("INFO"):
            data = ready(pixel_data(arrays(tmp_path), memory_limit=0))
        (file,) = token_files()
        assert f"40 pictures are beyond memory_limit: 1,440 bytes of tokens go to {file}" in caplog.text
        assert data.describe()[2] == f"train, val: 1,572 bytes of tokens, mapped from {file}"


class TestDamage:
    """A file that is not what was written is made anew, with a warning."""

    @pytest.mark.parametrize("damage", ["short", "long", "empty", "header", "bit", "last bit", "other shape"])
    def test_made_anew(self, tmp_path: Path, damage: str) -> None:
        source = folder(tmp_path / "set")
        expected = ready(data_of(source, memory_limit=4.0))
        ready(data_of(source))
        (file,) = token_files()
        whole = file.read_bytes()
        bit = {"header": 8, "bit": 500, "last bit": len(whole) - mapped.CHECKSUM - 1}.get(damage, 0)
        damaged = {"short": whole[:-1], "long": whole + b"\0", "empty": b""}.get(damage)
        file.write_bytes(whole[:bit] + bytes([whole[bit] ^ 1]) + whole[bit + 1 :] if damaged is None else damaged)
        if damage == "other shape":
            np.save(file, np.zeros((29, 36), np.uint8))
        with pytest.warns(UserWarning, match=f"{file} is damaged"):
            data = ready(data_of(source))
        assert_same(data, expected, tmp_path)
        assert file.read_bytes() == whole

    def test_no_room(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[Any]) -> None:
        """Said before the work."""
        usage = shutil.disk_usage(tmp_path)._replace(free=1000)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
        said = message(lambda: ready(data_of(folder(tmp_path / "set"), size=(6, 6))))
        assert said == (
            f"{cache()} cannot take 3,240 bytes of decoded pictures, for a while (1,000 are free): "
            "make room there, or set --data.memory_limit=0.01 to keep the pictures in memory"
        )
        assert not decoded
        assert not list(cache().iterdir())

    def test_a_disk_that_fills_up(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        source = folder(tmp_path / "set")
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", full)
            said = message(lambda: ready(pixel_data(source, memory_limit=0)))
        assert said.startswith(f"{cache()} cannot take 1,080 bytes of tokens (")
        assert "No space left on device" in said
        assert "\n" not in said
        assert not list(cache().iterdir())
        assert len(ready(pixel_data(source, memory_limit=0)).splits["train"]) == 27

    @pytest.mark.parametrize("place", ["tokens", "pixels"])
    def test_interrupted(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
        palette = GreyLevels(num_colors=4) if place == "tokens" else KMeansPalette(num_colors=4)
        source, whole = folder(tmp_path / "set"), decode.decode

        def interrupted(picture: Any, *options: Any) -> np.ndarray:
            if str(picture).endswith("train/dog/21.png"):
                raise KeyboardInterrupt
            return whole(picture, *options)

        with monkeypatch.context() as patched:
            patched.setattr(decode, "decode", interrupted)
            with contextlib.suppress(KeyboardInterrupt):
                ready(pixel_data(source, palette=palette, memory_limit=0))
        assert not list(cache().iterdir())

    def test_pictures_that_do_not_decode(self, tmp_path: Path) -> None:
        """Said as it is in memory, and nothing is left."""
        source = folder(tmp_path / "set")
        (broken := tmp_path / "set" / "train" / "dog" / "21.png").write_bytes(b"none")
        os.utime(broken, (1e9, 1e9))
        said = [message(lambda limit=limit: ready(data_of(source, memory_limit=limit))) for limit in (0, 4.0)]
        assert said[0] == said[1]
        assert str(broken) in said[0]
        assert not list(cache().iterdir())


class Drawn:
    """Grey pictures of 128 x 128 pixels that are there only when they are asked for."""

    def __len__(self) -> int:
        return 12_800

    def __getitem__(self, rows: slice) -> list[np.ndarray]:
        return [np.full((128, 128, 1), row % 32 * 8, np.uint8) for row in range(*rows.indices(len(self)))]


class Large(ImageSource):
    """200 MiB of them."""

    def load(self, split: Any, size: Any = None, channels: int = 3) -> ImageSet | None:
        origin = Origin(["large"], "of this test", None)
        return ImageSet(decode_once(Drawn(), "large", size, channels, origin)) if split == "train" else None


def anonymous() -> Iterator[float]:
    """MiB of this process that no file backs, again and again."""
    while True:
        lines = Path("/proc/self/status").read_text().splitlines()
        yield next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))


def peaks() -> None:
    """Prints by how many MiB each kind of data raises the peak; a process of its own runs it."""
    import threading

    measure, highest, done = anonymous(), 0.0, threading.Event()

    def watch() -> None:
        nonlocal highest
        while not done.wait(0.002):
            highest = max(highest, next(measure))

    threading.Thread(target=watch, daemon=True).start()
    ready(pixel_data(palette=KMeansPalette(num_colors=8), memory_limit=0))  # what is imported counts for none
    found = {}
    for name, limit in (("mapped", 0.0), ("found", 0.0), ("memory", 4.0)):
        before = highest = next(anonymous())
        data = ready(pixel_data(Large(), palette=KMeansPalette(num_colors=8), memory_limit=limit))
        for _ in zip(range(100), data.train_dataloader(), strict=False):
            pass
        found[name] = highest - before
    done.set()
    print(json.dumps(found))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_memory() -> None:
    """200 MiB of pictures, and as many of tokens, hardly show."""
    code = "from data.test_mapped import peaks; peaks()"
    paths = os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parents[2])])
    run = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": paths}, check=True, stdout=subprocess.PIPE
    )
    found = json.loads(run.stdout.splitlines()[-1])
    assert found["mapped"] < 80, found
    assert found["found"] < 40, found
    assert found["memory"] > 300, found
