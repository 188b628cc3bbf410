"""Rows of files and of hub directories, and predictions written so that they can be read again."""

import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet
import pytest
from toys import message

from lt_cli.data import row_sources
from lt_cli.data.row_sources import HubRows, RowSource, TableFiles

ROWS = [{"text": 'it\'s "good", ü', "label": "good"}, {"text": "so lala", "label": "bad"}]


def save(path: Path, rows: list[dict[str, Any]] = ROWS, *, header: bool = True) -> Path:
    """Rows in the format that the suffix says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        return path
    if path.suffix == ".jsonl":
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    else:
        table = [[*rows[0]]] * header + [[*row.values()] for row in rows]
        quoted = [[f'"{cell.replace(chr(34), chr(34) * 2)}"' for cell in line] for line in table]
        lines = ["\t".join(line) for line in table] if path.suffix == ".tsv" else [",".join(line) for line in quoted]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def fields(source: RowSource, split: Any) -> list[dict[str, Any]] | None:
    rows = source.rows(split)
    return None if rows is None else [row.fields for row in rows]


SUFFIXES = pytest.mark.parametrize("suffix", [".tsv", ".csv", ".jsonl", ".parquet"])


class TestTableFiles:
    """A folder, named files, or one file."""

    @SUFFIXES
    def test_one_file(self, suffix: str, tmp_path: Path) -> None:
        source = TableFiles(str(save(tmp_path / f"mine{suffix}")))
        assert fields(source, "train") == ROWS
        assert [source.rows(split) for split in ("val", "test", "predict")] == [None, None, None]

    @SUFFIXES
    @pytest.mark.parametrize("val", ["val", "valid", "validation", "dev"])
    def test_a_folder(self, suffix: str, val: str, tmp_path: Path) -> None:
        for number, name in enumerate(("train", val, "test")):
            save(tmp_path / f"{name}{suffix}", ROWS[: 1 + number % 2])
        save(tmp_path / ".hidden.csv")
        source = TableFiles(str(tmp_path))
        assert [len(source.rows(split) or []) for split in ("train", "val", "test")] == [1, 2, 1]
        assert source.rows("predict") is None
        place = {".jsonl": ":1", ".parquet": ", row 0"}.get(suffix, ":2")
        assert (source.rows("train") or [])[0].place == f"{tmp_path / 'train'}{suffix}{place}"

    def test_named_files_beat_those_of_the_folder(self, tmp_path: Path) -> None:
        for name in ("train", "val"):
            save(tmp_path / "mine" / f"{name}.csv", ROWS[:1])
        other = save(tmp_path / "other.tsv")
        source = TableFiles(str(tmp_path / "mine"), val_path=str(other), test_path=str(other), predict_path=str(other))
        assert [len(source.rows(split) or []) for split in ("train", "val", "test", "predict")] == [1, 2, 2, 2]

    def test_only_what_is_predicted(self, tmp_path: Path) -> None:
        source = TableFiles(predict_path=str(save(tmp_path / "a.csv")))
        assert fields(source, "predict") == ROWS
        assert source.rows("test") is None
        assert message(lambda: source.rows("train")) == (
            "source.path (null) must name a file or a folder to train on: set --data.source.path"
        )

    def test_home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        save(tmp_path / "a.csv")
        assert fields(TableFiles("~/a.csv"), "train") == ROWS

    @pytest.mark.parametrize("suffix", [".tsv", ".csv"])
    def test_columns_that_no_line_names(self, suffix: str, tmp_path: Path) -> None:
        path = save(tmp_path / f"a{suffix}", header=False)
        assert fields(TableFiles(str(path), columns=["text", "label"]), "train") == ROWS

    def test_labels_are_not_needed_to_predict(self, tmp_path: Path) -> None:
        path = tmp_path / "a.tsv"
        path.write_text("one\ntwo words\n")
        source = TableFiles(predict_path=str(path), columns=["text", "label"])
        assert fields(source, "predict") == [{"text": "one"}, {"text": "two words"}]
        named = TableFiles(str(path), columns=["text", "label"])
        said = f"{path}:1 has 1 columns, data.source.columns 2 ['text', 'label']: label is missing"
        assert message(lambda: named.rows("train")) == said

    def test_what_is_left_out_is_said_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A split in another format, too, which a user may believe to be read."""
        said: list[str] = []
        monkeypatch.setattr(row_sources, "rank_zero_info", said.append)
        for name in ("train.csv", "val.csv", "notes.txt", "test.txt"):
            save(tmp_path / name)
        source = TableFiles(str(tmp_path))
        for split in ("train", "val", "test", "predict"):
            source.rows(split)
        source.holds_lists("predict")
        assert said == [f"files in {tmp_path} that are no split are left out: notes.txt, test.txt"]

    @SUFFIXES
    def test_lists(self, suffix: str, tmp_path: Path) -> None:
        source = TableFiles(str(save(tmp_path / f"a{suffix}")))
        assert source.holds_lists("predict") == (suffix in (".jsonl", ".parquet"))


