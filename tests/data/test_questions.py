"""Questions as windows of tokens, against a plain reading of the definition."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from texts import KINDS
from toys import Questions, message

from lt_cli.data.answer_rows import Answer
from lt_cli.data.framing import Tokens
from lt_cli.data.question_windows import QuestionWindows, tokens_of, without_spaces
from lt_cli.data.questions import QuestionData
from lt_cli.data.row_sources import HubRows, RowSource, TableFiles
from lt_cli.data.rows import Row
from lt_cli.data.squad import SquadFiles
from lt_cli.data.tokenizers import ByteTokenizer, HuggingFaceTokenizer, Tokenizer

CONTEXT = "the cat sat on the mat. 日本語 Grüße  aus Köln\tund 😀 here"


class Given(RowSource):
    """Rows from a test."""

    def __init__(self, *rows: dict[str, Any]) -> None:
        self.given = [Row(fields, f"row {number}") for number, fields in enumerate(rows)]

    def rows(self, split: Any) -> list[Row] | None:
        return self.given if split != "predict" else None

    def write(self, rows: Any, split: Any, directory: Path) -> list[Path]:
        return []


def fields(answer: str | None, *, context: str = CONTEXT, question: str = "where?") -> dict[str, Any]:
    """A row; an answer stands where it is first found."""
    found = [] if answer is None else [{"text": answer, "answer_start": context.index(answer)}]
    return {"question": question, "context": context, "answers": found}


def question_data(source: RowSource, tokenizer: Tokenizer | None = None, **options: Any) -> QuestionData:
    sizes = {"max_seq_len": 32, "stride": 8, "max_question_len": 8}
    return QuestionData(source=source, tokenizer=tokenizer or ByteTokenizer(), **{**sizes, **options})


def fitted(data: QuestionData, *stages: str) -> QuestionData:
    data.prepare_data()
    for stage in stages or ("fit",):
        data.setup(stage)
    return data


def windows(data: QuestionData, split: Any) -> QuestionWindows:
    found = data.splits[split]
    assert isinstance(found, QuestionWindows)
    return found


@pytest.fixture(params=["bytes", *KINDS])
def tokenizer(request: pytest.FixtureRequest, tmp_path: Path) -> Tokenizer:
    if request.param == "bytes":
        return ByteTokenizer()
    if request.param == "endless":
        return HuggingFaceTokenizer(str(KINDS["gpt2"](tmp_path)), end_token="a")
    return HuggingFaceTokenizer(str(KINDS[request.param](tmp_path)))


def test_every_answer_is_found_in_its_characters(tokenizer: Tokenizer) -> None:
    """In any script: the labelled tokens stand for the answer, and where they stand for more it is counted."""
    answers = ["cat", "the mat.", "日本語", "Grüße  aus", "Köln", "😀", "here", "the cat sat", "Köln\tund"]
    data = fitted(question_data(Given(*map(fields, answers)), tokenizer, max_seq_len=60, stride=40))
    split = windows(data, "val")
    rows = data.rows["val"]
    batch = split.batch(range(len(rows)), 0)
    inexact = 0
    for number, row in enumerate(rows):
        answer = row.fields["answers"][0]["text"]
        seen = []
        for window in (batch["row"] == number).nonzero().flatten().tolist():
            first, last = (int(batch[name][window]) for name in ("start_positions", "end_positions"))
            if first:
                start, end = int(batch["spans"][window, first, 0]), int(batch["spans"][window, last, 1])
                assert answer in CONTEXT[start:end]
                assert answer not in CONTEXT[start : int(batch["spans"][window, last, 0])]
                seen.append(CONTEXT[start:end])
        assert seen, answer
        inexact += seen[0] != answer
    assert data._notes["val"]["inexact"] == inexact
    assert batch["answers"] == [[row.fields["answers"][0]["text"]] for row in rows]


@pytest.mark.parametrize("split", ["train", "val"])
def test_windows_share_tokens_and_have_all_of_the_context(split: Any) -> None:
    """Of bytes, whose windows can be written down: 3 tokens frame, the question has 6, the rest is context."""
    data = fitted(question_data(Given(*[fields("mat"), fields(None), fields("here")] * 4), stride=8))
    whole, room = CONTEXT.encode(), 32 - 3 - 6
    found = windows(data, split)
    batch = found.batch(range(len(found)), 0)
    rows = data._split_rows(split)
    expected = []
    for row in rows:
        starts = [0]
        while starts[-1] + room < len(whole):
            starts.append(starts[-1] + room - 8)
        answer = row.fields["answers"][0]["text"].encode() if row.fields["answers"] else None
        for begin in starts:
            part = whole[begin : begin + room]
            place = -1 if answer is None else whole.index(answer) - begin
            inside = answer is not None and place >= 0 and place + len(answer) <= len(part)
            expected.append((part, (8 + place, 8 + place + len(answer) - 1) if inside and answer else (0, 0)))
    sizes = batch["attention_mask"].sum(1).tolist()
    assert len(expected) == len(sizes)
    for i, (part, positions) in enumerate(expected):
        ids = batch["input_ids"][i, : sizes[i]].tolist()
        assert ids == [256, *b"where?", 256, *part, 256]
        assert batch["token_type_ids"][i, : sizes[i]].tolist() == [0] * 8 + [1] * len(part) + [0]
        assert (int(batch["start_positions"][i]), int(batch["end_positions"][i])) == positions
        inside = batch["spans"][i, :, 1] > batch["spans"][i, :, 0]
        assert not inside[:8].any()
        assert not inside[8 + len(part) :].any()
    if split == "train":
        assert len(found) == len(expected) > len(rows), "a window is a row"
        assert "row" not in batch
    else:
        assert len(found) == len(rows), "all windows of a question are a row"
        assert batch["row"].unique_consecutive().tolist() == list(range(len(rows)))


def test_spans_have_no_spaces_at_their_ends() -> None:
    text = " a  b\u3000\tc "
    spans = np.array([(0, 2), (2, 4), (3, 5), (4, 9), (0, 9), (5, 7), (8, 9)], np.int32)
    found = without_spaces(spans, text)
    for (start, end), (begin, stop) in zip(spans.tolist(), found.tolist(), strict=True):
        assert text[begin:stop] == text[start:end].strip()


def test_tokens_of_an_answer() -> None:
    spans = np.array([(0, 3), (3, 3), (4, 7), (7, 9), (9, 9), (10, 12)], np.int32)
    text = "the catty on"
    assert tokens_of(Answer(0, 3), spans, text) == (0, 0, True)
    assert tokens_of(Answer(0, 9), spans, text) == (0, 3, True)
    assert tokens_of(Answer(5, 8), spans, text) == (2, 3, False)
    assert tokens_of(Answer(3, 8), spans, text) == (2, 3, False), "a space is left out"
    assert tokens_of(Answer(3, 9), spans, text) == (2, 3, True)
    assert tokens_of(Answer(0, 2), np.array([(4, 7)], np.int32), text) is None


def test_what_is_cut_is_told() -> None:
    rows = [fields("cat"), fields("cat", question="why, where, when?"), fields(CONTEXT[:40]), fields(None)]
    assert fitted(question_data(Given(*rows))).describe()[1] == (
        "val: 4 questions in 17 windows of 25 to 32 tokens (median 32); without an answer: 1 (25.0 %); questions "
        "cut to 8 tokens: 1; answers that no window holds whole: 1, fewer with a larger stride"
    )


def test_the_checkpoint_knows_whether_there_may_be_no_answer() -> None:
    with_none, without = fitted(question_data(Questions())), fitted(question_data(Questions(unanswerable=0)))
    assert (with_none.has_unanswerable, without.has_unanswerable) == (True, False)
    again = question_data(Questions(unanswerable=0))
    again.load_state_dict(with_none.state_dict())
    assert fitted(again, "test").has_unanswerable


def test_batches_hold_as_many_tokens_as_they_may() -> None:
    """Padding included, also where questions have several windows."""
    contexts = [CONTEXT[:end] for end in (9, 12, 20, 33, len(CONTEXT))] * 8
    rows = [fields("cat", context=context) for context in contexts]
    data = fitted(question_data(Given(*rows), tokens_per_batch=256), "fit", "test", "predict")
    for split in ("train", "val", "test", "predict"):
        sizes = [batch["input_ids"].numel() for batch in data.loader(split)]
        assert max(sizes) <= 256
        assert len(sizes) > 2


def test_contexts_are_tokens_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def encode(self: ByteTokenizer, texts: list[str]) -> list[Tokens]:
        seen.extend(texts)
        return plain(self, texts)

    plain = ByteTokenizer.encode_with_spans
    monkeypatch.setattr(ByteTokenizer, "encode_with_spans", encode)
    fitted(question_data(Given(*[fields("cat"), fields("mat"), fields(None)] * 9)))
    assert len(seen) == 2, "in training and in validation"


def written(source: RowSource, split: str = "predict") -> list[Path]:
    """Predictions of all rows: the second has no answer."""
    data = fitted(question_data(source), "predict")
    count = len(data.rows["predict"])
    answers = {"answer": ["cat", ""], "answer_start": [4, None], "answer_end": [7, None]}
    columns: dict[str, list[Any]] = {name: (values * count)[:count] for name, values in answers.items()}
    return data.write_predictions({"index": list(range(count)), **columns}, Path(), "csv")


def test_tables_are_written_as_they_are_read() -> None:
    """A .tsv without header, as classy has them: predictions of unlabeled rows can be trained on."""
    columns = ["context", "question", "answer_start", "answer_end"]
    Path("train.tsv").write_text("the cat sat\twho?\t4\t7\nthe cat sat\twhere?\t\t\n" * 9)
    Path("new.tsv").write_text("the cat sat\twho?\nthe cat sat\twhere?\n")
    source = TableFiles("train.tsv", predict_path="new.tsv", columns=columns)
    (path,) = written(source)
    assert path.read_text() == "the cat sat\twho?\t4\t7\nthe cat sat\twhere?\t\t\n"
    assert fitted(question_data(TableFiles(str(path), columns=columns, val_path="train.tsv"))).has_unanswerable


def test_tables_with_names_have_the_text_too() -> None:
    Path("train.csv").write_text("question,context,answer_start,answer_end\n" + 'who?,"the, cat",5,8\n' * 9)
    (path,) = written(TableFiles("train.csv", predict_path="train.csv"))
    assert path.read_text().splitlines()[:3] == [
        "question,context,answer_start,answer_end,answer",
        'who?,"the, cat",4,7,cat',
        'who?,"the, cat",,,',
    ]
    lines = [{"question": "who?", "context": "the cat", "answer_start": 4, "answer_end": 7, "more": [1]}] * 9
    Path("train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (path,) = written(TableFiles("train.jsonl", predict_path="train.jsonl"))
    first, second = map(json.loads, path.read_text().splitlines()[:2])
    assert first == {**lines[0], "answer": "cat"}
    assert second == {**lines[0], "answer": "", "answer_start": None, "answer_end": None}


def test_datasets_of_the_hub() -> None:
    import datasets

    rows = [fields("cat") | {"id": str(i), "answers": {"text": ["cat"], "answer_start": [4]}} for i in range(9)]
    rows[0]["answers"] = {"text": [], "answer_start": []}
    features = datasets.Features(
        {name: datasets.Value("string") for name in ("id", "question", "context")}
        | {
            "answers": {
                "text": datasets.List(datasets.Value("string")),
                "answer_start": datasets.List(datasets.Value("int32")),
            }
        }
    )
    made = datasets.Dataset.from_list(rows, features=features)
    datasets.DatasetDict({"train": made, "validation": made}).save_to_disk("hub")
    (path,) = written(HubRows("hub"))
    found = [json.loads(line)["answers"] for line in path.read_text().splitlines()]
    assert found[:2] == [{"text": ["cat"], "answer_start": [4]}, {"text": [], "answer_start": []}]
    assert fitted(question_data(TableFiles(str(path)))).has_unanswerable


def test_squad_files() -> None:
    qas = [{"id": str(i), "question": "who?", "answers": [{"text": "cat", "answer_start": 4}]} for i in range(9)]
    Path("train.json").write_text(json.dumps({"data": [{"paragraphs": [{"context": CONTEXT, "qas": qas}]}]}))
    predictions, answers = written(SquadFiles("train.json", predict_path="train.json"))
    assert set(json.loads(answers.read_text()).values()) == {"cat", ""}
    assert fitted(question_data(SquadFiles(str(predictions)))).has_unanswerable


def test_rows_from_python() -> None:
    data = fitted(question_data(Questions()))
    split, given = data.given([("who?", "the cat"), {"context": "a mat", "question": "what?", "more": 1}])
    assert given == [{"question": "who?", "context": "the cat"}, {"context": "a mat", "question": "what?", "more": 1}]
    batch = split.batch([0, 1], 0)
    assert batch["context"] == ["the cat", "a mat"]
    assert "start_positions" not in batch
    assert torch.equal(batch["row"], torch.tensor([0, 1]))
    columns = {"index": [0, 1], "answer": ["cat", ""], "answer_start": [4, None], "answer_end": [7, None]}
    first, second = data.with_predictions(given, columns)
    assert first == {"question": "who?", "context": "the cat", "answer": "cat", "answer_start": 4, "answer_end": 7}
    assert second["answer_start"] is None


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: question_data(Questions(), stride=-1), "stride (-1) must not be negative"),
        (lambda: question_data(Questions(), max_question_len=0), "max_question_len (0) must be at least 1"),
        (
            lambda: question_data(Questions(), question_column="context"),
            "question_column (context), context_column (context) and answers_column (answers) must be different",
        ),
        (
            lambda: fitted(question_data(Questions(), max_seq_len=19)),
            "max_seq_len (19) must be at least 20: max_question_len (8), stride (8), 3 tokens that frame them, and one "
            "more of the context: raise it, or lower the others",
        ),
        (
            lambda: fitted(question_data(Given(*[fields(None)] * 9))),
            "none of 9 training questions has an answer: name the right column with --data.answers_column",
        ),
        (
            lambda: fitted(question_data(Given(*[fields("cat", question=" ")] * 9))),
            "row 0 has no text in question: give it some, or leave the row out",
        ),
        (
            lambda: fitted(question_data(Questions())).given(["who?"]),
            "'who?' must be a question and its context, two texts, or a mapping of columns",
        ),
        (
            lambda: fitted(question_data(Questions())).given([{"question": "who?"}]),
            "row 0 has no column 'context', only question",
        ),
    ],
)
def test_mistakes(call: Callable[[], Any], says: str) -> None:
    assert message(call).startswith(says)


def test_a_context_that_the_tokenizer_cannot_read(tmp_path: Path) -> None:
    data = question_data(Given(*[fields("cat")] * 9), HuggingFaceTokenizer(str(KINDS["bert"](tmp_path))))
    fitted(data)
    assert message(lambda: data.given([("who?", "\u0001")])) == (
        "row 0: the tokenizer knows no token of context: mend it"
    )
    assert message(lambda: data.given([("\u0001", "cat")])) == (
        "row 0: the tokenizer knows no token of question: mend it"
    )


def test_the_questions_of_a_context_are_in_one_split() -> None:
    rows = [{"question": f"what is {i}", "context": f"text {i % 7}", "answers": []} for i in range(70)]
    rows += [{"question": "and", "context": "text 3", "answers": {"text": ["text"], "answer_start": [0]}}]
    Path("mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for seed in range(4):
        source = TableFiles("mine.jsonl")
        data = QuestionData(
            source=source, tokenizer=ByteTokenizer(), val_fraction=0.2, test_fraction=0.2, split_seed=seed
        )
        splits = {name: data._split_rows(name) for name in ("train", "val", "test")}  # type: ignore[arg-type]
        contexts = {name: {row.fields["context"] for row in some} for name, some in splits.items()}
        assert sum(map(len, splits.values())) == 71
        assert sum(map(len, contexts.values())) == 7, contexts
        assert all(len(some) >= 14 for some in splits.values())
        others = QuestionData(source=source, tokenizer=ByteTokenizer(), val_fraction=0.2, split_seed=seed + 1)
        assert others._split_rows("val") != splits["val"]
