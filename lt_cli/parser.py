"""Lightning's parser with messages in one line: the option's full name, the value and the rule."""

import ast
import importlib
import inspect
import json
import logging
import pkgutil
import re
from collections.abc import Iterable
from typing import Any, NoReturn

from jsonargparse import get_loader, set_loader
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities import rank_zero_info
from yaml import YAMLError

from lt_cli.errors import UserError, closest, did_you_mean
from lt_cli.nulls import misplaced_nulls

PLACES = (
    "torch.optim",
    "torch.optim.lr_scheduler",
    "lightning.pytorch.callbacks",
    "lightning.pytorch.loggers",
    "torchmetrics.classification",
)
"""Modules besides ours whose classes are suggested for a misspelt one."""


class LeftOut(logging.Handler):
    """Says which options of a class are left out where another class takes its place; jsonargparse would not."""

    def __init__(self) -> None:
        """Has said nothing yet."""
        super().__init__(logging.DEBUG)
        self.said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Picks that message out of jsonargparse's log, which says it at every step of parsing."""
        match = re.match(r"Due to class_path change from '(\S+)' to '(\S+)', discarding (.*)", record.getMessage())
        if match:
            old, new = (path.rpartition(".")[2] for path in match.groups()[:2])
            usual, said = _defaults(match[1]), re.findall(r"'([\w.]+)': (.*?)(?=, '[\w.]+': |\}\W*$)", match[3])
            names = sorted({name.split(".")[0] for name, value in said if repr(usual.get(name)) != value})
            message = f"{new} in place of {old} leaves out what was said of {', '.join(names)}"
            if names and message not in self.said:
                self.said.add(message)
                rank_zero_info(message)


LOG = logging.getLogger("lt_cli.parser")
LOG.setLevel(logging.DEBUG)
LOG.propagate = False
LOG.addHandler(LeftOut())


LOAD_YAML = get_loader("yaml")


def load_yaml(text: str) -> Any:
    """YAML, but for a single line that begins with #: it is a text, such as the name of a column, and no comment."""
    return text if text.lstrip().startswith("#") and "\n" not in text.strip() else LOAD_YAML(text)


set_loader("yaml", load_yaml, (YAMLError,))


class Parser(LightningArgumentParser):
    """Lightning's parser, less abbreviations, and with errors that are one line and exceptions."""

    # Properties, as jsonargparse makes parsers of this class for each class within, and says otherwise of both.

    @property
    def allow_abbrev(self) -> bool:
        """Whole names only."""
        return False

    @allow_abbrev.setter
    def allow_abbrev(self, value: bool) -> None:
        """Stays as it is."""

    @property
    def logger(self) -> logging.Logger:
        """Ours, which says what a change of class leaves out."""
        return LOG

    @logger.setter
    def logger(self, value: object) -> None:
        """Stays as it is."""
        self._logger = LOG

    def parse_args(self, args: list[str] | None = None, *rest: Any, **options: Any) -> Any:  # type: ignore[override]
        """jsonargparse's, which hands what it read on to the parsers of classes within as Python would write it."""
        config = super().parse_args(args and [_as_yaml(arg) for arg in args], *rest, **options)
        if "subcommand" in config:
            for option, kind in misplaced_nulls(config[config.subcommand]):
                raise UserError(f"--{option}: expected {kind}, got null")
            for option in (arg.removesuffix("={}") for arg in args or [] if arg.endswith("={}")):
                refuse_unknown(config[config.subcommand], option)
        return config

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raises what the user did wrong, without the usage of five hundred options."""
        message = unknown_option(message, self._option_names())
        if not self.exit_on_error:
            super().error(message, ex)
        raise UserError(explain(message.removeprefix('Parser key "config": '))) from ex

    def _option_names(self) -> set[str]:
        """Every option of this parser and of the subcommands below it."""
        names = {name for action in self._actions for name in action.option_strings}
        below = (action.choices.values() for action in self._actions if isinstance(action.choices, dict))
        return names.union(*(parser._option_names() for parsers in below for parser in parsers))


def refuse_unknown(config: Any, option: str) -> None:
    """Refuses an option given as {} that its part of the configuration has not: jsonargparse drops it in silence."""
    part, seen = config, "-"
    for name in option.removeprefix("--").rstrip("+").split("."):
        owner = part.get("class_path") if _has_names(part) else None
        if owner and name not in ("class_path", "init_args") and _has_names(part.get("init_args")):
            part = part["init_args"]
        if not _has_names(part) or name not in part:
            if not owner:
                raise UserError(f"there is no option {option}={{}}")
            raise UserError(
                f"{seen}: {owner.rpartition('.')[2]} has no option {name}{did_you_mean(name, _parameters(owner))}"
            )
        part, seen = part[name], f"{seen}-{name}" if seen == "-" else f"{seen}.{name}"


def _has_names(part: Any) -> bool:
    return hasattr(part, "keys") and hasattr(part, "get")


def _as_yaml(arg: str) -> str:
    """An option with None, also within a list or a mapping, as YAML writes it: None would be a text there."""
    option, is_, value = arg.partition("=")
    if "None" not in value:
        return arg
    try:
        return option + is_ + json.dumps(ast.literal_eval(value))
    except (SyntaxError, TypeError, ValueError):
        return arg


def unknown_option(message: str, known_options: Iterable[str]) -> str:
    """A parser's message, or its words for an unknown option replaced by ours and a suggestion."""
    if match := re.match(r"unrecognized arguments: (\S+)", message):
        option = match[1]
    elif match := re.match(r"(Subcommand|Group) '(.+)' does not accept option '(.+)'", message):
        option = f"--{match[3]}" if match[1] == "Subcommand" else f"--{match[2]}.{match[3]}"
    else:
        return message
    options = [name for name in known_options if not name.endswith("help")]
    return f"there is no option {option}" + did_you_mean(option.split("=")[0], options)


