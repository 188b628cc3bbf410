"""Sentences with a label for each word: classes, windows, batches, mistakes, and predictions in the input's format."""

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from texts import bert_like
from toys import TaggedWords, message

from lt_cli.data.conll import ConllFiles
from lt_cli.data.labeled_tokens import LabeledTokens
from lt_cli.data.row_sources import HubRows, TableFiles
from lt_cli.data.tokenizers import ByteTokenizer, HuggingFaceTokenizer

SENTENCES = [
    {"tokens": ["EU", "rejects", "German", "call"], "labels": ["I-ORG", "O", "I-MISC", "O"], "id": 7},
    {"tokens": ["New", "York", "Paris"], "labels": ["I-LOC", "I-LOC", "B-LOC"], "id": 8},
    {"tokens": ["Peter"], "labels": ["I-PER"], "id": 9},
]
OTHERS = [{"tokens": ["York"], "labels": ["I-LOC"]}]


def random_rows() -> list[dict[str, Any]]:
    return [row.fields for row in TaggedWords().rows("train") or []]


def data(given: dict[str, Any] | None = None, **options: Any) -> LabeledTokens:
    source = TaggedWords(given={"train": SENTENCES, "val": OTHERS, "test": OTHERS} if given is None else given)
    return LabeledTokens(**{"source": source, "tokenizer": ByteTokenizer(), **options})


def ready(made: LabeledTokens, *stages: str) -> LabeledTokens:
    made.prepare_data()
    for stage in stages or ("fit",):
        made.setup(stage)
    return made


def slow_places(words: list[str], room: int, stride: int) -> list[tuple[int, int]]:
    """Window and place in it of each word's first byte, a window at a time."""
    length = len(" ".join(words).encode())
    starts = [0]
    while starts[-1] + room < length:
        starts.append(starts[-1] + room - stride)
    found, token = [], 0
    for word in words:
        contexts = []
        for start in starts:
            before = math.inf if start == 0 else token - start
            behind = math.inf if start + room >= length else start + room - 1 - token
            contexts.append(min(before, behind) if start <= token < start + room else -1)
        window = contexts.index(max(contexts))
        found.append((window, 1 + token - starts[window]))
        token += len(f"{word} ".encode())
    return found


class TestClasses:
    """Exactly those of the training rows, in BIO."""

    def test_classes_and_scheme(self) -> None:
        made = ready(data())
        assert made.label_names == ["B-LOC", "B-MISC", "B-ORG", "B-PER", "I-LOC", "O"]
        assert made.token_labels.counts == [2, 1, 1, 1, 1, 2]
        assert (made.token_labels.scheme, made.token_labels.types) == ("iob1", ["LOC", "MISC", "ORG", "PER"])
        assert made.splits["train"].batch([1], 0)["labels"].tolist() == [0, 4, 0]

    def test_tags_that_are_no_spans(self) -> None:
        rows = [{"tokens": ["a", "b"], "labels": ["DET", "NOUN"]}, {"tokens": ["c"], "labels": ["DET"]}]
        made = ready(data({"train": rows, "val": rows}))
        assert (made.label_names, made.token_labels.scheme, made.token_labels.types) == (["DET", "NOUN"], None, [])
        assert made.describe()[0] == "labels: no spans, but a class for each word"

    def test_numbers_as_classes(self) -> None:
        rows = [{"tokens": ["a", "b"], "labels": [10, 9]}]
        made = ready(data({"train": rows, "val": rows}))
        assert made.label_names == ["9", "10"]
        assert made.predicted({"tokens": ["x"]}, {"labels": [10]}) == {"tokens": ["x"], "labels": [10]}

    @pytest.mark.parametrize(
        ("scheme", "labels"),
        [("bioes", ["B-X", "E-X", "S-Y"]), ("bilou", ["B-X", "L-X", "U-Y"]), ("bio", ["I-X", "I-X", "I-Y"])],
    )
    def test_a_given_scheme(self, scheme: Any, labels: list[str]) -> None:
        rows = [{"tokens": ["a", "b", "c"], "labels": labels}]
        made = ready(data({"train": rows, "val": rows}, scheme=scheme))
        assert made.label_names == ["B-X", "B-Y", "I-X"]
        assert made.describe()[0] == f"labels: spans in the scheme {scheme}, as data.scheme says"

    def test_a_checkpoint_knows_them(self) -> None:
        made = ready(data())
        state = json.loads(json.dumps(made.state_dict()))
        other = data({"predict": [{"tokens": ["x"]}]})
        other.load_state_dict(state)
        ready(other, "predict")
        assert (other.label_names, other.token_labels.scheme) == (made.label_names, "iob1")
        prediction = {"labels": ["B-LOC", "B-LOC"]}
        assert other.predicted({"tokens": ["a", "b"]}, {**prediction})["labels"] == ["I-LOC", "B-LOC"]
        asked = data({}, scheme="bioes")
        asked.load_state_dict(state)
        assert asked.predicted({"tokens": ["a", "b"]}, {**prediction})["labels"] == ["S-LOC", "S-LOC"], "as one asks"


