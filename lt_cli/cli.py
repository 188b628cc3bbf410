"""The command line: fit, validate, test and predict, built from the typed signatures of tasks and datamodules."""

import os
import sys
import traceback
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities import rank_zero_only

from lt_cli.arguments import Invocation, arrange, check_files
from lt_cli.callbacks.first_page import FirstPage
from lt_cli.callbacks.same_start import SameStart
from lt_cli.callbacks.session_record import SessionRecord
from lt_cli.checkpoint import changes, restore_data
from lt_cli.checkpoint_io import read
from lt_cli.errors import TRACEBACK, RunError, UserError
from lt_cli.parser import Parser
from lt_cli.quiet import quieten
from lt_cli.refusals import as_mistake, constructor, is_refusal, refusals_of, root_cause
from lt_cli.runs import RUNS, run_for
from lt_cli.session import add_options, callbacks
from lt_cli.signals import PATIENCE, Signals, Stopped
from lt_cli.tasks.base import Task
from lt_cli.trainer import make_trainer


class CLI(LightningCLI):
    """One run: its parsed configuration, its task, its data, its trainer."""

    def __init__(self, invocation: Invocation, signals: Signals) -> None:
        """Parses, builds, and runs the subcommand."""
        self.invocation, self.signals = invocation, signals
        self.changes: list[str] = []
        super().__init__(
            Task,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            parser_class=Parser,
            save_config_callback=None,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            args=invocation.args,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's four; ``weights_only`` is no option, as checkpoints are never trusted with code."""
        return {command: skipped | {"weights_only"} for command, skipped in LightningCLI.subcommands().items()}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Callbacks that are always there, and those that an option of their own switches on."""
        add_options(parser)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses, whatever stands in sys.argv; a broken file explains more than what it led to."""
        try:
            self.config = parser.parse_args(args)
        except UserError:
            check_files(args)
            raise

    def _set_seed(self) -> None:
        """Lightning's, which does not say what it refuses."""
        with refusals_of("--seed_everything"):
            super()._set_seed()

    def _parse_ckpt_path(self) -> None:
        """Nothing: the configuration is the only source, and ``arrange`` has taken the checkpoint's into it."""

    def instantiate_classes(self) -> None:
        """Builds task, data and trainer; a constructor's refusal is the user's to mend."""
        try:
            super().instantiate_classes()
        except (ValueError, OSError, ImportError, MisconfigurationException) as error:
            root = root_cause(error)
            raise as_mistake(root, constructor(root)) from error
        self._dump_config()
        self.model.run_config = {k: v for k, v in self.config_dump.items() if k not in ("config", "ckpt_path")}
        if self.invocation.ckpt_path is not None:
            checkpoint = read(self.invocation.ckpt_path, weights=False)
            restore_data(self.datamodule, checkpoint)
            if self.subcommand == "fit":
                self.changes += changes(checkpoint, self.model.saved_config())

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """A trainer with the callbacks that are always there, those that flags switch on, and the user's."""
        config = self.config_init[self.subcommand]
        for_a_try = bool(config.trainer.fast_dev_run)
        parent = Path(config.trainer.default_root_dir or RUNS) / self.invocation.name
        run = parent / "try" if for_a_try else run_for(self.invocation.ckpt_path, parent)
        saving = not for_a_try and config.trainer.enable_checkpointing is not False
        record = []
        if self.subcommand == "fit" and not for_a_try:
            anew = self.config["fit"].clone()
            anew.ckpt_path = None  # the file is a run's configuration, not a session's
            session = SessionRecord(self.invocation.typed, self.invocation.ckpt_path, self.changes)
            record = [
                SameStart(self.invocation.ckpt_path),
                session,
                SaveConfigCallback(self._parser("fit"), anew, overwrite=True),
                FirstPage(),
            ]
        ours = callbacks(config, self.signals, saving=saving, record=record)
        return make_trainer({**config.trainer, **kwargs}, ours, run)


def run(args: list[str], signals: Signals | None = None) -> CLI:
    """Runs a command line from Python: tests, notebooks, sweeps.

    Args:
        args: As in the shell, from the subcommand on.
        signals: Hears what ends the run; None for such that leave this process be.

    Returns:
        The finished run, with ``trainer``, ``model``, ``datamodule`` and ``config``.

    Raises:
        UserError: If the user can mend it.
        SystemExit: After --help and --print_config.
    """
    if (here := os.getcwd()) not in sys.path:
        sys.path.insert(0, here)
    quieten()
    try:
        with (signals := signals or Signals()).heard():
            invocation = arrange(args)
            signals.goes_on_from += [Path(invocation.ckpt_path)] if invocation.ckpt_path and args[0] == "fit" else []
            return CLI(invocation, signals)
    except Exception as error:
        if not is_refusal(error):
            raise
        raise as_mistake(error) from error


def main() -> None:
    """Runs the shell's command line; a mistake is one line on stderr and exit code 2, a failed run exit code 1."""
    try:
        run(sys.argv[1:], Signals(patience=PATIENCE))
    except Stopped as stopped:
        rank_zero_only(print)(stopped.message, file=sys.stderr)
        sys.exit(stopped.code)
    except KeyboardInterrupt:
        sys.exit(130)
    except (UserError, OSError) as error:
        if os.environ.get(TRACEBACK):
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1 if isinstance(error, RunError | OSError) else 2)
