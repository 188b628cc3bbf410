"""Files of the AVSD challenges: dialogs about videos, and several right answers to the last question of each."""

import json
import re
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from lt_cli.data.base import SplitName
from lt_cli.data.dialogs import REFERENCES
from lt_cli.data.json_documents import document_of, value_of
from lt_cli.data.row_sources import FileRows
from lt_cli.data.rows import Row
from lt_cli.errors import UserError, some_of

SHOWN = 3
"""Videos that a message names."""


class AvsdFiles(FileRows):
    """Files of the AVSD challenges of DSTC7 and DSTC8 (Alamri et al. 2019, https://arxiv.org/abs/1901.09107).

    A row is a dialog as it stands in the file, with ``image_id`` (the video's id), ``caption``, ``summary`` and
    ``dialog``, a list of questions and answers. Predictions are such a file, predictions.json, with the last answers
    filled in: what the challenges take as a submission.

    Args:
        path: A file, of which parts are held out, or a folder with files called train, val (also valid, validation,
            dev) and test; null where only predict_path is read.
        val_path: File for validation.
        test_path: File for test; its last answers may be hidden where references_path has them.
        predict_path: File to predict; it needs no last answers.
        references_path: File with several right answers to the last question of each dialog of the test file, in the
            layout of COCO's captions, as the challenges give it: {"images": [{"id", "name"}], "annotations":
            [{"image_id", "caption"}]}. A name is a video's id, with or without _ and the number of the turn behind it.
            Rows of test then have them as ``references``. null for none.
    """

    suffixes = (".json",)

    def __init__(
        self,
        path: str | None = None,
        *,
        val_path: str | None = None,
        test_path: str | None = None,
        predict_path: str | None = None,
        references_path: str | None = None,
    ) -> None:
        """Reads nothing."""
        super().__init__(path, val_path, test_path, predict_path)
        if references_path is not None:  # among the others, so that it is not said to be left out of a folder
            self.named[REFERENCES] = Path(references_path).expanduser()

    def rows(self, split: SplitName) -> list[Row] | None:
        """Those of the split's file, in test with their references."""
        if REFERENCES not in self.named or split not in ("train", "test"):
            return super().rows(split)
        path, test_path = self.named[REFERENCES], self.file("test")
        if test_path is None:
            raise UserError(
                f"source.references_path ({path}) has answers to a test file, and there is none: name it with "
                "--data.source.test_path, or set --data.source.references_path=null"
            )
        self._existing(path, "references_path")
        rows = super().rows(split)
        if rows is None or split != "test":
            return rows
        references = _references(path, rows, test_path)
        return [Row(row.fields | {REFERENCES: references[row.fields["image_id"]]}, row.place) for row in rows]

    def read(self, path: Path, *, unlabeled: bool) -> list[Row]:
        """The dialogs of one file."""
        rows = []
        for i, fields in enumerate(value_of(path, "", document_of(path, "a JSON object"), "dialogs", list)):
            place = f"dialogs[{i}]"
            video = value_of(path, place, fields, "image_id", str)
            if not video.strip():
                raise UserError(f"{path}: {place}.image_id is empty: fill it, or leave the dialog out")
            value_of(path, place, fields, "dialog", list)
            rows.append(Row(fields, f"{path}, {place} ({video})"))
        return rows

    def write(self, rows: Sequence[dict[str, Any]], split: SplitName, directory: Path) -> list[Path]:
        """The split's file with these dialogs, in this order, in place of its own."""
        source = self.file(split) or self.file("train")
        assert source is not None
        added = {REFERENCES} if split == "test" and REFERENCES in self.named else set()
        document = document_of(source, "a JSON object")
        document["dialogs"] = [{name: row[name] for name in row if name not in added} for row in rows]
        path = directory / "predictions.json"
        path.write_text(json.dumps(document, ensure_ascii=False) + "\n", encoding="utf-8")
        return [path]


def _references(path: Path, rows: Sequence[Row], test_path: Path) -> dict[str, list[str]]:
    """The right answers to the last question about each video."""
    counts = Counter(row.fields["image_id"] for row in rows)
    video, count = counts.most_common(1)[0]
    if count > 1:
        raise UserError(
            f"{test_path} has {count} dialogs about the video {video}, and {path} cannot say which of them its answers "
            "are to: leave all but one out"
        )
    if own := [row for row in rows if REFERENCES in row.fields]:
        raise UserError(f"{own[0].place} has {REFERENCES} of its own: set --data.source.references_path=null")
    document = document_of(path, "a JSON object")
    videos = _videos(path, document, counts.keys(), test_path)
    answers: dict[str, list[str]] = {video: [] for video in counts}
    for i, annotation in enumerate(value_of(path, "", document, "annotations", list)):
        place = f"annotations[{i}]"
        key = _key(path, place, annotation, "image_id")
        if key not in videos:
            raise UserError(f"{path}: {place}.image_id ({key!r:.80}) is the id of none of images: mend it")
        answer = value_of(path, place, annotation, "caption", str)
        if not answer.strip():
            raise UserError(f"{path}: {place}.caption is empty: fill it, or leave the annotation out")
        answers[videos[key]].append(answer)
    if without := [video for video, found in answers.items() if not found]:
        raise UserError(
            f"{path} must have an answer for each dialog of {test_path}, and has none for {len(without):,} of "
            f"{len(answers):,}: {some_of(without, SHOWN)}: add them, or leave these dialogs out"
        )
    return answers


def _videos(path: Path, document: dict[str, Any], known: Collection[str], test_path: Path) -> dict[Any, str]:
    """The videos that a file of references is about, by the ids that its annotations name."""
    videos: dict[Any, str] = {}
    places: dict[str, str] = {}
    unknown = []
    for i, image in enumerate(value_of(path, "", document, "images", list)):
        place = f"images[{i}]"
        key = _key(path, place, image, "id")
        name = value_of(path, place, image, "name", str)
        if key in videos:
            raise UserError(f"{path}: {place} has the id {key!r:.80} of another image: give it one of its own")
        video = name if name in known else re.sub(r"_\d+$", "", name)
        if video in places:
            raise UserError(
                f"{path}: {place}, named {name}, is about the video of {places[video]}, {video}: leave out all but the "
                "one for its last question"
            )
        videos[key], places[video] = video, place
        if video not in known:
            unknown.append(name)
    if unknown:
        raise UserError(
            f"{path} has answers about {len(unknown):,} videos that {test_path} does not have: "
            f"{some_of(unknown, SHOWN)}: leave them out, or correct their names"
        )
    return videos


def _key(path: Path, place: str, holder: Any, name: str) -> str | int:
    """An id, which a number may be."""
    key: str | int = value_of(path, place, holder, name, (str, int))
    return key
