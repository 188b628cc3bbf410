"""A video before a text, against transformers' GPT-2 with the same weights, row by row; and what checkpoints hold."""

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from contract_suite import ROOT, Killed, assert_same_weights, dies_after, only_run, weights
from pretrained import pretrained_gpt2, vocab_size
from test_gpt import randomise, transplant
from torch import Tensor, nn
from toys import message
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel

from lt_cli.backbones.gpt import GPT
from lt_cli.backbones.huggingface import HuggingFaceCausalLM
from lt_cli.backbones.video_text import VideoText
from lt_cli.beam_search import BeamSearch, Hypothesis, beam_search
from lt_cli.checkpoint import load
from lt_cli.cli import run
from lt_cli.generation import Sampling, VectorPrompts, continue_prompts

VOCAB, LENGTH, WIDTH, DIM, SEGMENTS = 13, 24, 16, 5, 4
FRAME, CAPTION, QUESTION, ANSWER = range(SEGMENTS)
END = 2
both = pytest.mark.parametrize("ours", [True, False], ids=["gpt", "huggingface"])


def gpt2(seed: int = 0) -> GPT2LMHeadModel:
    """One of transformers, with weights large enough for each of its parts to matter."""
    sizes = {"vocab_size": VOCAB, "n_positions": LENGTH, "n_embd": WIDTH, "n_head": 2, "n_layer": 2}
    model = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=None, eos_token_id=None, tie_word_embeddings=False)).eval()
    randomise(model, seed)
    return model


def video_text(ours: bool, seed: int = 0, theirs: GPT2LMHeadModel | None = None, std: float = 0.3) -> VideoText:
    """Frames before that model, which is either our own GPT or transformers' wrapped."""
    theirs = gpt2(seed) if theirs is None else theirs
    text: GPT | HuggingFaceCausalLM
    if ours:
        sizes = {"vocab_size": VOCAB, "max_seq_len": LENGTH, "embed_dim": WIDTH, "num_heads": 2, "num_layers": 2}
        text = GPT(**sizes, norm="layernorm", activation="gelu_tanh", bias=True, start_token=False)
        transplant(theirs, text)
    else:
        text = HuggingFaceCausalLM(
            architecture={"model_type": "gpt2", "n_embd": WIDTH, "n_head": 2, "n_layer": 2}
            | {"tie_word_embeddings": False},
            vocab_size=VOCAB,
            max_seq_len=LENGTH,
        )
        text.hf_model.load_state_dict(theirs.state_dict())
    model = VideoText(text=text, video_dim=DIM, num_segments=SEGMENTS)
    generator = torch.Generator().manual_seed(seed + 1)
    for parameter in (*model.projection.parameters(), *model.segments.parameters()):
        nn.init.normal_(parameter, std=std, generator=generator)
    return model.eval()


def with_kinds(theirs: GPT2LMHeadModel, model: VideoText) -> GPT2LMHeadModel:
    """It, with the kinds' vectors as further rows of its table, where GPT-2 looks up token_type_ids."""
    table = theirs.transformer.wte.weight.detach()
    more = nn.Embedding(VOCAB + SEGMENTS, WIDTH)
    with torch.no_grad():
        more.weight.copy_(torch.cat([table, model.segments.weight]))
    theirs.transformer.wte = more
    return theirs


@dataclass
class Row:
    """A video, and a text whose last token begins an answer.

    Attributes:
        video: (F, DIM).
        ids: Of the tokens behind the frames.
        kinds: Of these tokens.
    """

    video: Tensor
    ids: list[int]
    kinds: list[int]

    def __len__(self) -> int:
        return len(self.video) + len(self.ids)


def row_of(num_frames: int, num_tokens: int, seed: int) -> Row:
    """A random one."""
    generator = torch.Generator().manual_seed(1000 + seed)
    ids = torch.randint(VOCAB, (num_tokens,), generator=generator).tolist()
    kinds = torch.randint(1, SEGMENTS, (num_tokens - 1,), generator=generator).sort().values.tolist()
    return Row(torch.randn(num_frames, DIM, generator=generator), ids, [*kinds, ANSWER])


