"""Predictions in input order, in files of the data's own format."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader
from toys import NumberData, NumberTask, Pictures, pixel_data, tiny_gpt, trainer

from lt_cli.callbacks.prediction_writer import PredictionWriter
from lt_cli.data.base import BatchSampler, Loader
from lt_cli.errors import UserError
from lt_cli.tasks.pixel_generation import PixelGeneration


def trained(task: Any) -> Any:
    """As if it came from a checkpoint."""
    task.on_load_checkpoint({})
    return task


def predict(data: Any, *, task: Any = None, **options: Any) -> None:
    trainer(PredictionWriter(**options), default_root_dir="here").predict(trained(task or NumberTask()), data)


class Shuffled(NumberData):
    """Batches out of order, as several processes leave them."""

    def predict_dataloader(self) -> Loader:
        split = self.splits["predict"]
        options = {"shuffle": True, "even": False, "seed": 3, "rank": 0, "world_size": 1}
        return Loader(split, BatchSampler(num_rows=len(split), batch_size=3, **options))


@pytest.mark.parametrize("data", [NumberData(), Shuffled()], ids=["in order", "out of order"])
@pytest.mark.parametrize("format", ["csv", "jsonl"])
def test_rows_in_input_order(format: Any, data: NumberData) -> None:
    predict(data, format=format, directory="there")
    assert [path.name for path in Path("there").iterdir()] == [f"predictions.{format}"]
    with Path("there", f"predictions.{format}").open(newline="") as file:
        rows = list(csv.DictReader(file)) if format == "csv" else [json.loads(line) for line in file]
    assert [int(row["index"]) for row in rows] == list(range(10))
    assert [row["name"] for row in rows] == [f"row {row}" for row in range(10)]
    assert [float(row["double"]) for row in rows] == pytest.approx([0.2 * row for row in range(10)])
    assert list(rows[0]) == ["index", "double", "name"]


def test_by_default_in_the_run_by_time(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        predict(NumberData())
    (path,) = Path("here/predictions").glob("*/*")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d/predictions\.csv", str(path.relative_to("here/predictions")))
    assert f"predictions: {path}" in caplog.text


def test_the_format_is_the_data_s(tmp_path: Path) -> None:
    data = pixel_data(Pictures(num_test=5), batch_size=2)
    predict(data, task=PixelGeneration(backbone=tiny_gpt()), directory="there")
    assert {path.name for path in Path("there").iterdir()} == {"completions.png", "completions.npz"}


def test_each_predict_writes_its_own_rows() -> None:
    data, task, one = NumberData(), trained(NumberTask()), trainer(PredictionWriter(directory="there"))
    one.predict(task, data)
    first = Path("there/predictions.csv").read_text()
    one.predict(task, data)
    assert Path("there/predictions.csv").read_text() == first


def test_other_stages_write_nothing() -> None:
    one = trainer(PredictionWriter(), default_root_dir="here", max_epochs=1)
    task, data = NumberTask(), NumberData()
    one.fit(task, data)
    one.test(task, data, verbose=False)
    assert not Path("here").exists()


def test_foreign_data() -> None:
    class Foreign(LightningDataModule):
        def predict_dataloader(self) -> Any:
            return DataLoader([{"index": row, "x": torch.tensor([row / 10])} for row in (2, 0, 1)], batch_size=2)

    predict(Foreign(), directory="there")
    with Path("there/predictions.csv").open(newline="") as file:
        assert [row["name"] for row in csv.DictReader(file)] == ["row 0", "row 1", "row 2"]


@pytest.mark.parametrize("outputs", [torch.ones(4, 2), None, {"label": [1, 2, 3, 4]}])
def test_what_is_no_columns_with_an_index(outputs: Any) -> None:
    class Bare(NumberTask):
        def predict_step(self, batch: Any, batch_idx: int) -> Any:
            return outputs

    with pytest.raises(UserError, match="predict_step of Bare must return columns, index among them"):
        predict(NumberData(), task=Bare())
