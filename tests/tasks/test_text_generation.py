"""The loss, the texts and the scores of encoder-decoders, against transformers', torch's and the libraries' own."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from contract_suite import CONFIGS, only_run
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from toys import Beginnings, message, pixel_data, ready, trainer
from transformers import GenerationConfig

from lt_cli.backbones.hf_seq2seq import HuggingFaceSeq2Seq
from lt_cli.beam_search import BeamSearch, beam_search
from lt_cli.checkpoint import load
from lt_cli.cli import run
from lt_cli.data.row_sources import RowSource
from lt_cli.data.rows import Row
from lt_cli.data.text_to_text import TextToText
from lt_cli.data.tokenizers import ByteTokenizer
from lt_cli.generation import Conditioned, Sampling
from lt_cli.losses import IGNORE
from lt_cli.tasks.text_generation import TextGeneration

T5 = {"model_type": "t5", "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}
MT5 = T5 | {"model_type": "mt5"}  # whose output is a matrix of its own, or every token would follow itself
BART = {
    **{"model_type": "bart", "d_model": 16, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 2},
    **{"decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "forced_eos_token_id": None},
}
KINDS = {"t5": T5, "mt5": MT5, "bart": BART}
END, ROOM = 256, 24


class Texts(RowSource):
    """Texts of words of a few letters and targets of other lengths, the same in every split."""

    def __init__(self, num_rows: int = 12) -> None:
        self.num_rows = num_rows

    def rows(self, split: Any) -> list[Row] | None:
        generator = np.random.default_rng(0)

        def text(longest: int) -> str:
            return " ".join("".join(generator.choice(list("ab"), 2)) for _ in range(generator.integers(1, longest)))

        return [Row({"source": text(7), "target": text(6)}, f"row {i}") for i in range(self.num_rows)]

    def write(self, rows: Any, split: Any, directory: Path) -> list[Path]:
        raise NotImplementedError


class Copies(RowSource):
    """Texts of a few letters that are their own targets."""

    def rows(self, split: Any) -> list[Row] | None:
        if split == "predict":
            return None
        generator = np.random.default_rng(["train", "val", "test"].index(split))
        number = 2000 if split == "train" else 60
        texts = ["".join(generator.choice(list("abcdef"), generator.integers(1, 6))) for _ in range(number)]
        return [Row({"source": text, "target": text}, text) for text in texts]

    def write(self, rows: Any, split: Any, directory: Path) -> list[Path]:
        raise NotImplementedError


def data_of(**options: Any) -> TextToText:
    data = TextToText(
        **{"source": Texts(), "tokenizer": ByteTokenizer(), "max_seq_len": ROOM, "max_target_len": 16, "batch_size": 4}
        | options
    )
    data.prepare_data()
    for stage in ("fit", "test", "predict"):
        data.setup(stage)
    return data


def backbone_of(kind: str) -> HuggingFaceSeq2Seq:
    """One whose texts differ, and end now and then."""
    torch.manual_seed(1)
    backbone = HuggingFaceSeq2Seq(architecture=KINDS[kind], vocab_size=258, max_seq_len=ROOM)
    for parameter in backbone.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=1.0 if kind == "mt5" else 0.4)
    if backbone.final_logits_bias is not None:
        backbone.final_logits_bias[0, END] = 2.0
    return backbone.eval()


def task_of(data: TextToText, kind: str = "mt5", **options: Any) -> TextGeneration:
    task = TextGeneration(**{"backbone": backbone_of(kind), "schedule": None, "max_new_tokens": 12} | options)
    task.attach(data)
    task._has_trained_weights = True  # as a checkpoint's have
    return task.eval()


kinds = pytest.mark.parametrize("kind", ["mt5", "bart"])
all_kinds = pytest.mark.parametrize("kind", [*KINDS])
ROWS = [3, 0, 5, 1, 2]


class TestLoss:
    """What is learned."""

    @all_kinds
    @pytest.mark.parametrize("stage", ["train", "val", "test"])
    def test_is_that_of_transformers(self, kind: str, stage: Any) -> None:
        """And with it what the decoder sees of the targets."""
        data = data_of()
        task = task_of(data, kind)
        batch = data.splits[stage].batch(ROWS, 0)
        assert (batch["labels"] == IGNORE).any()
        assert not batch["attention_mask"].all()
        model = task.backbone.hf_model
        model.config.decoder_start_token_id = task.backbone.start_id
        model.config.pad_token_id = 0
        given = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
        outputs = task.step(batch, stage)
        torch.testing.assert_close(outputs["loss"], model(**given).loss)
        assert outputs["weight"] == (batch["labels"] != IGNORE).sum()

    @all_kinds
    def test_smoothing_is_torchs(self, kind: str) -> None:
        """Of all parameters' gradients, those that matrix and embeddings share included."""
        data = data_of()
        batch = data.splits["train"].batch(ROWS, 0)
        gradients = []
        for ours in (True, False):
            task = task_of(data, kind, label_smoothing=0.2)
            if ours:
                loss = task.step(batch, "train")["loss"]
            else:
                before = F.pad(batch["labels"].clamp(min=0)[:, :-1], (1, 0), value=task.backbone.start_id)
                features = task.backbone(
                    batch["input_ids"], attention_mask=batch["attention_mask"], decoder_input_ids=before
                )
                logits = task.backbone.unembed(features).flatten(0, 1)
                loss = F.cross_entropy(logits, batch["labels"].flatten(), ignore_index=IGNORE, label_smoothing=0.2)
            loss.backward()
            gradients.append(
                {name: p.grad for name, p in task.named_parameters() if p.grad is not None} | {"loss": loss}
            )
        assert gradients[0].keys() == gradients[1].keys()
        for name, gradient in gradients[0].items():
            torch.testing.assert_close(gradient, gradients[1][name], msg=lambda m, name=name: f"{name}: {m}")

    def test_evaluation_is_without_smoothing(self) -> None:
        data = data_of()
        batch = data.splits["val"].batch(ROWS, 0)
        plain, smoothed = (task_of(data, label_smoothing=e) for e in (0.0, 0.3))
        assert plain.step(batch, "val")["loss"] == smoothed.step(batch, "val")["loss"]
        assert plain.step(batch, "train")["loss"] == plain.step(batch, "val")["loss"]
        assert plain.step(batch, "train")["loss"] != smoothed.step(batch, "train")["loss"]
        loss = torch.tensor(2.0)
        assert smoothed.of_loss(loss, "train") == {}
        assert smoothed.of_loss(loss, "val") == plain.of_loss(loss, "train") == {"perplexity": loss.exp()}

    def test_an_epoch_is_a_mean_over_tokens(self) -> None:
        """Whatever the batches, of which the last has fewer rows."""
        data = data_of(batch_size=5)
        task = task_of(data)
        scores = trainer().validate(task, data, verbose=False)[0]
        nats = count = 0.0
        for row in range(12):
            outputs = task.step(data.splits["val"].batch([row], 0), "val")
            nats += outputs["loss"].item() * outputs["weight"].item()
            count += outputs["weight"].item()
        assert scores["val/loss"] == pytest.approx(nats / count, rel=1e-5)
        assert scores["val/perplexity"] == pytest.approx(math.exp(nats / count), rel=1e-4)


