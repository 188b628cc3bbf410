"""TensorBoard and CSV logs in the run's directory, appended to when a run goes on."""

import csv
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter


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
        if self._experiment is None and self._is_writer():
            self._experiment = AppendingWriter(log_dir=self.log_dir)
        return super().experiment  # type: ignore[no-any-return]

    @staticmethod
    def _is_writer() -> bool:
        from lightning.pytorch.utilities import rank_zero_only

        return bool(rank_zero_only.rank == 0)


def run_loggers(run: Path) -> list[Logger]:
    """Loggers whose directory is the run's."""
    place = {"save_dir": run.parent.parent, "name": run.parent.name, "version": run.name}
    return [TensorBoardLogger(**place, default_hp_metric=False), AppendingCSVLogger(**place)]
