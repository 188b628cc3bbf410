"""The command line before parsing: whose configuration a run starts from, and every override after it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.utilities import rank_zero_info

from lt_cli import checkpoint
from lt_cli.errors import UserError

SUBCOMMANDS = ("fit", "validate", "test", "predict")
DEFAULT_CONFIG = Path(__file__).with_name("default.yaml")
DEFAULT_NAME = "igpt_digits"
EVALUATED = ("seed_everything", "model", "data")
"""What evaluation takes from a checkpoint; never its trainer, which was made for another machine."""


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


@dataclass(frozen=True)
class Invocation:
    """A command line in an order in which overrides win, and what it says of runs.

    Attributes:
        args: The arguments to parse.
        name: The config's name, which its runs lie under.
        root: The directory of all runs.
        ckpt_path: The checkpoint, found.
    """

    args: list[str]
    name: str
    root: Path
    ckpt_path: Path | None


def arrange(args: list[str]) -> Invocation:
    """Puts configurations first and the more specific options last, so that the command line always wins.

    Where no ``--config`` names a model, the checkpoint's configuration comes before it, or else the default.

    Raises:
        UserError: If a configuration is missing, empty or broken, or evaluation has neither checkpoint nor config.
    """
    command, rest = (args[0], args[1:]) if args else ("", [])
    if command not in SUBCOMMANDS:
        return Invocation(list(args), DEFAULT_NAME, Path(checkpoint.RUNS), None)
    options = _options(rest)
    configs = [option for option in options if option.name in ("--config", "-c")]
    contents = [_read_yaml(option.value) for option in configs]
    others = sorted((option for option in options if option not in configs), key=lambda option: option.depth)
    name = _config_name(configs)
    root = _root(others, contents)
    ckpt_path, others = _find_checkpoint(command, others, root, name)
    base: list[str] = []
    asks_for_help = any(option.name in ("-h", "--help") or option.name.endswith(".help") for option in others)
    if not asks_for_help and not any("model" in content for content in contents):
        base = ["--config", _base_config(command, others, ckpt_path)]
    run = checkpoint.run_of(ckpt_path) if ckpt_path else None
    if name is None:
        name = run.parent.name if run else ckpt_path.stem if ckpt_path else DEFAULT_NAME
    arranged = [command, *base, *(token for option in [*configs, *others] for token in option.tokens)]
    return Invocation(arranged, name, root, ckpt_path)


def _options(tokens: list[str]) -> list[Option]:
    """Groups each option with the values that follow it."""
    options: list[Option] = []
    for token in tokens:
        if token.startswith("--") or token in ("-c", "-h") or not options:
            options.append(Option(token.split("=", 1)[0], [token]))
        else:
            options[-1].tokens.append(token)
    return options


def _read_yaml(text: str) -> dict[str, Any]:
    """The content of a configuration, given as a file or as YAML."""
    path = Path(text) if "\n" not in text else None
    try:
        source = path.read_text(encoding="utf-8") if path else text
    except (OSError, UnicodeDecodeError) as error:
        if ":" in text and not Path(text).suffix:
            source = text
        else:
            raise UserError(f"--config {text}: {getattr(error, 'strerror', None) or error}") from error
    try:
        content = yaml.safe_load(source)
    except yaml.YAMLError as error:
        raise UserError(f"--config {text} is not YAML: {' '.join(str(error).split())}") from error
    if content is None:
        raise UserError(f"--config {text} is empty")
    if not isinstance(content, dict):
        raise UserError(f"--config {text} must hold options and their values, not a {type(content).__name__}")
    return content


def _config_name(configs: list[Option]) -> str | None:
    """Runs lie under the name of the first configuration that is a file."""
    return next((Path(option.value).stem for option in configs if Path(option.value).suffix in (".yaml", ".yml")), None)


def _root(options: list[Option], contents: list[dict[str, Any]]) -> Path:
    said = [(content.get("trainer") or {}).get("default_root_dir") for content in contents]
    said += [option.value for option in options if option.name == "--trainer.default_root_dir"]
    return Path(next((root for root in reversed(said) if root), checkpoint.RUNS))


def _find_checkpoint(
    command: str, options: list[Option], root: Path, name: str | None
) -> tuple[Path | None, list[Option]]:
    """Replaces best, last or a directory by the file it means, and says which."""
    given = [option for option in options if option.name == "--ckpt_path"]
    if not given or given[-1].value in ("", "null"):
        return None, options
    which = given[-1].value
    rest = [option for option in options if option.name != "--ckpt_path"]
    if command == "fit" and which in ("best", "last"):
        name = name or DEFAULT_NAME
    found = checkpoint.find(which, root, name)
    if found is None:
        place = f"{root}/{name or '*'}"
        if command == "fit" and which == "last":
            rank_zero_info(f"no run in {place} has a last checkpoint yet: starting one")
            return None, rest
        raise UserError(f"--ckpt_path {which}: no run in {place} has such a checkpoint; run fit first, or give a file")
    if str(found) != which:
        rank_zero_info(f"--ckpt_path {which} is {found}")
    return found, [*rest, Option("--ckpt_path", [f"--ckpt_path={found}"])]


def _base_config(command: str, options: list[Option], ckpt_path: Path | None) -> str:
    """The configuration to start from, as a file name or as YAML."""
    if ckpt_path is not None:
        config = checkpoint.run_config(checkpoint.read(ckpt_path), ckpt_path)
        keys = config if command == "fit" else EVALUATED
        return yaml.safe_dump({key: config[key] for key in keys if key in config})
    if command == "fit" or any(option.name == "--print_config" for option in options):
        return str(DEFAULT_CONFIG)
    raise UserError(
        f"{command} needs trained weights: give --ckpt_path=best, last or a file, "
        "or --config with a model whose weights are all pretrained"
    )