def predicted(task: TextGeneration, data: TextToText, rows: list[int]) -> dict[str, Any]:
    with torch.no_grad():
        columns = task.predict_step(data.splits["predict"].batch(rows, 0), 0)
    assert columns["index"].tolist() == rows
    return columns


class TestWriting:
    """What predict says."""

    @kinds
    @pytest.mark.parametrize("search", [{"num_beams": 1}, {"num_beams": 3}, {"num_beams": 2, "length_penalty": 2.0}])
    def test_texts_are_those_of_transformers(self, kind: str, search: dict[str, Any]) -> None:
        """Each row alone there, and all in one batch here."""
        data = data_of()
        task = task_of(data, kind, search=BeamSearch(**search))
        config = GenerationConfig(
            **search,
            **{"max_new_tokens": 12, "eos_token_id": END, "pad_token_id": 0, "do_sample": False},
            decoder_start_token_id=task.backbone.start_id,
        )
        expected = []
        for row in range(12):
            source = data.splits["predict"].batch([row], 0)["input_ids"]
            tokens = task.backbone.hf_model.generate(source, generation_config=config)[0, 1:].tolist()
            expected.append(tokens[: tokens.index(END) + 1] if END in tokens else tokens)
        assert task.write(data.splits["predict"].batch([*range(12)], 0)) == expected
        assert len({*map(tuple, expected)}) > 3
        columns = predicted(task, data, [*range(12)])
        assert columns["target"] == [data.decode([token for token in tokens if token != END]) for tokens in expected]
        assert columns.keys() == {"index", "target"}

    def test_tokens_are_counted_with_the_end(self) -> None:
        data = data_of()
        task = task_of(data, max_new_tokens=3)
        batch = data.splits["predict"].batch(ROWS, 0)
        assert {len(tokens) for tokens in task.write(batch)} <= {1, 2, 3}

    @pytest.mark.parametrize("options", [{}, {"search": None, "sampling": Sampling(temperature=0.7)}], ids=str)
    def test_a_row_does_not_depend_on_the_batch(self, options: dict[str, Any]) -> None:
        data = data_of()
        task = task_of(data, **options)
        together = dict(zip(ROWS, predicted(task, data, ROWS)["target"], strict=True))
        assert {row: predicted(task, data, [row])["target"][0] for row in ROWS} == together

    def test_drawn_texts_differ_from_row_to_row_and_seed_to_seed(self) -> None:
        data = data_of(source=Texts(2))
        drawn = [
            predicted(task_of(data, search=None, sampling=Sampling(seed=seed)), data, [0, 1])["target"]
            for seed in (0, 0, 1)
        ]
        assert drawn[0] == drawn[1] != drawn[2]
        assert drawn[0][0] != drawn[0][1]

    @kinds
    def test_scores(self, kind: str) -> None:
        """Those of a beam search that divides by the length, and of drawn texts the same measure."""
        data = data_of()
        task = task_of(data, kind, scores=True)
        batch = data.splits["predict"].batch(ROWS, 0)
        decoder = Conditioned(task.backbone, batch["input_ids"], batch["attention_mask"])
        assert task.search is not None
        found = beam_search(decoder, decoder.start, [1] * len(ROWS), 12, task.search, END)
        expected = [hypothesis.score for hypothesis in found]
        assert predicted(task, data, ROWS)["score"] == pytest.approx(expected, abs=1e-5)
        greedy, drawn = (
            predicted(task_of(data, kind, scores=True, **options), data, ROWS)
            for options in (
                {"search": BeamSearch(num_beams=1)},
                {"search": None, "sampling": Sampling(temperature=0.0)},
            )
        )
        assert greedy["target"] == drawn["target"]
        assert greedy["score"] == drawn["score"]


