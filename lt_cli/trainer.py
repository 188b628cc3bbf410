"""A trainer whose logs, checkpoints, pictures and predictions lie in one directory."""

import os
import re
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ProgressBar as AnyProgressBar
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.utilities import rank_zero_warn

from lt_cli.callbacks.exact_resume import ExactResume
from lt_cli.callbacks.learning_rate import LearningRate
from lt_cli.callbacks.progress_bar import ProgressBar
from lt_cli.checkpoint_io import CheckpointIO
from lt_cli.errors import UserError
from lt_cli.lean import NoProfiler, leave_out
from lt_cli.loggers import run_loggers
from lt_cli.refusals import as_mistake, refusals_of

COUNTED = ("accumulate_grad_batches", "check_val_every_n_epoch", "val_check_interval")
"""Lightning divides by these without a look."""


def make_trainer(options: dict[str, Any], callbacks: list[Callback], run: Path) -> Trainer:
    """Lightning's trainer, with our loggers, progress bar and checkpoint files where the user has no others.

    Args:
        options: Arguments of the Trainer, the user's callbacks among them; these come first.
        callbacks: Ours.
        run: The run's directory.

    Raises:
        UserError: If Lightning refuses the options, such as a GPU that is not there.
    """
    for name in COUNTED:
        if isinstance(options[name], int | float) and not options[name] > 0:
            raise UserError(f"--trainer.{name} ({options[name]}) must be above 0")
    given = _as_list(options["callbacks"])
    added: list[Callback] = []
    logger = run_loggers(run) if options["logger"] in (None, True) else options["logger"]
    if logger:
        added.append(LearningRate())
    if options["enable_progress_bar"] is not False and not any(isinstance(one, AnyProgressBar) for one in given):
        added.append(ProgressBar())
    if (limit := options["max_time"]) is not None:  # Lightning would put its clock behind who saves
        with refusals_of(f"--trainer.max_time={limit}"):
            given = [*given, Timer(limit)]
    ours = {
        "max_time": None,
        "logger": logger,
        "callbacks": [ExactResume(), *given, *callbacks, *added],  # the first puts a resumed run where it stood
        "default_root_dir": run,
        "profiler": NoProfiler() if options["profiler"] is None else options["profiler"],
        "plugins": [*_as_list(options["plugins"]), CheckpointIO()],
    }
    try:
        trainer = Trainer(**{**options, **ours})
    except (MisconfigurationException, ArithmeticError, TypeError, ValueError, ImportError) as error:
        raise as_mistake(error, _meant(options, str(error))) from error
    # Lightning's own handling of signals hangs several processes within the handler (issue 20806 of Lightning), and
    # asks at each step in a way that a GPU waits for; ours is Watch's.
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
    leave_out(trainer)
    _warn_of_a_restart_that_hangs()
    return trainer


def _warn_of_a_restart_that_hangs() -> None:
    """Processes that torchrun starts again find what those before them left, unless told otherwise (torch 2.15)."""
    shared = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if shared and os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0":
        rank_zero_warn(
            "torchrun's restarts can hang: give it --rdzv-backend=c10d, "
            "and set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in its environment"
        )


def _meant(options: dict[str, Any], message: str) -> str:
    """The options that a refusal speaks of, by their names or else their values; or those that choose the machine."""
    machine = ("accelerator", "devices", "strategy")
    words = set(re.findall(r"\w+", message))
    named = words & options.keys() or {name for name, value in options.items() if f"'{value}'" in message}
    asked = machine if not named or named & {*machine} else sorted(named - {"logger", "plugins"})
    return " ".join(f"--trainer.{name}={_short(options[name])}" for name in asked)


def _short(value: Any) -> Any:
    """An object as its class."""
    return f"{type(value).__module__}.{type(value).__name__}" if isinstance(value, Strategy) else value


def _as_list(value: Any) -> list[Any]:
    return [] if value is None else value if isinstance(value, list) else [value]
