"""From the names a user gives to the modules and parameters they stand for."""

from difflib import get_close_matches
from fnmatch import fnmatchcase

from torch import nn

from lt_cli.errors import UserError

Part = nn.Module | nn.Parameter


def covered(root: nn.Module, patterns: list[str] | str, option: str) -> set[Part]:
    """All modules and parameters with one of these names, and everything inside those modules.

    A tied parameter is found under each of its names.

    Args:
        root: Where the names begin; never itself among the result.
        patterns: Dotted names and globs of modules and parameters; ``*`` also matches dots.
        option: Where the user wrote the patterns, for the message.

    Raises:
        UserError: If there is no pattern, or one of them matches nothing.
    """
    named: dict[str, Part] = dict(root.named_modules(remove_duplicate=False))
    named |= dict(root.named_parameters(remove_duplicate=False))
    del named[""]
    if not patterns:
        raise UserError(f"{option} must name at least one of {_join(dict(root.named_children()))}")
    if isinstance(patterns, str):  # a list with globs, such as [backbone.h.[0-9]], is no YAML: it comes as a text
        patterns = patterns[1:-1].split(",") if patterns[:1] + patterns[-1:] == "[]" else [patterns]
    found: set[Part] = set()
    for pattern in map(str.strip, patterns):
        matches = [part for name, part in named.items() if fnmatchcase(name, pattern)]
        if not matches:
            close = get_close_matches(pattern, named) or dict(root.named_children())
            raise UserError(
                f"{option}: {pattern!r} matches no module or parameter of {type(root).__name__}: "
                f"did you mean {_join(close)}?"
            )
        for part in matches:
            found |= {*part.modules(), *part.parameters()} if isinstance(part, nn.Module) else {part}
    return found


def _join(names: list[str] | dict[str, nn.Module]) -> str:
    return " or ".join(repr(name) for name in names)
