"""null where an option has no use for it: jsonargparse takes it for any option of a class."""

import inspect
import pkgutil
from collections.abc import Iterator
from types import NoneType
from typing import Any, get_args, get_type_hints


def misplaced_nulls(config: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Each option that is null and may not be, with the type that it has.

    Args:
        config: Parsed options, classes in it as class_path and init_args.
        name: The option that it stands for.
    """
    if isinstance(config, list):
        for below in config:
            yield from misplaced_nulls(below, name)
    if not hasattr(config, "items"):
        return
    class_path = config.get("class_path")
    types = _types(class_path) if isinstance(class_path, str) else {}
    for key, value in config.items(branches=True) if hasattr(config, "as_dict") else config.items():
        option = name if key == "init_args" else f"{name}.{key}" if name else str(key)
        if key == "init_args" and hasattr(value, "items"):
            yield from ((f"{name}.{part}", types[part]) for part in types if part in value and value[part] is None)
        if "." not in str(key):  # a branch comes with its leaves
            yield from misplaced_nulls(value, option)


def _types(class_path: str) -> dict[str, str]:
    """The types of what a class is built from, but for what may be null."""
    try:
        part = pkgutil.resolve_name(class_path)
        hints = get_type_hints(part.__init__ if inspect.isclass(part) else part)
        defaults = {key: parameter.default for key, parameter in inspect.signature(part).parameters.items()}
    except (AttributeError, ImportError, NameError, TypeError, ValueError):
        return {}  # what cannot be looked into says itself what it does not take
    return {
        key: getattr(hint, "__name__", str(hint))
        for key, hint in hints.items()
        if hint is not Any and NoneType not in get_args(hint) and key in defaults and defaults[key] is not None
    }
