"""Sampling from any backbone that predicts next tokens, with a cache, a batch at a time, reproducible row by row."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, distributed

from lt_cli.backbones.base import Cache, Seq2SeqBackbone, VideoTextBackbone
from lt_cli.errors import UserError


class Decoder(Protocol):
    """All that continuing sequences asks for; every CausalBackbone is one.

    Attributes:
        max_seq_len: Longest input, in tokens, a start token included.
    """

    max_seq_len: int

    def __call__(self, input_ids: Tensor, *, cache: Cache) -> Tensor:
        """Features (B, T, D) of tokens (B, T) that follow those in the cache."""

    def unembed(self, features: Tensor) -> Tensor:
        """Logits (..., vocab_size) of the next tokens."""

    def make_cache(self, batch_size: int, max_len: int) -> Cache:
        """A cache for ``batch_size`` sequences of up to ``max_len`` tokens."""


class Conditioned:
    """An encoder-decoder backbone and a batch of sources, as what continues their targets.

    Args:
        backbone: In eval mode.
        input_ids: The sources.
        attention_mask: 1 for tokens, 0 for padding; None where nothing is padded.

    Attributes:
        start: What each target begins with, as a prompt.

    Shape:
        - input_ids, attention_mask: (B, S)
        - start: (B, 1)
    """

    def __init__(self, backbone: Seq2SeqBackbone, input_ids: Tensor, attention_mask: Tensor | None = None) -> None:
        """Reads nothing yet."""
        self.backbone, self.input_ids, self.attention_mask = backbone, input_ids, attention_mask
        self.max_seq_len = backbone.max_target_len
        self.start = torch.full_like(input_ids[:, :1], backbone.start_id)

    def __call__(self, input_ids: Tensor, *, cache: Cache) -> Tensor:
        """See Decoder."""
        return self.backbone.decode(input_ids, cache=cache)

    def unembed(self, features: Tensor) -> Tensor:
        """See Decoder."""
        return self.backbone.unembed(features)

    def make_cache(self, batch_size: int, max_len: int) -> Cache:
        """See Decoder; the sources are read."""
        if batch_size != len(self.input_ids):
            raise ValueError(f"batch_size ({batch_size}) must be that of the sources ({len(self.input_ids)})")
        return self.backbone.make_cache(self.input_ids, attention_mask=self.attention_mask, max_len=max_len)


class VectorPrompts:
    """Prompts that a backbone reads as vectors, such as a video and what was said about it, as what continues them.

    Args:
        backbone: In eval mode.
        vectors: The prompts; what is behind a prompt's end is not read.
        lengths: Of the prompts.
        embed: Vectors (R, T, D) of tokens (R, T) behind a prompt.

    Shape:
        - vectors: (B, T, D)
        - lengths: (B,)
    """

    def __init__(
        self, backbone: VideoTextBackbone, vectors: Tensor, lengths: Tensor, embed: Callable[[Tensor], Tensor]
    ) -> None:
        """Reads nothing yet."""
        self.backbone, self.vectors, self.lengths, self.embed = backbone, vectors, lengths, embed
        self.max_seq_len = backbone.max_seq_len

    def __call__(self, input_ids: Tensor, *, cache: Cache) -> Tensor:
        """See Decoder; within a prompt its own vectors stand for whatever tokens."""
        assert isinstance(cache, _PromptCache)
        begin, cache.length = cache.length, cache.length + input_ids.shape[1]
        vectors = self.embed(input_ids)
        known = self.vectors[cache.rows, begin : cache.length]
        if num_known := known.shape[1]:
            places = torch.arange(begin, begin + num_known, device=known.device)
            is_known = (places < self.lengths[cache.rows, None])[..., None]
            vectors = torch.cat([known.where(is_known, vectors[:, :num_known]), vectors[:, num_known:]], dim=1)
        return self.backbone.read(vectors, cache=cache.cache)

    def unembed(self, features: Tensor) -> Tensor:
        """See Decoder."""
        return self.backbone.unembed(features)

    def make_cache(self, batch_size: int, max_len: int) -> Cache:
        """See Decoder."""
        rows = torch.arange(batch_size, device=self.vectors.device)
        return _PromptCache(self.backbone.make_cache(batch_size, max_len), rows)


class _PromptCache:
    """A cache that knows which prompt each of its rows continues, and how much has been read."""

    def __init__(self, cache: Cache, rows: Tensor) -> None:
        self.cache, self.rows, self.length = cache, rows, 0

    def reorder(self, rows: Tensor) -> None:
        self.cache.reorder(rows)
        self.rows = self.rows[rows]


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Args:
        temperature: Divides the logits; below 1 is more cautious, 0 always takes the likeliest token.
        top_k: Only the k likeliest tokens are candidates; null for all.
        top_p: Only the likeliest tokens that together reach this probability are candidates (Holtzman et al.
            2019, https://arxiv.org/abs/1904.09751); null for all.
        seed: Same seed and same row, same random numbers, whatever the batch, the device and the number of processes.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if self.temperature < 0:
            raise UserError(f"temperature ({self.temperature}) must not be negative")
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top_k ({self.top_k}) must be at least 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top_p ({self.top_p}) must be above 0 and at most 1")

    def choose(self, logits: Tensor, uniforms: Tensor) -> Tensor:
        """The token of each row at which its cumulative distribution passes a uniform number.

        Shape:
            - logits: (B, V)
            - uniforms: (B,), in [0, 1)
            - output: (B,)
        """
        if self.temperature == 0:
            return logits.argmax(-1)
        probabilities = self.distribution(logits)
        cumulative = probabilities.cumsum(-1)
        total = cumulative[:, -1]
        # rounding must not lift the target to the total, beyond the last candidate
        target = torch.minimum(uniforms * total, total * (1 - 2**-23))
        return torch.searchsorted(cumulative, target[:, None], right=True).squeeze(1)

    def distribution(self, logits: Tensor) -> Tensor:
        """Probabilities after temperature, top-k and top-p.

        Shape:
            - logits, output: (B, V)
        """
        logits = logits.float() / self.temperature
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            smallest = logits.topk(self.top_k, dim=-1).values[:, -1:]
            logits = logits.masked_fill(logits < smallest, float("-inf"))
        if self.top_p is not None and self.top_p < 1:
            ordered, order = logits.sort(descending=True, dim=-1)
            before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
            dropped = (before >= self.top_p).scatter(-1, order, before >= self.top_p)
            logits = logits.masked_fill(dropped, float("-inf"))
        return logits.softmax(-1)


def row_uniforms(seed: int, rows: Sequence[int], num_tokens: int) -> Tensor:
    """Uniform numbers (B, num_tokens) that depend on the seed and each row's number alone."""
    generator = torch.Generator()
    return torch.stack(
        [  # in float32 whatever the default, as bfloat16 has only 256 numbers from 0.5 to 1
            torch.rand(num_tokens, generator=generator.manual_seed(seed * 1_000_003 + row), dtype=torch.float32)
            for row in rows
        ]
    )


