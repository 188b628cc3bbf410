"""Files of SQuAD, read, written and refused."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from toys import message

from lt_cli.data.answer_rows import Answer, answers_of
from lt_cli.data.rows import Row
from lt_cli.data.squad import SquadFiles

CONTEXT = "Köln lies on the Rhine. 日本 is far away."


def document(**version: Any) -> dict[str, Any]:
    """Two articles; the last question has no answer."""
    first = {"context": CONTEXT, "qas": [question("a", "Where is Köln?", "on the Rhine"), question("b", "?", "日本")]}
    second = {
        "context": "Nothing here.",
        "qas": [{"id": "c", "question": "Who?", "answers": [], "is_impossible": True, "plausible_answers": [1]}],
    }
    return {"data": [{"title": "T", "paragraphs": [first]}, {"title": "U", "paragraphs": [second]}], **version}


def question(key: str, text: str, answer: str) -> dict[str, Any]:
    return {"id": key, "question": text, "answers": [{"text": answer, "answer_start": CONTEXT.index(answer)}]}


def saved(content: Any, name: str = "train.json") -> Path:
    path = Path(name)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_questions_come_with_their_contexts() -> None:
    rows = SquadFiles(str(saved(document(version="v2.0")))).rows("train")
    assert rows is not None
    assert [row.fields["id"] for row in rows] == ["a", "b", "c"]
    assert [row.fields["title"] for row in rows] == ["T", "T", "U"]
    assert rows[0].fields["context"] == CONTEXT
    assert rows[2].place == "train.json, question c"
    found = [answers_of(row, "answers", row.fields["context"]) for row in rows]
    assert [[CONTEXT[start:end] for start, end in some] for some in found] == [["on the Rhine"], ["日本"], []]


def test_predictions_are_read_again() -> None:
    """What was not predicted is left out; the rest of the document stays."""
    source = SquadFiles(str(saved(document(version="v2.0"))))
    rows = source.rows("train")
    assert rows is not None
    predicted = [
        rows[0].fields | {"answers": [], "probability": 0.5},
        rows[2].fields | {"answers": [{"text": "here", "answer_start": 8}]},
    ]
    paths = source.write(predicted, "train", Path())
    assert [path.name for path in paths] == ["predictions.json", "answers.json"]
    assert json.loads(paths[1].read_text()) == {"a": "", "c": "here"}
    written = json.loads(paths[0].read_text())
    expected = document(version="v2.0")
    questions = expected["data"][0]["paragraphs"][0]["qas"]
    questions[:] = [questions[0] | {"answers": [], "is_impossible": True, "probability": 0.5}]
    expected["data"][1]["paragraphs"][0]["qas"][0] |= {
        "answers": [{"text": "here", "answer_start": 8}],
        "is_impossible": False,
    }
    assert written == expected
    again = SquadFiles(str(paths[0])).rows("train")
    assert again is not None
    assert [answers_of(row, "answers", row.fields["context"]) for row in again] == [[], [Answer(8, 12)]]


def test_a_file_without_answers_can_be_predicted() -> None:
    content = document()
    for entry in content["data"]:
        for asked in entry["paragraphs"][0]["qas"]:
            del asked["answers"]
            asked.pop("is_impossible", None)
    rows = SquadFiles(predict_path=str(saved(content))).rows("predict")
    assert rows is not None
    said = message(lambda: answers_of(rows[0], "answers", CONTEXT))
    assert said == "train.json, question a has no answer: give it one in answers, or say that it has none"


def changed(edit: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    content = copy.deepcopy(document())
    edit(content)
    return content


def asked(content: dict[str, Any], number: int = 0) -> dict[str, Any]:
    """A question of the first paragraph."""
    found: dict[str, Any] = content["data"][0]["paragraphs"][0]["qas"][number]
    return found


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"data": [', "train.json:1 is not JSON: Expecting value, column 11"),
        ("[1]", "train.json must be a JSON object with data, {…}, not [1]"),
        ('{"dat": []}', "train.json has no 'data', only dat; did you mean dat?"),
        ('{"data": []}', "train.json has no row: fill it, or leave it out"),
        ('{"data": ["\\ud800"]}', "train.json has half a character, '\\ud800': mend it"),
        (changed(lambda c: c.update(data={})), "train.json data must be a list, not {}"),
        (
            changed(lambda c: c["data"][1].pop("paragraphs")),
            "train.json: data[1] has no 'paragraphs', only title",
        ),
        (
            changed(lambda c: c["data"][0]["paragraphs"][0].pop("context")),
            "train.json: data[0].paragraphs[0] has no 'context', only qas",
        ),
        (
            changed(lambda c: c["data"][0]["paragraphs"][0].update(context=" ")),
            "train.json: data[0].paragraphs[0].context is empty: fill it, or leave the paragraph out",
        ),
        (
            changed(lambda c: asked(c, 1).update(Question=asked(c, 1).pop("question"))),
            "train.json: data[0].paragraphs[0].qas[1] has no 'question', only id, answers, Question; did you mean "
            "Question?",
        ),
        (
            changed(lambda c: asked(c).update(question="")),
            "train.json, question a (data[0].paragraphs[0].qas[0]) is empty: fill it, or leave it out",
        ),
        (
            changed(lambda c: asked(c).update(id=3)),
            "train.json: data[0].paragraphs[0].qas[0].id must be text, not 3",
        ),
        (
            changed(lambda c: asked(c, 1).update(id="a")),
            "train.json: data[0].paragraphs[0].qas[1] has the id 'a' of another question: give it one of its own",
        ),
        (
            changed(lambda c: asked(c).update(is_impossible=True)),
            "train.json, question a (data[0].paragraphs[0].qas[0]) is_impossible, and has answers: leave out one of "
            "them",
        ),
        (
            changed(lambda c: c["data"][0]["paragraphs"][0]["qas"].append("x")),
            "train.json: data[0].paragraphs[0].qas[2] must be an object, {…}, not 'x'",
        ),
    ],
)
def test_mistakes(content: Any, says: str) -> None:
    path = saved(content)
    assert message(lambda: SquadFiles(str(path)).rows("train")) == says


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"answers": {"text": ["lies", "lies on"], "answer_start": [5, 5]}}, [(5, 9), (5, 12)]),
        ({"answers": [{"text": "lies", "answer_start": 5}]}, [(5, 9)]),
        ({"answers": []}, []),
        ({"answers": {"text": [], "answer_start": []}}, []),
        ({"answer_start": 5, "answer_end": 9}, [(5, 9)]),
        ({"answer_start": "5", "answer_end": "9"}, [(5, 9)]),
        ({"answer_start": "", "answer_end": ""}, []),
        ({"answer_start": None, "answer_end": None}, []),
    ],
)
def test_forms_of_answers(fields: dict[str, Any], found: list[tuple[int, int]]) -> None:
    assert answers_of(Row(fields, "here"), "answers", CONTEXT) == found


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (
            {"answers": [{"text": "lies", "answer_start": 6}]},
            "here: the answer 'lies' must stand at answer_start (6), where 'ies ' is: it stands at 5",
        ),
        (
            {"answers": [{"text": "lies", "answer_start": 600}]},
            "here: the answer 'lies' must stand at answer_start (600), where the context of 39 characters has nothing: "
            "it stands at 5",
        ),
        (
            {"answers": [{"text": "stands", "answer_start": -3}]},
            "here: the answer 'stands' must stand at answer_start (-3), where the context of 39 characters has "
            "nothing: it stands nowhere in it: mend the text",
        ),
        (
            {"answers": [{"text": " ", "answer_start": 4}]},
            "here: an answer in answers must be text, not ' ': leave it out",
        ),
        (
            {"answers": [{"text": "lies", "answer_start": "5"}]},
            "here: answer_start of the answer 'lies' must be a whole number, not '5'",
        ),
        (
            {"answers": {"text": ["lies"], "answer_start": []}},
            "here: answers must be a list of {text, answer_start}, or {text: […], answer_start: […]} of equal lengths, "
            "not {'text': ['lies'], 'answer_start': []}",
        ),
        (
            {"answers": "lies"},
            "here: answers must be a list of {text, answer_start}, or {text: […], answer_start: […]} of equal lengths, "
            "not 'lies'",
        ),
        ({"answer": "lies"}, "here has no column 'answers', nor answer_start and answer_end, only answer; did you m"),
        ({"answer_start": 5, "answer_end": ""}, "here has answer_start, but no answer_end: give both, or neither wh"),
        ({"answer_start": "a", "answer_end": 9}, "here: answer_start must be a whole number, not 'a'"),
        (
            {"answer_start": 9, "answer_end": 9},
            "here: answer_start (9) and answer_end (9), the character behind the answer, must be a part of the "
            "context, which has 39 characters",
        ),
        (
            {"answer_start": 4, "answer_end": 5},
            "here: answer_start (4) and answer_end (5) have nothing between them but spaces",
        ),
    ],
)
def test_wrong_answers(fields: dict[str, Any], says: str) -> None:
    assert message(lambda: answers_of(Row(fields, "here"), "answers", CONTEXT)).startswith(says)
