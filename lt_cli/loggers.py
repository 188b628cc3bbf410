"""TensorBoard and CSV logs in the run's directory, appended to when a run goes on; losing one never loses a run."""

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn

from lt_cli.files import written_whole


class AppendingWriter(ExperimentWriter):
    """Lightning's writer of metrics.csv, less the deletion of what an earlier session wrote.

    Lines that cannot be written wait for the next time.
    """

    def _check_log_dir_exists(self) -> None:
        """Reads the header, and drops a line that was half-written when an earlier session was killed."""
        path = Path(self.metrics_file_path)
        if not path.is_file():
            return
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        try:
            self.metrics_keys = next(csv.reader(io.StringIO(whole.decode())), [])
        except (UnicodeDecodeError, csv.Error) as error:
            damaged = path.with_name("metrics-damaged.csv")
            path.replace(damaged)
            rank_zero_warn(f"{path} could not be read ({error}): it is {damaged.name} now, and a new one begins")
            return
        if whole != content:
            with written_whole(path) as file:
                file.write(whole)

    def save(self) -> None:
        """Writes the lines that wait, in a directory that is made again where it vanished."""
        path = Path(self.metrics_file_path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.is_file():
                self.metrics_keys = []
            super().save()
        except OSError as error:
            rank_zero_warn(f"{path} could not be written: {error}; its lines wait")

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        """Lightning's, but never with a moment in which a kill loses the file."""
        path = Path(self.metrics_file_path)
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, fieldnames=fieldnames, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
        with written_whole(path) as whole:
            whole.write(text.getvalue().encode())


class AppendingCSVLogger(CSVLogger):
    """Lightning's CSV logger, which goes on where an earlier session of the same run stopped."""

    @property
    def experiment(self) -> ExperimentWriter:
        """The writer; made on the first process, at the first use."""
        if self._experiment is None and getattr(rank_zero_only, "rank", 0) == 0:
            self._experiment = AppendingWriter(log_dir=self.log_dir)
        return super().experiment  # type: ignore[no-any-return]


class LastingTensorBoardLogger(TensorBoardLogger):
    """Lightning's TensorBoard logger, which begins a new file where the old one cannot be written any more."""

    @rank_zero_only
    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """Writes what was measured at a step."""
        self._try(lambda: super(LastingTensorBoardLogger, self).log_metrics(metrics, step))

    @rank_zero_only
    def save(self) -> None:
        """Makes sure that it is on disk."""
        self._try(super().save)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Closes the file."""
        self._try(lambda: super(LastingTensorBoardLogger, self).finalize(status))

    def _try(self, write: Callable[[], None]) -> None:
        try:
            write()
        except (OSError, ValueError) as error:  # of the thread that writes, wrapped when a number was the last straw
            self._experiment = None
            cause = error.__cause__ if isinstance(error.__cause__, OSError) else error.__context__ or error
            rank_zero_warn(f"TensorBoard's log in {self.log_dir} could not be written: {cause}; it begins a new file")


def run_loggers(run: Path) -> list[Logger]:
    """Loggers whose directory is the run's."""
    root, name, version = run.parent.parent, run.parent.name, run.name
    tensorboard = LastingTensorBoardLogger(root, name=name, version=version, default_hp_metric=False)
    return [tensorboard, AppendingCSVLogger(root, name=name, version=version)]
