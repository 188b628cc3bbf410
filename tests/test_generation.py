"""Sampling against plain loops over full forwards."""

from typing import Any

import pytest
import torch

from lt_cli.backbones.gpt import GPT
from lt_cli.backbones.hf_seq2seq import HuggingFaceSeq2Seq
from lt_cli.errors import UserError
from lt_cli.generation import Conditioned, Sampling, continue_prompts, generate, row_uniforms

VOCAB, LENGTH = 7, 12


@pytest.fixture
def gpt() -> GPT:
    torch.manual_seed(0)
    gpt = GPT(vocab_size=VOCAB, max_seq_len=LENGTH, embed_dim=16, num_heads=2, num_layers=2).eval()
    for parameter in gpt.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return gpt


def slow_generate(gpt: GPT, prompt: torch.Tensor, num_tokens: int, sampling: Sampling, row: int) -> list[int]:
    """One row, no cache, the inverse of the distribution function as a loop."""
    tokens = prompt.tolist()
    uniforms = row_uniforms(sampling.seed, [row], num_tokens)[0].tolist()
    for uniform in uniforms:
        logits = gpt.unembed(gpt(torch.tensor([tokens])))[0, -1]
        if sampling.temperature == 0:
            tokens.append(int(logits.argmax()))
            continue
        probabilities = (logits.double() / sampling.temperature).softmax(0).tolist()
        order = sorted(range(VOCAB), key=lambda token: -probabilities[token])
        kept, mass = [], 0.0
        for rank, token in enumerate(order):
            if sampling.top_k is not None and rank >= sampling.top_k:
                break
            kept.append(token)
        total = sum(probabilities[token] for token in kept)
        nucleus = []
        for token in kept:
            if sampling.top_p is None or mass / total < sampling.top_p:
                nucleus.append(token)
            mass += probabilities[token]
        total, below = sum(probabilities[token] for token in nucleus), 0.0
        for token in sorted(nucleus):
            below += probabilities[token] / total
            if below > uniform:
                break
        tokens.append(token)
    return tokens[len(prompt) :]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 0.0},
        {"temperature": 0.6},
        {"top_k": 2},
        {"top_p": 0.5},
        {"top_k": 4, "top_p": 0.7, "seed": 3},
    ],
)
def test_cached_batch_equals_slow_loop(gpt: GPT, settings: dict[str, Any]) -> None:
    sampling = Sampling(**settings)
    prompt = torch.randint(VOCAB, (4, 3))
    rows = [5, 0, 9, 2]
    output = generate(gpt, prompt, 8, sampling, rows)
    expected = [slow_generate(gpt, prompt[i], 8, sampling, row) for i, row in enumerate(rows)]
    assert output.tolist() == expected


def test_a_row_does_not_depend_on_its_batch(gpt: GPT) -> None:
    prompt = torch.randint(VOCAB, (3, 2))
    together = generate(gpt, prompt, 6, Sampling(), [0, 1, 2])
    alone = generate(gpt, prompt[1:2], 6, Sampling(), [1])
    assert together[1].tolist() == alone[0].tolist()
    other_seed = generate(gpt, prompt, 6, Sampling(seed=1), [0, 1, 2])
    assert together.tolist() != other_seed.tolist()


def test_samples_follow_the_distribution() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, float("-inf")]]).expand(20_000, -1)
    tokens = Sampling().choose(logits, torch.rand(20_000, generator=torch.Generator().manual_seed(0)))
    frequencies = torch.bincount(tokens, minlength=4) / 20_000
    torch.testing.assert_close(frequencies, logits[0].softmax(0), atol=0.01, rtol=0)


def test_no_token_outside_the_candidates_at_the_edges() -> None:
    logits = torch.tensor([[0.0, 0.0, float("-inf")]])
    almost_one = torch.tensor([1 - 2**-24])
    assert Sampling().choose(logits, almost_one).item() == 1
    assert Sampling().choose(torch.tensor([[float("-inf"), 0.0, 0.0]]), torch.zeros(1)).item() == 1


def test_whole_context_can_be_filled(gpt: GPT) -> None:
    prompt = torch.full((2, 1), gpt.start_id or 0)
    tokens = generate(gpt, prompt, LENGTH, Sampling(), [0, 1])
    assert tokens.shape == (2, LENGTH)
    assert tokens.max() < VOCAB
    with pytest.raises(UserError, match=rf"prompt of 1 and {LENGTH + 1} new tokens exceed max_seq_len \({LENGTH}\)"):
        generate(gpt, prompt, LENGTH + 1, Sampling(), [0, 1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -1.0}, "temperature"),
        ({"top_k": 0}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
    ],
)
def test_impossible_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Sampling(**settings)


def test_what_was_drawn_can_be_trained_on(gpt: GPT) -> None:
    """The tokens are plain ones, and so are the weights afterwards."""
    start = torch.full((2, 1), VOCAB)
    drawn = generate(gpt, start, 4, Sampling(), range(2))
    gpt.unembed(gpt(drawn)).sum().backward()
    assert not drawn.is_inference()
    assert all(parameter.grad is not None for parameter in gpt.blocks.parameters())


