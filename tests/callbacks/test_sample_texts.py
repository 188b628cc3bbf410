"""Texts that a model writes, in files and in TensorBoard; when they are drawn is tested with pictures."""

from pathlib import Path

import pytest
from contract_suite import ROOT, assert_same_weights, only_run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toys import NumberTask, message, trainer

from lt_cli.callbacks.sample_texts import SampleTexts
from lt_cli.cli import run

CONFIG = ROOT / "tests" / "contract" / "causal_language_modeling.yaml"


def test_files_and_tensorboard(caplog: pytest.LogCaptureFixture) -> None:
    """Two epochs of 4 steps."""
    cli = run(["fit", f"--config={CONFIG}", "--sample_texts.num_samples=3"])
    directory = only_run(CONFIG.stem)
    paths = sorted((directory / "texts").iterdir())
    assert [path.name for path in paths] == ["samples-0000004.txt", "samples-0000008.txt"]
    assert f"samples: {paths[-1]}" in caplog.text
    texts = cli.model.eval().sample_texts(3)
    assert len(set(texts)) == 3
    assert paths[-1].read_text().split(f"\n{'-' * 80}\n") == texts
    (events,) = directory.rglob("events.*")
    log = EventAccumulator(str(events))
    log.Reload()
    assert {f"samples/{number}/text_summary" for number in range(3)} <= set(log.Tags()["tensors"])


def test_training_goes_on_as_without() -> None:
    without = run(["fit", f"--config={CONFIG}", "--trainer.default_root_dir=without"]).model.state_dict()
    assert_same_weights(run(["fit", f"--config={CONFIG}", "--sample_texts={}"]).model.state_dict(), without)


def test_a_task_that_writes_no_texts() -> None:
    said = message(lambda: SampleTexts().setup(trainer(), NumberTask(), "fit"))
    assert said == "sample_texts needs a task that writes texts; NumberTask does not"


@pytest.mark.parametrize("option", ["every_n_epochs", "num_samples"])
def test_numbers(option: str) -> None:
    assert message(lambda: SampleTexts(**{option: 0})) == f"{option} (0) must be at least 1"
    assert not Path("runs").exists()
