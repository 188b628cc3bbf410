"""Rows with choices as sequences, and predictions as rows."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from texts import bert_like
from toys import Riddles, message

from lt_cli.data.choices import ChoiceData
from lt_cli.data.row_sources import TableFiles
from lt_cli.data.tokenizers import ByteTokenizer, HuggingFaceTokenizer

RACE = {"article": "It rained.", "question": "The ground is _ .", "options": ["wet", "dry", "far away"], "answer": "B"}
SWAG = {"sent1": "A man sits.", "sent2": "He", "ending0": "stands.", "ending1": "sings a song.", "label": "1"}


def data_of(rows: list[dict[str, Any]], suffix: str = ".jsonl", **options: Any) -> ChoiceData:
    """The rows of a file, with one tokeniser and no part held out."""
    write(Path(f"train{suffix}"), rows)
    write(Path(f"val{suffix}"), rows)
    source = TableFiles(f"train{suffix}", val_path=f"val{suffix}", test_path=f"val{suffix}")
    data = ChoiceData(source=source, tokenizer=ByteTokenizer(), **options)
    data.prepare_data()
    data.setup("fit")
    return data


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        if path.suffix == ".jsonl":
            file.writelines(json.dumps(row) + "\n" for row in rows)
            return
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def race(**options: Any) -> ChoiceData:
    columns = {"text_column": "article", "question_column": "question", "choices_column": "options"}
    return data_of([RACE], **columns, label_column="answer", label_form="name", **options)


def read(data: ChoiceData, row: int = 0) -> list[str]:
    """What each sequence of a row says, with | for what frames it."""
    batch = data.splits["train"].batch([row], 0)
    masks = batch["attention_mask"].bool()
    return [
        "".join("|" if i == 256 else chr(i) for i in ids[mask].tolist())
        for ids, mask in zip(batch["input_ids"], masks, strict=True)
    ]


class TestSequences:
    """The text, and the choice with its question."""

    def test_choices_fill_a_gap(self) -> None:
        ends = ["The ground is wet .", "The ground is dry .", "The ground is far away ."]
        assert read(race(gap="_")) == [f"|It rained.|{end}|" for end in ends]

    @pytest.mark.parametrize("gap", [None, "___"])
    def test_choices_follow_a_question_without_gap(self, gap: str | None) -> None:
        assert read(race(gap=gap))[0] == "|It rained.|The ground is _ . wet|"

    def test_choices_of_columns(self) -> None:
        """As SWAG is read."""
        options = {"text_column": "sent1", "question_column": "sent2", "choice_columns": ["ending0", "ending1"]}
        assert read(data_of([SWAG], **options)) == ["|A man sits.|He stands.|", "|A man sits.|He sings a song.|"]

    def test_a_question_may_be_empty(self) -> None:
        """As in the half of HellaSwag."""
        rows = [{"context": "Ice", "q": q, "c": ["melts", "burns"], "label": 0} for q in ("", "in water")]
        data = data_of(rows, question_column="q", choices_column="c")
        assert read(data, 0) == ["|Ice|melts|", "|Ice|burns|"]
        assert read(data, 1) == ["|Ice|in water melts|", "|Ice|in water burns|"]

    def test_the_longer_text_is_cut(self) -> None:
        data = data_of([{"context": "x" * 20, "c": ["yy", "z" * 9], "label": 0}], choices_column="c", max_seq_len=13)
        assert read(data) == [f"|{'x' * 8}|yy|", f"|{'x' * 5}|{'z' * 5}|"]
        assert "; 1 rows are cut to 13;" in data.describe()[0]

    def test_a_tokenizer_frames_pairs_its_own_way(self, tmp_path: Path) -> None:
        from transformers import AutoTokenizer

        folder = bert_like(tmp_path / "bert")
        data = ChoiceData(
            source=Riddles(num_train=6), tokenizer=HuggingFaceTokenizer(str(folder)), choices_column="choices"
        )
        data.prepare_data()
        data.setup("test")
        reference = AutoTokenizer.from_pretrained(folder)
        for i, row in enumerate(data.source.rows("test") or []):
            texts, choices = row.fields["context"], row.fields["choices"]
            expected = reference(
                [texts] * len(choices), choices, padding=True, return_tensors="pt", return_token_type_ids=True
            )
            batch = data.splits["test"].batch([i], 0)
            for name in ("input_ids", "attention_mask", "token_type_ids"):
                kept = batch[name].where(batch["attention_mask"].bool(), 0)
                assert (kept == expected[name].where(expected["attention_mask"].bool(), 0)).all()


class TestBatches:
    """Rows of different numbers of choices."""

    def data(self, **options: Any) -> ChoiceData:
        data = ChoiceData(source=Riddles(), tokenizer=ByteTokenizer(), choices_column="choices", **options)
        data.prepare_data()
        data.setup("fit")
        return data

    def test_against_the_rows(self) -> None:
        data = self.data()
        rows = data.source.rows("train") or []
        numbers = [5, 0, 77]
        batch = data.splits["train"].batch(numbers, 0)
        chosen = [rows[i].fields for i in numbers]
        assert batch["row"].tolist() == [i for i, row in enumerate(chosen) for _ in row["choices"]]
        assert batch["labels"].tolist() == [row["label"] for row in chosen]
        assert batch["is_choice"].tolist() == [[i < len(row["choices"]) for i in range(4)] for row in chosen]
        masks = batch["attention_mask"].bool()
        texts = [data.tokenizer.decode(ids[m].tolist()) for ids, m in zip(batch["input_ids"], masks, strict=True)]
        assert texts == [row["context"] + choice for row in chosen for choice in row["choices"]]

    @pytest.mark.parametrize("tokens", [None, 200, 400])
    def test_no_batch_has_more_tokens_than_it_may(self, tokens: int | None) -> None:
        """All choices and padding counted."""
        data = self.data(tokens_per_batch=tokens, batch_size=16)
        batches = list(data.train_dataloader())
        sizes = [batch["input_ids"].numel() for batch in batches]
        assert sorted(i for batch in batches for i in batch["index"].tolist()) == list(range(140))
        assert max(sizes) <= (tokens or 10**9)
        if tokens is not None:
            assert np.mean(sizes) > tokens / 4

    def test_first_page(self) -> None:
        data = self.data()
        sequences = sum(len(row.fields["choices"]) for row in data.source.rows("train") or [])
        assert data.describe()[0].startswith(f"train: 140 rows with {sequences} sequences of ")
        assert "; 2 to 4 choices; right is #0 " in data.describe()[0]
        batch = data.splits["train"].batch([0, 1], 0)
        lines = data.preview(batch, Path())
        fields = (data.source.rows("train") or [])[0].fields
        marks = [" (right)" if i == fields["label"] else "" for i in range(len(fields["choices"]))]
        assert lines == [
            f"choice {i} of a row{mark}: {fields['context'] + ' | ' + choice!r}"
            for i, (mark, choice) in enumerate(zip(marks, fields["choices"], strict=True))
        ]


class TestPredictions:
    """Labels in the form of the training rows."""

    @pytest.mark.parametrize(
        ("form", "label", "expected"),
        [
            *[("index", 0, 2), ("index", "0", "2"), ("number", 1, 3), ("number", "1", "3")],
            *[("name", "A", "C"), ("text", "x", "z")],
        ],
    )
    def test_forms(self, form: Any, label: Any, expected: Any) -> None:
        rows = [{"context": "t", "c": ["x", "y", "z"], "label": label, "id": 7}]
        data = data_of(rows, choices_column="c", label_form=form)
        again = ChoiceData(source=TableFiles(None), tokenizer=ByteTokenizer(), choices_column="c", label_form=form)
        again.load_state_dict(data.state_dict())
        unlabeled = {"context": "t", "c": ["x", "y", "z"], "id": 7}
        predicted = again.predicted(unlabeled, {"choice": 2, "probabilities": [0.1, 0.1, 0.8]})
        assert predicted == {**unlabeled, "label": expected, "probabilities": [0.1, 0.1, 0.8]}
        assert again.choice_counts == {3: 1}

    def test_names_of_the_row(self) -> None:
        rows = [{"context": "t", "c": {"label": ["P", "Q"], "text": ["x", "y"]}, "label": "Q"}]
        data = data_of(rows, choices_column="c", label_form="name")
        assert data.splits["train"].columns["labels"].tolist() == [1]
        other = {"context": "t", "c": {"label": ["K", "L"], "text": ["x", "y"]}}
        assert data.predicted(other, {"choice": 0})["label"] == "K"

    @pytest.mark.parametrize("suffix", [".csv", ".tsv"])
    def test_files_are_input_again(self, suffix: str) -> None:
        path = Path(f"train{suffix}")
        lines = ["\t".join(SWAG), *["\t".join(SWAG.values())] * 3]
        path.write_text("\n".join(lines if suffix == ".tsv" else [line.replace("\t", ",") for line in lines]))
        options = {"text_column": "sent1", "question_column": "sent2", "choice_columns": ["ending0", "ending1"]}
        source = TableFiles(str(path), predict_path=str(path))
        data = ChoiceData(source=source, tokenizer=ByteTokenizer(), **options)
        data.setup("predict")
        Path("out").mkdir()
        (written,) = data.write_predictions({"index": [0, 1, 2], "choice": [0, 1, 0]}, Path("out"), "csv")
        rows = TableFiles(str(written)).rows("train") or []
        assert [row.fields for row in rows] == [{**SWAG, "label": label} for label in "010"]


class TestPython:
    """What ``Run.predict`` takes."""

    def test_lists(self) -> None:
        data = race()
        fields = data.fields_of(("It rained.", "The ground is _ .", ["wet", "dry"]))
        assert fields == {"article": "It rained.", "question": "The ground is _ .", "options": ["wet", "dry"]}
        assert data.fields_of(fields) is fields
        assert len(data.given([fields, fields])[0]) == 2
        assert len(data.given([])[0]) == 0

    def test_columns(self) -> None:
        data = data_of([{"context": "t", "a": "x", "b": "y", "c": "z", "label": 0}], choice_columns=["a", "b", "c"])
        split, fields = data.given([("t", ("x", "y")), ("t", ["x", "y", "z"])])
        assert fields[0] == {"context": "t", "a": "x", "b": "y", "c": None}
        assert split.batch([0, 1], 0)["is_choice"].sum(1).tolist() == [2, 3]
        assert data.predicted(fields[0], {"choice": 1})["label"] == 1
        rule = "must have 3 choices at most, not 4"
        assert rule in message(lambda: data.given([("t", ["x", "y", "z", "w"])]))

    @pytest.mark.parametrize("item", ["text", ("text",), ("text", "choice"), ("text", "question", ["x"]), 3])
    def test_mistakes(self, item: Any) -> None:
        data = data_of([{"context": "t", "c": ["x", "y"], "label": 0}], choices_column="c")
        assert "must be a mapping, or (context, [choice, choice, …])" in message(lambda: data.given([item]))
