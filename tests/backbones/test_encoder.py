"""The encoder against torch's own layers and a slow loop; padding and batch mates change nothing."""

import math
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from lt_cli.backbones.encoder import Encoder
from lt_cli.callbacks.freeze import Freeze
from lt_cli.errors import UserError

VOCAB, LENGTH, WIDTH, HEADS, LAYERS = 11, 12, 16, 2, 2
SIZES = {"vocab_size": VOCAB, "max_seq_len": LENGTH, "embed_dim": WIDTH, "num_heads": HEADS, "num_layers": LAYERS}
KINDS: list[dict[str, Any]] = [{}, {"rotary": False}, {"norm": "rmsnorm", "bias": False, "num_segments": 0}]


def small(**overrides: Any) -> Encoder:
    """In eval mode, with weights large enough for its parts to matter."""
    torch.manual_seed(0)
    encoder = Encoder(**{**SIZES, **overrides})
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.3)
    return encoder.eval()


def tokens(length: int = LENGTH, rows: int = 3) -> Tensor:
    return torch.randint(VOCAB, (rows, length), generator=torch.Generator().manual_seed(1))


def mask_of(lengths: list[int], length: int = LENGTH) -> Tensor:
    return (torch.arange(length) < torch.tensor(lengths)[:, None]).long()


def torchs(encoder: Encoder, activation: Any) -> nn.TransformerEncoder:
    """The layers of torch with the same weights."""
    layer = nn.TransformerEncoderLayer(
        WIDTH, HEADS, 4 * WIDTH, 0.0, activation, norm_first=True, batch_first=True, layer_norm_eps=1e-5
    )
    theirs = nn.TransformerEncoder(layer, LAYERS, norm=nn.LayerNorm(WIDTH, eps=1e-5), enable_nested_tensor=False)
    names = {"attention.qkv": "self_attn.in_proj", "attention.out": "self_attn.out_proj", "attention_norm": "norm1"}
    names |= {"mlp_norm": "norm2", "mlp.up": "linear1", "mlp.down": "linear2"}
    state = {f"norm.{name}": weight for name, weight in encoder.norm.state_dict().items()}
    for number, block in enumerate(encoder.blocks):
        for ours, name in names.items():
            for part, weight in block.get_submodule(ours).state_dict().items():
                joint = "_" if name.endswith("in_proj") else "."
                state[f"layers.{number}.{name}{joint}{part}"] = weight
    theirs.load_state_dict(state)
    return theirs.eval()


def embedded(encoder: Encoder, ids: Tensor, segments: Tensor) -> Tensor:
    x = encoder.token_embedding.weight[ids] + encoder.position_embedding.weight[: ids.shape[1]]
    return x if encoder.segment_embedding is None else x + encoder.segment_embedding.weight[segments]


@pytest.mark.parametrize(("name", "activation"), [("gelu", "gelu"), ("gelu_tanh", nn.GELU("tanh"))])
def test_equals_torchs_layers_with_the_same_weights(name: Any, activation: Any) -> None:
    encoder = small(rotary=False, activation=name)
    ids, segments, mask = tokens(), tokens() % 2, mask_of([LENGTH, 7, 1])
    expected = torchs(encoder, activation)(embedded(encoder, ids, segments), src_key_padding_mask=mask == 0)
    features = encoder(ids, attention_mask=mask, token_type_ids=segments)
    torch.testing.assert_close(features[mask == 1], expected[mask == 1], atol=1e-5, rtol=1e-5)
    whole = torchs(encoder, activation)(embedded(encoder, ids, torch.zeros_like(ids)))
    torch.testing.assert_close(encoder(ids), whole, atol=1e-5, rtol=1e-5)


