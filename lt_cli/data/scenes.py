"""Scenes that are drawn: shapes that move over small pictures, and dialogs about them that only seeing answers."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lt_cli.data.base import SplitName
from lt_cli.data.dialogs import HIDDEN, with_answer
from lt_cli.data.row_sources import RowSource
from lt_cli.data.rows import Row, write_jsonl
from lt_cli.data.video_features import VideoFeatures
from lt_cli.errors import UserError, some_of

COLOURS = {"red": (1.0, 0.1, 0.1), "green": (0.1, 1.0, 0.1), "blue": (0.1, 0.2, 1.0), "yellow": (1.0, 1.0, 0.1)}
SHAPES = {"square": ("###", "###", "###"), "cross": (" # ", "###", " # "), "line": ("   ", "###", "   ")}
DIRECTIONS = ("to the left", "to the right", "up", "down")
CHANGES = ("none", "colour", "stop")
"""What happens halfway: nothing, the next colour, or the shape stays where it is."""
AT_THE_END = "and at the end?"
"""A question that only the one before it explains."""
SMALLEST, FEWEST = 8, 4
"""Pixels of a side, and frames, that show all of this."""
BRIGHTEST = 0.2
"""The lightest grey behind a shape, of black 0 and white 1."""
SHOWN = 3
"""Videos that a message names."""


class Scene(NamedTuple):
    """What there is to see, as said in ``COLOURS``, ``SHAPES``, ``DIRECTIONS`` and ``CHANGES``."""

    colour: str
    shape: str
    direction: str
    change: str

    @property
    def last_colour(self) -> str:
        """The colour in the second half."""
        names = [*COLOURS]
        return names[(names.index(self.colour) + (self.change == "colour")) % len(names)]


def scene_of(number: int) -> Scene:
    """The scene of a number, whose remainders choose each part: 144 different ones, in turn."""
    parts = []
    for names in ([*COLOURS], [*SHAPES], DIRECTIONS, CHANGES):
        number, place = divmod(number, len(names))
        parts.append(names[place])
    return Scene(*parts)


class SceneFrames(VideoFeatures):
    """The scenes of ``Scenes`` as pictures in RGB, drawn by their ids: no files.

    Args:
        size: Height and width in pixels; at least 8.
        num_frames: Frames of a scene; at least 4.
        noise: Standard deviation of what is added to each pixel, which is from 0 to 1.

    Raises:
        UserError: If one of these is out of range.
    """

    def __init__(self, *, size: int = 8, num_frames: int = 8, noise: float = 0.05) -> None:
        """Draws nothing."""
        if size < SMALLEST:
            raise UserError(f"size ({size}) must be at least {SMALLEST} pixels")
        if num_frames < FEWEST:
            raise UserError(f"num_frames ({num_frames}) must be at least {FEWEST}")
        if not 0 <= noise <= 1:
            raise UserError(f"noise ({noise}) must be from 0 to 1")
        self.size, self.num_frames, self.noise = size, num_frames, noise
        self.dim: int = 3 * size * size

    def check(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """As many for each."""
        if unknown := [video for video in dict.fromkeys(ids) if _number(video) is None]:
            raise UserError(
                f"SceneFrames draws videos called scene_NUMBER only, and {len(unknown):,} are others: "
                f"{some_of(unknown, SHOWN)}: take their features from files with "
                "lt_cli.data.video_features.NpyFeatures"
            )
        return np.full(len(ids), self.num_frames)

    def frames(self, video_id: str) -> NDArray[np.float32]:
        """The pictures of a scene, each as one row of numbers in [0, 1]: by height, width and colour.

        Shape:
            - output: (num_frames, dim), dim = 3 * size * size
        """
        self.check([video_id])
        number = _number(video_id)
        assert number is not None
        scene, generator = scene_of(number), np.random.default_rng(number)
        unit = np.ones((self.size // SMALLEST,) * 2, dtype=bool)
        shape = np.kron(np.array([[pixel == "#" for pixel in line] for line in SHAPES[scene.shape]]), unit)
        room = self.size - len(shape)
        across, start = int(generator.integers(room + 1)), int(generator.integers(room // 4 + 1))
        pictures = np.full((self.num_frames, self.size, self.size, 3), generator.uniform(0, BRIGHTEST))
        for i, picture in enumerate(pictures):
            progress = i / (self.num_frames - 1)
            moved = min(progress, 0.5) if scene.change == "stop" else progress
            along = round(start + (room - start) * moved)
            along = room - along if scene.direction in ("to the left", "up") else along
            y, x = (along, across) if scene.direction in ("up", "down") else (across, along)
            colour = COLOURS[scene.colour if progress < 0.5 else scene.last_colour]
            picture[y : y + len(shape), x : x + len(shape)][shape] = colour
        pictures += generator.normal(0, self.noise, pictures.shape)
        return pictures.clip(0, 1).reshape(self.num_frames, self.dim).astype(np.float32)


class Scenes(RowSource):
    """Dialogs about shapes that move, in the layout of AVSD, with pictures by ``SceneFrames``: no download.

    Rows have ``image_id`` (the scene's name), ``caption`` and ``summary``, which say nothing that is asked, and
    ``dialog``; those of test also ``references``, two right answers to the last question. Only what is seen tells
    colours, shapes and ways; some questions also need the one before. To predict there are the dialogs of test without
    their last answers; they are written to predictions.jsonl.

    Args:
        num_train: Dialogs to train on, each about a scene of its own.
        num_val: Dialogs for validation.
        num_test: Dialogs for test.
        num_turns: Questions of a dialog; 1 to 5.
        seed: Seed of which scenes are in which split, and of what is asked about them.

    Raises:
        UserError: If one of these is out of range.
    """

    def __init__(
        self,
        *,
        num_train: int = 2000,
        num_val: int = 200,
        num_test: int = 200,
        num_turns: int = 3,
        seed: int = 0,
    ) -> None:
        """Draws nothing."""
        self.sizes = {"train": num_train, "val": num_val, "test": num_test}
        for split, number in self.sizes.items():
            if number < 1:
                raise UserError(f"num_{split} ({number}) must be at least 1")
        if not 1 <= num_turns <= 5:
            raise UserError(f"num_turns ({num_turns}) must be from 1 to 5")
        if seed < 0:
            raise UserError(f"seed ({seed}) must not be negative")
        self.num_turns, self.seed = num_turns, seed

    def has(self, split: SplitName) -> bool:
        """There are all."""
        return True

    def rows(self, split: SplitName) -> list[Row]:
        """The dialogs of a split."""
        drawn = "test" if split == "predict" else split
        numbers = np.random.default_rng(self.seed).permutation(sum(self.sizes.values()))
        before = sum(list(self.sizes.values())[: list(self.sizes).index(drawn)])
        rows = []
        for i, number in enumerate(numbers[before : before + self.sizes[drawn]].tolist()):
            fields, paraphrase = self._dialog(number)
            if split == "test":
                fields["references"] = [fields["dialog"][-1]["answer"], paraphrase]
            if split == "predict":
                fields = with_answer(fields, "dialog", HIDDEN)
            rows.append(Row(fields, f"{split}, dialog {i} ({fields['image_id']})"))
        return rows

    def write(self, rows: Sequence[dict[str, Any]], split: SplitName, directory: Path) -> list[Path]:
        """As .jsonl."""
        return [write_jsonl(rows, directory / "predictions.jsonl")]

    def _dialog(self, number: int) -> tuple[dict[str, Any], str]:
        """A dialog about a scene, and its last answer in other words."""
        topics = _topics(scene_of(number))
        order = np.random.default_rng([self.seed, number]).permutation(len(topics)).tolist()
        turns = [turn for i in order for turn in topics[i]][: self.num_turns]
        fields = {
            "image_id": f"scene_{number:04d}",
            "caption": "a shape moves",
            "summary": "a clip of one shape",
            "dialog": [{"question": question, "answer": answer} for question, answer, _ in turns],
        }
        return fields, turns[-1][2]


def _topics(scene: Scene) -> list[list[tuple[str, str, str]]]:
    """What may be asked about a scene, each with what is asked next: question, answer, and answer in other words."""
    last = scene.last_colour
    if scene.change == "colour":
        colour_then = f"it is {last} then", f"it turns {last}"
    else:
        colour_then = f"it is still {last}", f"it stays {last}"
    way_then = ("it stops", "it comes to rest") if scene.change == "stop" else ("it goes on", "it does not stop")
    return [
        [
            ("what colour is it?", f"it is {scene.colour}", f"the colour is {scene.colour}"),
            (AT_THE_END, *colour_then),
        ],
        [("what shape is it?", f"it is a {scene.shape}", f"the shape is a {scene.shape}")],
        [
            ("where does it go?", f"it goes {scene.direction}", f"it moves {scene.direction}"),
            (AT_THE_END, *way_then),
        ],
    ]


def _number(video: str) -> int | None:
    """The number of a scene, by its name."""
    found = re.fullmatch(r"scene_([0-9]{1,18})", video)
    return int(found[1]) if found else None
