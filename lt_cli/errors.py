"""What a user's mistake looks like: one exception, whose message says how to mend it."""

import difflib
import re
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


class UserError(ValueError):
    """A mistake the user can mend; the command line prints its message without a traceback.

    The message repeats the name, the value and the rule, and says what to do. Exit code 2.
    """


class RunError(UserError):
    """What stopped a run under way, such as a full disk or a loss that is not a number. Exit code 1."""


def closest(word: str, known: Iterable[str]) -> str | None:
    """The known word that one may have meant.

    What begins like the word comes first; and of an option the beginning may be what is wrong, as in
    ``--modle.init_args.layer``, which is close to ``--model``.
    """
    known = sorted(known)
    longer = [name for name in known if word and name.startswith(word)]
    first = word.split(".")[0]
    close = longer or difflib.get_close_matches(word, known, 1) or difflib.get_close_matches(first, known, 1)
    return close[0] if close else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A question to end a message with, or nothing where no known word is close."""
    close = closest(word, known)
    return f"; did you mean {close}?" if close else ""


def out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed; on a CPU torch raises a plain RuntimeError."""
    import torch  # here, as reading pictures needs errors but not torch

    on_cpu = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    return on_cpu or isinstance(error, MemoryError | torch.OutOfMemoryError)


def is_refusal(error: BaseException) -> bool:
    """Whether a library refuses what it was told, or memory ends; anything else is a defect."""
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    told = isinstance(error, ValueError | RuntimeError) and not {"lightning", "optim"}.isdisjoint(raised_in.parts)
    return isinstance(error, MisconfigurationException) or told or out_of_memory(error)


def root_cause(error: BaseException) -> BaseException:
    """What was raised first, or the first of our own on the way to it."""
    while error.__cause__ is not None and not isinstance(error, UserError):
        error = error.__cause__
    return error


def as_mistake(error: BaseException, where: str = "") -> UserError:
    """What another library refused as a mistake of one line; one of ours stays itself.

    Args:
        error: Its exception.
        where: The option or the class that it speaks of.
    """
    if isinstance(error, UserError):
        return error
    text = str(error).strip()
    if out_of_memory(error):
        size = re.search(r"allocate ([\d.]+ \w+)", text)
        missing = f" for another {size[1]}" if size else ""
        return RunError(f"there is not enough memory{missing}: make the model or --data.batch_size smaller")
    line = text.partition("\n")[0] or type(error).__name__
    return UserError(f"{where}: {line}" if where else line)


@contextmanager
def refusals_of(option: str) -> Iterator[None]:
    """Within it, what a class that an option chose does not accept is a mistake in that option."""
    try:
        yield
    except (ArithmeticError, TypeError, ValueError, RuntimeError) as error:
        raise as_mistake(error, option) from error


def constructor(error: BaseException) -> str:
    """The class whose constructor raised, or nothing; the outermost one, which the user chose."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_name == "__init__" and frame.f_locals.get("self") is not None:
            return type(frame.f_locals["self"]).__name__
    return ""