ROWS = [row_of(*sizes, seed) for seed, sizes in enumerate([(3, 7), (8, 2), (1, 1), (2, 10), (5, 6)])]
"""The frames of the second reach beyond the whole third, which is the shortest."""


def batch_of(rows: Sequence[Row], *, places: int = 0, frames: int = 0, garbage: int | None = None) -> dict[str, Tensor]:
    """Rows side by side, at least so wide; zeros, or garbage, where there is nothing to read."""
    shape = len(rows), max(places, *map(len, rows))
    video = torch.zeros(len(rows), max(frames, *(len(row.video) for row in rows)), DIM)
    ids = kinds = torch.zeros(shape, dtype=torch.int64)
    if garbage is not None:
        generator = torch.Generator().manual_seed(garbage)
        video = 100 * torch.randn(video.shape, generator=generator)
        video[:, :, 0] = float("nan")
        ids, kinds = (torch.randint(n, shape, generator=generator) for n in (VOCAB, SEGMENTS))
    ids, kinds = ids.clone(), kinds.clone()
    for i, row in enumerate(rows):
        count = len(row.video)
        video[i, :count] = row.video
        kinds[i, :count] = FRAME
        ids[i, count : len(row)], kinds[i, count : len(row)] = torch.tensor(row.ids), torch.tensor(row.kinds)
    counts = torch.tensor([len(row.video) for row in rows])
    return {"input_ids": ids, "token_type_ids": kinds, "video": video, "num_frames": counts}


def vectors_of(row: Row, model: VideoText, theirs: GPT2LMHeadModel) -> Tensor:
    """What GPT-2 is to read of a row, without its kinds, a place at a time."""
    weight, bias = model.projection.weight, model.projection.bias
    frames = [weight @ frame + bias for frame in row.video]
    return torch.stack([*frames, *(theirs.transformer.wte.weight[token] for token in row.ids)])[None]


def kinds_of(row: Row) -> Tensor:
    """As token_type_ids of ``with_kinds``."""
    return VOCAB + torch.tensor([[FRAME] * len(row.video) + row.kinds])