class TestWriting:
    """The same format, so that what is written can be read."""

    @SUFFIXES
    def test_round_trip(self, suffix: str, tmp_path: Path) -> None:
        source = TableFiles(predict_path=str(save(tmp_path / f"a{suffix}")))
        changed = [row | {"label": "new, \N{SNOWMAN}", "id": "7"} for row in fields(source, "predict") or []]
        (path,) = source.write(changed, "predict", tmp_path)
        assert path == tmp_path / f"predictions{suffix}"
        assert fields(TableFiles(str(path)), "train") == changed

    @pytest.mark.parametrize("suffix", [".tsv", ".csv"])
    def test_no_header_where_there_was_none(self, suffix: str, tmp_path: Path) -> None:
        columns = ["text", "label"]
        source = TableFiles(str(save(tmp_path / f"a{suffix}", header=False)), columns=columns)
        (path,) = source.write(ROWS, "predict", tmp_path / "..")
        assert path.read_text() == (tmp_path / f"a{suffix}").read_text() or suffix == ".csv"
        assert fields(TableFiles(str(path), columns=columns), "train") == ROWS

    def test_what_is_no_text(self, tmp_path: Path) -> None:
        rows = [{"text": "a", "label": 3, "probabilities": {"ü": 0.5}}, {"text": "b", "label": 0.25}]
        for suffix, expected in (
            (".tsv", 'text\tlabel\tprobabilities\na\t3\t{"ü": 0.5}\nb\t0.25\t\n'),
            (".jsonl", None),
        ):
            source = TableFiles(str(save(tmp_path / f"a{suffix}")))
            (path,) = source.write(rows, "test", tmp_path)
            if expected is None:
                assert [json.loads(line) for line in path.read_text().splitlines()] == rows
            else:
                assert path.read_text() == expected

    def test_lists_and_mappings_in_parquet(self, tmp_path: Path) -> None:
        rows: list[dict[str, Any]] = [
            {"id": 1, "x": [0.5, 1.0], "label": ["a", "b"], "probabilities": {"ü": 0.5, "b": 0.25}, "ok": True},
            {"id": 2, "x": [], "label": [], "probabilities": {"ü": 0.0, "b": 1.0}, "ok": None},
        ]
        source = TableFiles(str(save(tmp_path / "a.parquet", rows)))
        assert fields(source, "train") == rows
        (path,) = source.write(rows, "test", tmp_path)
        assert fields(TableFiles(str(path)), "train") == rows

    def test_values_of_several_kinds_in_parquet(self, tmp_path: Path) -> None:
        """Parquet has one kind for a column; nothing is lost, as what is predicted may have taken hours."""
        rows: list[dict[str, Any]] = [{"label": 1, "big": 2**70}, {"label": "x"}, {"label": [1]}]
        source = TableFiles(str(save(tmp_path / "a.parquet")))
        (path,) = source.write(rows, "test", tmp_path)
        expected = [("1", str(2**70)), ("x", ""), ("[1]", "")]
        assert [tuple(row.values()) for row in fields(TableFiles(str(path)), "train") or []] == expected

    def test_texts_of_several_lines(self, tmp_path: Path) -> None:
        rows = [{"text": 'two\nlines, "quoted"\r\n', "label": "x"}, {"text": " ", "label": ""}]
        source = TableFiles(str(save(tmp_path / "a.csv", rows)))
        (path,) = source.write(rows, "predict", tmp_path)
        assert fields(TableFiles(str(path)), "train") == rows


