"""Cross entropy over a large vocabulary, without the logits of all tokens at once.

N: rows, D: features, V: vocabulary.
"""

from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE = -100
"""The label of what is not to be learned, as in torch and transformers."""

CHUNK_BYTES = 2**26
"""Size of the float32 logits that are computed together."""

FEWEST_ROWS, MOST_ROWS = 256, 4096
"""Rows computed together: enough to multiply matrices at full speed, few enough for their sum to fit in float16."""

STRIPE = 2048
"""Rows of the matrix that a CPU takes at a time: they and what becomes of them stay in its cache."""


def linear_cross_entropy(features: Tensor, matrix: Tensor, bias: Tensor | None, labels: Tensor) -> Tensor:
    """Mean nats of the labels under softmax(features @ matrix.T + bias), without ever holding all logits.

    A chunk of rows at a time, the loss and its gradients are computed together, so that the backward pass only
    scales these, as in Liger Kernel (Hsu et al. 2024, https://arxiv.org/abs/2410.10989). Cut Cross Entropy (Wijmans et
    al. 2024, https://arxiv.org/abs/2411.09009) computes the logits twice instead. Rows that are ignored cost nothing.

    Under autocast, matrices are multiplied in its dtype, while softmax, loss and the sum of the matrix's gradients
    stay in float32; so they do for weights of half precision.

    Args:
        features: What the matrix turns into logits.
        matrix: The output's weights, or a slice of the embeddings that it is tied to.
        bias: Added to the logits, or None.
        labels: A class for each row, or IGNORE. Where all are ignored the loss is 0, not nan as torch's: a batch
            without labels then teaches nothing, where it would destroy every weight.

    Shape:
        - features: (..., D)
        - matrix: (V, D)
        - bias: (V,)
        - labels: (...), int64 in [0, V) or IGNORE
        - output: (), float32, or float64 for features of float64

    Raises:
        ValueError: If there is not one label for each row.
        RuntimeError: If a label is neither in [0, V) nor IGNORE, or second derivatives are asked for.
    """
    if features.shape[:-1] != labels.shape:
        raise ValueError(f"labels {tuple(labels.shape)} must be one for each row of features {tuple(features.shape)}")
    features, labels = features.reshape(-1, features.shape[-1]), labels.flatten()
    rows = (labels != IGNORE).nonzero().squeeze(1)
    if len(rows) < len(labels):
        features, labels = features.index_select(0, rows), labels[rows]
    if torch.is_grad_enabled():
        return _LinearCrossEntropy.apply(features, matrix, bias, labels)  # type: ignore[no-any-return]
    loss = _sums(features, matrix, bias, labels, (False, False, False)).loss
    return loss / max(1, len(labels))


def label_smoothing_cost(features: Tensor, matrix: Tensor, bias: Tensor | None, labels: Tensor) -> Tensor:
    """How many nats more than its label all classes together cost a row, in the mean: d below.

    ``linear_cross_entropy`` plus e d is the loss with label smoothing e, (1 - e) nll + e mean(nll of all classes), as
    torch has it (Szegedy et al. 2015, https://arxiv.org/abs/1512.00567). The mean of all logits is the features times
    the mean of the matrix, so that no logits are needed.

    Args:
        features: As there.
        matrix: As there.
        bias: As there.
        labels: As there; rows that are ignored do not count.

    Shape:
        - features: (..., D)
        - matrix: (V, D)
        - bias: (V,)
        - labels: (...), int64 in [0, V) or IGNORE
        - output: (), float32, or float64 for features of float64
    """
    is_kept = labels != IGNORE
    x, y = features[is_kept], labels[is_kept]
    wide = torch.promote_types(x.dtype, torch.float32)
    x = x.to(wide)
    difference = F.embedding(y, matrix).to(wide) - matrix.mean(0, dtype=wide)
    total: Tensor = (x * difference).sum()
    if bias is not None:
        bias = bias.to(wide)
        total = total + (bias[y] - bias.mean()).sum()
    return total / max(1, len(y))