def generate(backbone: Decoder, prompt: Tensor, num_tokens: int, sampling: Sampling, rows: Sequence[int]) -> Tensor:
    """Continues each prompt by ``num_tokens`` tokens: one pass over the prompts, then one token at a time.

    The backbone is used as it stands: put it in eval mode first, or dropout takes part.

    Args:
        backbone: Any causal backbone, or Conditioned or VectorPrompts.
        prompt: At least one token each, the start token where the backbone has one.
        num_tokens: New tokens.
        sampling: How each is chosen.
        rows: The number of each row, which its random numbers depend on.

    Shape:
        - prompt: (B, T)
        - output: (B, num_tokens), in [0, vocab_size)

    Raises:
        UserError: If prompt and continuation exceed max_seq_len; the last token need not fit.
    """
    batch_size, prompt_len = prompt.shape
    longest = prompt_len + num_tokens - 1
    if longest > backbone.max_seq_len:
        raise UserError(
            f"a prompt of {prompt_len} and {num_tokens} new tokens exceed max_seq_len ({backbone.max_seq_len})"
        )
    output = prompt.new_empty(batch_size, num_tokens)
    if not num_tokens:
        return output
    with without_gradients():
        uniforms = row_uniforms(sampling.seed, rows, num_tokens).to(prompt.device)
        cache = backbone.make_cache(batch_size, longest)
        step = prompt
        for position in range(num_tokens):
            features = backbone(step, cache=cache)[:, -1]
            token = sampling.choose(backbone.unembed(features), uniforms[:, position])
            output[:, position] = token
            step = token[:, None]
    return output


def continue_prompts(
    backbone: Decoder,
    prompts: Tensor,
    lengths: Sequence[int],
    num_tokens: int,
    sampling: Sampling,
    rows: Sequence[int],
    ended: Callable[[list[int]], bool],
) -> list[list[int]]:
    """Continues prompts of different lengths, until each has ended, or the context has.

    No row is padded: all that the prompts have in length is read at once, then one token of each row at a time, which
    is still the prompt's own in longer ones. So a row's continuation does not depend on the others.

    Args:
        backbone: Any causal backbone, or Conditioned or VectorPrompts; in eval mode.
        prompts: At least one token each; what lies beyond a prompt's length is not read.
        lengths: Of the prompts, at most max_seq_len.
        num_tokens: At most so many new tokens, at least 1.
        sampling: How each is chosen.
        rows: The number of each row, which its random numbers depend on.
        ended: Whether a continuation is over with its last token, which stays.

    Shape:
        - prompts: (B, T), int64
    """
    output: list[list[int]] = [[] for _ in lengths]
    end = min(max(lengths) + num_tokens, backbone.max_seq_len + 1)
    going = set(range(len(lengths)))
    with without_gradients():
        num_drawn = min(num_tokens, end - min(lengths))  # no context has room for more
        uniforms = row_uniforms(sampling.seed, rows, num_drawn).to(prompts.device)
        known = torch.tensor(lengths, device=prompts.device)
        cache = backbone.make_cache(len(lengths), end - 1)
        step = prompts[:, : min(lengths)]
        for position in range(min(lengths), end):
            features = backbone(step, cache=cache)[:, -1]
            drawn = (position - known).clamp(0, num_drawn - 1)
            token = sampling.choose(backbone.unembed(features), uniforms.gather(1, drawn[:, None]).squeeze(1))
            if position < prompts.shape[1]:
                token = torch.where(position < known, prompts[:, position], token)
            for row, value in enumerate(token.tolist()):
                if row in going and position >= lengths[row]:
                    output[row].append(value)
                    if len(output[row]) == num_tokens or ended(output[row]):
                        going.remove(row)
            if not going:
                break
            step = token[:, None]
    return output


def without_gradients() -> AbstractContextManager[None]:
    """For sampling. inference_mode is a fifth faster, but not for weights that several processes share.

    These may be gathered within, and what is made in inference mode cannot be trained on.
    """
    shared = distributed.is_available() and distributed.is_initialized()
    return torch.no_grad() if shared else torch.inference_mode()
