"""GPT against transformers' models with the same weights, and its cache against the full forward."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, ImageGPTConfig, ImageGPTForCausalImageModeling

from lt_cli.backbones.gpt import GPT
from lt_cli.errors import UserError

VOCAB, LENGTH, WIDTH, HEADS, LAYERS = 11, 20, 24, 3, 2


def small_gpt(**overrides: Any) -> GPT:
    sizes = {"vocab_size": VOCAB, "max_seq_len": LENGTH, "embed_dim": WIDTH, "num_heads": HEADS, "num_layers": LAYERS}
    return GPT(**{**sizes, **overrides})


def randomise(module: nn.Module, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)


def transplant(theirs: nn.Module, ours: GPT) -> None:
    """Copies weights from a transformers model; its Conv1D stores matrices transposed."""
    source = dict(theirs.named_parameters())

    def copy(target: Tensor | None, name: str, *, transpose: bool = False) -> None:
        if target is not None:
            with torch.no_grad():
                target.copy_(source[name].T if transpose else source[name])

    copy(ours.token_embedding.weight, "transformer.wte.weight")
    copy(ours.position_embedding.weight, "transformer.wpe.weight")
    pairs = {"attention_norm": "ln_1", "mlp_norm": "ln_2"}
    matrices = {
        "attention.qkv": "attn.c_attn",
        "attention.out": "attn.c_proj",
        "mlp.up": "mlp.c_fc",
        "mlp.down": "mlp.c_proj",
    }
    for i, block in enumerate(ours.blocks):
        for mine, name in pairs.items():
            copy(block.get_submodule(mine).weight, f"transformer.h.{i}.{name}.weight")
            copy(getattr(block.get_submodule(mine), "bias", None), f"transformer.h.{i}.{name}.bias")
        for mine, name in matrices.items():
            copy(block.get_submodule(mine).weight, f"transformer.h.{i}.{name}.weight", transpose=True)
            copy(block.get_submodule(mine).bias, f"transformer.h.{i}.{name}.bias")
    copy(ours.norm.weight, "transformer.ln_f.weight")
    copy(getattr(ours.norm, "bias", None), "transformer.ln_f.bias")
    if ours.output is not None:
        copy(ours.output.weight, "lm_head.weight")


@pytest.mark.parametrize("bias", [True, False])
def test_paper_block_equals_transformers_image_gpt(bias: bool) -> None:
    config = ImageGPTConfig(vocab_size=VOCAB + 1, n_positions=LENGTH, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS)
    theirs = ImageGPTForCausalImageModeling(config).eval()
    randomise(theirs)
    if not bias:
        for name, parameter in theirs.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
    ours = small_gpt(bias=bias).eval()
    transplant(theirs, ours)
    tokens = torch.randint(VOCAB + 1, (3, LENGTH))
    torch.testing.assert_close(ours.unembed(ours(tokens)), theirs(tokens).logits, atol=1e-5, rtol=1e-5)


def test_gpt2_block_equals_transformers_gpt2() -> None:
    config = GPT2Config(vocab_size=VOCAB, n_positions=LENGTH, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS)
    theirs = GPT2LMHeadModel(config).eval()
    randomise(theirs)
    ours = small_gpt(norm="layernorm", activation="gelu_tanh", bias=True, tie_embeddings=True, start_token=False).eval()
    transplant(theirs, ours)
    tokens = torch.randint(VOCAB, (3, LENGTH))
    torch.testing.assert_close(ours.unembed(ours(tokens)), theirs(tokens).logits, atol=1e-5, rtol=1e-5)


def test_residual_stream_is_not_normalised() -> None:
    """The reference code's block adds to LN(x); doubling what enters a block must show in what leaves it."""
    gpt = small_gpt().eval()
    x = torch.randn(1, 4, WIDTH)
    block = gpt.blocks[0]
    nn.init.zeros_(block.attention.out.weight)
    nn.init.zeros_(block.mlp.down.weight)
    torch.testing.assert_close(block(2 * x, None, None), 2 * x)


POSITIONS = [{}, {"grid_width": 6}, {"rotary": True}, {"grid_width": 6, "rotary": True}]
"""What a position may be: a number or a row and a column, learned or also rotary."""


