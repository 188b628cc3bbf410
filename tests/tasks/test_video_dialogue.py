"""Loss, answers and scores of dialogue about videos, against slow loops and the metrics of what predict writes."""

import copy
import csv
import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from contract_suite import ROOT, only_run, weights
from lightning.pytorch.strategies import SingleDeviceStrategy
from numpy.typing import NDArray
from torch import Tensor, nn
from toys import Beginnings, message, pixel_data, ready, trainer

from lt_cli.backbones.gpt import GPT
from lt_cli.backbones.video_text import VideoText
from lt_cli.beam_search import BeamSearch
from lt_cli.checkpoint import load
from lt_cli.cli import run
from lt_cli.coco_scores import CocoScores
from lt_cli.data.avsd import AvsdFiles
from lt_cli.data.base import Batch
from lt_cli.data.dialogs import HIDDEN, turns_of, with_answer
from lt_cli.data.row_sources import RowSource
from lt_cli.data.rows import Row
from lt_cli.data.scenes import SceneFrames, Scenes
from lt_cli.data.text_to_text import TextToText
from lt_cli.data.tokenizers import ByteTokenizer
from lt_cli.data.video_dialogs import ANSWER, FRAME, VideoDialogs
from lt_cli.data.video_features import VideoFeatures
from lt_cli.generation import Sampling
from lt_cli.losses import IGNORE
from lt_cli.optim import MuonAdamW, WarmupCosine
from lt_cli.tasks.video_dialogue import VideoDialogue

DIM, ROOM, MOST, END = 6, 64, 12, 256


class Clips(VideoFeatures):
    """Random numbers for one to six frames; clip_N has N % 6 + 1."""

    dim = DIM

    def check(self, ids: Sequence[str]) -> NDArray[np.int64]:
        return np.array([len(self.frames(video)) for video in ids])

    def frames(self, video_id: str) -> NDArray[np.float32]:
        number = int(video_id.removeprefix("clip_"))
        return np.random.default_rng(number).normal(size=(number % 6 + 1, DIM)).astype(np.float32)


class Stills(Clips):
    """Of one frame each."""

    def frames(self, video_id: str) -> NDArray[np.float32]:
        return super().frames(video_id)[:1]


class Talks(RowSource):
    """Dialogs of one or two turns about a clip each, the same in every split; in test each has two or three answers."""

    def __init__(self, num_rows: int = 12) -> None:
        self.num_rows = num_rows

    def rows(self, split: Any) -> list[Row] | None:
        generator = np.random.default_rng(0)

        def text(longest: int) -> str:
            return "".join(generator.choice(list("abcd"), generator.integers(1, longest)))

        rows = []
        for i in range(self.num_rows):
            turns = [{"question": text(6), "answer": text(9)} for _ in range(1 + i % 2)]
            fields = {"image_id": f"clip_{i}", "caption": text(9), "summary": text(4), "dialog": turns}
            if split == "test":
                fields["references"] = [turns[-1]["answer"], *(text(9) for _ in range(1 + i % 2))]
            rows.append(Row(fields, f"{split}, row {i}"))
        return rows

    def write(self, rows: Any, split: Any, directory: Path) -> list[Path]:
        raise NotImplementedError


def data_of(**options: Any) -> VideoDialogs:
    data = VideoDialogs(
        **{"source": Talks(), "features": Clips(), "tokenizer": ByteTokenizer(), "max_seq_len": ROOM}
        | {"max_target_len": MOST, "batch_size": 5}
        | options
    )
    data.prepare_data()
    for stage in ("fit", "test", "predict"):
        data.setup(stage)
    return data


def backbone_of(**options: Any) -> VideoText:
    """One whose answers differ from row to row, and end now and then."""
    torch.manual_seed(1)
    text = GPT(
        **{"vocab_size": 258, "max_seq_len": ROOM, "embed_dim": 16, "num_heads": 2, "num_layers": 2}
        | {"norm": "layernorm", "bias": True, "start_token": False}
        | options
    )
    backbone = VideoText(text=text, video_dim=DIM)
    for parameter in backbone.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.7)
    nn.init.normal_(text.norm.bias, std=0.5)
    with torch.no_grad():
        assert text.output is not None
        text.output.weight[END] += 2.5 * text.norm.bias
    return backbone.eval()


def task_of(data: VideoDialogs, **options: Any) -> VideoDialogue:
    task = VideoDialogue(**{"backbone": backbone_of(), "schedule": None, "max_new_tokens": MOST} | options)
    if task.frame_head is not None:
        nn.init.normal_(task.frame_head.weight, std=0.3)
        nn.init.normal_(task.frame_head.bias, std=0.3)
    task.attach(data)
    task._has_trained_weights = True  # as a checkpoint's have
    return task.eval()


