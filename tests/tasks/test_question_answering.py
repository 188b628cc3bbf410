"""Question answering against slow loops over all spans, and what it says of questions without an answer."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from toys import Questions, message, pixel_data, ready, trainer

from lt_cli.answers import answer_f1, exact_match
from lt_cli.backbones.base import EncoderBackbone
from lt_cli.backbones.encoder import Encoder
from lt_cli.data.questions import QuestionData
from lt_cli.data.tokenizers import ByteTokenizer
from lt_cli.tasks.answer_report import AnswerReport
from lt_cli.tasks.answer_spans import best_spans, best_threshold, least
from lt_cli.tasks.question_answering import QuestionAnswering

NEVER = float("-inf")


class Fixed(EncoderBackbone):
    """Features that depend on the token and its place only, and are as good as random."""

    vocab_size, max_seq_len, num_segments, embed_dim = 258, 32, 0, 6

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Parameter(torch.randn(258, 6))
        self.places = torch.nn.Parameter(torch.randn(32, 6))

    def forward(
        self, input_ids: Tensor, *, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> Tensor:
        return self.table[input_ids] + self.places[: input_ids.shape[1]]


def question_data(**options: Any) -> QuestionData:
    source = Questions(**options)
    data = QuestionData(source=source, tokenizer=ByteTokenizer(), max_seq_len=32, stride=8, max_question_len=6)
    data.prepare_data()
    for stage in ("fit", "test", "predict"):
        data.setup(stage)
    return data


def task_on(data: QuestionData, **options: Any) -> QuestionAnswering:
    torch.manual_seed(1)
    task = QuestionAnswering(backbone=Fixed(), dropout=0.0, **options)
    task.attach(data)
    torch.nn.init.normal_(task.head.weight)
    return task.eval()


def slow_best(starts: Tensor, ends: Tensor, windows: Sequence[int], max_len: int) -> tuple[float, int, int, int]:
    """The definition: every span of every window."""
    best = (NEVER, -1, -1, -1)
    for window in windows:
        for first in range(starts.shape[1]):
            for last in range(first, min(first + max_len, starts.shape[1])):
                score = (starts[window, first] + ends[window, last]).item()
                if score > best[0]:
                    best = (score, window, first, last)
    return best


@pytest.mark.parametrize("max_len", [1, 2, 7, 100])
@pytest.mark.parametrize("seed", range(5))
def test_best_spans_are_those_of_a_slow_loop(seed: int, max_len: int) -> None:
    torch.manual_seed(seed)
    row = torch.tensor([0, 0, 0, 1, 2, 2])
    starts, ends = torch.randn(2, 6, 25)
    starts[torch.rand(6, 25) < 0.3], ends[torch.rand(6, 25) < 0.3] = NEVER, NEVER
    starts[1] = NEVER
    best = best_spans(starts, ends, row, num_rows=3, max_len=max_len)
    for i in range(3):
        windows = (row == i).nonzero().flatten().tolist()
        found = tuple(part[i].item() for part in best)
        assert found == slow_best(starts, ends, windows, max_len)
    assert least(starts[:, 5].nan_to_num(neginf=-9.0), row, 3).tolist() == [
        min(starts[w, 5].nan_to_num(neginf=-9.0).item() for w in range(6) if row[w] == i) for i in range(3)
    ]


def test_the_first_of_equal_spans() -> None:
    """So that no order of rows or windows on a device changes a prediction."""
    best = best_spans(torch.zeros(4, 5), torch.zeros(4, 5), torch.tensor([0, 0, 1, 1]), num_rows=2, max_len=3)
    assert [part.tolist() for part in best] == [[0, 0], [0, 2], [0, 0], [0, 0]]


def test_broken_scores_break_no_index() -> None:
    scores = torch.full((2, 4), float("nan"))
    best = best_spans(scores, scores, torch.tensor([0, 0]), num_rows=1, max_len=2)
    assert best.windows.tolist() == [0]


def test_loss_is_the_mean_of_two_cross_entropies() -> None:
    """Over the first token and the context's, a window at a time."""
    data = question_data()
    task = task_on(data)
    for split, stage in (("train", "train"), ("val", "val")):
        batch = data.splits[split].batch(range(5), 0)
        scores = task.head(task.backbone(batch["input_ids"]))
        losses = []
        for i in range(len(scores)):
            inside = [0, *(batch["spans"][i, :, 1] > 0).nonzero().flatten().tolist()]
            for end, name in enumerate(("start_positions", "end_positions")):
                target = torch.tensor(inside.index(int(batch[name][i])))
                losses.append(F.cross_entropy(scores[i, inside, end], target).item())
        outputs = task.step(batch, stage)
        assert outputs["loss"].item() == pytest.approx(np.mean(losses), rel=1e-5)
        assert outputs["weight"] == len(scores)