def slow_attention(x: Tensor, weights: dict[str, Tensor], num_heads: int) -> Tensor:
    """One row of tokens, head by head and pair of features by pair, turned as complex numbers."""
    width = x.shape[1] // num_heads
    query, key, value = (x @ weights["attention.qkv.weight"].T + weights["attention.qkv.bias"]).chunk(3, dim=1)
    heads = []
    for head in range(num_heads):
        mine = slice(head * width, (head + 1) * width)
        scores = torch.zeros(len(x), len(x))
        for pair in range(width // 2):
            at = head * width + 2 * pair
            for i in range(len(x)):
                for j in range(len(x)):
                    one = complex(float(query[i, at]), float(query[i, at + 1]))
                    other = complex(float(key[j, at]), float(key[j, at + 1]))
                    angle = (i - j) * 10_000 ** (-2 * pair / width)
                    turned = one * other.conjugate() * complex(math.cos(angle), math.sin(angle))
                    scores[i, j] += turned.real / math.sqrt(width)
        heads.append(scores.softmax(1) @ value[:, mine])
    return torch.cat(heads, dim=1) @ weights["attention.out.weight"].T + weights["attention.out.bias"]


@torch.no_grad()
def test_rotary_equals_a_slow_loop() -> None:
    encoder = small()
    ids = tokens(5, rows=1)
    x = embedded(encoder, ids, torch.zeros_like(ids))[0]

    def normed(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return (x - x.mean(1, keepdim=True)) / (x.var(1, correction=0, keepdim=True) + 1e-5).sqrt() * weight + bias

    for block in encoder.blocks:
        w = dict(block.named_parameters())
        x = x + slow_attention(normed(x, w["attention_norm.weight"], w["attention_norm.bias"]), w, HEADS)
        up = normed(x, w["mlp_norm.weight"], w["mlp_norm.bias"]) @ w["mlp.up.weight"].T + w["mlp.up.bias"]
        x = x + up * (1 + torch.erf(up / math.sqrt(2))) / 2 @ w["mlp.down.weight"].T + w["mlp.down.bias"]
    x = normed(x, *encoder.norm.parameters())
    torch.testing.assert_close(encoder(ids)[0], x, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_padding_and_other_rows_change_neither_features_nor_gradients(options: dict[str, Any]) -> None:
    encoder = small(**options)
    lengths = [9, 4, 1]
    ids, mask, weight = tokens(), mask_of(lengths), torch.randn(3, LENGTH, WIDTH)
    together = encoder(ids, attention_mask=mask)
    changed = torch.where(mask == 1, ids, (ids + 1) % VOCAB)
    torch.testing.assert_close(encoder(changed, attention_mask=mask)[mask == 1], together[mask == 1])
    gradients = torch.autograd.grad((together * weight)[mask == 1].sum(), [*encoder.parameters()])
    alone = [encoder(row[None, :length]) for row, length in zip(ids, lengths, strict=True)]
    for row, (features, length) in enumerate(zip(alone, lengths, strict=True)):
        torch.testing.assert_close(together[row, :length], features[0], atol=1e-5, rtol=1e-5)
    parts = [(features[0] * weight[row, : lengths[row]]).sum() for row, features in enumerate(alone)]
    expected = torch.autograd.grad(torch.stack(parts).sum(), [*encoder.parameters()])
    for (name, _), found, wanted in zip(encoder.named_parameters(), gradients, expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=2e-4, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")
    assert not torch.allclose(encoder(ids)[0, :9], together[0, :9], atol=1e-3), "the padding would be seen"


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_every_feature_sees_every_token_and_where_it_is(options: dict[str, Any]) -> None:
    encoder = small(**options)
    ids = torch.tensor([[3, 1, 4, 1, 5, 9]])
    for place in range(6):
        changed = ids.clone()
        changed[0, place] = 7
        assert (encoder(ids) - encoder(changed)).abs().amax(2).min() > 1e-3
    swapped = ids[:, [0, 2, 1, 3, 4, 5]]
    assert (encoder(ids) - encoder(swapped))[:, 3:].abs().amax(2).min() > 1e-3


def test_rotary_tells_distances_without_learned_positions() -> None:
    encoder, learned = small(), small(rotary=False)
    ids = tokens(4, rows=1)
    for one in (encoder, learned):
        nn.init.zeros_(one.position_embedding.weight)
    assert not torch.allclose(encoder(ids)[:, 0], encoder(ids[:, [0, 2, 1, 3]])[:, 0], atol=1e-3)
    torch.testing.assert_close(learned(ids)[:, 0], learned(ids[:, [0, 2, 1, 3]])[:, 0], atol=1e-5, rtol=1e-5)


def test_segments() -> None:
    encoder, none = small(), small(num_segments=0)
    ids, segments = tokens(), tokens() % 2
    torch.testing.assert_close(encoder(ids), encoder(ids, token_type_ids=torch.zeros_like(ids)))
    both = encoder(ids, token_type_ids=segments)
    assert not torch.allclose(encoder(ids), both, atol=1e-3)
    torch.testing.assert_close(encoder(ids, token_type_ids=segments * 3), both)
    assert torch.equal(none(ids), none(ids, token_type_ids=segments))
    assert (encoder.num_segments, none.num_segments, none.segment_embedding) == (2, 0, None)


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_every_weight_trains_and_a_row_of_padding_is_harmless(options: dict[str, Any]) -> None:
    encoder = small(dropout=0.1, **options).train()
    features = encoder(tokens(), attention_mask=mask_of([LENGTH, 3, 0]))
    assert features.isfinite().all()
    features.square().sum().backward()
    assert [name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


def test_dropout_in_training_only() -> None:
    encoder = small(dropout=0.5)
    assert torch.equal(encoder(tokens()), encoder(tokens()))
    encoder.train()
    assert not torch.equal(encoder(tokens()), encoder(tokens()))


def test_starts_small() -> None:
    torch.manual_seed(0)
    encoder = Encoder(vocab_size=500, max_seq_len=64)
    stds = {name: round(p.std().item(), 3) for name, p in encoder.named_parameters() if p.ndim == 2}
    assert stds["token_embedding.weight"] == stds["blocks.0.attention.qkv.weight"] == 0.02
    assert stds["blocks.0.mlp.down.weight"] == round(0.02 / math.sqrt(8), 3)
    assert not any(p.any() for name, p in encoder.named_parameters() if name.endswith("bias"))


def test_parts_are_named_and_stand_in_the_order_of_depth() -> None:
    names = [name for name, _ in small().named_children()]
    assert names == ["token_embedding", "position_embedding", "segment_embedding", "dropout", "blocks", "norm"]


def test_freezes_by_the_names_of_blocks() -> None:
    model = LightningModule()
    model.backbone = small(num_layers=3)
    Freeze(modules=["backbone.blocks.[0-1]"]).setup(Trainer(logger=False), model, "fit")
    frozen = {name.split(".")[2] for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"0", "1"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"embed_dim": 10, "num_heads": 4}, r"embed_dim \(10\) must be divisible by num_heads \(4\)"),
        ({"num_layers": 0}, r"num_layers \(0\) must be at least 1"),
        ({"num_heads": 16}, r"embed_dim / num_heads \(1\) must be divisible by 2 where rotary is true"),
        ({"dropout": 1.0}, r"dropout \(1.0\) must be at least 0 and less than 1"),
        ({"num_segments": -1}, r"num_segments \(-1\) must be at least 0"),
    ],
)
def test_errors_name_what_to_mend(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Encoder(**{**SIZES, **options})


def test_too_long_is_refused() -> None:
    with pytest.raises(UserError, match=rf"{LENGTH + 1} tokens is longer than max_seq_len \({LENGTH}\)"):
        small()(tokens(LENGTH + 1))
