"""Dialogs about videos: each question with its video, what is known of it, and what was said before; its answer."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from lt_cli.data.base import Batch, SplitName
from lt_cli.data.dialogs import HIDDEN, REFERENCES, Turn, references_of, turns_of, with_answer
from lt_cli.data.examples import SHOWN, ExampleData
from lt_cli.data.row_sources import RowSource
from lt_cli.data.rows import Row, field_of, text_of
from lt_cli.data.targets import Targets
from lt_cli.data.text_to_text import TextPairs
from lt_cli.data.tokenizers import Tokenizer
from lt_cli.data.video_features import VideoFeatures
from lt_cli.errors import UserError
from lt_cli.losses import IGNORE

FRAME, CAPTION, QUESTION, ANSWER = range(4)
"""Kinds of places in a row."""

Ids = NDArray[np.int32]


class _Example(NamedTuple):
    """A turn to be answered.

    Attributes:
        video: Its id.
        num_frames: Its frames.
        parts: Tokens before the answer, and their kinds.
        answer: What is learned; empty in predict.
        references: What counts as right.
    """

    video: str
    num_frames: int
    parts: list[tuple[Ids, int]]
    answer: str
    references: list[str]


class VideoTurns(TextPairs):
    """Questions as rows of frames and tokens, and their answers.

    Args:
        ids: Tokens of each row, with ``pad_id`` in place of frames, which come first.
        types: The kind of each.
        pad_id: Stands for frames, and fills the ends of shorter rows.
        targets: The answers; None in predict.
        references: Right answers to each question; None where nothing is scored against them.
        features: What has the frames.
        videos: The video of each row.
        num_frames: The frames of each row.
    """

    def __init__(
        self,
        ids: Sequence[Ids],
        types: Sequence[Ids],
        *,
        pad_id: int,
        targets: Targets | None,
        references: Sequence[Sequence[str]] | None,
        features: VideoFeatures,
        videos: Sequence[str],
        num_frames: Sequence[int],
    ) -> None:
        """Joins the rows."""
        super().__init__(ids, types, pad_id=pad_id, targets=targets, references=references)
        self.features, self.videos, self.num_frames = features, videos, np.array(num_frames, np.int64)

    def batch(self, rows: Sequence[int], epoch: int) -> Batch:
        """Those of TextPairs, ``token_type_ids`` (B, S), ``video`` (B, F, V) and ``num_frames`` (B,)."""
        batch = super().batch(rows, epoch)
        counts = self.num_frames[rows]
        video = np.zeros((len(rows), counts.max(), self.features.dim), np.float32)
        for place, row in enumerate(rows):
            video[place, : counts[place]] = self.features.frames(self.videos[row])
        return batch | {"video": torch.from_numpy(video), "num_frames": torch.from_numpy(counts)}


class VideoDialogs(ExampleData):
    """Rows of files, each a dialog about a video, to batches of questions, and predictions to files of the same format.

    A row of a batch is a question: the frames of its video, caption and summary, the turns before it, and the question
    itself. Training and validation have every turn of a dialog as a row; test and predict the last. A dialog may have
    ``references``, a list of several right answers to its last question, all of which count in test.

    Args:
        source: Where the dialogs come from: lt_cli.data.avsd.AvsdFiles, or tables, or a dataset of the hub.
        features: Where the frames of videos come from.
        tokenizer: Text to tokens.
        video_column: Column of the video's id.
        caption_column: Column of a text about the video, which may be null in a row; null to do without.
        summary_column: Column of another text about it; null to do without.
        dialog_column: Column of the dialog, a list of {question, answer}; the last answer may be missing, null or
            __UNDISCLOSED__ in what is to be predicted. Predictions are written there.
        max_turns: Earlier turns that a question comes with, at most: the last ones.
        max_seq_len: Frames and tokens of a question and its answer, at most. Of longer ones the earliest turns are left
            out, and then the end of the caption; the first page says how often.
        max_target_len: Tokens of an answer that are learned, at most, the end token included; so many are kept free.
        bucket_by_length: Whether the rows of a batch are about as long as one another, so that little is padded.
        tokens_per_batch: Frames and tokens of a batch and process, padding included, at most; batches of long rows then
            have fewer than batch_size. null for no limit.
        val_fraction: Part of the training dialogs kept for validation; null for 0.1, or none where the source has its
            own. Dialogs about one video stay together.
        test_fraction: The same for test; null for none.
        split_seed: Seed of that choice; the run's own seed does not change it.
        batch_size: Questions per batch and process.
        num_workers: Processes that fetch batches, frames included.

    Raises:
        UserError: If a size is out of range, a split is missing, a dialog is not as it must be, or a video has no
            features that can be used.
    """

    num_segments = 4

    def __init__(
        self,
        *,
        source: RowSource,
        features: VideoFeatures,
        tokenizer: Tokenizer,
        video_column: str = "image_id",
        caption_column: str | None = "caption",
        summary_column: str | None = "summary",
        dialog_column: str = "dialog",
        max_turns: int = 3,
        max_seq_len: int = 512,
        max_target_len: int = 64,
        bucket_by_length: bool = True,
        tokens_per_batch: int | None = None,
        val_fraction: float | None = None,
        test_fraction: float | None = None,
        split_seed: int = 0,
        batch_size: int = 16,
        num_workers: int = 0,
    ) -> None:
        """Reads nothing."""
        super().__init__(
            source=source,
            tokenizer=tokenizer,
            max_seq_len=max_seq_len,
            bucket_by_length=bucket_by_length,
            tokens_per_batch=tokens_per_batch,
            val_fraction=val_fraction,
            test_fraction=test_fraction,
            split_seed=split_seed,
            batch_size=batch_size,
            num_workers=num_workers,
        )
        if max_turns < 0:
            raise UserError(f"max_turns ({max_turns}) must not be negative")
        if not 2 <= max_target_len < max_seq_len:
            raise UserError(
                f"max_target_len ({max_target_len}) must be at least 2 and less than max_seq_len ({max_seq_len})"
            )
        self.features = features
        self.video_column, self.dialog_column = video_column, dialog_column
        self.text_columns = [column for column in (caption_column, summary_column) if column is not None]
        if len({video_column, dialog_column, *self.text_columns}) < 2 + len(self.text_columns):
            raise UserError(
                f"video_column ({video_column}), dialog_column ({dialog_column}), caption_column ({caption_column}) "
                f"and summary_column ({summary_column}) must be different columns"
            )
        self.max_turns, self.max_target_len = max_turns, max_target_len
        self._learned = True  # training rows say nothing that others are read with
        self._notes: dict[SplitName, Counter[str]] = {}

    @property
    def end_id(self) -> int:
        """The token that ends an answer."""
        return self.tokenizer.end_id

    @property
    def video_dim(self) -> int | None:
        """Numbers in a frame; None before ``setup``."""
        return getattr(self.features, "dim", None)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens."""
        return self.tokenizer.decode(ids)

    def prepare_data(self) -> None:
        """Downloads on one process."""
        super().prepare_data()
        self.features.prepare()

    def learn(self, rows: list[Row]) -> None:
        """Nothing."""

    def kept_together(self, rows: list[Row]) -> list[str] | None:
        """Dialogs about one video, which would otherwise be known from training; not where there is but one."""
        videos = [self._video(row) for row in rows]
        return videos if 1 < len({*videos}) < len(videos) else None

    def examples(self, rows: list[Row], split: SplitName) -> VideoTurns:
        """Every turn of each dialog, or the last: framed, and cut where it is too long."""
        dialogs = [turns_of(row, self.dialog_column) for row in rows]
        videos = [self._video(row) for row in rows]
        counts = self.features.check(videos)
        notes = self._notes[split] = Counter(dialogs=len(rows))
        captions = [self._caption(row) for row in rows]
        tokens = self._tokens([*captions, *(text for turns in dialogs for turn in turns for text in turn if text)])
        answer_room = self.max_target_len - 1
        asked = [
            (row, turns[: number + 1], video, num_frames, caption)
            for row, turns, video, num_frames, caption in zip(
                rows, dialogs, videos, counts.tolist(), captions, strict=True
            )
            for number in (range(len(turns)) if split in ("train", "val") else [len(turns) - 1])
        ]
        self._refuse_without_room([(row, turns[-1].question, frames) for row, turns, _, frames, _ in asked], tokens)
        examples = []
        for row, turns, video, num_frames, caption in asked:
            parts = self._parts(turns, num_frames, tokens, caption, notes)
            answer, right = ("", []) if split == "predict" else self._right_answers(row, turns[-1], split)
            examples.append(_Example(video, num_frames, parts, answer, right))
        targets = references = None
        if split != "predict":
            texts = [example.answer for example in examples]
            tokens |= self._tokens([text for text in texts if text not in tokens])
            answers = [tokens[text] for text in texts]
            notes["answers cut"] = sum(len(ids) > answer_room for ids in answers)
            targets = Targets([np.append(ids[:answer_room], np.int32(self.end_id)) for ids in answers])
            references = [example.references for example in examples] if split in ("val", "test") else None
            notes["references"] = sum(map(len, references or []))
        joined = [self._joined(example) for example in examples]
        return VideoTurns(
            [ids for ids, _ in joined],
            [kinds for _, kinds in joined],
            pad_id=self.end_id,
            targets=targets,
            references=references,
            features=self.features,
            videos=[example.video for example in examples],
            num_frames=[example.num_frames for example in examples],
        )

    def _joined(self, example: _Example) -> tuple[Ids, Ids]:
        """The tokens of a row and their kinds, with something in place of its frames."""
        parts = [(np.full(example.num_frames, self.end_id, np.int32), FRAME), *example.parts]
        kinds = [np.full(len(ids), kind, np.int32) for ids, kind in parts]
        return np.concatenate([ids for ids, _ in parts]), np.concatenate(kinds)

    def _video(self, row: Row) -> str:
        return text_of(row, self.video_column)

    def _caption(self, row: Row) -> str:
        """All that is told about the video, which may be nothing."""
        told = (text_of(row, column) for column in self.text_columns if field_of(row, column) is not None)
        return " ".join(text.strip() for text in told if text.strip())

    def _tokens(self, texts: Sequence[str]) -> dict[str, Ids]:
        """Of each text, which often comes more than once."""
        different = list(dict.fromkeys(texts))
        return dict(zip(different, self.tokenizer.encode(different), strict=True))

    def _right_answers(self, row: Row, turn: Turn, split: SplitName) -> tuple[str, list[str]]:
        """The one to learn, which is the dialog's own where it has one, and those that count as right."""
        references = references_of(row) if split == "test" else None
        if references is not None:
            return turn.answer or references[0], references
        if turn.answer is None:
            raise UserError(
                f"{row.place}: the last answer is hidden ({HIDDEN}), so that {split} cannot use it: predict it, or "
                + (
                    f"give the row {REFERENCES}, which AvsdFiles takes from --data.source.references_path"
                    if split == "test"
                    else "leave the row out"
                )
            )
        return turn.answer, [turn.answer]

    def _room(self, question: str, num_frames: int, tokens: dict[str, Ids]) -> int:
        """Places between the frames and the question, for what was told and said; below 0 where it has none itself."""
        framed = len(tokens[question]) + 2  # its end, and the start of the answer
        return self.max_seq_len - self.max_target_len - num_frames - framed

    def _refuse_without_room(self, asked: Sequence[tuple[Row, str, int]], tokens: dict[str, Ids]) -> None:
        """Refuses questions that are too long even with nothing before them, given with the frames of their videos."""
        rooms = [self._room(question, num_frames, tokens) for _, question, num_frames in asked]
        if without := [number for number, room in enumerate(rooms) if room < 0]:
            row, question, num_frames = asked[without[0]]
            others = f", which is so for {len(without):,} questions" if len(without) > 1 else ""
            raise UserError(
                f"{row.place}: the question {question!r:.80} and {num_frames} frames have no room in max_seq_len "
                f"({self.max_seq_len}) beside max_target_len ({self.max_target_len}){others}: set --data.max_seq_len="
                f"{self.max_seq_len - min(rooms)} or more, or take fewer frames of a video"
            )

    def _parts(
        self,
        turns: Sequence[Turn],
        num_frames: int,
        tokens: dict[str, Ids],
        caption: str,
        notes: Counter[str],
    ) -> list[tuple[Ids, int]]:
        """What stands between the frames and the answer to the last turn, in as many places as there are."""
        end = np.int32(self.end_id)
        *before, now = turns
        question = [
            (np.append(tokens[now.question], end), QUESTION),
            (np.array([self.tokenizer.start_id], np.int32), ANSWER),
        ]
        room = self._room(now.question, num_frames, tokens)
        told = tokens[caption]
        told_size = len(told) + 1 if len(told) else 0
        history: list[tuple[Ids, int]] = []
        wanted = before[len(before) - min(self.max_turns, len(before)) :]
        for turn in reversed(wanted):
            assert turn.answer is not None  # as only the last may be hidden
            pair = [(np.append(tokens[turn.question], end), QUESTION), (np.append(tokens[turn.answer], end), ANSWER)]
            size = sum(len(ids) for ids, _ in pair)
            if size + told_size > room:
                notes["turns left out"] += 1
                break
            history = pair + history
            room -= size
        if told_size > room:
            notes["captions cut"] += 1
            told = told[: max(0, room - 1)]
        return [*([(np.append(told, end), CAPTION)] if len(told) else []), *history, *question]

    def predicted(self, fields: dict[str, Any], prediction: dict[str, Any]) -> dict[str, Any]:
        """The fields with the prediction in place of the last answer."""
        return with_answer(fields, self.dialog_column, prediction.pop("target")) | prediction

    def fields_of(self, item: Any) -> dict[str, Any]:
        """A row from Python: a mapping with the columns."""
        if not isinstance(item, Mapping):
            columns = ", ".join([self.video_column, *self.text_columns, self.dialog_column])
            raise UserError(f"{item!r:.80} must be a mapping with the columns {columns}")
        return dict(item)

    def describe(self) -> list[str]:
        """Dialogs, questions and their lengths, and what is left out, of each split."""
        return [f"{name}: {self._described(name)}" for name in self.splits]

    def _described(self, name: SplitName) -> str:
        examples, notes = self.splits[name], self._notes[name]
        assert isinstance(examples, VideoTurns)
        fewest, middle, most = np.quantile(examples.num_frames, [0, 0.5, 1]).astype(int).tolist()
        frames = f"{most:,}" if fewest == most else f"{fewest:,} to {most:,} (median {middle:,})"
        parts = [f"{notes['dialogs']:,} dialogs; {self.describe_split(examples)}, of which {frames} are frames"]
        if notes["references"] > len(examples):
            parts.append(f"right answers: {notes['references']:,}")
        if notes["answers cut"]:
            parts.append(f"answers cut to {self.max_target_len} tokens: {notes['answers cut']:,}")
        if notes["turns left out"]:
            parts.append(f"questions whose earliest turns have no room: {notes['turns left out']:,}")
        if notes["captions cut"]:
            parts.append(f"captions cut, as they have no room: {notes['captions cut']:,}")
        return "; ".join(parts)

    def preview(self, batch: Batch, directory: Path) -> list[str]:
        """The first row as the model sees it, and its answer."""
        count = int(batch["num_frames"][0])
        row = {name: batch[name][:1, count:] for name in ("input_ids", "attention_mask")}
        answer = batch["labels"][0][batch["labels"][0] != IGNORE].tolist()
        return [
            f"a row: {count} frames, then {self.readable(row, 0)[:SHOWN]!r}",
            f"its answer: {self.decode(answer)[:SHOWN]!r}",
        ]
