"""Wrapped encoders against transformers' own: features, padding, segments, weights that travel, LoRA, errors."""

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from pretrained import pretrained_bert, pretrained_gpt2
from torch import Tensor, nn

from lt_cli.backbones.hf_encoder import HuggingFaceEncoder
from lt_cli.backbones.huggingface import HuggingFaceMaskedLM
from lt_cli.backbones.lora import LoRA
from lt_cli.errors import UserError

VOCAB, LENGTH = 13, 10
SIZES = {"vocab_size": VOCAB, "max_seq_len": LENGTH}
SMALL = {"num_hidden_layers": 2, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
ROBERTAS = ["roberta", "xlm-roberta", "mpnet"]
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "bert": SMALL,
    "roberta": SMALL,
    "xlm-roberta": SMALL | {"type_vocab_size": 1},
    "distilbert": {"n_layers": 2, "dim": 16, "hidden_dim": 24, "n_heads": 2},
    "electra": SMALL | {"embedding_size": 8},
    "albert": SMALL | {"embedding_size": 8},
    "modernbert": SMALL,
    "deberta-v2": SMALL | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "type_vocab_size": 2},
    "mpnet": SMALL | {"max_position_embeddings": LENGTH + 2},
    "gpt2": {"n_layer": 2, "n_embd": 16, "n_head": 2},
    "llama": SMALL,
}
KINDS = [*ARCHITECTURES]
SEGMENTS = {"bert": 2, "roberta": 2, "xlm-roberta": 1, "electra": 2, "albert": 2, "deberta-v2": 2}
CAUSAL = ["gpt2", "llama"]


def architecture(kind: str) -> dict[str, Any]:
    return {"model_type": kind, **ARCHITECTURES[kind]}


def enlarged(model: nn.Module) -> None:
    """Weights large enough for all parts to matter."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)


def build(kind: str, **changes: Any) -> HuggingFaceEncoder:
    backbone = HuggingFaceEncoder(architecture=architecture(kind) | changes, **SIZES)
    enlarged(backbone)
    return backbone.eval()


def own_model(kind: str, head: str = "AutoModel") -> Any:
    """As on the hub: with the padding's id, and the positions behind it."""
    sizes = {"vocab_size": VOCAB, "max_position_embeddings": LENGTH + 2 * (kind in ROBERTAS), "pad_token_id": 1}
    special = dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 0)
    names = special if kind == "modernbert" else {}
    config = transformers.AutoConfig.for_model(**architecture(kind) | sizes | names)
    model = getattr(transformers, head).from_config(config).eval()
    enlarged(model)
    return model


