"""Writes a task's golden checkpoint, once: python tests/make_golden.py NAME, for tests/contract/NAME.yaml."""

import contextlib
import shutil
import sys
import tempfile

from contract_suite import GOLDEN, ROOT, only_run

from lt_cli.cli import run


def main(name: str) -> None:
    """Refuses to replace one: a golden checkpoint stands for the version that wrote it."""
    target = GOLDEN / f"{name}.ckpt"
    if target.exists():
        sys.exit(f"{target} exists; golden checkpoints are kept forever")
    GOLDEN.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as directory, contextlib.chdir(directory):
        cli = run(["fit", f"--config={ROOT / 'tests' / 'contract' / name}.yaml"])
        loss = cli.trainer.test(cli.model, cli.datamodule)[0]["test/loss"]
        shutil.copy(only_run(name) / "checkpoints" / "last.ckpt", target)
    target.with_suffix(".txt").write_text(f"{loss!r}\n")


if __name__ == "__main__":
    main(sys.argv[1])