class TestScores:
    """What validation and test say of the texts."""

    @pytest.mark.parametrize("stage", ["val", "test"])
    def test_against_the_libraries(self, stage: Any) -> None:
        """Of whole targets, though fewer of their tokens are learned."""
        from rouge_score.rouge_scorer import RougeScorer
        from sacrebleu.metrics import BLEU

        data = data_of(max_target_len=6, max_seq_len=ROOM)
        task = task_of(data, "bart", search=BeamSearch(num_beams=2))
        copied = [row.fields["target"] for row in Texts().rows(stage) or []]
        wrong = [0, 5, 7]

        def write(batch: Any) -> list[list[int]]:
            """The targets, but for some rows."""
            return [[*(b"ab ba ab" if row in wrong else copied[row].encode()), END] for row in batch["index"].tolist()]

        task.write = write  # type: ignore[method-assign]
        evaluate = trainer().validate if stage == "val" else trainer().test
        scores = evaluate(task, data, verbose=False)[0]
        texts = ["ab ba ab" if row in wrong else text for row, text in enumerate(copied)]
        rouge = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
        rows = [rouge.score(target, text) for target, text in zip(copied, texts, strict=True)]
        for name in ("rouge1", "rouge2", "rougeL"):
            expected = sum(row[name].fmeasure for row in rows) / len(rows)
            assert scores[f"{stage}/{name}"] == pytest.approx(expected, abs=1e-6)
        bleu = BLEU().corpus_score(texts, [copied]).score / 100
        assert scores[f"{stage}/bleu"] == pytest.approx(bleu, abs=1e-6)
        assert 0 < bleu < 1

    def test_of_what_the_model_writes(self) -> None:
        """The texts of predict, against a recount of them."""
        from rouge_score.rouge_scorer import RougeScorer

        data = data_of()
        task = task_of(data)
        scores = trainer().test(task, data, verbose=False)[0]
        texts = predicted(task, data, [*range(12)])["target"]
        rouge = RougeScorer(["rougeL"])
        references = data.splits["test"].batch([*range(12)], 0)["references"]
        expected = [rouge.score(a, b)["rougeL"].fmeasure for a, b in zip(references, texts, strict=True)]
        assert scores["test/rougeL"] == pytest.approx(sum(expected) / 12, abs=1e-6)

    def test_chinese_has_words_of_its_own(self) -> None:
        data = data_of()
        tasks = [task_of(data, bleu_tokenize=tokenize) for tokenize in ("13a", "zh")]
        for task in tasks:
            task.write = lambda batch: [[*"我们今天去看书吧".encode(), END]]  # type: ignore[method-assign]
        batch = data.splits["test"].batch([0], 0) | {"references": ["我们今天去看书"]}
        values = []
        for task in tasks:
            metrics: Any = task.metrics["test_metrics"]
            task.update_metrics(metrics, {}, batch)
            values.append(metrics.compute()["test/bleu"].item())
        assert values[0] < 0.5 < values[1]

    def test_validation_may_leave_it_out(self) -> None:
        data = data_of()
        task = task_of(data, generate_in_validation=False)
        assert task.monitor == ("val/loss", "min")
        assert trainer().validate(task, data, verbose=False)[0].keys() == {"val/loss", "val/perplexity"}
        assert "test/bleu" in trainer().test(task, data, verbose=False)[0]
        assert task_of(data).monitor == ("val/rougeL", "max")
        assert task_of(data, bleu_tokenize="zh").monitor == ("val/bleu", "max"), "ROUGE finds no words there"


