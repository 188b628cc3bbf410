"""Metrics of decoded strings: spans, answers, generated text.

All states are sums in whole numbers, so that any sharing out of rows among processes gives the same bits; what is a
fraction per row is counted in parts of 2^-32. Each class returns several values: log what ``compute`` returns.
"""

import unicodedata
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from lt_cli.answers import answer_f1, exact_match
from lt_cli.errors import UserError
from lt_cli.spans import spans

PARTS = 1 << 32
"""Parts of one in which fractions are summed: exact to 2e-10 per row, for up to two thousand million rows."""


class Sums(Metric):
    """A metric whose state is whole numbers that add up, over batches and processes.

    Args:
        shape: Of the numbers.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    sums: Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        """Begins at zero."""
        super().__init__()
        self.add_state("sums", torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")

    def add(self, numbers: Sequence[Any] | NDArray[np.int64]) -> None:
        """Adds a batch's numbers."""
        self.sums = self.sums + torch.as_tensor(numbers, dtype=torch.int64).to(self.sums.device)


def _share(part: Tensor, whole: Tensor) -> Tensor:
    """A quotient, 0 where there is nothing to divide by."""
    return part / whole.clamp(min=1)


class SpanScores(Sums):
    """Precision, recall and F1 of spans, micro-averaged, as seqeval's default mode has them.

    A predicted span is right where one of the same type begins and ends at the same labels.

    Args:
        types: The training data's types; any other is counted together with its like.
    """

    def __init__(self, types: Sequence[str]) -> None:
        """Begins with no spans."""
        super().__init__((len(types) + 1, 3))
        self.types = list(types)
        self._slots = {name: i for i, name in enumerate(types)}

    def update(self, predicted: Sequence[Sequence[str]], target: Sequence[Sequence[str]]) -> None:
        """Adds sequences of BIO labels, well-formed or not."""
        counts = np.zeros((len(self.types) + 1, 3), dtype=np.int64)
        for predicted_labels, target_labels in zip(predicted, target, strict=True):
            if len(predicted_labels) != len(target_labels):
                raise ValueError(f"{len(predicted_labels)} predicted labels for {len(target_labels)}")
            guesses, wanted = set(spans(predicted_labels, "bio")), set(spans(target_labels, "bio"))
            for column, group in enumerate((guesses & wanted, guesses, wanted)):
                for span in group:
                    counts[self._slots.get(span.type, -1), column] += 1
        self.add(counts)

    def compute(self) -> dict[str, Tensor]:
        """``span_precision``, ``span_recall`` and ``span_f1``; 0 where there is nothing to divide by."""
        right, predicted, target = self.sums.sum(dim=0)
        return {
            "span_precision": _share(right, predicted),
            "span_recall": _share(right, target),
            "span_f1": _share(2 * right, predicted + target),
        }

    def counts_by_type(self) -> NDArray[np.int64]:
        """Spans of each type: right, predicted, in the data; called on all processes, or it waits for them.

        Shape:
            - output: (len(types) + 1, 3), the last row for all other types
        """
        with self.sync_context(self.dist_sync_fn):
            return self.sums.cpu().numpy().copy()


class TokenAccuracy(Sums):
    """Share of tokens whose label is right."""

    def __init__(self) -> None:
        """Begins with no tokens."""
        super().__init__((2,))

    def update(self, predicted: Sequence[Sequence[str]], target: Sequence[Sequence[str]]) -> None:
        """Adds sequences of labels."""
        pairs = [
            pair
            for predicted_labels, target_labels in zip(predicted, target, strict=True)
            for pair in zip(predicted_labels, target_labels, strict=True)
        ]
        self.add([sum(a == b for a, b in pairs), len(pairs)])

    def compute(self) -> Tensor:
        """Between 0 and 1."""
        return _share(self.sums[0], self.sums[1])