def slow(task: VideoDialogue, batch: Batch, smoothing: float = 0.0) -> tuple[list[Tensor], list[Tensor]]:
    """Nats of each token of the answers, and the mean square error of each frame foretold: a row at a time."""
    backbone, text = task.backbone, task.backbone.text
    nats, errors = [], []
    for row, count in enumerate(batch["num_frames"].tolist()):
        length = int(batch["attention_mask"][row].sum())
        ids, kinds = batch["input_ids"][row, :length], batch["token_type_ids"][row, :length]
        assert (kinds[:count] == FRAME).all()
        assert not (kinds[count:] == FRAME).any()
        answer = batch["labels"][row][batch["labels"][row] != IGNORE]
        frames = batch["video"][row, :count]
        parts = [backbone.projection(frames), text.embed(ids[None, count:])[0], text.embed(answer[None])[0]]
        kinds = torch.cat([kinds, torch.full_like(answer, ANSWER)])
        features = text.read((torch.cat(parts) + backbone.segments.weight[kinds])[None])[0]
        for place, token in enumerate(answer, length):
            logits = backbone.unembed(features[place - 1])
            nats.append(F.cross_entropy(logits, token, label_smoothing=smoothing))
        if task.frame_head is not None:
            errors += [F.mse_loss(task.frame_head(features[i]), frames[i + 1]) for i in range(count - 1)]
    return nats, errors


def mean(values: list[Tensor]) -> Tensor:
    return torch.stack(values).mean()


ROWS = [3, 0, 5, 1, 7, 2]


