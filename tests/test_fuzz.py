"""Random configurations and command lines end well or in a message: no input of a user may end in a traceback."""

import contextlib
import copy
import io
import os
import re
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from errors_corpus import TASKS
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from test_errors import NOISE

from lt_cli.cli import run
from lt_cli.errors import UserError

MANY = int(os.environ.get("LT_CLI_FUZZ_EXAMPLES", "0"))
"""How many examples of each kind; where it is not set, as many as take some seconds."""
FIT_OPTIONS = [
    *("--trainer.max_steps=5", "--trainer.limit_train_batches=8", "--trainer.limit_val_batches=1"),
    *("--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.num_nodes=1", "--trainer.strategy=auto"),
    *("--trainer.num_sanity_val_steps=0", "--trainer.enable_progress_bar=false", "--trainer.logger=false"),
    *("--trainer.enable_checkpointing=false", "--trainer.enable_model_summary=false"),
    "--trainer.default_root_dir=runs",
]
"""What keeps a run small and on this machine, whatever the configuration says."""

CLASSES = [
    *("lt_cli.backbones.gpt.GPT", "lt_cli.backbones.base.CausalBackbone", "lt_cli.backbones.gpt", "lt_cli.backbones"),
    *("lt_cli.data.images.Digits", "lt_cli.data.palette.GreyLevels", "lt_cli.data.palette.KMeansPalette"),
    *("lt_cli.tasks.pixel_generation.PixelGeneration", "lt_cli.tasks.pixel_classification.PixelClassification"),
    *("lt_cli.data.pixels.PixelData", "lt_cli.optim.WarmupCosine", "lt_cli.metrics.accuracy", "lt_cli.gone.Gone"),
    *("torch.nn.Linear", "torch.optim.SGD", "torch.optim.lr_scheduler.StepLR", "builtins.int", "math.pi", "GTP"),
    *("GPT", "Digits", ".", "..", "a.", ".a", "a b.c", "é.È", "lt_cli", "configs/backbone/gpt_xxs.yaml", "x.yaml"),
]
"""Class paths to put anywhere: of every kind of part, of none, and no paths at all; none of them does harm."""

NUMBERS = st.one_of(
    st.integers(-3, 20),
    st.sampled_from([2**31, 2**63, 10**12, -(10**30), 10**400]),
    st.floats(allow_nan=True, allow_infinity=True),
)
PLAIN = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 20),
    st.sampled_from([2**31, 2**63, 10**12, -(10**30), 10**400]),
    st.floats(allow_nan=True, allow_infinity=True),
    st.text(max_size=8),
    st.sampled_from(
        ["", " ", "null", "best", "last", "true", "[", "{", "a: b", "${x}", "--help", "\x00", "é\u202e", *CLASSES]
    ),
    st.dates(),
    st.binary(max_size=3),
)
VALUES = st.recursive(
    PLAIN,
    lambda below: st.one_of(
        st.lists(below, max_size=3),
        st.dictionaries(st.one_of(st.text(max_size=5), st.integers(0, 3), st.none()), below, max_size=3),
        st.fixed_dictionaries(
            {"class_path": st.one_of(st.sampled_from(CLASSES), below)}, optional={"init_args": below}
        ),
    ),
    max_leaves=5,
)


