"""Language modelling against loops over tokens and transformers' own losses and continuations."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from contract_suite import Killed, assert_same_weights, dies_after, only_run
from pretrained import pretrained_gpt2
from texts import Documents, bert_like, gpt2_like, letters, llama_like
from toys import Sentences, message, tiny_gpt, trainer

from lt_cli.backbones.base import CausalBackbone
from lt_cli.backbones.huggingface import HuggingFaceCausalLM, HuggingFaceMaskedLM
from lt_cli.checkpoint import load
from lt_cli.cli import run
from lt_cli.data.blocks import Masking
from lt_cli.data.packed_text import PackedText
from lt_cli.data.tokenizers import ByteTokenizer, HuggingFaceTokenizer
from lt_cli.generation import Sampling
from lt_cli.tasks.language_modeling import CausalLanguageModeling, MaskedLanguageModeling

GPT2 = {"model_type": "gpt2", "n_layer": 2, "n_head": 2, "n_embd": 8}
BERT = {"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
BERT |= {"intermediate_size": 16}
ROOM = 24


def our_gpt(vocab_size: int = 258) -> CausalBackbone:
    return tiny_gpt(vocab_size=vocab_size, max_seq_len=ROOM, start_token=False)


def gpt2(vocab_size: int = 258) -> CausalBackbone:
    backbone = HuggingFaceCausalLM(architecture=GPT2, vocab_size=vocab_size, max_seq_len=ROOM)
    for parameter in backbone.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return backbone


backbones = pytest.mark.parametrize("make", [our_gpt, gpt2])


def text_data(*stages: str, **options: Any) -> PackedText:
    """Sentences in bytes, as a trainer would set them up."""
    data = PackedText(
        **{"source": Sentences(), "tokenizer": ByteTokenizer(), "max_seq_len": 16, "batch_size": 4, **options}
    )
    data.prepare_data()
    for stage in stages or ("fit",):
        data.setup(stage)
    return data


def task_of(data: PackedText, backbone: CausalBackbone, **options: Any) -> CausalLanguageModeling:
    task = CausalLanguageModeling(backbone=backbone, schedule=None, **options)
    task.attach(data)
    task._has_trained_weights = True  # as a checkpoint's have
    return task.eval()


@torch.no_grad()
def slow_nats(backbone: CausalBackbone, tokens: list[int], first: int) -> float:
    """Of the tokens from one on, each from a pass over those before it."""
    total = 0.0
    for place in range(first, len(tokens)):
        logits = backbone.unembed(backbone(torch.tensor([tokens[:place]])))[0, -1]
        total -= logits.double().log_softmax(-1)[tokens[place]].item()
    return total


class TestScores:
    """What training and validation say."""

    @backbones
    def test_loss_of_a_batch(self, make: Any) -> None:
        task = task_of(text_data(), make())
        assert task.data is not None
        batch = task.data.splits["train"].batch([0, 5], 0)
        rows = [[*row.tolist(), int(label[-1])] for row, label in zip(batch["input_ids"], batch["labels"], strict=True)]
        expected = sum(slow_nats(task.backbone, row, 1) for row in rows) / (2 * 16)
        assert task.step(batch, "train")["loss"].item() == pytest.approx(expected, rel=1e-5)

    def test_loss_is_that_of_transformers(self) -> None:
        task = task_of(text_data(), gpt2())
        assert task.data is not None
        batch = task.data.splits["train"].batch([0, 1, 2], 0)
        whole = torch.cat([batch["input_ids"], batch["labels"][:, -1:]], dim=1)
        theirs = task.backbone.hf_model(whole, labels=whole).loss
        torch.testing.assert_close(task.step(batch, "train")["loss"], theirs)

    @backbones
    def test_validation_counts_every_token_once(self, make: Any) -> None:
        """The last block has fewer labels than the others, in a batch of one row; the mean is over tokens."""
        source = Documents(letters(30), val=["ab" * 11, "x", "some more text"])
        data = text_data(source=source, batch_size=2)
        task = task_of(data, make())
        scores = trainer().validate(task, data, verbose=False)[0]
        text = [256, *b"ab" * 11, 256, *b"x", 256, *b"some more text", 256]
        blocks = [text[i : i + 17] for i in range(0, len(text) - 1, 16)]
        nats = sum(slow_nats(task.backbone, block, 1) for block in blocks[:-1])
        rest = (len(text) - 1) % 16
        assert rest
        nats += slow_nats(task.backbone, text[-17:], 17 - rest)  # the last block ends where the text does
        assert scores["val/loss"] == pytest.approx(nats / (len(text) - 1), rel=1e-5)
        assert scores["val/perplexity"] == pytest.approx(math.exp(nats / (len(text) - 1)), rel=1e-4)
        assert scores["val/bits_per_byte"] == pytest.approx(nats / math.log(2) / (22 + 1 + 14), rel=1e-5)

    @backbones
    def test_documents_kept_apart(self, make: Any) -> None:
        """Each is predicted as if it stood alone."""
        texts = ["abc", "de", "fghij"]
        source = Documents(letters(30), val=texts)
        data = text_data(source=source, separate_documents=True, max_seq_len=13)
        task = task_of(data, make())
        nats = sum(slow_nats(task.backbone, [256, *text.encode(), 256], 1) for text in texts)
        scores = trainer().validate(task, data, verbose=False)[0]
        assert scores["val/loss"] == pytest.approx(nats / (len("".join(texts)) + 3), rel=1e-5)

    def test_masked_loss_is_that_of_transformers(self) -> None:
        data = text_data(masking=Masking())
        task = MaskedLanguageModeling(
            backbone=HuggingFaceMaskedLM(architecture=BERT, vocab_size=258, max_seq_len=16), schedule=None
        ).eval()
        task.attach(data)
        batch = data.splits["val"].batch([0, 1, 2], 0)
        theirs = task.backbone.hf_model(batch["input_ids"], labels=batch["labels"])
        outputs = task.step(batch, "val")
        torch.testing.assert_close(outputs["loss"], theirs.loss)
        is_masked = batch["labels"] != -100
        right = (theirs.logits.argmax(-1) == batch["labels"])[is_masked].float().mean()
        assert outputs["accuracy"] == right
        assert outputs["weight"] == is_masked.sum()

    def test_a_row_without_masks(self) -> None:
        """Teaches and scores nothing, and makes no score nan."""
        data = text_data(masking=Masking())
        task = MaskedLanguageModeling(
            backbone=HuggingFaceMaskedLM(architecture=BERT, vocab_size=258, max_seq_len=16), schedule=None
        )
        task.attach(data)
        batch = data.splits["val"].batch([0], 0)
        batch["labels"] = torch.full_like(batch["labels"], -100)
        outputs = task.step(batch, "val")
        assert [outputs[name].item() for name in ("loss", "accuracy", "weight")] == [0, 0, 0]


PROMPTS = ["ab", "a longer prompt", "c", "xyz xyz"]


def predictions(task: CausalLanguageModeling, data: PackedText) -> list[dict[str, Any]]:
    """What predict writes."""
    from lt_cli.callbacks.prediction_writer import PredictionWriter

    trainer(PredictionWriter(directory="out")).predict(task, data)
    return [json.loads(line) for line in Path("out/predictions.jsonl").read_text().splitlines()]


class TestPredict:
    """What prompts are continued with."""

    @backbones
    @pytest.mark.parametrize("batch_size", [1, 3, 4])
    def test_greedy_is_a_slow_loop(self, make: Any, batch_size: int) -> None:
        """Whatever stands beside a prompt in its batch; in the order of the prompts."""
        torch.manual_seed(1)
        data = text_data("predict", prompts=PROMPTS, batch_size=batch_size)
        task = task_of(data, make(), sampling=Sampling(temperature=0), max_new_tokens=6)
        rows = predictions(task, data)
        assert [row["prompt"] for row in rows] == PROMPTS
        for row in rows:
            tokens = [256, *row["prompt"].encode()]
            for _ in range(6):
                with torch.no_grad():
                    new = int(task.backbone.unembed(task.backbone(torch.tensor([tokens])))[0, -1].argmax())
                tokens.append(new)
                if new == 256:
                    break
            made = bytes(i for i in tokens[1:] if i < 256).decode(errors="replace")
            assert row["prompt"] + row["completion"] == made

    def test_greedy_is_that_of_transformers(self, tmp_path: Path) -> None:
        tokenizer = HuggingFaceTokenizer(str(gpt2_like(tmp_path / "tokenizer")))
        data = text_data("predict", tokenizer=tokenizer, prompts=["the cat", "a tokenizer learns which", "K"])
        task = task_of(data, gpt2(tokenizer.vocab_size), sampling=Sampling(temperature=0), max_new_tokens=7)
        for row in predictions(task, data):
            ids = torch.tensor([[tokenizer.start_id, *tokenizer.encode([row["prompt"]])[0].tolist()]])
            ends = dict.fromkeys(("eos_token_id", "pad_token_id"), tokenizer.end_id)
            mask = torch.ones_like(ids)
            theirs = task.backbone.hf_model.generate(
                ids, attention_mask=mask, max_new_tokens=7, do_sample=False, **ends
            )
            assert row["prompt"] + row["completion"] == tokenizer.decode(theirs[0].tolist())

    def test_samples_do_not_depend_on_the_batch(self) -> None:
        made = []
        backbone = our_gpt()
        for batch_size in (1, 2, 4):
            data = text_data("predict", prompts=PROMPTS, batch_size=batch_size)
            made.append(predictions(task_of(data, backbone, sampling=Sampling(seed=3), max_new_tokens=8), data))
        assert made[0] == made[1] == made[2]
        data = text_data("predict", prompts=PROMPTS, batch_size=4)
        assert predictions(task_of(data, backbone, sampling=Sampling(seed=4), max_new_tokens=8), data) != made[0]

    def continued(self, likely: str, **options: Any) -> dict[str, Any]:
        """A prompt that a backbone goes on with by one character of a text after another, then the end."""

        class Parrot(type(our_gpt())):  # type: ignore[misc]
            def forward(self, input_ids: Any, *, cache: Any = None, **places: Any) -> Any:
                return torch.zeros(*input_ids.shape, self.embed_dim)

            def unembed(self, features: Any) -> Any:
                logits = torch.zeros(*features.shape[:-1], 258)
                logits[..., next(self.to_say)] = 9
                return logits

        parrot = Parrot(vocab_size=258, max_seq_len=ROOM, embed_dim=8, num_heads=2, num_layers=1, start_token=False)
        parrot.to_say = iter([*likely.encode(), 256, *b"never"])
        data = text_data("predict", prompts=["Say: "])
        return predictions(task_of(data, parrot, sampling=Sampling(temperature=0), **options), data)[0]

    def test_the_end_of_a_text(self) -> None:
        row = self.continued("hello")
        assert row == {"prompt": "Say: ", "completion": "hello", "finish_reason": "end"}

    def test_a_stop(self) -> None:
        row = self.continued("hello, you", stop=["you", ", y"])
        assert (row["completion"], row["finish_reason"]) == ("hello", "stop")

    def test_a_stop_of_several_bytes(self) -> None:
        row = self.continued("hellö, you", stop=["ö"])
        assert (row["completion"], row["finish_reason"]) == ("hell", "stop")

    def test_the_length(self) -> None:
        row = self.continued("hello", max_new_tokens=3)
        assert (row["completion"], row["finish_reason"]) == ("hel", "length")

    def test_the_context(self) -> None:
        """The prompt has 6 tokens; the last new token need not fit in."""
        row = self.continued("a" * ROOM)
        assert (row["completion"], row["finish_reason"]) == ("a" * (ROOM - 6 + 1), "context")

    def test_a_prompt_that_is_too_long(self) -> None:
        Path("prompts.txt").write_text("short\n" + "a" * 30 + "\n")
        data = text_data("predict", prompts="prompts.txt")
        said = message(lambda: predictions(task_of(data, our_gpt()), data))
        assert said == "prompts.txt:2 has 31 tokens, more than the backbone's max_seq_len (24): shorten it"

    def test_masks_are_filled(self, tmp_path: Path) -> None:
        tokenizer = HuggingFaceTokenizer(str(bert_like(tmp_path / "tokenizer")))
        prompts = ["the [MASK] sat on the [MASK]", "[MASK]", "a cat looked at the [MASK] and the other cat"]
        data = text_data("predict", tokenizer=tokenizer, prompts=prompts, masking=Masking())
        backbone = HuggingFaceMaskedLM(architecture=BERT, vocab_size=tokenizer.vocab_size, max_seq_len=40)
        task = MaskedLanguageModeling(backbone=backbone, schedule=None).eval()
        task.attach(data)
        task._has_trained_weights = True
        for row in predictions(task, data):  # type: ignore[arg-type]
            ids = torch.tensor([[2, *tokenizer.encode_masked(row["prompt"]).tolist(), 3]])
            likeliest = backbone.hf_model(ids).logits.softmax(-1).max(-1)
            is_masked = ids == tokenizer.mask_id
            filled = torch.where(is_masked, likeliest.indices, ids)
            assert row["completion"] == tokenizer.decode_masked(filled[0].tolist())
            assert row["probability"] == pytest.approx(likeliest.values[is_masked].tolist(), abs=1e-5)
            assert len(row["probability"]) == row["prompt"].count("[MASK]")


class TestMistakes:
    """What task and data disagree on."""

    def problems(self, data: PackedText, task: Any) -> str:
        return message(lambda: task.attach(data))

    def test_of_sizes(self) -> None:
        said = self.problems(text_data(), CausalLanguageModeling(backbone=tiny_gpt(start_token=False, max_seq_len=8)))
        assert (
            "the data has 258 tokens, the backbone a vocabulary of 5: add --model.backbone.init_args.vocab_size=258"
            in said
        )
        assert "add --model.backbone.init_args.max_seq_len=16" in said

    def test_of_sizes_of_a_masked_model(self) -> None:
        backbone = HuggingFaceMaskedLM(architecture=BERT, vocab_size=9, max_seq_len=8)
        said = self.problems(text_data(masking=Masking()), MaskedLanguageModeling(backbone=backbone))
        assert "add --model.backbone.init_args.vocab_size=258" in said
        assert "add --model.backbone.init_args.max_seq_len=16" in said

    def test_of_a_start_token(self) -> None:
        said = self.problems(text_data(), CausalLanguageModeling(backbone=tiny_gpt(vocab_size=258)))
        assert said.endswith("add --model.backbone.init_args.start_token=false")

    def test_of_masks(self) -> None:
        said = self.problems(text_data(masking=Masking()), CausalLanguageModeling(backbone=our_gpt()))
        assert said.endswith("add --data.masking=null")
        backbone = HuggingFaceMaskedLM(architecture=BERT, vocab_size=258, max_seq_len=16)
        said = self.problems(text_data(), MaskedLanguageModeling(backbone=backbone))
        assert said.endswith("add --data.masking={}")

    def test_of_documents_that_cannot_be_kept_apart(self) -> None:
        backbone = our_gpt()
        backbone.separates_documents = False
        said = self.problems(text_data(separate_documents=True), CausalLanguageModeling(backbone=backbone))
        assert said == "GPT cannot keep documents apart: add --data.separate_documents=false"

    def test_of_a_stop_that_is_never_shown(self, tmp_path: Path) -> None:
        tokenizer = HuggingFaceTokenizer(str(llama_like(tmp_path / "tokenizer")))
        data = text_data("predict", tokenizer=tokenizer, prompts=["the cat"])
        task = CausalLanguageModeling(backbone=our_gpt(tokenizer.vocab_size), stop=["cat", "</s>"])
        assert self.problems(data, task) == (
            "stop ('</s>') is a special token, which a text never shows: "
            "add --data.tokenizer.end_token=TOKEN to end texts with it"
        )

    def test_none_before_the_data_is_read(self) -> None:
        """A tokenizer of files that nobody has looked at yet."""
        data = PackedText(source=Sentences(), tokenizer=HuggingFaceTokenizer("nowhere"), max_seq_len=16)
        CausalLanguageModeling(backbone=our_gpt()).attach(data)

    def test_of_other_data(self) -> None:
        from toys import pixel_data, ready

        said = self.problems(ready(pixel_data()), CausalLanguageModeling(backbone=our_gpt()))  # type: ignore[arg-type]
        assert (
            said == "language modelling needs data of text, such as lt_cli.data.packed_text.PackedText, not PixelData"
        )


@pytest.mark.parametrize("name", ["causal", "masked"])
def test_predict_in_bfloat16(name: str) -> None:
    """Lightning changes the default dtype there."""
    golden = Path(__file__).parents[1] / "golden" / f"{name}_language_modeling.ckpt"
    run(["predict", f"--ckpt_path={golden}", "--predictions.directory=out", "--trainer.precision=bf16-true", *QUIET])
    assert Path("out/predictions.jsonl").read_text().count("\n") > 5


QUIET = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.logger=false"]
SMALL = ["--data.max_seq_len=16", "--data.batch_size=4", "--model.schedule=null", "--data.source=toys.Sentences"]
TASK = "lt_cli.tasks.language_modeling.CausalLanguageModeling"
FINETUNE = ["--config", str(Path(__file__).parents[2] / "configs" / "lm_gpt2_finetune.yaml"), *SMALL, *QUIET]


@pytest.fixture
def pretrained(tmp_path: Path) -> Path:
    """A directory as the hub has them."""
    return pretrained_gpt2(tmp_path / "gpt2", num_layers=2)


class TestRuns:
    """Through the command line."""

    def test_a_checkpoint_needs_neither_weights_nor_tokenizer(self, pretrained: Path) -> None:
        given = [f"--model.backbone.pretrained={pretrained}", f"--data.tokenizer.path={pretrained}"]
        cli = run(["fit", *FINETUNE, *given, "--trainer.max_steps=2", "--trainer.val_check_interval=2"])
        assert cli.model.backbone.lm_head.weight is cli.model.backbone.transformer.wte.weight
        score = cli.trainer.callback_metrics["val/loss"]
        shutil.rmtree(pretrained)
        again = run(["validate", "--ckpt_path=last", *QUIET])
        assert again.trainer.callback_metrics["val/loss"] == pytest.approx(score.item(), rel=1e-5)
        run(["predict", "--ckpt_path=last", "--data.prompts=['the cat']", "--predictions.directory=out", *QUIET])
        (row,) = [json.loads(line) for line in Path("out/predictions.jsonl").read_text().splitlines()]
        assert row["prompt"] == "the cat"
        loaded = load("runs").task.backbone
        assert loaded.lm_head.weight is loaded.transformer.wte.weight  # type: ignore[union-attr]

    def test_freeze_and_noise_by_two_flags(self, pretrained: Path, caplog: pytest.LogCaptureFixture) -> None:
        """As in the classic customisation: all but the last block, and noise on what is left."""
        given = [f"--model.backbone.pretrained={pretrained}", f"--data.tokenizer.path={pretrained}"]
        frozen = "--freeze.modules=[backbone.transformer.wte,backbone.transformer.w?e,backbone.transformer.h.[0-0]]"
        cli = run(["fit", *FINETUNE, *given, "--trainer.max_steps=2", frozen, "--weight_noise.std=0.1"])
        before = HuggingFaceCausalLM(pretrained=str(pretrained)).state_dict()
        moved = {
            name for name, weight in cli.model.backbone.state_dict().items() if not torch.equal(weight, before[name])
        }
        assert moved
        assert all(name.startswith(("transformer.h.1.", "transformer.ln_f.")) for name in moved)
        total = sum(parameter.numel() for parameter in cli.model.parameters())
        trained = sum(
            weight.numel()
            for name, weight in before.items()
            if name.startswith(("transformer.h.1.", "transformer.ln_f."))
        )
        assert f"epoch 0: {total - trained:,} parameters frozen, {trained:,} trainable" in caplog.text

    def test_another_tokenizer_is_a_mismatch(self, pretrained: Path, tmp_path: Path) -> None:
        other = llama_like(tmp_path / "other")
        given = [f"--model.backbone.pretrained={pretrained}", f"--data.tokenizer.path={other}"]
        said = message(lambda: run(["fit", *FINETUNE, *given, "--trainer.max_steps=1"]))
        assert "the data has" in said
        assert "tokens, the backbone a vocabulary of" in said

    @pytest.mark.parametrize("steps", [3, 7])
    def test_a_stream_is_resumed_where_it_was(self, steps: int) -> None:
        """5 steps an epoch; the text is over within the third one, and begins again."""
        config = Path(__file__).parents[1] / "contract" / "causal_language_modeling.yaml"
        fit = ["fit", f"--config={config}", "--data.tokens_per_epoch=800", "--checkpoints.every_minutes=0"]
        fit += ["--trainer.max_epochs=3", "--trainer.limit_train_batches=10", "--data.batch_size=5"]
        whole = run([*fit, "--trainer.default_root_dir=whole"])
        with pytest.raises(Killed), dies_after(steps):
            run([*fit, "--trainer.default_root_dir=broken"])
        resumed = run([*fit, "--trainer.default_root_dir=broken", "--ckpt_path=last"])
        assert resumed.trainer.global_step == whole.trainer.global_step == 15
        assert_same_weights(resumed.model.state_dict(), whole.model.state_dict())
        assert len(list((only_run(config.stem, "broken") / "checkpoints").iterdir())) == 2
