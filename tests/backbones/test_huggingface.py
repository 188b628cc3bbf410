"""Wrapped models against the models themselves: logits, cache, start tokens, weights that travel, and every error."""

import copy
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from lt_cli.backbones.base import CausalBackbone
from lt_cli.backbones.huggingface import HuggingFaceCausalLM, HuggingFaceImageGPT
from lt_cli.errors import UserError

VOCAB, LENGTH, LAYERS = 11, 12, 3
GPT2 = {"model_type": "gpt2", "n_layer": LAYERS, "n_embd": 16, "n_head": 2}
LLAMA = {
    "model_type": "llama",
    "num_hidden_layers": LAYERS,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
IMAGE_GPT = GPT2 | {"model_type": "imagegpt"}
SIZES = {"vocab_size": VOCAB, "max_seq_len": LENGTH}
KINDS = ["gpt2", "llama", "gpt2_start", "imagegpt"]


def build(kind: str) -> HuggingFaceCausalLM | HuggingFaceImageGPT:
    """A tiny model in eval mode, with weights large enough for its parts to matter."""
    torch.manual_seed(0)
    backbone: HuggingFaceCausalLM | HuggingFaceImageGPT
    if kind == "imagegpt":
        backbone = HuggingFaceImageGPT(architecture=IMAGE_GPT, **SIZES)
    else:
        architecture = LLAMA if kind == "llama" else GPT2
        backbone = HuggingFaceCausalLM(architecture=architecture, start_token=kind == "gpt2_start", **SIZES)
    for parameter in backbone.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return backbone.eval()


def tokens(backbone: CausalBackbone, length: int = LENGTH, rows: int = 2) -> Tensor:
    """Random ids, behind the start token where there is one."""
    ids = torch.randint(VOCAB, (rows, length), generator=torch.Generator().manual_seed(1))
    if backbone.start_id is not None:
        ids[:, 0] = backbone.start_id
    return ids


@pytest.fixture(autouse=True)
def no_grad() -> Any:
    with torch.no_grad():
        yield


@pytest.mark.parametrize("kind", ["gpt2", "llama", "imagegpt"])
def test_logits_are_the_models_own(kind: str) -> None:
    backbone = build(kind)
    ids = tokens(backbone)
    features = backbone(ids)
    logits = backbone.unembed(features)
    assert features.shape == (2, LENGTH, 16) == (2, LENGTH, backbone.embed_dim)
    assert logits.shape == (2, LENGTH, VOCAB) == (2, LENGTH, backbone.vocab_size)
    assert backbone.max_seq_len == LENGTH
    assert backbone.start_id == (VOCAB if kind == "imagegpt" else None)
    torch.testing.assert_close(logits, backbone.hf_model(ids).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prefill", [1, 5])
def test_cached_decoding_equals_full_forward(kind: str, prefill: int) -> None:
    backbone = build(kind)
    ids = tokens(backbone)
    cache = backbone.make_cache(2, LENGTH)
    parts = [backbone(ids[:, :prefill], cache=cache)]
    parts += [backbone(ids[:, t : t + 1], cache=cache) for t in range(prefill, LENGTH)]
    torch.testing.assert_close(torch.cat(parts, dim=1), backbone(ids), atol=1e-5, rtol=1e-5)
    with pytest.raises(UserError, match=rf"{LENGTH + 1} tokens.*max_seq_len \({LENGTH}\)"):
        backbone(ids[:, :1], cache=cache)


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_stand_for_tokens(kind: str) -> None:
    backbone = build(kind)
    ids = tokens(backbone)
    vectors = backbone.embed(ids)
    assert torch.equal(backbone.read(vectors), backbone(ids))
    assert not torch.allclose(backbone.read(vectors.flip(1)), backbone(ids), atol=1e-2), "any vectors will do"
    cache = backbone.make_cache(2, LENGTH)
    parts = [backbone.read(vectors[:, :5], cache=cache), backbone(ids[:, 5:], cache=cache)]
    torch.testing.assert_close(torch.cat(parts, dim=1), backbone(ids), atol=1e-5, rtol=1e-5)
    with pytest.raises(UserError, match=rf"{LENGTH + 1} tokens.*max_seq_len \({LENGTH}\)"):
        backbone.read(vectors[:, :1], cache=cache)


@pytest.mark.parametrize("kind", KINDS)
def test_reorder_continues_the_chosen_rows(kind: str) -> None:
    backbone = build(kind)
    ids = tokens(backbone, rows=3)
    rows = torch.tensor([2, 0, 0])
    cache = backbone.make_cache(3, LENGTH)
    cache.reorder(rows)  # an empty cache has no rows to move
    backbone(ids[:, :4], cache=cache)
    cache.reorder(rows)
    continued = torch.cat([ids[rows, :4], ids[:, 4:5]], dim=1)
    torch.testing.assert_close(backbone(ids[:, 4:5], cache=cache), backbone(continued)[:, -1:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_states_are_the_residual_stream(kind: str) -> None:
    backbone = build(kind)
    ids = tokens(backbone)
    theirs = backbone.hf_model.base_model(inputs_embeds=backbone.embed(ids), output_hidden_states=True).hidden_states
    for layer in range(LAYERS):
        torch.testing.assert_close(backbone.hidden_states(ids, layer), theirs[layer], atol=1e-5, rtol=1e-5)
    last, base = backbone.hidden_states(ids, LAYERS), backbone.hf_model.base_model
    assert not torch.allclose(last, backbone(ids), atol=1e-2)
    norm = base.norm if kind == "llama" else base.ln_f
    torch.testing.assert_close(norm(last), backbone(ids), atol=1e-5, rtol=1e-5)
    for layer in (-1, LAYERS + 1):
        with pytest.raises(UserError, match=rf"layer \({layer}\).*num_layers \({LAYERS}\)"):
            backbone.hidden_states(ids, layer)


def test_hidden_states_skip_the_blocks_above() -> None:
    backbone = build("llama")
    ran: list[int] = []
    for i, block in enumerate(backbone.hf_model.model.layers):
        block.register_forward_pre_hook(lambda module, args, i=i: ran.append(i))
    backbone.hidden_states(tokens(backbone), 2)
    assert ran == [0, 1]
    backbone(tokens(backbone))
    assert ran == [0, 1, 0, 1, 2]


@pytest.mark.parametrize("kind", ["gpt2_start", "imagegpt"])
def test_start_token_predicts_the_first_token(kind: str) -> None:
    backbone = build(kind)
    assert backbone.start_id == VOCAB
    ids = tokens(backbone)
    other = torch.cat([ids[:, :1], (ids[:, 1:] + 1) % VOCAB], dim=1)
    first, changed = backbone.unembed(backbone(ids)), backbone.unembed(backbone(other))
    torch.testing.assert_close(first[:, 0], changed[:, 0])
    torch.testing.assert_close(first[0, 0], first[1, 0])
    assert not torch.allclose(first[:, 1], changed[:, 1], atol=1e-3)
    table = backbone.start if kind == "gpt2_start" else backbone.hf_model.get_input_embeddings().weight[VOCAB]
    table.mul_(-1)
    assert not torch.allclose(first[:, 0], backbone.unembed(backbone(ids))[:, 0], atol=1e-3)


def test_start_token_leaves_the_other_features_alone() -> None:
    plain, started = build("gpt2"), build("gpt2_start")
    plain.hf_model.load_state_dict(started.hf_model.state_dict())
    ids = tokens(plain)
    torch.testing.assert_close(plain(ids), started(ids))
    assert plain.start_id is None
    fresh = HuggingFaceCausalLM(architecture=GPT2 | {"n_embd": 512}, start_token=True, **SIZES)
    assert 0.015 < fresh.start.std().item() < 0.025


@pytest.mark.parametrize("kind", KINDS)
def test_full_length_fits_and_one_more_does_not(kind: str) -> None:
    backbone = build(kind)
    pixels = tokens(build("gpt2"), LENGTH)
    if backbone.start_id is not None:
        pixels = torch.cat([torch.full_like(pixels[:, :1], backbone.start_id), pixels[:, :-1]], dim=1)
    assert backbone.unembed(backbone(pixels)).shape == (2, LENGTH, VOCAB)
    with pytest.raises(UserError, match=rf"{LENGTH + 1} tokens.*max_seq_len \({LENGTH}\)"):
        backbone(torch.cat([pixels, pixels[:, :1]], dim=1))


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_gets_a_gradient(kind: str) -> None:
    backbone = build(kind).train()
    with torch.enable_grad():
        backbone.unembed(backbone(tokens(backbone))).square().sum().backward()
    assert [name for name, parameter in backbone.named_parameters() if parameter.grad is None] == []


def test_construction_trains_with_dropout_and_only_draws_the_weights() -> None:
    ids = torch.zeros(1, LENGTH, dtype=torch.long)
    backbone = HuggingFaceCausalLM(architecture=GPT2, **SIZES)
    assert all(module.training for module in backbone.modules())
    assert not torch.equal(backbone(ids), backbone(ids))
    torch.manual_seed(3)
    backbone = HuggingFaceCausalLM(architecture=GPT2, **SIZES)
    after = torch.rand(1)
    torch.manual_seed(3)
    own = transformers.GPT2LMHeadModel(backbone.hf_model.config)
    assert torch.equal(after, torch.rand(1))
    assert torch.equal(own.transformer.wte.weight, backbone.hf_model.transformer.wte.weight)
    assert backbone.hf_model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("kind", KINDS)
def test_rebuilds_from_plain_types_with_the_same_logits(kind: str) -> None:
    backbone = build(kind)
    file = io.BytesIO()
    torch.save({"config": backbone.rebuild_config, "state_dict": backbone.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    assert saved["config"]["class_path"] == f"lt_cli.backbones.huggingface.{type(backbone).__name__}"
    again = type(backbone)(**saved["config"]["init_args"]).eval()
    again.load_state_dict(saved["state_dict"], strict=True)
    ids = tokens(backbone)
    assert torch.equal(again.unembed(again(ids)), backbone.unembed(backbone(ids)))
    assert again.start_id == backbone.start_id
    assert again.rebuild_config == backbone.rebuild_config
    tied = again.hf_model.get_output_embeddings().weight is again.hf_model.get_input_embeddings().weight
    assert tied == kind.startswith("gpt2")


@pytest.mark.parametrize("kind", KINDS)
def test_pretrained_directory_gives_the_same_logits_and_is_not_needed_again(kind: str, tmp_path: Path) -> None:
    source = build(kind)
    copy.deepcopy(source.hf_model).half().save_pretrained(tmp_path / "weights")
    for parameter in source.parameters():
        parameter.copy_(parameter.half())
    start = {"start_token": True} if kind == "gpt2_start" else {}
    backbone = type(source)(pretrained=str(tmp_path / "weights"), **start)
    assert backbone.training
    assert backbone.pretrained == (kind != "gpt2_start")
    assert not source.pretrained
    assert {parameter.dtype for parameter in backbone.parameters()} == {torch.float32}
    if kind == "gpt2_start":
        backbone.start.copy_(source.start)
    ids = tokens(source)
    logits = source.unembed(source(ids))
    assert torch.equal(backbone.eval().unembed(backbone(ids)), logits)

    (tmp_path / "weights").rename(tmp_path / "gone")
    again = type(source)(**backbone.rebuild_config["init_args"]).eval()
    assert not again.pretrained
    again.load_state_dict(backbone.state_dict(), strict=True)
    assert torch.equal(again.unembed(again(ids)), logits)


def test_pretrained_with_changes(tmp_path: Path) -> None:
    build("gpt2").hf_model.save_pretrained(tmp_path)
    path = str(tmp_path)
    still = HuggingFaceCausalLM(
        pretrained=path, architecture={"resid_pdrop": 0.0, "attn_pdrop": 0.0, "embd_pdrop": 0.0}
    )
    ids = tokens(still)
    assert torch.equal(still(ids), still(ids))
    assert still.pretrained
    assert HuggingFaceCausalLM(pretrained=path, **SIZES).pretrained
    deeper = HuggingFaceCausalLM(pretrained=path, architecture={"num_hidden_layers": LAYERS + 1})
    assert deeper.num_layers == LAYERS + 1
    assert not deeper.pretrained
    with pytest.raises(UserError, match=r"wpe.weight of shape .*, but vocab_size, max_seq_len and architecture"):
        HuggingFaceCausalLM(pretrained=path, max_seq_len=64)
    with pytest.raises(UserError, match=rf"vocab_size of the weights in .* \({VOCAB}\) must be at least 16"):
        HuggingFaceCausalLM(pretrained=path, vocab_size=16)
    with pytest.raises(UserError, match="model_type \\('llama'\\) must be that of the weights"):
        HuggingFaceCausalLM(pretrained=path, architecture={"model_type": "llama"})
    with pytest.raises(UserError, match="model_type \\('gpt2'\\) must be 'imagegpt'"):
        HuggingFaceImageGPT(pretrained=path)
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(UserError, match=r"weights of pretrained .* cannot be loaded"):
        HuggingFaceCausalLM(pretrained=path)


@pytest.mark.parametrize("kind", KINDS)
def test_parts_have_the_names_of_the_hub(kind: str) -> None:
    backbone = build(kind)
    names = set(backbone.hf_model.state_dict())
    assert set(backbone.state_dict()) - {"start"} == names
    assert ("model.layers.0.mlp.up_proj.weight" if kind == "llama" else "transformer.h.0.attn.c_attn.weight") in names
    for name, module in backbone.named_modules():
        assert backbone.get_submodule(name) is module
    assert {id(p) for p in backbone.parameters()} >= {id(p) for p in backbone.hf_model.parameters()}


@pytest.mark.parametrize("kind", KINDS)
def test_weights_with_the_earlier_names_load(kind: str) -> None:
    backbone, other = build(kind), build(kind)
    for parameter in other.parameters():
        parameter.zero_()
    state = {name if name == "start" else f"model.{name}": value for name, value in backbone.state_dict().items()}
    torch.nn.ModuleDict({"backbone": other}).load_state_dict({f"backbone.{name}": v for name, v in state.items()})
    ids = tokens(backbone)
    assert torch.equal(other(ids), backbone(ids))
    state["model.other"] = torch.zeros(1)
    with pytest.raises(RuntimeError, match=r"Unexpected key\(s\) in state_dict: \"model.other\""):
        other.load_state_dict(state)


def test_a_tied_head_stays_tied() -> None:
    backbone = build("gpt2_start")
    fresh = HuggingFaceCausalLM(architecture=GPT2, start_token=True, **SIZES)
    fresh.load_state_dict(backbone.state_dict())
    pickled = io.BytesIO()
    torch.save(backbone, pickled)
    pickled.seek(0)
    loaded = torch.load(pickled, weights_only=False)
    ids = tokens(backbone)
    for other in (fresh.eval(), copy.deepcopy(backbone), loaded, copy.deepcopy(backbone).double()):
        assert other.get_parameter("lm_head.weight") is other.get_parameter("transformer.wte.weight")
        assert other.hf_model.lm_head.weight is other.get_parameter("lm_head.weight")
        assert other.hf_model is not backbone.hf_model
        logits = other.unembed(other(ids))
        torch.testing.assert_close(logits.float(), backbone.unembed(backbone(ids)), atol=1e-5, rtol=1e-5)
    assert other.hf_model.transformer.wte.weight.dtype == torch.float64


def test_train_and_eval_reach_the_model_itself() -> None:
    backbone = build("llama")
    assert not backbone.hf_model.training
    assert backbone.train().hf_model.training
    backbone.training = False  # as those do who restore the modes of all modules
    assert not backbone.hf_model.training


@pytest.mark.parametrize("kind", ["parameter", "buffer", "module"])
def test_what_has_no_place_beside_the_backbones_own_parts_is_refused(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_model = transformers.GPT2LMHeadModel.__init__

    def build_more(self: Any, config: Any) -> None:
        build_model(self, config)
        if kind == "parameter":
            self.scale = torch.nn.Parameter(torch.ones(1))
        elif kind == "buffer":
            self.register_buffer("scale", torch.ones(1))
        else:
            self.unembed = torch.nn.Linear(1, 1)

    monkeypatch.setattr(transformers.GPT2LMHeadModel, "__init__", build_more)
    name = "unembed" if kind == "module" else "scale"
    with pytest.raises(UserError, match=rf"model_type \('gpt2'\) has {name} at its top level"):
        HuggingFaceCausalLM(architecture=GPT2, **SIZES)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gpt2_start", "imagegpt"])
@pytest.mark.parametrize("from_files", [False, True])
def test_rows_beyond_the_vocabulary_are_never_predicted(kind: str, from_files: bool, tmp_path: Path) -> None:
    """As in Pythia, whose 50304 rows hold 50277 tokens."""
    source = build(kind)
    fewer = VOCAB - 3
    start = {"start_token": True} if kind == "gpt2_start" else {}
    if from_files:
        source.hf_model.save_pretrained(tmp_path)
        backbone = type(source)(pretrained=str(tmp_path), vocab_size=fewer, max_seq_len=LENGTH - 2, **start)
    else:
        architecture = source.rebuild_config["init_args"]["architecture"]
        backbone = type(source)(architecture=architecture, vocab_size=fewer, max_seq_len=LENGTH - 2, **start)
        backbone.hf_model.load_state_dict(source.hf_model.state_dict())
    again = type(source)(**backbone.rebuild_config["init_args"])
    again.load_state_dict(backbone.state_dict())
    assert backbone.hf_model.config.vocab_size == VOCAB + (kind == "imagegpt")
    for one in (backbone.eval(), again.eval()):
        ids = tokens(one, LENGTH - 2) % fewer
        logits = one.unembed(one(ids))
        assert logits.shape[-1] == one.vocab_size == fewer
        if kind != "gpt2_start":
            torch.testing.assert_close(logits, source.hf_model(ids).logits[..., :fewer], atol=1e-5, rtol=1e-5)
            assert one.start_id == source.start_id
        else:
            assert one.start_id == fewer
        assert one.max_seq_len == LENGTH - 2
        with pytest.raises(UserError, match=rf"max_seq_len \({LENGTH - 2}\)"):
            one(tokens(one))


def test_sizes_go_into_the_architecture() -> None:
    backbone = HuggingFaceImageGPT(architecture=IMAGE_GPT | {"vocab_size": VOCAB + 1, "n_positions": LENGTH}, **SIZES)
    assert backbone.hf_model.config.vocab_size == VOCAB + 1
    assert backbone.hf_model.config.n_positions == LENGTH
    assert HuggingFaceCausalLM(architecture=LLAMA, **SIZES).hf_model.config.max_position_embeddings == LENGTH


@pytest.mark.parametrize("tied", [False, True])
def test_image_gpt_never_predicts_the_start_token(tied: bool) -> None:
    backbone = HuggingFaceImageGPT(architecture=IMAGE_GPT | {"tie_word_embeddings": tied}, **SIZES)
    assert backbone.unembed(backbone(tokens(backbone))).shape[-1] == VOCAB


@pytest.mark.parametrize(
    ("init_args", "message"),
    [
        ({}, "pretrained and architecture are both None.*add .*architecture.model_type"),
        ({"architecture": {"n_layer": 2}}, r"model_type \(None\) must be a causal language model of transformers"),
        ({"architecture": {"model_type": "gpt-2"}}, r"model_type \('gpt-2'\).*did you mean gpt2"),
        (
            {"architecture": {"model_type": "imagegpt"}},
            r"model_type \('imagegpt'\) must be a causal language model of transformers",
        ),
        (
            {"architecture": GPT2 | {"n_layers": 2}},
            r"architecture.n_layers is no setting.*'gpt2'; did you mean n_layer",
        ),
        ({"architecture": GPT2 | {"temperature": 2.0}}, "architecture.temperature is no setting"),
        ({"architecture": LLAMA | {"dtype": "float16"}}, "architecture.dtype is no setting"),
        ({"architecture": GPT2 | {"n_layer": "two"}}, "'gpt2' is not valid: .*n_layer.* expected int"),
        ({"architecture": GPT2 | {"n_head": 3}}, "'gpt2' is not valid: .*divisible"),
        ({"architecture": GPT2 | {"vocab_size": 5}}, rf"architecture.vocab_size \(5\) must be at least {VOCAB}"),
        ({"architecture": GPT2 | {"n_positions": 5}}, rf"architecture.n_positions \(5\) must be at least {LENGTH}"),
        ({"architecture": GPT2 | {"max_position_embeddings": 5}}, rf"n_positions \(5\) must be at least {LENGTH}"),
        ({"architecture": GPT2, "vocab_size": 0}, r"vocab_size \(0\) must be at least 1"),
        ({"architecture": GPT2, "max_seq_len": -1}, r"max_seq_len \(-1\) must be at least 1"),
        ({"architecture": {"model_type": "bloom"}}, "'bloom'.* has no setting max_position_embeddings"),
        ({"pretrained": "./no/such/dir"}, r"pretrained \('./no/such/dir'\) must be a local directory"),
        ({"pretrained": "some/model"}, r"pretrained \('some/model'\) must be a local directory"),
    ],
)
def test_errors_name_what_to_mend(init_args: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    architecture = init_args.get("architecture")
    with pytest.raises(UserError, match=message) as error:
        HuggingFaceCausalLM(**((SIZES if architecture else {}) | init_args))
    assert "\n" not in str(error.value)


def test_image_gpt_says_the_conflicting_size_with_the_start_token() -> None:
    with pytest.raises(UserError, match=rf"architecture.vocab_size \({VOCAB}\) must be at least {VOCAB + 1}"):
        HuggingFaceImageGPT(architecture=IMAGE_GPT | {"vocab_size": VOCAB}, **SIZES)


OPT = {
    "model_type": "opt",
    "num_hidden_layers": 2,
    "hidden_size": 16,
    "word_embed_proj_dim": 16,
    "ffn_dim": 24,
    "num_attention_heads": 2,
}
NEOX = {
    "model_type": "gpt_neox",
    "num_hidden_layers": 2,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_attention_heads": 2,
}


@pytest.mark.parametrize(
    ("architecture", "start"),
    [
        pytest.param(GPT2, False, id="gpt2"),
        pytest.param(GPT2, True, id="gpt2 start"),
        pytest.param(LLAMA, False, id="llama"),
        pytest.param(NEOX, False, id="gpt_neox"),
        pytest.param(LLAMA | {"model_type": "qwen2"}, False, id="qwen2"),
        pytest.param(LLAMA | {"model_type": "mistral", "sliding_window": 3}, False, id="mistral"),
    ],
)
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_documents_of_one_row_are_kept_apart(architecture: dict[str, Any], start: bool, implementation: str) -> None:
    torch.manual_seed(0)
    backbone = HuggingFaceCausalLM(architecture=architecture, start_token=start, **SIZES).eval()
    backbone.hf_model.set_attn_implementation(implementation)
    for parameter in backbone.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    assert backbone.separates_documents
    rows = [[3, 1, 1, 5, 2], [12]]
    ids = torch.randint(VOCAB, (2, LENGTH))
    if start:
        ids[0, 5] = backbone.start_id
    positions = torch.stack([torch.cat([torch.arange(length) for length in lengths]) for lengths in rows])
    together = backbone(ids, position_ids=positions)
    for row, lengths in enumerate(rows):
        alone = torch.cat([backbone(part[None]) for part in ids[row].split(lengths)], dim=1)[0]
        torch.testing.assert_close(together[row], alone, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(together[0], backbone(ids)[0], atol=1e-2)
    whole = torch.arange(LENGTH).expand(2, -1)
    torch.testing.assert_close(backbone(ids, position_ids=whole), backbone(ids), atol=1e-5, rtol=1e-5)
    with pytest.raises(UserError, match="position_ids must be None with a cache"):
        backbone(ids, position_ids=positions, cache=backbone.make_cache(2, LENGTH))
    with pytest.raises(UserError, match=rf"{LENGTH + 1} tokens.*max_seq_len \({LENGTH}\)"):
        backbone(torch.zeros(1, LENGTH + 1, dtype=torch.long), position_ids=torch.zeros(1, LENGTH + 1).long())


@pytest.mark.parametrize("fault", ["no mask", "no positions", "unknown"])
def test_a_model_that_mixes_documents_is_refused_where_they_are_given(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = transformers.GPT2Model.forward

    def mixing(self: Any, *args: Any, position_ids: Tensor | None = None, **kwargs: Any) -> Any:
        if position_ids is not None and fault == "unknown":
            raise TypeError("got an unexpected keyword argument 'position_ids'")
        if position_ids is not None and fault == "no mask":
            kwargs["attention_mask"] = torch.ones_like(position_ids)
        return forward(self, *args, position_ids=None if fault == "no positions" else position_ids, **kwargs)

    monkeypatch.setattr(transformers.GPT2Model, "forward", mixing)
    backbone = HuggingFaceCausalLM(architecture=GPT2, **SIZES)
    assert not backbone.separates_documents
    ids = tokens(backbone)
    assert backbone(ids).shape == (2, LENGTH, 16)
    with pytest.raises(UserError, match=r"model_type \('gpt2'\) does not keep documents of one row apart"):
        backbone(ids, position_ids=torch.zeros_like(ids))


def test_opt_does_not_keep_documents_apart() -> None:
    """In transformers 5.23 its positions go to the table, not to the mask."""
    backbone = HuggingFaceCausalLM(architecture=OPT, **SIZES)
    with pytest.raises(UserError, match=r"'opt'.* does not keep documents"):
        backbone(tokens(backbone), position_ids=torch.zeros(2, LENGTH, dtype=torch.long))


@pytest.mark.parametrize("length", [1, 2, 3])
def test_short_models_are_built(length: int) -> None:
    backbone = HuggingFaceCausalLM(architecture=GPT2, vocab_size=2, max_seq_len=length)
    assert backbone.separates_documents


def shrunk(model_type: str, **changes: Any) -> dict[str, Any]:
    return {**LLAMA, "model_type": model_type, **changes}


@pytest.mark.parametrize(
    "architecture",
    [
        pytest.param(shrunk("cohere"), id="scaled logits"),
        pytest.param(shrunk("gemma2", head_dim=4), id="capped logits"),
        pytest.param({"model_type": "openai-gpt", "n_layer": 2, "n_embd": 16, "n_head": 2}, id="no cache"),
    ],
)
def test_models_that_would_decode_wrongly_are_refused(architecture: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=rf"'{architecture['model_type']}'.* does not work as a causal backbone"):
        HuggingFaceCausalLM(architecture=architecture, **SIZES)


def test_a_model_that_attends_to_later_tokens_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = transformers.GPT2Model.forward

    def peeking(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        output.last_hidden_state = output.last_hidden_state.flip(1).cumsum(1).flip(1)
        return output

    monkeypatch.setattr(transformers.GPT2Model, "forward", peeking)
    with pytest.raises(UserError, match="needs later tokens"):
        HuggingFaceCausalLM(architecture=GPT2, **SIZES)


def test_import_is_cheap() -> None:
    code = "import sys, lt_cli.backbones.huggingface; sys.exit('transformers' in sys.modules)"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
