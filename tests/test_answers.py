"""SQuAD's scores, against torchmetrics and the official rules."""

import random

import pytest
from torchmetrics.functional.text import squad

from lt_cli.answers import answer_f1, exact_match, normalize_answer

WORDS = ["the", "a", "An", "cat", "dog", "Dog!", "U.S.", "’s", "é", "--", "the-cat", "b", "2"]


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  U.S. Army", "us army"),
        ("a theme, an ant", "theme ant"),
        ("the", ""),
        (" \t", ""),
        ("the-cat", "thecat"),
        ("l’été", "l’été"),
    ],
)
def test_normalisation(text: str, normal: str) -> None:
    assert normalize_answer(text) == normal


def test_answerable_questions_are_torchmetrics() -> None:
    """Which follows SQuAD's first version: texts of which nothing is left differ there."""
    rng = random.Random(0)
    for _ in range(500):
        prediction, *answers = ("x " * rng.randint(0, 1) + " ".join(rng.choices(WORDS, k=4)) for _ in range(4))
        if not all(map(normalize_answer, [prediction, *answers])):
            continue
        theirs = squad(
            {"prediction_text": prediction, "id": "0"},
            {"answers": {"answer_start": [0] * 3, "text": answers}, "id": "0"},
        )
        assert 100 * exact_match(prediction, answers) == pytest.approx(theirs["exact_match"].item())
        assert 100 * answer_f1(prediction, answers) == pytest.approx(theirs["f1"].item(), abs=1e-4)


@pytest.mark.parametrize(
    ("prediction", "answers", "exact", "f1"),
    [
        ("", [], 1.0, 1.0),
        ("the", [], 1.0, 1.0),
        ("cat", [], 0.0, 0.0),
        ("", ["cat"], 0.0, 0.0),
        ("the", ["a"], 1.0, 1.0),
        ("", ["the", "cat"], 0.0, 0.0),
        ("a big cat", ["cat", "big dogs"], 0.0, 2 / 3),
        ("cat cat dog", ["cat dog dog"], 0.0, 2 / 3),
        ("The Cat.", ["dog", "cat"], 1.0, 1.0),
    ],
)
def test_golden_answers(prediction: str, answers: list[str], exact: float, f1: float) -> None:
    """As the second version's official script has them; computed with transformers 4.57's squad_metrics."""
    assert exact_match(prediction, answers) == exact
    assert answer_f1(prediction, answers) == pytest.approx(f1)
