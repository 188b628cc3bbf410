"""The loss of a large vocabulary against torch's own over all logits, in float64; and what it never holds."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lt_cli import losses
from lt_cli.losses import IGNORE, label_smoothing_cost, likeliest, linear_cross_entropy

ROWS, VOCAB, WIDTH = 23, 37, 6


@pytest.fixture(params=[1, 7, ROWS], ids="{} rows a chunk".format)
def _chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """One row at a time, chunks of 5 and 6, or all at once; and stripes that do not divide the vocabulary."""
    monkeypatch.setattr(losses, "FEWEST_ROWS", 1)
    monkeypatch.setattr(losses, "CHUNK_BYTES", 4 * VOCAB * request.param)
    monkeypatch.setattr(losses, "STRIPE", 10)


def inputs(dtype: torch.dtype = torch.float32, *, bias: bool = True) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """Features, matrix and bias that want gradients, and labels, of which some are ignored."""
    features = torch.randn(ROWS, WIDTH).to(dtype).requires_grad_()
    matrix = torch.randn(VOCAB, WIDTH).to(dtype).requires_grad_()
    vector = torch.randn(VOCAB).to(dtype).requires_grad_() if bias else None
    labels = torch.randint(VOCAB, (ROWS,))
    labels[[0, 4, 5, ROWS - 1]] = IGNORE
    return features, matrix, vector, labels


def reference(
    features: Tensor, matrix: Tensor, bias: Tensor | None, labels: Tensor
) -> tuple[Tensor, list[Tensor | None]]:
    """Loss and gradients by torch, of the same values in float64."""
    wide = [
        None if tensor is None else tensor.detach().double().requires_grad_() for tensor in (features, matrix, bias)
    ]
    assert wide[0] is not None
    assert wide[1] is not None
    loss = F.cross_entropy(F.linear(wide[0], wide[1], wide[2]).flatten(0, -2), labels.flatten(), ignore_index=IGNORE)
    loss.backward()
    return loss.detach(), [None if tensor is None else tensor.grad for tensor in wide]


def close(found: Tensor | None, expected: Tensor | None, tolerance: float) -> None:
    assert found is not None
    assert expected is not None
    assert (found.double() - expected).norm() <= tolerance * expected.norm()


@pytest.mark.usefixtures("_chunks")
class TestAgainstTorch:
    """In chunks of every size."""

    @pytest.mark.parametrize("bias", [True, False])
    @pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
    def test_loss_and_gradients(self, dtype: torch.dtype, tolerance: float, bias: bool) -> None:
        parts = inputs(dtype, bias=bias)
        expected, gradients = reference(*parts)
        loss = linear_cross_entropy(*parts)
        (3 * loss).backward()
        assert loss.dtype == dtype
        close(loss.detach(), expected, tolerance)
        for tensor, gradient in zip(parts[: 2 + bias], gradients[: 2 + bias], strict=True):
            assert tensor is not None
            assert gradient is not None
            close(tensor.grad, 3 * gradient, tolerance)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision(self, dtype: torch.dtype) -> None:
        parts = inputs(dtype)
        expected, gradients = reference(*parts)
        loss = linear_cross_entropy(*parts)
        loss.backward()
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(expected.item(), rel=1e-3)
        for tensor, gradient in zip(parts[:3], gradients, strict=True):
            assert tensor is not None
            assert tensor.grad is not None
            assert tensor.grad.dtype == dtype
            close(tensor.grad, gradient, 1e-2)

    def test_autocast(self) -> None:
        """Products are rounded, as bf16 rounds; what they are of, and what becomes of them, is not."""
        parts = inputs()
        features, matrix, bias, labels = parts
        rounded = (features.bfloat16(), matrix.bfloat16(), bias, labels)
        expected, gradients = reference(*rounded)
        with torch.autocast("cpu", torch.bfloat16):
            loss = linear_cross_entropy(*parts)
            loss.backward()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-3)
        for tensor, gradient in zip(parts[:3], gradients, strict=True):
            assert tensor is not None
            assert tensor.grad is not None
            assert tensor.grad.dtype == torch.float32
            close(tensor.grad, gradient, 1e-2)

    def test_autocast_adds_up_in_float32(self) -> None:
        """A sum of halves in bf16 would stay at 128."""
        matrix = torch.zeros(2, 2, requires_grad=True)
        with torch.autocast("cpu", torch.bfloat16):
            linear_cross_entropy(torch.ones(6000, 2), matrix, None, torch.zeros(6000, dtype=torch.long)).backward()
        assert matrix.grad is not None
        assert matrix.grad.flatten().tolist() == pytest.approx([-0.5, -0.5, 0.5, 0.5], rel=1e-3)

    @pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 2), (1, 2)], ids=str)
    def test_frozen_parts_get_no_gradient(self, wanted: tuple[int, ...]) -> None:
        parts = inputs()
        _, gradients = reference(*parts)
        for i, tensor in enumerate(parts[:3]):
            assert tensor is not None
            tensor.requires_grad_(i in wanted)
        linear_cross_entropy(*parts).backward()
        for i, (tensor, gradient) in enumerate(zip(parts[:3], gradients, strict=True)):
            assert tensor is not None
            if i in wanted:
                close(tensor.grad, gradient, 1e-5)
            else:
                assert tensor.grad is None

    @pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
    def test_evaluation_is_the_same_loss(self, mode: Any) -> None:
        parts = inputs()
        expected, _ = reference(*parts)
        with mode():
            loss = linear_cross_entropy(*parts)
        assert not loss.requires_grad
        close(loss, expected, 1e-5)

    def test_a_slice_of_tied_embeddings(self) -> None:
        """The matrix is part of what also makes the features: both gradients add up, and other rows get none of it."""
        table = nn.Embedding(VOCAB + 2, WIDTH, dtype=torch.float64)
        tokens, labels = torch.randint(VOCAB + 2, (2, 9)), torch.randint(VOCAB, (2, 9))
        F.cross_entropy(F.linear(table(tokens), table.weight[:VOCAB]).flatten(0, 1), labels.flatten()).backward()
        expected, table.weight.grad = table.weight.grad, None
        linear_cross_entropy(table(tokens), table.weight[:VOCAB], None, labels).backward()
        close(table.weight.grad, expected, 1e-12)

    def test_features_of_any_shape(self) -> None:
        _, matrix, bias, _ = inputs(torch.float64)
        many = torch.randn(WIDTH, 3, 5, 2, dtype=torch.float64).permute(1, 3, 2, 0).requires_grad_()
        labels = torch.randint(-1, VOCAB, (3, 2, 5))
        labels[labels < 0] = IGNORE
        expected, gradients = reference(many, matrix, bias, labels)
        loss = linear_cross_entropy(many, matrix, bias, labels)
        loss.backward()
        close(loss.detach(), expected, 1e-12)
        close(many.grad, gradients[0], 1e-12)

    def test_an_improbable_label_costs_what_it_should(self) -> None:
        """Its probability is 0 in float32."""
        logits = torch.tensor([[0.0, 1000.0, 3.0]], requires_grad=True)
        for grad_mode in (torch.enable_grad, torch.no_grad):
            with grad_mode():
                assert linear_cross_entropy(logits, torch.eye(3), None, torch.tensor([0])).item() == 1000

    def test_a_sure_label_keeps_its_small_gradient_in_half_precision(self) -> None:
        """Its probability rounds to 1 in bf16, the probability less 1 does not round to 0."""
        logits = torch.tensor([[7.0, 0.0]], dtype=torch.bfloat16, requires_grad=True)
        linear_cross_entropy(logits, torch.eye(2, dtype=torch.bfloat16), None, torch.tensor([0])).backward()
        rest = 1 / (1 + torch.tensor(7.0).exp().item())
        assert logits.grad is not None
        assert logits.grad.flatten().tolist() == pytest.approx([-rest, rest], rel=0.01)


@pytest.mark.parametrize("shape", [(0, WIDTH), (4, WIDTH)])
def test_no_labels_teach_nothing(shape: tuple[int, int]) -> None:
    """Torch's mean over none is nan, which one batch would carry into every weight."""
    _, matrix, bias, _ = inputs()
    features = torch.randn(shape, requires_grad=True)
    loss = linear_cross_entropy(features, matrix, bias, torch.full(shape[:1], IGNORE))
    loss.backward()
    assert loss.item() == 0
    for tensor in (features, matrix, bias):
        assert tensor is not None
        assert tensor.grad is not None
        assert not tensor.grad.any()
    with torch.no_grad():
        assert linear_cross_entropy(features, matrix, bias, torch.full(shape[:1], IGNORE)).item() == 0