@torch.no_grad()
def likeliest(features: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
    """The class with the largest logit of each row, without ever holding all logits.

    Shape:
        - features: (N, D)
        - matrix: (V, D)
        - bias: (V,)
        - output: (N,), int64
    """
    found = [F.linear(rows, matrix, bias).argmax(-1) for rows in torch.split(features, _rows_at_once(len(matrix)))]
    return torch.cat(found)


def _rows_at_once(vocabulary: int) -> int:
    return min(max(FEWEST_ROWS, CHUNK_BYTES // (4 * vocabulary)), MOST_ROWS)


class _Sums(NamedTuple):
    """The sum of all rows' losses and its gradients, None where nobody needs them."""

    loss: Tensor
    of_features: Tensor | None
    of_matrix: Tensor | None
    of_bias: Tensor | None


class _LinearCrossEntropy(torch.autograd.Function):
    """``linear_cross_entropy`` of rows (N, D), none of which is ignored."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, matrix: Tensor, bias: Tensor | None, labels: Tensor) -> Tensor:
        """Keeps the gradients of the sum; the mean's are divided last, where float16 has no room below 6e-8."""
        ctx.count = count = max(1, len(labels))
        ctx.dtypes = [None if tensor is None else tensor.dtype for tensor in (features, matrix, bias)]
        loss, *gradients = _sums(features, matrix, bias, labels, ctx.needs_input_grad[:3])
        ctx.save_for_backward(*gradients)
        return loss / count

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of features, matrix and bias, in their dtypes."""
        if torch.is_grad_enabled():  # once_differentiable would let what it keeps pass for constants
            raise RuntimeError("linear_cross_entropy has no second derivatives: backward without create_graph=True")
        scale = gradient / ctx.count
        kept = zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        return *(None if tensor is None else (tensor * scale).to(dtype) for tensor, dtype in kept), None


def _sums(
    features: Tensor, matrix: Tensor, bias: Tensor | None, labels: Tensor, needed: tuple[bool, bool, bool]
) -> _Sums:
    """Loss and those gradients that are needed of features, matrix and bias.

    Every buffer is made once: on a CPU, the first touch of fresh memory takes half as long as a product of matrices.
    """
    device = features.device
    narrow = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else features.dtype
    wide = torch.promote_types(narrow, torch.float32)
    features, weight = features.to(narrow), matrix.to(narrow)
    (count, width), vocabulary = features.shape, len(matrix)

    of_features = torch.empty_like(features) if needed[0] else None
    of_matrix = features.new_zeros(vocabulary, width, dtype=wide) if needed[1] else None
    of_bias = features.new_zeros(vocabulary, dtype=wide) if needed[2] else None
    loss = features.new_zeros((), dtype=wide)

    chunks = max(1, -(-count // _rows_at_once(vocabulary)))
    edges = [i * count // chunks for i in range(chunks + 1)]
    products = features.new_empty(-(-count // chunks), vocabulary)
    logits = products if narrow == wide else torch.empty_like(products, dtype=wide)
    softmax = torch.empty_like(logits)
    stripe = STRIPE if device.type == "cpu" else vocabulary

    for begin, end in pairwise(edges):
        x, target = features[begin:end], labels[begin:end, None]
        rounded, z, p = (buffer[: end - begin] for buffer in (products, logits, softmax))
        for columns, some in zip(torch.split(rounded, stripe, dim=1), torch.split(weight, stripe), strict=True):
            torch.mm(x, some.T, out=columns)
        if rounded.dtype != wide:
            z.copy_(rounded)
        if bias is not None:
            z += bias
        if not any(needed):
            loss -= torch.log_softmax(z, dim=1, out=p).gather(1, target).sum()
            continue
        torch.softmax(z, dim=1, out=p)
        # the largest probability is at least 1 / V, so that its logarithm is exact where the label's may not be
        normaliser = z.amax(1, keepdim=True) - p.amax(1, keepdim=True).log()
        loss += (normaliser - z.gather(1, target)).sum()
        p.scatter_add_(1, target, p.new_full(target.shape, -1))
        if of_bias is not None:
            of_bias += p.sum(0)
        if rounded.dtype != wide:
            p = rounded.copy_(p)
        if of_features is not None:
            torch.mm(p, weight, out=of_features[begin:end])
        if of_matrix is not None:
            _add_product(of_matrix, p, x, stripe)
    return _Sums(loss, of_features, of_matrix, of_bias)


def _add_product(total: Tensor, p: Tensor, x: Tensor, stripe: int) -> None:
    """Adds p.T @ x to ``total``, which may be wider, ``stripe`` rows at a time.

    Shape:
        - total: (V, D)
        - p: (N, V)
        - x: (N, D)
    """
    if total.dtype == x.dtype:
        total.addmm_(p.T, x)
        return
    for rows, columns in zip(torch.split(total, stripe), torch.split(p, stripe, dim=1), strict=True):
        rows += columns.T @ x
