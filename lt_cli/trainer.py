"""A trainer whose logs, checkpoints, pictures and predictions lie in one directory."""

from pathlib import Path
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, ProgressBar, RichProgressBar

from lt_cli.callbacks.exact_resume import ExactResume
from lt_cli.checkpoint import CheckpointIO
from lt_cli.errors import UserError
from lt_cli.loggers import run_loggers


def make_trainer(options: dict[str, Any], callbacks: list[Callback], run: Path) -> Trainer:
    """Lightning's trainer, with our loggers, progress bar and checkpoint files where the user has no others.

    Args:
        options: Arguments of the Trainer, the user's callbacks among them; these come first.
        callbacks: Ours.
        run: The run's directory.

    Raises:
        UserError: If Lightning refuses the options, such as a GPU that is not there.
    """
    given = _as_list(options["callbacks"])
    added: list[Callback] = []
    logger = run_loggers(run) if options["logger"] in (None, True) else options["logger"]
    if logger:
        added.append(LearningRateMonitor("step"))
    if options["enable_progress_bar"] is not False and not any(isinstance(one, ProgressBar) for one in given):
        added.append(RichProgressBar(refresh_rate=10))
    ours = {
        "logger": logger,
        "callbacks": [ExactResume(), *given, *callbacks, *added],  # the first puts a resumed run where it stood
        "default_root_dir": run,
        "plugins": [*_as_list(options["plugins"]), CheckpointIO()],
    }
    try:
        trainer = Trainer(**{**options, **ours})
    except (MisconfigurationException, TypeError, ValueError) as error:
        asked = (f"--trainer.{name}={options[name]}" for name in ("accelerator", "devices", "strategy"))
        raise UserError(f"{' '.join(asked)}: {error}") from error
    # Lightning's own handling of signals hangs several processes within the handler (issue 20806 of Lightning), and
    # asks at each step in a way that a GPU waits for; ours is Watch's.
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
    return trainer


def _as_list(value: Any) -> list[Any]:
    return [] if value is None else value if isinstance(value, list) else [value]
