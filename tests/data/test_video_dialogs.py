"""Questions about videos as rows of frames and tokens, against a slow reading of the definition; files both ways."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from texts import KINDS
from torch import Tensor
from toys import message

from lt_cli.data.avsd import AvsdFiles
from lt_cli.data.base import Batch
from lt_cli.data.dialogs import HIDDEN, turns_of
from lt_cli.data.row_sources import HubRows, RowSource, TableFiles, write_table
from lt_cli.data.rows import Row
from lt_cli.data.targets import TargetData
from lt_cli.data.tokenizers import ByteTokenizer, HuggingFaceTokenizer, Tokenizer
from lt_cli.data.video_dialogs import ANSWER, CAPTION, FRAME, QUESTION, VideoDialogs, VideoTurns
from lt_cli.data.video_features import NpyFeatures
from lt_cli.losses import IGNORE
from lt_cli.tasks.video_dialogue import VideoData

END = 256  # of bytes
DIMS = {"i3d_flow": 3, "i3d_rgb": 2, "vggish": 1}

Fields = dict[str, Any]


def filmed(*videos: str, frames: int | None = None) -> NpyFeatures:
    """Features of videos, of random numbers and, unless it is said, of random lengths."""
    for video in videos:
        generator = np.random.default_rng([*video.encode()])
        for kind, dim in DIMS.items():
            length = int(generator.integers(1, 7)) if frames is None else frames
            Path("features", kind).mkdir(parents=True, exist_ok=True)
            np.save(f"features/{kind}/{video}.npy", generator.normal(size=(length, dim)).astype(np.float32))
    return NpyFeatures("features")


def frames_of(video: str) -> np.ndarray:
    """A video's files side by side, cut to the shortest."""
    arrays = [np.load(f"features/{kind}/{video}.npy") for kind in DIMS]
    return np.hstack([array[: min(map(len, arrays))] for array in arrays])


def dialog(
    video: str = "A", *texts: str | None, caption: str = "a cat", summary: str = "it sits", **more: Any
) -> Fields:
    """A dialog, by its questions and answers in turn."""
    texts = texts or ("who?", "the cat", "where?", "there")
    turns = [{"question": texts[i], "answer": texts[i + 1]} for i in range(0, len(texts), 2)]
    return {"image_id": video, "caption": caption, "summary": summary, "dialog": turns, **more}


def random_dialogs(count: int, *, seed: int = 0, most: int = 6, longest: int = 12) -> list[Fields]:
    """Dialogs of one to ``most`` turns about a few videos."""
    generator = np.random.default_rng(seed)

    def text() -> str:
        letters = generator.choice([*"the cat.", "ü", "日"], generator.integers(1, longest)).tolist()
        return "".join(letters).strip() or "mat"

    return [
        dialog(
            f"v{generator.integers(count)}",
            *(text() for _ in range(2 * (1 + i % most))),
            caption=text(),
            summary=text(),
        )
        for i in range(count)
    ]


def avsd(name: str, *dialogs: Fields) -> str:
    """A file of dialogs as the challenges have them."""
    Path(name).write_text(json.dumps({"version": "0.1", "dialogs": dialogs}))
    return name


def table(name: str, *dialogs: Fields) -> str:
    """The same as a table."""
    write_table(dialogs, Path(name))
    return name


class Given(RowSource):
    """Dialogs from a test, the same in every split."""

    def __init__(self, *dialogs: Fields) -> None:
        self.dialogs = dialogs

    def rows(self, split: Any) -> list[Row] | None:
        return [Row(fields, f"row {i}") for i, fields in enumerate(self.dialogs)]


def data_of(*stages: str, **options: Any) -> VideoDialogs:
    """Two dialogs in bytes, as a trainer would set them up."""
    if "features" not in options:
        options["features"] = filmed("A", "B", frames=2)
    defaults = {"source": Given(dialog("A"), dialog("B", "what?", "a mat")), "tokenizer": ByteTokenizer()}
    data = VideoDialogs(**defaults | {"max_seq_len": 128, "max_target_len": 16, "batch_size": 3} | options)
    data.prepare_data()
    for stage in stages or ("fit",):
        data.setup(stage)
    return data


def turns(data: VideoDialogs, split: Any = "train") -> VideoTurns:
    examples = data.splits[split]
    assert isinstance(examples, VideoTurns)
    return examples


def whole(data: VideoDialogs, split: Any = "train") -> Batch:
    """All rows of a split in one batch."""
    examples = turns(data, split)
    return examples.batch(range(len(examples)), 0)


def row_of(batch: Batch, row: int) -> list[tuple[int, int]]:
    """Tokens and kinds of a row without its padding."""
    size = int(batch["attention_mask"][row].sum())
    assert batch["attention_mask"][row].tolist() == [1] * size + [0] * (batch["attention_mask"].shape[1] - size)
    ids, kinds = (batch[name][row, :size].tolist() for name in ("input_ids", "token_type_ids"))
    return list(zip(ids, kinds, strict=True))


def answer_of(batch: Batch, row: int) -> list[int]:
    """The tokens that are learned; what is ignored comes last."""
    labels = batch["labels"][row].tolist()
    answer = [token for token in labels if token != IGNORE]
    assert labels == answer + [IGNORE] * (len(labels) - len(answer))
    return answer


def text(tokens: Sequence[int]) -> str:
    """What bytes say, with a bar for each separator."""
    return "|".join(bytes(part).decode() for part in _parts(tokens))


def _parts(tokens: Sequence[int]) -> list[list[int]]:
    parts: list[list[int]] = [[]]
    for token in tokens:
        if token == END:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def said(data: VideoDialogs, split: Any = "train") -> list[str]:
    """What stands behind the frames of each row, as text."""
    batch = whole(data, split)
    return [text([token for token, kind in row_of(batch, i) if kind != FRAME]) for i in range(len(batch["index"]))]