def places(part: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every part of a tree, but of the tree itself."""
    children = part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ()
    for key, below in children:
        yield (*path, key)
        yield from places(below, (*path, key))


def at(tree: Any, path: tuple[Any, ...]) -> Any:
    """The part that a path leads to."""
    for key in path:
        tree = tree[key]
    return tree


def typo(name: str, number: int) -> str:
    """The name with one letter left out, doubled, changed, or two swapped."""
    place = number // 4 % max(1, len(name))
    letter, rest = name[place : place + 1], name[place + 1 :]
    change = ["", 2 * letter, string.ascii_lowercase[number % 26], rest[:1] + letter][number % 4]
    return name[:place] + change + (rest[1:] if number % 4 == 3 else rest)


@st.composite
def configurations(draw: st.DrawFn, numbers: bool = False) -> Any:
    """The configuration of a contract, wrong in one to three places; ``numbers`` changes mostly those."""
    config = yaml.safe_load(TASKS[draw(st.sampled_from(sorted(TASKS)))].read_text())
    for _ in range(draw(st.integers(1, 3))):
        paths = list(places(config))
        if not paths:
            break
        counts = [path for path in paths if isinstance(at(config, path), int | float)]
        path = draw(st.sampled_from(counts if counts and numbers and draw(st.booleans()) else paths))
        owner, key = at(config, path[:-1]), path[-1]
        if isinstance(owner[key], int | float) and numbers:
            owner[key] = draw(NUMBERS)
            continue
        kind = draw(st.sampled_from(["delete", "rename", "replace", "replace", "swap", "copy", "insert", "class"]))
        if kind == "delete":
            del owner[key]
        elif kind == "rename" and isinstance(owner, dict) and isinstance(key, str):
            owner[typo(key, draw(st.integers(0, 999)))] = owner.pop(key)
        elif kind == "swap":
            other = draw(st.sampled_from(paths))
            if other[: len(path)] != path and path[: len(other)] != other:
                value = at(config, other)
                at(config, other[:-1])[other[-1]], owner[key] = owner[key], value
        elif kind == "copy":
            place = at(config, draw(st.sampled_from(paths))[:-1])
            part = copy.deepcopy(owner[key])
            place.append(part) if isinstance(place, list) else place.update({key: part})
        elif kind == "insert" and isinstance(owner, dict):
            owner[draw(st.one_of(st.text(max_size=6), st.integers(-1, 3), st.none(), KEYS))] = draw(VALUES)
        elif kind == "class":
            owner[key] = draw(st.sampled_from(CLASSES))
        else:
            owner[key] = draw(VALUES)
    return config


KEYS = st.sampled_from(
    [
        *("freeze", "weight_noise", "sample_images", "checkpoints", "predictions", "ckpt_path", "seed_everything"),
        *("class_path", "init_args", "dict_kwargs", "schedule", "metrics", "sampling", "callbacks", "config"),
    ]
)
"""Names that stand for something in one place or another."""


def check(*args: str) -> None:
    """The command line runs, or says why not as a user can read it; any other exception is a defect."""
    code: object = 0
    message = "nothing"
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            run(list(args))
    except SystemExit as stop:
        code = stop.code
    except (UserError, OSError) as error:
        message = str(error)
    assert code in (0, None)
    assert 1 <= len(message.splitlines()) <= 3, message
    for noise in NOISE:
        assert noise not in message, message


def thorough(number: int) -> settings:
    """The same examples on every machine, unless more are asked for."""
    return settings(
        max_examples=MANY or number,
        derandomize="LT_CLI_FUZZ_EXAMPLES" not in os.environ,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def written(config: Any) -> str:
    """The configuration's file."""
    Path("mine.yaml").write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8", errors="surrogatepass")
    return "--config=mine.yaml"


@thorough(60)
@given(configurations())
def test_configurations_are_parsed_or_refused(config: Any) -> None:
    check("fit", written(config), "--print_config")


@thorough(25)
@given(configurations(numbers=True))
def test_configurations_run_or_are_refused(config: Any) -> None:
    text = str(config)
    assume("num_workers" not in text)  # as many processes
    assume(not re.search(r"'num_(layers|heads|completions)': \d{4}", text))  # as many modules, one by one
    check("fit", written(config), *FIT_OPTIONS)


@thorough(60)
@given(
    st.one_of(
        st.text(max_size=60), st.text(alphabet=" \n:-[]{}#&*!|>'\"%@`,?ab1.", max_size=60), st.binary(max_size=30)
    )
)
def test_garbage_is_refused(text: str | bytes) -> None:
    Path("mine.yaml").write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", errors="surrogatepass"))
    check("fit", "--config=mine.yaml", "--print_config")


OPTIONS = [
    *("--model", "--model.backbone", "--model.backbone.num_layers", "--model.init_args.backbone.init_args.num_layers"),
    *("--model.optimizer", "--model.optimizer.lr", "--model.optimizer.betas", "--model.schedule", "--model.metrics"),
    *("--model.sampling", "--model.sampling.top_k", "--model.keep_rows", "--data", "--data.source", "--data.size"),
    *("--data.palette", "--data.palette.num_colors", "--data.batch_size", "--data.flip", "--data.predict_source"),
    *("--trainer", "--trainer.max_steps", "--trainer.callbacks", "--trainer.callbacks+", "--trainer.logger"),
    *("--trainer.precision", "--trainer.profiler", "--trainer.devices", "--trainer.default_root_dir"),
    *("--freeze", "--freeze.modules", "--freeze.thaw", "--weight_noise", "--weight_noise.std", "--sample_images"),
    *("--checkpoints", "--checkpoints.every_minutes", "--predictions.format", "--predictions", "--seed_everything"),
    *("--ckpt_path", "--config", "-c", "--print_config", "--model.help", "--modle", "stray", "--", "-x", "---"),
]


@thorough(100)
@given(
    st.sampled_from(["fit", "fit", "validate", "test", "predict", "fti"]),
    st.lists(st.tuples(st.sampled_from(OPTIONS), st.sampled_from(["=", " ", ""]), VALUES), max_size=4),
)
def test_command_lines_are_parsed_or_refused(command: str, options: list[tuple[str, str, Any]]) -> None:
    args = [command, f"--config={TASKS['pixel_generation']}", "--print_config"]
    for name, between, value in options:
        text = (
            value if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True).removesuffix("\n...\n")
        )
        if between == " ":
            args += [name, text.strip("\x00")]
        else:
            args.append(f"{name}{between}{text.strip()}")
    check(*args)