def test_a_copy_is_learned() -> None:
    """In seconds, of texts most of which it has not seen."""
    torch.manual_seed(0)
    architecture = T5 | {"d_model": 32, "d_ff": 64, "num_heads": 4, "num_layers": 1, "dropout_rate": 0.0}
    backbone = HuggingFaceSeq2Seq(architecture=architecture, vocab_size=258, max_seq_len=8)
    data = data_of(source=Copies(), max_seq_len=8, max_target_len=8, batch_size=32)
    task = TextGeneration(
        backbone=backbone,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=0.005),
        schedule=None,
        search=BeamSearch(num_beams=1),
        max_new_tokens=8,
    )
    fit = trainer(max_steps=400, limit_val_batches=0)
    fit.fit(task, data)
    scores = trainer().validate(task, data, verbose=False)[0]
    assert scores["val/rougeL"] > 0.8
    assert scores["val/perplexity"] < 1.3


def test_a_run_writes_texts_from_python() -> None:
    """Each in its place, as the command line writes them."""
    config = next(path for path in CONFIGS if path.stem == "text_generation")
    run(["fit", f"--config={config}", "--trainer.max_steps=2", "--model.schedule.warmup_steps=0"])
    loaded = load(only_run("text_generation") / "checkpoints" / "last.ckpt")
    texts = [row.fields["source"] for row in Beginnings().rows("test") or []][:5]
    rows = loaded.predict([*texts, {"id": 3, "source": "abc"}])
    assert [row["source"] for row in rows] == [*texts, "abc"]
    assert rows[-1].keys() == {"id", "source", "target", "score"}
    assert all(isinstance(row["target"], str) and row["score"] < 0 for row in rows)
    assert loaded.predict(texts[2:3])[0] == rows[2]


