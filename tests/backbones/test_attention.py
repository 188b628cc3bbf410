"""Causal attention against a plain softmax over a mask, with its gradients, and with a cache."""

import math

import pytest
import torch
from torch import Tensor

from lt_cli.backbones.attention import NARROW, STRETCH, KeyValueCache, Positions, causal_attention, rotate, rotation

NOWHERE = Positions(torch.zeros(12, 1), None)


def plain(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Every product, then minus infinity above the diagonal; queries are the last of the keys' tokens."""
    scores = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5
    seen = torch.ones(scores.shape[-2:], dtype=torch.bool).tril(key.shape[2] - query.shape[2])
    return scores.masked_fill(~seen, float("-inf")).softmax(-1) @ value


def inputs(length: int, dtype: torch.dtype = torch.float32, width: int = 8) -> list[Tensor]:
    """Queries, keys and values as a projection gives them: rows of one tensor, not contiguous."""
    torch.manual_seed(length)
    projected = torch.randn(2, length, 3, 3, width, dtype=dtype)  # rows, tokens, parts, heads, width
    return [part.transpose(1, 2).requires_grad_() for part in projected.unbind(2)]


@pytest.mark.parametrize("length", [1, 2, STRETCH - 1, STRETCH, STRETCH + 1, 3 * STRETCH + 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients(length: int, dtype: torch.dtype) -> None:
    parts = inputs(length, dtype)
    weight = torch.randn(2, 3, length, 8, dtype=dtype)
    found, expected = causal_attention(*parts), plain(*parts)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    gradients = torch.autograd.grad((found * weight).sum(), parts)
    for one, other in zip(gradients, torch.autograd.grad((expected * weight).sum(), parts), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_gradients_of_some_inputs_only() -> None:
    """A frozen part of the model gives queries and keys that want none."""
    query, key, value = inputs(2 * STRETCH)
    of_value = torch.autograd.grad(causal_attention(query.detach(), key.detach(), value).sum(), value)[0]
    expected = torch.autograd.grad(plain(query, key, value).sum(), value)[0]
    torch.testing.assert_close(of_value, expected, rtol=1e-4, atol=1e-5)


def test_nothing_is_kept_without_gradients() -> None:
    with torch.no_grad():
        assert causal_attention(*inputs(2 * STRETCH)).grad_fn is None


WIDTHS = [NARROW - 1, NARROW]
"""Keys that lie transposed, and keys that do not."""


@pytest.mark.parametrize("pieces", [(9,), (5, 1, 1, 1, 1), (1, 4, 4), (2, 3, 1, 3)])
@pytest.mark.parametrize("width", WIDTHS)
def test_a_cache_gives_what_one_pass_does(pieces: tuple[int, ...], width: int) -> None:
    parts = [part.detach() for part in inputs(9, width=width)]
    cache = KeyValueCache(1, (2, 3, 12, width), parts[0], NOWHERE)
    found: list[Tensor] = []
    begin = 0
    for length in pieces:
        found.append(cache.layers[0].attend(*(part[:, :, begin : begin + length] for part in parts)))
        begin += length
    torch.testing.assert_close(torch.cat(found, dim=2), plain(*parts), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("width", WIDTHS)
def test_a_cache_whose_rows_change_places(width: int) -> None:
    parts = [part.detach() for part in inputs(9, width=width)]
    cache = KeyValueCache(1, (2, 3, 9, width), parts[0], NOWHERE)
    cache.layers[0].attend(*(part[:, :, :8] for part in parts))
    cache.reorder(torch.tensor([1, 1]))
    other = [torch.cat([part[[1, 1], :, :8], part[:, :, 8:]], dim=2) for part in parts]
    found = cache.layers[0].attend(*(part[:, :, 8:] for part in parts))
    torch.testing.assert_close(found, plain(other[0][:, :, 8:], *other[1:]), rtol=1e-5, atol=1e-6)


def turned(vector: list[float], position: tuple[int, ...]) -> list[float]:
    """One head's features at one position, a pair at a time, by the formula."""
    pairs = len(vector) // 2
    per_axis = pairs // len(position)
    base = 10_000 if len(position) == 1 else 100
    result = []
    for pair in range(pairs):
        axis, step = divmod(pair, per_axis)
        angle = position[axis] * base ** (-step / per_axis)
        x, y = vector[2 * pair], vector[2 * pair + 1]
        result += [x * math.cos(angle) - y * math.sin(angle), x * math.sin(angle) + y * math.cos(angle)]
    return result


POSITIONS = {"numbers": [(0,), (1,), (5,), (900,)], "rows and columns": [(0, 0), (0, 3), (2, 0), (27, 31)]}


@pytest.mark.parametrize("positions", POSITIONS.values(), ids=POSITIONS)
def test_rotation_is_the_formula(positions: list[tuple[int, ...]]) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4, 3, 8)
    found = rotate(x, rotation(torch.tensor(positions), 8))
    for row in range(2):
        for token, position in enumerate(positions):
            for head in range(3):
                expected = torch.tensor(turned(x[row, token, head].tolist(), position))
                torch.testing.assert_close(found[row, token, head], expected, rtol=1e-4, atol=1e-5)


def test_attention_sees_distances() -> None:
    """The product of a turned query and key is the same wherever both stand, as far apart."""
    torch.manual_seed(0)
    query, key = torch.randn(2, 1, 1, 1, 8)
    products = []
    for row, column in ((0, 0), (3, 1), (20, 9)):
        turns = rotation(torch.tensor([(row, column), (row + 2, column + 5)]), 8)
        products.append((rotate(query, turns[:1]) * rotate(key, turns[1:])).sum())
    torch.testing.assert_close(torch.stack(products), products[0].expand(3), rtol=1e-4, atol=1e-5)


def test_half_precision_is_turned_in_float32() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 3, 2, 8)
    turns = rotation(torch.tensor([[100], [800], [1000]]), 8)
    found = rotate(x.bfloat16(), turns)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, rotate(x.bfloat16().float(), turns).bfloat16())
