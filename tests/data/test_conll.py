"""Column files of sentences: what is read, where labels may be missing, and what is written back."""

import json
from pathlib import Path
from typing import Any

import pytest
from toys import message

from lt_cli.data.conll import ConllFiles

DOCUMENTS = """-DOCSTART- -X- O O

EU NNP I-NP I-ORG
rejects VBZ I-VP O
German JJ I-NP I-MISC

-DOCSTART- -X- O O

# sent_id = 2
# long id: one two three
# NN I-NP O
# NN I-NP O
Peter NNP I-NP I-PER


. . O O

# the end
"""


def write(path: Path, content: str) -> Path:
    path.write_bytes(content.encode())
    return path


def source(folder: Path, content: str = DOCUMENTS, **options: Any) -> ConllFiles:
    return ConllFiles(str(write(folder / "eng.train", content)), **options)


def sentences(rows: Any) -> list[tuple[list[str], list[str] | None]]:
    return [(row.fields["tokens"], row.fields.get("labels")) for row in rows]


class TestReading:
    """Sentences, and what stands between them."""

    def test_sentences(self, tmp_path: Path) -> None:
        """Where a sentence begins, a line that could be a comment is one unless it ends in a label."""
        rows = source(tmp_path).rows("train")
        assert sentences(rows) == [
            (["EU", "rejects", "German"], ["I-ORG", "O", "I-MISC"]),
            (["#", "#", "Peter"], ["O", "O", "I-PER"]),
            (["."], ["O"]),
        ]
        places = [row.place.removeprefix(f"{tmp_path}/") for row in rows or []]
        assert places == ["eng.train:3", "eng.train:11", "eng.train:16"]

    @pytest.mark.parametrize(
        "content",
        ["EU\tI-ORG\nNew York\tI-LOC\n", "\ufeffEU\tI-ORG\r\nNew York \tI-LOC\r\n\t\r\n", "EU\tI-ORG\nNew York\tI-LOC"],
    )
    def test_tabs_and_ends_of_lines(self, tmp_path: Path, content: str) -> None:
        assert sentences(source(tmp_path, content).rows("train")) == [(["EU", "New York"], ["I-ORG", "I-LOC"])]

    def test_other_white_space_is_part_of_a_word(self, tmp_path: Path) -> None:
        words = ["100\u00a0000", "a\u2028b", "\x85", "\x00"]
        rows = source(tmp_path, "".join(f"{word}  O \n" for word in words)).rows("train")
        assert sentences(rows) == [(words, ["O"] * 4)]

    @pytest.mark.parametrize(
        ("options", "labels"),
        [
            ({}, ["I-ORG", "O", "I-MISC"]),
            ({"label_column": 1}, ["NNP", "VBZ", "JJ"]),
            ({"label_column": -2}, ["I-NP", "I-VP", "I-NP"]),
        ],
    )
    def test_columns(self, tmp_path: Path, options: dict[str, int], labels: list[str]) -> None:
        rows = source(tmp_path, **options).rows("train")
        assert sentences(rows)[0] == (["EU", "rejects", "German"], labels)

    def test_words_behind_labels(self, tmp_path: Path) -> None:
        files = source(tmp_path, "O a\n\nB b\n", token_column=1, label_column=0)
        assert sentences(files.rows("train")) == [(["a"], ["O"]), (["b"], ["B"])]
        files.named["predict"] = write(tmp_path / "new", "a\nb\n")
        assert sentences(files.rows("predict")) == [(["a", "b"], None)]

    def test_a_folder(self, tmp_path: Path) -> None:
        for name in ("train.conll", "dev.txt", "test.bio"):
            write(tmp_path / name, f"{name} O\n")
        files = ConllFiles(str(tmp_path))
        assert [sentences(files.rows(split))[0][0] for split in ("train", "val", "test")] == [
            ["train.conll"],
            ["dev.txt"],
            ["test.bio"],
        ]  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            ("EU NNP O\nrejects O\n", "eng.train:2 has 2 columns, and the first word's line 3: every word needs all"),
            (
                "EU O\n# a remark\n",
                "eng.train:2 has 3 columns, and the first word's line 2: every word needs all columns",
            ),
            ("EU\tO\n\tO\n", "eng.train:2 has nothing in column 0: give it a value"),
            ("EU\tO\nx\t\n", "eng.train:2 has nothing in column 1: give it a value"),
            (
                "EU\n",
                "source.token_column (0) and source.label_column (-1) are the same column of eng.train, which has 1: ",
            ),
            ("# only\n# comments\n", "eng.train has no row: fill it, or leave it out"),
            ("-DOCSTART- O\n", "eng.train has no row: fill it, or leave it out"),
        ],
    )
    def test_mistakes(self, tmp_path: Path, content: str, says: str) -> None:
        told = message(lambda: source(tmp_path, content).rows("train")).replace(f"{tmp_path}/", "")
        assert told.startswith(says)

    def test_a_column_that_is_not_there(self, tmp_path: Path) -> None:
        told = message(lambda: source(tmp_path, "a O\n", label_column=2).rows("train")).replace(f"{tmp_path}/", "")
        assert told == (
            "source.label_column (2) must be a column of eng.train, whose labeled lines have 2: 0 to 1, or -2 to -1 "
            "from the last"
        )


