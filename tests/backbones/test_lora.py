"""LoRA against peft's own, what trains, and checkpoints that hold nothing but what trained."""

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from contract_suite import GOLDEN, ROOT, Killed, assert_same_weights, dies_after, only_run, weights
from torch import Tensor, nn

from lt_cli.backbones.huggingface import HuggingFaceCausalLM, HuggingFaceMaskedLM
from lt_cli.backbones.lora import LoRA
from lt_cli.checkpoint import load
from lt_cli.cli import run
from lt_cli.errors import UserError
from lt_cli.reuse import causal_backbone

GPT2 = {"model_type": "gpt2", "n_layer": 2, "n_embd": 32, "n_head": 2}
BERT = {
    "model_type": "bert",
    "num_hidden_layers": 2,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_attention_heads": 2,
}
SIZES = {"vocab_size": 5, "max_seq_len": 16}
RANK_2 = LoRA(rank=2, alpha=6)
Wrapped = HuggingFaceCausalLM | HuggingFaceMaskedLM


def build(kind: str, lora: LoRA = RANK_2) -> Wrapped:
    """A tiny model in eval mode, with adapters that matter."""
    torch.manual_seed(0)
    backbone: Wrapped
    if kind == "bert":
        backbone = HuggingFaceMaskedLM(architecture=BERT, lora=lora, **SIZES)
    else:
        backbone = HuggingFaceCausalLM(architecture=GPT2, lora=lora, start_token=True, **SIZES)
    with torch.no_grad():
        for parameter in backbone.parameters():
            nn.init.normal_(parameter, std=0.3)
    return backbone.eval()


def base_of(backbone: Wrapped) -> Any:
    """The same model without adapters, from transformers alone."""
    model = type(backbone.hf_model)(backbone.hf_model.config).eval()
    state = {name.replace(".base_layer.", "."): weight for name, weight in backbone.hf_model.state_dict().items()}
    model.load_state_dict({name: weight for name, weight in state.items() if "lora_" not in name})
    return model


def trainable(module: nn.Module) -> dict[str, Tensor]:
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
@pytest.mark.parametrize("targets", [None, "all-linear", "names", r".*\.[01]\..*(c_fc|output.dense)"])
def test_is_what_peft_makes_of_the_same_model(kind: str, targets: Any) -> None:
    if targets == "names":
        targets = ["c_fc"] if kind == "gpt2" else ["dense", "value"]
    backbone = build(kind, replace(RANK_2, target_modules=targets))
    base = base_of(backbone)
    ids = torch.arange(5)[None]
    plain = base(ids).logits
    config = peft.LoraConfig(r=2, lora_alpha=6, target_modules=targets, init_lora_weights=False)
    theirs = peft.get_peft_model(copy.deepcopy(base), config)
    ours = {f"base_model.model.{name}": weight for name, weight in trainable(backbone).items() if name != "start"}
    assert trainable(theirs).keys() == ours.keys()
    theirs.load_state_dict(ours, strict=False)
    logits = backbone.unembed(backbone(ids))
    torch.testing.assert_close(logits, theirs.eval()(ids).logits, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(logits, plain, atol=1e-3)
    assert all(weight.shape[0 if "lora_A" in name else 1] == 2 for name, weight in ours.items())


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_only_adapters_and_the_start_token_train(kind: str) -> None:
    backbone = build(kind).train()
    assert [name for name in trainable(backbone) if "lora_" not in name] == (["start"] if kind == "gpt2" else [])
    ids = torch.arange(5)[None]
    if kind == "gpt2":
        ids[0, 0] = 5
    backbone.unembed(backbone(ids)).square().sum().backward()
    assert {name for name, parameter in backbone.named_parameters() if parameter.grad is not None} == set(
        trainable(backbone)
    )


def test_starts_as_the_model_was_and_drops_inputs_in_training_only() -> None:
    torch.manual_seed(0)
    still = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    backbone = HuggingFaceCausalLM(architecture=GPT2 | still, lora=LoRA(dropout=0.5), **SIZES)
    ids = torch.arange(5)[None]
    torch.testing.assert_close(backbone.unembed(backbone(ids)), base_of(backbone)(ids).logits)
    with torch.no_grad():
        for parameter in trainable(backbone).values():
            nn.init.normal_(parameter)
    assert not torch.equal(backbone(ids), backbone(ids))
    backbone.eval()
    assert torch.equal(backbone(ids), backbone(ids))


def test_a_random_base_is_saved_with_its_adapters() -> None:
    backbone = build("gpt2")
    assert backbone.given == frozenset()
    assert backbone.given_fingerprint is None
    init_args = backbone.rebuild_config["init_args"]
    assert json.loads(json.dumps(init_args)) == init_args
    assert init_args["pretrained"] is None
    again = HuggingFaceCausalLM(**init_args | {"lora": LoRA(**init_args["lora"])}).eval()
    again.load_state_dict(backbone.state_dict())
    ids = torch.arange(5)[None]
    assert torch.equal(again(ids), backbone(ids))
    assert again.rebuild_config == backbone.rebuild_config


def test_layers_that_the_weights_lack_are_saved(tmp_path: Path) -> None:
    """They are drawn at random, so that loading the rest anew does not bring them back."""
    pretrained(tmp_path)
    deeper = HuggingFaceCausalLM(pretrained=str(tmp_path), architecture={"n_layer": 3}, lora=RANK_2)
    assert deeper.given
    assert not [name for name in deeper.given if name.startswith("transformer.h.2.")]
    names = deeper.state_dict().keys() - deeper.given
    assert {name for name in names if not name.startswith("transformer.h.2.")} == {
        name for name in trainable(deeper) if not name.startswith("transformer.h.2.")
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, r"lora.rank \(0\) must be at least 1"),
        ({"alpha": 0.0}, r"lora.alpha \(0.0\) must be above 0"),
        ({"dropout": 1.0}, r"lora.dropout \(1.0\) must be at least 0 and below 1"),
        (
            {"target_modules": ["c_attn", "c_fk"]},
            "'c_fk' names no layer of 'gpt2': there are c_attn, c_fc, c_proj, wpe, ",
        ),
        ({"target_modules": "c_at"}, "'c_at' names no layer of 'gpt2'.*; did you mean c_attn"),
        ({"target_modules": "c_(at"}, r"target_modules \('c_\(at'\) is no regular expression"),
        ({"target_modules": []}, r"target_modules \(\[\]\) must name at least one layer"),
        ({"target_modules": ["lm_head"]}, "'lm_head' is the output layer, which must stay as it is"),
        ({"target_modules": ".*"}, r"'\.\*' is the output layer"),
        ({"target_modules": ["ln_1"]}, r"target_modules \(\['ln_1'\]\) cannot be adapted: .*LayerNorm"),
    ],
)
def test_errors_name_what_to_mend(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        HuggingFaceCausalLM(architecture=GPT2, lora=LoRA(**options), **SIZES)
    assert "\n" not in str(error.value)


def test_an_architecture_without_a_choice_of_pefts_asks_for_one() -> None:
    architecture = {"model_type": "distilbert", "n_layers": 2, "dim": 16, "hidden_dim": 24, "n_heads": 2}
    with pytest.raises(UserError, match=r"peft chooses none for 'distilbert': there are .*q_lin, .*and all-linear"):
        HuggingFaceMaskedLM(architecture=architecture, lora=LoRA(), **SIZES)
    lora = LoRA(target_modules=["q_lin", "v_lin"])
    assert trainable(HuggingFaceMaskedLM(architecture=architecture, lora=lora, **SIZES))


# Runs, from weights that a directory holds.


def pretrained(directory: Path, seed: int = 0) -> None:
    torch.manual_seed(seed)
    ids = dict.fromkeys(("bos_token_id", "eos_token_id"))
    sizes = {"vocab_size": 8, "n_positions": 16, "n_layer": 2, "n_embd": 32, "n_head": 2}
    transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, **ids)).save_pretrained(directory)