class TestBatches:
    """Where each word is read."""

    @pytest.mark.parametrize(("max_seq_len", "stride"), [(128, 32), (8, 0), (8, 3), (9, 6), (4, 1), (3, 0)])
    def test_words_and_windows(self, max_seq_len: int, stride: int) -> None:
        made = ready(
            data({"train": [*SENTENCES, *random_rows()], "val": OTHERS}, max_seq_len=max_seq_len, stride=stride)
        )
        rows = made.source.rows("train")
        assert rows is not None
        chosen = [5, 0, 3, 1, 20]
        batch = made.splits["train"].batch(chosen, 0)
        assert batch["num_words"].tolist() == [len(rows[i].fields["tokens"]) for i in chosen]
        words = [(place, word) for place, i in enumerate(chosen) for word in rows[i].fields["tokens"]]
        expected = [where for i in chosen for where in slow_places(rows[i].fields["tokens"], max_seq_len - 2, stride)]
        for n, ((place, word), (window, position)) in enumerate(zip(words, expected, strict=True)):
            sequence, where = batch["word_sequence"][n].item(), batch["word_position"][n].item()
            assert batch["row"][sequence] == place
            assert sequence - batch["row"].tolist().index(place) == window
            assert where == position
            assert batch["input_ids"][sequence, where] == word.encode()[0]
        assert batch["input_ids"].shape[1] <= max_seq_len
        names = [made.label_names[i] for i in batch["labels"].tolist()]
        assert names == [label for i in chosen for label in made.token_labels.of(rows[i], "labels")]

    def test_nothing_is_dropped(self) -> None:
        """All tokens are in a window, and those that windows share are as many as stride says."""
        made = ready(data(max_seq_len=7, stride=2))
        split = made.splits["train"]
        for i, row in enumerate(SENTENCES):
            batch = split.batch([i], 0)
            windows = [
                ids[mask.bool()][1:-1].tolist()
                for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
            ]
            joined = windows[0]
            for before, window in pairwise(windows):
                assert before[-2:] == window[:2]
                joined = joined + window[2:]
            assert bytes(joined).decode() == " ".join(row["tokens"])

    def test_words_without_tokens(self, tmp_path: Path) -> None:
        """They are read where the word before them is, or where the sentence begins."""
        rows = [
            {"tokens": ["\x00", "the", "cat", "\x00"], "labels": ["A", "B", "C", "D"]},
            {"tokens": ["\x00"], "labels": ["A"]},
        ]
        made = ready(data({"train": rows, "val": rows}, tokenizer=HuggingFaceTokenizer(str(bert_like(tmp_path)))))
        batch = made.splits["train"].batch([1, 0], 0)
        assert batch["num_words"].tolist() == [1, 4]
        assert batch["labels"].tolist() == [0, 0, 1, 2, 3]
        assert batch["word_sequence"].tolist() == [0, 1, 1, 1, 1]
        ends = [0, 0, 1, *batch["word_position"].tolist()[3:]]
        assert batch["word_position"].tolist() == ends
        assert ends[4] == batch["attention_mask"][1].sum() - 2, "the last token of cat"

    def test_no_labels_to_predict(self) -> None:
        made = ready(
            data({"train": SENTENCES, "val": OTHERS, "predict": [{"tokens": ["x", "y"], "labels": None}]}),
            "fit",
            "predict",
        )
        batch = made.splits["predict"].batch([0], 0)
        assert "labels" not in batch
        assert batch["num_words"].tolist() == [2]

    def test_description(self) -> None:
        made = ready(data(max_seq_len=12, stride=4))
        lines = made.describe()
        assert lines[0] == "labels: spans in the scheme iob1, told from the training labels"
        assert lines[1] == (
            "train: 3 rows with 6 sequences of 7 to 12 tokens (median 12), 8 words; labels B-LOC 2 "
            "(25.0 %), O 2 (25.0 %), B-MISC 1 (12.5 %), B-ORG 1 (12.5 %), B-PER 1 (12.5 %), I-LOC 1 (12.5 %); "
            "spans LOC 2, MISC 1, ORG 1, PER 1"
        )
        shown = made.preview(made.splits["train"].batch([1], 0), Path())
        assert shown[1] == "its labels: B-LOC I-LOC B-LOC"


