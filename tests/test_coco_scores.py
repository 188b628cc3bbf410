"""Scores of written answers: COCO's own numbers, and the same ones under any sharing out of rows."""

import json
import math
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import distributed, multiprocessing

from lt_cli.coco_scores import CocoScores, words
from lt_cli.errors import UserError

Row = tuple[str, list[str]]

ROWS: list[Row] = [
    ("A man walks into the kitchen.", ["A man walks into the kitchen."]),
    ("the the the cat", ["There is the cat on the mat, the big mat.", "the cat"]),
    ("", ["He is holding a cup."]),
    ("Müller trinkt Käse im Café", ["Müller isst den Käse im Café!", "Sie trinkt Tee"]),
    ("No, he doesn't. He can't see her", ["No, he does not", "He didn't, she can't see him.", "no"]),
    ("yes", ["Yes, she walks out of the room"]),
    ("She is holding a red cup and she is laughing", ["She is laughing and is holding a cup", "a red cup"]),
    ("two dogs run", ["nothing in here fits"]),
    ("He walks out of the room again and again and again", ["He walks out again", "He leaves the room again"]),
    ("I do not hear any music.", ["There isn't any music", "I hear no music or talking", "no, no music"]),
    ("the video is 30 seconds long", ["It's about 30 seconds long - 31, to be exact"]),
    ("猫 は 部屋 に いる", ["猫 は 部屋 に いない", "犬 は いる"]),
    ("A man and a woman are in the living room (I think)", ["A woman and a man are in a living room"]),
]
ONE_EACH = [(prediction, accepted[:1]) for prediction, accepted in ROWS]


def scores(rows: Sequence[Row], numbers: Sequence[int] | None = None, synonyms: bool = False) -> dict[str, float]:
    metric = fed(rows, range(len(rows)) if numbers is None else numbers, synonyms=synonyms)
    return {name: value.item() for name, value in metric.compute().items()}


def fed(rows: Sequence[Row], numbers: Sequence[int], batch_size: int = 5, synonyms: bool = False) -> CocoScores:
    metric = CocoScores(synonyms)
    for first in range(0, len(rows), batch_size):
        batch = rows[first : first + batch_size]
        metric.update(
            [prediction for prediction, _ in batch],
            [accepted for _, accepted in batch],
            torch.tensor(numbers[first : first + batch_size]),
        )
    return metric


def made(count: int, vocabulary: str = "a b c d e f g h") -> list[Row]:
    rng = random.Random(0)

    def text() -> str:
        return " ".join(rng.choices(vocabulary.split(), k=rng.randint(0, 9)))

    return [(text(), [text() for _ in range(rng.randint(1, 4))]) for _ in range(count)]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        pytest.param(
            ONE_EACH,
            {
                **{"bleu1": 0.5707376546861599, "bleu2": 0.4642889277197933},
                **{"bleu3": 0.35079719061609105, "bleu4": 0.24444937930312105},
                **{"rougeL": 0.4699001942231261, "cider": 2.657726282294299},
            },
            id="one reference",
        ),
        pytest.param(
            ROWS,
            {
                **{"bleu1": 0.7192910601029129, "bleu2": 0.5834802546885662},
                **{"bleu3": 0.44374872988358033, "bleu4": 0.2934026564847607},
                **{"rougeL": 0.5477328037229588, "cider": 2.2594513325520373},
            },
            id="several references",
        ),
    ],
)
def test_golden_scores(rows: list[Row], expected: dict[str, float]) -> None:
    """Of pycocoevalcap 1.2: its PTBTokenizer (Java) on these texts, then its Bleu(4), Rouge and Cider."""
    values = scores(rows)
    del values["meteor"]
    assert values == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("He walks out. Then he sits down.", "he walks out then he sits down"),
        ("Wait... what?! No!!! yes?", "wait what ?! no !!! yes"),
        ("I don't know, she's John's; they'll cannot", "i do n't know she 's john 's they 'll can not"),
        ("a well-known man - 3.5 feet -- left", "a well-known man 3.5 feet left"),
        ('“Yes” he said, ‘it’s red’ – "ok"', "yes he said it 's red ok"),
        ("It was (maybe) [a] dog.", "it was -lrb- maybe -rrb- -lsb- a -rsb- dog"),
        ("Mr. Smith at 5 p.m. in the U.S. etc.", "mr. smith at 5 p.m. in the u.s. etc."),
        ("and/or this / that* a+b, 50% of $20", "and/or this / that * a + b 50 % of $ 20"),
        ("1,000 at 10:30, no:yes", "1,000 at 10:30 no yes"),
        ("She is gonna leave .Now", "she is gon na leave now"),
        ("I am taller than I.", "i am taller than i."),
        ("Über 日本語 naïve", "über 日本語 naïve"),
        ("...", ""),
        ("", ""),
    ],
)
def test_words_are_those_of_coco(text: str, expected: str) -> None:
    """Stanford's tokenizer gave them, as pycocoevalcap 1.2 calls it."""
    assert " ".join(words(text)) == expected