KEY = re.compile(r'Parser key "([^"]+)":$')
CLASS = re.compile(r"Problem with given class_path '([^']+)':$")
VALUE = re.compile(
    r"Given value: ?(?:NestedArg\(key='(?P<key>.*)', val=(?P<nested>.*)\)|(?P<plain>.*?)(?:\. Got value: .*)?)$"
)
SPEC = re.compile(r"\.? Got value: (?:Namespace|NestedArg)\(.*")
NOISE = re.compile(
    r"$|Does not validate|Subtypes:|Errors:|Given value type:|Expected a path but|Expected a <class 'NoneType'>"
    r"|Validation failed|Subclass types expect|a class path \(str\)|a dict with"
)
"""Lines of jsonargparse that name types and branches of unions, not the mistake."""
EXPECTED = re.compile(r"Expected an? (?:<class '(?:\w+\.)*(\w+)'>|typing\.Literal\[(.*)\])\.?(?: Got value: ?(.*))?$")


def explain(message: str) -> str:
    """The mistake within a message of jsonargparse: the option with its full name, and what is wrong with it.

    Args:
        message: As raised, one indented block per level of nesting, and one per branch of a union; the first
            branch that says anything is the one to mend.
    """
    keys: list[str] = []
    causes: list[str] = []
    class_path = value = ""
    given = re.findall(r"Given value: NestedArg\(key='(.*?)'", message)[-1:]
    class_indent = -1
    for raw in message.splitlines():
        line, indent = " ".join(raw.split()).removeprefix("- "), len(raw) - len(raw.lstrip())
        if causes and given and given[0].replace("init_args.", "") != ".".join(keys[1:]):
            # an option of what this is was given, so that no branch but that of a class can be meant
            if (CLASS.search(line) or "dot import path" in line) and all(map(EXPECTED.match, causes)):
                causes = []
            elif indent <= class_indent:
                break
        if match := KEY.search(line) or CLASS.search(line):
            if causes:
                break
            if match.re is KEY:
                keys.append(match[1])
            else:
                class_path, class_indent = match[1], indent
        elif match := VALUE.match(line):
            of_another = match["key"] and match["key"].replace("init_args.", "") != ".".join(keys[1:])
            value = "" if of_another else (match["nested"] or match["plain"]).strip("'")
            if causes:
                break
        elif not NOISE.match(line):
            causes.append(line)
    return _sentence("--" + ".".join(keys) if keys else "", causes or [" ".join(message.split())], class_path, value)