class TestLoss:
    """What is learned."""

    @pytest.mark.parametrize("stage", ["train", "val", "test"])
    def test_is_that_of_answers_and_frames_alone(self, stage: Any) -> None:
        """Padding of either, captions and questions never count; nor in any gradient."""
        data = data_of()
        task = task_of(data)
        batch = data.splits[stage].batch(ROWS, 0)
        assert (batch["labels"] == IGNORE).any()
        assert not batch["attention_mask"].all()
        assert len({*batch["num_frames"].tolist()}) > 2
        outputs = task.step(batch, stage)
        nats, errors = slow(task, batch)
        assert outputs.keys() == {"loss", "weight", "frame_loss", "frame_loss_weight"}
        assert outputs["weight"] == len(nats) == (batch["labels"] != IGNORE).sum()
        assert outputs["frame_loss_weight"] == len(errors) == (batch["num_frames"] - 1).sum()
        torch.testing.assert_close(outputs["loss"], mean(nats))
        torch.testing.assert_close(outputs["frame_loss"], mean(errors))
        for name, expected in (("loss", mean(nats)), ("frame_loss", mean(errors))):
            parameters = [*task.parameters()]
            given = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
            for ours, theirs in zip(
                torch.autograd.grad(outputs[name], parameters, **given),
                torch.autograd.grad(expected, parameters, **given),
                strict=True,
            ):
                torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)

    def test_what_pads_changes_nothing(self) -> None:
        """Frames behind a video's end, and tokens behind a row's, even in the places of answers."""
        data = data_of()
        task = task_of(data)
        batch = data.splits["train"].batch(ROWS, 0)
        expected = task.step(batch, "train")
        is_frame = torch.arange(batch["video"].shape[1]) < batch["num_frames"][:, None]
        is_place = batch["attention_mask"].bool()
        others = batch | {
            "video": batch["video"].masked_fill(~is_frame[..., None], 50.0),
            "input_ids": batch["input_ids"].masked_fill(~is_place, 99),
            "token_type_ids": batch["token_type_ids"].masked_fill(~is_place, 2),
        }
        assert not torch.equal(others["video"], batch["video"])
        found = task.step(others, "train")
        for name in expected:
            assert torch.equal(found[name], expected[name]), name
        wider = {name: F.pad(batch[name], (0, 3)) for name in ("input_ids", "attention_mask", "token_type_ids")}
        wider |= {"video": F.pad(batch["video"], (0, 0, 0, 2)), "labels": F.pad(batch["labels"], (0, 4), value=IGNORE)}
        found = task.step(batch | wider, "train")
        for name in expected:
            torch.testing.assert_close(found[name], expected[name])

    def test_of_a_batch_is_the_weighted_mean_of_its_rows(self) -> None:
        data = data_of()
        task = task_of(data)
        together = task.step(data.splits["val"].batch(ROWS, 0), "val")
        alone = [task.step(data.splits["val"].batch([row], 0), "val") for row in ROWS]
        for name, weight in (("loss", "weight"), ("frame_loss", "frame_loss_weight")):
            values, counts = (torch.stack([outputs[n] for outputs in alone]) for n in (name, weight))
            assert counts.sum() == together[weight]
            torch.testing.assert_close(together[name], (values * counts).sum() / counts.sum())
        assert alone[1]["frame_loss_weight"] == 0, "one frame foretells none"
        assert alone[1]["frame_loss"] == 0

    def test_an_epoch_is_a_mean_over_tokens_and_over_frames(self) -> None:
        """Whatever the batches, of which the last has fewer rows."""
        data = data_of()
        task = task_of(data)
        scores = trainer().validate(task, data, verbose=False)[0]
        nats, errors = slow(task, data.splits["val"].batch([*range(len(data.splits["val"]))], 0))
        assert scores.keys() == {"val/loss", "val/perplexity", "val/frame_loss"}
        assert scores["val/loss"] == pytest.approx(mean(nats).item(), rel=1e-5)
        assert scores["val/perplexity"] == pytest.approx(mean(nats).exp().item(), rel=1e-4)
        assert scores["val/frame_loss"] == pytest.approx(mean(errors).item(), rel=1e-5)

    def test_rows_are_no_wider_than_a_question_with_its_answer(self) -> None:
        """However long the answers of others are, as ``tokens_per_batch`` counts them."""
        data = data_of(batch_size=64)
        task = task_of(data)
        # the longest question has another answer than the longest
        batch = data.splits["val"].batch(range(len(data.splits["val"])), 0)
        widths = []
        read = task.backbone.read
        task.backbone.read = lambda vectors, **options: widths.append(vectors.shape[1]) or read(vectors, **options)  # type: ignore[method-assign,func-returns-value]
        task.step(batch, "val")
        sizes = batch["attention_mask"].sum(1) + (batch["labels"] != IGNORE).sum(1)
        assert widths == [sizes.max()]
        assert widths[0] < batch["attention_mask"].shape[1] + batch["labels"].shape[1], "or this says nothing"

    def test_videos_of_one_frame(self) -> None:
        """None of which is foretold: what is logged are numbers, and answers are learned."""
        data = data_of(features=Stills())
        task = task_of(data)
        batch = data.splits["val"].batch(ROWS, 0)
        outputs = task.step(batch, "val")
        assert outputs["frame_loss"] == outputs["frame_loss_weight"] == 0
        torch.testing.assert_close(outputs["loss"], mean(slow(task, batch)[0]))
        (outputs["loss"] + outputs["frame_loss"]).backward()
        assert all(p.grad.isfinite().all() for p in task.parameters() if p.grad is not None)
        scores = trainer().validate(task, data, verbose=False)[0]
        assert {name: value for name, value in scores.items() if not math.isfinite(value)} == {}

    @pytest.mark.parametrize("weight", [1.0, 0.25])
    def test_the_weight_of_frames_counts_in_training(self, weight: float) -> None:
        """One step of gradient descent, against the gradient of the sum."""
        data = data_of(batch_size=64)
        task = task_of(data, frame_weight=weight, optimizer=lambda groups: torch.optim.SGD(groups, lr=0.5))
        nats, errors = slow(task, data.splits["train"].batch([*range(len(data.splits["train"]))], 0))
        (mean(nats) + weight * mean(errors)).backward()
        expected = {name: (p - 0.5 * p.grad).detach() for name, p in task.named_parameters() if p.grad is not None}
        before = copy.deepcopy(task.state_dict())
        task.zero_grad()
        trainer(max_steps=1, limit_val_batches=0).fit(task, data)
        assert expected.keys() == {*dict(task.named_parameters())}
        for name, value in expected.items():
            torch.testing.assert_close(task.state_dict()[name], value, atol=1e-4, rtol=1e-4)
            assert not torch.equal(task.state_dict()[name], before[name])

    def test_frames_may_be_left_out(self) -> None:
        data = data_of()
        task, other = task_of(data, frame_weight=0.0), task_of(data)
        batch = data.splits["val"].batch(ROWS, 0)
        assert task.frame_head is None
        assert task.other_losses == {}
        outputs = task.step(batch, "val")
        assert outputs.keys() == {"loss", "weight"}
        assert outputs["loss"] == other.step(batch, "val")["loss"]
        assert trainer().validate(task, data, verbose=False)[0].keys() == {"val/loss", "val/perplexity"}
        assert not [name for name in task.state_dict() if "frame_head" in name]

    def test_smoothing_is_torchs_and_evaluation_is_without(self) -> None:
        data = data_of()
        batch = data.splits["val"].batch(ROWS, 0)
        plain, smoothed = (task_of(data, label_smoothing=e) for e in (0.0, 0.3))
        assert plain.step(batch, "val")["loss"] == smoothed.step(batch, "val")["loss"]
        assert plain.step(batch, "train")["loss"] == plain.step(batch, "val")["loss"]
        expected = mean(slow(plain, batch, smoothing=0.3)[0])
        torch.testing.assert_close(smoothed.step(batch, "train")["loss"], expected)
        assert not torch.allclose(expected, plain.step(batch, "val")["loss"], atol=1e-2)
        assert smoothed.step(batch, "train")["frame_loss"] == plain.step(batch, "val")["frame_loss"]
        scores = [trainer().validate(task, data, verbose=False)[0] for task in (plain, smoothed)]
        assert scores[0] == scores[1]


