"""Generative pre-training against loops over pixels, and pictures completed and drawn."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from toys import NumberData, Pictures, pixel_data, ready, tiny_gpt, trainer

from lt_cli.backbones.base import CausalBackbone
from lt_cli.backbones.gpt import GPT
from lt_cli.backbones.huggingface import HuggingFaceCausalLM, HuggingFaceImageGPT
from lt_cli.callbacks.prediction_writer import PredictionWriter
from lt_cli.data.palette import GreyLevels
from lt_cli.errors import UserError
from lt_cli.generation import Sampling
from lt_cli.optim import WarmupCosine
from lt_cli.tasks.pixel_generation import PixelGeneration


def gpt2() -> CausalBackbone:
    architecture = {"model_type": "gpt2", "n_layer": 2, "n_head": 2, "n_embd": 8}
    return HuggingFaceCausalLM(architecture=architecture, vocab_size=5, max_seq_len=16, start_token=True)


def image_gpt() -> CausalBackbone:
    architecture = {"model_type": "imagegpt", "n_layer": 2, "n_head": 2, "n_embd": 8}
    return HuggingFaceImageGPT(architecture=architecture, vocab_size=5, max_seq_len=16)


BACKBONES: dict[str, Callable[[], CausalBackbone]] = {"GPT": tiny_gpt, "GPT-2": gpt2, "ImageGPT": image_gpt}
backbones = pytest.mark.parametrize("make", BACKBONES.values(), ids=BACKBONES)


def task_of(backbone: CausalBackbone | None = None, **options: Any) -> PixelGeneration:
    """A task with its data, in eval mode."""
    task = PixelGeneration(backbone=backbone or tiny_gpt(), schedule=None, **options)
    task.attach(ready(pixel_data(), "fit", "test", "predict"))
    return task.eval()


def batch_of(task: PixelGeneration, rows: list[int], split: Any = "test") -> Any:
    assert task.data is not None
    return task.data.splits[split].batch(rows, 0)


@torch.no_grad()
def slow_nats(backbone: CausalBackbone, tokens: torch.Tensor) -> list[float]:
    """Of each picture, pixel by pixel, each from a forward pass over those before it."""
    nats = []
    for picture in tokens.tolist():
        total = 0.0
        for i, pixel in enumerate(picture):
            seen = torch.tensor([[backbone.start_id, *picture[:i]]])
            total -= backbone.unembed(backbone(seen))[0, -1].double().log_softmax(-1)[pixel].item()
        nats.append(total / len(picture))
    return nats


class TestLoss:
    """Nats per pixel, from the first one on."""

    @backbones
    def test_equals_a_loop_over_pixels(self, make: Callable[[], CausalBackbone]) -> None:
        task = task_of(make())
        batch = batch_of(task, [0, 1, 5])
        outputs = task.step(batch, "train")
        expected = np.mean(slow_nats(task.backbone, batch["input_ids"]))
        assert outputs["loss"].item() == pytest.approx(expected, rel=1e-5)
        assert outputs["bits_per_pixel"].item() == pytest.approx(expected / math.log(2), rel=1e-5)

    def test_starts_at_ln_v(self) -> None:
        task = task_of(GPT(vocab_size=5, max_seq_len=16, embed_dim=8, num_heads=2, num_layers=2))
        assert task.step(batch_of(task, [0, 1]), "train")["loss"].item() == pytest.approx(math.log(5), rel=1e-6)

    def test_the_first_pixel_is_learned(self) -> None:
        task = task_of()
        batch = batch_of(task, [0])
        embedding = task.backbone.token_embedding
        tokens = batch["input_ids"][:, :1]
        task.step({**batch, "input_ids": tokens}, "train")["loss"].backward()
        assert embedding.weight.grad[task.backbone.start_id].abs().max() > 0
        assert embedding.weight.grad[: task.backbone.start_id].abs().max() == 0, "it sees no pixel, itself least"

    def test_the_last_pixel_is_no_input(self) -> None:
        task = task_of()
        seen = []
        task.backbone.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        batch = batch_of(task, [3, 4])
        task.step(batch, "train")
        assert seen[0][:, 0].tolist() == [5, 5]
        assert torch.equal(seen[0][:, 1:], batch["input_ids"][:, :-1])

    def test_validation_is_the_mean_over_all_pictures(self) -> None:
        """The last batch is a short one."""
        task, data = PixelGeneration(backbone=tiny_gpt(), schedule=None), pixel_data(val_fraction=0.25, batch_size=4)
        run = trainer(max_epochs=1, limit_train_batches=1)
        run.fit(task, data)
        val = data.splits["val"]
        assert len(val) == 10
        expected = np.mean(slow_nats(task.eval().backbone, val.batch(range(10), 0)["input_ids"]))
        assert run.callback_metrics["val/loss"].item() == pytest.approx(expected, rel=1e-5)
        assert run.callback_metrics["val/bits_per_pixel"].item() == pytest.approx(expected / math.log(2), rel=1e-5)

    def test_names_in_every_stage(self) -> None:
        task, data, run = PixelGeneration(backbone=tiny_gpt(), schedule=None), pixel_data(), trainer(max_epochs=1)
        run.fit(task, data)
        (tested,) = run.test(task, data, verbose=False)
        assert set(tested) == {"test/loss", "test/bits_per_pixel"}
        assert task.monitor == ("val/loss", "min")

    def test_learns_pictures_by_heart(self) -> None:
        data = pixel_data(Pictures(num_train=3), val_fraction=0.34)
        backbone = GPT(vocab_size=5, max_seq_len=16, embed_dim=32, num_heads=2, num_layers=2)
        schedule = partial(WarmupCosine, warmup_steps=10)
        task = PixelGeneration(backbone=backbone, optimizer=partial(torch.optim.AdamW, lr=0.01), schedule=schedule)
        trainer(max_steps=250, limit_val_batches=0).fit(task, data)
        loss = task.step(data.splits["train"].batch([0, 1], 0), "train")["loss"].item()
        assert loss == pytest.approx(math.log(2) / 16, rel=0.1), "one bit of a picture says which of the two it is"


class TestPredict:
    """Pictures completed from their first rows."""

    @pytest.mark.parametrize(("keep_rows", "kept"), [(None, 2), (0, 0), (1, 1), (3, 3)])
    def test_columns(self, keep_rows: int | None, kept: int) -> None:
        task = task_of(keep_rows=keep_rows, num_completions=2)
        batch = batch_of(task, [4, 1, 7], "predict")
        columns = task.predict_step(batch, 0)
        assert list(columns) == ["index", "input_ids", "prompt_len", "completions"]
        assert columns["index"].tolist() == [4, 1, 7]
        assert torch.equal(columns["input_ids"], batch["input_ids"])
        assert columns["prompt_len"].tolist() == [4 * kept] * 3
        completions = columns["completions"]
        assert completions.shape == (3, 2, 16)
        assert torch.equal(completions[:, :, : 4 * kept], batch["input_ids"][:, None, : 4 * kept].expand(-1, 2, -1))
        assert completions.min() >= 0
        assert completions.max() < 5
        assert not torch.equal(completions[:, 0], completions[:, 1]), "each one is drawn anew"

    def test_the_likeliest_pixels_against_a_loop(self) -> None:
        task = task_of(sampling=Sampling(temperature=0), num_completions=1)
        batch = batch_of(task, [0, 1], "predict")
        for picture, completion in zip(batch["input_ids"], task.predict_step(batch, 0)["completions"], strict=True):
            tokens = picture[:8].tolist()
            while len(tokens) < 16:
                logits = task.backbone.unembed(task.backbone(torch.tensor([[5, *tokens]])))[0, -1]
                tokens.append(int(logits.argmax()))
            assert completion[0].tolist() == tokens

    def test_independent_of_the_batch(self) -> None:
        task = task_of()
        together = task.predict_step(batch_of(task, list(range(12)), "predict"), 0)["completions"]
        for rows in ([5], [7, 2]):
            found = task.predict_step(batch_of(task, rows, "predict"), 3)["completions"]
            assert torch.equal(found, together[rows])
        torch.manual_seed(8)
        assert torch.equal(task.predict_step(batch_of(task, [5], "predict"), 0)["completions"], together[[5]])

    def test_every_completion_has_its_own_random_numbers(self) -> None:
        task = task_of(keep_rows=0, num_completions=4)
        completions = task.predict_step(batch_of(task, list(range(12)), "predict"), 0)["completions"]
        assert len(completions.flatten(0, 1).unique(dim=0)) == 12 * 4

    def test_another_seed_draws_others(self) -> None:
        found = []
        for seed in (0, 1):
            torch.manual_seed(0)
            task = task_of(sampling=Sampling(seed=seed))
            found.append(task.predict_step(batch_of(task, [0], "predict"), 0)["completions"])
        assert not torch.equal(found[0], found[1])

    def test_mistakes(self) -> None:
        for keep_rows in (4, 9):
            task = task_of(keep_rows=keep_rows)
            with pytest.raises(UserError, match=rf"keep_rows \({keep_rows}\) must be less than .* height \(4\)"):
                task.predict_step(batch_of(task, [0], "predict"), 0)
        with pytest.raises(UserError, match=r"keep_rows \(-1\) must not be negative"):
            task_of(keep_rows=-1)
        with pytest.raises(UserError, match=r"num_completions \(0\) must be at least 1"):
            task_of(num_completions=0)


class TestSamples:
    """Pictures from nothing."""

    def test_pictures_of_the_palette(self) -> None:
        task = task_of()
        pictures = task.sample_images(6)
        assert pictures.shape == (6, 4, 4, 1)
        assert pictures.dtype == np.uint8
        levels = np.rint(GreyLevels(num_colors=5).fit(pictures) * 255)
        assert set(np.unique(pictures)) <= set(levels.ravel())
        assert len(np.unique(pictures, axis=0)) > 1

    def test_always_the_same(self) -> None:
        task = task_of()
        state = torch.get_rng_state()
        first = task.sample_images(6)
        assert torch.equal(torch.get_rng_state(), state)
        torch.manual_seed(77)
        np.testing.assert_array_equal(task.sample_images(6), first)
        np.testing.assert_array_equal(task.sample_images(2), first[:2])

    def test_data_that_is_no_pictures(self) -> None:
        task = PixelGeneration(backbone=tiny_gpt())
        task.attach(NumberData())
        with pytest.raises(UserError, match=r"drawing needs data of pictures, such as .*PixelData, not NumberData"):
            task.sample_images(1)


class TestBackbones:
    """Any causal backbone with a start token will do."""

    @backbones
    def test_fit_predict_and_draw(self, make: Callable[[], CausalBackbone]) -> None:
        task, data = PixelGeneration(backbone=make(), schedule=None, num_completions=1), pixel_data()
        before = {name: weight.clone() for name, weight in task.state_dict().items()}
        run = trainer(PredictionWriter(directory="predictions"), max_epochs=1)
        run.fit(task, data)
        for name, weight in task.named_parameters():
            assert not torch.equal(weight, before[name]), f"{name} is not trained"
        run.predict(task, data)
        assert task.eval().sample_images(2).shape == (2, 4, 4, 1)

    def test_one_without_a_start_token(self) -> None:
        with pytest.raises(UserError, match=r"no start token: add --model.backbone.init_args.start_token=true"):
            task_of(tiny_gpt(start_token=False))

    def test_one_of_another_vocabulary(self) -> None:
        """The palette's size is said once; silent agreement on the smaller one is the reference's mistake."""
        for size in (4, 6, 512):
            with pytest.raises(UserError, match=rf"has 5 tokens, .* vocabulary of {size}: add .*\.vocab_size=5"):
                task_of(tiny_gpt(vocab_size=size))