class TestContinuePrompts:
    """Prompts of different lengths, against one at a time."""

    PROMPTS = ((1, 2, 3, 4, 5), (6,), (0, 2, 4))

    def continued(self, gpt: GPT, rows: list[int], settings: dict[str, Any], **options: Any) -> list[list[int]]:
        prompts = [self.PROMPTS[row] for row in rows]
        longest = max(map(len, prompts))
        padded = torch.tensor([[*prompt, *[VOCAB - 1] * (longest - len(prompt))] for prompt in prompts])
        ended = options.get("ended", lambda tokens: False)
        return continue_prompts(gpt, padded, [len(p) for p in prompts], 5, Sampling(**settings), rows, ended)

    @pytest.mark.parametrize("settings", [{}, {"temperature": 0.0}, {"top_k": 3, "seed": 5}])
    @pytest.mark.parametrize("rows", [[0], [0, 1, 2], [2, 1]])
    def test_each_is_as_if_alone(self, gpt: GPT, rows: list[int], settings: dict[str, Any]) -> None:
        made = self.continued(gpt, rows, settings)
        for row, tokens in zip(rows, made, strict=True):
            with torch.no_grad():
                slow = slow_generate(gpt, torch.tensor(self.PROMPTS[row]), 5, Sampling(**settings), row)
            assert tokens == slow

    def test_each_ends_on_its_own(self, gpt: GPT) -> None:
        whole = self.continued(gpt, [0, 1, 2], {})
        made = self.continued(gpt, [0, 1, 2], {}, ended=lambda tokens: tokens[-1] == whole[1][1])
        for tokens, all_of_them in zip(made, whole, strict=True):
            end = all_of_them.index(whole[1][1]) + 1 if whole[1][1] in all_of_them else 5
            assert tokens == all_of_them[:end]

    def test_the_context_ends_it(self, gpt: GPT) -> None:
        """The last token need not fit."""
        prompt = torch.arange(LENGTH)[None] % VOCAB
        made = continue_prompts(gpt, prompt, [LENGTH - 2], 9, Sampling(), [0], lambda tokens: False)
        assert len(made[0]) == 3

    def test_no_pass_more_than_needed(self, gpt: GPT) -> None:
        passes = []
        gpt.register_forward_hook(lambda module, args, output: passes.append(args[0].shape[1]))
        self.continued(gpt, [0, 1, 2], {}, ended=lambda tokens: True)
        assert passes == [1, 1, 1, 1, 1]
        passes.clear()
        self.continued(gpt, [0], {})
        assert passes == [5, 1, 1, 1, 1]

    def test_more_tokens_than_memory(self, gpt: GPT) -> None:
        made = continue_prompts(gpt, torch.tensor([[1, 2]]), [2], 10**12, Sampling(), [0], lambda tokens: False)
        assert len(made[0]) == LENGTH - 1


class TestConditioned:
    """Targets of sources, against one at a time with all of it known."""

    SOURCES = torch.tensor([[2, 3, 4, 5], [6, 5, 0, 0], [3, 3, 6, 0]])
    MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]])

    def backbone(self) -> HuggingFaceSeq2Seq:
        torch.manual_seed(0)
        t5 = {"model_type": "t5", "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}
        backbone = HuggingFaceSeq2Seq(architecture=t5, vocab_size=VOCAB, max_seq_len=4, max_target_len=LENGTH).eval()
        for parameter in backbone.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
        return backbone

    @torch.no_grad()
    def slow(self, backbone: HuggingFaceSeq2Seq, row: int, sampling: Sampling) -> list[int]:
        source, tokens = self.SOURCES[row : row + 1, : self.MASK[row].sum()], [backbone.start_id]
        for uniform in row_uniforms(sampling.seed, [row], LENGTH)[0]:
            features = backbone(source, decoder_input_ids=torch.tensor([tokens]))
            tokens.append(int(sampling.choose(backbone.unembed(features)[:, -1], uniform[None])))
        return tokens[1:]

    @pytest.mark.parametrize("settings", [{}, {"temperature": 0.0}, {"top_k": 3, "seed": 5}])
    def test_each_target_is_as_if_alone(self, settings: dict[str, Any]) -> None:
        backbone, sampling = self.backbone(), Sampling(**settings)
        conditioned = Conditioned(backbone, self.SOURCES, self.MASK)
        expected = [self.slow(backbone, row, sampling) for row in range(3)]
        assert generate(conditioned, conditioned.start, LENGTH, sampling, range(3)).tolist() == expected
        made = continue_prompts(conditioned, conditioned.start, [1] * 3, 99, sampling, range(3), lambda tokens: False)
        assert made == expected
        assert len({*map(tuple, expected)}) > 1

    def test_a_batch_is_that_of_the_sources(self) -> None:
        conditioned = Conditioned(self.backbone(), self.SOURCES)
        with pytest.raises(ValueError, match=r"batch_size \(2\) must be that of the sources \(3\)"):
            generate(conditioned, conditioned.start[:2], 2, Sampling(), [0, 1])


def test_random_numbers_do_not_follow_the_default_dtype() -> None:
    expected = row_uniforms(0, [3], 9)
    torch.set_default_dtype(torch.bfloat16)
    try:
        assert torch.equal(row_uniforms(0, [3], 9), expected)
    finally:
        torch.set_default_dtype(torch.float32)