def slow_row(
    tokenizer: Tokenizer, fields: Fields, number: int, frames: int, max_turns: int, room: int
) -> list[tuple[int, int]]:
    """The definition: the longest row that has room, where the earliest turns go first, then the caption's end."""

    def tokens(spoken: str, kind: int, *, ends: bool = True) -> list[tuple[int, int]]:
        ids = tokenizer.encode([spoken])[0].tolist()
        return [(token, kind) for token in [*ids, *[tokenizer.end_id] * ends]]

    said_before = fields["dialog"][:number]
    caption = tokens(f"{fields['caption']} {fields['summary']}", CAPTION, ends=False)
    close = [(tokenizer.end_id, CAPTION)]
    tries = [(caption + close, kept) for kept in range(min(max_turns, number), -1, -1)]
    tries += [(caption[:size] + close, 0) for size in range(len(caption) - 1, 0, -1)] + [([], 0)]
    for told, kept in tries:
        row = [(tokenizer.end_id, FRAME)] * frames + told
        for turn in said_before[number - kept :]:
            row += tokens(turn["question"], QUESTION) + tokens(turn["answer"], ANSWER)
        row += [*tokens(fields["dialog"][number]["question"], QUESTION), (tokenizer.start_id, ANSWER)]
        if len(row) <= room:
            return row
    raise AssertionError("the question has no room")


class TestRows:
    """What a model reads, and what it learns."""

    def test_segment_by_segment(self) -> None:
        """The last of three turns, which comes with the one before it."""
        source = AvsdFiles(
            avsd("d.json", dialog("A", "a?", "b", "cd?", "é", "f?", "gh")), val_path=avsd("v.json", dialog())
        )
        batch = whole(data_of(source=source, features=filmed("A", frames=3), max_turns=1))
        segments = [
            ([END] * 3, 0),
            ([*b"a cat it sits", END], 1),
            ([*b"cd?", END], 2),
            ([*"é".encode(), END], 3),
            ([*b"f?", END], 2),
            ([END], 3),
        ]
        assert row_of(batch, 2) == [(token, kind) for tokens, kind in segments for token in tokens]
        assert batch["labels"][2].tolist() == [*b"gh", END]
        assert batch["labels"][0].tolist() == [*b"b", END, IGNORE]
        assert batch["num_frames"].tolist() == [3, 3, 3]

    def test_kinds_of_places(self) -> None:
        assert (FRAME, CAPTION, QUESTION, ANSWER) == (0, 1, 2, 3)
        assert VideoDialogs.num_segments == 4

    @pytest.mark.parametrize("kind", ["bytes", "gpt2", "t5", "roberta", "bert", "llama"])
    def test_every_turn_against_a_slow_one(self, kind: str) -> None:
        """Of any length, with a tokenizer whose start is its end, or is not."""
        tokenizer: Tokenizer = ByteTokenizer()
        if kind != "bytes":
            tokenizer = HuggingFaceTokenizer(str(KINDS[kind](Path("tokenizer"))))
        tokenizer.load()
        dialogs = random_dialogs(12)
        source = AvsdFiles(avsd("train.json", *dialogs[1:]), val_path=avsd("val.json", dialogs[0], *dialogs[7:]))
        features = filmed(*{fields["image_id"] for fields in dialogs})
        barely = 16 + max(
            len(frames_of(fields["image_id"])) + len(tokenizer.encode([turn["question"]])[0]) + 2
            for fields in dialogs
            for turn in fields["dialog"]
        )
        for max_turns, most in ((0, 160), (1, 160), (3, 160), (9, 80), (9, 400), (3, barely)):
            options: dict[str, Any] = {"max_turns": max_turns, "max_seq_len": most}
            data = data_of("fit", "predict", source=source, features=features, tokenizer=tokenizer, **options)
            for split, some in (("train", dialogs[1:]), ("val", [dialogs[0], *dialogs[7:]])):
                batch = whole(data, split)
                expected = [(fields, number) for fields in some for number in range(len(fields["dialog"]))]
                assert len(batch["index"]) == len(expected)
                for i, (fields, number) in enumerate(expected):
                    frames = len(frames_of(fields["image_id"]))
                    row = slow_row(tokenizer, fields, number, frames, max_turns, most - 16)
                    assert row_of(batch, i) == row
                    answer = tokenizer.encode([fields["dialog"][number]["answer"]])[0].tolist()
                    assert answer_of(batch, i) == [*answer[:15], tokenizer.end_id]
                    assert turns(data, split).lengths[i] == len(row) + len(answer_of(batch, i)) <= most
            batch = whole(data, "predict")
            for i, fields in enumerate([dialogs[0], *dialogs[7:]]):
                number, frames = len(fields["dialog"]) - 1, len(frames_of(fields["image_id"]))
                assert row_of(batch, i) == slow_row(tokenizer, fields, number, frames, max_turns, most - 16)
        assert "earliest turns have no room" in data.describe()[0]
        assert "captions cut, as they have no room" in data.describe()[0]
        options["max_seq_len"] -= 1
        assert f"set --data.max_seq_len={barely} or more" in message(
            lambda: data_of("fit", source=source, features=features, tokenizer=tokenizer, **options)
        )

    @pytest.mark.parametrize(("kind", "same"), [("gpt2", True), ("t5", True), ("roberta", False), ("llama", False)])
    def test_the_start_of_an_answer(self, kind: str, same: bool) -> None:
        """It stands behind the question's end, be it the same token or not, and is of the answer's kind."""
        tokenizer = HuggingFaceTokenizer(str(KINDS[kind](Path("tokenizer"))))
        data = data_of(tokenizer=tokenizer)
        start, end = tokenizer.start_id, tokenizer.end_id
        assert (start == end) is same
        assert data.end_id == end
        batch = whole(data)
        for i in range(len(batch["index"])):
            row = row_of(batch, i)
            assert row[-2:] == [(end, QUESTION), (start, ANSWER)]
            assert [token for token, _ in row[:-1]].count(start) == 0 or same
            assert answer_of(batch, i).count(end) == 1

    def test_another_start_token(self) -> None:
        folder = str(KINDS["roberta"](Path("tokenizer")))
        data = data_of(tokenizer=HuggingFaceTokenizer(folder, start_token="<pad>", end_token="<s>"))
        tokens = data.tokenizer
        assert isinstance(tokens, HuggingFaceTokenizer)
        ids = [tokens._tokenizer.token_to_id(token) for token in ("<s>", "<pad>")]
        row = row_of(whole(data), 0)
        assert row[:2] == [(ids[0], FRAME)] * 2
        assert row[-2:] == [(ids[0], QUESTION), (ids[1], ANSWER)]
        assert answer_of(whole(data), 0)[-1] == ids[0]

    def test_what_each_split_has(self) -> None:
        data = data_of("fit", "test", "predict")
        keys = {"index", "input_ids", "attention_mask", "token_type_ids", "video", "num_frames"}
        assert whole(data, "train").keys() == keys | {"labels"}
        assert whole(data, "val").keys() == whole(data, "test").keys() == keys | {"labels", "references"}
        assert whole(data, "predict").keys() == keys
        batch = whole(data, "val")
        kinds = {name: value.dtype for name, value in batch.items() if isinstance(value, Tensor)}
        assert kinds.pop("video") == torch.float32
        assert {*kinds.values()} == {torch.int64}

    def test_a_task_finds_what_it_asks_for(self) -> None:
        data = VideoDialogs(source=Given(), features=NpyFeatures("features"), tokenizer=ByteTokenizer())
        assert isinstance(data, VideoData)
        assert isinstance(data, TargetData)
        assert data.video_dim is None, "nothing is read yet"
        data = data_of()
        assert (data.video_dim, data.num_segments, data.end_id, data.max_target_len) == (6, 4, END, 16)
        assert data.decode([*b"abc", END]) == "abc"

    def test_what_the_first_page_shows(self) -> None:
        data = data_of("fit", "test")
        batch = turns(data).batch([1, 0], 0)
        assert data.preview(batch, Path()) == [
            "a row: 2 frames, then 'a cat it sits | who? | the cat | where?'",
            "its answer: 'there'",
        ]
        line = "2 dialogs; 3 rows of 22 to 37 tokens (median 23), of which 2 are frames"
        assert data.describe() == [
            f"train: {line}",
            f"val: {line}",
            "test: 2 dialogs; 2 rows of 23 to 37 tokens (median 30), of which 2 are frames",
        ]


