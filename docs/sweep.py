"""A search for good settings: Optuna proposes them, lt_cli trains, the best score goes back.

    pip install optuna
    python docs/sweep.py --config configs/iris.yaml --trials 20 --workers 2

The study is a file of SQLite, so that the same command goes on where an earlier one stopped, be it by a crash: a trial
that was cut off is tried again with its own settings, from its last checkpoint. Change ``settings`` to what you want to
search, and ``--directory`` for another study. Any option of the command line can be one; more of them go behind the
others, such as ``--trainer.max_epochs=5``.
"""

import argparse
import multiprocessing
from pathlib import Path

import optuna
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import TrialState

from lt_cli.callbacks.checkpoints import Checkpoints
from lt_cli.cli import run
from lt_cli.errors import UserError


def settings(trial: optuna.Trial) -> dict[str, object]:
    """What is searched: options of the command line, and where their values come from."""
    return {
        "--model.optimizer.init_args.lr": trial.suggest_float("lr", 1e-4, 1e-1, log=True),
        "--model.optimizer.init_args.weight_decay": trial.suggest_float("weight_decay", 1e-3, 1.0, log=True),
        "--data.init_args.batch_size": trial.suggest_categorical("batch_size", [8, 16, 32]),
    }


def score(trial: optuna.Trial, options: argparse.Namespace) -> float:
    """The best of a run with the trial's settings."""
    begun = RetryHeartbeatStaleTrialCallback.retried_trial_number(trial.study.get_trials(deepcopy=False)[trial.number])
    directory = options.directory / f"trial-{trial.number if begun is None else begun}"
    found = [f"{name}={value}" for name, value in settings(trial).items()]
    found += [f"--trainer.default_root_dir={directory}", "--trainer.enable_progress_bar=false", *options.options]
    if checkpoints := sorted(directory.glob("*/*/checkpoints/last.ckpt")):
        found.append(f"--ckpt_path={checkpoints[-1]}")
    cli = run(["fit", f"--config={options.config}", *found])
    kept = next(callback for callback in cli.trainer.callbacks if isinstance(callback, Checkpoints))
    assert kept.best_score is not None, "the run has validated"
    return kept.best_score


def study_of(options: argparse.Namespace) -> optuna.Study:
    """The study in the directory, which several processes may have open."""
    storage = RDBStorage(
        f"sqlite:///{options.directory / 'study.db'}",
        engine_kwargs={"connect_args": {"timeout": 60}},  # seconds to wait for another worker's turn
        heartbeat_interval=options.heartbeat,
        heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(),
    )
    direction = "minimize" if options.minimize else "maximize"
    return optuna.create_study(study_name="sweep", storage=storage, direction=direction, load_if_exists=True)


def work(options: argparse.Namespace) -> None:
    """Tries settings until the study has as many results as are wanted."""
    study = study_of(options)

    def enough(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        if len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))) >= options.trials:
            study.stop()

    if len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))) < options.trials:
        # settings that cannot be are a result too: none
        study.optimize(lambda trial: score(trial, options), callbacks=[enough], catch=(UserError,))


def main() -> None:
    """Starts the workers, waits for them, and prints the best settings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="what is trained")
    parser.add_argument("--directory", type=Path, default=Path("sweep"), help="where the study and its runs lie")
    parser.add_argument("--trials", type=int, default=20, help="results that the study is to have")
    parser.add_argument("--workers", type=int, default=1, help="processes that train at the same time")
    parser.add_argument("--minimize", action="store_true", help="less is better, as of a loss")
    parser.add_argument(
        "--heartbeat", type=int, default=60, help="seconds after which a silent trial counts as cut off"
    )
    options, options.options = parser.parse_known_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    study = study_of(options)
    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=work, args=(options,)) for _ in range(options.workers - 1)]
    for other in others:
        other.start()
    work(options)
    for other in others:
        other.join()
    print(f"{len(study.trials)} trials in {options.directory}: {study.best_value:.4f} with {study.best_params}")


if __name__ == "__main__":
    main()
