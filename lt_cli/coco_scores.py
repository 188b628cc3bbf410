"""Written answers scored as the COCO caption evaluation scores them, and with it the AVSD challenges, without Java."""

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from functools import cache, lru_cache
from itertools import zip_longest
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors

from lt_cli.errors import UserError

_PLAIN = str.maketrans({**dict.fromkeys("‘’`´", "'"), **dict.fromkeys("“”", '"'), **dict.fromkeys("…–—", " ")})
_LOOSE = re.compile(r"[.-]{2,}|(?<!\w)[.-](?!\d)|-(?!\w)")  # dots and dashes that are not part of a word
_SIGNS = re.compile(r"[?!]{2,}|[*+=|~^\\]|(?<!\S)/|/(?!\S)")  # what is a word of its own
_WHOLE = re.compile(r"[?!]{2,}|(?:[a-z]\.)+|(?:etc|vs|mr|mrs|ms|dr|st|jr|sr|co|inc|ltd|corp)\.")
_PUNCTUATION = frozenset(["''", "'", "``", ".", "?", "!", ",", ":", ";"])


@lru_cache(maxsize=1 << 16)
def _treebank(chunk: str) -> list[str]:
    """The tokens of what stands between two spaces, of which there are few different ones."""
    from nltk.tokenize import NLTKWordTokenizer

    if _WHOLE.fullmatch(chunk):
        return [chunk]
    tokens = NLTKWordTokenizer().tokenize(chunk, convert_parentheses=True)
    return [token.lower() for token in tokens if token not in _PUNCTUATION]


def words(text: str) -> list[str]:
    """A text's words as COCO's tokenizer has them: the Penn Treebank's, in lower case, without punctuation.

    Brackets stay, as ``-lrb-`` and the like: COCO's list of punctuation has them in upper case only, and takes out
    none. Two or more of ``?`` and ``!`` in a row stay as well. Of AVSD's answers 99.8 % come out as from Stanford's
    program, which COCO calls.
    """
    text = _LOOSE.sub(" ", text.lower().translate(_PLAIN))
    # one by one, for nltk splits off a full stop only where its text ends
    return [word for chunk in _SIGNS.sub(r" \g<0> ", text).split() for word in _treebank(chunk)]


class _Spaces:
    """For rouge-score, words that are found already; an empty text is one empty word, as COCO has it."""

    def tokenize(self, text: str) -> list[str]:
        """The words of a text."""
        return text.split(" ")


