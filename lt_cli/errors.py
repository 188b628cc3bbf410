"""What a user's mistake looks like: one exception, whose message says how to mend it."""

import difflib
import re
import textwrap
from collections.abc import Iterable, Sequence

TRACEBACK = "LT_CLI_TRACEBACK"
"""Environment variable: set it to see the traceback behind a one-line error."""


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
    longer = sorted((name for name in known if word and name.startswith(word)), key=len)
    first = word.split(".")[0]
    close = longer or difflib.get_close_matches(word, known, 1) or difflib.get_close_matches(first, known, 1)
    return close[0] if close else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A question to end a message with, or nothing where no known word is close."""
    close = closest(word, known)
    return f"; did you mean {close}?" if close else ""


def some_of(texts: Sequence[str], number: int = 8, separator: str = ", ") -> str:
    """The first of texts, so many at most, and how many more there are."""
    more = f" and {len(texts) - number:,} more" if len(texts) > number else ""
    return separator.join(texts[:number]) + more


def one_line(error: Exception) -> str:
    """What another library's error says, short enough for a line of ours."""
    text = re.sub(r" <[^>]* object at 0x\w+>", "", str(error))
    return textwrap.shorten(text, 200, placeholder=" ...")
