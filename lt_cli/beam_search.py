"""Beam search with any backbone that predicts next tokens, a batch at a time, each row as if alone.

B: rows, K: beams of a row, V: vocabulary.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lt_cli.errors import UserError
from lt_cli.generation import Decoder, without_gradients


@dataclass(frozen=True)
class BeamSearch:
    """Keeps the likeliest continuations at each token (Sutskever et al. 2014, https://arxiv.org/abs/1409.3215).

    Args:
        num_beams: Continuations that are kept; 1 always takes the likeliest token.
        min_new_tokens: At least so many before the end token.
        length_penalty: Exponent of the length, by which a continuation's log probability is divided: above 0 favours
            longer ones, below 0 shorter ones; 0 compares probabilities.
        early_stopping: Whether the first ``num_beams`` that have ended are enough; otherwise the search goes on while
            the best that has not ended is better, at its length, than the worst of those.
        no_repeat_ngram_size: No run of so many tokens comes twice, the prompt included; 0 lets them.

    Raises:
        UserError: If a number is out of its range.
    """

    num_beams: int = 4
    min_new_tokens: int = 0
    length_penalty: float = 1.0
    early_stopping: bool = False
    no_repeat_ngram_size: int = 0

    def __post_init__(self) -> None:
        """Checks the ranges."""
        for name, least in (("num_beams", 1), ("min_new_tokens", 0), ("no_repeat_ngram_size", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name} ({getattr(self, name)}) must be at least {least}")
        if not math.isfinite(self.length_penalty):
            raise UserError(f"length_penalty ({self.length_penalty}) must be a finite number")


class Hypothesis(NamedTuple):
    """A continuation.

    Attributes:
        tokens: Those after the prompt, the end token included where it has one.
        score: Their log probability in nats, over their number to the power of ``length_penalty``.
    """

    tokens: list[int]
    score: float


def beam_search(
    backbone: Decoder, prompts: Tensor, lengths: Sequence[int], num_tokens: int, search: BeamSearch, end_id: int | None
) -> list[Hypothesis]:
    """The best continuation of each prompt, as transformers' ``generate`` finds it for the prompt alone.

    No row is padded: all that the prompts have in length is read at once, then one token at a time, which is still the
    prompt's own in longer ones. A row that is done is no longer computed.

    Args:
        backbone: Any causal backbone, or ``generation.Conditioned``; in eval mode.
        prompts: At least one token each; what lies beyond a prompt's length is not read.
        lengths: Of the prompts, at most max_seq_len; a context that is full ends its row.
        num_tokens: At most so many new tokens, the end token included, at least 1.
        search: How it is searched.
        end_id: The token that ends a continuation, or None.

    Shape:
        - prompts: (B, T), int64

    Raises:
        UserError: If a prompt is longer than max_seq_len.
    """
    width, shortest, device = search.num_beams, min(lengths), prompts.device
    if max(lengths) > backbone.max_seq_len:
        raise UserError(f"a prompt of {max(lengths)} tokens exceeds max_seq_len ({backbone.max_seq_len}): shorten it")
    room = backbone.max_seq_len + 1  # the last token need not fit
    rows = [
        _Row(prompt[:length], shortest, search, end_id, min(num_tokens, room - length))
        for prompt, length in zip(prompts.tolist(), lengths, strict=True)
    ]
    with without_gradients():
        cache = backbone.make_cache(len(rows), max(len(row.prompt) + row.limit for row in rows) - 1)
        logits = backbone.unembed(backbone(prompts[:, :shortest], cache=cache)[:, -1])
        parents = torch.arange(len(rows), device=device).repeat_interleave(width)
        logits, going = logits[parents], rows
        while True:
            gains = logits.float().log_softmax(-1).view(len(going), width, -1)
            banned = [(i, *place) for i, row in enumerate(going) for place in row.banned()]
            if banned:
                gains[torch.tensor(banned, device=device).unbind(1)] = -math.inf
            before = torch.tensor([row.scores for row in going], dtype=gains.dtype, device=device)
            best = (gains + before[..., None]).flatten(1).topk(min(2 * width, width * gains.shape[-1]))
            for row, scores, places in zip(going, best.values.tolist(), best.indices.tolist(), strict=True):
                row.advance([(score, *divmod(at, gains.shape[-1])) for score, at in zip(scores, places, strict=True)])
            kept = [place * width + parent for place, row in enumerate(going) if not row.done for parent in row.parents]
            going = [row for row in going if not row.done]
            if not going:
                return [row.best() for row in rows]
            # the first time, the cache has one row for all beams of a prompt
            cache.reorder(parents[torch.tensor(kept, device=device)])
            parents = torch.arange(len(kept), device=device)
            tokens = torch.tensor([token for row in going for token in row.tokens], device=device)
            logits = backbone.unembed(backbone(tokens[:, None], cache=cache)[:, -1])


class _Row:
    """The beams of one prompt, which are the same until it has been read.

    Attributes:
        scores: Log probability of each beam.
        parents: Where among the earlier beams each has come from.
        tokens: What each goes on with.
        done: Whether nothing better is to be found.
    """

    def __init__(self, prompt: list[int], seen: int, search: BeamSearch, end_id: int | None, limit: int) -> None:
        """``seen`` tokens of the prompt are read before the first ``advance``."""
        self.prompt, self.search, self.end_id, self.limit = prompt, search, end_id, limit
        self.unread = prompt[seen:][::-1]
        self.beams: list[list[int]] = [[] for _ in range(search.num_beams)]
        self.scores = [0.0] + [-math.inf] * (search.num_beams - 1)
        self.finished: list[Hypothesis] = []
        self.parents: list[int] = []
        self.tokens: list[int] = []
        self.done = False

    def banned(self) -> Iterator[tuple[int, int]]:
        """Beams, and tokens that must not follow them."""
        if self.unread:
            return
        size = self.search.no_repeat_ngram_size
        for beam, tokens in enumerate(self.beams):
            if self.end_id is not None and len(tokens) < self.search.min_new_tokens:
                yield beam, self.end_id
            if size and self.scores[beam] > -math.inf:
                text = self.prompt + tokens
                tail = text[len(text) - size + 1 :]
                for end in range(size - 1, len(text)):
                    if text[end - size + 1 : end] == tail:
                        yield beam, text[end]

    def advance(self, candidates: list[tuple[float, int, int]]) -> None:
        """Goes on with the best of (score, beam, token), which are in order; enough of them for all beams to end."""
        width = self.search.num_beams
        if self.unread:
            self.parents, self.tokens = [*range(width)], [self.unread.pop()] * width
            return
        before, count = (self.beams, self.scores), len(self.beams[0]) + 1
        alive: list[tuple[float, int, int]] = []
        for rank, (score, beam, token) in enumerate(candidates):
            if score == -math.inf:
                break
            if token == self.end_id or count == self.limit:
                if rank < width:
                    self._finish([*self.beams[beam], token], score)
            elif len(alive) < width:
                alive.append((score, beam, token))
        if not alive:
            if not self.finished:
                for tokens, score in zip(*before, strict=True):
                    if score > -math.inf:
                        self._finish(tokens, score)
            self.done = True
            return
        alive += [(-math.inf, *alive[0][1:])] * (width - len(alive))
        self.parents, self.tokens = [beam for _, beam, _ in alive], [token for *_, token in alive]
        self.beams = [[*self.beams[beam], token] for _, beam, token in alive]
        self.scores = [score for score, *_ in alive]
        if len(self.finished) == width:
            hope = self.scores[0] / count**self.search.length_penalty
            self.done = self.search.early_stopping or hope <= self.finished[-1].score

    def _finish(self, tokens: list[int], score: float) -> None:
        """Keeps it if it is among the best."""
        self.finished.append(Hypothesis(tokens, score / max(1, len(tokens)) ** self.search.length_penalty))
        self.finished.sort(key=lambda hypothesis: -hypothesis.score)
        del self.finished[self.search.num_beams :]

    def best(self) -> Hypothesis:
        """The best that has ended."""
        return self.finished[0]
