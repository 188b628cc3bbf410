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
from torch.distributed.fsdp import fully_shard

from lt_cli.checkpoint_io import read
from lt_cli.cli import run
from lt_cli.errors import UserError
from lt_cli.tasks.base import Task
from lt_cli.tasks.language_modeling import CausalLanguageModeling
from lt_cli.tasks.pixel_generation import PixelGeneration


class Sharded(PixelGeneration):
    """Image GPT whose blocks are shared out among the processes."""

    def configure_model(self) -> None:
        done = self._built
        super().configure_model()
        share_out(self, done)


class ShardedText(CausalLanguageModeling):
    """A language model whose blocks are shared out among the processes."""

    def configure_model(self) -> None:
        done = self._built
        super().configure_model()
        share_out(self, done)


def share_out(task: Task, done: bool) -> None:
    """Once, where there are several processes."""
    if not done and task.device_mesh is not None:
        mesh = task.device_mesh["data_parallel"]
        for block in task.backbone.blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(task.backbone, mesh=mesh)


CONFIG = next(path for path in CONFIGS if path.stem == "pixel_generation")
STRATEGY = ["--trainer.strategy.data_parallel_size=2", "--trainer.strategy.tensor_parallel_size=1"]
TOGETHER = [
    *["--data.batch_size=8", "--trainer.devices=2"],
    *["--trainer.strategy=lightning.pytorch.strategies.ModelParallelStrategy", *STRATEGY],
]
FIT = ["fit", f"--config={CONFIG}", "--model=sharded_processes.Sharded", "--checkpoints.every_minutes=0", *TOGETHER]
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
    text = run([*FIT_TEXT, "--model=sharded_processes.ShardedText", *TOGETHER])
    scores = {name: value.item() for name, value in text.trainer.callback_metrics.items() if name.startswith("val/")}
    if torch.distributed.get_rank() == 0:
        Path("text.json").write_text(json.dumps(scores))
        Path("said.json").write_text(json.dumps({"said": said, "step": read(last)["global_step"]}))


if __name__ == "__main__":
    sys.modules["sharded_processes"] = sys.modules["__main__"]
    main(Path(sys.argv[1]))
    torch.distributed.barrier()
    sys.stdout.flush()
    os._exit(0)  # several groups were opened, and gloo's threads may abort the interpreter while it closes