class TestTurns:
    """Which turns are rows, and what comes with them."""

    SAID = ("q1", "a1", "q2", "a2", "q3", "a3")

    def test_every_turn_or_the_last(self) -> None:
        """In train and val every one; in test and predict the last."""
        source = Given(dialog("A", *self.SAID), dialog("B", "x", "y"))
        data = data_of("fit", "test", "predict", source=source)
        every = [
            "a cat it sits|q1||",
            "a cat it sits|q1|a1|q2||",
            "a cat it sits|q1|a1|q2|a2|q3||",
            "a cat it sits|x||",
        ]
        assert said(data, "train") == said(data, "val") == every
        assert said(data, "test") == said(data, "predict") == every[2:]
        assert [text(answer_of(whole(data), i)) for i in range(4)] == ["a1|", "a2|", "a3|", "y|"]
        assert [text(answer_of(whole(data, "test"), i)) for i in range(2)] == ["a3|", "y|"]
        assert whole(data, "val")["references"] == [["a1"], ["a2"], ["a3"], ["y"]]
        assert whole(data, "test")["references"] == [["a3"], ["y"]]

    @pytest.mark.parametrize(
        ("most", "last"), [(0, "q3||"), (1, "q2|a2|q3||"), (2, "q1|a1|q2|a2|q3||"), (99, "q1|a1|q2|a2|q3||")]
    )
    def test_earlier_ones(self, most: int, last: str) -> None:
        data = data_of("fit", "test", source=Given(dialog("A", *self.SAID)), max_turns=most)
        assert said(data)[0] == "a cat it sits|q1||"
        assert said(data)[2] == said(data, "test")[0] == f"a cat it sits|{last}"
        assert "earliest" not in data.describe()[0], "no more were wanted"

    def test_a_batch_has_the_rows_it_is_asked_for(self) -> None:
        data = data_of(source=Given(dialog("A", *self.SAID), dialog("B", "x", "y")))
        batch = turns(data, "val").batch([3, 1], 0)
        assert batch["index"].tolist() == [3, 1]
        assert batch["references"] == [["y"], ["a2"]]
        assert text(answer_of(batch, 0)) == "y|"
        assert batch["video"].shape == (2, 2, 6)


class TestReferences:
    """What counts as right."""

    def test_of_the_dialog(self) -> None:
        """In test those that it has; where it has none, its own last answer."""
        source = Given(dialog("A", references=["there", "on it"]), dialog("B", "x", "y"))
        data = data_of("fit", "test", source=source)
        assert whole(data, "test")["references"] == [["there", "on it"], ["y"]]
        assert whole(data, "val")["references"] == [["the cat"], ["there"], ["y"]]
        assert text(answer_of(whole(data, "test"), 0)) == "there|"
        assert data.describe()[2].endswith("of which 2 are frames; right answers: 3")
        assert "right answers" not in data.describe()[1]

    def test_its_own_answer_is_learned_where_it_has_one(self) -> None:
        data = data_of("test", source=Given(dialog("A", "x", "mine", references=["theirs", "other"])))
        assert whole(data, "test")["references"] == [["theirs", "other"]]
        assert text(answer_of(whole(data, "test"), 0)) == "mine|"

    @pytest.mark.parametrize("hidden", [HIDDEN, None])
    def test_the_first_is_learned_where_the_answer_is_hidden(self, hidden: str | None) -> None:
        data = data_of("test", source=Given(dialog("A", "x", hidden, references=["theirs", "other"])))
        assert whole(data, "test")["references"] == [["theirs", "other"]]
        assert text(answer_of(whole(data, "test"), 0)) == "theirs|"

    def test_of_a_file_of_their_own(self) -> None:
        captions = {"images": [{"id": 1, "name": "A_10"}], "annotations": []}
        captions["annotations"] = [{"image_id": 1, "caption": caption} for caption in ("one", "two", "three")]
        Path("refs.json").write_text(json.dumps(captions))
        source = AvsdFiles(test_path=avsd("t.json", dialog("A", "x", HIDDEN)), references_path="refs.json")
        data = data_of("test", "predict", source=source)
        assert whole(data, "test")["references"] == [["one", "two", "three"]]
        assert text(answer_of(whole(data, "test"), 0)) == "one|"
        assert said(data, "predict") == ["a cat it sits|x||"]
        (path,) = data.write_predictions({"index": [0], "target": ["mine"]}, Path(), "csv")
        assert json.loads(path.read_text())["dialogs"] == [dialog("A", "x", "mine")]

    @pytest.mark.parametrize("name", ["t.jsonl", "t.csv", "t.parquet"])
    def test_of_a_table(self, name: str) -> None:
        rows = [dialog("A", "x", HIDDEN, references=["one", 'two, "2"'])]
        data = data_of("test", source=TableFiles(test_path=table(name, *rows)))
        assert whole(data, "test")["references"] == [["one", 'two, "2"']]

    def test_are_never_cut(self) -> None:
        source = Given(dialog("A", "x", "long answer", references=["longer than that", "short"]))
        data = data_of("fit", "test", source=source, max_target_len=5)
        assert whole(data, "test")["references"] == [["longer than that", "short"]]
        assert whole(data, "val")["references"] == [["long answer"]]
        assert text(answer_of(whole(data, "test"), 0)) == "long|"