class AnswerScores(Sums):
    """Exact match and F1 of answers, as SQuAD's second version has them, between 0 and 1."""

    def __init__(self) -> None:
        """Begins with no questions."""
        super().__init__((2, 3))

    def update(self, predictions: Sequence[str], answers: Sequence[Sequence[str]]) -> None:
        """Adds questions: what was predicted, and all accepted answers, none where there is no answer."""
        counts = np.zeros((2, 3), dtype=np.int64)
        for prediction, accepted in zip(predictions, answers, strict=True):
            f1 = round(answer_f1(prediction, accepted) * PARTS)
            counts[int(bool(accepted))] += [1, int(exact_match(prediction, accepted)), f1]
        self.add(counts)

    def compute(self) -> dict[str, Tensor]:
        """``exact_match`` and ``f1``; where there are unanswerable questions, those of either kind too.

        Of unanswerable questions both are the same number, ``no_answer_exact_match``.
        """
        without, with_answer = self.sums
        values = self._values(without + with_answer)
        if without[0] > 0:
            values |= {f"has_answer_{name}": value for name, value in self._values(with_answer).items()}
            values["no_answer_exact_match"] = _share(without[1], without[0])
        return values

    def _values(self, sums: Tensor) -> dict[str, Tensor]:
        questions, exact, f1 = sums
        return {"exact_match": _share(exact, questions), "f1": _share(f1, questions * PARTS)}


class _Words:
    """ROUGE's words: in lower case, of letters and digits, with Porter's stems in place of those of four and more.

    On ASCII these are Google's; letters of other alphabets are kept, where Google's tokenizer drops them.
    """

    def __init__(self) -> None:
        from nltk.stem.porter import PorterStemmer

        self.stemmer = PorterStemmer()

    def tokenize(self, text: str) -> list[str]:
        """The words of a text."""
        kept = (c if c.isalnum() or unicodedata.category(c)[0] == "M" else " " for c in text.lower())
        return [self.stemmer.stem(word) if len(word) > 3 else word for word in "".join(kept).split()]


class GenerationScores(Sums):
    """ROUGE-1, -2 and -L (Lin 2004, https://aclanthology.org/W04-1013) and BLEU (Post 2018), between 0 and 1.

    ROUGE is the rows' mean F1 on stemmed words, as Google's rouge-score has it; of several references the best counts.
    BLEU is sacreBLEU's over the whole corpus (https://aclanthology.org/W18-6319); papers print a hundred times as much.

    Args:
        tokenize: How sacreBLEU finds words: its default, one that knows Unicode's punctuation, one for Chinese,
            characters, or spaces only, for text that has tokens already.
    """

    def __init__(self, tokenize: Literal["13a", "intl", "zh", "char", "none"] = "13a") -> None:
        """Begins with no rows."""
        from rouge_score.rouge_scorer import RougeScorer
        from sacrebleu.metrics import BLEU

        super().__init__((14,))
        self._rouge = RougeScorer(["rouge1", "rouge2", "rougeL"], tokenizer=_Words())
        self._bleu = BLEU(tokenize=tokenize, effective_order=True)  # of rows, whose counts alone are used

    def update(self, predictions: Sequence[str], references: Sequence[str] | Sequence[Sequence[str]]) -> None:
        """Adds rows, each with one reference or several."""
        numbers = np.zeros(14, dtype=np.int64)
        for prediction, reference in zip(predictions, references, strict=True):
            accepted = [reference] if isinstance(reference, str) else list(reference)
            if not accepted:
                raise UserError(f"a row has no reference to score the text {prediction[:40]!r} against")
            rouge = self._rouge.score_multi(accepted, prediction)
            bleu = self._bleu.sentence_score(prediction, accepted)
            fractions = [round(rouge[name].fmeasure * PARTS) for name in ("rouge1", "rouge2", "rougeL")]
            numbers += [1, *fractions, *bleu.counts, *bleu.totals, bleu.sys_len, bleu.ref_len]
        self.add(numbers)

    def compute(self) -> dict[str, Tensor]:
        """``rouge1``, ``rouge2``, ``rougeL`` and ``bleu``."""
        rows, *fractions = self.sums[:4]
        values = {
            name: _share(part, rows * PARTS)
            for name, part in zip(("rouge1", "rouge2", "rougeL"), fractions, strict=True)
        }
        counts = self.sums[4:].tolist()
        score = self._bleu.compute_bleu(counts[:4], counts[4:8], counts[8], counts[9], smooth_method="exp").score
        return values | {"bleu": torch.tensor(score / 100, device=self.sums.device)}