class TestPredicting:
    """Labels are found by the number of columns."""

    def read(self, tmp_path: Path, content: str, **options: Any) -> Any:
        return sentences(
            source(tmp_path, "a X O\n", predict_path=str(write(tmp_path / "new", content)), **options).rows("predict")
        )

    def test_with_labels_and_without(self, tmp_path: Path) -> None:
        assert self.read(tmp_path, "b Y B-X\n") == [(["b"], ["B-X"])]
        assert self.read(tmp_path, "b Y\n") == [(["b"], None)]

    def test_another_number_of_columns(self, tmp_path: Path) -> None:
        told = message(lambda: self.read(tmp_path, "b Y Z B-X\n")).replace(f"{tmp_path}/", "")
        assert told == "new has 4 columns, and the labeled files 3: give it 3, or 2 without the labels"

    def test_words_alone_need_no_labeled_file(self, tmp_path: Path) -> None:
        files = ConllFiles(predict_path=str(write(tmp_path / "new", "a\nb\n\nc\n")))
        assert sentences(files.rows("predict")) == [(["a", "b"], None), (["c"], None)]

    def test_what_a_checkpoint_knows(self, tmp_path: Path) -> None:
        trained = source(tmp_path, "a X O\n")
        trained.rows("train")
        files = ConllFiles(predict_path=str(write(tmp_path / "new", "a X\n")))
        told = message(lambda: files.rows("predict")).replace(f"{tmp_path}/", "")
        assert told == (
            "new has 2 columns, and whether one of them holds labels is not known: name a labeled file of the same "
            "kind with --data.source.path"
        )
        files.load_state_dict(trained.state_dict())
        assert sentences(files.rows("predict")) == [(["a"], None)]


class TestWriting:
    """The file again, with other labels."""

    def predicted(self, files: ConllFiles, split: Any) -> list[dict[str, Any]]:
        rows = files.rows(split)
        assert rows is not None
        return [row.fields | {"labels": [f"L{i}" for i in range(len(row.fields["tokens"]))]} for row in rows]

    @pytest.mark.parametrize("ending", ["\n", "\n\n\n"])
    def test_all_else_is_kept(self, tmp_path: Path, ending: str) -> None:
        content = DOCUMENTS.rstrip("\n") + ending
        files = source(tmp_path, content)
        (path,) = files.write([row.fields for row in files.rows("train") or []], "train", tmp_path)
        assert path.name == "predictions.train"
        assert path.read_text() == content.rstrip("\n") + "\n"

    @pytest.mark.parametrize("label_column", [-1, 1, 3])
    def test_labels_are_put_where_they_belong(self, tmp_path: Path, label_column: int) -> None:
        """Whether the file had labels or not."""
        whole = [["a", "1", "x", "O"], ["b", "2", "y", "O"]]
        place = label_column % 4
        train = write(tmp_path / "eng.train", "".join(" ".join(line) + "\n" for line in whole))
        results = []
        for labeled in (True, False):
            lines = [line if labeled else line[:place] + line[place + 1 :] for line in whole]
            new = write(tmp_path / "new.txt", "".join("\t".join(line) + "\n" for line in lines))
            files = ConllFiles(str(train), predict_path=str(new), label_column=label_column)
            (path,) = files.write(self.predicted(files, "predict"), "predict", tmp_path)
            assert path.name == "predictions.txt"
            results.append(path.read_text())
        expected = [[*line[:place], f"L{i}", *line[place + 1 :]] for i, line in enumerate(whole)]
        assert results == ["".join("\t".join(line) + "\n" for line in expected)] * 2

    def test_what_has_no_column_gets_a_file_of_its_own(self, tmp_path: Path) -> None:
        files = source(tmp_path, "a O\n\nb O\n")
        rows = [row | {"probabilities": [{"O": 1.0}]} for row in self.predicted(files, "train")]
        path, beside = files.write(rows, "train", tmp_path)
        assert path.read_text() == "a L0\n\nb L0\n"
        assert [json.loads(line) for line in beside.read_text().splitlines()] == [
            {"tokens": [word], "labels": ["L0"], "probabilities": [{"O": 1.0}]} for word in "ab"
        ]
