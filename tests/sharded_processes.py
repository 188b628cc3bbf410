"""One of two processes that train a sharded task, whole and killed: sharded_processes.py DIRECTORY."""

import contextlib
import errno
import json
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import pytest
import torch
from contract_suite import CONFIGS, Killed, dies_after, only_run

from lt_cli.checkpoint_io import read
from lt_cli.cli import run
from lt_cli.errors import UserError

CONFIG = next(path for path in CONFIGS if path.stem == "pixel_generation")
TOGETHER = ["--data.batch_size=8", "--trainer.devices=2", "--trainer.strategy=lt_cli.fsdp2.FSDP2"]
FIT = ["fit", f"--config={CONFIG}", "--checkpoints.every_minutes=0", *TOGETHER]
TEXT = next(path for path in CONFIGS if path.stem == "causal_language_modeling")
FIT_TEXT = ["fit", f"--config={TEXT}", "--model.backbone.dropout=0", "--trainer.limit_val_batches=1"]


def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The list of checksums does not fit any more."""

    def full(self: Path, *args: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_text", full)


def main(root: Path) -> None:
    """Leaves runs under the directory, and what was said of a full disk."""
    os.chdir(root)
    run([*FIT, "--trainer.default_root_dir=whole"])
    with contextlib.suppress(Killed), dies_after(3):
        run([*FIT, "--trainer.default_root_dir=resumed", "--checkpoints.keep=2"])
    run([*FIT, "--trainer.default_root_dir=resumed", "--ckpt_path=last", "--checkpoints.keep=2"])
    last = only_run(CONFIG.stem, "resumed") / "checkpoints" / "last.ckpt"
    before = os.readlink(last)
    with pytest.MonkeyPatch.context() as patch:
        full_disk(patch)
        try:
            run([*FIT, f"--ckpt_path={last}", "--trainer.max_epochs=3"])
        except UserError as error:
            said = str(error)
    assert os.readlink(last) == before
    text = run([*FIT_TEXT, *TOGETHER])
    scores = {name: value.item() for name, value in text.trainer.callback_metrics.items() if name.startswith("val/")}
    if torch.distributed.get_rank() == 0:
        Path("text.json").write_text(json.dumps(scores))
        Path("said.json").write_text(json.dumps({"said": said, "step": read(last)["global_step"]}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    torch.distributed.barrier()
    sys.stdout.flush()
    os._exit(0)  # several groups were opened, and gloo's threads may abort the interpreter while it closes
