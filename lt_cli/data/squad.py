"""Files of SQuAD: questions about paragraphs, in one JSON document (https://rajpurkar.github.io/SQuAD-explorer)."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lt_cli.data.base import SplitName
from lt_cli.data.json_documents import document_of, value_of
from lt_cli.data.row_sources import FileRows
from lt_cli.data.rows import Row
from lt_cli.errors import UserError

OF_THE_PARAGRAPH = ("title", "context")
"""Fields of a row that are not the question's own."""


class SquadFiles(FileRows):
    """Files of SQuAD, of its first version or of its second, which also has questions without an answer.

    Predictions are such a file with the predicted answer in the answers' place, which has those questions only that
    were predicted; and beside it answers.json, {id: text}, which SQuAD's own evaluation reads.

    Args:
        path: A file, of which parts are held out, or a folder with files called train, val (also valid, validation,
            dev) and test; null where only predict_path is read.
        val_path: File for validation.
        test_path: File for test.
        predict_path: File to predict; it needs no answers.
    """

    suffixes = (".json",)

    def __init__(
        self,
        path: str | None = None,
        *,
        val_path: str | None = None,
        test_path: str | None = None,
        predict_path: str | None = None,
    ) -> None:
        """Reads nothing."""
        super().__init__(path, val_path, test_path, predict_path)

    def read(self, path: Path, *, unlabeled: bool) -> list[Row]:
        """The questions of one file, with title and context; ``answers`` is None where nothing is said of any."""
        rows: dict[str, Row] = {}
        for found in _questions(path, document_of(path, "a JSON object with data")):
            fields = found.question
            key, place = fields["id"], f"{path}, question {fields['id']}"
            if key in rows:
                raise UserError(f"{path}: {found.place} has the id {key!r} of another question: give it one of its own")
            if not fields["question"].strip():
                raise UserError(f"{place} ({found.place}) is empty: fill it, or leave it out")
            answers = fields.get("answers")
            if answers and fields.get("is_impossible"):
                raise UserError(f"{place} ({found.place}) is_impossible, and has answers: leave out one of them")
            given = answers or (answers if fields.get("is_impossible") else None)
            rows[key] = Row({**fields, "title": found.title, "context": found.context, "answers": given}, place)
        return list(rows.values())

    def write(self, rows: Sequence[dict[str, Any]], split: SplitName, directory: Path) -> list[Path]:
        """The split's file with the rows' answers, and answers.json."""
        path = self.file(split) or self.file("train")
        assert path is not None
        document = document_of(path, "a JSON object with data")
        predicted = {row["id"]: row for row in rows}
        for article in document["data"]:
            for paragraph in article["paragraphs"]:
                questions = [question for question in paragraph["qas"] if question["id"] in predicted]
                paragraph["qas"] = [_with_answers(question, predicted[question["id"]]) for question in questions]
            article["paragraphs"] = [paragraph for paragraph in article["paragraphs"] if paragraph["qas"]]
        document["data"] = [article for article in document["data"] if article["paragraphs"]]
        answers = {key: "".join(answer["text"] for answer in row["answers"]) for key, row in predicted.items()}
        paths = [directory / "predictions.json", directory / "answers.json"]
        for file, content in zip(paths, (document, answers), strict=True):
            file.write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")
        return paths


class _Question(NamedTuple):
    """A question as it stands in the document, what it is about, and where it stands."""

    question: dict[str, Any]
    context: str
    title: str
    place: str


def _with_answers(question: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    """A question with what its row has by now; the second version's mark follows the answers."""
    question = question | {name: value for name, value in row.items() if name not in OF_THE_PARAGRAPH}
    if not row["answers"] or "is_impossible" in question:
        question["is_impossible"] = not row["answers"]
    return question


def _questions(path: Path, document: dict[str, Any]) -> Iterator[_Question]:
    """All of a document, in order, each with the keys that it needs."""
    for i, article in enumerate(value_of(path, "", document, "data", list)):
        in_article = f"data[{i}]"
        for j, paragraph in enumerate(value_of(path, in_article, article, "paragraphs", list)):
            in_paragraph = f"{in_article}.paragraphs[{j}]"
            context = value_of(path, in_paragraph, paragraph, "context", str)
            if not context.strip():
                raise UserError(f"{path}: {in_paragraph}.context is empty: fill it, or leave the paragraph out")
            for k, question in enumerate(value_of(path, in_paragraph, paragraph, "qas", list)):
                place = f"{in_paragraph}.qas[{k}]"
                for name in ("id", "question"):
                    value_of(path, place, question, name, str)
                yield _Question(question, context, article.get("title", ""), place)