class TestFeatures:
    """What each place has, and what it has it of."""

    @pytest.fixture(autouse=True)
    def _no_grad(self) -> Any:
        with torch.no_grad():
            yield

    @both
    def test_are_those_of_transformers(self, ours: bool) -> None:
        """Of a whole batch here, and of each row alone there: at the same places."""
        theirs = gpt2()
        model = video_text(ours, theirs=theirs)
        features = model(**batch_of(ROWS))
        logits = model.unembed(features)
        assert features.shape == (len(ROWS), max(map(len, ROWS)), WIDTH)
        assert (model.embed_dim, model.vocab_size) == (WIDTH, VOCAB)
        with_kinds(theirs, model)
        for i, row in enumerate(ROWS):
            vectors = vectors_of(row, model, theirs)
            expected = theirs.transformer(inputs_embeds=vectors, token_type_ids=kinds_of(row))[0][0]
            torch.testing.assert_close(features[i, : len(row)], expected, atol=1e-5, rtol=1e-5)
            expected = theirs(inputs_embeds=vectors + theirs.transformer.wte(kinds_of(row))).logits[0]
            torch.testing.assert_close(logits[i, : len(row)], expected, atol=1e-5, rtol=1e-5)
            without = theirs(inputs_embeds=vectors).logits[0]
            assert not torch.allclose(logits[i, : len(row)], without, atol=1e-2), "kinds matter"

    @both
    def test_do_not_depend_on_the_batch(self, ours: bool) -> None:
        """To the bit, where it is as wide: padding behind frames has no place in a row."""
        model = video_text(ours)
        row, wide = ROWS[0], {"places": 14, "frames": 8}
        other = [row_of(*sizes, 50) for sizes in ((1, 13), (6, 1), (4, 4))]
        features = [
            model(**batch_of([*mates[:1], row, *mates[1:]], **wide))[1, : len(row)] for mates in (ROWS[1:4], other)
        ]
        assert torch.equal(*features)
        model.double()
        alone = model(**batch_of([row]))[0]
        for mates in (ROWS[1:4], other):
            together = model(**batch_of([row, *mates], **wide))[0, : len(row)]
            torch.testing.assert_close(together, alone, atol=1e-9, rtol=0)

    @both
    def test_what_is_not_there_is_not_read(self, ours: bool) -> None:
        """Frames behind a video's end, tokens behind a row's, and tokens in the places of frames."""
        model = video_text(ours)
        clean, others = (model(**batch_of(ROWS, places=16, frames=10, garbage=g)) for g in (None, 3))
        for i, row in enumerate(ROWS):
            assert torch.equal(clean[i, : len(row)], others[i, : len(row)])
        assert not torch.equal(clean, others)

    @both
    def test_depend_on_all_that_is_before_and_nothing_after(self, ours: bool) -> None:
        model = video_text(ours)
        row = ROWS[0]
        batch = batch_of([row])
        features = model(**batch)[0]
        for place in range(len(row)):
            changes = ["video", "token_type_ids"] if place < len(row.video) else ["input_ids", "token_type_ids"]
            for name in changes:
                changed = batch[name].clone()
                changed[0, place] = (changed[0, place] + 1) % (VOCAB if name == "input_ids" else SEGMENTS)
                difference = (model(**batch | {name: changed})[0] - features).abs().amax(1)
                assert difference[:place].sum() < 1e-5
                assert difference[place:].min() > 1e-3, (place, name)

    @both
    def test_the_length_counts_frames_and_tokens(self, ours: bool) -> None:
        model = video_text(ours)
        assert model.max_seq_len == LENGTH
        for frames in (1, 10, LENGTH - 1):
            assert model(**batch_of([row_of(frames, LENGTH - frames, 0)])).shape[1] == LENGTH
            longer = batch_of([row_of(frames, LENGTH - frames + 1, 0)])
            said = message(lambda longer=longer: model(**longer))
            assert str(LENGTH + 1) in said
            assert f"max_seq_len ({LENGTH})" in said
        cache = model.make_cache(1, LENGTH)
        model.read(model.embed(**batch_of([row_of(10, LENGTH - 10, 0)])), cache=cache)
        one_more = model.embed_tokens(torch.zeros(1, 1).long(), token_type_ids=torch.zeros(1, 1).long())
        assert f"max_seq_len ({LENGTH})" in message(lambda: model.read(one_more, cache=cache))

    @both
    @pytest.mark.parametrize("prefix", [1, 3, 6])
    def test_of_a_row_read_bit_by_bit(self, ours: bool, prefix: int) -> None:
        """The prefix ends within the frames of some rows; what has no frames reads as tokens written behind."""
        model = video_text(ours)
        batch = batch_of(ROWS)
        vectors, whole = model.embed(**batch), model(**batch)
        cache = model.make_cache(len(ROWS), LENGTH)
        parts = [model.read(vectors[:, :prefix], cache=cache)]
        for place in range(prefix, vectors.shape[1]):
            alone = model.embed_tokens(
                batch["input_ids"][:, place, None], token_type_ids=batch["token_type_ids"][:, place, None]
            )
            is_frame = place < batch["num_frames"][:, None, None]
            one = torch.where(is_frame, vectors[:, place, None], alone)
            parts.append(model.read(one, cache=cache))
        torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=1e-5)

    @both
    def test_of_chosen_rows_go_on(self, ours: bool) -> None:
        model = video_text(ours)
        vectors = model.embed(**batch_of(ROWS))
        cache = model.make_cache(len(ROWS), LENGTH)
        model.read(vectors[:, :4], cache=cache)
        rows = torch.tensor([3, 0, 0, 4, 1, 1, 2])
        cache.reorder(rows)
        continued = torch.cat([vectors[rows, :4], vectors[:1, 4:6].expand(7, -1, -1)], dim=1)
        found = model.read(continued[:, 4:], cache=cache)
        torch.testing.assert_close(found, model.read(continued)[:, 4:], atol=1e-5, rtol=1e-5)

    @both
    def test_every_parameter_gets_a_gradient(self, ours: bool) -> None:
        model = video_text(ours)
        batch = batch_of([row_of(6, LENGTH - 6, 0), row_of(1, 20, 1)])
        batch["token_type_ids"][1, 1:] = torch.arange(LENGTH - 1) % SEGMENTS
        with torch.enable_grad():
            model.unembed(model(**batch)).square().sum().backward()
        assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
        assert model.projection.weight.grad is not None
        assert (model.projection.weight.grad.abs().sum(0) > 0).all()
        assert model.segments.weight.grad is not None
        assert (model.segments.weight.grad.abs().sum(1) > 0).all()


