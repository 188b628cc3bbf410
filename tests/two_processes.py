"""One of two processes that run every contract under DDP, whole and killed, and predict: two_processes.py DIRECTORY."""

import contextlib
import json
import os
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from contract_suite import (
    CONFIGS,
    PREDICT_ALL,
    TEST_ALL,
    Killed,
    dies_after,
    freeze_and_noise,
    only_run,
    without_dropout,
)

from lt_cli.cli import run

DDP = ["--trainer.devices=2", "--trainer.strategy=ddp"]


def main(root: Path) -> None:
    """Leaves runs and predictions under the directory."""
    os.chdir(root)
    for config in CONFIGS:
        plain = ["fit", f"--config={without_dropout(config)}", "--trainer.default_root_dir=.", "--data.batch_size=8"]
        run([*plain, *freeze_and_noise(config), *DDP])
        last = only_run(config.stem, ".") / "checkpoints" / "last.ckpt"
        exact = ["fit", f"--config={config}", "--data.batch_size=8", "--checkpoints.every_minutes=0", *DDP]
        exact += freeze_and_noise(config)
        run([*exact, "--trainer.default_root_dir=exact"])
        with contextlib.suppress(Killed), dies_after(3):
            run([*exact, "--trainer.default_root_dir=resumed"])
        if torch.distributed.get_rank() == 0:
            shutil.copytree(f"resumed/{config.stem}", f"broken/{config.stem}")
        torch.distributed.barrier()
        run([*exact, "--trainer.default_root_dir=resumed", "--ckpt_path=last"])
        together = f"--predictions.directory=together/{config.stem}"
        run(["predict", f"--ckpt_path={last}", "--data.batch_size=32", together, *PREDICT_ALL, *DDP])
        tested = run(["test", f"--ckpt_path={last}", "--data.batch_size=8", *TEST_ALL, *DDP])
        if torch.distributed.get_rank() == 0:
            scores = {name: value.item() for name, value in tested.trainer.callback_metrics.items()}
            Path(f"{config.stem}.json").write_text(json.dumps(scores))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    torch.distributed.barrier()
    sys.stdout.flush()
    os._exit(0)  # several groups were opened, and gloo's threads may abort the interpreter while it closes