@pytest.mark.parametrize("threshold", [None, -1.0, 0.5])
def test_predictions_are_those_of_a_slow_loop(threshold: float | None) -> None:
    data = question_data(num_test=40)
    task = task_on(data, no_answer_threshold=threshold, max_answer_len=6, probabilities=True)
    split = data.splits["predict"]
    batch = split.batch(range(len(split)), 0)
    direction = task.head.weight.sum(0)  # the first token, so that it wins in half of the questions
    margins = task.decode(*task.scores(batch), batch)[1]
    task.backbone.places.data[0] -= margins.median() * direction / direction.square().sum()
    predicted = task.predict_step(batch, 0)
    scores = task.head(task.backbone(batch["input_ids"])).detach()
    inside = batch["spans"][..., 1] > batch["spans"][..., 0]
    starts, ends = scores.masked_fill(~inside[..., None], NEVER).unbind(-1)
    tokens = [[0, *row.nonzero().flatten().tolist()] for row in inside]
    for i in range(len(split)):
        windows = (batch["row"] == i).nonzero().flatten().tolist()
        score, window, first, last = slow_best(starts, ends, windows, 6)
        margin = min(scores[w, 0].sum().item() for w in windows) - score
        chosen = {w: scores[w, tokens[w]].softmax(0) for w in windows}
        if margin > (threshold or 0.0):
            found = ("", None, None)
            likely = min(chosen[w][0].prod().item() for w in windows)
        else:
            begin, end = int(batch["spans"][window, first, 0]), int(batch["spans"][window, last, 1])
            found = (batch["context"][i][begin:end], begin, end)
            places = [tokens[window].index(place) for place in (first, last)]
            likely = (chosen[window][places[0], 0] * chosen[window][places[1], 1]).item()
        assert tuple(predicted[name][i] for name in ("answer", "answer_start", "answer_end")) == found
        assert predicted["probability"][i] == pytest.approx(likely, abs=2e-6)
    answered = sum(map(bool, predicted["answer"]))
    assert 0 < answered < len(split), "of both kinds"


def test_without_unanswerable_questions_all_are_answered() -> None:
    data = question_data(unanswerable=0)
    task = task_on(data)
    task.backbone.table.data[256] = 100 * task.head.weight.sum(0).sign()
    split = data.splits["predict"]
    predicted = task.predict_step(split.batch(range(len(split)), 0), 0)
    for answer, start, end, row in zip(
        *(predicted[name] for name in ("answer", "answer_start", "answer_end")), data.rows["predict"], strict=True
    ):
        assert answer == row.fields["context"][start:end] != ""


def test_scores_are_of_texts() -> None:
    """As a slow loop over predictions and answers has them, in validation and in test."""
    data = question_data(num_test=30)
    task = task_on(data)
    for split, method in (("val", "validate"), ("test", "test")):
        run = trainer()
        task._has_trained_weights = True
        scores = getattr(run, method)(task, data, verbose=False)[0]
        rows = data._split_rows(split)
        accepted = [row.fields["answers"]["text"] for row in rows]
        examples = data.examples(rows, "predict")
        predicted = task.predict_step(examples.batch(range(len(rows)), 0), 0)["answer"]
        pairs = list(zip(predicted, accepted, strict=True))
        assert scores[f"{split}/f1"] == pytest.approx(np.mean([answer_f1(*pair) for pair in pairs]))
        assert scores[f"{split}/exact_match"] == pytest.approx(np.mean([exact_match(*pair) for pair in pairs]))
        with_answer = [answer_f1(*pair) for pair in pairs if pair[1]]
        assert scores[f"{split}/has_answer_f1"] == pytest.approx(np.mean(with_answer))
        assert scores[f"{split}/no_answer_exact_match"] == pytest.approx(
            np.mean([not text for text, answers in pairs if not answers])
        )
        losses = task.step(data.splits[split].batch(range(len(rows)), 0), "val")
        assert scores[f"{split}/loss"] == pytest.approx(losses["loss"].item(), rel=1e-5)