def prompts_of(model: VideoText, rows: Sequence[Row], places: int = 0) -> tuple[VectorPrompts, Tensor, list[int]]:
    """What continues rows with answers, the tokens that stand in them, and their lengths."""
    batch = batch_of(rows, places=places, garbage=4)
    batch["video"] = batch["video"].nan_to_num()
    lengths = [len(row) for row in rows]

    def embed(tokens: Tensor) -> Tensor:
        return model.embed_tokens(tokens, token_type_ids=torch.full_like(tokens, ANSWER))

    with torch.no_grad():
        decoder = VectorPrompts(model, model.embed(**batch), torch.tensor(lengths), embed)
    return decoder, batch["input_ids"], lengths


def searched(model: VideoText, rows: Sequence[Row], search: BeamSearch, num_tokens: int = 9) -> list[Hypothesis]:
    return beam_search(*prompts_of(model, rows), num_tokens, search, END)


def continued(model: VideoText, rows: dict[int, Row], sampling: Sampling, num_tokens: int = 9) -> list[list[int]]:
    """Each with the number that its random numbers come of."""
    prompts = prompts_of(model, [*rows.values()])
    return continue_prompts(*prompts, num_tokens, sampling, [*rows], lambda tokens: tokens[-1] == END)


def generated(
    theirs: GPT2LMHeadModel, model: VideoText, row: Row, search: BeamSearch, num_tokens: int = 9
) -> list[int]:
    """What transformers finds for one row, as it repeats the last of the token types for what it writes."""
    config = GenerationConfig(
        num_beams=search.num_beams,
        max_new_tokens=num_tokens,
        min_new_tokens=search.min_new_tokens or None,
        length_penalty=search.length_penalty,
        early_stopping=False,
        **{"eos_token_id": END, "pad_token_id": 0, "do_sample": False},
    )
    vectors = vectors_of(row, model, theirs)
    mask = torch.ones(1, len(row), dtype=torch.int64)
    with torch.no_grad():
        tokens: list[int] = theirs.generate(
            inputs_embeds=vectors, attention_mask=mask, token_type_ids=kinds_of(row), generation_config=config
        )[0].tolist()
    return tokens[: tokens.index(END) + 1] if END in tokens else tokens


SEARCHES: list[dict[str, Any]] = [
    {"num_beams": 1},
    {"num_beams": 1, "min_new_tokens": 4},
    {"num_beams": 3},
    {"num_beams": 4, "min_new_tokens": 3, "length_penalty": 0.3},
    {"num_beams": 3, "length_penalty": 2.0},
    {"num_beams": 2, "length_penalty": -1.0, "num_tokens": 5},
]


def bold(ours: bool, seed: int) -> tuple[VideoText, GPT2LMHeadModel]:
    """A model that writes something else of each row, and ends now and then; and the same of transformers."""
    theirs = gpt2(seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, generator=generator)
            elif "ln_" in name and name.endswith("weight"):
                nn.init.ones_(parameter)
        theirs.lm_head.weight.mul_(0.4)
        theirs.lm_head.weight[END] += theirs.transformer.ln_f.bias
    model = video_text(ours, seed, theirs, std=1.0)
    return model, with_kinds(theirs, model)


