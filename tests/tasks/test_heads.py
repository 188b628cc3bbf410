"""Heads start alike in every process, whatever else was drawn."""

import pytest
import torch
from toys import message

from lt_cli.tasks.heads import check_parts, linear_head


@pytest.fixture(autouse=True)
def _seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "3")


def test_a_head_is_the_seed_s(monkeypatch: pytest.MonkeyPatch) -> None:
    first = linear_head(384, 9)
    state = torch.get_rng_state()
    torch.manual_seed(1)
    again = linear_head(384, 9)
    assert torch.equal(first.weight, again.weight)
    assert not first.bias.any()
    torch.set_rng_state(state)
    monkeypatch.setenv("PL_GLOBAL_SEED", "4")
    assert not torch.equal(first.weight, linear_head(384, 9).weight)


def test_it_is_drawn_as_bert_s() -> None:
    weight = linear_head(384, 90).weight
    assert weight.mean().abs() < 1e-3
    assert weight.std().item() == pytest.approx(0.02, rel=0.02)


def test_another_dtype_or_device_draws_the_same() -> None:
    """As under a trainer's strategy and precision."""
    expected = linear_head(8, 3).weight
    torch.set_default_dtype(torch.bfloat16)
    try:
        narrow = linear_head(8, 3).weight
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(narrow, expected.bfloat16())
    with torch.device("meta"):
        assert linear_head(8, 3).weight.is_meta


def test_without_bias() -> None:
    assert linear_head(8, 1, bias=False).bias is None


def test_parts_are_parts() -> None:
    check_parts(dropout=0.0, label_smoothing=0.99)
    assert message(lambda: check_parts(dropout=0.1, label_smoothing=1.0)) == (
        "label_smoothing (1.0) must be at least 0 and less than 1"
    )