class TestMistakes:
    """Each says what it is and how to mend it."""

    @pytest.mark.parametrize(
        ("options", "files", "said"),
        [
            ({"path": "none.tsv"}, [], "source.path (none.tsv) must be a file or a folder, and there is none"),
            (
                {"path": "a.txt"},
                ["a.txt"],
                "source.path (a.txt) must be one of .jsonl .csv .tsv .parquet: convert or rename it",
            ),
            (
                {"path": "d"},
                ["d/a.csv"],
                "source.path (d) must have train.jsonl or train.csv or train.tsv or train.parquet, and has a.csv",
            ),
            (
                {"path": "d"},
                ["d/train.csv", "d/train.tsv"],
                "source.path (d) has train.csv and train.tsv, where one file must be the train split",
            ),
            (
                {"path": "d"},
                ["d/train.csv", "d/val.tsv", "d/dev.tsv"],
                "source.path (d) has dev.tsv and val.tsv, where one file must be the val split",
            ),
            ({"path": "a.csv", "val_path": "b.csv"}, ["a.csv"], "source.val_path (b.csv) must be a file, and there is"),
            ({"path": "a.csv", "test_path": "d"}, ["a.csv", "d/b.csv"], "source.test_path (d) must be a file, and"),
            ({"path": "a.csv", "val_path": "a.csv"}, ["a.csv"], "source.val_path (a.csv) is the file to train on"),
            (
                {"path": "d", "test_path": "d/train.csv"},
                ["d/train.csv"],
                "source.test_path (d/train.csv) is the file to train on: name another, or leave it out",
            ),
        ],
    )
    def test_files(self, options: dict[str, str], files: list[str], said: str) -> None:
        for name in files:
            save(Path(name))
        source = TableFiles(**options)
        assert message(lambda: [source.rows(split) for split in ("train", "val", "test")]).startswith(said)

    def test_a_path_that_is_gone(self) -> None:
        """Whoever evaluates a checkpoint elsewhere is told of the path, not of splits that are missing."""
        said = "source.path (gone) must be a file or a folder, and there is none: correct the path"
        assert message(lambda: TableFiles("gone").rows("test")) == said

    @pytest.mark.parametrize("columns", [[], ["text", "text"]])
    def test_columns(self, columns: list[str]) -> None:
        assert message(lambda: TableFiles("a.csv", columns=columns)) == (
            f"source.columns ({columns}) must name every column once"
        )

    @pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
    def test_columns_of_rows_that_name_them(self, suffix: str, tmp_path: Path) -> None:
        path = save(tmp_path / f"a{suffix}")
        said = message(lambda: TableFiles(str(path), columns=["text", "label"]).rows("train"))
        assert said == (f"columns (['text', 'label']) has no meaning for {path}, whose rows name them: set it to null")

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (b"text\tlabel\na\tx\nb\n", ":3 has 1 columns, the header 2: label is missing"),
            (b"text\tlabel\na\tx\ty\n", ":2 has 3 columns, the header 2: no text may have a tab"),
            (b"text\tlabel\n", " has no row: fill it, or leave it out"),
            (b"", " is empty: fill it, or leave it out"),
            (b"text\tlabel\ngut\tx\n" + "für\tx\n".encode("latin-1"), ":3, byte 18: 0xfc is not UTF-8"),
        ],
    )
    def test_rows(self, content: bytes, said: str, tmp_path: Path) -> None:
        path = tmp_path / "a.tsv"
        path.write_bytes(content)
        assert message(lambda: TableFiles(str(path)).rows("train")).startswith(f"{path}{said}")

    def test_rows_without_columns_given(self, tmp_path: Path) -> None:
        """A row with too few columns is of its own file and line there too."""
        path = tmp_path / "a.tsv"
        path.write_text("a\tx\nb\n")
        said = f"{path}:2 has 1 columns, data.source.columns 2 ['text', 'label']: label is missing"
        assert message(lambda: TableFiles(str(path), columns=["text", "label"]).rows("train")) == said