class TestWriting:
    """Texts behind rows of different lengths, with videos of different lengths."""

    @both
    @pytest.mark.parametrize("options", SEARCHES, ids=str)
    def test_is_what_transformers_generates(self, ours: bool, options: dict[str, Any]) -> None:
        """Each row alone there, and all in one batch here."""
        settings = dict(options)
        num_tokens = settings.pop("num_tokens", 9)
        search = BeamSearch(**settings)
        for seed in range(3):
            model, theirs = bold(ours, seed)
            found = [hypothesis.tokens for hypothesis in searched(model, ROWS, search, num_tokens)]
            assert found == [generated(theirs, model, row, search, num_tokens) for row in ROWS]

    def test_the_comparison_says_something(self) -> None:
        """Rows differ, some end and some do not, and each setting changes what is found."""
        base = {"num_beams": 3}

        def found(num_tokens: int = 9, **options: Any) -> list[list[int]]:
            search = BeamSearch(**base | options)
            models = [bold(True, seed)[0] for seed in range(3)]
            return [row.tokens for model in models for row in searched(model, ROWS, search, num_tokens)]

        plain = found()
        assert len({*map(tuple, plain)}) > 9
        assert 3 < sum(tokens[-1] == END for tokens in plain) < 14
        for name, value in (("num_beams", 1), ("min_new_tokens", 6), ("length_penalty", 3.0), ("num_tokens", 4)):
            assert found(**{name: value}) != plain, name
        assert min(map(len, plain)) < 6 < min(map(len, found(min_new_tokens=6)))
        assert max(map(len, plain)) == 9
        assert max(map(len, found(num_tokens=4))) == 4

    @both
    @pytest.mark.parametrize("chosen", [[0, 1, 2, 3, 4], [2, 1], [1, 0, 1]])
    @pytest.mark.parametrize("options", [{"num_beams": 1}, {"num_beams": 3, "min_new_tokens": 2}], ids=str)
    def test_searches_each_row_as_if_alone(self, ours: bool, chosen: list[int], options: dict[str, Any]) -> None:
        model, _ = bold(ours, 0)
        search = BeamSearch(**options)
        rows = [ROWS[row] for row in chosen]
        for row, together in zip(rows, searched(model, rows, search), strict=True):
            [alone] = searched(model, [row], search)
            assert together.tokens == alone.tokens
            assert together.score == pytest.approx(alone.score, abs=1e-5)

    @both
    @pytest.mark.parametrize("chosen", [[0, 1, 2, 3, 4], [2, 1]])
    @pytest.mark.parametrize("temperature", [0.0, 1.0])
    def test_draws_each_row_as_if_alone(self, ours: bool, chosen: list[int], temperature: float) -> None:
        model, _ = bold(ours, 0)
        sampling = Sampling(temperature=temperature, seed=3)
        rows = {row: ROWS[row] for row in chosen}
        together = continued(model, rows, sampling)
        assert together == [continued(model, {number: row}, sampling)[0] for number, row in rows.items()]
        if temperature == 0.0:
            greedy = searched(model, [*rows.values()], BeamSearch(num_beams=1))
            assert together == [hypothesis.tokens for hypothesis in greedy]
        else:
            assert together != continued(model, rows, Sampling(seed=4))

    @both
    def test_the_context_ends_it(self, ours: bool) -> None:
        """The last token need not fit."""
        model, _ = bold(ours, 0)
        rows = [row_of(12, 8, 0), row_of(1, 9, 1)]
        search = BeamSearch(num_beams=2, min_new_tokens=50)
        assert [len(row.tokens) for row in searched(model, rows, search, 50)] == [5, 15]
        sampling = Sampling(temperature=0.0)
        longest = continue_prompts(*prompts_of(model, rows), 50, sampling, [0, 1], lambda tokens: False)
        assert [len(tokens) for tokens in longest] == [5, 15]


def text_of(**options: Any) -> GPT:
    sizes = {"vocab_size": VOCAB, "max_seq_len": LENGTH, "embed_dim": WIDTH, "num_heads": 2, "num_layers": 1}
    return GPT(**{**sizes, "start_token": False, **options})