def batch(kind: str) -> tuple[Tensor, dict[str, Tensor]]:
    """Ids that are not the padding's, a row of 7 tokens beside a full one, and segments where there are any."""
    ids = torch.randint(2, VOCAB, (2, LENGTH), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    ids[0, 7:], mask[0, 7:] = 1, 0
    inputs = {"attention_mask": mask}
    if kind in SEGMENTS:
        inputs["token_type_ids"] = (torch.arange(LENGTH) > 3).long().expand_as(ids) * (SEGMENTS[kind] - 1)
    return ids, inputs


@pytest.fixture(autouse=True)
def no_grad() -> Any:
    with torch.no_grad():
        yield


@pytest.mark.parametrize("kind", KINDS)
def test_pretrained_directory_gives_transformers_own_features_and_is_not_needed_again(
    kind: str, tmp_path: Path
) -> None:
    model = own_model(kind)
    model.save_pretrained(tmp_path / "weights")
    backbone = HuggingFaceEncoder(pretrained=str(tmp_path / "weights"))
    assert backbone.training
    assert backbone.pretrained
    assert (backbone.vocab_size, backbone.max_seq_len, backbone.embed_dim) == (VOCAB, LENGTH, 16)
    assert backbone.num_segments == SEGMENTS.get(kind, 0)
    ids, inputs = batch(kind)
    own = model(input_ids=ids, **inputs).last_hidden_state
    features = backbone.eval()(ids, **inputs)
    is_token = inputs["attention_mask"] == 1
    torch.testing.assert_close(features[is_token], own[is_token], atol=1e-5, rtol=1e-5)
    full = ids.clamp(min=2)
    torch.testing.assert_close(backbone(full), model(full).last_hidden_state, atol=1e-5, rtol=1e-5)

    (tmp_path / "weights").rename(tmp_path / "gone")
    again = HuggingFaceEncoder(**backbone.rebuild_config["init_args"]).eval()
    assert not again.pretrained
    again.load_state_dict(backbone.state_dict(), strict=True)
    assert torch.equal(again(ids, **inputs), features)
    assert again.rebuild_config == backbone.rebuild_config


@pytest.mark.parametrize("kind", KINDS)
def test_padding_and_other_rows_change_nothing(kind: str) -> None:
    backbone = build(kind)
    ids, inputs = batch(kind)
    mask = inputs["attention_mask"]
    padded = backbone(ids, attention_mask=mask)
    torch.testing.assert_close(padded[:1, :7], backbone(ids[:1, :7]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(padded[1:], backbone(ids[1:]), atol=1e-5, rtol=1e-5)
    unmasked = backbone(ids)[0, :7]
    assert torch.allclose(padded[0, :7], unmasked, atol=1e-4) == (kind in CAUSAL)
    torch.testing.assert_close(backbone(ids, attention_mask=mask.bool()), padded)
    with pytest.raises(UserError, match=rf"{LENGTH + 1} tokens.*max_seq_len \({LENGTH}\)"):
        backbone(torch.zeros(1, LENGTH + 1, dtype=torch.long))


@pytest.mark.parametrize("kind", KINDS)
def test_segments_reach_models_that_know_them(kind: str) -> None:
    backbone = build(kind)
    ids, _ = batch(kind)
    plain = backbone(ids)
    torch.testing.assert_close(backbone(ids, token_type_ids=torch.zeros_like(ids)), plain)
    other = backbone(ids, token_type_ids=ids % 2)
    assert torch.allclose(other, plain, atol=1e-3) == (SEGMENTS.get(kind, 0) < 2)
    torch.testing.assert_close(backbone(ids, token_type_ids=ids % 2 * 5), other)


@pytest.mark.parametrize("kind", [*KINDS, "squeezebert"])
def test_all_that_trains_gets_gradients(kind: str) -> None:
    """Otherwise DDP would wait for them; SqueezeBERT cannot do without its pooler, which does not train."""
    small = SMALL | {"embedding_size": 16, "num_attention_heads": 4}
    settings = architecture(kind) if kind in KINDS else {"model_type": kind} | small
    backbone = HuggingFaceEncoder(architecture=settings, **SIZES)
    with torch.enable_grad():
        backbone(torch.zeros(1, 4, dtype=torch.long)).square().sum().backward()
    trained = {name: parameter for name, parameter in backbone.named_parameters() if parameter.requires_grad}
    assert [name for name, parameter in trained.items() if parameter.grad is None] == []
    assert not [name for name in trained if "pooler" in name]


HEADS = ["AutoModelForMaskedLM", "AutoModelForSequenceClassification", "AutoModelForTokenClassification", "AutoModel"]
WITH_HEADS = [(kind, head) for kind in ("bert", "roberta", "distilbert", "deberta-v2", "modernbert") for head in HEADS]
WITH_HEADS += [(kind, "AutoModelForCausalLM") for kind in CAUSAL] + [("electra", "AutoModelForPreTraining")]


@pytest.mark.parametrize(("kind", "head"), WITH_HEADS)
def test_weights_of_a_model_with_a_head_load_without_a_word(
    kind: str, head: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = own_model(kind, head)
    model.save_pretrained(tmp_path)
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        backbone = HuggingFaceEncoder(pretrained=str(tmp_path)).eval()
    finally:
        logger.removeHandler(caplog.handler)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert backbone.pretrained
    assert "pooler" not in dict(backbone.named_children())
    ids, inputs = batch(kind)
    mask = inputs["attention_mask"]
    body = model if head == "AutoModel" else model.base_model
    own = body(input_ids=ids, attention_mask=mask)[0]
    features = backbone(ids, attention_mask=mask)
    torch.testing.assert_close(features[mask == 1], own[mask == 1], atol=1e-5, rtol=1e-5)


def test_missing_weights_are_said_and_others_are_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = own_model("bert")
    weights = model.state_dict()
    model.save_pretrained(tmp_path / "less", state_dict={n: w for n, w in weights.items() if "layer.1" not in n})
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        backbone = HuggingFaceEncoder(pretrained=str(tmp_path / "less"))
    finally:
        logger.removeHandler(caplog.handler)
    assert not backbone.pretrained
    assert any("MISSING" in record.getMessage() for record in caplog.records)
    model.save_pretrained(tmp_path / "other", state_dict={f"other.{name}": w for name, w in weights.items()})
    with pytest.raises(UserError, match=r"are none of BertModel's, whose first is embeddings\.word_embeddings\.weight"):
        HuggingFaceEncoder(pretrained=str(tmp_path / "other"))


def test_directories_as_the_hub_has_them(tmp_path: Path) -> None:
    bert = HuggingFaceEncoder(pretrained=str(pretrained_bert(tmp_path / "bert"))).eval()
    own = transformers.AutoModel.from_pretrained(tmp_path / "bert").eval()
    first, second = ["the cat sat", "a tokenizer learns"], ["on the mat", "which letters stand together in the city"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "bert")
    encoded = tokenizer(first, second, padding=True, return_tensors="pt", return_token_type_ids=True)
    is_token = encoded["attention_mask"] == 1
    assert not is_token.all()
    assert encoded["token_type_ids"].any()
    expected = own(**encoded).last_hidden_state
    torch.testing.assert_close(bert(**encoded)[is_token], expected[is_token], atol=1e-5, rtol=1e-5)
    gpt2 = HuggingFaceEncoder(pretrained=str(pretrained_gpt2(tmp_path / "gpt2", num_layers=2)))
    assert (gpt2.pretrained, gpt2.embed_dim, gpt2.num_segments, gpt2.max_seq_len) == (True, 8, 0, 256)


def test_parts_have_the_names_of_the_hub() -> None:
    assert [name for name, _ in build("bert").named_children()] == ["embeddings", "encoder"]
    assert [name for name, _ in build("gpt2").named_children()] == ["wte", "wpe", "drop", "h", "ln_f"]


def test_a_decoder_sees_nothing_that_comes_after() -> None:
    ids = torch.arange(6)[None]
    changed = torch.tensor([[0, 1, 2, 9, 9, 9]])
    for kind in CAUSAL:
        backbone = build(kind)
        torch.testing.assert_close(backbone(ids)[:, :3], backbone(changed)[:, :3], atol=1e-5, rtol=1e-5)
    bert = build("bert")
    assert (bert(ids) - bert(changed)).abs().amax(2).min() > 1e-3


def test_rows_beyond_the_vocabulary_stay(tmp_path: Path) -> None:
    source = build("bert")
    source.hf_model.save_pretrained(tmp_path)
    fewer = HuggingFaceEncoder(pretrained=str(tmp_path), vocab_size=VOCAB - 2, max_seq_len=4).eval()
    ids = torch.arange(4)[None]
    torch.testing.assert_close(fewer(ids), source(ids))
    again = HuggingFaceEncoder(**fewer.rebuild_config["init_args"])
    assert (again.vocab_size, again.max_seq_len, again.hf_model.config.vocab_size) == (VOCAB - 2, 4, VOCAB)


@pytest.mark.parametrize(
    ("kind", "targets"), [("bert", None), ("bert", "all-linear"), ("distilbert", ["q_lin"]), ("gpt2", None)]
)
def test_lora_trains_adapters_over_weights_that_are_given(kind: str, targets: Any, tmp_path: Path) -> None:
    source = build(kind)
    source.hf_model.save_pretrained(tmp_path)
    lora = LoRA(rank=2, alpha=6, target_modules=targets)
    backbone = HuggingFaceEncoder(pretrained=str(tmp_path), lora=lora).eval()
    ids, inputs = batch(kind)
    torch.testing.assert_close(backbone(ids, **inputs), source(ids, **inputs), atol=1e-5, rtol=1e-5)
    trained = {name for name, parameter in backbone.named_parameters() if parameter.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    assert backbone.state_dict().keys() - backbone.given == trained
    assert backbone.given_fingerprint
    for name in trained:
        backbone.get_parameter(name).normal_()
    init_args = backbone.rebuild_config["init_args"]
    again = HuggingFaceEncoder(**init_args | {"lora": LoRA(**init_args["lora"])}).eval()
    assert not torch.allclose(again(ids, **inputs), backbone(ids, **inputs), atol=1e-3)
    again.load_state_dict({name: backbone.state_dict()[name] for name in trained}, strict=False)
    assert torch.equal(again(ids, **inputs), backbone(ids, **inputs))


@pytest.mark.parametrize(
    ("init_args", "message"),
    [
        ({}, "pretrained and architecture are both None"),
        (
            {"architecture": {"model_type": "t5"}},
            r"model_type \('t5'\) must be an encoder or a decoder alone, such as 'bert' or 'gpt2', not both in one",
        ),
        ({"architecture": {"model_type": "bart"}}, r"model_type \('bart'\) must be an encoder or a decoder alone"),
        ({"architecture": {"model_type": "bertt"}}, r"model_type \('bertt'\) must be .*; did you mean bert"),
        ({"architecture": {"model_type": "vit"}}, r"'vit'\) has no setting vocab_size, which a backbone over tokens"),
        ({"architecture": {"model_type": "fnet", "hidden_size": 16}}, "'fnet'.* does not work as an encoder backbone"),
        ({"architecture": architecture("bert") | {"layers": 2}}, "architecture.layers is no setting"),
        ({"pretrained": "./no/such/dir"}, r"pretrained \('./no/such/dir'\) must be a local directory"),
        (
            {"architecture": architecture("roberta") | {"pad_token_id": 1}},
            rf"max_seq_len \({LENGTH}\) must be at most {LENGTH - 2}",
        ),
        (
            {"architecture": architecture("bert"), "lora": LoRA(target_modules=["querry"])},
            "'querry' names no layer of 'bert': .*; did you mean query",
        ),
    ],
)
def test_errors_name_what_to_mend(init_args: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=message) as error:
        HuggingFaceEncoder(**((SIZES if "architecture" in init_args else {}) | init_args))
    assert "\n" not in str(error.value)


def test_a_model_that_sees_its_padding_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = transformers.BertModel.forward

    def seeing(self: Any, *args: Any, attention_mask: Any = None, **kwargs: Any) -> Any:
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(transformers.BertModel, "forward", seeing)
    with pytest.raises(UserError, match="features see the padding"):
        HuggingFaceEncoder(architecture=architecture("bert"), **SIZES)


def test_masked_models_say_nothing_of_unused_weights_either(tmp_path: Path) -> None:
    own_model("bert", "AutoModelForPreTraining").save_pretrained(tmp_path)
    assert HuggingFaceMaskedLM(pretrained=str(tmp_path)).pretrained
    own_model("bert", "AutoModelForSequenceClassification").save_pretrained(tmp_path)
    assert not HuggingFaceMaskedLM(pretrained=str(tmp_path)).pretrained


def test_import_is_cheap() -> None:
    code = "import sys, lt_cli.backbones.hf_encoder; sys.exit('transformers' in sys.modules)"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
