"""python -m lt_cli, lt-cli and main.py: the command line, which Ctrl-C ends without a word while it still loads."""

import atexit
import gc
import signal


def main() -> None:
    """Loads the command line, which takes seconds, and runs it."""
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    # What libraries make while they load stays until the end: looking through it for garbage, a dozen times here and
    # every now and then in training, would find nothing and take a second of the six that help takes.
    gc.disable()
    from lt_cli.cli import main as run

    gc.freeze()
    gc.enable()
    atexit.register(end)
    if ours:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


def end() -> None:
    """Lets Python look for garbage once as it ends, not thrice; not at all, and a library complains of leaks."""
    gc.unfreeze()
    gc.disable()


if __name__ == "__main__":
    main()
