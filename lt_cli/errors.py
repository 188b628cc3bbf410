"""What a user's mistake looks like: one exception, and parser messages in one line with the option's full name."""

import difflib
import importlib
import inspect
import re
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake the user can mend; the command line prints its message without a traceback.

    The message repeats the name, the value and the rule, and says what to do.
    """


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A question to end a message with, or nothing where no known word is close."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


NOISE = re.compile(
    r"Does not validate|Subtypes:|Errors:|Expected a <class 'NoneType'>|Given value|Expected a path but"
    r"|Problem with given class_path|Parser key|Validation failed:?$|Import path None"
)
"""Lines of jsonargparse that name types and branches of unions, not the mistake."""


def explain(message: str, known_options: Iterable[str] = ()) -> str:
    """The mistake within a message of jsonargparse: the option with its full name, and what is wrong with it.

    Args:
        message: As raised, with one indented block per level of nesting.
        known_options: All option names, for a suggestion where one is unknown.
    """
    keys = re.findall(r'Parser key "([^"]+)"', message)
    option = "--" + ".".join(keys) if keys else ""
    classes = re.findall(r"Problem with given class_path '([^']+)'", message)
    lines = [" ".join(line.split()).removeprefix("- ") for line in message.splitlines()]
    causes = list(dict.fromkeys(line for line in lines if line and not NOISE.match(line)))
    cause = _in_words(" ".join(causes[:3]) or " ".join(lines[:2]), classes[-1] if classes else "")
    if match := re.search(r"unrecognized arguments: (\S+)", cause):
        cause = f"there is no option {match[1]}" + did_you_mean(match[1].split("=")[0], known_options)
    return f"{option}: {cause}" if option else cause


def _in_words(cause: str, class_path: str) -> str:
    """Jsonargparse's sentence in terms of options and values."""
    if match := re.search(r"Option '([^']+)' is not accepted", cause):
        factory = re.search(r"class_path='([^']+)'", cause)
        owner = factory[1] if factory else class_path
        return f"{owner.rpartition('.')[2]} has no option {match[1]}" + did_you_mean(match[1], _parameters(owner))
    if match := re.search(r"Expected a dot import path string: (\S+)", cause):
        return f"{match[1]} is no class known here: give its full dotted path, such as lt_cli.backbones.gpt.GPT"
    cause = re.sub(r"Expected an? typing\.Literal\[(.*?)\]\.", r"expected one of \1.", cause)
    cause = re.sub(r"Expected an? <class '(\w+)'>\.", r"expected \1.", cause)
    return re.sub(r"\. Got value: (.*)", r", got \1", cause).strip()


def _parameters(class_path: str) -> list[str]:
    """Names a class's constructor takes, or none where it cannot be found."""
    module, _, name = class_path.rpartition(".")
    try:
        return list(inspect.signature(getattr(importlib.import_module(module), name)).parameters)
    except (ImportError, AttributeError, ValueError, TypeError):
        return []
