"""Wrapped masked models against the models themselves: logits, padding, full length, weights that travel, errors."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from lt_cli.backbones.huggingface import HuggingFaceMaskedLM
from lt_cli.errors import UserError

VOCAB, LENGTH = 13, 10
SIZES = {"vocab_size": VOCAB, "max_seq_len": LENGTH}
SMALL = {"num_hidden_layers": 2, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
ROBERTAS = ["roberta", "xlm-roberta", "camembert"]
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "bert": SMALL,
    **dict.fromkeys(ROBERTAS, SMALL),
    "distilbert": {"n_layers": 2, "dim": 16, "hidden_dim": 24, "n_heads": 2},
    "electra": SMALL | {"embedding_size": 8},
    "albert": SMALL | {"embedding_size": 8},
    "modernbert": SMALL,
    "deberta-v2": SMALL | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    "mpnet": SMALL | {"max_position_embeddings": LENGTH + 2},
}
KINDS = [*ARCHITECTURES]


def architecture(kind: str) -> dict[str, Any]:
    return {"model_type": kind, **ARCHITECTURES[kind]}


def build(kind: str, **changes: Any) -> HuggingFaceMaskedLM:
    """A tiny model in eval mode, with weights large enough for its parts to matter."""
    torch.manual_seed(0)
    backbone = HuggingFaceMaskedLM(architecture=architecture(kind) | changes, **SIZES)
    return enlarged(backbone).eval()


def enlarged(backbone: HuggingFaceMaskedLM) -> HuggingFaceMaskedLM:
    for parameter in backbone.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return backbone


def tokens(length: int = LENGTH) -> Tensor:
    return torch.randint(VOCAB, (2, length), generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def no_grad() -> Any:
    with torch.no_grad():
        yield


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_the_models_own_at_full_length(kind: str) -> None:
    backbone = build(kind)
    ids = tokens()
    features = backbone(ids)
    assert features.shape == (2, LENGTH, backbone.embed_dim)
    assert backbone.embed_dim == (8 if kind in ("electra", "albert") else 16)
    positions = torch.arange(LENGTH).expand(2, -1)
    own = backbone.hf_model(input_ids=ids, position_ids=positions + (2 if kind == "mpnet" else 0)).logits
    torch.testing.assert_close(backbone.unembed(features), own, atol=1e-5, rtol=1e-5)
    assert backbone.vocab_size == VOCAB
    assert not torch.allclose(features, backbone(ids.flip(0)), atol=1e-4)
    with pytest.raises(UserError, match=rf"{LENGTH + 1} tokens.*max_seq_len \({LENGTH}\)"):
        backbone(tokens(LENGTH + 1))


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_nothing(kind: str) -> None:
    backbone = build(kind)
    ids = tokens()
    mask = torch.ones_like(ids)
    mask[0, 7:] = 0
    padded = backbone(ids, attention_mask=mask)
    torch.testing.assert_close(padded[:1, :7], backbone(ids[:1, :7]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(padded[1:], backbone(ids[1:]), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(padded[0, :7], backbone(ids)[0, :7], atol=1e-4)
    torch.testing.assert_close(backbone(ids, attention_mask=mask.bool()), padded)


@pytest.mark.parametrize("kind", KINDS)
def test_no_logits_are_computed(kind: str) -> None:
    backbone, calls = build(kind), []
    backbone.hf_model.get_output_embeddings().register_forward_hook(lambda *_: calls.append(1))
    backbone(tokens())
    assert not calls


@pytest.mark.parametrize("kind", ["bert", "roberta", "modernbert"])
def test_features_train(kind: str) -> None:
    backbone = build(kind).train()
    with torch.enable_grad():
        backbone.unembed(backbone(tokens())).square().sum().backward()
    without = [name for name, parameter in backbone.named_parameters() if parameter.grad is None]
    assert without == []


@pytest.mark.parametrize("kind", KINDS)
def test_pretrained_directory_gives_the_models_own_logits_and_is_not_needed_again(kind: str, tmp_path: Path) -> None:
    """With the padding's id and the positions behind it that the models of the hub have."""
    offset = 2 if kind in (*ROBERTAS, "mpnet") else 0
    rows = {"vocab_size": VOCAB, "max_position_embeddings": LENGTH + offset, "pad_token_id": 1}
    ids_of = dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 0)
    config = transformers.AutoConfig.for_model(**architecture(kind) | rows | (ids_of if kind == "modernbert" else {}))
    model = transformers.AutoModelForMaskedLM.from_config(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(tmp_path / "weights")
    backbone = HuggingFaceMaskedLM(pretrained=str(tmp_path / "weights"))
    assert backbone.training
    assert backbone.pretrained
    assert backbone.max_seq_len == LENGTH
    ids = tokens()
    ids[ids == 1] = 2
    mask = torch.ones_like(ids)
    ids[0, 7:], mask[0, 7:] = 1, 0
    ids[1, :2], mask[1, :2] = 1, 0
    own = model(input_ids=ids, attention_mask=mask).logits
    logits = backbone.eval().unembed(backbone(ids, attention_mask=mask))
    torch.testing.assert_close(logits[mask.bool()], own[mask.bool()], atol=1e-5, rtol=1e-5)
    full = tokens().clamp(min=2)
    torch.testing.assert_close(backbone.unembed(backbone(full)), model(full).logits, atol=1e-5, rtol=1e-5)
    with pytest.raises(UserError, match=rf"{LENGTH + 1} tokens.*max_seq_len \({LENGTH}\)"):
        backbone(torch.zeros(1, LENGTH + 1, dtype=torch.long))

    (tmp_path / "weights").rename(tmp_path / "gone")
    again = HuggingFaceMaskedLM(**backbone.rebuild_config["init_args"]).eval()
    again.load_state_dict(backbone.state_dict(), strict=True)
    assert torch.equal(again.unembed(again(ids, attention_mask=mask)), logits)
    assert again.hf_model.config.pad_token_id == 1
    assert (again.max_seq_len, again.vocab_size) == (LENGTH, VOCAB)
    assert again.rebuild_config == backbone.rebuild_config


def test_a_token_with_the_paddings_id_is_a_token() -> None:
    """As the data owns the ids: what is padding says the mask alone."""
    backbone = build("roberta", pad_token_id=1, max_position_embeddings=LENGTH + 2)
    assert backbone.max_seq_len == LENGTH
    ids = torch.ones(1, 4, dtype=torch.long)
    features = backbone(ids)[0]
    assert not torch.allclose(features[1], features[2], atol=1e-3), "each has a position of its own"


def test_positions_behind_the_padding_are_counted() -> None:
    with pytest.raises(UserError, match=rf"max_seq_len \({LENGTH}\) must be at most {LENGTH - 2}, .*exceed {LENGTH}"):
        HuggingFaceMaskedLM(architecture=architecture("roberta") | {"pad_token_id": 1}, **SIZES)
    assert HuggingFaceMaskedLM(architecture=architecture("roberta"), **SIZES).max_seq_len == LENGTH


def test_rows_beyond_the_vocabulary_are_never_predicted(tmp_path: Path) -> None:
    source = build("bert")
    source.hf_model.save_pretrained(tmp_path)
    fewer = HuggingFaceMaskedLM(pretrained=str(tmp_path), vocab_size=VOCAB - 2, max_seq_len=4).eval()
    ids = tokens(4) % fewer.vocab_size
    torch.testing.assert_close(fewer.unembed(fewer(ids)), source.unembed(source(ids))[..., : VOCAB - 2])
    again = HuggingFaceMaskedLM(**fewer.rebuild_config["init_args"])
    assert (again.vocab_size, again.max_seq_len, again.hf_model.config.vocab_size) == (VOCAB - 2, 4, VOCAB)


@pytest.mark.parametrize(
    ("init_args", "message"),
    [
        ({}, "pretrained and architecture are both None"),
        (
            {"architecture": {"model_type": "gpt2"}},
            r"\('gpt2'\) must be a masked language model of transformers, such as 'bert'",
        ),
        ({"architecture": architecture("bert") | {"layers": 2}}, "architecture.layers is no setting"),
        (
            {"architecture": architecture("deberta-v2") | {"legacy": False}},
            "does not work as a masked backbone: .*its logits are not features times a matrix",
        ),
        ({"architecture": {"model_type": "fnet", "hidden_size": 16}}, "'fnet'.* does not work as a masked backbone"),
    ],
)
def test_errors_name_what_to_mend(init_args: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        HuggingFaceMaskedLM(**((SIZES if init_args else {}) | init_args))
    assert "\n" not in str(error.value)