class TestMistakes:
    """Each in a line that says what to do."""

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"label_smoothing": 1.0}, "label_smoothing (1.0) must be at least 0 and less than 1"),
            ({"max_new_tokens": 0}, "max_new_tokens (0) must be at least 1"),
            (
                {"search": None},
                "search and sampling are both null, and one of them says how to write: add --model.sampling={}",
            ),
            (
                {"sampling": Sampling()},
                "search and sampling are both given, and one of them says how to write: add --model.search=null",
            ),
            (
                {"search": BeamSearch(min_new_tokens=13)},
                "search.min_new_tokens (13) must be at most max_new_tokens (12)",
            ),
            (
                {"max_new_tokens": 99},
                "max_new_tokens (99) must be at most the backbone's max_target_len (24): add --model.max_new_tokens=24",
            ),
        ],
        ids=str,
    )
    def test_of_the_task(self, options: dict[str, Any], says: str) -> None:
        assert message(lambda: task_of(data_of(), **options)) == says

    def test_of_the_data(self) -> None:
        assert message(lambda: task_of(data_of(max_target_len=30))) == (
            "the data has targets of 30 tokens, the backbone takes 24: "
            "add --data.max_target_len=24, or --model.backbone.init_args.max_target_len=30"
        )
        assert message(lambda: task_of(ready(pixel_data()))) == (  # type: ignore[arg-type]
            "TextGeneration needs data such as lt_cli.data.text_to_text.TextToText, not PixelData"
        )

    def test_an_end_that_is_never_written(self) -> None:
        data = data_of()
        data.tokenizer.vocab_size = 200  # as where a tokenizer leaves ids out
        backbone = HuggingFaceSeq2Seq(architecture=T5, vocab_size=200, max_seq_len=ROOM)
        assert message(lambda: task_of(data, backbone=backbone)) == (
            "the token 256 ends the data's targets, and the backbone knows 200: "
            "add --model.backbone.init_args.vocab_size=257"
        )


class TestShards:
    """Processes that share out the weights would wait for one another."""

    @staticmethod
    def problems(fn: TrainerFn, *, strategy: Any = None, processes: int = 2, in_validation: bool = True) -> list[str]:
        data = data_of()
        task = task_of(data, generate_in_validation=in_validation)
        strategy = strategy or ModelParallelStrategy()
        task._trainer = SimpleNamespace(  # type: ignore[assignment]
            strategy=strategy, world_size=processes, state=SimpleNamespace(fn=fn), datamodule=data
        )
        return task.problems(data)

    @pytest.mark.parametrize("fn", [TrainerFn.FITTING, TrainerFn.VALIDATING])
    def test_refuses_to_write_in_validation(self, fn: TrainerFn) -> None:
        assert self.problems(fn) == [
            "texts are not written by processes that share out the weights (ModelParallelStrategy), as each needs them "
            "as often as its own texts are long: add --model.generate_in_validation=false, or use "
            "--trainer.strategy=ddp, or --trainer.devices=1"
        ]
        assert self.problems(fn, in_validation=False) == []

    @pytest.mark.parametrize("fn", [TrainerFn.TESTING, TrainerFn.PREDICTING])
    def test_refuses_to_test_and_predict(self, fn: TrainerFn) -> None:
        [problem] = self.problems(fn, in_validation=False)
        assert problem.endswith("texts are long: use --trainer.strategy=ddp, or --trainer.devices=1")

    def test_others_may(self) -> None:
        assert self.problems(TrainerFn.PREDICTING, strategy=DDPStrategy()) == []
        assert self.problems(TrainerFn.PREDICTING, processes=1) == []