class TestHidden:
    """Last answers that are to be given."""

    SAID = ("q1", "a1", "q2")

    @pytest.mark.parametrize("hidden", [HIDDEN, None])
    def test_are_what_is_predicted(self, hidden: str | None) -> None:
        data = data_of("predict", source=AvsdFiles(predict_path=avsd("p.json", dialog("A", *self.SAID, hidden))))
        assert said(data, "predict") == ["a cat it sits|q1|a1|q2||"]
        assert HIDDEN not in str(said(data, "predict"))
        assert data.describe() == ["predict: 1 dialogs; 1 rows of 26 to 26 tokens (median 26), of which 2 are frames"]

    @pytest.mark.parametrize(("split", "stage"), [("train", "fit"), ("val", "validate"), ("val", "fit")])
    def test_are_no_use_in_training(self, split: str, stage: str) -> None:
        good, bad = (
            avsd(f"{name}.json", dialog(), dialog("B", *self.SAID, last))
            for name, last in (("good", "a2"), ("bad", HIDDEN))
        )
        source = AvsdFiles(bad if split == "train" else good, val_path=good if split == "train" else bad)
        assert message(lambda: data_of(stage, source=source)) == (
            f"bad.json, dialogs[1] (B): the last answer is hidden (__UNDISCLOSED__), so that {split} cannot use it: "
            "predict it, or leave the row out"
        )

    def test_are_no_use_in_test_without_references(self) -> None:
        source = AvsdFiles(test_path=avsd("t.json", dialog("A", *self.SAID, HIDDEN)))
        assert message(lambda: data_of("test", source=source)) == (
            "t.json, dialogs[0] (A): the last answer is hidden (__UNDISCLOSED__), so that test cannot use it: predict "
            "it, or give the row references, which AvsdFiles takes from --data.source.references_path"
        )

    def test_references_do_not_make_up_for_them_in_validation(self) -> None:
        source = Given(dialog("A", *self.SAID, HIDDEN, references=["a2"]))
        assert message(lambda: data_of("validate", source=source)).startswith("row 0: the last answer is hidden")


class TestLengths:
    """What is left out where there is no room, and what is said of it."""

    SAID = ("q1", "a1", "q2", "a2", "q3", "a3")

    @pytest.mark.parametrize(
        ("room", "last", "left_out", "cut"),
        [
            (25, "ab def|q1|a1|q2|a2|q3||", 0, 0),
            (24, "ab def|q2|a2|q3||", 1, 0),
            (19, "ab def|q2|a2|q3||", 1, 0),
            (18, "ab def|q3||", 2, 0),
            (13, "ab def|q3||", 2, 0),
            (12, "ab de|q3||", 2, 3),
            (8, "a|q3||", 2, 3),
            (7, "q3||", 2, 3),
            (6, "q3||", 2, 3),
        ],
    )
    def test_the_earliest_turns_go_first(self, room: int, last: str, left_out: int, cut: int) -> None:
        """Then the caption's end, and never the question: of 2 frames, 7 tokens told, 6 for each turn, 4 asked."""
        source = Given(dialog("A", *self.SAID, caption="ab", summary="def"))
        data = data_of("fit", "test", "predict", source=source, max_seq_len=room + 3, max_target_len=3)
        assert said(data)[2] == said(data, "val")[2] == last
        assert said(data, "test") == said(data, "predict") == [last]
        for split, times in (("train", left_out), ("val", left_out), ("test", left_out > 0), ("predict", left_out > 0)):
            (line,) = (line for line in data.describe() if line.startswith(f"{split}: "))
            cuts = cut if split in ("train", "val") else cut > 0
            assert line.partition("of which 2 are frames")[2] == (
                f"; questions whose earliest turns have no room: {times:d}" * bool(times)
                + f"; captions cut, as they have no room: {cuts:d}" * bool(cuts)
            )
            assert turns(data, split).lengths.max() <= room + 3 * (split != "predict")

    @pytest.mark.parametrize("nothing", [None, "", " "])
    def test_nothing_told(self, nothing: str | None) -> None:
        source = Given(dialog("A", "how?", "so", caption=nothing, summary=nothing))
        assert said(data_of("test", source=source), "test")[0] == "how?||"

    @pytest.mark.parametrize("split", ["train", "test", "predict"])
    def test_a_question_without_room(self, split: str) -> None:
        """The cure is exact."""
        source, stage = Given(dialog("A", "how?", "so")), "fit" if split == "train" else split
        assert message(lambda: data_of(stage, source=source, max_seq_len=20)) == (
            "row 0: the question 'how?' and 2 frames have no room in max_seq_len (20) beside max_target_len (16): set "
            "--data.max_seq_len=24 or more, or take fewer frames of a video"
        )
        data = data_of(stage, source=source, max_seq_len=24)
        assert said(data, split)[0] == "how?||"

    def test_questions_without_room(self) -> None:
        """The cure is one for all of them."""
        source = Given(dialog("A", "how?", "so"), dialog("B", "why not?", "no"), dialog("C", "?", "yes"))
        found = message(lambda: data_of(source=source, features=filmed("A", "B", "C", frames=2), max_seq_len=23))
        assert found.startswith("row 0: the question 'how?' and 2 frames have no room in max_seq_len (23)")
        assert "(16), which is so for 2 questions: set --data.max_seq_len=28 or more" in found
        data_of(source=source, features=filmed("A", "B", "C", frames=2), max_seq_len=28)

    def test_frames_without_room(self) -> None:
        source, features = Given(dialog("A", "how?", "so")), filmed("A", frames=30)
        assert "the question 'how?' and 30 frames have no room in max_seq_len (51)" in message(
            lambda: data_of(source=source, features=features, max_seq_len=51)
        )
        features.max_frames = 29
        assert turns(data_of(source=source, features=features, max_seq_len=51)).num_frames.tolist() == [29]

    def test_answers_are_cut_and_counted(self) -> None:
        source = Given(dialog("A", "a", "1234", "b", "12345", "c", "123ü"))
        data = data_of("fit", "test", "predict", source=source, max_target_len=5)
        assert [answer_of(whole(data), i) for i in range(3)] == [
            [*b"1234", END],
            [*b"1234", END],
            [*"123ü".encode()[:4], END],
        ]
        lines = data.describe()
        assert [line.partition("frames; ")[2] for line in lines] == [
            "answers cut to 5 tokens: 2",
            "answers cut to 5 tokens: 2",
            "answers cut to 5 tokens: 1",
            "",
        ]
        assert "cut" not in data_of(source=source, max_target_len=6).describe()[0]
        assert "|123ü|" not in said(data)[2], "what is said before is never the answer"
        assert "|12345|" in said(data)[2], "an earlier answer is whole"

    def test_nothing_exceeds_max_seq_len(self) -> None:
        for seed in range(3):
            source = Given(*random_dialogs(20, seed=seed))
            features = filmed(*{fields["image_id"] for fields in source.dialogs})
            for most in (70, 90, 140):
                data = data_of("fit", "test", "predict", source=source, features=features, max_seq_len=most)
                assert turns(data, "predict").lengths.max() <= most - 16, "room is kept for the answer"
                for split in ("train", "val", "test"):
                    assert turns(data, split).source_sizes.max() <= most - 16
                    assert turns(data, split).lengths.max() <= most

    def test_rows_of_a_batch_are_about_as_long_as_one_another(self) -> None:
        dialogs = [dialog("A", "q" * (1 + 7 * i % 60), "a") for i in range(60)]
        data = data_of(source=Given(*dialogs), tokens_per_batch=320, batch_size=8)
        for loader in (data.train_dataloader(), data.val_dataloader()):
            batches = list(loader)
            assert sorted(i for batch in batches for i in batch["index"].tolist()) == [*range(60)]
            assert len({len(batch["index"]) for batch in batches}) > 2
            for batch in batches:
                assert batch["input_ids"].numel() + batch["labels"].numel() <= 320
                assert batch["attention_mask"].sum(1).min() > batch["input_ids"].shape[1] - 24
        plain = data_of(source=Given(*dialogs), bucket_by_length=False, batch_size=8)
        assert next(iter(plain.val_dataloader()))["index"].tolist() == [*range(8)]