def test_a_loss_scale_reaches_the_gradients_of_float16_in_time() -> None:
    """A mean's gradients lie below float16's least number where those of the scaled loss do not."""
    rows, scale = 4096, 2.0**16
    features = torch.full((rows, 2), 0.001, dtype=torch.float16, requires_grad=True)
    matrix = torch.tensor([[0.01, 0.0], [0.0, 0.01]], dtype=torch.float16)
    (linear_cross_entropy(features, matrix, None, torch.zeros(rows, dtype=torch.long)) * scale).backward()
    assert features.grad is not None
    assert features.grad[0].tolist() == pytest.approx([-0.005 * scale / rows, 0.005 * scale / rows], rel=0.01)


def test_sums_of_many_rows_fit_in_float16() -> None:
    """20 000 rows of 4 are more than float16 can say; their mean is not."""
    matrix = torch.zeros(2, 2, dtype=torch.float16, requires_grad=True)
    features, labels = torch.full((20_000, 2), 8.0, dtype=torch.float16), torch.zeros(20_000, dtype=torch.long)
    linear_cross_entropy(features, matrix, None, labels).backward()
    assert matrix.grad is not None
    assert matrix.grad.flatten().tolist() == pytest.approx([-4, -4, 4, 4])


@pytest.mark.parametrize("label", [VOCAB, -1])
def test_a_label_outside_the_vocabulary_is_an_error(label: int) -> None:
    features, matrix, bias, labels = inputs()
    labels[3] = label
    with pytest.raises(RuntimeError, match="index"):
        linear_cross_entropy(features, matrix, bias, labels)


