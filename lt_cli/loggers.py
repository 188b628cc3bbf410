"""TensorBoard and CSV logs in the run's directory, appended to when a run goes on."""

import csv
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities import rank_zero_only


class AppendingWriter(ExperimentWriter):
    """Lightning's writer of metrics.csv, less the deletion of what an earlier session wrote."""

    def _check_log_dir_exists(self) -> None:
        path = Path(self.metrics_file_path)
        if path.is_file():
            with path.open(newline="") as file:
                self.metrics_keys = next(csv.reader(file), [])


class AppendingCSVLogger(CSVLogger):
    """Lightning's CSV logger, which goes on where an earlier session of the same run stopped."""

    @property
    def experiment(self) -> ExperimentWriter:
        """The writer; made on the first process, at the first use."""
        if self._experiment is None and getattr(rank_zero_only, "rank", 0) == 0:
            self._experiment = AppendingWriter(log_dir=self.log_dir)
        return super().experiment  # type: ignore[no-any-return]


def run_loggers(run: Path) -> list[Logger]:
    """Loggers whose directory is the run's."""
    root, name, version = run.parent.parent, run.parent.name, run.name
    tensorboard = TensorBoardLogger(root, name=name, version=version, default_hp_metric=False)
    return [tensorboard, AppendingCSVLogger(root, name=name, version=version)]