def _bleu(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """BLEU-1 to -4 over all rows, without smoothing."""
    from sacrebleu.metrics import BLEU

    columns = list(zip_longest(*references))  # None where a row has fewer references
    sums = BLEU(tokenize="none", force=True).corpus_score(predictions, columns)
    counts = (sums.counts, sums.totals, sums.sys_len, sums.ref_len)
    return [BLEU.compute_bleu(*counts, smooth_method="none", max_ngram_order=n).score / 100 for n in range(1, 5)]


def _rouge(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Mean F of the longest common subsequence: the best precision with the best recall, which counts 1.2 times."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer, weight, total = RougeScorer(["rougeL"], tokenizer=_Spaces()), 1.2**2, 0.0
    for prediction, accepted in zip(predictions, references, strict=True):
        scores = [scorer.score(reference, prediction)["rougeL"] for reference in accepted]
        precision, recall = max(score.precision for score in scores), max(score.recall for score in scores)
        if precision > 0:  # so is recall: both are shares of the same words
            total += (1 + weight) * precision * recall / (recall + weight * precision)
    return total / len(predictions)


def _meteor(predictions: Sequence[list[str]], references: Sequence[list[list[str]]], synonyms: bool) -> float:
    """Mean of nltk's METEOR with the best reference of each row."""
    from nltk.corpus import wordnet
    from nltk.stem.porter import PorterStemmer
    from nltk.translate.meteor_score import meteor_score

    stems = SimpleNamespace(stem=cache(PorterStemmer().stem))  # else they take most of the time
    net = wordnet if synonyms else SimpleNamespace(synsets=lambda word: [])
    pairs = zip(references, predictions, strict=True)
    return float(sum(meteor_score(*pair, stemmer=stems, wordnet=net) for pair in pairs)) / len(predictions)


def _ngrams(text: list[str]) -> list[Counter[tuple[str, ...]]]:
    """How often each run of n words is in a text, for n from 1 to 4."""
    return [Counter(zip(*(text[i:] for i in range(n)), strict=False)) for n in range(1, 5)]


def _cider(predictions: Sequence[list[str]], references: Sequence[list[list[str]]]) -> float:
    """Mean CIDEr as COCO's code has it, the variant that the paper calls CIDEr-D.

    Runs of words weigh more the fewer rows have them in a reference. A prediction's likeness to a reference is the
    cosine of their weights, in which no run counts more often than the reference has it, and which falls with the
    difference of their lengths, by a Gaussian of six words.
    """
    rows = [[_ngrams(reference) for reference in accepted] for accepted in references]
    known = Counter(gram for row in rows for gram in {gram for text in row for grams in text for gram in grams})

    def weights(grams: Counter[tuple[str, ...]]) -> dict[tuple[str, ...], float]:
        return {gram: count * math.log(len(rows) / max(known[gram], 1)) for gram, count in grams.items()}

    total = 0.0
    for prediction, accepted, row in zip(predictions, references, rows, strict=True):
        given = [weights(grams) for grams in _ngrams(prediction)]
        for reference, text in zip(accepted, row, strict=True):
            scale = 10 / 4 / len(row) * math.exp(-((len(prediction) - len(reference)) ** 2) / (2 * 6**2))
            for mine, wanted in zip(given, map(weights, text), strict=True):
                norms = math.hypot(*mine.values()) * math.hypot(*wanted.values())
                shared = sum(min(mine[gram], wanted[gram]) * wanted[gram] for gram in mine if gram in wanted)
                total += scale * shared / norms if norms > 0 else 0.0
    return total / len(rows)


def _gathered(texts: Tensor, group: Any = None) -> list[Tensor]:
    """All processes' texts as one tensor; torchmetrics would stack them, which needs equal lengths."""
    return [torch.cat(gather_all_tensors(texts, group))]


class CocoScores(Metric):
    """BLEU-1 to -4, METEOR, ROUGE-L and CIDEr (Chen et al. 2015, https://arxiv.org/abs/1504.00325).

    BLEU, ROUGE-L and CIDEr (Vedantam et al. 2015, https://arxiv.org/abs/1411.5726) are what COCO's own code makes of
    the same words, but for the tiny numbers that it adds to BLEU: where not one run of n words is right, ours is 0. All
    are between 0 and 1, except CIDEr, which goes up to 10 and is 0 of a single row: it tells rows from one another.

    METEOR is nltk's, of the paper from 2007, on equal words and equal stems. COCO's is METEOR 1.5 (Denkowski and Lavie
    2014, https://aclanthology.org/W14-3348), which also knows paraphrases and weighs kinds of words and of matches: its
    numbers are others, and not to be compared with these.

    CIDEr needs the references of all rows, so that all texts are kept.

    Args:
        synonyms: Whether METEOR also takes synonyms for equal, which needs nltk's WordNet on the machine.

    Raises:
        UserError: WordNet is asked for and not there.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    texts: Tensor

    def __init__(self, synonyms: bool = False) -> None:
        """Begins with no rows."""
        super().__init__(dist_sync_fn=_gathered)
        self.synonyms = synonyms
        self.add_state("texts", torch.zeros(0, dtype=torch.uint8), dist_reduce_fx="cat")
        if synonyms:
            from nltk.corpus import wordnet

            try:
                wordnet.ensure_loaded()
            except LookupError as error:
                raise UserError(
                    "synonyms is true, for which nltk needs WordNet, and it is not on this machine: run "
                    "`python -m nltk.downloader wordnet` once, or leave synonyms out"
                ) from error

    def update(
        self, predictions: Sequence[str], references: Sequence[str] | Sequence[Sequence[str]], rows: Tensor
    ) -> None:
        """Adds rows, each with its number and with one reference or several.

        Shape:
            - rows: (B,)

        Raises:
            UserError: A row has no reference.
        """
        lines = []
        for row, prediction, reference in zip(rows.tolist(), predictions, references, strict=True):
            accepted = [reference] if isinstance(reference, str) else list(reference)
            if not accepted:
                raise UserError(f"row {row} has no reference to score the text {prediction[:40]!r} against")
            lines.append(json.dumps([row, prediction, accepted]) + "\n")
        added = torch.tensor(list("".join(lines).encode()), dtype=torch.uint8, device=self.texts.device)
        self.texts = torch.cat([self.texts, added])

    def compute(self) -> dict[str, Tensor]:
        """``bleu1`` to ``bleu4``, ``meteor``, ``rougeL`` and ``cider``; all 0 where there are no rows."""
        # in the order of their numbers, so that any sharing out among processes adds up to the same bits
        rows = sorted(json.loads(line) for line in self.texts.cpu().numpy().tobytes().splitlines())
        values = [0.0] * 7
        if rows:
            predictions = [words(prediction) for _, prediction, _ in rows]
            references = [[words(reference) for reference in accepted] for *_, accepted in rows]
            lines = [" ".join(prediction) for prediction in predictions]
            accepted_lines = [[" ".join(reference) for reference in accepted] for accepted in references]
            values = [
                *_bleu(lines, accepted_lines),
                _meteor(predictions, references, self.synonyms),
                _rouge(lines, accepted_lines),
                _cider(predictions, references),
            ]
        names = ("bleu1", "bleu2", "bleu3", "bleu4", "meteor", "rougeL", "cider")
        return {name: torch.tensor(value, device=self.texts.device) for name, value in zip(names, values, strict=True)}
