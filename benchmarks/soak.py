"""Trains, kills, resumes and evaluates for as long as it is told, and prints what was lost: nothing, one hopes.

    python benchmarks/soak.py --minutes 30

Every task's tiny configuration of tests/contract/ is run with options drawn at random: workers, weight noise, a thaw,
validation within epochs, averaged weights, other batches. Sessions end by SIGKILL, SIGTERM or SIGINT at random moments,
half of them while a checkpoint is being written. Each run must end with the bits of one that nothing ended.
"""

import argparse
import json
import os
import random
import sys
import tempfile
import time
from dataclasses import asdict, fields
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from contract_suite import CONFIGS
from kills import Killer, Tally

KILLS_PER_RUN = 8
ROWS = (
    ["--trainer.max_steps=120", "--trainer.max_epochs=-1"],
    ["--trainer.max_epochs=24"],
)
EXTRAS = (
    ["--data.num_workers=2"],
    ["--weight_noise.std=0.01"],
    ["--weight_noise.std=0.01", "--weight_noise.mode=permanent"],
    ["--freeze.modules=backbone.blocks", "--freeze.thaw={2: backbone.blocks.0, 4: backbone.blocks.1}"],
    ["--trainer.val_check_interval=4"],
    ["--trainer.check_val_every_n_epoch=2"],
    ["--trainer.callbacks+=EMAWeightAveraging"],
    ["--trainer.accumulate_grad_batches=3"],
    ["--data.batch_size=7"],
    ["--trainer.precision=bf16-mixed"],
    ["--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.1", "--model.optimizer.momentum=0.9"],
    ["--model.optimizer=lt_cli.optim.MuonAdamW", "--model.optimizer.lr=0.02"],
    ["--model.schedule=null"],
    ["--checkpoints.keep=2"],
)
"""Each is added with a chance of a quarter."""


def main() -> None:
    """Prints a line per run and a table; writes the table as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("soak.json"))
    arguments = parser.parse_args()
    output, draw, total = arguments.output.absolute(), random.Random(arguments.seed), Tally()
    end = time.monotonic() + 60 * arguments.minutes
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        while time.monotonic() < end:
            config, options = draw.choice(CONFIGS), list(draw.choice(ROWS))
            for extra in EXTRAS:
                if draw.random() < 0.25:
                    options += extra
            killer = Killer(config, options, draw.randrange(2**31))
            killer.kill_until_done(KILLS_PER_RUN)
            killer.evaluate()
            for field in fields(Tally):
                setattr(total, field.name, getattr(total, field.name) + getattr(killer.tally, field.name))
            harm = killer.tally.different_weights + killer.tally.different_scores + killer.tally.damaged_checkpoints
            print("HARM" if harm else "ok  ", killer.tally.kills, "kills", config.stem, *options, flush=True)
        os.chdir(output.parent)
    result = asdict(total) | {"minutes": arguments.minutes, "seed": arguments.seed}
    for name, number in result.items():
        print(f"{name.replace('_', ' '):24}{number:>10}")
    output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