class TestHubRows:
    """Local directories, as the hub has them and as ``save_to_disk`` writes them."""

    def made(self, labels: list[int]) -> datasets.Dataset:
        kinds = datasets.Features(
            {
                "text": datasets.Value("string"),
                "label": datasets.ClassLabel(names=["bad", "good"]),
                "tags": datasets.List(datasets.ClassLabel(names=["x", "y"])),
            }
        )
        rows = {"text": [f"text {i}" for i in range(len(labels))], "label": labels, "tags": [[1, 0]] * len(labels)}
        return datasets.Dataset.from_dict(rows, features=kinds)

    @pytest.fixture(params=["parquet", "save_to_disk"])
    def hub(self, request: pytest.FixtureRequest, tmp_path: Path) -> Path:
        splits = {"train": [0, 1, 1], "validation": [1], "test": [-1, -1]}
        made = {name: self.made(labels) for name, labels in splits.items()}
        if request.param == "parquet":
            (tmp_path / "hub").mkdir()
            for name, one in made.items():
                one.to_parquet(tmp_path / "hub" / f"{name}-00000-of-00001.parquet")
        else:
            datasets.DatasetDict(made).save_to_disk(tmp_path / "hub")
        return tmp_path / "hub"

    def test_rows(self, hub: Path) -> None:
        source = HubRows(str(hub))
        source.prepare()
        assert fields(source, "train") == [
            {"text": f"text {i}", "label": label, "tags": ["y", "x"]} for i, label in enumerate(("bad", "good", "good"))
        ]
        assert fields(source, "val") == [{"text": "text 0", "label": "good", "tags": ["y", "x"]}]
        assert [row["label"] for row in fields(source, "test") or []] == [None, None]
        assert source.rows("predict") is None
        assert (source.rows("test") or [])[1].place == f"{hub}, test, row 1"
        assert source.holds_lists("predict")

    def test_named_splits(self, hub: Path) -> None:
        source = HubRows(str(hub), train_split="train[:2]", val_split="train[2:]", predict_split="validation")
        assert [len(source.rows(split) or []) for split in ("train", "val", "predict")] == [2, 1, 1]

    def test_without_rows_to_train_on(self, tmp_path: Path) -> None:
        """As whoever predicts with a checkpoint has them."""
        datasets.DatasetDict({"test": self.made([-1])}).save_to_disk(tmp_path / "hub")
        source = HubRows(str(tmp_path / "hub"))
        source.prepare()
        assert source.rows("val") is None
        assert len(source.rows("test") or []) == 1
        assert message(lambda: source.rows("train")).startswith(
            f"path ({tmp_path / 'hub'}), config_name (None), split (train)"
        )

    def test_written_rows_are_read_again(self, hub: Path, tmp_path: Path) -> None:
        source = HubRows(str(hub))
        rows = [row | {"label": "good"} for row in fields(source, "test") or []]
        (path,) = source.write(rows, "test", tmp_path)
        assert path.name == "predictions.jsonl"
        assert fields(TableFiles(str(path)), "train") == rows

    def test_mistakes(self, hub: Path, tmp_path: Path) -> None:
        said = message(lambda: HubRows(str(tmp_path / "none")).prepare())
        assert said.startswith(f"path ({tmp_path / 'none'}), config_name (None) could not be loaded: ")
        assert "set path to a name on the hub within reach or a directory" in said
        said = message(lambda: HubRows(str(hub), val_split="dev").rows("val"))
        assert said.startswith(f"path ({hub}), config_name (None), split (dev) could not be loaded: ")
        assert message(lambda: HubRows(str(hub), val_split="train[2:]")).startswith(
            "val_split (train[2:]) is a part of train_split (train), so that it would be trained on"
        )
