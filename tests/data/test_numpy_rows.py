"""Arrays as rows, and predictions as arrays that can be read again."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toys import message

from lt_cli.data.numpy_rows import NumpyFiles

PICTURES = np.arange(3 * 2 * 2, dtype=np.uint8).reshape(3, 2, 2)
TEXTS = np.array(["cat", "dög", "cat"])


def save(name: str = "a.npz", **arrays: Any) -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [row.fields for row in NumpyFiles(str(path)).rows("train") or []]


class TestReading:
    """What a row has."""

    def test_rows(self) -> None:
        path = save(image=PICTURES, label=TEXTS, score=np.array([0.5, 1, 2], np.float32), good=[True, False, True])
        rows = NumpyFiles(str(path)).rows("train") or []
        assert [row.place for row in rows] == [f"a.npz, row {i}" for i in range(3)]
        for i, row in enumerate(rows):
            assert np.array_equal(row.fields["image"], PICTURES[i])
            assert row.fields["image"].dtype == np.uint8
        assert [row.fields["label"] for row in rows] == ["cat", "dög", "cat"]
        assert {type(row.fields["label"]) for row in rows} == {str}
        assert [row.fields["score"] for row in rows] == [0.5, 1.0, 2.0]
        assert [row.fields["good"] for row in rows] == [True, False, True]
        assert {type(row.fields["good"]) for row in rows} == {bool}

    @pytest.mark.parametrize(
        ("array", "values"),
        [
            (np.array([1, 2], np.uint8), [1, 2]),
            (np.array([0.5, 2], np.float16), [0.5, 2.0]),
            (np.array(["ü".encode(), b"b"]), ["ü", "b"]),
            (np.array(["2024-02-29", "2024-03-01"], "datetime64[D]"), ["2024-02-29", "2024-03-01"]),
            (np.array([(1, 0.5), (2, 1)], [("a", int), ("b", float)]), [{"a": 1, "b": 0.5}, {"a": 2, "b": 1.0}]),
        ],
    )
    def test_plain_values(self, array: np.ndarray, values: list[Any]) -> None:
        assert [row["x"] for row in read(save(x=array))] == values
        assert {type(row["x"]) for row in read(save(x=array))} == {type(values[0])}

    def test_compressed(self) -> None:
        np.savez_compressed("a.npz", x=np.arange(1000))
        assert [row["x"] for row in read(Path("a.npz"))] == list(range(1000))

    def test_splits(self) -> None:
        for number, name in enumerate(("train", "dev", "test"), 1):
            save(f"d/{name}.npz", x=np.arange(number))
        source = NumpyFiles("d", predict_path=str(save("e.npz", x=np.arange(4))))
        assert [len(source.rows(split) or []) for split in ("train", "val", "test", "predict")] == [1, 2, 3, 4]
        assert source.names_fields("train")
        assert not source.holds_lists("train")


class TestWriting:
    """The same columns, so that what is written can be read."""

    def test_round_trip(self) -> None:
        source = NumpyFiles(str(save(image=PICTURES, label=TEXTS, n=np.arange(3), good=[True, False, True])))
        likely = [{"cat": 0.75, "dög": 0.25}, {"cat": 0.5, "dög": 0.5}, {"cat": 0.0, "dög": 1.0}]
        rows = [row.fields | {"probabilities": p} for row, p in zip(source.rows("train") or [], likely, strict=True)]
        (path,) = source.write(rows, "predict", Path())
        assert path == Path("predictions.npz")
        with np.load(path, allow_pickle=False) as file:
            assert file.files == ["image", "label", "n", "good", "probabilities"]
            assert file["image"].dtype == np.uint8
            assert np.array_equal(file["image"], PICTURES)
            assert file["label"].tolist() == TEXTS.tolist()
            assert file["n"].dtype == np.int64
            assert file["good"].dtype == bool
            assert file["probabilities"]["dög"].tolist() == [0.25, 0.5, 1.0]
            assert file["probabilities"].dtype.names == ("cat", "dög")
        for before, after in zip(rows, read(path), strict=True):
            assert before.keys() == after.keys()
            assert all(np.array_equal(before[name], after[name]) for name in before)

    def test_what_arrays_cannot_have_is_text(self) -> None:
        rows: list[dict[str, Any]] = [
            {"label_index": [1, 2], "mixed": 1, "big": 2**70, "map": {"a": 1}, "some": None, "x": np.arange(2)},
            {"label_index": [], "mixed": "ü", "big": 1, "map": {"b": 1}, "some": 1.5, "x": np.arange(3)},
        ]
        (path,) = NumpyFiles(str(save(x=np.arange(2)))).write(rows, "predict", Path())
        one, other = read(path)
        assert list(one.values()) == ["[1, 2]", "1", str(2**70), '{"a": 1}', "", "[0, 1]"]
        assert list(other.values()) == ["[]", "ü", "1", '{"b": 1}', "1.5", "[0, 1, 2]"]

    def test_names_that_savez_could_not_write(self) -> None:
        rows = [{"file": 1, "allow_pickle": 2, "a/b": 3, "x.npy": 4, "": 5}]
        (path,) = NumpyFiles(str(save(x=np.arange(2)))).write(rows, "predict", Path())
        assert read(path) == rows


class TestMistakes:
    """One line, with the array's name."""

    def test_lengths(self) -> None:
        path = save(image=PICTURES, label=np.arange(4), extra=np.arange(3))
        assert message(lambda: read(path)) == (
            "a.npz has arrays of different lengths, image 3, label 4, extra 3: each must have one entry for each row"
        )

    @pytest.mark.parametrize(
        ("array", "said"),
        [
            (np.array([{}, "a"], object), "is an array of Python's objects, which only running code could read: save"),
            (np.array(5), "is a single value, and must have one for each row: leave it out"),
            (np.array([1j, 2]), "is of type complex128, which is neither numbers nor text: convert it"),
            (np.array([b"\xff", b"a"]), "has bytes that are not UTF-8 (invalid start byte): save it as text"),
        ],
    )
    def test_arrays(self, array: np.ndarray, said: str) -> None:
        path = save(x=array)
        assert message(lambda: read(path)).startswith(f"a.npz: x {said}")

    @pytest.mark.parametrize("content", [b"", b"label\n1\n", b"\x93NUMPY\x01\x00", b"\x80\x04N."])
    def test_no_npz(self, content: bytes) -> None:
        Path("a.npz").write_bytes(content)
        assert message(lambda: read(Path("a.npz"))) == "a.npz is no .npz, which np.savez writes: write it with that"

    def test_broken(self) -> None:
        content = bytearray(save(x=np.arange(1000)).read_bytes())
        content[300:320] = b"\xff" * 20
        Path("a.npz").write_bytes(content)
        assert message(lambda: read(Path("a.npz"))).startswith("a.npz: x cannot be read: ")

    def test_what_is_no_array(self) -> None:
        with zipfile.ZipFile("a.npz", "w") as archive:
            archive.writestr("x.txt", "hello")
        assert message(lambda: read(Path("a.npz"))) == "a.npz: x.txt is no array: leave it out"

    def test_nothing(self) -> None:
        for arrays in ({}, {"x": np.arange(0)}):
            path = save(**arrays)
            assert message(lambda path=path: read(path)) == "a.npz has no row: fill it, or leave it out"

    def test_another_suffix(self) -> None:
        np.save("a.npy", np.arange(3))
        assert message(lambda: read(Path("a.npy"))) == "source.path (a.npy) must be one of .npz: convert or rename it"
        assert message(lambda: read(Path("b.npz"))).startswith("source.path (b.npz) must be a file or a folder, and")