class TestMistakes:
    """Each with its place."""

    @pytest.mark.parametrize(
        ("row", "says"),
        [
            (
                {"tokens": ["a", "b"], "labels": ["O"]},
                " has 2 words in tokens and 1 labels in labels: it needs a label for",
            ),
            ({"tokens": [], "labels": []}, " has no word in tokens: give it one, or leave the row out"),
            ({"tokens": "", "labels": "O"}, " has no word in tokens: give it one, or leave the row out"),
            ({"tokens": "a  b", "labels": "O O O"}, ", word 2: tokens must have text there, not ''"),
            ({"tokens": ["a", 3], "labels": ["O", "O"]}, ", word 2: tokens must have text there, not 3"),
            (
                {"tokens": 3, "labels": ["O"]},
                ": tokens must be a list of words, or text with spaces between them, not 3",
            ),
            ({"tokens": ["a"], "labels": None}, " has no labels: give it one for each word, or leave the row out"),
            ({"tokens": ["a"], "labels": [None]}, ", word 1: its label in labels must be text, not None"),
            ({"tokens": ["a"], "labels": 3}, ": labels must be a list, or text with spaces between labels, not 3"),
            ({"tokens": ["a"]}, " has no column 'labels', only tokens"),
            ({"words": ["a"], "labels": ["O"]}, " has no column 'tokens', only words, labels"),
            (
                {"tokens": ["a", "b"], "labels": ["O", "I-GPE"]},
                ", word 2 (I-GPE): labels 'B-GPE' is not among the classes of the training rows, B-LOC, B-MISC, B-ORG, "
                "B-PER, I-LOC, O; did you mean B-PER?: mend it, train with rows of it, or, where chance holds rows "
                "out, use another --data.split_seed",
            ),
            (
                {"tokens": ["a"], "labels": ["E-LOC"]},
                ": the label 'E-LOC' is none of the scheme iob1, whose tags are BIO: m",
            ),
        ],
    )
    def test_rows(self, row: dict[str, Any], says: str) -> None:
        told = message(lambda: ready(data({"train": SENTENCES, "val": [*OTHERS, row]})))
        assert told.startswith(f"val:2{says}")

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"stride": -1}, "stride (-1) must not be negative"),
            (
                {"token_column": "x", "label_column": "x"},
                "token_column (x) and label_column (x) must be different columns",
            ),
            (
                {"max_seq_len": 34},
                "stride (32) must be less than max_seq_len (34) without the 2 tokens that frame a window: lower it, or "
                "raise max_seq_len",
            ),
        ],
    )
    def test_options(self, options: dict[str, Any], says: str) -> None:
        assert message(lambda: ready(data(**options))) == says

    def test_a_scheme_that_labels_are_not_of(self) -> None:
        rows = [{"tokens": ["a", "b"], "labels": ["S-X", "X-Y"]}]
        assert message(lambda: ready(data({"train": rows, "val": rows}, scheme="bioes"))) == (
            "train:1: the label 'X-Y' is none of the scheme bioes, whose tags are BIOES: mend it, or set "
            "--data.scheme=null"
        )

    def test_one_class_is_nothing_to_learn(self) -> None:
        rows = [{"tokens": ["a"], "labels": ["O"]}]
        assert message(lambda: ready(data({"train": rows, "val": rows}))).startswith(
            "labels must have two classes at least"
        )


