"""Wrapped encoder-decoder models against the models themselves: logits, cache, padding, weights that travel, errors."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from lt_cli.backbones.hf_seq2seq import FAMILIES, HuggingFaceSeq2Seq
from lt_cli.backbones.lora import LoRA
from lt_cli.errors import UserError

VOCAB, SOURCE, TARGET = 13, 10, 7
SIZES = {"vocab_size": VOCAB, "max_seq_len": SOURCE}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_decoder_layers": 3, "num_heads": 2}
BART = {
    **{"d_model": 16, "encoder_layers": 1, "decoder_layers": 3, "encoder_attention_heads": 2},
    **{"decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24},
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("t5", "mt5", "umt5", "longt5"), T5),
    **dict.fromkeys(("bart", "mbart", "plbart", "mvp", "marian", "pegasus", "pegasus_x"), BART),
    **dict.fromkeys(("bigbird_pegasus", "blenderbot", "blenderbot-small"), BART),
    **dict.fromkeys(("led", "m2m_100"), BART | {"pad_token_id": 1}),
}
RELATIVE = [*ARCHITECTURES][:4]
KINDS = [*ARCHITECTURES]
MAIN = ["t5", "mt5", "bart", "mbart", "marian", "pegasus"]


def architecture(kind: str) -> dict[str, Any]:
    return {"model_type": kind, **ARCHITECTURES[kind]}


def build(kind: str, **changes: Any) -> HuggingFaceSeq2Seq:
    """A tiny model in eval mode, with weights large enough for its parts to matter."""
    torch.manual_seed(0)
    return enlarged(HuggingFaceSeq2Seq(**{"architecture": architecture(kind), **SIZES} | changes)).eval()


def enlarged(backbone: HuggingFaceSeq2Seq) -> HuggingFaceSeq2Seq:
    enlarge(backbone)
    if backbone.final_logits_bias is not None:
        backbone.final_logits_bias.normal_()
    return backbone


def enlarge(model: torch.nn.Module) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "embed_positions" not in name:
                parameter.normal_(std=0.4)


def tokens(length: int, rows: int = 2, seed: int = 1) -> Tensor:
    """Without ids that a model may take for padding."""
    return torch.randint(2, VOCAB, (rows, length), generator=torch.Generator().manual_seed(seed))


def targets(backbone: HuggingFaceSeq2Seq, length: int = TARGET, rows: int = 2) -> Tensor:
    ids = tokens(length, rows, seed=2)
    ids[:, 0] = backbone.start_id
    return ids


@pytest.fixture(autouse=True)
def no_grad() -> Any:
    with torch.no_grad():
        yield


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_the_models_own(kind: str) -> None:
    backbone = build(kind)
    source, target = tokens(SOURCE), targets(backbone, SOURCE)
    features = backbone(source, decoder_input_ids=target)
    assert features.shape == (2, SOURCE, 16) == (2, SOURCE, backbone.embed_dim)
    own = backbone.hf_model(input_ids=source, decoder_input_ids=target).logits
    close(backbone.unembed(features), own)
    matrix, bias = backbone.output_matrix()
    close(features @ matrix.T + (0 if bias is None else bias), own)
    assert own.std() > 0.1
    assert not torch.allclose(features, backbone(source.flip(0), decoder_input_ids=target), atol=1e-3)
    with pytest.raises(UserError, match=rf"target's length \({backbone.max_target_len + 1} tokens\).*max_target_len"):
        backbone(source, decoder_input_ids=targets(backbone, backbone.max_target_len + 1))
    with pytest.raises(UserError, match=rf"{SOURCE + 1} tokens.*max_seq_len \({SOURCE}\)"):
        backbone(tokens(SOURCE + 1), decoder_input_ids=target)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prefill", [1, 4])
def test_cached_decoding_equals_teacher_forcing(kind: str, prefill: int) -> None:
    backbone = build(kind)
    source, target = tokens(SOURCE), targets(backbone, SOURCE)
    mask = torch.ones_like(source)
    mask[1, 6:] = 0
    cache = backbone.make_cache(source, attention_mask=mask, max_len=SOURCE)
    parts = [backbone.decode(target[:, :prefill], cache=cache)]
    parts += [backbone.decode(target[:, t : t + 1], cache=cache) for t in range(prefill, SOURCE)]
    close(torch.cat(parts, dim=1), backbone(source, attention_mask=mask, decoder_input_ids=target))
    if backbone.max_target_len == SOURCE:
        with pytest.raises(UserError, match=rf"{SOURCE + 1} tokens.*max_target_len \({SOURCE}\)"):
            backbone.decode(target[:, :1], cache=cache)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_of_sources_and_targets_changes_nothing(kind: str) -> None:
    backbone = build(kind)
    source, target = tokens(SOURCE), targets(backbone)
    mask = torch.ones_like(source)
    mask[0, 6:], source[0, 6:] = 0, 1
    padded = backbone(source, attention_mask=mask, decoder_input_ids=target)
    close(padded[:1], backbone(source[:1, :6], decoder_input_ids=target[:1]))
    close(padded[1:], backbone(source[1:], decoder_input_ids=target[1:]))
    close(backbone(source, attention_mask=mask.bool(), decoder_input_ids=target), padded)
    assert not torch.allclose(padded[:1], backbone(source, decoder_input_ids=target)[:1], atol=1e-4)
    changed = target.clone()
    changed[:, 4:] = 1
    close(backbone(source, attention_mask=mask, decoder_input_ids=changed)[:, :4], padded[:, :4])


@pytest.mark.parametrize("kind", MAIN)
def test_reorder_takes_sources_along(kind: str) -> None:
    """To more rows, to others, to fewer."""
    backbone = build(kind)
    source, target = tokens(SOURCE, rows=3), targets(backbone, rows=6)
    mask = torch.ones_like(source)
    mask[2, 5:] = 0
    cache = backbone.make_cache(source, attention_mask=mask, max_len=TARGET)
    now = torch.tensor([0, 1, 2])
    seen = target[:3, :2]
    backbone.decode(seen, cache=cache)
    for rows in ([0, 0, 1, 1, 2, 2], [1, 0, 3, 3, 5, 4], [5, 0, 2, 2, 1, 4], [4, 0]):
        order = torch.tensor(rows)
        cache.reorder(order)
        following = target[: len(rows), len(seen[0]) : len(seen[0]) + 1]
        now, seen = now[order], torch.cat([seen[order], following], dim=1)
        whole = backbone(source[now], attention_mask=mask[now], decoder_input_ids=seen)
        close(backbone.decode(following, cache=cache), whole[:, -1:])


def test_beams_of_one_source_share_it() -> None:
    backbone = build("bart")
    cache: Any = backbone.make_cache(tokens(SOURCE), max_len=TARGET)
    cache.reorder(torch.tensor([0, 0, 1, 1]))
    backbone.decode(targets(backbone, 1, rows=4), cache=cache)
    memory, keys = cache.source["memory"], cache.past.cross_attention_cache.layers[0].keys
    cache.reorder(torch.tensor([1, 1, 2, 3]))
    assert cache.source["memory"] is memory
    assert cache.past.cross_attention_cache.layers[0].keys is keys
    cache.reorder(torch.tensor([2, 1, 2, 3]))
    assert cache.source["memory"] is not memory


def test_sources_are_read_once() -> None:
    backbone, calls = build("t5"), []
    backbone.hf_model.get_encoder().register_forward_hook(lambda *_: calls.append("encoder"))
    backbone.hf_model.get_output_embeddings().register_forward_hook(lambda *_: calls.append("logits"))
    cache = backbone.make_cache(tokens(SOURCE), max_len=TARGET)
    for _ in range(3):
        backbone.decode(targets(backbone, 1), cache=cache)
    assert calls == ["encoder"]


@pytest.mark.parametrize("kind", MAIN)
def test_features_train(kind: str) -> None:
    backbone = build(kind).train()
    with torch.enable_grad():
        backbone.unembed(backbone(tokens(SOURCE), decoder_input_ids=targets(backbone))).square().sum().backward()
    named = backbone.named_parameters()
    without = [name for name, parameter in named if parameter.requires_grad and parameter.grad is None]
    assert without == []


@pytest.mark.parametrize("kind", MAIN)
def test_pretrained_directory_gives_the_models_own_logits_and_is_not_needed_again(kind: str, tmp_path: Path) -> None:
    """With the names of the hub, the bias behind the head, and the token that targets begin with."""
    sizes: dict[str, Any] = {"vocab_size": VOCAB, "pad_token_id": 1, "decoder_start_token_id": 3}
    sizes |= {"eos_token_id": 2, "bos_token_id": 2, "forced_eos_token_id": 2}
    sizes |= {"n_positions": SOURCE} if kind in RELATIVE else {"max_position_embeddings": SOURCE}
    config = transformers.AutoConfig.for_model(**architecture(kind) | sizes)
    model = transformers.AutoModelForSeq2SeqLM.from_config(config).eval()
    enlarge(model)
    if hasattr(model, "final_logits_bias"):
        model.final_logits_bias.normal_()
    model.save_pretrained(tmp_path / "weights")
    backbone = HuggingFaceSeq2Seq(pretrained=str(tmp_path / "weights"))
    assert backbone.training
    assert backbone.pretrained
    assert backbone.start_id == 3
    assert (backbone.max_seq_len, backbone.max_target_len, backbone.vocab_size) == (SOURCE, SOURCE, VOCAB)
    assert backbone.state_dict().keys() == model.state_dict().keys()
    source, target = tokens(SOURCE), targets(backbone)
    own = model(input_ids=source, decoder_input_ids=target).logits
    logits = backbone.eval().unembed(backbone(source, decoder_input_ids=target))
    close(logits, own)
    if kind == "t5":
        assert backbone.hf_model.config.pad_token_id == 1

    (tmp_path / "weights").rename(tmp_path / "gone")
    again = HuggingFaceSeq2Seq(**backbone.rebuild_config["init_args"]).eval()
    assert not torch.allclose(again.unembed(again(source, decoder_input_ids=target)), logits)
    again.load_state_dict(backbone.state_dict(), strict=True)
    assert torch.equal(again.unembed(again(source, decoder_input_ids=target)), logits)
    assert (again.max_seq_len, again.max_target_len, again.vocab_size, again.start_id) == (SOURCE, SOURCE, VOCAB, 3)
    assert again.rebuild_config == backbone.rebuild_config
    again.hf_model.save_pretrained(tmp_path / "back")
    back = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "back").eval()
    close(back(input_ids=source, decoder_input_ids=target).logits, own)


@pytest.mark.parametrize("scaled", [True, False])
def test_both_kinds_of_t5_survive_a_checkpoint(scaled: bool, tmp_path: Path) -> None:
    """T5 scales its features, T5 v1.1 does not, which its configuration says in an undeclared setting."""
    settings = architecture("t5") | {"vocab_size": VOCAB}
    config = transformers.AutoConfig.for_model(**settings, tie_word_embeddings=scaled)
    model = transformers.T5ForConditionalGeneration(config).eval()
    enlarge(model)
    model.save_pretrained(tmp_path / "weights")
    backbone = HuggingFaceSeq2Seq(pretrained=str(tmp_path / "weights")).eval()
    ids = tokens(5)
    own = model(input_ids=ids, decoder_input_ids=ids).logits
    close(backbone.unembed(backbone(ids, decoder_input_ids=ids)), own)
    again = HuggingFaceSeq2Seq(**backbone.rebuild_config["init_args"]).eval()
    again.load_state_dict(backbone.state_dict())
    close(again.unembed(again(ids, decoder_input_ids=ids)), own)
    fresh = HuggingFaceSeq2Seq(architecture=settings | {"scale_decoder_outputs": scaled}).eval()
    fresh.load_state_dict(backbone.state_dict())
    close(fresh.unembed(fresh(ids, decoder_input_ids=ids)), own)
    assert fresh.max_seq_len == fresh.max_target_len == 512


def test_the_bias_moves_with_the_backbone() -> None:
    backbone = build("bart").double()
    ids = tokens(5)
    logits = backbone.unembed(backbone(ids, decoder_input_ids=ids))
    assert logits.dtype == torch.float64
    assert backbone.hf_model.final_logits_bias.dtype == torch.float64
    torch.testing.assert_close(logits, backbone.hf_model(input_ids=ids, decoder_input_ids=ids).logits)
    twin = copy.deepcopy(backbone)
    twin.final_logits_bias.zero_()
    assert twin.hf_model.final_logits_bias.abs().max() == 0
    assert torch.equal(backbone.unembed(backbone(ids, decoder_input_ids=ids)), logits)


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_adapters_alone_train_and_are_all_that_a_checkpoint_needs(kind: str, tmp_path: Path) -> None:
    build(kind).hf_model.save_pretrained(tmp_path)
    backbone = HuggingFaceSeq2Seq(pretrained=str(tmp_path), lora=LoRA(rank=2))
    trained = {name for name, parameter in backbone.named_parameters() if parameter.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    for name, parameter in backbone.named_parameters():
        if name in trained:
            parameter.normal_(std=0.3)
    kept = {name: weight for name, weight in backbone.state_dict().items() if name not in backbone.given}
    assert set(kept) - {"final_logits_bias"} == trained
    again = HuggingFaceSeq2Seq(**backbone.rebuild_config["init_args"] | {"lora": LoRA(rank=2)})
    again.load_state_dict(kept, strict=False)
    ids = tokens(5)
    features = backbone.eval()(ids, decoder_input_ids=ids)
    assert torch.equal(again.eval()(ids, decoder_input_ids=ids), features)


def test_rows_beyond_the_vocabulary_are_never_predicted(tmp_path: Path) -> None:
    source = build("marian")
    source.hf_model.save_pretrained(tmp_path)
    fewer = HuggingFaceSeq2Seq(pretrained=str(tmp_path), vocab_size=VOCAB - 2, max_seq_len=4, max_target_len=5).eval()
    ids = tokens(4) % fewer.vocab_size
    logits = fewer.unembed(fewer(ids, decoder_input_ids=ids))
    torch.testing.assert_close(logits, source.unembed(source(ids, decoder_input_ids=ids))[..., : VOCAB - 2])
    again = HuggingFaceSeq2Seq(**fewer.rebuild_config["init_args"])
    assert (again.vocab_size, again.max_seq_len, again.max_target_len) == (VOCAB - 2, 4, 5)
    assert again.hf_model.config.vocab_size == VOCAB
    assert HuggingFaceSeq2Seq(pretrained=str(tmp_path), vocab_size=VOCAB - 1, start_id=VOCAB - 1).start_id == VOCAB - 1


def test_lengths_of_targets_are_their_own() -> None:
    relative = build("t5", max_target_len=99)
    assert (relative.max_seq_len, relative.max_target_len) == (SOURCE, 99)
    relative(tokens(SOURCE), decoder_input_ids=targets(relative, 99))
    more = build("bart", architecture=architecture("bart") | {"max_position_embeddings": 20}, max_target_len=15)
    assert (more.max_seq_len, more.max_target_len) == (SOURCE, 15)
    assert build("bart", start_id=4).start_id == 4
    said = architecture("bart") | {"decoder_start_token_id": 5}
    assert build("bart", architecture=said).start_id == 5
    assert [build(kind).start_id for kind in ("t5", "bart", "marian")] == [0, 0, 0]


@pytest.mark.parametrize(
    ("init_args", "message"),
    [
        ({}, "pretrained and architecture are both None"),
        (
            {"architecture": {"model_type": "bert"}},
            r"\('bert'\) must be a seq2seq language model of transformers, such as 't5'",
        ),
        ({"architecture": {"model_type": "whisper"}}, "must be a seq2seq language model"),
        ({"architecture": architecture("t5") | {"layers": 2}}, "architecture.layers is no setting"),
        ({"architecture": architecture("bart"), "max_target_len": 11}, r"max_target_len \(11\).*at most 10"),
        ({"architecture": architecture("t5"), "max_target_len": 0}, r"max_target_len \(0\) must be at least 1"),
        ({"architecture": architecture("t5"), "start_id": VOCAB}, rf"start_id \({VOCAB}\) must be from 0 to 12"),
        (
            {"architecture": architecture("led") | {"max_encoder_position_embeddings": 9}},
            r"max_seq_len \(10\) must be at most 9",
        ),
        ({"architecture": BART | {"model_type": "m2m_100"}}, "'m2m_100'.* does not work as a seq2seq backbone"),
    ],
)
def test_errors_name_what_to_mend(init_args: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        HuggingFaceSeq2Seq(**((SIZES if init_args else {}) | init_args))
    assert "\n" not in str(error.value)


def test_every_family_is_tried() -> None:
    assert {*FAMILIES} == {*ARCHITECTURES}