class TestTexts:
    """What is told of a video."""

    @pytest.mark.parametrize(
        ("told", "options", "first"),
        [
            (("a cat", "it sits"), {"caption_column": None}, "it sits|who?||"),
            (("a cat", "it sits"), {"summary_column": None}, "a cat|who?||"),
            (("a cat", "it sits"), {"caption_column": None, "summary_column": None}, "who?||"),
            (("a cat", "it sits"), {"caption_column": "summary", "summary_column": "caption"}, "it sits a cat|who?||"),
            (("a cat", ""), {}, "a cat|who?||"),
            (("", " it sits\n"), {}, "it sits|who?||"),
            (("", " \t"), {}, "who?||"),
        ],
    )
    def test_texts(self, told: tuple[str, str], options: dict[str, Any], first: str) -> None:
        source = Given(dialog("A", caption=told[0], summary=told[1]))
        data = data_of("fit", "predict", source=source, **options)
        assert said(data)[0] == first
        kinds = [kind for _, kind in row_of(whole(data), 0)]
        assert (CAPTION in kinds) is (not first.startswith("who?"))

    def test_columns_that_are_not_wanted_need_not_be_there(self) -> None:
        bare = {name: value for name, value in dialog("A").items() if name in ("image_id", "dialog")}
        assert message(lambda: data_of(source=Given(bare))) == "row 0 has no column 'caption', only image_id, dialog"
        data = data_of(source=Given(bare), caption_column=None, summary_column=None)
        assert said(data)[0] == "who?||"

    def test_columns_of_other_names(self) -> None:
        """And within other columns, which keep what else they have."""
        fields = {"clip": {"id": "A", "fps": 25}, "about": "a cat", "talk": {"turns": dialog()["dialog"], "by": "me"}}
        path = table("mine.jsonl", fields)
        columns = {"video_column": "clip.id", "caption_column": "about", "summary_column": None}
        data = data_of(
            "predict", source=TableFiles(predict_path=path), **columns, dialog_column="talk.turns", max_turns=0
        )
        assert said(data, "predict") == ["a cat|where?||"]
        (path,) = data.write_predictions({"index": [0], "target": ["here"]}, Path(), "csv")
        turned = [dialog()["dialog"][0], {"question": "where?", "answer": "here"}]
        assert json.loads(path.read_text()) == fields | {"talk": {"turns": turned, "by": "me"}}


