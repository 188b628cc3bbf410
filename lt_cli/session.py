"""What happens in every run besides training: the callbacks that are always there, and those that options switch on."""

from typing import Any

from lightning.pytorch import Callback
from lightning.pytorch.cli import LightningArgumentParser

from lt_cli.callbacks.checkpoints import Checkpoints
from lt_cli.callbacks.freeze import Freeze
from lt_cli.callbacks.prediction_writer import PredictionWriter
from lt_cli.callbacks.run_lock import RunLock
from lt_cli.callbacks.sample_images import SampleImages
from lt_cli.callbacks.sample_texts import SampleTexts
from lt_cli.callbacks.throughput import Throughput
from lt_cli.callbacks.watch import Watch
from lt_cli.callbacks.weight_noise import WeightNoise
from lt_cli.signals import Signals

FLAGS: dict[str, type[Callback]] = {
    "freeze": Freeze,
    "weight_noise": WeightNoise,
    "sample_images": SampleImages,
    "sample_texts": SampleTexts,
}
"""Callbacks with options of their own; any other class goes into ``--trainer.callbacks``."""


def add_options(parser: LightningArgumentParser) -> None:
    """Options of the callbacks."""
    parser.add_lightning_class_args(Checkpoints, "checkpoints")
    parser.add_lightning_class_args(PredictionWriter, "predictions")
    for name, callback in FLAGS.items():
        parser.add_argument(f"--{name}", type=callback | None, default=None, help=callback.__doc__)


def callbacks(config: Any, signals: Signals, *, saving: bool, record: list[Callback]) -> list[Callback]:
    """In the order in which Lightning calls them: who saves sees what the others did.

    Args:
        config: The subcommand's part of the configuration, its parts built.
        signals: Hears what may end the run.
        saving: Whether checkpoints are written.
        record: Callbacks that write down what is run; where there are any, the run's directory is held.
    """
    always: list[Callback] = [config[name] for name in FLAGS if config[name] is not None]
    always += [config.predictions, Throughput()]
    always.append(Watch(config.checkpoints if saving else None, signals))
    held = [RunLock()] if record else []
    return [*held, *always, *([config.checkpoints] if saving else []), *record]
