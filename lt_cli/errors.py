"""The one exception that means: the user can mend this."""


class UserError(ValueError):
    """A mistake the user can mend; the command line prints its message without a traceback.

    The message repeats the name, the value and the rule, and says what to do.
    """