class TestVideos:
    """Frames of a batch."""

    VIDEOS = ("A", "B", "C", "D", "E")

    def made(self, **options: Any) -> VideoDialogs:
        features = filmed(*self.VIDEOS)
        dialogs = [dialog(video, *(["q", "a"] * (1 + i % 3))) for i, video in enumerate(self.VIDEOS * 3)]
        return data_of("fit", "test", "predict", source=Given(*dialogs), **{"features": features} | options)

    def test_each_row_has_those_of_its_video(self) -> None:
        data = self.made()
        seen = set()
        for split in ("train", "val", "test", "predict"):
            examples = turns(data, split)
            rows = np.random.default_rng(0).permutation(len(examples))[:9].tolist()
            batch = examples.batch(rows, 0)
            assert batch["video"].shape == (9, int(batch["num_frames"].max()), 6)
            for place, row in enumerate(rows):
                frames, count = frames_of(examples.videos[row]), int(batch["num_frames"][place])
                assert (
                    count
                    == len(frames)
                    == (batch["token_type_ids"][place] == 0)[: int(batch["attention_mask"][place].sum())].sum()
                )
                assert np.array_equal(batch["video"][place, :count].numpy(), frames)
                assert not batch["video"][place, count:].any()
                seen.add(count)
        assert len(seen) > 2

    def test_videos_are_those_of_the_dialogs(self) -> None:
        """Every turn of a dialog has its dialog's video."""
        assert turns(self.made()).videos[:6] == ["A", "B", "B", "C", "C", "C"]
        assert turns(self.made(), "test").videos == list(self.VIDEOS * 3)

    @pytest.mark.parametrize("most", [1, 2, 3, 99])
    def test_max_frames(self, most: int) -> None:
        features = NpyFeatures("features", max_frames=most)
        batch = whole(self.made(features=features))
        plain = whole(self.made())
        assert batch["num_frames"].tolist() == plain["num_frames"].clamp(max=most).tolist()
        kinds = (batch["token_type_ids"] == FRAME) & batch["attention_mask"].bool()
        assert kinds.sum(1).tolist() == batch["num_frames"].tolist()
        for row in range(len(batch["index"])):
            frames = plain["video"][row, : plain["num_frames"][row]].tolist()
            taken = batch["video"][row, : batch["num_frames"][row]].tolist()
            assert all(frame in frames for frame in taken)
            assert most == 1 or len(frames) == 1 or (taken[0], taken[-1]) == (frames[0], frames[-1])

    def test_processes_fetch_the_same_batches(self) -> None:
        for split in ("train", "test"):
            here, there = ([*self.made(num_workers=count).loader(split)] for count in (0, 2))  # type: ignore[arg-type]
            assert len(here) == len(there) > 3
            for one, other in zip(here, there, strict=True):
                assert one.keys() == other.keys()
                for name, value in one.items():
                    assert torch.equal(value, other[name]) if isinstance(value, Tensor) else value == other[name]


class TestFeatureFiles:
    """Wrong files of features are found before there is any batch."""

    def broken(self, how: Callable[[Path], object], kind: str = "i3d_rgb") -> NpyFeatures:
        """Four videos, of which two are broken."""
        features = filmed("A", "B", "C", "D", frames=5)
        for video in ("B", "D"):
            how(Path(f"features/{kind}/{video}.npy"))
        return features

    @pytest.mark.parametrize(
        ("how", "says"),
        [
            (lambda path: path.unlink(), "is missing"),
            (lambda path: path.write_bytes(b""), "is empty"),
            (lambda path: path.write_bytes(path.read_bytes()[:-3]), "is cut off: it has 165 bytes, where it says 168"),
            (lambda path: path.write_bytes(path.read_bytes()[:60]), "is no .npy of numpy, which np.save writes"),
            (lambda path: np.save(path, np.zeros((0, 2), np.float32)), "has no frame"),
            (
                lambda path: np.save(path, np.zeros((5, 3), np.float32)),
                "has 3 numbers for each frame, where that of A has 2",
            ),
            (
                lambda path: np.save(path, np.zeros(5, np.float32)),
                "must be of shape (frames, numbers for each), and is (5,)",
            ),
        ],
    )
    @pytest.mark.parametrize("stage", ["fit", "test", "predict"])
    def test_are_named(self, how: Callable[[Path], object], says: str, stage: str) -> None:
        features = self.broken(how)
        source = Given(*map(dialog, ["A", "B", "C", "D", "B"]))
        assert message(lambda: data_of(stage, source=source, features=features)) == (
            f"2 of 4 videos have no features that can be used in features: i3d_rgb/B.npy {says}; i3d_rgb/D.npy {says}: "
            "leave these dialogs out, or give the files"
        )

    def test_of_a_split_that_is_not_used_are_not_looked_for(self) -> None:
        source = AvsdFiles(avsd("t.json", dialog("A"), dialog("C")), test_path=avsd("gone.json", dialog("gone")))
        data = data_of("fit", source=source, features=filmed("A", "C", frames=2))
        assert message(lambda: data.setup("test")).endswith(
            "i3d_flow/gone.npy is missing: leave these dialogs out, or give the files"
        )

    def test_of_validation_are_as_wide_as_those_to_train_on(self) -> None:
        features = filmed("A", "B", frames=5)
        np.save("features/vggish/B.npy", np.zeros((5, 128), np.float32))
        source = AvsdFiles(avsd("t.json", dialog("A")), val_path=avsd("v.json", dialog("B")))
        assert "vggish/B.npy has 128 numbers for each frame, where that of A has 1" in message(
            lambda: data_of(source=source, features=features)
        )

    def test_a_short_file_cuts_the_others(self) -> None:
        features = self.broken(lambda path: np.save(path, np.ones((3, 2), np.float32)))
        data = data_of(source=Given(*map(dialog, "ABCD")), features=features)
        assert turns(data).num_frames.tolist() == [5, 5, 3, 3, 5, 5, 3, 3]
        assert "of which 3 to 5 (median 4) are frames" in data.describe()[0]