@pytest.mark.parametrize("seed", range(20))
def test_best_threshold_is_that_of_a_slow_loop(seed: int) -> None:
    generator = np.random.default_rng(seed)
    margins = generator.normal(size=12).round(1 if seed % 2 else 9)
    has_answer = generator.random(12) < 0.6
    f1 = np.where(has_answer, generator.random(12), 0.0)

    def mean_f1(threshold: float) -> float:
        return float(np.where(margins > threshold, ~has_answer, f1).mean())

    best = best_threshold(margins, f1, has_answer)
    tried = [mean_f1(value) for value in [-99.0, *margins]]
    assert best.f1 == pytest.approx(max(tried))
    assert mean_f1(best.value) == pytest.approx(best.f1)


def test_the_report_is_of_all_batches() -> None:
    report = AnswerReport()
    report.update(torch.tensor([-2.0, 1.0]), ["cat", "dog"], [["the cat"], []])
    report.update(torch.tensor([0.5, 3.0]), ["a mat", "x"], [["mat"], ["y"]])
    threshold = report.compute()
    assert threshold.value == 0.75
    assert threshold.f1 == 0.75
    report.reset()
    report.update(torch.tensor([-2.0]), ["cat"], [["cat"]])
    assert report.compute() is None


def test_it_learns() -> None:
    """To find a word that the question names, with the smallest encoder; and to say that there is none."""
    torch.manual_seed(0)
    source = Questions(num_train=24, num_test=0, num_words=4, unanswerable=3)
    data = QuestionData(
        source=source, tokenizer=ByteTokenizer(), max_seq_len=32, stride=8, max_question_len=6, batch_size=8
    )
    backbone = Encoder(vocab_size=258, max_seq_len=32, embed_dim=32, num_heads=2, num_layers=2, dropout=0.0)
    task = QuestionAnswering(
        backbone=backbone, optimizer=lambda groups: torch.optim.AdamW(groups, lr=5e-3), dropout=0.0
    )
    trainer(max_epochs=100, limit_val_batches=0).fit(task, data)
    rows = data.source.rows("train")
    assert rows is not None
    kept = [row for row in rows if row.fields not in [other.fields for other in data._split_rows("val")]]
    task.attach(data)
    split = data.examples(kept, "predict")
    predicted = task.eval().predict_step(split.batch(range(len(kept)), 0), 0)["answer"]
    wanted = [(row.fields["answers"]["text"] or [""])[0] for row in kept]
    right = sum(one == other for one, other in zip(predicted, wanted, strict=True))
    assert right >= 0.75 * len(kept), list(zip(predicted, wanted, strict=True))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"dropout": 1.0}, "dropout (1.0) must be at least 0 and less than 1"),
        ({"max_answer_len": 0}, "max_answer_len (0) must be at least 1"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], says: str) -> None:
    assert message(lambda: QuestionAnswering(backbone=Fixed(), **options)) == says


def test_what_does_not_fit_is_told() -> None:
    task = QuestionAnswering(backbone=Fixed(), no_answer_threshold=0.5)
    assert message(lambda: task.attach(question_data(unanswerable=0))) == (
        "no_answer_threshold (0.5) has no use, as every training question has an answer: "
        "add --model.no_answer_threshold=null"
    )
    assert message(lambda: task.attach(ready(pixel_data()))) == (
        "QuestionAnswering needs data of questions, such as lt_cli.data.questions.QuestionData, not PixelData"
    )


def test_the_test_names_the_best_threshold(capsys: pytest.CaptureFixture[str], caplog: Any) -> None:
    data = question_data(num_test=30)
    task = task_on(data)
    task._has_trained_weights = True
    with caplog.at_level("INFO"):
        trainer(default_root_dir=Path()).test(task, data, verbose=False)
    said = capsys.readouterr().err + caplog.text
    assert "no_answer_threshold is 0; the best F1 of these questions, 0." in said
    assert math.isfinite(float(said.split("--model.no_answer_threshold=")[1].split(":")[0]))