def written(task: VideoDialogue, data: VideoDialogs) -> dict[int, str]:
    """What predict writes of each row, by its number."""
    answers: dict[int, str] = {}
    for columns in trainer().predict(task, data) or []:
        answers |= dict(zip(columns["index"].tolist(), columns["target"], strict=True))
    return answers


def tokens_of(data: VideoDialogs, **options: Any) -> list[list[int]]:
    """The answers to all questions."""
    with torch.no_grad():
        return task_of(data, **options).write(data.splits["predict"].batch([*range(12)], 0))


class TestWriting:
    """What predict says."""

    def test_defaults_are_those_of_the_reference(self) -> None:
        task = VideoDialogue(backbone=backbone_of())
        assert task.search == BeamSearch(num_beams=5, min_new_tokens=5, length_penalty=0.3)
        assert (task.max_new_tokens, task.sampling) == (20, None)

    def test_each_setting_changes_it(self) -> None:
        data = data_of()
        base = {"num_beams": 3, "min_new_tokens": 2, "length_penalty": 0.3}
        plain = tokens_of(data, search=BeamSearch(**base))
        assert len({*map(tuple, plain)}) > 6
        assert 2 < sum(tokens[-1] == END for tokens in plain) < 12
        for name, value in (("num_beams", 1), ("min_new_tokens", 7), ("length_penalty", 4.0)):
            assert tokens_of(data, search=BeamSearch(**base | {name: value})) != plain, name
        assert tokens_of(data, search=BeamSearch(**base), max_new_tokens=4) != plain
        drawn = {
            str(options): tokens_of(data, search=None, sampling=Sampling(**options))
            for options in ({}, {"seed": 1}, {"temperature": 0.4}, {"top_k": 2}, {"top_p": 0.4}, {"temperature": 0.0})
        }
        assert len({str(tokens) for tokens in drawn.values()}) == len(drawn)
        assert tokens_of(data, search=None, sampling=Sampling()) == drawn["{}"]
        greedy = tokens_of(data, search=BeamSearch(num_beams=1))
        assert drawn["{'temperature': 0.0}"] == greedy != plain

    @pytest.mark.parametrize(("least", "most"), [(0, 1), (3, 3), (2, 6), (6, 12)])
    def test_has_as_many_tokens_as_it_is_told(self, least: int, most: int) -> None:
        data = data_of()
        search = BeamSearch(num_beams=2, min_new_tokens=least, length_penalty=-2.0)
        answers = tokens_of(data, search=search, max_new_tokens=most)
        assert all(least <= len([token for token in tokens if token != END]) for tokens in answers)
        assert max(map(len, answers)) == most
        assert all(END not in tokens[:-1] for tokens in answers)
        texts = task_of(data).texts(answers)
        assert texts == [data.decode([token for token in tokens if token != END]) for tokens in answers]

    @pytest.mark.parametrize(
        "options",
        [{"search": BeamSearch(num_beams=3)}, {"search": None, "sampling": Sampling(temperature=0.8)}],
        ids=["search", "sampling"],
    )
    def test_a_row_does_not_depend_on_the_batch(self, options: dict[str, Any]) -> None:
        """Of one row, of several, by length or in order, and with others' videos reaching beyond its end."""
        answers = [
            written(task_of(data, **options), data)
            for data in (data_of(batch_size=1), data_of(batch_size=5), data_of(batch_size=12, bucket_by_length=False))
        ]
        assert sorted(answers[0]) == [*range(12)]
        assert answers[0] == answers[1] == answers[2]
        assert len({*answers[0].values()}) > 6

    def test_is_written_behind_the_question(self) -> None:
        """The likeliest next token of a slow loop that reads each row anew, until the end."""
        data = data_of()
        task = task_of(data, search=BeamSearch(num_beams=1))
        batch = data.splits["predict"].batch([*range(12)], 0)
        assert "labels" not in batch
        expected = []
        for row in range(12):
            one = data.splits["predict"].batch([row], 0)
            answer: list[int] = []
            while len(answer) < MOST and answer[-1:] != [END]:
                labels = torch.tensor([[*answer, 0]])
                with torch.no_grad():
                    features = task.features_of(one, labels)
                answer.append(int(task.backbone.unembed(features[0, -1]).argmax()))
            expected.append(answer)
        assert task.write(batch) == expected

    def test_scores_are_mean_log_probabilities(self) -> None:
        data = data_of()
        task = task_of(data, search=BeamSearch(num_beams=2), scores=True)
        batch = data.splits["predict"].batch(ROWS, 0)
        columns = task.predict_step(batch, 0)
        assert columns.keys() == {"index", "target", "score"}
        for row, score, tokens in zip(ROWS, columns["score"], task.write(batch), strict=True):
            one = data.splits["predict"].batch([row], 0) | {"labels": torch.tensor([tokens])}
            with torch.no_grad():
                assert score == pytest.approx(-mean(slow(task, one)[0]).item(), abs=1e-5)


