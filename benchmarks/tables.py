"""Accuracy of configs/iris.yaml beside scikit-learn's MLPClassifier of the same shape, on the same rows of its sets.

Both are fitted on the same training rows, standardised by them, and scored on the same test rows, over twenty splits;
scikit-learn's stops when its training loss does, as it does by default, and ours at the end of its twenty epochs.

    python benchmarks/tables.py
"""

import contextlib
import io
import logging
import os
import tempfile
import warnings
from pathlib import Path

import numpy as np
from sklearn.neural_network import MLPClassifier

from lt_cli.cli import run

CONFIG = Path(__file__).parent.parent / "configs" / "iris.yaml"
WIDTHS = {"iris": 4, "wine": 13, "breast_cancer": 30}
SPLITS = 20


def main() -> None:
    """Prints a line for each set."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    print(f"{'test accuracy':16}{'lt_cli':>16}{'scikit-learn':>16}")
    with tempfile.TemporaryDirectory() as directory, contextlib.chdir(directory):
        for name, width in WIDTHS.items():
            ours, theirs = np.array([scores(name, width, seed) for seed in range(SPLITS)]).T
            shown = (f"{100 * some.mean():.1f} ± {100 * some.std():.1f} %" for some in (ours, theirs))
            print(f"{name:16}" + "".join(f"{text:>16}" for text in shown))


def scores(name: str, width: int, seed: int) -> tuple[float, float]:
    """Ours and scikit-learn's on one split."""
    options = [f"--config={CONFIG}", f"--data.source.name={name}", f"--data.split_seed={seed}"]
    options += [f"--seed_everything={seed}", f"--model.backbone.num_features={width}"]
    quiet = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    with contextlib.redirect_stdout(io.StringIO()):
        run(["fit", *options, *quiet])
        tested = run(["test", *options, *quiet, "--ckpt_path=last"])
    data = tested.datamodule
    data.setup("fit")
    train, test = (data.splits[split].batch(range(len(data.splits[split])), 0) for split in ("train", "test"))
    model = MLPClassifier((128,), max_iter=1000, random_state=seed)
    model.fit(train["inputs"].numpy(), train["labels"].numpy())
    theirs = model.score(test["inputs"].numpy(), test["labels"].numpy())
    return tested.trainer.callback_metrics["test/accuracy"].item(), theirs


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