def plain_cider(rows: list[Row]) -> float:
    """By the formulas of the paper, section 8, over vectors of all runs of words."""

    def runs(text: str, n: int) -> list[str]:
        tokens = text.split()
        return [" ".join(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]

    total = 0.0
    for n in (1, 2, 3, 4):
        every = sorted(
            {run for prediction, accepted in rows for text in [prediction, *accepted] for run in runs(text, n)}
        )
        with_it = [sum(any(run in runs(text, n) for text in accepted) for _, accepted in rows) for run in every]
        inverse = [math.log(len(rows)) - math.log(max(1, number)) for number in with_it]

        def vector(text: str, n: int = n, every: list[str] = every, inverse: list[float] = inverse) -> list[float]:
            return [runs(text, n).count(run) * weight for run, weight in zip(every, inverse, strict=True)]

        for prediction, accepted in rows:
            for reference in accepted:
                mine, wanted = vector(prediction), vector(reference)
                lengths = math.sqrt(sum(x * x for x in mine)) * math.sqrt(sum(x * x for x in wanted))
                if lengths > 0:
                    cosine = sum(min(x, y) * y for x, y in zip(mine, wanted, strict=True)) / lengths
                    difference = len(prediction.split()) - len(reference.split())
                    total += 10 * math.exp(-(difference**2) / 72) * cosine / len(accepted) / 4
    return total / len(rows)


def test_cider_is_that_of_a_plain_loop() -> None:
    rows = made(25)
    assert scores(rows)["cider"] == pytest.approx(plain_cider(rows), abs=1e-6)


def plain_meteor(prediction: list[str], reference: list[str]) -> float:
    """By the formula, where no word comes twice, so that there is one way only to pair them."""
    places = [reference.index(word) if word in reference else None for word in prediction]
    matches = sum(place is not None for place in places)
    if matches == 0:
        return 0.0
    chunks = sum(
        place is not None and (i == 0 or places[i - 1] is None or places[i - 1] != place - 1)
        for i, place in enumerate(places)
    )
    precision, recall = matches / len(prediction), matches / len(reference)
    return 10 * precision * recall / (recall + 9 * precision) * (1 - 0.5 * (chunks / matches) ** 3)


def test_meteor_is_the_formula_with_the_best_reference() -> None:
    rng = random.Random(0)
    vocabulary = ["cat", "dog", "red", "blue", "sun", "moon", "tree", "car", "hat", "cup"]

    def text() -> list[str]:
        return rng.sample(vocabulary, rng.randint(1, 8))

    rows = [(text(), [text() for _ in range(rng.randint(1, 3))]) for _ in range(40)]
    best = [max(plain_meteor(prediction, reference) for reference in accepted) for prediction, accepted in rows]
    joined = [(" ".join(prediction), [" ".join(text) for text in accepted]) for prediction, accepted in rows]
    assert scores(joined)["meteor"] == pytest.approx(sum(best) / len(best), abs=1e-6)


GUIDE = "It is a guide to action which ensures that the military always obeys the commands of the party"
GUIDES = [
    "It is a guide to action that ensures that the military will forever heed Party commands",
    "It is the guiding principle which guarantees the military forces always being under the command of the Party",
    "It is the practical guide for the army always to heed the directions of the party",
]


@pytest.mark.parametrize("accepted", [GUIDES[:1], GUIDES])
def test_meteor_of_the_example_in_nltks_documentation(accepted: list[str]) -> None:
    assert scores([(GUIDE, accepted)])["meteor"] == pytest.approx(0.6944, abs=5e-5)


def test_meteor_takes_words_of_one_stem_for_equal() -> None:
    same = scores([("she walked dogs", ["she walked dogs"])])["meteor"]
    assert scores([("she walked dogs", ["she walks dog"])])["meteor"] == same > 0.9
    assert scores([("she walked dogs", ["she runs dog"])])["meteor"] < same


def test_synonyms_are_those_of_wordnet(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny one stands in for it, for WordNet is a download."""
    names = [SimpleNamespace(name=lambda: "sofa"), SimpleNamespace(name=lambda: "couch")]
    meanings = {"sofa": [SimpleNamespace(lemmas=lambda: names)]}
    net = SimpleNamespace(ensure_loaded=lambda: None, synsets=lambda word: meanings.get(word, []))
    monkeypatch.setattr("nltk.corpus.wordnet", net)
    row = ("a red sofa", ["a red couch"])
    assert scores([row], synonyms=True)["meteor"] == scores([("a red sofa", ["a red sofa"])])["meteor"]
    assert scores([row])["meteor"] < scores([row], synonyms=True)["meteor"]


def test_synonyms_without_wordnet_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise LookupError("Resource wordnet not found.")

    monkeypatch.setattr("nltk.corpus.wordnet", SimpleNamespace(ensure_loaded=missing))
    with pytest.raises(UserError, match=r"synonyms .* `python -m nltk\.downloader wordnet` once"):
        CocoScores(synonyms=True)


def test_equal_texts_have_the_highest_scores_and_a_single_row_no_cider() -> None:
    texts = ["a man walks into the kitchen", "she is holding two red cups", "yes he does laugh out loud"]
    values = scores([(text, [text]) for text in texts])
    best = {**dict.fromkeys(("bleu1", "bleu2", "bleu3", "bleu4", "rougeL"), 1.0), "cider": 10.0}
    assert values == pytest.approx({**best, "meteor": values["meteor"]}, abs=1e-5)
    assert values["meteor"] > 0.99
    alone = scores([(texts[0], texts[:1])])
    assert alone == pytest.approx({**values, "cider": 0.0, "meteor": alone["meteor"]})


def test_one_reference_may_be_a_plain_text_and_none_is_refused() -> None:
    metric = CocoScores()
    metric.update([text for text, _ in ONE_EACH], [text for _, [text] in ONE_EACH], torch.arange(len(ONE_EACH)))
    assert {name: value.item() for name, value in metric.compute().items()} == scores(ONE_EACH)
    with pytest.raises(UserError, match="row 7 has no reference to score the text 'dog'"):
        metric.update(["dog"], [[]], torch.tensor([7]))
    with pytest.raises(ValueError, match="shorter"):
        metric.update(["dog"], ["dog"], torch.tensor([1, 2]))


def test_nothing_to_score_is_zero_and_a_reset_forgets() -> None:
    metric = CocoScores()
    metric.update([], [], torch.zeros(0, dtype=torch.int64))
    names = ["bleu1", "bleu2", "bleu3", "bleu4", "meteor", "rougeL", "cider"]
    assert metric.compute() == dict.fromkeys(names, torch.tensor(0.0))
    assert set(scores([("", ["dog"]), ("cat", ["?"])]).values()) == {0.0}
    metric = fed(ROWS, range(len(ROWS)))
    metric.reset()
    assert metric.compute() == dict.fromkeys(names, torch.tensor(0.0))


def test_bleu_is_zero_where_no_run_of_words_is_right() -> None:
    values = scores([("a red cup of tea", ["a blue cup of milk"])])
    assert values["bleu1"] == pytest.approx(3 / 5)
    assert values["bleu2"] == pytest.approx(math.sqrt(3 / 5 * 1 / 4))
    assert values["bleu3"] == values["bleu4"] == 0.0


def test_two_texts_without_words_are_equal_for_rouge_alone() -> None:
    """As in pycocoevalcap 1.2."""
    values = scores([("...", ["?"]), ("cat", ["dog"])])
    assert values == {**dict.fromkeys(values, 0.0), "rougeL": 0.5}


def test_texts_with_line_breaks_and_odd_characters_are_one_row() -> None:
    plain, odd = ("a red cup", ["a red hat", "a cup"]), ("a\r\nred\x85cup", ["a\nred\u2028hat", "a\tcup"])
    assert scores([odd, *ROWS]) == scores([plain, *ROWS])
    scores([("\ud800 half a character", ['"quoted" \\ text \x00'])])


@pytest.fixture
def _doubles() -> Iterator[None]:
    """All digits of the scores, of which a float has half."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("_doubles")
@pytest.mark.parametrize("shares", [2, 3])
def test_any_sharing_out_of_rows_gives_the_same_bits(shares: int) -> None:
    rows = [*ROWS, *made(20)]
    whole = fed(rows, range(len(rows))).compute()
    rng = random.Random(shares)
    order = rng.sample(range(len(rows)), len(rows))
    parts = [fed([rows[i] for i in order[j::shares]], order[j::shares]) for j in range(shares)]
    for part in parts[1:]:
        parts[0].merge_state(part)
    assert parts[0].compute() == whole
    assert fed(rows, range(len(rows)), batch_size=1).compute() == whole


def test_a_row_that_comes_twice_counts_twice() -> None:
    twice = [*ROWS, ROWS[0]]
    numbers = list(range(len(ROWS)))
    assert scores(twice, [*numbers, 0]) == pytest.approx(scores(twice, [*numbers, 99]), abs=1e-6)
    assert scores(twice, [*numbers, 0]) != scores(ROWS)
    assert scores(twice[::-1], [0, *numbers[::-1]]) == scores(twice, [*numbers, 0])


SHARES = [(9, 4), (4, 9), (13, 0), (0, 13), (0, 0)]
"""How many rows either process has."""


def score_in_group(rank: int, directory: str) -> None:
    """One of two processes, with the first rows or the next ones."""
    distributed.init_process_group("gloo", init_method=f"file://{directory}/meeting", rank=rank, world_size=2)
    values = []
    for share in SHARES:
        first = rank * share[0]
        metric = fed(ROWS[first : first + share[rank]], range(first, first + share[rank]))
        values.append({name: value.item() for name, value in metric.compute().items()})
    Path(directory, f"{rank}.json").write_text(json.dumps(values))
    distributed.destroy_process_group()


def test_two_processes_give_exactly_the_scores_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    multiprocessing.spawn(score_in_group, (str(tmp_path),), nprocs=2)
    expected = [*[scores(ROWS)] * 4, dict.fromkeys(scores(ROWS), 0.0)]
    for rank in (0, 1):
        assert json.loads(Path(tmp_path, f"{rank}.json").read_text()) == expected