@pytest.fixture
def base() -> Path:
    """A relative path, as users write them; more rows than the five colours need."""
    pretrained(Path("base"))
    return Path("base")


NAME = "pixel_generation"
FIT = [
    "fit",
    f"--config={ROOT / 'tests' / 'contract' / NAME}.yaml",
    "--checkpoints.every_minutes=0",
    "--model.backbone=lt_cli.backbones.huggingface.HuggingFaceCausalLM",
    "--model.backbone.pretrained=base",
    "--model.backbone.vocab_size=5",
    "--model.backbone.start_token=true",
    "--model.backbone.lora.rank=2",
    "--model.schedule=null",
    "--trainer.limit_train_batches=4",
]
LAST = Path("checkpoints", "last.ckpt")


def loss_of(task: Any, data: Any) -> Tensor:
    data.setup("test")
    batch = data.splits["test"].batch(range(4), 0)
    loss: Tensor = task.eval().step(batch, "test")["loss"]
    return loss


def test_a_checkpoint_holds_what_trained_and_gives_the_same_loss(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = run([*FIT, "--trainer.default_root_dir=here"])
    last = (only_run(NAME, "here") / LAST).absolute()
    saved, backbone = weights(last), fitted.model.backbone
    assert saved.keys() == {f"backbone.{name}" for name in trainable(backbone)}
    assert len(saved) == 1 + 2 * 2
    whole = transformers.GPT2LMHeadModel.from_pretrained(base)
    own = {name.replace(".base_layer.", "."): weight for name, weight in backbone.state_dict().items()}
    for name, weight in whole.state_dict().items():
        assert torch.equal(own[name], weight), name
    assert any(weight.abs().sum() > 0 for name, weight in saved.items() if "lora_B" in name)
    model = torch.load(last, weights_only=True)["lt_cli"]["config"]["model"]["init_args"]["backbone"]["init_args"]
    assert model["pretrained"] == str(base.absolute())
    assert model["lora"] == {"rank": 2, "alpha": 16.0, "dropout": 0.0, "target_modules": None}

    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    loaded = load(last)
    assert_same_weights(loaded.task.state_dict(), fitted.model.state_dict())
    assert loss_of(loaded.task, loaded.data) == loss_of(fitted.model, fitted.datamodule)
    tested = run(["test", f"--ckpt_path={last}", "--trainer.accelerator=cpu", "--trainer.limit_test_batches=2"])
    assert_same_weights(tested.model.state_dict(), fitted.model.state_dict())
    assert causal_backbone(str(last)).given == backbone.given


def test_resumed_is_bit_identical_whole(base: Path) -> None:
    whole = run([*FIT, "--trainer.default_root_dir=whole"]).model.state_dict()
    with pytest.raises(Killed), dies_after(3):
        run([*FIT, "--trainer.default_root_dir=broken"])
    broken = only_run(NAME, "broken") / LAST
    assert not [name for name in weights(broken) if "lora_" not in name and name != "backbone.start"]
    resumed = run(["fit", f"--ckpt_path={broken}"])
    assert resumed.trainer.global_step == 4
    assert_same_weights(resumed.model.state_dict(), whole)


def test_other_weights_or_none_are_refused(base: Path) -> None:
    run([*FIT, "--trainer.max_epochs=1"])
    last = only_run(NAME) / LAST
    loss = loss_of(*(run_ := load(last)).__dict__.values())
    shutil.copytree("base", "moved")
    pretrained(base, seed=1)
    with pytest.raises(UserError, match=r"was trained over weights with the fingerprint \w+, and .* have \w+: bring"):
        load(last)
    for arguments in (["fit"], ["test", "--trainer.accelerator=cpu"]):
        with pytest.raises(UserError, match=r"last.ckpt was trained over weights with the fingerprint") as error:
            run([*arguments, f"--ckpt_path={last}"])
        assert "\n" not in str(error.value)
    shutil.rmtree("base")
    gone = r"pretrained \('/.*/base'\) must be a local directory .*: there is no such directory; say where"
    with pytest.raises(UserError, match=rf"the configuration in .*/last.ckpt: {gone}") as error:
        load(last)
    assert "\n" not in str(error.value)
    again = run(["test", f"--ckpt_path={last}", "--model.backbone.pretrained=moved", "--trainer.accelerator=cpu"])
    assert_same_weights(again.model.state_dict(), run_.task.state_dict())
    assert loss_of(again.model, run_.data) == loss


def test_a_missing_adapter_is_not_forgiven(base: Path) -> None:
    run([*FIT, "--trainer.max_epochs=1"])
    last = only_run(NAME) / LAST
    checkpoint = torch.load(last, weights_only=True)
    del checkpoint["state_dict"]["backbone.transformer.h.1.attn.c_attn.lora_B.default.weight"]
    torch.save(checkpoint, "less.ckpt")
    with pytest.raises(UserError, match=r"is of another model: Missing key.*h\.1\.attn\.c_attn\.lora_B"):
        load("less.ckpt")


def test_every_option_has_a_default(base: Path) -> None:
    cli = run([*(one.replace("lora.rank=2", "lora={}") for one in FIT), "--trainer.max_steps=1"])
    assert cli.model.backbone.rebuild_config["init_args"]["lora"]["rank"] == LoRA().rank == 8
    other = copy.deepcopy(cli.model.backbone).eval()
    ids = torch.arange(5)[None]
    assert torch.equal(other(ids), cli.model.backbone.eval()(ids))
    assert trainable(other).keys() == trainable(cli.model.backbone).keys()


def test_freezes_and_thaws_with_adapters(base: Path) -> None:
    """The base never trained, so that a thaw does not wake it."""
    freeze = ["--freeze.modules=[backbone.transformer.h.0]", '--freeze.thaw={1: "backbone.transformer.h.0"}']
    started = run([*FIT, *freeze, "--trainer.max_epochs=1", "--trainer.default_root_dir=one"]).model.state_dict()
    whole = run([*FIT, *freeze, "--trainer.default_root_dir=two"]).model.state_dict()
    lora = "attn.c_attn.lora_B.default.weight"
    assert not started[f"backbone.transformer.h.0.{lora}"].any()
    assert started[f"backbone.transformer.h.1.{lora}"].any()
    assert whole[f"backbone.transformer.h.0.{lora}"].any()
    name = "backbone.transformer.h.0.attn.c_attn.base_layer.weight"
    assert torch.equal(whole[name], started[name])


def test_averaged_weights_resume(base: Path) -> None:
    """Their callback loads by itself what a checkpoint holds, which is then everything."""
    callback = ["--trainer.callbacks+=lightning.pytorch.callbacks.EMAWeightAveraging"]
    whole = run([*FIT, *callback, "--trainer.default_root_dir=whole"]).model.state_dict()
    with pytest.raises(Killed), dies_after(3):
        run([*FIT, *callback, "--trainer.default_root_dir=broken"])
    resumed = run(["fit", f"--ckpt_path={only_run(NAME, 'broken') / LAST}"])
    assert_same_weights(resumed.model.state_dict(), whole)


def test_earlier_checkpoints_know_no_fingerprint() -> None:
    assert "given_fingerprint" not in torch.load(GOLDEN / f"{NAME}.ckpt", weights_only=True)["lt_cli"]
    assert load(GOLDEN / f"{NAME}.ckpt").task.backbone.given == frozenset()
