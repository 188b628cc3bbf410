"""Self-attention, causal with a cache or in both directions, through torch's fused kernels.

B: rows, T: tokens, D: embed_dim, H: num_heads, K: D / H.
"""

from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRETCH = 128
"""Longest stretch of queries whose gradients are computed together on a CPU."""

NARROW = 16
"""Features of a head from which a key is long enough to be read by itself."""

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class LayerCache:
    """Keys and values that one layer has seen, allocated once and filled from the left.

    On a CPU the keys of narrow heads lie transposed: one query's products with all of them then run along memory.
    """

    def __init__(self, shape: tuple[int, int, int, int], like: Tensor) -> None:
        """Allocates for ``shape`` (B, H, max_len, K) with the device and dtype of ``like``."""
        self.on_cpu = like.device.type == "cpu"
        batch, heads, max_len, width = shape
        transposed = self.on_cpu and width < NARROW
        keys = like.new_empty((batch, heads, width, max_len) if transposed else shape)
        self.keys = keys.transpose(2, 3) if transposed else keys
        self.values = like.new_empty(shape)
        self.length = 0

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention of new tokens, which it keeps, to all so far.

        Shape:
            - query, key, value, output: (B, H, T, K), T tokens after those that are stored
        """
        past, self.length = self.length, self.length + key.shape[2]
        keys, values = self.keys[:, :, : self.length], self.values[:, :, : self.length]
        keys[:, :, past:] = key
        values[:, :, past:] = value
        if not past:
            return causal_attention(query, key, value)
        if key.shape[2] == 1 and self.on_cpu:
            # products of three dimensions, which cost less to call; the rows of a batch and the heads are alike here
            one = (query * query.shape[-1] ** -0.5).flatten(0, 1)
            weights = torch.bmm(one, keys.flatten(0, 1).transpose(1, 2)).softmax(-1)
            return torch.bmm(weights, values.flatten(0, 1)).view_as(query)
        mask = None
        if key.shape[2] > 1:
            mask = torch.ones(key.shape[2], self.length, dtype=torch.bool, device=query.device).tril(past)
        return F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)

    def reorder(self, rows: Tensor) -> None:
        """Makes row i the continuation of what was row ``rows[i]``; there may be more rows or fewer than before."""
        keys, values = self.keys[rows, :, : self.length], self.values[rows, :, : self.length]
        if len(rows) > len(self.keys):
            larger = LayerCache((len(rows), *self.values.shape[1:]), self.values)
            self.keys, self.values = larger.keys, larger.values
        self.keys, self.values = self.keys[: len(rows)], self.values[: len(rows)]
        self.keys[:, :, : self.length] = keys
        self.values[:, :, : self.length] = values


class Positions(NamedTuple):
    """What a model knows of the first positions, or of those in documents, which each row then has its own of.

    Attributes:
        learned: (T, D) or (B, T, D), added to the tokens' embeddings.
        turns: (T, K / 2, 2) or (B, T, K / 2, 2), the ``rotation`` of queries and keys, or None where they are not
            rotary.
        mask: (B, 1, T, T), whether a query sees a key, or None where it sees all up to its own.
    """

    learned: Tensor
    turns: Tensor | None
    mask: Tensor | None = None

    def between(self, begin: int, end: int) -> "Positions":
        """Those of some tokens only."""
        return Positions(self.learned[begin:end], None if self.turns is None else self.turns[begin:end])


class KeyValueCache:
    """A cache for each layer.

    Attributes:
        layers: What each layer has seen.
        positions: All that it has room for.
    """

    def __init__(self, num_layers: int, shape: tuple[int, int, int, int], like: Tensor, positions: Positions) -> None:
        """Allocates for ``shape`` (B, H, max_len, K) with the device and dtype of ``like``."""
        self.layers = [LayerCache(shape, like) for _ in range(num_layers)]
        self.positions = positions

    @property
    def length(self) -> int:
        """Tokens seen so far."""
        return self.layers[0].length

    def reorder(self, rows: Tensor) -> None:
        """Makes row i the continuation of what was row ``rows[i]``."""
        for layer in self.layers:
            layer.reorder(rows)


class _CausalOnCPU(torch.autograd.Function):
    """torch's fused attention on a CPU, whose backward pass skips more of what causality leaves out.

    torch's own backward pass takes up to 256 queries at a time, and computes their products with keys that most of
    them do not see. Shorter stretches, first with their own keys and then with all before them,
    add up to the same gradients in three quarters of the time: each knows the whole row's logsumexp, as in ring
    attention (Liu et al. 2023, https://arxiv.org/abs/2310.01889).
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """(B, H, T, K) each, to (B, H, T, K)."""
        output, logsumexp = _forward(query, key, value, 0.0, True)
        ctx.save_for_backward(query, key, value, output, logsumexp)
        return output  # type: ignore[no-any-return]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of query, key and value."""
        query, key, value, output, logsumexp = ctx.saved_tensors
        length = query.shape[2]
        count = -(-length // STRETCH)
        edges = [i * length // count for i in range(count + 1)]
        of_query, of_key, of_value = (torch.empty_like(tensor) for tensor in (query, key, value))
        for begin, end in pairwise(edges):
            own, before = slice(begin, end), slice(0, begin)
            rows = [tensor[:, :, own] for tensor in (gradient, query)]
            normal = [output[:, :, own], logsumexp[:, :, own]]
            parts = _backward(*rows, key[:, :, own], value[:, :, own], *normal, 0.0, True)
            for whole, part in zip((of_query, of_key, of_value), parts, strict=True):
                whole[:, :, own] = part
            if begin:
                parts = _backward(*rows, key[:, :, before], value[:, :, before], *normal, 0.0, False)
                for whole, seen, part in zip((of_query, of_key, of_value), (own, before, before), parts, strict=True):
                    whole[:, :, seen] += part
        return of_query, of_key, of_value


def causal_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Each token's mean of the values up to its own, weighted by softmax(query · key / sqrt(K)).

    Shape:
        - query, key, value, output: (B, H, T, K)
    """
    needs_gradients = torch.is_grad_enabled() and query.requires_grad
    if needs_gradients and query.device.type == "cpu" and query.dtype == torch.float32 and query.shape[2] > STRETCH:
        return _CausalOnCPU.apply(query, key, value)  # type: ignore[no-any-return]
    return F.scaled_dot_product_attention(query, key, value, is_causal=query.shape[2] > 1)


def same_document(position_ids: Tensor) -> Tensor:
    """Whether a query sees a key: one of its own document, up to its own.

    Shape:
        - position_ids: (B, T), 0 where a document begins
        - output: (B, 1, T, T)
    """
    documents = (position_ids == 0).cumsum(1)
    return (documents[:, None, :, None] == documents[:, None, None, :]).tril()


def rotation(positions: Tensor, head_dim: int) -> Tensor:
    """Cosine and sine of the angles by which a head's pairs of features are turned at each position.

    A position of one number turns all pairs, at frequencies from 1 down to 1 / 10 000 (Su et al. 2021,
    https://arxiv.org/abs/2104.09864). Of one of several numbers, each turns its share of the pairs, at frequencies
    down to 1 / 100, as the sides of pictures are short (Heo et al. 2024, https://arxiv.org/abs/2403.13298).

    Shape:
        - positions: (T, N)
        - output: (T, K / 2, 2), float32
    """
    axes = positions.shape[1]
    pairs = head_dim // 2 // axes
    base = 10_000.0 if axes == 1 else 100.0
    frequencies = base ** -(torch.arange(pairs, device=positions.device, dtype=torch.float32) / pairs)
    angles = (positions[:, :, None] * frequencies).flatten(1)
    return torch.stack([angles.cos(), angles.sin()], dim=-1)


def rotate(x: Tensor, turns: Tensor) -> Tensor:
    """Turns each pair of features by its angle, in float32.

    Shape:
        - x, output: (B, T, H, K)
        - turns: (T, K / 2, 2) or (B, T, K / 2, 2), of ``rotation``
    """
    pairs = x.float().reshape(*x.shape[:-1], -1, 2)
    turns = turns.unsqueeze(-3)
    if x.device.type == "cpu":  # one pass over memory; compilers for GPUs know no complex numbers
        product = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(turns))
    else:
        (first, second), (cosine, sine) = pairs.unbind(-1), turns.unbind(-1)
        product = torch.stack([first * cosine - second * sine, first * sine + second * cosine], dim=-1)
    return product.flatten(-2).to(x.dtype)


class Attention(nn.Module):
    """Self-attention (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762); a subclass says who sees whom."""

    def __init__(self, *, embed_dim: int, num_heads: int, bias: bool) -> None:
        """One matrix for queries, keys and values, one for the output."""
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim, bias=bias)
        self.out = nn.Linear(embed_dim, embed_dim, bias=bias)

    def _heads(self, x: Tensor, turns: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, D) to queries, keys and values, (B, H, T, K) each; turns are those of Positions."""
        parts = self.qkv(x).view(*x.shape[:2], 3 * self.num_heads, -1)
        if turns is None:
            q, k, v = torch.split(parts, self.num_heads, dim=2)
        else:
            both, v = torch.split(parts, [2 * self.num_heads, self.num_heads], dim=2)
            q, k = torch.split(rotate(both, turns), self.num_heads, dim=2)
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)

    def _output(self, y: Tensor) -> Tensor:
        """(B, H, T, K) to (B, T, D)."""
        return self.out(y.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class CausalAttention(Attention):
    """Each token sees those up to its own."""

    def forward(self, x: Tensor, cache: LayerCache | None, turns: Tensor | None, mask: Tensor | None = None) -> Tensor:
        """(B, T, D) to (B, T, D); with a cache, T tokens after those in it; turns and mask are those of Positions."""
        q, k, v = self._heads(x, turns)
        if mask is not None:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        else:
            y = causal_attention(q, k, v) if cache is None else cache.attend(q, k, v)
        return self._output(y)


class BidirectionalAttention(Attention):
    """Each token sees all of its row that the mask lets it."""

    def forward(self, x: Tensor, turns: Tensor | None, mask: Tensor | None) -> Tensor:
        """(B, T, D) to (B, T, D); turns are those of ``rotation``, and the mask (B, 1, 1, T) is true for tokens."""
        q, k, v = self._heads(x, turns)
        return self._output(F.scaled_dot_product_attention(q, k, v, attn_mask=mask))
