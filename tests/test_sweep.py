"""The example of a sweep: two processes share a study, and a trial that was killed goes on where it stood."""

import json
import re
import signal
import time
from pathlib import Path

import optuna
from contract_suite import ROOT, finished, kill_when, python

CONFIG = ROOT / "configs" / "iris.yaml"


def study() -> optuna.Study:
    return optuna.load_study(study_name="sweep", storage="sqlite:///sweep/study.db")


def test_two_processes_share_a_study() -> None:
    options = [f"--config={CONFIG}", "--trials=3", "--workers=2", "--trainer.max_epochs=2"]
    said = finished(python("../docs/sweep.py", *options))
    done = [trial for trial in study().trials if trial.state == optuna.trial.TrialState.COMPLETE]
    assert len(done) >= 3
    assert f"{study().best_value:.4f} with" in said.splitlines()[-1]
    for trial in done:
        directory = next(Path(f"sweep/trial-{trial.number}").glob("*/*"))
        config = (directory / "config.yaml").read_text()
        rate = re.search(r"^ +lr: (\S+)$", config, re.MULTILINE)
        assert rate is not None
        assert float(rate[1]) == trial.params["lr"]
        rows = (directory / "metrics.csv").read_text().splitlines()
        place = rows[0].split(",").index("val/accuracy")
        assert max(float(row.split(",")[place] or 0) for row in rows[1:]) == trial.value
    again = finished(python("../docs/sweep.py", *options))
    assert len(study().trials) == len(done), "a study that has enough is left as it is"
    assert again.splitlines()[-1] == said.splitlines()[-1]


def test_a_killed_trial_goes_on_where_it_stood() -> None:
    options = [f"--config={CONFIG}", "--trials=1", "--heartbeat=1", "--checkpoints.every_minutes=0"]
    kill_when(python("../docs/sweep.py", *options), "sweep/trial-0/*/*/checkpoints/last.ckpt", signal.SIGKILL)
    (broken,) = study().trials
    assert broken.state == optuna.trial.TrialState.RUNNING
    time.sleep(3)  # twice the heartbeat, after which the trial counts as cut off
    finished(python("../docs/sweep.py", *options))
    trials = study().trials
    assert [trial.state for trial in trials] == [optuna.trial.TrialState.FAIL, optuna.trial.TrialState.COMPLETE]
    assert trials[1].params == broken.params
    (directory,) = Path("sweep").glob("trial-*/*/*")
    sessions = [json.loads(line) for line in (directory / "sessions.jsonl").read_text().splitlines()]
    assert len(sessions) == 2, "the second goes on in the first one's run"