def _sentence(option: str, causes: list[str], class_path: str, value: str) -> str:
    """Jsonargparse's causes in terms of options, values and rules."""
    where = f"{option}: " if option else ""
    plain = [SPEC.sub("", cause) for cause in causes[:3]]
    if match := re.match(r"Expected a tuple with (\d+) elements(?:\. Got value: (.*))?", plain[0]):
        return f"{where}expected {match[1]} values, got {_short(match[2] or value)}"
    expected = [match for match in map(EXPECTED.match, plain) if match]
    names_a_class = not EXPECTED.match(plain[0]) and re.fullmatch(r"([a-z]\w*\.)*[A-Z]\w*", value)
    cause = causes[0] if names_a_class else " ".join(causes[:3])
    cause = re.sub(r"^Type .* expects a function or a callable class: ", "", cause)
    if expected and not names_a_class:
        literals = ", ".join(match[2] for match in expected if match[2])
        kinds = [match[1] for match in expected if match[1]] + ([f"one of {literals}"] if literals else [])
        return f"{where}expected {' or '.join(dict.fromkeys(kinds))}, got {_short(expected[0][3] or value)}"
    if cause.startswith("there is no option --"):
        return cause.replace("--", f"{option}.") if option else cause
    if match := re.match(r"the following arguments are required: (.*)", cause):
        names = [f"{option}.{name}" if option else f"--{name.partition('.')[2]}" for name in match[1].split(", ")]
        return f"{', '.join(names)} must be given"
    if match := re.search(r"Option '([^']+)' is not accepted", cause):
        factory = re.search(r"class_path='([^']+)'", cause)
        owner = factory[1] if factory else class_path
        cause = f"{owner.rpartition('.')[2]} has no option {match[1]}" + did_you_mean(match[1], _parameters(owner))
    elif match := re.search(r"path format: (\S+\.ya?ml)", cause) or re.fullmatch(r"(.+\.ya?ml)", class_path):
        cause = f"there is no file {match[1]}"
    elif match := re.search(r"(?:Expected a dot import path string|Unexpected import path format):(?: (\S+))?", cause):
        cause = _no_class(match[1] or "")
    elif match := re.search(r"Not a valid subclass of \w+(?:\. Got value: (.*))?", cause):
        cause = _no_class(match[1] or value or "null")
    elif re.search(
        r"argument of type '\w+' is not iterable|unhashable type|a bytes-like object|'\w+' object has no attribute",
        cause,
    ):
        cause = "expected class_path, a text, and init_args, options and their values"
    elif match := re.search(r"Expected an import path or a subclass spec, but got (.*?)(?:\. Got value|$)", cause):
        cause = _no_class(match[1])
    elif match := re.search(r"Expected an instantiatable class, but (?:(\S+) )?is abstract", cause):
        cause = f"{match[1] or class_path or value} is abstract: give a class that derives from it"
    elif match := re.search(r"Unable to load config '(.*?)'", cause):
        cause = f"expected options and values, got {match[1]}"
    elif match := re.search(r"Import path(?: (\S+))? does not correspond to a subclass of (\w+)", cause):
        cause = f"{_short(match[1] or value)} is no {match[2]}"
    elif match := re.search(r"Expected '(\S+)' to be a (?:subclass of|function that returns) <class '(\w+)'>", cause):
        cause = f"{match[1]} is no {match[2]} and returns none"
    elif match := re.search(r"module '(\S+)' has no attribute '(\S+?)'|No module named '(\S+)\.(\S+?)'", cause):
        module, name = match[1] or match[3], match[2] or match[4]
        cause = f"there is no {name} in {module}" + did_you_mean(name, _members(module))
    elif re.search(r"No module named '\w+'", cause):
        cause += _similar_class(class_path)
    return where + cause


def _short(value: str) -> str:
    """A value as a message repeats it."""
    return {"": "nothing", "None": "null"}.get(value) or (value if len(value) <= 80 else f"{value[:80]}…")


def _no_class(name: str) -> str:
    """What to say of a name that stands where a class must."""
    if not all(part.isidentifier() for part in name.split(".")) or name in ("None", "null"):
        return f"expected a class, by its full dotted path, and its options, got {_short(name)}"
    suggestion = _similar_class(name) or ": give its full dotted path, such as lt_cli.backbones.gpt.GPT"
    return f"{name} is no class known here{suggestion}"


def _similar_class(name: str) -> str:
    """A question for the class whose own name is like this one's, or nothing."""
    if not name.rpartition(".")[2][:1].isupper():
        return ""
    package = importlib.import_module(__package__)
    modules = [found.name for found in pkgutil.walk_packages(package.__path__, f"{__package__}.")]
    known: dict[str, str] = {}
    for module in (*PLACES, *(module for module in modules if not module.endswith("__main__"))):
        for short, cls in inspect.getmembers(importlib.import_module(module), inspect.isclass):
            if not short.startswith("_") and (module in PLACES or cls.__module__ == module):
                known[short] = f"{module}.{short}"
    found = closest(name.rpartition(".")[2], known)
    return f"; did you mean {known[found]}?" if found else ""


def _members(module: str) -> list[str]:
    """What a module holds, or nothing where it cannot be found."""
    try:
        found = importlib.import_module(module)
    except ImportError:
        return []
    return dir(found) + [below.name for below in pkgutil.iter_modules(getattr(found, "__path__", []))]


def _parameters(class_path: str) -> list[str]:
    """Names a class's constructor takes, or none where it cannot be found."""
    return list(_defaults(class_path))


def _defaults(class_path: str) -> dict[str, Any]:
    """What a class's constructor takes, with its defaults, or nothing where it cannot be found."""
    module, _, name = class_path.rpartition(".")
    try:
        parameters = inspect.signature(getattr(importlib.import_module(module), name)).parameters
    except (ImportError, AttributeError, ValueError, TypeError):
        return {}
    return {name: parameter.default for name, parameter in parameters.items()}
