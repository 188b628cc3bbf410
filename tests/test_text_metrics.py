"""Metrics of strings: their values, and the same ones under any sharing out of rows."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import sacrebleu
import torch
from rouge_score.rouge_scorer import RougeScorer
from torchmetrics import Metric, MetricCollection

from lt_cli.answers import answer_f1, exact_match
from lt_cli.errors import UserError
from lt_cli.metrics import spearman
from lt_cli.text_metrics import AnswerScores, GenerationScores, SpanScores, TokenAccuracy

WORDS = ["The", "cats", "were", "running", "quickly", "over", "3", "hills,", "the", "dogs'", "barking_noise", "on."]


def sentence(rng: random.Random, shortest: int = 0) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(shortest, 12)))


def rows_of_labels(rng: random.Random) -> tuple[list[str], list[str]]:
    tags = ["O", "B-A", "I-A", "B-B", "I-B", "I-unknown"]
    target = rng.choices(tags, k=rng.randint(0, 9))
    return [label if rng.random() < 0.7 else rng.choice(tags) for label in target], target


def rows_of_answers(rng: random.Random) -> tuple[str, list[str]]:
    return sentence(rng)[: rng.randint(0, 20)], [sentence(rng)[:12] for _ in range(rng.randint(0, 2))]


def rows_of_texts(rng: random.Random) -> tuple[str, str]:
    return sentence(rng), sentence(rng, 1)


Rows = Callable[[random.Random], tuple[Any, Any]]
CASES: dict[str, tuple[Callable[[], Metric], Rows]] = {
    "spans": (lambda: SpanScores(["A", "B"]), rows_of_labels),
    "tokens": (TokenAccuracy, rows_of_labels),
    "answers": (AnswerScores, rows_of_answers),
    "texts": (GenerationScores, rows_of_texts),
}


def made(rows: Rows, count: int = 40) -> list[tuple[Any, Any]]:
    rng = random.Random(0)
    return [rows(rng) for _ in range(count)]


def fed(metric: Metric, rows: list[tuple[Any, Any]], batch_size: int = 7) -> Metric:
    for first in range(0, len(rows), batch_size):
        metric.update(*map(list, zip(*rows[first : first + batch_size], strict=True)))
    return metric


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("shares", [2, 3])
def test_any_sharing_out_of_rows_gives_the_same_bits(case: str, shares: int) -> None:
    make, rows = CASES[case]
    every = made(rows)
    whole = fed(make(), every).compute()
    rng = random.Random(shares)
    owners = [rng.randrange(shares) for _ in every]
    parts = [fed(make(), [row for row, owner in zip(every, owners, strict=True) if owner == i]) for i in range(shares)]
    for part in parts[1:]:
        parts[0].merge_state(part)
    assert parts[0].compute() == whole
    assert fed(make(), every, batch_size=1).compute() == whole


@pytest.mark.parametrize("case", CASES)
def test_nothing_to_score_is_zero_and_a_reset_forgets(case: str) -> None:
    make, rows = CASES[case]
    empty = make().compute()
    assert {value.item() for value in (empty.values() if isinstance(empty, dict) else [empty])} == {0.0}
    metric = fed(make(), made(rows))
    metric.reset()
    assert metric.compute() == empty


def test_spearman_needs_all_rows_and_gets_them() -> None:
    generator = torch.Generator().manual_seed(0)
    scores, values = torch.randn(40, generator=generator), torch.randint(0, 5, (40,), generator=generator).float()
    whole, first, second = (spearman(1) for _ in range(3))
    whole.update(scores, values)
    first.update(scores[:13], values[:13])
    second.update(scores[13:], values[13:])
    first.merge_state(second)
    torch.testing.assert_close(first.compute(), whole.compute())


def test_the_table_of_types_is_of_all_processes() -> None:
    """The gathering of two processes' states stands in for them."""
    every = made(rows_of_labels)
    whole, first, second = (SpanScores(["A", "B"]) for _ in range(3))
    for metric, rows in ((whole, every), (first, every[:13]), (second, every[13:])):
        fed(metric, rows)
    own = first.sums.tolist()
    first.dist_sync_fn = lambda tensor, group: [tensor, second.sums]
    first.distributed_available_fn = lambda: True
    assert first.counts_by_type().tolist() == whole.counts_by_type().tolist() != own
    assert first.sums.tolist() == own
    assert first.compute() == whole.compute()


PREDICTED = ["I-A I-A O B-B", "B-A B-A I-B O", "O O", "I-C B-C O"]
TARGET = ["B-A I-A O B-B", "B-A I-A B-B O", "O B-C", "B-A I-A O"]