def test_labels_that_do_not_fit_are_named() -> None:
    features, matrix, bias, labels = inputs()
    with pytest.raises(ValueError, match=r"labels \(22,\) must be one for each row of features \(23, 6\)"):
        linear_cross_entropy(features, matrix, bias, labels[1:])


def test_second_derivatives_are_refused() -> None:
    features, matrix, bias, labels = inputs()
    loss = linear_cross_entropy(features, matrix, bias, labels)
    with pytest.raises(RuntimeError, match="has no second derivatives: backward without create_graph=True"):
        torch.autograd.grad(loss, features, create_graph=True)


def test_two_backward_passes_give_the_same() -> None:
    features, matrix, bias, labels = inputs()
    loss = linear_cross_entropy(features, matrix, bias, labels)
    first = torch.autograd.grad(2 * loss, [features, matrix], retain_graph=True)
    again = torch.autograd.grad(2 * loss, [features, matrix])
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


class Made(TorchDispatchMode):
    """Remembers the shapes of all tensors that operations made, views of others left out."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if not any(one.alias_info for one in function._schema.returns):
            tensors = result if isinstance(result, (tuple, list)) else [result]
            self.shapes |= {tuple(tensor.shape) for tensor in tensors if isinstance(tensor, Tensor)}
        return result


@pytest.mark.usefixtures("_chunks")
def test_never_holds_all_logits() -> None:
    features, matrix, bias, labels = inputs()
    most = min(losses.CHUNK_BYTES // (4 * VOCAB), ROWS - 4)
    with Made() as made:
        linear_cross_entropy(features, matrix, bias, labels).backward()
    largest = max(math.prod(shape) for shape in made.shapes)
    assert largest == max(most * VOCAB, VOCAB * WIDTH), "the instrument sees the buffers"


@pytest.mark.parametrize(
    ("wanted", "mode"), [(True, torch.enable_grad), (False, torch.enable_grad), (True, torch.no_grad)]
)
def test_a_gradient_that_nobody_needs_has_no_buffer(wanted: bool, mode: Any) -> None:
    """Of a frozen matrix, or in evaluation."""
    features, matrix, bias, labels = inputs()
    with mode(), Made() as made:
        linear_cross_entropy(features, matrix.requires_grad_(wanted), bias, labels)
    assert ((VOCAB, WIDTH) in made.shapes) == (wanted and mode is torch.enable_grad)


@pytest.mark.parametrize("rows", [0, 1, 700])
def test_likeliest(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lt_cli.losses.CHUNK_BYTES", 1)
    features, matrix, bias = torch.randn(rows, 4), torch.randn(9, 4), torch.randn(9)
    assert torch.equal(likeliest(features, matrix, bias), (features @ matrix.T + bias).argmax(1))


class TestSmoothing:
    """With the part that label smoothing adds, against torch's own over all logits."""

    @pytest.mark.parametrize("bias", [True, False])
    @pytest.mark.parametrize("smoothing", [0.1, 0.9])
    @pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
    def test_loss_and_gradients(self, dtype: torch.dtype, tolerance: float, smoothing: float, bias: bool) -> None:
        parts = inputs(dtype, bias=bias)
        wide = [None if x is None else x.detach().double().requires_grad_() for x in parts[:3]]
        assert wide[0] is not None
        assert wide[1] is not None
        expected = F.cross_entropy(
            F.linear(wide[0], wide[1], wide[2]), parts[3], ignore_index=IGNORE, label_smoothing=smoothing
        )
        expected.backward()
        loss = linear_cross_entropy(*parts) + smoothing * label_smoothing_cost(*parts)
        loss.backward()
        assert loss.dtype == dtype
        close(loss.detach(), expected.detach(), tolerance)
        for tensor, other in zip(parts[: 2 + bias], wide, strict=False):
            assert tensor is not None
            assert other is not None
            close(tensor.grad, other.grad, tolerance)

    def test_half_precision_is_added_up_in_float32(self) -> None:
        parts = inputs(torch.bfloat16)
        cost = label_smoothing_cost(*parts)
        assert cost.dtype == torch.float32
        exact = label_smoothing_cost(*(x if x is None or not x.is_floating_point() else x.double() for x in parts))
        assert cost.item() == pytest.approx(exact.item(), rel=1e-5)

    def test_nothing_to_learn_costs_nothing(self) -> None:
        features, matrix, bias, labels = inputs()
        assert label_smoothing_cost(features, matrix, bias, torch.full_like(labels, IGNORE)) == 0

    def test_rows_in_any_shape(self) -> None:
        features, matrix, bias, labels = inputs()
        flat = label_smoothing_cost(features[:20], matrix, bias, labels[:20])
        square = label_smoothing_cost(features[:20].view(4, 5, -1), matrix, bias, labels[:20].view(4, 5))
        torch.testing.assert_close(square, flat)
