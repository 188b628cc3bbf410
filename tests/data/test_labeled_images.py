"""Pictures with labels: decoded late, cut out as the backbone wants, augmented as a function of epoch and row."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.transforms import v2
from torchvision.transforms._presets import ImageClassification
from toys import Pictures, message

from lt_cli.data.image_rows import ClassFolders, ImageSets
from lt_cli.data.labeled_images import LabeledImages
from lt_cli.data.labels import Score, SeveralLabels
from lt_cli.data.numpy_rows import NumpyFiles
from lt_cli.data.picture_split import Cut
from lt_cli.data.row_sources import HubRows, TableFiles


def images(**options: Any) -> LabeledImages:
    """Random pictures with two classes."""
    source = options.pop("source", None) or ImageSets(Pictures(size=(8, 8), num_train=40, num_test=6))
    return LabeledImages(**{"source": source, "size": (8, 8), "batch_size": 4, **options})


def ready(data: LabeledImages, *stages: str) -> LabeledImages:
    """The data as a trainer would set it up."""
    data.prepare_data()
    for stage in stages or ("fit",):
        data.setup(stage)
    return data


def random_picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(256, size=(height, width, 3), dtype=np.uint8)


class TestBatches:
    """What a batch has."""

    def test_are_the_pictures(self) -> None:
        data = ready(images(train_transforms=[]), "fit", "test", "predict")
        source = Pictures(size=(8, 8), num_train=40, num_test=6).load("test")
        assert source is not None
        assert source.labels is not None
        batch = data.splits["test"].batch([4, 1], 0)
        assert batch["index"].tolist() == [4, 1]
        assert batch["inputs"].dtype == torch.uint8
        assert np.array_equal(batch["inputs"].permute(0, 2, 3, 1).numpy(), source.images[[4, 1]])
        assert batch["labels"].tolist() == source.labels[[4, 1]].tolist()
        assert "labels" not in data.splits["predict"].batch([0], 0)
        assert len(data.splits["train"]) == 36

    def test_training_pictures_change_with_epoch_and_row_only(self) -> None:
        one, other = (ready(images()).splits["train"] for _ in range(2))
        together = one.batch([3, 5], 1)["inputs"]
        torch.rand(7)
        assert torch.equal(other.batch([5], 1)["inputs"][0], together[1])
        assert not torch.equal(other.batch([5], 2)["inputs"][0], together[1])
        assert torch.equal(one.batch([3, 5], 1)["inputs"], together)

    def test_drawing_leaves_the_random_numbers_alone(self) -> None:
        split = ready(images(mixup=1.0)).splits["train"]
        torch.manual_seed(3)
        split.batch([1, 2], 0)
        after = torch.rand(2)
        torch.manual_seed(3)
        assert torch.equal(torch.rand(2), after)

    def test_evaluation_changes_nothing(self) -> None:
        split = ready(images()).splits["val"]
        assert torch.equal(split.batch([0, 1], 0)["inputs"], split.batch([0, 1], 5)["inputs"])

    def test_the_run_s_seed_draws_others(self, monkeypatch: pytest.MonkeyPatch) -> None:
        split = ready(images()).splits["train"]
        before = split.batch([0, 1], 0)["inputs"]
        monkeypatch.setenv("PL_GLOBAL_SEED", "7")
        assert not torch.equal(split.batch([0, 1], 0)["inputs"], before)

    def test_transforms_come_before_the_size(self) -> None:
        seen: list[tuple[int, ...]] = []

        class Look(nn.Module):
            def forward(self, picture: torch.Tensor) -> torch.Tensor:
                seen.append(tuple(picture.shape))
                return picture[:, :6]

        data = ready(images(size=(4, 4), train_transforms=[Look(), Look()], eval_transforms=[Look()]))
        assert data.splits["train"].batch([0], 0)["inputs"].shape == (1, 3, 4, 4)
        assert seen == [(3, 8, 8), (3, 6, 8)]
        assert data.splits["val"].batch([0], 0)["inputs"].shape == (1, 3, 4, 4)
        assert len(seen) == 3

    def test_two_workers_give_the_same(self) -> None:
        def batches(workers: int) -> list[torch.Tensor]:
            return [batch["inputs"] for batch in ready(images(num_workers=workers, cutmix=1.0)).train_dataloader()]

        for one, other in zip(batches(0), batches(2), strict=True):
            assert torch.equal(one, other)


class TestMixtures:
    """Two pictures and their labels in one."""

    def test_mixup_is_a_mean_of_pictures_and_of_labels(self) -> None:
        plain = ready(images(train_transforms=[])).splits["train"].batch([0, 1, 2, 3], 0)
        mixed = ready(images(train_transforms=[], mixup=0.8)).splits["train"].batch([0, 1, 2, 3], 0)
        one = nn.functional.one_hot(plain["labels"], 2).float()
        pictures, other = plain["inputs"].float() / 255, one.roll(1, 0)
        beside = pictures.roll(1, 0)
        part = ((mixed["inputs"] - beside) * (pictures - beside)).sum() / (pictures - beside).square().sum()
        assert 0 < part < 1
        torch.testing.assert_close(mixed["inputs"], part * pictures + (1 - part) * beside)
        torch.testing.assert_close(mixed["labels"], part * one + (1 - part) * other)

    def test_cutmix_has_pixels_of_two_and_labels_by_their_share(self) -> None:
        plain = ready(images(train_transforms=[])).splits["train"].batch([0, 1, 2, 3], 0)
        mixed = ready(images(train_transforms=[], cutmix=1.0)).splits["train"].batch([0, 1, 2, 3], 0)
        own = plain["inputs"].float() / 255
        kept = (mixed["inputs"] == own).all(1)
        assert ((mixed["inputs"] == own.roll(1, 0)).all(1) | kept).all()
        share = kept.float().mean((1, 2))
        one = nn.functional.one_hot(plain["labels"], 2).float()
        torch.testing.assert_close(
            mixed["labels"], share[:, None] * one + (1 - share[:, None]) * one.roll(1, 0), atol=0.02, rtol=0
        )

    def test_both_take_turns(self) -> None:
        split = ready(images(train_transforms=[], mixup=0.5, cutmix=0.5)).splits["train"]
        plain = ready(images(train_transforms=[])).splits["train"].batch([0, 1, 2, 3], 0)["inputs"].float() / 255
        pasted = [
            bool(((inputs == plain) | (inputs == plain.roll(1, 0))).all())
            for inputs in (split.batch([0, 1, 2, 3], epoch)["inputs"] for epoch in range(20))
        ]
        assert 3 <= sum(pasted) <= 17

    def test_only_in_training(self) -> None:
        assert ready(images(mixup=1.0)).splits["val"].batch([0], 0)["labels"].dtype == torch.int64


class TestSizes:
    """How pictures are cut out."""

    @pytest.mark.parametrize("shape", [(40, 60), (60, 40), (24, 24), (33, 97)])
    def test_evaluation_is_the_weights_own_preprocessing(self, shape: tuple[int, int]) -> None:
        picture = torch.from_numpy(random_picture(*shape).transpose(2, 0, 1).copy())
        preset = ImageClassification(crop_size=24, resize_size=30, mean=(0.0,) * 3, std=(1.0,) * 3)
        ours = Cut((24, 24), 30, "bilinear").middle(picture)
        theirs = preset(picture) * 255  # which scales floats, and rounds once more
        torch.testing.assert_close(ours.float(), theirs, atol=1.01, rtol=0)

    def test_a_size_of_one_s_own_shows_as_much_as_it_can(self) -> None:
        picture = torch.zeros(3, 10, 40, dtype=torch.uint8)
        picture[:, :, 15:25] = 200
        assert (Cut((20, 20)).middle(picture) >= 150).all()
        assert Cut((10, 40)).middle(picture) is picture
        assert Cut((5, 30)).middle(picture).shape == (3, 5, 30)

    def test_the_backbone_says_what_the_user_does_not(self) -> None:
        data = images(size=None)
        assert data.input_shape is None
        data.suit(size=(6, 6), resize=7, interpolation="bicubic")
        assert data.input_shape == (3, 6, 6)
        assert ready(data).splits["val"].batch([0], 0)["inputs"].shape == (1, 3, 6, 6)
        own = images(size=(4, 4))
        own.suit(size=(6, 6), resize=7, interpolation="bicubic")
        assert (own.input_shape, own.cut.resize, own.cut.interpolation) == ((3, 4, 4), None, "bicubic")

    def test_pictures_of_all_kinds(self) -> None:
        Path("mixed/one").mkdir(parents=True)
        Path("mixed/two").mkdir(parents=True)
        for name, mode in (("one/a.png", "RGBA"), ("one/b.jpg", "L"), ("two/c.gif", "P"), ("two/d.png", "I;16")):
            Image.fromarray(random_picture(12, 9)).convert("L" if mode == "I;16" else mode).save(f"mixed/{name}")
        data = ready(images(source=ClassFolders("mixed"), val_fraction=0.25))
        assert data.splits["train"].batch([0, 1, 2], 0)["inputs"].shape == (3, 3, 8, 8)


class TestFiles:
    """Where pictures come from, and predictions go."""

    def test_a_table_of_names_and_labels(self) -> None:
        Path("pics").mkdir()
        for i in range(8):
            Image.fromarray(random_picture(8, 8, i)).save(f"pics/{i}.png")
        Path("train.csv").write_text("file,kind,id\n" + "".join(f"{i}.png,{'ab'[i % 2]},{i}\n" for i in range(8)))
        Path("new.csv").write_text("file,id\n3.png,x\n1.png,y\n")
        source = TableFiles("train.csv", predict_path="new.csv")
        options = {"image_column": "file", "label_column": "kind", "image_folder": "pics", "val_fraction": 0.25}
        data = ready(images(source=source, **options), "fit", "predict")
        shown = data.splits["predict"].batch([0], 0)["inputs"][0].permute(1, 2, 0).numpy()
        assert np.array_equal(shown, random_picture(8, 8, 3))
        Path("out").mkdir()
        columns = {"index": [0, 1], "label": ["b", "a"], "probability": [0.75, 1.0]}
        (path,) = data.write_predictions(columns, Path("out"), "csv")
        assert path.read_text().splitlines() == ["file,id,kind,probability", "3.png,x,b,0.75", "1.png,y,a,1.0"]

    def test_several_labels(self) -> None:
        Image.fromarray(random_picture(8, 8)).save("a.png")
        Path("train.csv").write_text("image,label\n" + 'a.png,"red,big"\na.png,red\na.png,\n' * 4)
        data = ready(images(source=TableFiles("train.csv"), labels=SeveralLabels(), val_fraction=0.25))
        assert data.label_names == ["big", "red"]
        assert data.splits["train"].batch([0], 0)["labels"].shape == (1, 2)
        data.setup("predict")
        Path("out").mkdir()
        columns: dict[str, list[Any]] = {"index": list(range(3)), "label": [["big", "red"], [], ["red"]]}
        (path,) = data.write_predictions(columns, Path("out"), "csv")
        assert path.read_text().splitlines() == ["image,label", 'a.png,"big,red"', "a.png,", "a.png,red"]

    def test_predictions_of_what_are_no_files_have_their_places(self) -> None:
        data = ready(images(), "fit", "predict")
        Path("out").mkdir()
        (path,) = data.write_predictions({"index": [0, 5], "label": ["cat", "dog"]}, Path("out"), "csv")
        assert path.read_text().splitlines() == [
            "image,label",
            '"Pictures, test, row 0",cat',
            '"Pictures, test, row 5",dog',
        ]

    def test_rows_from_python(self) -> None:
        data = ready(images())
        Image.fromarray(random_picture(8, 8)).save("a.png")
        split, fields = data.given(["a.png", random_picture(8, 8), Image.open("a.png"), {"image": "a.png", "id": 3}])
        inputs = split.batch(range(4), 0)["inputs"]
        assert all(torch.equal(inputs[0], other) for other in inputs)
        assert fields[3] == {"image": "a.png", "id": 3}


class TestSplits:
    """What is held out."""

    def test_each_class_has_its_share(self) -> None:
        for name in "abc":
            Path(f"pets/{name}").mkdir(parents=True)
        for name, number in (("a", 50), ("b", 30), ("c", 10)):
            for i in range(number):
                Image.new("RGB", (1, 1)).save(f"pets/{name}/{i}.png")
        data = ready(images(source=ClassFolders("pets"), val_fraction=0.2, test_fraction=0.1), "fit", "test")
        counts = {
            name: np.bincount(split.labels).tolist()
            for name, split in data.splits.items()  # type: ignore[attr-defined]
        }
        assert counts == {"train": [35, 21, 7], "val": [10, 6, 2], "test": [5, 3, 1]}
        others = ready(images(source=ClassFolders("pets"), val_fraction=0.2, test_fraction=0.1, split_seed=1))
        assert data.splits["val"].places != others.splits["val"].places  # type: ignore[attr-defined]

    def test_a_class_of_one_row_is_trained_on(self) -> None:
        rows = "".join(f"a.png,{'xy'[i % 2]}\n" for i in range(20)) + "a.png,z\n"
        Path("train.csv").write_text("image,label\n" + rows)
        Image.new("RGB", (1, 1)).save("a.png")
        for seed in range(5):
            data = ready(images(source=TableFiles("train.csv"), split_seed=seed))
            assert data.label_names == ["x", "y", "z"]
            assert np.bincount(data.splits["train"].labels)[2] == 1  # type: ignore[attr-defined]


def test_what_was_learned_survives_a_checkpoint(tmp_path: Path) -> None:
    data = ready(images())
    torch.save(data.state_dict(), tmp_path / "state.pt")
    again = images(source=ImageSets(Pictures(size=(8, 8), num_train=0, num_test=6)))
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    ready(again, "test")
    assert again.label_names == ["cat", "dog"]


def test_the_first_page_shows_a_batch(tmp_path: Path) -> None:
    data = ready(images())
    lines = [*data.describe(), *data.preview(data.splits["train"].batch([0, 1, 2], 0), tmp_path)]
    assert lines[0].startswith("train: 36 rows; dog 22 (61.1 %), cat 14")
    assert lines[2] == "each 8 × 8 pixels"
    assert lines[3] == f"a batch: {tmp_path / 'batch.png'}"
    assert Image.open(tmp_path / "batch.png").size[0] > 3 * 96


def test_pictures_are_what_evaluation_sees() -> None:
    data = ready(images(), "test")
    inputs = data.splits["test"].batch([2, 0], 0)["inputs"]
    assert np.array_equal(data.pictures("test", [2, 0]), inputs.permute(0, 2, 3, 1).numpy())


class TestMistakes:
    """What is refused."""

    @pytest.mark.parametrize("workers", [0, 2])
    def test_a_corrupt_picture_is_named(self, workers: int) -> None:
        Path("pets/cat").mkdir(parents=True)
        Path("pets/dog").mkdir()
        for i in range(6):
            Image.fromarray(random_picture(8, 8)).save(f"pets/{('cat', 'dog')[i % 2]}/{i}.png")
        whole = Path("pets/dog/3.png").read_bytes()
        Path("pets/dog/3.png").write_bytes(whole[: len(whole) // 2])
        data = ready(images(source=ClassFolders("pets"), val_fraction=0.2, split_seed=1, num_workers=workers))
        found = message(lambda: list(data.train_dataloader()) + list(data.val_dataloader()))
        assert found.startswith("pets/dog/3.png is no readable picture (")
        assert found.endswith("mend or remove it")
        assert "\n" not in found

    def test_options(self) -> None:
        assert message(lambda: images(size=(0, 8))) == "size [0, 8] must be a height and a width of at least 1 pixel"
        assert message(lambda: images(mixup=-1.0)) == "mixup (-1.0) must be above 0, or 0 for none"
        assert "cutmix (1.0) must be 0 with Score" in message(lambda: images(cutmix=1.0, labels=Score()))
        assert "must be different columns" in message(lambda: images(image_column="label"))
        assert "eval_transforms must not have Normalize" in message(
            lambda: images(eval_transforms=[v2.Normalize([0.5] * 3, [0.5] * 3)])
        )

    def test_transforms_that_make_no_picture(self) -> None:
        data = ready(images(train_transforms=[v2.Grayscale()]))
        assert "must make a tensor (3, H, W), not (1, 8, 8)" in message(lambda: data.splits["train"].batch([0], 0))
        data = ready(images(train_transforms=[v2.RandomCrop(20)]))
        found = message(lambda: data.splits["train"].batch([0], 0))
        assert "RandomCrop does not take this picture of 8 × 8 pixels (Required crop size (20, 20) is larger" in found
        assert found.startswith("Pictures, train, row ")

    def test_rows(self) -> None:
        Path("a.csv").write_text("image,label\nnone.png,x\n" * 1 + "none.png,y\n" * 20)
        found = message(lambda: ready(images(source=TableFiles("a.csv"), image_folder="pics")))
        assert found.startswith("a.csv:2: image (none.png) must be a file, and there is none in ")
        assert found.endswith("say the folder with --data.image_folder")
        assert "has no column 'picture'" in message(
            lambda: ready(images(source=TableFiles("a.csv"), image_column="picture"))
        )
        data = ready(images())
        assert "row 0: image must be a picture or a file's name, not 3" in message(lambda: data.given([3]))

    def test_a_class_that_training_has_not(self) -> None:
        for place in ("train/cat", "train/dog", "val/cat", "val/fox"):
            Path("pets", place).mkdir(parents=True)
            Image.new("RGB", (1, 1)).save(f"pets/{place}/a.png")
        found = message(lambda: ready(images(source=ClassFolders("pets"))))
        assert found.startswith(
            "pets/val/fox/a.png: label 'fox' is not among the classes of the training rows, cat, dog"
        )


def test_a_dataset_of_the_hub_is_read_late() -> None:
    import datasets

    pictures = [Image.fromarray(random_picture(8, 8, i)) for i in range(20)]
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    rows = datasets.Dataset.from_dict({"img": pictures, "label": [i % 2 for i in range(20)]}, features=features)
    datasets.DatasetDict(train=rows, test=rows.select(range(4))).save_to_disk("saved")
    data = ready(images(source=HubRows("saved"), image_column="img", val_fraction=0.25), "fit", "test", "predict")
    assert data.label_names == ["cat", "dog"]
    batch = data.splits["test"].batch([3, 0], 0)
    assert np.array_equal(batch["inputs"][0].permute(1, 2, 0).numpy(), random_picture(8, 8, 3))
    assert batch["labels"].tolist() == [1, 0]
    assert len(list(ready(images(source=HubRows("saved"), image_column="img", num_workers=1)).val_dataloader())) == 1
    Path("out").mkdir()
    (path,) = data.write_predictions({"index": [0, 1], "label": ["dog", "cat"]}, Path("out"), "csv")
    assert path.read_text().splitlines() == [
        '{"img": "saved, test, row 0", "label": "dog"}',
        '{"img": "saved, test, row 1", "label": "cat"}',
    ]


@pytest.mark.parametrize("grey", [False, True])
def test_arrays_are_pictures(grey: bool) -> None:
    shape = (20, 8, 8) if grey else (20, 8, 8, 3)
    pixels = np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)
    np.savez("mine.npz", image=pixels, label=np.array(["cat", "dog"])[np.arange(20) % 2])
    data = ready(images(source=NumpyFiles("mine.npz", test_path=None), test_fraction=0.2), "fit", "test", "predict")
    assert data.label_names == ["cat", "dog"]
    batch = data.splits["test"].batch([0, 3], 0)
    rows = [int(row.place.rpartition(" ")[2]) for row in data.rows["predict"]]
    expected = pixels[[rows[0], rows[3]]]
    expected = expected[..., None].repeat(3, axis=3) if grey else expected
    assert np.array_equal(batch["inputs"].permute(0, 2, 3, 1).numpy(), expected)
    Path("out").mkdir()
    (path,) = data.write_predictions({"index": [0, 1], "label": ["dog", "cat"]}, Path("out"), "csv")
    assert np.load(path)["label"].tolist() == ["dog", "cat"]


def test_a_column_within_a_column() -> None:
    Image.fromarray(random_picture(8, 8)).save("a.png")
    rows = [{"meta": {"file": "a.png"}, "out": {"kind": "xy"[i % 2]}} for i in range(20)]
    Path("mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {"image_column": "meta.file", "label_column": "out.kind", "test_fraction": 0.2}
    data = ready(images(source=TableFiles("mine.jsonl"), **options), "fit", "predict")
    Path("out").mkdir()
    (path,) = data.write_predictions({"index": [0], "label": ["x"]}, Path("out"), "csv")
    assert json.loads(path.read_text()) == {"meta": {"file": "a.png"}, "out": {"kind": "x"}}


def test_pictures_of_mistakes_are_what_the_model_saw() -> None:
    data = ready(images(eval_transforms=[v2.RandomInvert(p=1.0)]), "test")
    inputs = data.splits["test"].batch([2, 0], 0)["inputs"]
    assert np.array_equal(data.pictures("test", [2, 0]), inputs.permute(0, 2, 3, 1).numpy())


@pytest.mark.parametrize(
    ("shape", "dtype"), [((8, 8), "int32"), ((8, 8, 3), "float32"), ((3, 8, 8), "uint8"), ((64,), "uint8")]
)
def test_arrays_that_are_no_pictures(shape: tuple[int, ...], dtype: str) -> None:
    np.savez("mine.npz", image=np.ones((20, *shape), dtype), label=np.array(["cat", "dog"])[np.arange(20) % 2])
    found = message(lambda: ready(images(source=NumpyFiles("mine.npz"))))
    assert f"image must be an array (H, W) or (H, W, C), uint8, C 1, 3 or 4, not {shape}, {dtype}" in found


def test_numbers_that_are_no_levels() -> None:
    normalised = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.5] * 3)])
    for transform in (normalised, v2.ToDtype(torch.float32)):
        data = ready(images(train_transforms=[transform]))
        assert "floats between 0 and 1, not floats from " in message(
            lambda data=data: data.splits["train"].batch([0], 0)
        )
    scaled = ready(images(train_transforms=[v2.ToDtype(torch.float32, scale=True)]))
    assert scaled.splits["train"].batch([0], 0)["inputs"].max() <= 1


def test_one_row_of_a_class_is_trained_on_whatever_is_held_out() -> None:
    rows = "".join(f"a.png,{'xy'[i % 2]}\n" for i in range(20)) + "a.png,z\n"
    Path("train.csv").write_text("image,label\n" + rows)
    Image.new("RGB", (1, 1)).save("a.png")
    for seed in range(3):
        data = images(source=TableFiles("train.csv"), split_seed=seed, val_fraction=0.3, test_fraction=0.3)
        assert np.bincount(ready(data, "fit", "test").splits["train"].labels)[2] == 1  # type: ignore[attr-defined]


def test_several_labels_as_ones_and_zeros() -> None:
    pixels = np.random.default_rng(0).integers(256, size=(20, 8, 8, 3), dtype=np.uint8)
    ones = np.random.default_rng(1).integers(2, size=(20, 3))
    np.savez("mine.npz", image=pixels, label=ones)
    data = ready(images(source=NumpyFiles("mine.npz"), labels=SeveralLabels(), val_fraction=0.2))
    assert data.label_names == ["0", "1", "2"]
    rows = [int(place.rpartition(" ")[2]) for place in data.splits["val"].places]  # type: ignore[attr-defined]
    assert data.splits["val"].batch([0, 1], 0)["labels"].tolist() == ones[rows[:2]].tolist()
