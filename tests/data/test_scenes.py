"""Scenes that are drawn: what can be seen is what the dialogs say, and nothing else says it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toys import message

from lt_cli.data.dialogs import HIDDEN, turns_of
from lt_cli.data.scenes import COLOURS, DIRECTIONS, SceneFrames, Scenes, scene_of

NAMES = ("train", "val", "test")


def small(**options: Any) -> Scenes:
    return Scenes(**{"num_train": 300, "num_val": 20, "num_test": 30, **options})


def right(inputs: np.ndarray, labels: list[int]) -> float:
    """How much a linear classifier, by least squares of two thirds, has right of the rest."""
    inputs, classes = np.hstack([inputs, np.ones((len(inputs), 1))]), np.array(labels)
    known = len(inputs) * 2 // 3
    weights = np.linalg.lstsq(inputs[:known], np.eye(max(labels) + 1)[classes[:known]], rcond=None)[0]
    return float(((inputs[known:] @ weights).argmax(1) == classes[known:]).mean())


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    """The scenes of numbers 0 to 1199, (1200, T, H, W, 3)."""
    source = SceneFrames()
    return np.stack([source.frames(f"scene_{number}") for number in range(1200)]).reshape(1200, 8, 8, 8, 3)


class TestFrames:
    """What is seen."""

    def test_colours_and_their_changes_are_seen(self, pictures: np.ndarray) -> None:
        scenes = [scene_of(number) for number in range(len(pictures))]
        for frame, said in ((0, "colour"), (-1, "last_colour")):
            hues = pictures[:, frame].mean((1, 2))
            hues = (hues - hues.mean(1, keepdims=True)) / hues.std(1, keepdims=True)
            assert right(hues, [[*COLOURS].index(getattr(scene, said)) for scene in scenes]) > 0.95
        assert {scene.change for scene in scenes if scene.colour != scene.last_colour} == {"colour"}

    def test_directions_are_seen(self, pictures: np.ndarray) -> None:
        labels = [DIRECTIONS.index(scene_of(number).direction) for number in range(len(pictures))]
        lightness = pictures.max(-1).reshape(*pictures.shape[:2], -1)
        assert right(lightness[:, 4] - lightness[:, 0], labels) > 0.95
        assert right(lightness[:, 0], labels) < 0.85  # one frame is not enough

    def test_shapes_are_seen(self, pictures: np.ndarray) -> None:
        sizes = (pictures[:, 0].max(-1) > 0.6).sum((1, 2))
        expected = np.array([{"square": 9, "cross": 5, "line": 3}[scene_of(n).shape] for n in range(len(pictures))])
        assert (sizes == expected).mean() > 0.99

    def test_stops_are_seen(self) -> None:
        source = SceneFrames(noise=0)
        for number in range(288):
            frames = source.frames(f"scene_{number}")
            scene = scene_of(number)
            assert np.array_equal(frames[4], frames[-1]) == (scene.change == "stop"), scene
            assert not np.array_equal(frames[0], frames[4])

    def test_scenes_differ(self) -> None:
        scenes = [scene_of(number) for number in range(288)]
        assert len({*scenes}) == 144
        assert scenes[:144] == scenes[144:]
        source = SceneFrames()
        assert not np.array_equal(source.frames("scene_3"), source.frames("scene_147"))
        assert np.array_equal(source.frames("scene_0003"), SceneFrames().frames("scene_3"))

    def test_sizes(self) -> None:
        source = SceneFrames(size=19, num_frames=5, noise=1)
        assert source.check(["scene_1", "scene_2"]).tolist() == [5, 5]
        frames = source.frames("scene_1")
        assert frames.shape == (5, source.dim) == (5, 3 * 19 * 19)
        assert frames.dtype == np.float32
        assert (frames.min(), frames.max()) == (0, 1)

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"size": 7}, "size (7) must be at least 8 pixels"),
            ({"num_frames": 3}, "num_frames (3) must be at least 4"),
            ({"noise": -0.5}, "noise (-0.5) must be from 0 to 1"),
            ({"noise": float("nan")}, "noise (nan) must be from 0 to 1"),
        ],
    )
    def test_mistakes(self, options: dict[str, Any], says: str) -> None:
        assert message(lambda: SceneFrames(**options)) == says

    def test_other_videos(self) -> None:
        assert message(lambda: SceneFrames().check(["A", "scene_1", "B", "scene_", "scene_-1", "A"])) == (
            "SceneFrames draws videos called scene_NUMBER only, and 4 are others: A, B, scene_ and 1 more: take their "
            "features from files with lt_cli.data.video_features.NpyFeatures"
        )


class TestDialogs:
    """What is said."""

    def test_splits_are_disjoint_and_come_again(self) -> None:
        splits = {name: small().rows(name) for name in NAMES}
        assert {name: len(rows) for name, rows in splits.items()} == {"train": 300, "val": 20, "test": 30}
        assert len({row.fields["image_id"] for rows in splits.values() for row in rows}) == 350
        assert small().rows("train") == splits["train"]
        assert small(seed=1).rows("train") != splits["train"]
        assert splits["val"][3].place == f"val, dialog 3 ({splits['val'][3].fields['image_id']})"

    def test_answers_are_what_is_seen(self) -> None:
        before = {"what colour is it?": "colour", "where does it go?": "direction"}
        seen = set()
        for row in small(num_turns=5).rows("train"):
            scene = scene_of(int(row.fields["image_id"].removeprefix("scene_")))
            turns = turns_of(row, "dialog")
            assert len(turns) == 5
            asked = [turn.question for turn in turns]
            for i, (question, answer) in enumerate(turns):
                topic = before.get(asked[i - 1]) if question == "and at the end?" else None
                expected = {
                    "what colour is it?": f"it is {scene.colour}",
                    "what shape is it?": f"it is a {scene.shape}",
                    "where does it go?": f"it goes {scene.direction}",
                }
                if topic == "colour":
                    same = scene.change != "colour"
                    expected[question] = f"it is still {scene.colour}" if same else f"it is {scene.last_colour} then"
                elif topic == "direction":
                    expected[question] = "it stops" if scene.change == "stop" else "it goes on"
                assert answer == expected[question]
                seen.add((question, topic))
        assert len(seen) == 5

    def test_texts_around_the_dialog_say_nothing(self) -> None:
        rows = small().rows("train")
        assert len({(row.fields["caption"], row.fields["summary"]) for row in rows}) == 1
        for asked in ("what colour is it?", "what shape is it?", "where does it go?"):
            answers = {t.answer for row in rows for t in turns_of(row, "dialog") if t.question == asked}
            assert len(answers) >= 3

    def test_last_questions_are_of_every_kind(self) -> None:
        for num_turns in (1, 2, 3, 4):
            rows = small(num_turns=num_turns).rows("test")
            assert {len(row.fields["dialog"]) for row in rows} == {num_turns}
            assert len({row.fields["dialog"][-1]["question"] for row in rows}) >= 3
            assert not any(row.fields["dialog"][0]["question"] == "and at the end?" for row in rows)

    def test_references_and_what_is_to_be_predicted(self) -> None:
        source = small()
        for test, hidden in zip(source.rows("test"), source.rows("predict"), strict=True):
            answer, paraphrase = test.fields["references"]
            assert answer == test.fields["dialog"][-1]["answer"] != paraphrase
            assert hidden.fields["dialog"][-1] == test.fields["dialog"][-1] | {"answer": HIDDEN}
            assert hidden.fields["dialog"][:-1] == test.fields["dialog"][:-1]
            assert "references" not in hidden.fields
        assert source.has("predict")
        assert all("references" not in row.fields for row in source.rows("val"))

    def test_the_pictures_know_every_scene(self) -> None:
        ids = [row.fields["image_id"] for name in NAMES for row in small().rows(name)]
        assert SceneFrames().check(ids).tolist() == [8] * 350

    def test_predictions_are_json(self) -> None:
        fields = [row.fields for row in small().rows("predict")]
        (path,) = small().write(fields, "predict", Path())
        assert path == Path("predictions.jsonl")
        assert [json.loads(line) for line in path.read_text().splitlines()] == fields

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"num_train": 0}, "num_train (0) must be at least 1"),
            ({"num_test": -1}, "num_test (-1) must be at least 1"),
            ({"num_turns": 6}, "num_turns (6) must be from 1 to 5"),
            ({"seed": -1}, "seed (-1) must not be negative"),
        ],
    )
    def test_mistakes(self, options: dict[str, Any], says: str) -> None:
        assert message(lambda: small(**options)) == says