class TestFormats:
    """Predictions are in the format of the input."""

    def write(self, made: LabeledTokens, labels: list[list[str]], folder: Path) -> Path:
        ready(made, "fit", "predict")
        columns: dict[str, list[Any]] = {"index": list(range(len(labels))), "labels": labels}
        (path,) = made.write_predictions(columns, folder, "csv")
        return path

    def test_classys_tsv(self, tmp_path: Path) -> None:
        (tmp_path / "train.tsv").write_text("EU calls\tB-ORG O\nNew York\tB-LOC I-LOC\n")
        (tmp_path / "new.tsv").write_text("in York\nX\n")
        (tmp_path / "val.tsv").write_text("EU\tB-ORG\n")
        source = TableFiles(
            str(tmp_path / "train.tsv"),
            val_path=str(tmp_path / "val.tsv"),
            predict_path=str(tmp_path / "new.tsv"),
            columns=["tokens", "labels"],
        )
        path = self.write(data(source=source), [["O", "I-LOC"], ["B-ORG"]], tmp_path)
        assert path.read_text() == "in York\tO B-LOC\nX\tB-ORG\n", "as BIO is written"

    def test_jsonl(self, tmp_path: Path) -> None:
        (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in SENTENCES))
        (tmp_path / "new.jsonl").write_text(json.dumps({"id": 1, "tokens": ["in", "York"]}) + "\n")
        (tmp_path / "val.jsonl").write_text(json.dumps(OTHERS[0]) + "\n")
        files = {"val_path": str(tmp_path / "val.jsonl"), "predict_path": str(tmp_path / "new.jsonl")}
        path = self.write(data(source=TableFiles(str(tmp_path / "train.jsonl"), **files)), [["O", "B-LOC"]], tmp_path)
        assert json.loads(path.read_text()) == {"id": 1, "tokens": ["in", "York"], "labels": ["O", "I-LOC"]}

    def test_conll(self, tmp_path: Path) -> None:
        train = "".join(
            f"{word} {label}\n" for row in SENTENCES for word, label in zip(row["tokens"], row["labels"], strict=True)
        )  # type: ignore[call-overload]
        (tmp_path / "eng.train").write_text(train)
        (tmp_path / "new").write_text("in\nYork\n\nX\n")
        path = str(tmp_path / "eng.train")
        (tmp_path / "eng.testa").write_text(train)
        made = data(source=ConllFiles(path, val_path=str(tmp_path / "eng.testa"), predict_path=str(tmp_path / "new")))
        written = self.write(made, [["O", "B-LOC"], ["I-LOC"]], tmp_path)
        assert written.read_text() == "in O\nYork I-LOC\n\nX I-LOC\n"
        other = data(source=ConllFiles(predict_path=str(written)))
        other.load_state_dict(made.state_dict())
        ready(other, "predict")
        assert [row.fields["labels"] for row in other.rows["predict"]] == [["O", "I-LOC"], ["I-LOC"]], "valid input"

    def test_a_dataset_of_class_labels(self, tmp_path: Path) -> None:
        import datasets

        tags = datasets.ClassLabel(names=["O", "B-LOC", "I-LOC"])
        features = datasets.Features(
            {"tokens": datasets.List(datasets.Value("string")), "ner_tags": datasets.List(tags)}
        )
        rows = {"tokens": [["in", "New", "York"], ["x"]], "ner_tags": [[0, 1, 2], [0]]}
        split = datasets.Dataset.from_dict(rows, features=features)
        datasets.DatasetDict({"train": split, "validation": split, "test": split}).save_to_disk(tmp_path / "saved")
        made = data(source=HubRows(str(tmp_path / "saved")), label_column="ner_tags")
        path = self.write(made, [["O", "O", "B-LOC"], ["O"]], tmp_path)
        assert made.label_names == ["B-LOC", "I-LOC", "O"]
        assert [json.loads(line)["ner_tags"] for line in path.read_text().splitlines()] == [["O", "O", "B-LOC"], ["O"]]

    def test_rows_from_python(self) -> None:
        made = ready(data())
        split, fields = made.given(["EU rejects  German", ["New York", "x"], {"tokens": ["a"], "id": 3}])
        assert fields == [
            {"tokens": ["EU", "rejects", "German"]},
            {"tokens": ["New York", "x"]},
            {"tokens": ["a"], "id": 3},
        ]
        assert split.batch([0, 1, 2], 0)["num_words"].tolist() == [3, 2, 1]
        assert message(lambda: made.given([3])) == "3 must be a text, a list of words, or a mapping with tokens"
        assert message(lambda: made.given([" "])) == "row 0 has no word in tokens: give it one, or leave the row out"