class TestSplits:
    """Parts of the training dialogs that are held out."""

    def test_one_video_alone_is_shared_out(self) -> None:
        path = avsd("mine.json", *(dialog("A", f"q{i}", "a") for i in range(10)))
        data = data_of(source=AvsdFiles(path), features=filmed("A"), val_fraction=0.2)
        assert [len(turns(data, split)) for split in ("train", "val")] == [8, 2]

    def test_two_videos_for_three_splits(self) -> None:
        path = avsd("mine.json", *(dialog("AB"[i % 2], f"q{i}", "a") for i in range(10)))
        options = {"features": filmed("A", "B"), "val_fraction": 0.1, "test_fraction": 0.1}
        assert message(lambda: data_of(source=AvsdFiles(path), **options)) == (
            "10 training rows are about 2 things that stay in one split each, such as 'A', and none is left to train "
            "on: give the source test and val rows of its own"
        )

    @pytest.mark.parametrize("seed", range(6))
    def test_dialogs_about_one_video_stay_together(self, seed: int) -> None:
        dialogs = [dialog(f"v{i * i % 13}", f"q{i}", "a") for i in range(60)]
        features = filmed(*{fields["image_id"] for fields in dialogs}, frames=1)
        path = avsd("mine.json", *dialogs)
        options: dict[str, Any] = {"source": AvsdFiles(path), "features": features, "split_seed": seed}
        data = data_of("fit", "test", val_fraction=0.2, test_fraction=0.2, **options)
        videos = {split: {*turns(data, split).videos} for split in ("train", "val", "test")}  # type: ignore[arg-type]
        assert sum(map(len, videos.values())) == len({fields["image_id"] for fields in dialogs}) == 7
        asked = [line for split in ("train", "val", "test") for line in said(data, split)]
        assert sorted(asked) == sorted(f"a cat it sits|q{i}||" for i in range(60))
        assert all(len(turns(data, split)) >= 12 for split in ("val", "test"))  # type: ignore[arg-type]
        again = data_of("test", val_fraction=0.2, test_fraction=0.2, **options)
        assert said(again, "test") == said(data, "test"), "whatever else is read"

    def test_another_seed_is_another_choice(self) -> None:
        path = avsd("mine.json", *(dialog(f"v{i}") for i in range(20)))
        features = filmed(*(f"v{i}" for i in range(20)), frames=1)
        chosen = [
            tuple(turns(data_of(source=AvsdFiles(path), features=features, split_seed=seed), "val").videos)
            for seed in range(4)
        ]
        assert len({*chosen}) > 1
        assert all(len(videos) == 4 for videos in chosen), "two dialogs of two turns: a tenth"


class TestPredictions:
    """Files with the answers in them, which can be read again."""

    DIALOGS = (dialog("A", "q1", "a1", "q2", None, note=1), dialog("B", "x", None, note=2))
    COLUMNS: ClassVar[dict[str, list[Any]]] = {
        "index": [1, 0],
        "target": ["yes", 'a "big", ü\ncat'],
        "score": [-0.5, -1.0],
    }

    def answered(self, fields: Fields, answer: str) -> list[dict[str, str]]:
        return [*fields["dialog"][:-1], fields["dialog"][-1] | {"answer": answer}]

    def check(self, path: Path, source: RowSource) -> None:
        """The file has the answers, and what was predicted can be learned."""
        rows = source.rows("train") or []
        assert [row.fields["image_id"] for row in rows] == ["B", "A"]
        assert [[turn.answer for turn in turns_of(row, "dialog")] for row in rows] == [
            ["yes"],
            ["a1", 'a "big", ü\ncat'],
        ]
        data = data_of("fit", source=source, val_fraction=0.5)
        texts = [text(answer_of(whole(data, split), -1)) for split in ("train", "val")]
        assert sorted(texts) == ['a "big", ü\ncat|', "yes|"]

    def test_avsd(self) -> None:
        hidden = [fields | {"dialog": self.answered(fields, HIDDEN)} for fields in self.DIALOGS]
        data = data_of("predict", source=AvsdFiles(predict_path=avsd("p.json", *hidden)))
        (path,) = data.write_predictions({**self.COLUMNS}, Path(), "csv")
        found = json.loads(path.read_text())
        assert path.name == "predictions.json"
        assert found["version"] == "0.1"
        assert [fields["score"] for fields in found["dialogs"]] == [-0.5, -1.0]
        for fields, given, answer in zip(found["dialogs"], reversed(self.DIALOGS), self.COLUMNS["target"], strict=True):
            del fields["score"]
            assert fields == given | {"dialog": self.answered(given, str(answer))}
        self.check(path, AvsdFiles(str(path)))

    @pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
    def test_tables(self, suffix: str) -> None:
        data = data_of("predict", source=TableFiles(predict_path=table(f"p{suffix}", *self.DIALOGS)))
        (path,) = data.write_predictions({**self.COLUMNS}, Path(), "csv")
        assert path.name == f"predictions{suffix}"
        if suffix == ".jsonl":
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            assert rows[0] == self.DIALOGS[1] | {"dialog": self.answered(self.DIALOGS[1], "yes"), "score": -0.5}
        self.check(path, TableFiles(str(path)))

    def test_a_table_whose_columns_have_no_names(self) -> None:
        """In its first line; the dialog is JSON within a cell."""
        columns = ["image_id", "dialog"]
        lines = [f"{fields['image_id']}\t{json.dumps(fields['dialog'])}\n" for fields in self.DIALOGS]
        Path("p.tsv").write_text("".join(lines))
        data = data_of(
            "predict",
            source=TableFiles(predict_path="p.tsv", columns=columns),
            caption_column=None,
            summary_column=None,
        )
        assert said(data, "predict") == ["q1|a1|q2||", "x||"]
        (path,) = data.write_predictions({"index": [0, 1], "target": ["a\tb", "c"]}, Path(), "csv")
        rows = TableFiles(str(path), columns=columns).rows("train") or []
        assert [turns_of(row, "dialog")[-1].answer for row in rows] == ["a\tb", "c"]

    def test_datasets_of_the_hub(self) -> None:
        import datasets

        made = datasets.Dataset.from_list([dialog("A"), dialog("B", "x", "y")])
        datasets.DatasetDict({"train": made, "validation": made}).save_to_disk("hub")
        data = data_of("fit", "predict", source=HubRows("hub"))
        assert said(data) == ["a cat it sits|who?||", "a cat it sits|who?|the cat|where?||", "a cat it sits|x||"]
        (path,) = data.write_predictions({"index": [0, 1], "target": ["here", "z"]}, Path(), "csv")
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert [fields["dialog"][-1]["answer"] for fields in rows] == ["here", "z"]

    @pytest.mark.parametrize("split", ["test", "val"])
    def test_what_is_predicted_where_nobody_says(self, split: str) -> None:
        """The dialogs of test, or of validation: of each the last question."""
        said_of = {f"{split}_path": avsd("other.json", dialog("B", "q1", "a1", "q2", "a2"))}
        data = data_of("predict", source=AvsdFiles(avsd("t.json", dialog("A")), **said_of))
        assert said(data, "predict") == ["a cat it sits|q1|a1|q2||"]
        (path,) = data.write_predictions({"index": [0], "target": ["new"]}, Path(), "csv")
        assert json.loads(path.read_text())["dialogs"] == [dialog("B", "q1", "a1", "q2", "new")]


