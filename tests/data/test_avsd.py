"""Dialogs about videos: files of the AVSD challenges, read, written and refused; and what their rows say."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from toys import message

from lt_cli.data.avsd import AvsdFiles
from lt_cli.data.dialogs import HIDDEN, Turn, turns_of, with_answer
from lt_cli.data.row_sources import TableFiles, write_table
from lt_cli.data.rows import Row

TURNS = [{"question": "Is it Köln?", "answer": "yes", "note": 1}, {"question": "And this?", "answer": "日本"}]


def document(*videos: str, hidden: bool = False) -> dict[str, Any]:
    """A file with a dialog about each video, between other keys."""
    dialogs = [{"image_id": video, "caption": "c", "summary": "s", "dialog": copy.deepcopy(TURNS)} for video in videos]
    for dialog in dialogs if hidden else []:
        dialog["dialog"][-1]["answer"] = HIDDEN
    return {"type": "dialogs", "dialogs": dialogs, "version": "0.1"}


def references(**answers: list[str]) -> dict[str, Any]:
    """COCO's layout, in which ids are any numbers."""
    images = [{"id": 7 + i, "name": name} for i, name in enumerate(answers)]
    captions = [(7 + i, text) for i, texts in enumerate(answers.values()) for text in texts]
    return {
        "images": images,
        "annotations": [{"id": i, "image_id": key, "caption": text} for i, (key, text) in enumerate(captions)],
    }


def saved(content: Any, name: str = "train.json") -> str:
    Path(name).write_text(content if isinstance(content, str) else json.dumps(content))
    return name


def changed(content: dict[str, Any], edit: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    content = copy.deepcopy(content)
    edit(content)
    return content


class TestFiles:
    """What is read and what is written."""

    def test_rows_are_the_dialogs_as_they_stand(self) -> None:
        content = document("A_1", "B")
        content["dialogs"][1]["extra"] = {"x": None}
        rows = AvsdFiles(saved(content)).rows("train") or []
        assert [row.fields for row in rows] == content["dialogs"]
        assert [row.place for row in rows] == ["train.json, dialogs[0] (A_1)", "train.json, dialogs[1] (B)"]
        assert turns_of(rows[0], "dialog") == [Turn("Is it Köln?", "yes"), Turn("And this?", "日本")]

    def test_splits(self) -> None:
        source = AvsdFiles(
            saved(document("A")),
            val_path=saved(document("B"), "v.json"),
            test_path=saved(document("C"), "t.json"),
            predict_path=saved(document("D", hidden=True), "p.json"),
        )
        read = [source.rows(split) or [] for split in ("train", "val", "test", "predict")]
        assert [[row.fields["image_id"] for row in rows] for rows in read] == [["A"], ["B"], ["C"], ["D"]]
        assert turns_of(read[3][0], "dialog")[-1] == Turn("And this?", None)
        assert source.holds_lists("train")

    def test_predictions_are_a_submission(self) -> None:
        """The same document with the answers in it, which can be read again."""
        content = document("A", "B", "C", hidden=True)
        source = AvsdFiles(predict_path=saved(content, "p.json"))
        rows = source.rows("predict") or []
        answered = [with_answer(row.fields, "dialog", f"ö{i}") for i, row in enumerate(rows)]
        (path,) = source.write(answered, "predict", Path())
        assert path == Path("predictions.json")
        assert "ö2" in path.read_text(encoding="utf-8")
        for i, dialog in enumerate(content["dialogs"]):
            dialog["dialog"][-1]["answer"] = f"ö{i}"
        assert json.loads(path.read_text()) == content
        assert [*json.loads(path.read_text())] == ["type", "dialogs", "version"]
        again = AvsdFiles(str(path)).rows("train") or []
        assert [row.fields for row in again] == answered

    def test_part_of_the_training_rows_is_written(self) -> None:
        source = AvsdFiles(saved(document("A", "B", "C")))
        rows = source.rows("train") or []
        (path,) = source.write([rows[2].fields, rows[0].fields], "val", Path())
        assert [dialog["image_id"] for dialog in json.loads(path.read_text())["dialogs"]] == ["C", "A"]

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            ('{"dialogs": [\n', "train.json:2 is not JSON: Expecting value, column 1"),
            ("[" * 100_000, "train.json is JSON that cannot be read: maximum recursion depth exceeded"),
            ("[1]", "train.json must be a JSON object, {…}, not [1]"),
            ('{"dialog": []}', "train.json has no 'dialogs', only dialog; did you mean dialog?"),
            ('{"dialogs": []}', "train.json has no row: fill it, or leave it out"),
            ('{"dialogs": {}}', "train.json dialogs must be a list, not {}"),
            ('{"dialogs": ["\\ud800"]}', "train.json has half a character, '\\ud800': mend it"),
            ('{"dialogs": [NaN]}', "train.json has NaN or Infinity, which JSON does not know: write null"),
            ('{"dialogs": ["x"]}', "train.json: dialogs[0] must be an object, {…}, not 'x'"),
            (
                changed(document("A", "B"), lambda c: c["dialogs"][1].pop("image_id")),
                "train.json: dialogs[1] has no 'image_id', only caption, summary, dialog",
            ),
            (document(3), "train.json: dialogs[0].image_id must be text, not 3"),
            (document(" "), "train.json: dialogs[0].image_id is empty: fill it, or leave the dialog out"),
            (
                changed(document("A"), lambda c: c["dialogs"][0].update(dialogue=c["dialogs"][0].pop("dialog"))),
                "train.json: dialogs[0] has no 'dialog', only image_id, caption, summary, dialogue; did you mean "
                "dialogue?",
            ),
            (
                changed(document("A"), lambda c: c["dialogs"][0].update(dialog={})),
                "train.json: dialogs[0].dialog must be a list, not {}",
            ),
        ],
    )
    def test_mistakes(self, content: Any, says: str) -> None:
        path = saved(content)
        assert message(lambda: AvsdFiles(path).rows("train")).startswith(says)


