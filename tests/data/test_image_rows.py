"""Rows of pictures: class folders of every layout, sets that come as a whole, and what is wrong with them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toys import Pictures, message

from lt_cli.data.image_rows import ClassFolders, ImageSets
from lt_cli.data.row_sources import HubRows, TableFiles


def picture(*places: str) -> None:
    """Saves a small picture under each name."""
    for place in places:
        Path(place).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (3, 2), "red").save(place)


def fields(source: ClassFolders, split: str) -> list[tuple[str, ...]] | None:
    rows = source.rows(split)  # type: ignore[arg-type]
    return None if rows is None else [tuple(row.fields.values()) for row in rows]


class TestClassFolders:
    """Folders of every layout."""

    def test_class_folders(self) -> None:
        picture("pets/dog/b.png", "pets/dog/a.JPG", "pets/cat/deep/c.png", "pets/dog/.hidden.png")
        source = ClassFolders("pets")
        assert fields(source, "train") == [
            ("pets/cat/deep/c.png", "cat"),
            ("pets/dog/a.JPG", "dog"),
            ("pets/dog/b.png", "dog"),
        ]
        assert [source.has(split) for split in ("val", "test", "predict")] == [False] * 3
        assert fields(source, "val") is None
        rows = source.rows("train")
        assert rows is not None
        assert rows[0].place == "pets/cat/deep/c.png"

    @pytest.mark.parametrize("val", ["val", "valid", "validation", "dev"])
    def test_splits(self, val: str) -> None:
        picture("pets/train/cat/a.png", f"pets/{val}/cat/b.png", "pets/test/cat/c.png")
        source = ClassFolders("pets")
        for split, place in (("train", "train/cat/a"), ("val", f"{val}/cat/b"), ("test", "test/cat/c")):
            assert fields(source, split) == [(f"pets/{place}.png", "cat")]

    def test_predict_path(self) -> None:
        picture("new/b.png", "new/deep/a.png")
        source = ClassFolders(predict_path="new")
        assert fields(source, "predict") == [("new/b.png",), ("new/deep/a.png",)]
        assert not source.has("test")

    def test_predictions_are_a_table_that_is_read_again(self, tmp_path: Path) -> None:
        rows = [{"image": "a.png", "label": "cat"}, {"image": "b, c.png", "label": "dog"}]
        (path,) = ClassFolders("pets").write(rows, "test", tmp_path)
        read = TableFiles(str(path)).rows("train")
        assert read is not None
        assert [row.fields for row in read] == rows

    def test_what_is_left_out_is_said(self, caplog: pytest.LogCaptureFixture) -> None:
        picture("pets/cat/a.png", "pets/dog/b.png")
        Path("pets/cat/notes.txt").touch()
        with caplog.at_level("INFO"):
            ClassFolders("pets").rows("train")
        assert "1 files in pets are left out" in caplog.text

    def test_folders_beside_splits_are_said(self, caplog: pytest.LogCaptureFixture) -> None:
        picture("pets/train/cat/a.png", "pets/Test/cat/b.png")
        with caplog.at_level("INFO"):
            ClassFolders("pets").rows("train")
        assert "pets/Test is left out, as its name is no split's" in caplog.text
        picture("veh/train/a.png", "veh/car/a.png")
        assert "veh/train (taken for the split train) must have a folder for each class" in message(
            lambda: ClassFolders("veh").rows("train")
        )

    def test_several_labels_are_written_as_they_are_read(self) -> None:
        assert not ClassFolders("pets").holds_lists("test")
        assert HubRows("pets").holds_lists("test")

    def test_mistakes(self) -> None:
        assert message(lambda: ClassFolders("pets").rows("train")) == (
            "source.path (pets) must be a folder of pictures, and there is none: correct the path"
        )
        assert "set --data.source.path" in message(lambda: ClassFolders(predict_path=".").rows("train"))
        Path("pets").mkdir()
        assert "pets must have a folder for each class" in message(lambda: ClassFolders("pets").rows("train"))
        picture("pets/cat/a.png")
        Path("pets/dog").mkdir()
        assert message(lambda: ClassFolders("pets").rows("train")).startswith("pets/dog has no picture (.avif")
        picture("pets/dog/a.png", "pets/loose.png")
        assert "has the picture loose.png beside cat/" in message(lambda: ClassFolders("pets").rows("train"))
        Path("empty").mkdir()
        assert "source.predict_path (empty) must have pictures" in message(
            lambda: ClassFolders(predict_path="empty").rows("predict")
        )
        picture("split/train/cat/a.png", "split/val/cat/a.png", "split/dev/cat/a.png")
        assert "split has val/ and dev/" in message(lambda: ClassFolders("split").rows("val"))


class TestImageSets:
    """Sets as a whole."""

    def test_rows(self) -> None:
        images = Pictures(num_train=5, num_test=3)
        source = ImageSets(images)
        source.prepare()
        assert images.prepared == 1
        for split in ("train", "test"):
            loaded, rows = images.load(split), source.rows(split)  # type: ignore[arg-type]
            assert loaded is not None
            assert loaded.labels is not None
            assert rows is not None
            assert [row.fields["label"] for row in rows] == [("cat", "dog")[i] for i in loaded.labels]
            assert all(
                np.array_equal(row.fields["image"], image) for row, image in zip(rows, loaded.images, strict=True)
            )
            assert rows[1].place == f"Pictures, {split}, row 1"
        assert source.rows("val") is None
        assert source.rows("predict") is None
        assert not ImageSets(Pictures(num_test=0)).has("test")

    def test_is_read_once(self) -> None:
        images = Pictures()
        source = ImageSets(images)
        assert source.has("test")
        source.rows("test")
        assert images.loads == ["test"]

    def test_files_keep_their_names(self) -> None:
        rows = ImageSets(Pictures(named=True, label_names=None)).rows("test")
        assert rows is not None
        assert rows[2].place == "test/002.png"
        assert "label" not in rows[2].fields
