"""The command line before parsing: whose configuration a run starts from, and every override after it."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.utilities import rank_zero_info

from lt_cli.checkpoint import run_config
from lt_cli.checkpoint_io import read
from lt_cli.errors import UserError, did_you_mean
from lt_cli.runs import RUNS, Location, find, of_job, run_of
from lt_cli.signals import slurm_job

SUBCOMMANDS = ("fit", "validate", "test", "predict")
DEFAULT_CONFIG = Path(__file__).with_name("default.yaml")
DEFAULT_NAME = "igpt_digits"
EVALUATED = ("seed_everything", "model", "data")
"""What evaluation takes from a checkpoint; never its trainer, which was made for another machine."""

SPECIFICATION = ("class_path", "init_args", "dict_kwargs")
"""What a part of a configuration that chooses a class consists of."""


@dataclass(frozen=True)
class Option:
    """One option as it was typed: its name, and all its tokens."""

    name: str
    tokens: list[str]

    @property
    def value(self) -> str:
        """The text after ``=``, or the next token."""
        _, equals, value = self.tokens[0].partition("=")
        return value if equals else " ".join(self.tokens[1:])

    @property
    def depth(self) -> float:
        """How specific the option is: choices of a class come before the arguments of that class.

        The order of callbacks, which are appended and then configured, is the user's.
        """
        name = self.name.replace(".init_args", "")
        return float("inf") if name.startswith("--trainer.callbacks") else name.count(".")

    @property
    def only_prints(self) -> bool:
        """Whether the option ends the program with something to read."""
        return self.name in ("-h", "--help", "--print_config") or self.name.endswith(".help")


@dataclass(frozen=True)
class Invocation:
    """A command line in an order in which overrides win, and what it says of runs.

    Attributes:
        args: The arguments to parse.
        name: The config's name, which its runs lie under.
        ckpt_path: The checkpoint, found.
        typed: The arguments as they were typed.
    """

    args: list[str]
    name: str = DEFAULT_NAME
    ckpt_path: Location | None = None
    typed: list[str] = field(default_factory=list)


def arrange(args: list[str]) -> Invocation:
    """Puts configurations first and the more specific options last, so that the command line always wins.

    Where no ``--config`` says the model's class, the checkpoint's configuration comes before it, or else the default.

    Raises:
        UserError: If there is no subcommand, a configuration is missing, empty or broken, or evaluation has
            neither checkpoint nor config.
    """
    command, rest = (args[0], args[1:]) if args else ("nothing", [])
    if command in ("-h", "--help"):
        return Invocation(list(args))
    if command not in SUBCOMMANDS:
        choices = f"{', '.join(SUBCOMMANDS[:-1])} or {SUBCOMMANDS[-1]}"
        raise UserError(
            f"the first argument must be {choices}, not {command or 'nothing'}" + did_you_mean(command, SUBCOMMANDS)
        )
    options = _options(rest)
    configs = [option for option in options if option.name in ("--config", "-c")]
    contents = [_read_config(option) for option in configs]
    said = [Option("--ckpt_path", ["--ckpt_path", str(path)]) for c in contents if (path := c.get("ckpt_path"))]
    said += sorted((option for option in options if option not in configs), key=lambda option: option.depth)
    name = _config_name(configs)
    root = _root(said, contents)
    if command == "fit" and (again := _started_again(list(args), root)):
        said.append(Option("--ckpt_path", [f"--ckpt_path={again}"]))
    ckpt_path, others = _find_checkpoint(command, said, root, name)
    base: list[str] = []
    if not any(_says_class(content.get("model")) for content in contents):
        base = ["--config", _base_config(command, others, ckpt_path)]
    run = run_of(ckpt_path) if ckpt_path else None
    if name is None:
        name = run.parent.name if run else Path(ckpt_path).stem if ckpt_path else DEFAULT_NAME
    arranged = [command, *base, *(token for option in [*configs, *others] for token in option.tokens)]
    return Invocation(arranged, name, ckpt_path, list(args))


def check_files(args: list[str]) -> None:
    """Reads each YAML file that an option names; called when parsing failed, as such a file may be the cause.

    Raises:
        UserError: If one is missing, empty or broken.
    """
    for option in _options(args[1:]):
        if Path(option.value).suffix in (".yaml", ".yml"):
            _read_yaml(option.value, option.name)


def _options(tokens: list[str]) -> list[Option]:
    """Groups each option with the values that follow it."""
    options: list[Option] = []
    for token in tokens:
        if token.startswith("--") or token in ("-c", "-h") or not options:
            options.append(Option(token.split("=", 1)[0], [token]))
        else:
            options[-1].tokens.append(token)
    return options


def _read_config(option: Option) -> dict[str, Any]:
    """The content of a configuration, its trainer's fragment included."""
    content = _read_yaml(option.value, option.name)
    _check_parts(content, "", option)
    where = f"{option.value}: trainer"
    if isinstance(trainer := content.get("trainer"), str):
        content["trainer"] = _read_yaml(str(Path(option.value).parent / trainer), where)
    return content | {"trainer": _options_of(content.get("trainer") or {}, where)}


