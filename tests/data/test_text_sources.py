"""Documents of files, of folders with splits, and of datasets of Hugging Face."""

import json
import os
from pathlib import Path
from typing import Any

import datasets
import pytest
from toys import message

from lt_cli.data.text_sources import HuggingFaceText, PythonTopics, TextFiles, TextSource, TextSplit


def write(folder: Path, **contents: str) -> Path:
    """Files whose names say __ for a folder and _ for a dot."""
    for name, content in contents.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


def texts(source: TextSource, split: TextSplit = "train") -> list[str] | None:
    found = source.documents(split)
    return None if found is None else list(found)


def splits(source: TextSource) -> list[list[str] | None]:
    return [texts(source, split) for split in ("train", "val", "test")]


class TestPythonTopics:
    """What Python's help says, wherever Python is."""

    def test_documents(self) -> None:
        source = PythonTopics()
        found = texts(source)
        assert found is not None
        assert len(found) > 50
        assert any('The "for" statement' in text for text in found)
        assert splits(source)[1:] == [None, None]
        assert list(source.documents_from(3)) == found[3:]


class TestTextFiles:
    """Files and folders."""

    def test_a_file(self, tmp_path: Path) -> None:
        write(tmp_path, a_log="any name\n will do\n")
        assert splits(TextFiles(str(tmp_path / "a.log"))) == [["any name\n will do\n"], None, None]

    def test_a_list_in_its_order(self, tmp_path: Path) -> None:
        write(tmp_path, b_txt="b", a_txt="a", more__d_txt="d", more__c_md="c")
        given = [str(tmp_path / name) for name in ("b.txt", "a.txt", "more")]
        assert texts(TextFiles(given)) == ["b", "a", "c", "d"]

    def test_a_folder_in_sorted_order(self, tmp_path: Path) -> None:
        write(tmp_path, b_txt="b", a__z_txt="z", a__deep__y_md="y", c_jsonl='{"text": "1"}\n{"text": "2"}')
        write(tmp_path, d_csv="id,text\n1,3\n", e_tsv="text\n4\n", **{"_hidden_txt": "no", "_git__a_txt": "no"})
        assert texts(TextFiles(str(tmp_path))) == ["y", "z", "b", "1", "2", "3", "4"]

    def test_a_folder_within_a_hidden_one(self, tmp_path: Path) -> None:
        assert texts(TextFiles(str(write(tmp_path / ".cache" / "set", a_txt="a")))) == ["a"]

    def test_home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(write(tmp_path, a_txt="a")))
        assert texts(TextFiles("~/a.txt")) == ["a"]

    def test_what_is_no_text_is_said_once(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        source = TextFiles(str(write(tmp_path, a_txt="a", b_pdf="b", c_png="c")))
        with caplog.at_level("INFO"):
            for _ in range(2):
                assert splits(source) == [["a"], None, None]
                source.fingerprint("train")
        assert caplog.text.count("2 files that are not .txt .md .jsonl .csv .tsv .parquet are left out") == 1
        assert str(tmp_path / "b.pdf") in caplog.text

    @pytest.mark.parametrize("val", ["val", "valid", "validation", "dev"])
    @pytest.mark.parametrize("train", ["train", "training"])
    def test_splits(self, train: str, val: str, tmp_path: Path) -> None:
        files = write(tmp_path / "files", **{f"{train}_txt": "1", f"{val}_jsonl": '{"text": "2"}', "test_md": "3"})
        folders = write(tmp_path / "folders", **{f"{train}__a_txt": "1", f"{val}__deep__b_txt": "2"})
        assert splits(TextFiles(str(files))) == [["1"], ["2"], ["3"]]
        assert splits(TextFiles(str(folders))) == [["1"], ["2"], None]

    def test_only_names_of_splits_make_splits(self, tmp_path: Path) -> None:
        write(tmp_path, train_pdf="no text", tests_txt="1", validated_txt="2")
        assert splits(TextFiles(str(tmp_path))) == [["1", "2"], None, None]

    def test_what_is_no_split_is_said_once(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        for name in ("train.txt", "val.txt", "more.txt", "yet_more.txt", "notes.pdf"):
            (tmp_path / name).write_text(name)
        source = TextFiles(str(tmp_path))
        with caplog.at_level("INFO"):
            assert [list(source.documents(split) or ()) for split in ("train", "val", "test")] == [
                ["train.txt"],
                ["val.txt"],
                [],
            ]
        assert caplog.text.count(f"beside the splits in {tmp_path}, 2 more are left out, such as more.txt") == 1

    def test_held_out_files_are_not_trained_on(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        write(tmp_path, a_txt="A", held_txt="HELD")
        with caplog.at_level("INFO"):
            assert splits(TextFiles(str(tmp_path), val_path=str(tmp_path / "held.txt"))) == [["A"], ["HELD"], None]
        assert "1 files of validation or test text are not trained on" in caplog.text
        held = str(tmp_path / "held.txt")
        said = message(lambda: TextFiles(held, val_path=held).documents("train"))
        assert said == f"source.path ({held}) has nothing to train on besides validation and test text"

    def test_several_folders_with_splits(self, tmp_path: Path) -> None:
        write(tmp_path, one__train__a_txt="1", one__test__b_txt="2", two__train_txt="3", two__test_txt="4", c_txt="5")
        source = TextFiles([str(tmp_path / name) for name in ("one", "two", "c.txt")])
        assert splits(source) == [["1", "3", "5"], None, ["2", "4"]]

    def test_a_file_named_twice_is_read_once(self, tmp_path: Path) -> None:
        write(tmp_path, a_txt="A", b_txt="B")
        assert splits(TextFiles([str(tmp_path / "b.txt"), str(tmp_path)]))[0] == ["B", "A"]

    def test_a_folder_beside_splits_is_said(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        write(tmp_path, train_txt="1", more__a_txt="2")
        with caplog.at_level("INFO"):
            assert splits(TextFiles(str(tmp_path)))[0] == ["1"]
        assert "1 more are left out, such as more" in caplog.text

    def test_lines_of_windows(self, tmp_path: Path) -> None:
        path = tmp_path / "a.txt"
        path.write_bytes(b"one\r\ntwo\r\n")
        assert list(TextFiles(str(path), separator="\n").documents("train") or ()) == ["one", "two"]
        assert list(TextFiles(str(path), separator="\r\n").documents("train") or ()) == ["one", "two"]
        assert list(TextFiles(str(path)).documents("train") or ()) == ["one\r\ntwo\r\n"]

    def test_splits_of_their_own_paths(self, tmp_path: Path) -> None:
        write(tmp_path, a_txt="1", set__train_txt="2", set__val_txt="3", b_txt="4")
        one = TextFiles(str(tmp_path / "a.txt"), val_path=str(tmp_path / "set"), test_path=[str(tmp_path / "b.txt")])
        assert splits(one) == [["1"], ["2", "3"], ["4"]]
        other = TextFiles(str(tmp_path / "set"), val_path=str(tmp_path / "b.txt"))
        assert splits(other) == [["2"], ["4"], None]

    def test_separator(self, tmp_path: Path) -> None:
        write(tmp_path, a_txt="one\ntwo\n\nthree\n", b_txt="x<|end|>y\n<|end|>", c_txt="x<|end|>\n")
        assert texts(TextFiles(str(tmp_path / "a.txt"), separator="\n")) == ["one", "two", "", "three"]
        assert texts(TextFiles(str(tmp_path / "b.txt"), separator="<|end|>")) == ["x", "y\n"]
        assert texts(TextFiles(str(tmp_path / "c.txt"), separator="<|end|>")) == ["x"]
        write(tmp_path, d_tex=r"one\newpage two")
        assert texts(TextFiles(str(tmp_path / "d.tex"), separator=r"\newpage ")) == ["one", "two"]
        assert texts(TextFiles(str(tmp_path / "a.txt"))) == ["one\ntwo\n\nthree\n"]

    def test_column(self, tmp_path: Path) -> None:
        source = TextFiles(str(write(tmp_path, a_jsonl='{"body": "b", "text": "t"}')), column="body")
        assert texts(source) == ["b"]
        missing = TextFiles(str(tmp_path), column="boody")
        said = f"{tmp_path / 'a.jsonl'}:1 has no column 'boody', only body, text; did you mean body?"
        assert message(lambda: texts(missing)) == said

    def test_documents_from(self, tmp_path: Path) -> None:
        source = TextFiles(str(write(tmp_path, a_txt="a\nb", b_txt="c\nd")), separator="\n")
        assert [list(source.documents_from(number)) for number in (0, 1, 3, 4)] == [
            list("abcd"),
            list("bcd"),
            ["d"],
            [],
        ]

    def test_mistakes(self, tmp_path: Path) -> None:
        write(tmp_path, set__val_txt="a", set__test__b_txt="b", pictures__a_png="p")
        with_train = str(write(tmp_path / "whole", train_txt="a"))
        gone = tmp_path / "gone"
        for source, said in (
            (TextFiles(str(gone)), f"source.path ({gone}) must be a file or a folder, and there is none"),
            (TextFiles(with_train, val_path=str(gone)), f"source.val_path ({gone}) must be a file or a folder"),
            (TextFiles(with_train, test_path=str(gone)), f"source.test_path ({gone}) must be a file or a folder"),
            (TextFiles(str(tmp_path / "pictures")), f"source.path ({tmp_path / 'pictures'}) must have a file of text"),
            (TextFiles(str(tmp_path / "set")), f"{tmp_path / 'set'} has val.txt, test, but nothing called train: add"),
        ):
            found = message(lambda source=source: splits(source))
            assert found.startswith(said)
            assert len(found.splitlines()) == 1
        assert message(lambda: TextFiles("a", separator="")).startswith("separator ('') must not be empty")
        assert message(lambda: TextFiles("a", separator=r"\n")) == (
            r"separator (\n) is a backslash and an n, no line's end: write $'\n' in a shell"
        )
        assert message(lambda: TextFiles([])) == "path ([]) must name at least one file or folder"

    def test_nothing_is_read_before_it_is_needed(self) -> None:
        TextFiles("nowhere", val_path="nowhere").prepare()

    def test_fingerprint(self, tmp_path: Path) -> None:
        """Of what is read, and how."""
        write(tmp_path, train_txt="abc", val_txt="abc")

        def fingerprint(split: TextSplit = "train", **options: Any) -> str | None:
            return TextFiles(str(tmp_path), **options).fingerprint(split)

        seen = {fingerprint(), fingerprint("val"), fingerprint(separator="\n"), fingerprint(column="other")}
        assert len(seen) == 4
        assert fingerprint() in seen
        write(tmp_path, train_txt="abcd")
        seen.add(fingerprint())
        os.utime(tmp_path / "train.txt", (1, 1))
        seen.add(fingerprint())
        write(tmp_path, train__more_txt="more")
        seen.add(fingerprint())
        assert len(seen) == 7
        assert fingerprint("val") in seen


class TestHuggingFaceText:
    """Local directories, as the hub has them and as ``save_to_disk`` writes them."""

    @pytest.fixture(autouse=True)
    def _own_cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf_cache")
        datasets.disable_progress_bars()

    @staticmethod
    def saved(kind: str, folder: Path, **contents: list[Any]) -> str:
        """Splits, each with the given texts and a number."""
        folder.mkdir(exist_ok=True)
        rows = {name: {"text": texts, "id": list(range(len(texts)))} for name, texts in contents.items()}
        made = {name: datasets.Dataset.from_dict(columns) for name, columns in rows.items()}
        if kind == "parquet":
            for name, one in made.items():
                one.to_parquet(folder / f"{name}-00000-of-00001.parquet")
        elif kind == "jsonl":
            for name, columns in rows.items():
                lines = [
                    json.dumps(dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)
                ]
                (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
        else:
            datasets.DatasetDict(made).save_to_disk(folder)
        return str(folder)

    @pytest.mark.parametrize("streaming", [False, True])
    @pytest.mark.parametrize("kind", ["parquet", "jsonl", "save_to_disk"])
    def test_splits(self, kind: str, streaming: bool, tmp_path: Path) -> None:
        path = self.saved(kind, tmp_path / "set", train=["a", "b", "ü", "d"], validation=["e"], test=["f", "g"])
        source = HuggingFaceText(path, streaming=streaming)
        source.prepare()
        assert splits(source) == [["a", "b", "ü", "d"], ["e"], ["f", "g"]]
        assert [list(source.documents_from(number)) for number in (0, 3, 4, 9)] == [["a", "b", "ü", "d"], ["d"], [], []]
        assert source.streamed == streaming
        named = HuggingFaceText(path, train_split="test", val_split="train", test_split="test", streaming=streaming)
        assert splits(named) == [["f", "g"], ["a", "b", "ü", "d"], ["f", "g"]]

    @pytest.mark.parametrize("kind", ["parquet", "save_to_disk"])
    def test_slices(self, kind: str, tmp_path: Path) -> None:
        path = self.saved(kind, tmp_path / "set", train=list("abcd"), validation=list("ef"))
        source = HuggingFaceText(path, train_split="train[:50%]+validation[1:]", val_split="train[3:]")
        assert splits(source) == [["a", "b", "f"], ["d"], None]
        empty = HuggingFaceText(path, train_split="train[4:]")
        assert "split (train[4:]) could not be loaded: " in message(empty.prepare)

    @pytest.mark.parametrize("streaming", [False, True])
    def test_saved_without_splits(self, streaming: bool, tmp_path: Path) -> None:
        datasets.Dataset.from_dict({"text": ["a", "b"]}).save_to_disk(tmp_path / "set")
        source = HuggingFaceText(str(tmp_path / "set"), streaming=streaming)
        assert splits(source) == [["a", "b"], None, None]

    @pytest.mark.parametrize("streaming", [False, True])
    @pytest.mark.parametrize("kind", ["parquet", "jsonl", "save_to_disk"])
    def test_mistakes(self, kind: str, streaming: bool, tmp_path: Path) -> None:
        path = self.saved(kind, tmp_path / "set", train=["a", "b", None])

        def said(**options: Any) -> str:
            return message(lambda: splits(HuggingFaceText(path, streaming=streaming, **options)))

        assert said() == f"{path}, train, row 2: text must be text, not None"
        assert said(column="id") == f"{path}, train, row 0: id must be text, not 0"
        assert said(column="txt") == f"column (txt) must be a column of {path}: text, id"
        assert said(val_split="train[90%:]") == (
            "val_split (train[90%:]) is a part of train_split (train), so that it would be trained on: "
            "set train_split to the other part, such as train[:90%]"
        )
        first, cure = said(train_split="training").splitlines()
        assert first.startswith(f"path ({path}), config_name (None), split (training) could not be loaded: ")
        assert "train" in first.split(": ", 1)[1]
        assert cure.startswith("set path to a name on the hub within reach or a directory, and the splits")
        source = HuggingFaceText(path, streaming=streaming)
        assert message(lambda: list(source.documents_from(1))) == f"{path}, train, row 2: text must be text, not None"

    def test_not_within_reach(self, tmp_path: Path) -> None:
        for name in ("nobody/nothing", str(tmp_path / "gone")):
            said = message(HuggingFaceText(name).prepare)
            assert said.startswith(f"path ({name}), config_name (None), split (train) could not be loaded: ")
            assert len(said.splitlines()) == 2

    @pytest.mark.parametrize("kind", ["parquet", "save_to_disk"])
    def test_fingerprint(self, kind: str, tmp_path: Path) -> None:
        path = self.saved(kind, tmp_path / "set", train=["a", "b"], validation=["c"])
        seen = {
            HuggingFaceText(path, **options).fingerprint(split)
            for split in ("train", "val")
            for options in ({}, {"train_split": "train[:1]"})
        }
        assert len(seen) == 3
        assert HuggingFaceText(path).fingerprint("train") in seen
        assert HuggingFaceText(path).fingerprint("test") is None
        assert HuggingFaceText(path, streaming=True).fingerprint("train") is None
        other = self.saved(kind, tmp_path / "other", train=["a", "x"], validation=["c"])
        assert HuggingFaceText(other).fingerprint("train") not in seen
        if kind == "parquet":
            self.saved(kind, tmp_path / "set", train=["a", "x"])
            assert HuggingFaceText(path).fingerprint("train") not in seen
            assert splits(HuggingFaceText(path)) == [["a", "x"], ["c"], None]

    def test_loaded_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each loading of a dataset of the hub asks the hub."""
        path = self.saved("parquet", tmp_path / "set", train=["a"], validation=["b"])
        calls: list[str] = []
        for name in ("load_dataset", "get_dataset_split_names"):
            real = getattr(datasets, name)
            counted = lambda *args, real=real, name=name, **options: (calls.append(name), real(*args, **options))[1]  # noqa: E731
            monkeypatch.setattr(datasets, name, counted)
        source = HuggingFaceText(path)
        source.prepare()
        for split in ("train", "val", "test", "train", "val", "test"):
            texts(source, split)
            source.fingerprint(split)
        assert sorted(calls) == ["get_dataset_split_names", "load_dataset", "load_dataset"]