class TestMistakes:
    """Each in a line that says what to do."""

    def test_a_start_token(self) -> None:
        said = message(lambda: VideoText(text=text_of(start_token=True)))
        assert said == (
            "text has a start token of its own, which would have no use, as rows begin with a video: "
            "set --model.backbone.init_args.text.init_args.start_token=false"
        )
        hugging = HuggingFaceCausalLM(
            architecture={"model_type": "gpt2", "n_embd": WIDTH, "n_head": 2, "n_layer": 1},
            **{"vocab_size": VOCAB, "max_seq_len": LENGTH, "start_token": True},
        )
        assert message(lambda: VideoText(text=hugging)) == said

    def test_a_grid(self) -> None:
        assert message(lambda: VideoText(text=text_of(grid_width=4))) == (
            "grid_width (4) must be null, as a row is no picture: "
            "set --model.backbone.init_args.text.init_args.grid_width=null"
        )

    @pytest.mark.parametrize("name", ["video_dim", "num_segments"])
    @pytest.mark.parametrize("size", [0, -1])
    def test_sizes(self, name: str, size: int) -> None:
        assert message(lambda: VideoText(text=text_of(), **{name: size})) == f"{name} ({size}) must be at least 1"


def test_construction_draws_the_kinds_as_gpt2_draws_tokens() -> None:
    """And the other parts trained as they stand: in train mode, of the sizes that are said."""
    model = VideoText(text=text_of(embed_dim=512, dropout=0.5), video_dim=7, num_segments=9)
    assert model.segments.weight.shape == (9, 512)
    assert 0.019 < model.segments.weight.std().item() < 0.021
    assert model.projection.weight.shape == (512, 7)
    assert not model.pretrained
    assert model.rebuild_config is None, "the run's own configuration says all"
    assert all(module.training for module in model.modules())


# Runs, from weights that a directory holds.

NAME = "video_dialogue"
LAST = Path("checkpoints", "last.ckpt")
FROZEN = "--freeze.modules=backbone.text"


def fit_of(directory: Path, *more: str) -> list[str]:
    """A short fit of a text model from a directory, with its tokenizer."""
    return [
        "fit",
        f"--config={ROOT / 'tests' / 'contract' / NAME}.yaml",
        "--checkpoints.every_minutes=0",
        "--model.backbone.text=lt_cli.backbones.huggingface.HuggingFaceCausalLM",
        f"--model.backbone.text.pretrained={directory}",
        "--model.backbone.text.vocab_size=null",
        "--model.backbone.text.max_seq_len=null",
        "--data.tokenizer=lt_cli.data.tokenizers.HuggingFaceTokenizer",
        f"--data.tokenizer.path={directory}",
        "--model.schedule=null",
        "--model.generate_in_validation=false",
        "--trainer.limit_train_batches=4",
        "--trainer.limit_val_batches=1",
        *more,
    ]


@pytest.fixture
def base() -> Path:
    """A relative path, as users write them."""
    torch.manual_seed(7)
    return pretrained_gpt2(Path("base"), num_layers=2)


def loss_of(task: Any, data: Any) -> Tensor:
    data.setup("test")
    batch = data.splits["test"].batch(range(4), 0)
    with torch.no_grad():
        loss: Tensor = task.eval().step(batch, "test")["loss"]
    return loss


def option_in(said: str, value: str) -> str:
    """The option of a message that is for a text model within, with the value for DIRECTORY or NAME in it."""
    found = re.search(r"(--model\S+text\S+)=(DIRECTORY|NAME)", said)
    assert found is not None, said
    return f"{found[1]}={value}"