@pytest.fixture(scope="module")
def trained() -> tuple[VideoDialogue, VideoDialogs]:
    """A small model that answers most questions about what a shape looks like and where it goes, in seconds."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = data_of(
        source=Scenes(num_train=1000, num_val=100, num_test=40, num_turns=1),
        features=SceneFrames(num_frames=4),
        **{"caption_column": None, "summary_column": None, "max_seq_len": 96, "max_target_len": 24, "batch_size": 32},
    )
    sizes = {"vocab_size": 258, "max_seq_len": 96, "embed_dim": 32, "num_heads": 2, "num_layers": 2}
    text = GPT(**sizes, norm="layernorm", rotary=True, start_token=False)
    task = VideoDialogue(
        backbone=VideoText(text=text, video_dim=192),
        optimizer=lambda groups: MuonAdamW(groups, lr=0.02, adamw_lr=0.006),
        schedule=lambda optimizer, steps: WarmupCosine(optimizer, steps, warmup_steps=20),
        search=BeamSearch(num_beams=2),
        max_new_tokens=24,
    )
    trainer(max_steps=150, limit_val_batches=0, gradient_clip_val=1.0).fit(task, data)
    torch.set_num_threads(threads)
    return task.eval(), data


def loss_of(task: VideoDialogue, data: VideoDialogs, shift: int) -> float:
    """Over all of validation, with the video of the row that stands so many places before in its batch."""
    nats, count = 0.0, 0
    with torch.no_grad():
        for batch in data.loader("val"):
            moved = {name: batch[name].roll(shift, 0) for name in ("video", "num_frames")}
            outputs = task.step(batch | moved, "val")
            nats += (outputs["loss"] * outputs["weight"]).item()
            count += int(outputs["weight"])
    return nats / count


def test_the_video_is_used(trained: tuple[VideoDialogue, VideoDialogs]) -> None:
    """Answers are far likelier with their own videos than with others', of dialogs that were not trained on."""
    right, other = (loss_of(*trained, shift) for shift in (0, 1))
    assert right < 0.15
    assert other > 2 * right
    assert other > right + 0.1


class TestScores:
    """What validation and test say of the answers, and which checkpoint is the best."""

    def test_are_those_of_what_predict_writes(self, trained: tuple[VideoDialogue, VideoDialogs]) -> None:
        """Against all right answers of each row."""
        task, data = trained
        scores = trainer().test(task, data, verbose=False)[0]
        answers = written(task, data)
        references = data.splits["test"].batch([*range(40)], 0)["references"]
        assert all(len(accepted) == 2 for accepted in references)
        metric, first_only = CocoScores(), CocoScores()
        for row, accepted in enumerate(references):
            metric.update([answers[row]], [accepted], torch.tensor([row]))
            first_only.update([answers[row]], [accepted[:1]], torch.tensor([row]))
        expected = {f"test/{name}": pytest.approx(value.item(), abs=1e-6) for name, value in metric.compute().items()}
        assert {name: scores[name] for name in expected} == expected
        assert scores.keys() - expected.keys() == {"test/loss", "test/perplexity", "test/frame_loss"}
        assert 0.3 < scores["test/bleu4"] < scores["test/bleu1"] < 1
        assert scores["test/cider"] > 1
        assert abs(first_only.compute()["cider"].item() - scores["test/cider"]) > 1e-3

    def test_do_not_depend_on_the_batches(self, trained: tuple[VideoDialogue, VideoDialogs]) -> None:
        task, data = trained
        scores = trainer().test(task, data, verbose=False)[0]
        smaller = copy.copy(data)
        smaller.batch_size = 7
        again = trainer().test(task, smaller, verbose=False)[0]
        assert again == {name: pytest.approx(value, rel=1e-5) for name, value in scores.items()}

    @pytest.mark.parametrize("in_validation", [False, True])
    def test_of_validation(self, in_validation: bool) -> None:
        data = data_of()
        task = task_of(data, generate_in_validation=in_validation)
        assert task.monitor == (("val/cider", "max") if in_validation else ("val/loss", "min"))
        names = {"loss", "perplexity", "frame_loss"}
        if in_validation:
            names |= {"bleu1", "bleu2", "bleu3", "bleu4", "meteor", "rougeL", "cider"}
        assert trainer().validate(task, data, verbose=False)[0].keys() == {f"val/{name}" for name in names}

    def test_synonyms_are_handed_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[bool] = []

        def scores(synonyms: bool) -> CocoScores:
            asked.append(synonyms)
            return CocoScores()

        monkeypatch.setattr("lt_cli.tasks.video_dialogue.CocoScores", scores)
        for synonyms in (False, True):
            task_of(data_of(), synonyms=synonyms)
        assert asked == [False, True]