def _check_parts(part: Any, name: str, option: Option) -> None:
    """Refuses what stands beside ``class_path`` and ``init_args``: the parser would take all for another class's."""
    if isinstance(part, dict):
        odd = sorted(str(key) for key in part.keys() - set(SPECIFICATION))
        if name and odd and part.keys() & set(SPECIFICATION):
            rule = f"{name} holds class_path and init_args, not {odd[0] or 'an empty name'}" + did_you_mean(
                odd[0], SPECIFICATION
            )
            raise UserError(f"{option.name} {option.value}: {rule}")
        for key, below in part.items():
            _check_parts(below, f"{name}.{key}".lstrip("."), option)


def _read_yaml(text: str, name: str) -> dict[str, Any]:
    """Options and values, given as a file or as YAML."""
    if not text:
        raise UserError(f"{name} needs a file")
    path = Path(text) if "\n" not in text else None
    try:
        source = path.read_text(encoding="utf-8") if path else text
    except (OSError, UnicodeDecodeError) as error:
        if ": " not in text:
            raise UserError(f"{name} {text}: {getattr(error, 'strerror', None) or error}") from error
        source = text
    try:
        content = yaml.safe_load(source)
    except yaml.YAMLError as error:
        raise UserError(f"{name} {text} is not YAML: {' '.join(str(error).split())}") from error
    if content is None:
        raise UserError(f"{name} {text} is empty")
    return _options_of(content, f"{name} {text}")


def _options_of(content: Any, name: str) -> dict[str, Any]:
    """The content, which must be a mapping."""
    if not isinstance(content, dict):
        raise UserError(f"{name} must hold options and their values, not a {type(content).__name__}")
    if odd := [key for key in content if not isinstance(key, str)]:
        raise UserError(f"{name}: {odd[0]} must be the name of an option; put quotes around it if it is one")
    return content


def _says_class(part: Any) -> bool:
    """Whether a part of a configuration stands by itself, or overrides parts of another."""
    return isinstance(part, str) or (isinstance(part, dict) and "class_path" in part)


def _config_name(configs: list[Option]) -> str | None:
    """Runs lie under the name of the first configuration that is a file; a run's own config.yaml has the run's."""
    path = next((Path(option.value) for option in configs if Path(option.value).suffix in (".yaml", ".yml")), None)
    if path is not None and path.name == "config.yaml" and (path.parent / "checkpoints").is_dir():
        return path.absolute().parent.parent.name
    return path.stem if path else None


def _root(options: list[Option], contents: list[dict[str, Any]]) -> Path:
    """The directory of all runs."""
    trainers = [content["trainer"] for content in contents]
    trainers += [_read_yaml(option.value, option.name) for option in options if option.name == "--trainer"]
    said = [trainer.get("default_root_dir") for trainer in trainers]
    said += [option.value for option in options if option.name == "--trainer.default_root_dir"]
    return Path(next((root for root in reversed(said) if root), RUNS))


def _started_again(args: list[str], root: Path) -> Path | None:
    """What a job that SLURM starts again goes on from: it says so in SLURM_RESTART_COUNT."""
    job = slurm_job()
    if job is None or os.environ.get("SLURM_RESTART_COUNT", "0") in ("", "0"):
        return None
    last = of_job(job, args, root)
    if last is not None:
        rank_zero_info(f"SLURM job {job} is started again and goes on from {last}")
    return last


def _find_checkpoint(
    command: str, options: list[Option], root: Path, name: str | None
) -> tuple[Location | None, list[Option]]:
    """Replaces best, last or a directory by the file it means, and says which."""
    given = [option for option in options if option.name == "--ckpt_path"]
    if not given or given[-1].value == "null":
        return None, options
    if not given[-1].value:
        raise UserError("--ckpt_path needs best, last, a file or a directory")
    which = given[-1].value
    rest = [option for option in options if option.name != "--ckpt_path"]
    found = find(which, root, name)
    if found is None:
        place = which if Path(which).is_dir() else f"{root}/{name or '*'}"
        if command == "fit" and which == "last":
            rank_zero_info(f"no run in {place} has a last checkpoint yet: starting one")
            return None, [*rest, Option("--ckpt_path", ["--ckpt_path=null"])]
        kind = f"{which}.ckpt" if which in ("best", "last") else "checkpoint"
        raise UserError(f"--ckpt_path {which}: no run in {place} has a {kind}; run fit first, or give a file")
    if str(found) != which:
        rank_zero_info(f"--ckpt_path {which} is {found}")
    return found, [*rest, Option("--ckpt_path", [f"--ckpt_path={found}"])]


def _base_config(command: str, options: list[Option], ckpt_path: Location | None) -> str:
    """The configuration to start from, as a file name or as YAML."""
    if ckpt_path is not None:
        given = {option.name.removeprefix("--").replace(".init_args", ""): option.value for option in options}
        config = run_config(read(ckpt_path, weights=False), ckpt_path, given)
        keys = config if command == "fit" else EVALUATED
        return yaml.safe_dump({key: config[key] for key in keys if key in config})
    if command == "fit" or any(option.only_prints for option in options):
        return str(DEFAULT_CONFIG)
    raise UserError(
        f"{command} needs trained weights: give --ckpt_path=best, last or a file, "
        "or --config with a model whose weights are all pretrained"
    )
