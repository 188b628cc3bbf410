"""Answers to questions as SQuAD scores them (Rajpurkar et al. 2016, 2018, https://arxiv.org/abs/1806.03822)."""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    """A text in lower case, without ASCII's punctuation, English articles and superfluous spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_WITHOUT_PUNCTUATION)).split())


def _best(score: Callable[[str, str], float], prediction: str, answers: Sequence[str]) -> float:
    """The best score among the answers; those that normalise to nothing count only where there is no other."""
    wanted = [answer for answer in map(normalize_answer, answers) if answer] or [""]
    given = normalize_answer(prediction)
    return max(score(given, answer) for answer in wanted)


def _overlap(given: str, wanted: str) -> float:
    """Harmonic mean of precision and recall over words, as a bag."""
    given_words, wanted_words = given.split(), wanted.split()
    if not given_words or not wanted_words:
        return float(given_words == wanted_words)
    shared = (Counter(given_words) & Counter(wanted_words)).total()
    return 2 * shared / (len(given_words) + len(wanted_words))


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1 where the prediction is one of the answers after normalisation, otherwise 0.

    A question without answers is unanswerable, and right only where nothing is left of the prediction.
    """
    return _best(lambda given, wanted: float(given == wanted), prediction, answers)


def answer_f1(prediction: str, answers: Sequence[str]) -> float:
    """F1 of the prediction's words, after normalisation, against the answer that fits best; see ``exact_match``."""
    return _best(_overlap, prediction, answers)