class TestReferences:
    """Several right answers to a test file's last questions."""

    def source(self, answers: Any, *videos: str) -> AvsdFiles:
        return AvsdFiles(
            saved(document("A")),
            test_path=saved(document(*videos, hidden=True), "test.json"),
            references_path=saved(answers, "refs.json"),
        )

    def test_names_with_and_without_turns(self) -> None:
        """An id may itself end as a name with a turn does."""
        source = self.source(references(A=["a", "ä"], A_2=["b"], B_10=["c"], C_1_10=["d"]), "B", "C_1", "A_2", "A")
        found = {row.fields["image_id"]: row.fields["references"] for row in source.rows("test") or []}
        assert found == {"A": ["a", "ä"], "A_2": ["b"], "B": ["c"], "C_1": ["d"]}
        assert "references" not in (source.rows("train") or [])[0].fields

    def test_they_are_not_written(self) -> None:
        source = self.source(references(B_10=["c"]), "B")
        rows = source.rows("test") or []
        (path,) = source.write([with_answer(row.fields, "dialog", "x") for row in rows], "test", Path())
        (dialog,) = json.loads(path.read_text())["dialogs"]
        assert [*dialog] == ["image_id", "caption", "summary", "dialog"]
        assert dialog["dialog"][-1]["answer"] == "x"

    def test_a_field_of_the_file_itself_is_written(self) -> None:
        content = document("B")
        content["dialogs"][0]["references"] = ["mine"]
        source = AvsdFiles(saved(document("A")), test_path=saved(content, "test.json"))
        rows = source.rows("test") or []
        assert rows[0].fields["references"] == ["mine"]
        (path,) = source.write([rows[0].fields], "test", Path())
        assert json.loads(path.read_text()) == content

    def test_in_a_folder_they_are_not_said_to_be_left_out(self, caplog: pytest.LogCaptureFixture) -> None:
        Path("d").mkdir()
        saved(document("A"), "d/train.json")
        saved(document("B"), "d/test.json")
        saved(references(B=["b"]), "d/refs.json")
        source = AvsdFiles("d", references_path="d/refs.json")
        with caplog.at_level("INFO"):
            assert len(source.rows("train") or []) == 1
        assert "left out" not in caplog.text
        assert [row.fields["references"] for row in source.rows("test") or []] == [["b"]]

    @pytest.mark.parametrize(
        ("answers", "says"),
        [
            (
                references(A_9=["a"], B_9=["b"], X_9=["x"], Y_1=["y"], Z=["z"], W=["w"]),
                "refs.json has answers about 4 videos that test.json does not have: X_9, Y_1, Z and 1 more: leave them "
                "out, or correct their names",
            ),
            (
                references(A_9=["a"], B_9=[]),
                "refs.json must have an answer for each dialog of test.json, and has none for 1 of 2: B: add them, or "
                "leave these dialogs out",
            ),
            (
                references(A_9=["a"], B_9=["b"], A_10=["c"]),
                "refs.json: images[2], named A_10, is about the video of images[0], A: leave out all but the one for "
                "its last question",
            ),
            (
                changed(references(A=["a"], B=["b"]), lambda c: c["images"][1].update(id=7)),
                "refs.json: images[1] has the id 7 of another image: give it one of its own",
            ),
            (
                changed(references(A=["a"], B=["b"]), lambda c: c["annotations"][1].update(image_id=99)),
                "refs.json: annotations[1].image_id (99) is the id of none of images: mend it",
            ),
            (
                changed(references(A=["a"], B=["b"]), lambda c: c["annotations"][1].update(image_id=True)),
                "refs.json: annotations[1].image_id must be text or a whole number, not True",
            ),
            (
                references(A=["a"], B=[" "]),
                "refs.json: annotations[1].caption is empty: fill it, or leave the annotation out",
            ),
            ({"images": []}, "refs.json has no 'annotations', only images"),
        ],
    )
    def test_mistakes(self, answers: Any, says: str) -> None:
        assert message(lambda: self.source(answers, "A", "B").rows("test")) == says

    def test_two_dialogs_about_a_video(self) -> None:
        assert message(lambda: self.source(references(A=["a"]), "A", "B", "A").rows("test")) == (
            "test.json has 2 dialogs about the video A, and refs.json cannot say which of them its answers are to: "
            "leave all but one out"
        )

    def test_references_of_its_own(self) -> None:
        content = document("A")
        content["dialogs"][0]["references"] = ["mine"]
        source = AvsdFiles(
            test_path=saved(content, "test.json"), references_path=saved(references(A=["a"]), "refs.json")
        )
        assert message(lambda: source.rows("test")) == (
            "test.json, dialogs[0] (A) has references of its own: set --data.source.references_path=null"
        )

    def test_no_test_file(self) -> None:
        """It is found out before training."""
        source = AvsdFiles(saved(document("A")), references_path="refs.json")
        assert message(lambda: source.rows("train")) == (
            "source.references_path (refs.json) has answers to a test file, and there is none: name it with "
            "--data.source.test_path, or set --data.source.references_path=null"
        )

    def test_no_file(self) -> None:
        source = self.source(references(B=["b"]), "B")
        Path("refs.json").unlink()
        assert message(lambda: source.rows("train")) == (
            "source.references_path (refs.json) must be a file, and there is none: correct the path"
        )