@pytest.mark.parametrize("types", [["A", "B", "C"], ["A", "B"], []])
def test_golden_span_scores(types: list[str]) -> None:
    """Computed with seqeval 1.2.2; types that training data has not are counted as well."""
    metric = SpanScores(types)
    metric.update([row.split() for row in PREDICTED], [row.split() for row in TARGET])
    values = {name: value.item() for name, value in metric.compute().items()}
    assert values == pytest.approx({"span_precision": 3 / 7, "span_recall": 3 / 6, "span_f1": 6 / 13})
    by_type = [[1, 3, 3], [2, 2, 2], [0, 2, 1]]
    counts = metric.counts_by_type()
    assert counts[: len(types)].tolist() == by_type[: len(types)]
    others = [sum(column) for column in zip(*by_type[len(types) :], strict=True)] or [0, 0, 0]
    assert counts[-1].tolist() == others


def test_labels_of_another_length_are_no_prediction() -> None:
    for metric in (SpanScores(["A"]), TokenAccuracy()):
        with pytest.raises(ValueError, match=r"predicted|longer|shorter"):
            metric.update([["O"]], [["O", "B-A"]])


def test_token_accuracy_is_of_tokens_and_not_of_rows() -> None:
    metric = TokenAccuracy()
    metric.update([["A", "B", "C"], ["A"]], [["A", "B", "X"], ["X"]])
    assert metric.compute().item() == 0.5


def test_spans_and_tokens_take_the_same_rows() -> None:
    both = MetricCollection({"spans": SpanScores(["A"]), "token_accuracy": TokenAccuracy()}, prefix="val/")
    both.update([["B-A", "O"]], [["B-A", "B-A"]])
    assert set(both.compute()) == {"val/span_precision", "val/span_recall", "val/span_f1", "val/token_accuracy"}


def test_answer_scores_are_means_over_questions() -> None:
    every = made(rows_of_answers, 60)
    values = {name: value.item() for name, value in fed(AnswerScores(), every).compute().items()}

    def mean(score: Callable[..., float], rows: list[tuple[str, list[str]]]) -> float:
        return sum(score(*row) for row in rows) / len(rows)

    answerable = [row for row in every if row[1]]
    unanswerable = [row for row in every if not row[1]]
    expected = {
        "exact_match": mean(exact_match, every),
        "f1": mean(answer_f1, every),
        "has_answer_exact_match": mean(exact_match, answerable),
        "has_answer_f1": mean(answer_f1, answerable),
        "no_answer_exact_match": mean(exact_match, unanswerable),
    }
    assert values == pytest.approx(expected, abs=1e-6)
    assert set(fed(AnswerScores(), answerable).compute()) == {"exact_match", "f1"}


def test_generation_scores_are_those_of_rouge_score_and_sacrebleu() -> None:
    rng = random.Random(1)
    predictions = [sentence(rng) for _ in range(50)]
    references = [[sentence(rng, 1), sentence(rng, 1)] for _ in range(50)]
    metric = fed(GenerationScores(), list(zip(predictions, references, strict=True)))
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    rows = [scorer.score_multi(accepted, text) for text, accepted in zip(predictions, references, strict=True)]
    expected = {name: sum(row[name].fmeasure for row in rows) / 50 for name in ("rouge1", "rouge2", "rougeL")}
    corpus = sacrebleu.corpus_bleu(predictions, [list(column) for column in zip(*references, strict=True)])
    values = {name: value.item() for name, value in metric.compute().items()}
    assert values == pytest.approx(expected | {"bleu": corpus.score / 100}, abs=1e-6)


def test_one_reference_may_be_a_plain_text_and_none_is_refused() -> None:
    metric = GenerationScores()
    metric.update(["the cat sat on the mat"], ["the cat sat on the mat"])
    assert {name: round(value.item(), 6) for name, value in metric.compute().items()} == {
        **dict.fromkeys(("rouge1", "rouge2", "rougeL", "bleu"), 1.0)
    }
    with pytest.raises(UserError, match="no reference to score the text 'dog'"):
        metric.update(["dog"], [[]])


@pytest.mark.parametrize("text", ["мы идём домой", "öfter über Flüsse", "हम घर जा रहे हैं"])
def test_rouge_reads_every_alphabet(text: str) -> None:
    metric = GenerationScores()
    metric.update([text, text], [text, "x " + text.split()[0]])
    assert metric.compute()["rouge1"].item() > 0.6


def test_bleu_in_chinese_needs_its_own_words() -> None:
    values = {}
    for tokenize in ("13a", "zh"):
        metric = GenerationScores(tokenize)
        metric.update(["我们走到山上去吧"], ["我们走到山上去了"])
        values[tokenize] = metric.compute()["bleu"].item()
    assert values["13a"] == 0.0
    assert values["zh"] > 0.8
