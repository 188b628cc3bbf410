"""python -m lt_cli, lt-cli and main.py: the command line, which Ctrl-C ends without a word while it still loads."""

import signal


def main() -> None:
    """Loads the command line, which takes seconds, and runs it."""
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from lt_cli.cli import main as run

    if ours:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


if __name__ == "__main__":
    main()