class TestTurns:
    """What a dialog says."""

    @pytest.mark.parametrize("last", [{"answer": HIDDEN}, {"answer": None}, {}])
    def test_the_last_answer_may_be_hidden(self, last: dict[str, Any]) -> None:
        row = Row({"d": [{"question": "a?", "answer": "b"}, {"question": "c?", **last}]}, "here")
        assert turns_of(row, "d") == [Turn("a?", "b"), Turn("c?", None)]

    @pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.tsv", "rows.parquet"])
    def test_tables(self, name: str) -> None:
        """What a table's source writes has the dialog again, wherever it stood."""
        write_table([{"id": "A", "dialog": TURNS[1:]}], Path(name))
        source = TableFiles(name)
        (row,) = source.rows("train") or []
        assert turns_of(row, "dialog") == [Turn("And this?", "日本")]
        (path,) = source.write([with_answer(row.fields, "dialog", 'the "new", one')], "train", Path())
        (row,) = TableFiles(str(path)).rows("train") or []
        assert turns_of(row, "dialog") == [Turn("And this?", 'the "new", one')]

    def test_an_answer_leaves_all_else(self) -> None:
        fields = {"id": 1, "a": {"d": copy.deepcopy(TURNS), "e": 2}}
        before = copy.deepcopy(fields)
        assert with_answer(fields, "a.d", "new") == {
            "id": 1,
            "a": {"d": [TURNS[0], {"question": "And this?", "answer": "new"}], "e": 2},
        }
        assert fields == before

    def test_an_answer_where_there_was_none(self) -> None:
        assert with_answer({"d": '[{"question": "a?", "x": 1}]'}, "d", "b") == {
            "d": [{"question": "a?", "x": 1, "answer": "b"}]
        }

    @pytest.mark.parametrize(
        ("value", "says"),
        [
            (
                {"question": "a?"},
                "here: d must be a list of turns, {question, answer}, not {'question': 'a?'}: name the column that has "
                "one, or leave the row out",
            ),
            (
                None,
                "here: d must be a list of turns, {question, answer}, not None: name the column that has one, or leave "
                "the row out",
            ),
            ("what?", "here: d is not JSON: Expecting value, column 1"),
            ('["\\udfff"]', "here: d has half a character, '\\udfff': mend it"),
            ([], "here has no turn in d: give it one, or leave the row out"),
            (["x"], "here: d[0] must be an object, {question, answer}, not 'x': mend it"),
            ([{"Question": "a?"}], "here: d[0] has no 'question', only Question; did you mean Question?"),
            ([{"x": 1}], "here: d[0] has no 'question', only x: give it one"),
            ([{}], "here: d[0] has no 'question', only nothing: give it one"),
            (
                [{"question": " "}],
                "here: d[0].question must be text, not ' ': give it some, or leave the row out",
            ),
            (
                [{"question": 3}],
                "here: d[0].question must be text, not 3: give it some, or leave the row out",
            ),
            (
                [{"question": "a?", "answer": ""}],
                "here: d[0].answer must be text, not '': write null or __UNDISCLOSED__ where it is to be given",
            ),
            (
                [{"question": "a?", "answer": ["b"]}],
                "here: d[0].answer must be text, not ['b']: write null or __UNDISCLOSED__ where it is to be given",
            ),
            (
                [{"question": "a?", "answer": "\n"}, *TURNS],
                "here: d[0].answer must be text, not '\\n': give it some, or leave the row out",
            ),
            (
                [{"question": "a?", "answer": HIDDEN}, *TURNS],
                "here: d[0].answer must be text, not '__UNDISCLOSED__': only the last turn may be without an answer",
            ),
            (
                [*TURNS, {"question": "a?", "answer": None}, *TURNS],
                "here: d[2].answer must be text, not None: only the last turn may be without an answer",
            ),
            (
                [{"question": "a?"}, *TURNS],
                "here: d[0] has no 'answer', only question: only the last turn may be without an answer",
            ),
            (
                [{"question": "a?", "anwser": "b"}, *TURNS],
                "here: d[0] has no 'answer', only question, anwser; did you mean anwser?",
            ),
        ],
    )
    def test_mistakes(self, value: Any, says: str) -> None:
        assert message(lambda: turns_of(Row({"d": value}, "here"), "d")) == says

    def test_no_such_column(self) -> None:
        said = message(lambda: turns_of(Row({"dialog": TURNS}, "here"), "dialogue"))
        assert said == "here has no column 'dialogue', only dialog; did you mean dialog?"