@pytest.mark.parametrize("length", [1, 2, LENGTH - 1, LENGTH])
@pytest.mark.parametrize("prefill", [1, 5])
@pytest.mark.parametrize("positions", POSITIONS, ids=str)
def test_cache_equals_full_forward_at_every_length(length: int, prefill: int, positions: dict[str, Any]) -> None:
    gpt = small_gpt(**positions).eval()
    randomise(gpt)
    tokens = torch.randint(VOCAB, (2, length))
    cache = gpt.make_cache(2, length)
    prefill = min(prefill, length)
    parts = [gpt(tokens[:, :prefill], cache=cache)]
    parts += [gpt(tokens[:, i : i + 1], cache=cache) for i in range(prefill, length)]
    torch.testing.assert_close(torch.cat(parts, dim=1), gpt(tokens), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("positions", POSITIONS, ids=str)
def test_cache_takes_several_tokens_at_once(positions: dict[str, Any]) -> None:
    gpt = small_gpt(**positions).eval()
    randomise(gpt)
    tokens = torch.randint(VOCAB, (2, 9))
    cache = gpt.make_cache(2, 9)
    parts = [gpt(tokens[:, :4], cache=cache), gpt(tokens[:, 4:9], cache=cache)]
    torch.testing.assert_close(torch.cat(parts, dim=1), gpt(tokens), atol=1e-5, rtol=1e-5)


def test_vectors_stand_for_tokens() -> None:
    gpt = small_gpt(rotary=True).eval()
    randomise(gpt)
    ids = torch.randint(VOCAB, (2, LENGTH))
    vectors = gpt.embed(ids)
    assert torch.equal(gpt.read(vectors), gpt(ids))
    assert not torch.allclose(gpt.read(vectors.flip(1)), gpt(ids), atol=1e-2), "any vectors will do"
    cache = gpt.make_cache(2, LENGTH)
    parts = [gpt.read(vectors[:, :5], cache=cache), gpt(ids[:, 5:], cache=cache)]
    torch.testing.assert_close(torch.cat(parts, dim=1), gpt(ids), atol=1e-5, rtol=1e-5)


def test_reordered_cache_continues_the_chosen_rows() -> None:
    gpt = small_gpt().eval()
    randomise(gpt)
    tokens = torch.randint(VOCAB, (3, 5))
    cache = gpt.make_cache(3, 6)
    gpt(tokens, cache=cache)
    cache.reorder(torch.tensor([2, 2, 0]))
    following = torch.tensor([[1], [2], [3]])
    expected = gpt(torch.cat([tokens[[2, 2, 0]], following], dim=1))[:, -1:]
    torch.testing.assert_close(gpt(following, cache=cache), expected, atol=1e-5, rtol=1e-5)


def test_reordered_cache_has_as_many_rows_as_are_chosen() -> None:
    gpt = small_gpt().eval()
    randomise(gpt)
    tokens = torch.randint(VOCAB, (2, 4))
    cache = gpt.make_cache(2, 7)
    gpt(tokens, cache=cache)
    for rows in ([0, 0, 0, 1, 1], [4, 2, 2], [1, 2, 0, 2]):
        order = torch.tensor(rows)
        cache.reorder(order)
        tokens = torch.cat([tokens[order], torch.randint(VOCAB, (len(rows), 1))], dim=1)
        torch.testing.assert_close(gpt(tokens[:, -1:], cache=cache), gpt(tokens)[:, -1:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("positions", POSITIONS, ids=str)
def test_features_depend_on_the_past_only(positions: dict[str, Any]) -> None:
    gpt = small_gpt(**positions).eval()
    randomise(gpt)
    tokens = torch.randint(VOCAB, (1, 8))
    changed = tokens.clone()
    changed[0, 5:] = (changed[0, 5:] + 1) % VOCAB
    difference = (gpt(tokens) - gpt(changed)).abs().amax(dim=(0, 2))
    assert difference[:5].max() < 1e-6
    assert difference[5:].min() > 1e-3


@pytest.mark.parametrize("positions", POSITIONS, ids=str)
def test_every_position_is_told_from_the_others(positions: dict[str, Any]) -> None:
    """Two tokens change places: the features after them change too."""
    gpt = small_gpt(**positions).eval()
    randomise(gpt)
    tokens = torch.arange(9)[None] % VOCAB
    last = gpt(tokens)[0, -1]
    for first in range(7):
        swapped = tokens.clone()
        swapped[0, [first, first + 1]] = tokens[0, [first + 1, first]]
        assert (gpt(swapped)[0, -1] - last).abs().max() > 1e-4


def test_a_grid_is_rows_and_columns() -> None:
    """A position's embedding is the sum of its row's and its column's, the last row as short as it may be."""
    gpt = small_gpt(grid_width=6)
    assert gpt.row_embedding is not None
    assert (gpt.row_embedding.num_embeddings, gpt.position_embedding.num_embeddings) == (4, 6)
    expected = gpt.row_embedding.weight[2] + gpt.position_embedding.weight[1]
    found = gpt.hidden_states(torch.zeros(1, 14, dtype=torch.long), 0)[0, 13] - gpt.token_embedding.weight[0]
    torch.testing.assert_close(found, expected)


def test_start_token_is_an_input_and_never_a_prediction() -> None:
    gpt = small_gpt()
    assert gpt.start_id == VOCAB
    assert gpt.unembed(gpt(torch.full((1, 1), VOCAB))).shape == (1, 1, VOCAB)
    assert small_gpt(start_token=False).token_embedding.num_embeddings == VOCAB


STARTS = {"gpt2": (0.02, 0.02, 0.02), "fan_in": (1.0, 192**-0.5, 768**-0.5)}
"""Standard deviations of tokens, and of matrices of 192 and of 768 inputs."""


@pytest.mark.parametrize("init", STARTS)
def test_weights_start_as_they_should(init: str) -> None:
    tokens, narrow, wide = STARTS[init]
    gpt = small_gpt(embed_dim=192, num_layers=4, vocab_size=200, max_seq_len=300, init=init, bias=True)
    block = gpt.blocks[3]
    assert gpt.token_embedding.weight.std().item() == pytest.approx(tokens, rel=0.05)
    assert gpt.position_embedding.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert block.attention.qkv.weight.std().item() == pytest.approx(narrow, rel=0.05)
    assert block.mlp.up.weight.std().item() == pytest.approx(narrow, rel=0.05)
    assert block.attention.out.weight.std().item() == pytest.approx(narrow / math.sqrt(8), rel=0.05)
    assert block.mlp.down.weight.std().item() == pytest.approx(wide / math.sqrt(8), rel=0.05)
    assert block.mlp.up.bias.abs().max() == 0
    logits = gpt.unembed(gpt(torch.randint(200, (2, 10))))
    assert logits.abs().max() == 0, "the first loss is ln V"


def test_hidden_states_are_the_stream_between_blocks() -> None:
    gpt = small_gpt().eval()
    randomise(gpt)
    tokens = torch.randint(VOCAB, (2, 6))
    states = [gpt.hidden_states(tokens, layer) for layer in range(LAYERS + 1)]
    torch.testing.assert_close(gpt.blocks[0](states[0], None, None), states[1])
    torch.testing.assert_close(gpt.norm(states[-1]), gpt(tokens))


class TestDocuments:
    """Several in a row, each as if it were alone."""

    LENGTHS = ((5, 1, 7, 3), (16,), (2, 14))

    def packed(self) -> tuple[Tensor, Tensor]:
        """Tokens and positions of three rows (3, 16)."""
        positions = [torch.cat([torch.arange(length) for length in row]) for row in self.LENGTHS]
        return torch.randint(VOCAB, (len(positions), 16)), torch.stack(positions)

    @pytest.mark.parametrize("rotary", [False, True])
    def test_features_and_gradients_are_those_of_each_alone(self, rotary: bool) -> None:
        gpt = small_gpt(rotary=rotary, norm="layernorm", bias=True).double()
        randomise(gpt)
        tokens, positions = self.packed()
        weights = torch.randn(3, 16, WIDTH, dtype=torch.float64)
        together = gpt(tokens, position_ids=positions)
        alone = torch.stack(
            [
                torch.cat([gpt(document[None])[0] for document in row.split(lengths)])
                for row, lengths in zip(tokens, self.LENGTHS, strict=True)
            ]
        )
        torch.testing.assert_close(together, alone)
        gradients = [
            torch.autograd.grad((features * weights).sum(), list(gpt.parameters()), allow_unused=True)
            for features in (together, alone)
        ]
        for found, expected in zip(*gradients, strict=True):
            torch.testing.assert_close(found, expected)

    @pytest.mark.parametrize("rotary", [False, True])
    def test_a_row_may_begin_inside_a_document(self, rotary: bool) -> None:
        """Positions then begin where the document was cut; the next one sees nothing of it."""
        gpt = small_gpt(rotary=rotary).eval()
        randomise(gpt)
        tokens = torch.randint(VOCAB, (1, 10))
        positions = torch.tensor([[4, 5, 6, 7, 0, 1, 2, 3, 4, 5]])
        found = gpt(tokens, position_ids=positions)
        torch.testing.assert_close(found[:, 4:], gpt(tokens[:, 4:]), atol=1e-5, rtol=1e-5)
        first = gpt(tokens[:, :4], position_ids=positions[:, :4])
        torch.testing.assert_close(found[:, :4], first, atol=1e-5, rtol=1e-5)
        assert (first - gpt(tokens[:, :4])).abs().max() > 1e-3, "its positions count"

    @pytest.mark.parametrize("rotary", [False, True])
    def test_one_document_is_what_it_was(self, rotary: bool) -> None:
        gpt = small_gpt(rotary=rotary).eval()
        randomise(gpt)
        tokens = torch.randint(VOCAB, (2, LENGTH))
        positions = torch.arange(LENGTH).expand(2, -1)
        torch.testing.assert_close(gpt(tokens, position_ids=positions), gpt(tokens), atol=1e-5, rtol=1e-5)

    def test_equals_transformers_gpt2_with_a_mask_of_its_own(self) -> None:
        config = GPT2Config(vocab_size=VOCAB, n_positions=LENGTH, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS)
        theirs = GPT2LMHeadModel(config).eval()
        randomise(theirs)
        ours = small_gpt(norm="layernorm", activation="gelu_tanh", bias=True, tie_embeddings=True, start_token=False)
        transplant(theirs, ours.eval())
        tokens, positions = self.packed()
        mask = torch.stack([torch.block_diag(*[torch.ones(n, n).tril() for n in row]) for row in self.LENGTHS])
        hidden = torch.zeros(()).masked_fill(mask[:, None] == 0, torch.finfo(torch.float32).min)
        expected = theirs(tokens, position_ids=positions, attention_mask=hidden).logits
        torch.testing.assert_close(ours.unembed(ours(tokens, position_ids=positions)), expected, atol=1e-5, rtol=1e-5)

    def test_a_grid_has_no_documents(self) -> None:
        tokens, positions = self.packed()
        assert small_gpt().separates_documents
        gpt = small_gpt(grid_width=6)
        assert not gpt.separates_documents
        with pytest.raises(UserError, match=r"grid_width \(6\) must be null .*: set .*grid_width=null"):
            gpt(tokens, position_ids=positions)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"embed_dim": 10, "num_heads": 4}, r"embed_dim \(10\) must be divisible by num_heads \(4\)"),
        ({"num_layers": 0}, r"num_layers \(0\) must be at least 1"),
        ({"dropout": 1.0}, r"dropout \(1.0\)"),
        ({"init": "fan_in", "tie_embeddings": True}, r"init \(fan_in\) .* set tie_embeddings=false"),
        ({"grid_width": 0}, r"grid_width \(0\) must be at least 1"),
        ({"rotary": True, "num_heads": 8}, r"num_heads \(3\) must be divisible by 2 where rotary is true"),
        ({"rotary": True, "num_heads": 12, "grid_width": 2}, r"num_heads \(2\) must be divisible by 4 where rotary"),
    ],
)
def test_impossible_sizes_are_named(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        small_gpt(**overrides)


def test_too_long_a_sequence_is_named() -> None:
    with pytest.raises(UserError, match=rf"{LENGTH + 1} tokens is longer than max_seq_len \({LENGTH}\)"):
        small_gpt()(torch.zeros(1, LENGTH + 1, dtype=torch.long))
    with pytest.raises(UserError, match=r"layer \(3\) must be between 0 and num_layers \(2\)"):
        small_gpt().hidden_states(torch.zeros(1, 2, dtype=torch.long), 3)