class TestCheckpoints:
    """They need no other file, but where they leave out what the backbone was given."""

    def test_frozen_weights_are_in_them(self, base: Path) -> None:
        """Weights that never trained, from a directory that is gone."""
        given = HuggingFaceCausalLM(pretrained=str(base)).state_dict()
        fitted = run(fit_of(base, FROZEN))
        shutil.rmtree("base")
        shutil.move(only_run(NAME) / LAST, "alone.ckpt")
        shutil.rmtree("runs")
        saved = weights(Path("alone.ckpt"))
        for name, weight in given.items():
            assert torch.equal(saved[f"backbone.text.{name}"], weight), name
        loaded = load("alone.ckpt")
        assert_same_weights(loaded.task.state_dict(), fitted.model.state_dict())
        loss = loss_of(loaded.task, loaded.data)
        assert loss == loss_of(fitted.model, fitted.datamodule)
        limits = ["--trainer.accelerator=cpu", "--trainer.limit_test_batches=1", "--data.batch_size=4"]
        tested = run(["test", "--ckpt_path=alone.ckpt", *limits, "--data.bucket_by_length=false"])
        assert tested.trainer.callback_metrics["test/loss"].item() == pytest.approx(loss.item(), rel=1e-5)

    def test_resumed_from_them_alone(self, base: Path) -> None:
        whole = run(fit_of(base, FROZEN, "--trainer.default_root_dir=whole")).model.state_dict()
        with pytest.raises(Killed), dies_after(3):
            run(fit_of(base, FROZEN, "--trainer.default_root_dir=broken"))
        shutil.rmtree("base")
        resumed = run(["fit", f"--ckpt_path={only_run(NAME, 'broken') / LAST}"])
        assert resumed.trainer.global_step == 4
        assert_same_weights(resumed.model.state_dict(), whole)

    def test_say_the_sizes_of_the_text_model(self, base: Path) -> None:
        fitted = run(fit_of(base, "--trainer.max_steps=1", "--model.backbone.text.max_seq_len=200"))
        config = torch.load(only_run(NAME) / LAST, weights_only=True)["lt_cli"]["config"]
        backbone = config["model"]["init_args"]["backbone"]
        assert backbone == fitted.model.backbone.rebuild_config
        assert backbone["class_path"] == "lt_cli.backbones.video_text.VideoText"
        text = backbone["init_args"].pop("text")
        assert backbone["init_args"] == {"video_dim": 192, "num_segments": 4}
        assert text["class_path"] == "lt_cli.backbones.huggingface.HuggingFaceCausalLM"
        assert (text["init_args"]["vocab_size"], text["init_args"]["max_seq_len"]) == (vocab_size(base), 200)
        assert text["init_args"]["pretrained"] is None

    def test_leave_out_what_adapters_were_put_on(self, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Then its directory must stay, wherever the run goes on."""
        given = {f"backbone.text.{name}" for name in HuggingFaceCausalLM(pretrained=str(base)).state_dict()}
        fitted = run(fit_of(base, "--model.backbone.text.lora.rank=2"))
        last = (only_run(NAME) / LAST).absolute()
        saved = weights(last)
        trained = {name for name, parameter in fitted.model.named_parameters() if parameter.requires_grad}
        assert saved.keys() == trained
        assert {name.split(".lora_")[0] for name in trained if "lora_" in name} == {
            f"backbone.text.transformer.h.{i}.attn.c_attn" for i in range(2)
        }
        kept = ("backbone.projection.", "backbone.segments.", "frame_head.")
        assert {name for name in trained if "lora_" not in name} == {
            name for name in fitted.model.state_dict() if name.startswith(kept)
        }
        assert not saved.keys() & given
        Path("elsewhere").mkdir()
        monkeypatch.chdir("elsewhere")
        loaded = load(last)
        assert_same_weights(loaded.task.state_dict(), fitted.model.state_dict())
        assert loss_of(loaded.task, loaded.data) == loss_of(fitted.model, fitted.datamodule)
        directory = Path("..") / base
        shutil.rmtree(directory)
        assert "must be a local directory" in message(lambda: load(last))
        pretrained_gpt2(directory, num_layers=2)
        assert "was trained over weights with the fingerprint" in message(lambda: load(last))

    @pytest.mark.parametrize("change", ["moved", "others"])
    def test_weights_elsewhere_are_named_with_an_option_that_works(self, base: Path, change: str) -> None:
        """Where the directory is gone, and where it has other weights now."""
        fitted = run(fit_of(base, "--model.backbone.text.lora.rank=2"))
        last = only_run(NAME) / LAST
        shutil.move("base", "moved")
        if change == "others":
            pretrained_gpt2(base, num_layers=2)
        option = option_in(message(lambda: load(last)), "moved")
        arguments = ["--trainer.accelerator=cpu", "--trainer.limit_test_batches=1"]
        tested = run(["test", f"--ckpt_path={last}", option, *arguments])
        assert_same_weights(tested.model.state_dict(), fitted.model.state_dict())


def test_a_text_model_of_nothing_names_an_option_that_works(base: Path) -> None:
    arguments = [one for one in fit_of(base, "--trainer.max_steps=1") if "text.pretrained" not in one]
    option = option_in(message(lambda: run(arguments)), str(base))
    assert run([*arguments, option]).trainer.global_step == 1
