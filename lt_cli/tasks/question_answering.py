"""Answers to questions: the part of a text that is one, or that it has none."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MetricCollection

from lt_cli.backbones.base import EncoderBackbone
from lt_cli.data.answer_rows import AnswerData
from lt_cli.data.base import Batch, DataModule
from lt_cli.errors import UserError
from lt_cli.optim import OptimizerFactory, ScheduleFactory, WarmupCosine
from lt_cli.tasks.answer_report import AnswerReport
from lt_cli.tasks.answer_spans import NEVER, BestSpans, best_spans, least
from lt_cli.tasks.base import Stage, Task
from lt_cli.tasks.heads import DIGITS, check_parts, linear_head
from lt_cli.text_metrics import AnswerScores


class QuestionAnswering(Task):
    """Scores each token as an answer's first and last (Devlin et al. 2018, https://arxiv.org/abs/1810.04805).

    The answer is the best span over all windows of a question's context. Where training questions are without an
    answer, it is none where a window's first token scores higher in all windows (Rajpurkar et al. 2018,
    https://arxiv.org/abs/1806.03822). Logs ``loss``, the mean cross entropy of first and last token in nats per window,
    and SQuAD's ``exact_match`` and ``f1``, also of the questions with an answer alone where others have none. test
    prints the threshold with the best F1. predict writes the answer as text and as characters of its context.

    Args:
        backbone: An encoder: our own, or any model of Hugging Face.
        optimizer: Built from the parameter groups; norms, biases and embeddings do not decay.
        schedule: Built from the optimiser and the run's number of optimiser steps; null keeps the learning rate.
        layer_decay: Factor of the learning rate from each block of the backbone to the one below it; 1 for the same
            everywhere.
        dropout: Probability of dropping an element of a feature before the head, in training.
        max_answer_len: Tokens of a predicted answer, at most.
        no_answer_threshold: By how much no answer must score above the best span to be predicted; null for 0 where
            training questions are without an answer, and to answer always where none are.
        probabilities: Whether predict also writes the probability of the answer: of its first token times that of its
            last, within its window; of no answer, the least of all windows.
    """

    monitor: tuple[str, Literal["min", "max"]] = ("val/f1", "max")
    backbone: EncoderBackbone

    def __init__(
        self,
        *,
        backbone: EncoderBackbone,
        optimizer: OptimizerFactory = torch.optim.AdamW,
        schedule: ScheduleFactory | None = WarmupCosine,
        layer_decay: float = 1.0,
        dropout: float = 0.1,
        max_answer_len: int = 30,
        no_answer_threshold: float | None = None,
        probabilities: bool = False,
    ) -> None:
        """Stores its parts; the head comes in ``build``."""
        super().__init__(backbone, optimizer, schedule, layer_decay)
        check_parts(dropout=dropout)
        if max_answer_len < 1:
            raise UserError(f"max_answer_len ({max_answer_len}) must be at least 1")
        self.dropout = nn.Dropout(dropout)
        self.max_answer_len, self.no_answer_threshold = max_answer_len, no_answer_threshold
        self.probabilities = probabilities

    def problems(self, data: DataModule) -> list[str]:
        """Sizes, and whether a threshold has a use."""
        if not isinstance(data, AnswerData):
            wanted = "lt_cli.data.questions.QuestionData"
            return [f"QuestionAnswering needs data of questions, such as {wanted}, not {type(data).__name__}"]
        found = super().problems(data)
        if self.no_answer_threshold is not None and not data.has_unanswerable:
            found.append(
                f"no_answer_threshold ({self.no_answer_threshold}) has no use, as every training question has an "
                "answer: add --model.no_answer_threshold=null"
            )
        return found

    def build(self, data: DataModule) -> None:
        """A linear head, and the metrics; a bias would add the same to all tokens, which changes nothing."""
        self.head = linear_head(self.backbone.embed_dim, 2, bias=False)
        self.make_metrics({"answers": lambda _: AnswerScores()}, 0, ("val", "test"))
        self.report = AnswerReport()

    @property
    def threshold(self) -> float:
        """How far no answer must be above the best span."""
        assert isinstance(self.data, AnswerData)
        if not self.data.has_unanswerable:
            return float("inf")
        return self.no_answer_threshold or 0.0

    def scores(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Each token's as the first and as the last of an answer; -inf where it can be neither.

        The first token of a window stands for no answer.

        Shape:
            - output: (S, T) each, float32
        """
        mask = batch["attention_mask"]
        features = self.backbone(batch["input_ids"], attention_mask=mask, token_type_ids=batch["token_type_ids"])
        possible = batch["spans"][..., 0] < batch["spans"][..., 1]
        possible[:, 0] = True
        scores = self.head(self.dropout(features)).float().masked_fill(~possible[..., None], NEVER)
        starts, ends = scores.unbind(-1)
        return starts, ends

    def step(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        """The mean loss of the windows; in evaluation also the best spans, and what tells them from no answer."""
        starts, ends = self.scores(batch)
        loss = F.cross_entropy(starts, batch["start_positions"]) + F.cross_entropy(ends, batch["end_positions"])
        outputs = {"loss": loss / 2, "weight": starts.new_tensor(len(starts))}
        if stage == "train":
            return outputs
        best, margins = self.decode(starts, ends, batch)
        return outputs | {"margins": margins, "characters": characters(best, batch)}

    def decode(self, starts: Tensor, ends: Tensor, batch: Batch) -> tuple[BestSpans, Tensor]:
        """The best span of each question, and by how much no answer scores above it.

        Shape:
            - starts, ends: (S, T), as ``scores`` gives them
            - margins: (B,)
        """
        row, num_rows = batch["row"], len(batch["index"])
        without_first = torch.arange(starts.shape[1], device=starts.device) > 0
        first, last = (scores.where(without_first, NEVER) for scores in (starts, ends))
        best = best_spans(first, last, row, num_rows=num_rows, max_len=self.max_answer_len)
        return best, least(starts[:, 0] + ends[:, 0], row, num_rows) - best.scores

    def update_metrics(self, metrics: MetricCollection, outputs: dict[str, Tensor], batch: Batch) -> None:
        """Scores of the answers' texts, and the report of the test."""
        spans = texts(outputs["characters"], batch)
        is_none = (outputs["margins"] > self.threshold).tolist()
        predicted = ["" if nothing else text for nothing, text in zip(is_none, spans, strict=True)]
        metrics.update(predicted, batch["answers"])
        if metrics.prefix == "test/":
            self.report.update(outputs["margins"], spans, batch["answers"])

    def on_test_epoch_end(self) -> None:
        """Writes the report too, where there may be no answer."""
        super().on_test_epoch_end()
        if self.threshold < float("inf"):
            self.report.write(self.threshold)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Columns ``index``, ``answer`` (a text), ``answer_start``, ``answer_end``; and ``probability`` on request.

        No answer is an empty text, and None in the others.
        """
        starts, ends = self.scores(batch)
        best, margins = self.decode(starts, ends, batch)
        is_none, places = margins > self.threshold, characters(best, batch)
        found = list(zip(is_none.tolist(), texts(places, batch), places.tolist(), strict=True))
        columns: dict[str, Any] = {
            "index": batch["index"],
            "answer": ["" if nothing else text for nothing, text, _ in found],
            "answer_start": [None if nothing else place[0] for nothing, _, place in found],
            "answer_end": [None if nothing else place[1] for nothing, _, place in found],
        }
        if self.probabilities:
            starts, ends = starts.log_softmax(-1), ends.log_softmax(-1)
            of_none = least(starts[:, 0] + ends[:, 0], batch["row"], len(is_none))
            of_span = starts[best.windows, best.first] + ends[best.windows, best.last]
            likely = of_none.where(is_none, of_span).exp()
            columns["probability"] = [round(value, DIGITS) for value in likely.tolist()]
        return columns


def characters(best: BestSpans, batch: Batch) -> Tensor:
    """The first character of each best span in its context, and the one behind its last, (B, 2)."""
    spans = batch["spans"]
    return torch.stack([spans[best.windows, best.first, 0], spans[best.windows, best.last, 1]], dim=1)


def texts(places: Tensor, batch: Batch) -> list[str]:
    """What stands between two characters of each context."""
    return [context[start:end] for context, (start, end) in zip(batch["context"], places.tolist(), strict=True)]
