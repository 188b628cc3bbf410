"""Beam search against transformers' own, against all continuations there are, and against each prompt alone."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GenerationConfig

from lt_cli.backbones.gpt import GPT
from lt_cli.backbones.hf_seq2seq import HuggingFaceSeq2Seq
from lt_cli.backbones.huggingface import HuggingFaceCausalLM
from lt_cli.beam_search import BeamSearch, Hypothesis, beam_search
from lt_cli.errors import UserError
from lt_cli.generation import Conditioned, Sampling, continue_prompts

VOCAB, LENGTH, END = 15, 40, 2
GPT2 = {"model_type": "gpt2", "n_layer": 2, "n_embd": 16, "n_head": 2, "tie_word_embeddings": False}
T5 = {"model_type": "t5", "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}
BART = {
    **{"model_type": "bart", "d_model": 16, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 2},
    **{"decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "forced_eos_token_id": None},
    "tie_word_embeddings": False,
}
SOURCES = torch.randint(3, VOCAB, (3, 6), generator=torch.Generator().manual_seed(0))
MASK = torch.tensor([[1] * 6, [1, 1, 1, 1, 0, 0], [1] * 6])


def enlarged(backbone: Any, std: float = 1.0) -> Any:
    """Matrices large enough for beams to differ, and for the end to come now and then."""
    for parameter in backbone.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=std)
    return backbone.eval()


def causal(seed: int = 0) -> HuggingFaceCausalLM:
    torch.manual_seed(seed)
    return enlarged(HuggingFaceCausalLM(architecture=GPT2, vocab_size=VOCAB, max_seq_len=LENGTH))


def seq2seq(kind: str, seed: int = 0) -> HuggingFaceSeq2Seq:
    torch.manual_seed(seed)
    architecture = T5 if kind == "t5" else BART
    return enlarged(HuggingFaceSeq2Seq(architecture=architecture, vocab_size=VOCAB, max_seq_len=LENGTH))


def found_and_theirs(
    kind: str, seed: int, search: BeamSearch, num_tokens: int = 12
) -> list[tuple[Hypothesis, list[int], float | None]]:
    """Ours, what generate finds for the same rows, and the score that it gives it."""
    config = GenerationConfig(
        num_beams=search.num_beams,
        max_new_tokens=num_tokens,
        min_new_tokens=search.min_new_tokens or None,
        no_repeat_ngram_size=search.no_repeat_ngram_size,
        length_penalty=search.length_penalty,
        early_stopping=search.early_stopping,
        **{"eos_token_id": END, "pad_token_id": 0, "decoder_start_token_id": 0, "do_sample": False},
        **{"return_dict_in_generate": True, "output_scores": True},
    )
    if kind == "gpt2":
        backbone: Any = causal(seed)
        made = beam_search(backbone, SOURCES, [6] * 3, num_tokens, search, END)
        mask, begin = torch.ones_like(SOURCES), 6
    else:
        backbone = seq2seq(kind, seed)
        conditioned = Conditioned(backbone, SOURCES, MASK)
        made = beam_search(conditioned, conditioned.start, [1] * 3, num_tokens, search, END)
        mask, begin = MASK, 1
    own = backbone.hf_model.generate(SOURCES, attention_mask=mask, generation_config=config)
    theirs = [row[begin:].tolist() for row in own.sequences]
    theirs = [row[: row.index(END) + 1] if END in row else row for row in theirs]
    scores = own.sequences_scores.tolist() if search.num_beams > 1 else [None] * 3
    return list(zip(made, theirs, scores, strict=True))


SETTINGS: list[dict[str, Any]] = [
    {"num_beams": 1},
    {"num_beams": 1, "min_new_tokens": 4, "no_repeat_ngram_size": 2},
    {"num_beams": 2},
    {"num_beams": 4},
    {"num_beams": 4, "early_stopping": True},
    {"num_beams": 3, "length_penalty": 0.0},
    {"num_beams": 3, "length_penalty": 2.0},
    {"num_beams": 3, "length_penalty": -1.0, "min_new_tokens": 2},
    {"num_beams": 5, "min_new_tokens": 5},
    {"num_beams": 4, "no_repeat_ngram_size": 2},
    {"num_beams": 4, "no_repeat_ngram_size": 3, "length_penalty": 0.6, "early_stopping": True},
    {"num_beams": 3, "num_tokens": 1},
    {"num_beams": 3, "num_tokens": 6, "no_repeat_ngram_size": 1},
]


@pytest.mark.parametrize("kind", ["gpt2", "t5", "bart"])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_same_as_transformers(kind: str, settings: dict[str, Any]) -> None:
    options = dict(settings)
    num_tokens = options.pop("num_tokens", 12)
    for seed in range(6):
        for made, theirs, score in found_and_theirs(kind, seed, BeamSearch(**options), num_tokens):
            if score is None:
                assert made.tokens == theirs
            else:
                torch.testing.assert_close(made.score, score, rtol=1e-4, atol=1e-4)
                assert made.tokens == theirs or math.isclose(made.score, score, rel_tol=1e-6), "unless two are alike"


def test_the_comparison_says_something() -> None:
    """Rows end in the middle and at the end, and beams find what greedy search does not."""
    rows = [
        (beams.tokens, greedy.tokens)
        for kind in ("gpt2", "t5", "bart")
        for seed in range(6)
        for (beams, *_), (greedy, *_) in zip(
            found_and_theirs(kind, seed, BeamSearch(num_beams=4)),
            found_and_theirs(kind, seed, BeamSearch(num_beams=1)),
            strict=True,
        )
    ]
    assert sum(beams != greedy for beams, greedy in rows) > len(rows) / 3
    assert len(rows) / 5 < sum(beams[-1] == END for beams, _ in rows) < len(rows) / 2


def small_gpt(vocab: int = 5, length: int = 9) -> GPT:
    torch.manual_seed(0)
    return enlarged(GPT(vocab_size=vocab, max_seq_len=length, embed_dim=16, num_heads=2, num_layers=2), 0.5)


@torch.no_grad()
def log_probability(gpt: GPT, prompt: list[int], tokens: list[int]) -> float:
    logits = gpt.unembed(gpt(torch.tensor([prompt + tokens[:-1]])))[0, len(prompt) - 1 :]
    return float(logits.log_softmax(-1).gather(1, torch.tensor(tokens)[:, None]).sum())


@pytest.mark.parametrize("penalty", [0.0, 1.0, 3.0])
def test_with_a_beam_for_each_continuation_it_finds_the_best(penalty: float) -> None:
    """Against all that there are."""
    gpt, prompt, longest = small_gpt(), [3, 1], 3
    continuations = [
        [*tokens]
        for length in range(1, longest + 1)
        for tokens in itertools.product(range(5), repeat=length)
        if END not in tokens[:-1] and (length == longest or tokens[-1] == END)
    ]
    scored = [(log_probability(gpt, prompt, tokens) / len(tokens) ** penalty, tokens) for tokens in continuations]
    search = BeamSearch(num_beams=5**longest, length_penalty=penalty)
    made = beam_search(gpt, torch.tensor([prompt]), [2], longest, search, END)[0]
    assert made.tokens == max(scored)[1]
    assert made.score == pytest.approx(max(scored)[0], abs=1e-5)


PROMPTS = ((1, 4, 3, 0, 4), (3,), (0, 4), (3, 1, 1, 1))


def padded(rows: list[int]) -> tuple[Tensor, list[int]]:
    longest = max(len(PROMPTS[row]) for row in rows)
    ids = [[*PROMPTS[row], *[4] * (longest - len(PROMPTS[row]))] for row in rows]
    return torch.tensor(ids), [len(PROMPTS[row]) for row in rows]


@pytest.mark.parametrize("rows", [[0, 1, 2, 3], [3, 0], [2, 1, 2]])
@pytest.mark.parametrize(
    "settings",
    [{}, {"num_beams": 1}, {"early_stopping": True, "length_penalty": 0.0}, {"min_new_tokens": 2}, {"num_beams": 2}],
)
@pytest.mark.parametrize("ours", [True, False])
def test_prompts_of_any_length_are_each_as_if_alone(rows: list[int], settings: dict[str, Any], ours: bool) -> None:
    backbone = small_gpt() if ours else causal(3)
    search = BeamSearch(**{"num_beams": 3, "no_repeat_ngram_size": 3} | settings)
    made = beam_search(backbone, *padded(rows), 6, search, END)
    for row, hypothesis in zip(rows, made, strict=True):
        alone = beam_search(backbone, *padded([row]), 6, search, END)[0]
        assert hypothesis.tokens == alone.tokens
        assert hypothesis.score == pytest.approx(alone.score, abs=1e-5)
        if ours:
            summed = log_probability(backbone, [*PROMPTS[row]], alone.tokens)
            assert alone.score == pytest.approx(summed / len(alone.tokens) ** search.length_penalty, abs=1e-5)


def test_one_beam_is_greedy_search() -> None:
    gpt = small_gpt()
    prompts, lengths = padded([0, 1, 2, 3])
    made = beam_search(gpt, prompts, lengths, 5, BeamSearch(num_beams=1), END)
    rows, greedy = range(4), Sampling(temperature=0.0)
    expected = continue_prompts(gpt, prompts, lengths, 5, greedy, rows, lambda tokens: tokens[-1] == END)
    assert [hypothesis.tokens for hypothesis in made] == expected


def test_the_context_ends_it() -> None:
    """The last token need not fit."""
    gpt = small_gpt()
    prompts = torch.tensor([[1] * 7, [3] * 7])
    made = beam_search(gpt, prompts, [7, 5], 99, BeamSearch(num_beams=2), None)
    assert [len(hypothesis.tokens) for hypothesis in made] == [3, 5]
    with pytest.raises(UserError, match=r"prompt of 10 tokens exceeds max_seq_len \(9\)"):
        beam_search(gpt, torch.zeros(1, 10, dtype=torch.long), [10], 1, BeamSearch(), None)


def test_where_nothing_may_follow_the_search_ends() -> None:
    """With one token of each kind: the prompt has one, and there are five."""
    made = beam_search(small_gpt(), torch.tensor([[3]]), [1], 99, BeamSearch(no_repeat_ngram_size=1), None)[0]
    assert sorted(made.tokens) == [0, 1, 2, 4]
    made = beam_search(small_gpt(), torch.tensor([[0, 1, 2, 3, 4]]), [5], 99, BeamSearch(no_repeat_ngram_size=1), None)[
        0
    ]
    assert made == Hypothesis([], 0.0)


def test_rows_that_are_done_are_not_computed() -> None:
    backbone, sizes = seq2seq("t5"), []
    backbone.hf_model.get_decoder().register_forward_hook(lambda module, args, output: sizes.append(len(output[0])))
    conditioned = Conditioned(backbone, SOURCES, MASK)
    made = beam_search(conditioned, conditioned.start, [1] * 3, 9, BeamSearch(num_beams=2), END)
    assert sizes[:2] == [3, 6]
    assert sizes[1:] == sorted(sizes[1:], reverse=True)
    assert len(sizes) <= 9
    assert len(made) == 3


def test_scores_do_not_follow_the_default_dtype() -> None:
    """As it is bfloat16 where weights are."""
    gpt, search = small_gpt(), BeamSearch(num_beams=3)
    expected = beam_search(gpt, torch.tensor([[3]]), [1], 6, search, END)
    torch.set_default_dtype(torch.bfloat16)
    try:
        assert beam_search(gpt, torch.tensor([[3]]), [1], 6, search, END) == expected
    finally:
        torch.set_default_dtype(torch.float32)


def test_what_was_found_leaves_the_weights_trainable() -> None:
    gpt = small_gpt()
    made = beam_search(gpt, torch.tensor([[3]]), [1], 3, BeamSearch(), None)[0]
    gpt.unembed(gpt(torch.tensor([made.tokens]))).sum().backward()
    assert all(parameter.grad is not None for parameter in gpt.blocks.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_beams": 0}, r"num_beams \(0\) must be at least 1"),
        ({"min_new_tokens": -1}, "min_new_tokens"),
        ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size"),
        ({"length_penalty": math.nan}, "length_penalty"),
    ],
)
def test_impossible_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        BeamSearch(**settings)