NAME = "video_dialogue"
CONFIG = ROOT / "tests" / "contract" / f"{NAME}.yaml"
FIT = ["fit", f"--config={CONFIG}", "--model.schedule=null", "--model.generate_in_validation=false"]
FEW = [
    "--data.source.num_train=8",
    "--data.source.num_val=12",
    "--data.source.num_turns=1",
    "--data.batch_size=8",
    "--trainer.accumulate_grad_batches=1",
]


def logged(name: str) -> dict[int, float]:
    """What a metric was after each epoch of the one run."""
    with (only_run(NAME) / "metrics.csv").open(newline="") as file:
        return {int(row["epoch"]): float(row[name]) for row in csv.DictReader(file) if row.get(name)}


class TestRuns:
    """From the command line, and back in Python."""

    def test_the_best_checkpoint_has_the_lowest_loss(self) -> None:
        """In a run whose loss falls and then rises."""
        two = ["--data.source.num_train=2", "--data.batch_size=2", "--trainer.limit_val_batches=1.0"]
        run([*FIT, *FEW, *two, "--model.optimizer.lr=0.05", "--trainer.max_epochs=14"])
        losses = logged("val/loss")
        best = min(losses, key=losses.__getitem__)
        assert [*losses] == [*range(14)]
        assert 0 < best < 13
        path = only_run(NAME) / "checkpoints" / "best.ckpt"
        assert torch.load(path, weights_only=True)["epoch"] == best
        loaded = load(path)
        score = trainer().validate(loaded.task, loaded.data, verbose=False)[0]["val/loss"]
        assert score == pytest.approx(losses[best], rel=1e-5)

    def test_the_best_checkpoint_has_the_highest_cider(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where validation writes answers: here right ones in the third of five epochs only."""

        def write(task: VideoDialogue, batch: Batch) -> list[list[int]]:
            data = task.targets
            assert isinstance(data, VideoDialogs)
            right = [*data.tokenizer.encode([accepted[0] for accepted in batch["references"]])]
            return [ids.tolist() if task.current_epoch == 2 else [97] for ids in right]

        monkeypatch.setattr(VideoDialogue, "write", write)
        run([*FIT, *FEW, "--model.generate_in_validation=true", "--trainer.max_epochs=5"])
        ciders = logged("val/cider")
        assert [*ciders] == [0, 1, 2, 3, 4]
        assert max(ciders, key=ciders.__getitem__) == 2
        path = only_run(NAME) / "checkpoints" / "best.ckpt"
        assert torch.load(path, weights_only=True)["epoch"] == 2

    def test_all_but_the_projection_may_be_frozen_in_one_process(self, monkeypatch: pytest.MonkeyPatch) -> None:
        before: dict[str, Tensor] = {}
        start = VideoDialogue.on_fit_start

        def on_fit_start(task: VideoDialogue) -> None:
            start(task)
            before.update(copy.deepcopy(task.state_dict()))

        monkeypatch.setattr(VideoDialogue, "on_fit_start", on_fit_start)
        frozen = "--freeze.modules=[backbone.text,backbone.segments,frame_head]"
        cli = run([*FIT, *FEW, frozen, "--trainer.max_steps=3"])
        after = cli.model.state_dict()
        moved = {name for name in after if not torch.equal(after[name], before[name])}
        assert moved == {"backbone.projection.weight", "backbone.projection.bias"}
        assert isinstance(cli.trainer.strategy, SingleDeviceStrategy)
        assert not torch.distributed.is_initialized()
        saved = weights(only_run(NAME) / "checkpoints" / "last.ckpt")
        assert saved.keys() == after.keys()
        for name, value in after.items():
            assert torch.equal(saved[name], value)

    def test_writes_answers_from_python(self) -> None:
        """Each in its place, as the command line writes them."""
        run([*FIT, *FEW, "--trainer.max_steps=2"])
        loaded = load(only_run(NAME) / "checkpoints" / "last.ckpt")
        fields = [row.fields for row in Scenes(num_train=8, num_val=12, num_test=50, num_turns=1).rows("predict")][:5]
        rows = loaded.predict([*fields, {**fields[0], "image_id": "scene_7", "id": 3}])
        assert [turns_of(Row(row, ""), "dialog")[0].question for row in rows[:5]] == [
            row["dialog"][0]["question"] for row in fields
        ]
        assert rows[-1].keys() == {"image_id", "caption", "summary", "dialog", "id", "score"}
        for row, given in zip(rows, fields, strict=False):
            answer = row["dialog"][-1]["answer"]
            assert answer != HIDDEN
            assert row == with_answer(given, "dialog", answer) | {"score": row["score"]}
            assert row["score"] < 0
        assert loaded.predict(fields[2:3])[0] == rows[2]
        assert fields[0]["dialog"][-1]["answer"] == HIDDEN, "what was given stays as it is"
        assert "must be a mapping with the columns image_id, caption, summary, dialog" in message(
            lambda: loaded.predict(["what is it?"])
        )


def test_a_language_model_of_ones_own_learns_to_see() -> None:
    """Its run is needed once: checkpoints of the dialogue hold the text model too."""
    causal = CONFIG.with_name("causal_language_modeling.yaml")
    sizes = ["--data.max_seq_len=64", "--model.backbone.max_seq_len=64", "--model.backbone.start_token=false"]
    run(["fit", f"--config={causal}", "--trainer.max_steps=2", "--model.schedule=null", *sizes])
    learned = weights(only_run(causal.stem) / "checkpoints" / "last.ckpt")
    text = [
        "--model.backbone.text=lt_cli.reuse.causal_vector_backbone",
        f"--model.backbone.text.path=runs/{causal.stem}",
    ]
    short = [
        "--data.max_seq_len=64",
        "--data.max_target_len=8",
        "--trainer.max_steps=1",
        "--freeze.modules=backbone.text",
    ]
    run([*FIT, *FEW, *text, *short])
    shutil.rmtree(Path("runs") / causal.stem)
    last = only_run(NAME) / "checkpoints" / "last.ckpt"
    seen = load(last).task.state_dict()
    for name, weight in learned.items():
        assert torch.equal(seen[name.replace("backbone.", "backbone.text.", 1)], weight), name


def avsd_files(folder: Path) -> tuple[Path, Path]:
    """Files of the challenges' layout, for training with answers and to predict without the last; and features."""
    generator = np.random.default_rng(0)

    def text(longest: int) -> str:
        return "".join(generator.choice(list("abü "), generator.integers(2, longest))).strip() or "a"

    paths = []
    for name, count in (("train", 12), ("hidden", 7)):
        dialogs = []
        for i in range(count):
            turns = [{"question": f"{text(6)}?", "answer": text(9)} for _ in range(1 + i % 3)]
            if name == "hidden":
                turns[-1]["answer"] = HIDDEN
            dialogs.append(
                {"image_id": f"{name[0].upper()}{i}", "caption": text(9), "summary": text(9), "dialog": turns, "n": i}
            )
        path = folder / f"{name}.json"
        path.write_text(json.dumps({"type": "dialogs", "dialogs": dialogs, "version": "0.1"}))
        paths.append(path)
        for kind, dim in (("i3d_flow", 3), ("i3d_rgb", 3), ("vggish", 2)):
            (folder / "features" / kind).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                frames = generator.normal(size=(2 + i % 4 + (dim == 3), dim)).astype(np.float32)
                np.save(folder / "features" / kind / f"{name[0].upper()}{i}.npy", frames)
    return paths[0], paths[1]


def test_predictions_are_a_submission(tmp_path: Path) -> None:
    """The file of a challenge with the last answers in it, as Python has them too, and nothing else changed."""
    train, hidden = avsd_files(tmp_path)
    config = yaml_of_avsd(train)
    options = ["--model.schedule=null", "--model.optimizer.lr=0.02", "--trainer.accumulate_grad_batches=1"]
    run(["fit", f"--config={config}", *options, "--trainer.max_epochs=24"])
    [directory] = (Path("runs") / config.stem).iterdir()
    checkpoint = directory / "checkpoints" / "last.ckpt"
    run(["predict", f"--ckpt_path={checkpoint}", f"--data.source.predict_path={hidden}", "--predictions.directory=out"])
    found, expected = json.loads(Path("out/predictions.json").read_text()), json.loads(hidden.read_text())
    answers = [dialog["dialog"][-1]["answer"] for dialog in found["dialogs"]]
    assert all(isinstance(answer, str) and answer != HIDDEN for answer in answers)
    given = copy.deepcopy(expected["dialogs"])
    for dialog, answer in zip(expected["dialogs"], answers, strict=True):
        dialog["dialog"][-1]["answer"] = answer
    assert found == expected
    assert [*found] == [*expected]
    assert [row.fields for row in AvsdFiles("out/predictions.json").rows("train") or []] == expected["dialogs"]
    loaded = load(checkpoint)
    assert loaded.predict(given) == expected["dialogs"]
    assert loaded.predict(given[3:4]) == expected["dialogs"][3:4]
    assert len({*answers}) > 1


def yaml_of_avsd(train: Path) -> Path:
    """The contract's configuration, over files."""
    text = CONFIG.read_text()
    begin, end = text.index("    source:"), text.index("    tokenizer:")
    features = train.parent / "features"
    text = f"""{text[:begin]}
    source: {{class_path: lt_cli.data.avsd.AvsdFiles, init_args: {{path: {train}}}}}
    features: {{class_path: lt_cli.data.video_features.NpyFeatures, init_args: {{path: {features}}}}}
{text[end:]}""".replace("video_dim: 192", "video_dim: 8")
    text = text.replace("scores: true", "scores: false").replace("num_beams: 2", "num_beams: 2, min_new_tokens: 2")
    text = text.replace("limit_predict_batches: 2", "limit_predict_batches: 1.0").replace(
        "max_new_tokens: 4", "max_new_tokens: 8"
    )
    path = Path("mine.yaml")
    path.write_text(text)
    return path


class TestMistakes:
    """Each in a line that says what to do."""

    def test_all_sizes_at_once(self) -> None:
        data = data_of(max_seq_len=80)
        text = GPT(vocab_size=200, max_seq_len=40, embed_dim=16, num_heads=2, num_layers=1, start_token=False)
        backbone = VideoText(text=text, video_dim=7, num_segments=3)
        assert message(lambda: task_of(data, backbone=backbone, max_new_tokens=13)).split("; ") == [
            "the data has 258 tokens, the backbone a vocabulary of 200: "
            "add --model.backbone.init_args.text.init_args.vocab_size=258",
            "the data has sequences of 80 tokens, the backbone takes 40: "
            "add --model.backbone.init_args.text.init_args.max_seq_len=80",
            "the token 256 ends the data's targets, and the backbone knows 200: "
            "add --model.backbone.init_args.text.init_args.vocab_size=257",
            "the data has 6 numbers in a frame, the backbone 7: add --model.backbone.init_args.video_dim=6",
            "the data has 4 kinds of places in a row, the backbone 3: add --model.backbone.init_args.num_segments=4",
            "max_new_tokens (13) must be at most the data's max_target_len (12), which is kept free for answers: "
            "add --model.max_new_tokens=12, or --data.max_target_len=13",
        ]

    def test_what_they_say_to_add_is_enough(self) -> None:
        """On the command line, all at once."""
        wrong = ["--model.backbone.video_dim=5", "--model.backbone.num_segments=2", "--model.max_new_tokens=25"]
        wrong += ["--model.backbone.text.vocab_size=300", "--model.backbone.text.max_seq_len=100"]
        arguments = [*FIT, *FEW, *wrong, "--trainer.max_steps=1"]
        said = message(lambda: run(arguments))
        assert said.count("add --") == 5
        cures = [part.split("add ")[1].split(",")[0] for part in said.split("; ")]
        assert run([*arguments, *cures]).trainer.global_step == 1

    def test_a_backbone_may_take_longer_rows(self) -> None:
        task_of(data_of(max_seq_len=40))

    def test_data_of_another_kind(self) -> None:
        needed = "VideoDialogue needs data such as lt_cli.data.video_dialogs.VideoDialogs, not"
        assert message(lambda: task_of(ready(pixel_data()))) == f"{needed} PixelData"  # type: ignore[arg-type]
        texts = TextToText(source=Beginnings(), tokenizer=ByteTokenizer(), max_seq_len=ROOM, max_target_len=MOST)
        texts.prepare_data()
        texts.setup("fit")
        assert message(lambda: task_of(texts)) == f"{needed} TextToText"  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            (
                {"frame_weight": -0.1},
                "frame_weight (-0.1) must be a finite number of at least 0, which leaves the frames' loss out",
            ),
            (
                {"frame_weight": float("nan")},
                "frame_weight (nan) must be a finite number of at least 0, which leaves the frames' loss out",
            ),
            (
                {"frame_weight": float("inf")},
                "frame_weight (inf) must be a finite number of at least 0, which leaves the frames' loss out",
            ),
            ({"label_smoothing": 1.0}, "label_smoothing (1.0) must be at least 0 and less than 1"),
            ({"max_new_tokens": 0}, "max_new_tokens (0) must be at least 1"),
            (
                {"max_new_tokens": 4},
                "search.min_new_tokens (5) must be at most max_new_tokens (4)",
            ),
            (
                {"search": None},
                "search and sampling are both null, and one of them says how to write: add --model.sampling={}",
            ),
            (
                {"sampling": Sampling()},
                "search and sampling are both given, and one of them says how to write: add --model.search=null",
            ),
        ],
        ids=str,
    )
    def test_of_the_task(self, options: dict[str, Any], says: str) -> None:
        assert message(lambda: task_of(data_of(), **options)) == says