class TestRowsFromPython:
    """What load(path).predict takes."""

    def test_a_mapping(self) -> None:
        data = data_of("fit")
        given = [dialog("B", "q1", "a1", "q2", None, id=7), dialog("A", "x", HIDDEN, caption="")]
        examples, fields = data.given(given)
        batch = examples.batch([0, 1], 0)
        assert text([token for token, kind in row_of(batch, 0) if kind]) == "a cat it sits|q1|a1|q2||"
        assert text([token for token, kind in row_of(batch, 1) if kind]) == "it sits|x||"
        assert np.array_equal(batch["video"][0].numpy(), frames_of("B"))
        assert "labels" not in batch
        found = data.with_predictions(fields, {"index": [0, 1], "target": ["one", "two"]})
        assert found == [dialog("B", "q1", "a1", "q2", "one", id=7), dialog("A", "x", "two", caption="")]
        assert given[0]["dialog"][1]["answer"] is None, "what was given stays as it was"

    @pytest.mark.parametrize(
        ("item", "says"),
        [
            (3, "3 must be a mapping with the columns image_id, caption, summary, dialog"),
            ("who?", "'who?' must be a mapping with the columns image_id, caption, summary, dialog"),
            ({"dialog": []}, "row 0 has no turn in dialog: give it one, or leave the row out"),
            ({"dialog": [{"question": "a"}]}, "row 0 has no column 'image_id', only dialog"),
            ({"image_id": "A"}, "row 0 has no column 'dialog', only image_id"),
            (
                dialog("Z"),
                "1 of 1 videos have no features that can be used in features: i3d_flow/Z.npy is missing: leave these "
                "dialogs out, or give the files",
            ),
        ],
    )
    def test_what_is_no_row(self, item: Any, says: str) -> None:
        data = data_of("fit")
        assert message(lambda: data.given([item])) == says


class TestMistakes:
    """Each in a line that says what to do."""

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"max_turns": -1}, "max_turns (-1) must not be negative"),
            ({"max_target_len": 1}, "max_target_len (1) must be at least 2 and less than max_seq_len (128)"),
            ({"max_target_len": 128}, "max_target_len (128) must be at least 2 and less than max_seq_len (128)"),
            ({"max_seq_len": 0}, "max_seq_len (0) must be at least 1"),
            (
                {"dialog_column": "caption"},
                "video_column (image_id), dialog_column (caption), caption_column (caption) and summary_column "
                "(summary) must be different columns",
            ),
            (
                {"summary_column": "caption"},
                "video_column (image_id), dialog_column (dialog), caption_column (caption) and summary_column "
                "(caption) must be different columns",
            ),
            (
                {"video_column": "video"},
                "row 0 has no column 'video', only image_id, caption, summary, dialog",
            ),
            (
                {"summary_column": "sumary"},
                "row 0 has no column 'sumary', only image_id, caption, summary, dialog; did you mean summary?",
            ),
            (
                {"dialog_column": "dialogs"},
                "row 0 has no column 'dialogs', only image_id, caption, summary, dialog; did you mean dialog?",
            ),
            (
                {"dialog_column": "caption", "caption_column": None},
                "row 0: caption is not JSON: Expecting value, column 1",
            ),
            ({"source": Given(dialog() | {"image_id": 3})}, "row 0: image_id must be text, not 3"),
            ({"source": Given(dialog() | {"caption": 3})}, "row 0: caption must be text, not 3"),
            (
                {"source": Given(dialog(), dialog("B", "x", " "))},
                "row 1: dialog[0].answer must be text, not ' ': write null or __UNDISCLOSED__ where it is to be given",
            ),
            (
                {"source": Given(dialog("A", "x", None, "y", "z"))},
                "row 0: dialog[0].answer must be text, not None: only the last turn may be without an answer",
            ),
        ],
    )
    def test_is_named(self, options: dict[str, Any], says: str) -> None:
        assert message(lambda: data_of(**options)) == says


def test_a_checkpoint_needs_no_tokenizer_files() -> None:
    """Nor the training rows; only features are looked for again."""
    folder = KINDS["roberta"](Path("tokenizer"))
    source = AvsdFiles(avsd("t.json", dialog("A"), dialog("B")))
    data = data_of(source=source, tokenizer=HuggingFaceTokenizer(str(folder)))
    torch.save(data.state_dict(), "state.pt")
    for file in (*folder.iterdir(), Path("t.json")):
        file.unlink()
    features = NpyFeatures("features")
    other = VideoDialogs(source=Given(), features=features, tokenizer=HuggingFaceTokenizer(str(folder)))
    other.load_state_dict(torch.load("state.pt", weights_only=True))
    assert other.end_id == data.end_id != data.tokenizer.start_id == other.tokenizer.start_id
    assert other.vocab_size == data.vocab_size
    fields = dialog("B", "where?", "Grüße", "and then?", None)
    found, expected = (one.given([fields])[0].batch([0], 0) for one in (other, data))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    assert other.video_dim == 6
    predicting = AvsdFiles(predict_path=avsd("p.json", fields))
    new = VideoDialogs(source=predicting, features=features, tokenizer=HuggingFaceTokenizer(str(folder)))
    new.load_state_dict(torch.load("state.pt", weights_only=True))
    new.prepare_data()
    new.setup("predict")
    assert torch.equal(whole(new, "predict")["input_ids"], expected["input_ids"])


def test_without_a_caption_all_room_is_used() -> None:
    source = Given(dialog("A", "q1", "a1", "q2", "a2"))
    options: dict[str, Any] = {"caption_column": None, "summary_column": None, "max_target_len": 8}
    assert said(data_of(source=source, max_seq_len=20, **options))[1] == "q1|a1|q2||"
    assert "captions cut" not in data_of(source=source, max_seq_len=14, **options).describe()[0]


def test_a_cell_without_references() -> None:
    rows = [dialog("A", references=["x"]), dialog("B", "q", "a")]
    data = data_of("test", source=TableFiles(test_path=table("t.csv", *rows)))
    assert whole(data, "test")["references"] == [["x"], ["a"]]
