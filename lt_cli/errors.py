"""The one exception that means: the user can mend this."""


class UserError(ValueError):
    """A mistake the user can mend; the command line prints its message without a traceback.

    The message repeats the name, the value and the rule, and says what to do.
    """


def tidy(message: str) -> str:
    """A message of at most three lines, without the indentation and repetition of nested parsers."""
    lines = [" ".join(line.split()) for line in message.strip().splitlines()]
    return "\n".join([line for line in lines if line][:3])
