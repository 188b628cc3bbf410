"""python -m lt_cli is the same program as main.py and lt-cli."""

from lt_cli.cli import main

if __name__ == "__main__":
    main()
