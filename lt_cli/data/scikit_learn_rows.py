"""The tables that scikit-learn brings along: no download."""

from typing import Literal

from lt_cli.data.base import SplitName
from lt_cli.data.row_sources import RowSource
from lt_cli.data.rows import Row


class ScikitLearnRows(RowSource):
    """A small table of scikit-learn (https://scikit-learn.org/stable/datasets/toy_dataset.html), without a download.

    Columns are the features, by their names, and ``label``: the name of a class, or, of diabetes, a number, which needs
    ``--data.labels=lt_cli.data.labels.Score``. The data holds rows out for validation and test. Predictions are
    written to predictions.csv.

    Args:
        name: iris (150 rows, 4 features, 3 classes), wine (178, 13, 3), digits (1,797, 64, 10), breast_cancer
            (569, 30, 2), or diabetes (442, 10, a number).
    """

    def __init__(self, name: Literal["iris", "wine", "digits", "breast_cancer", "diabetes"]) -> None:
        """Reads nothing."""
        self.name = name

    def rows(self, split: SplitName) -> list[Row] | None:
        """All of them, for training."""
        if split != "train":
            return None
        from sklearn import datasets

        load = getattr(datasets, f"load_{self.name}")
        table = load(scaled=False) if self.name == "diabetes" else load()
        names = [str(name) for name in table.feature_names]
        labels = table.target.tolist()
        if self.name != "diabetes":
            labels = [str(table.target_names[number]) for number in labels]
        pairs = zip(table.data.tolist(), labels, strict=True)
        rows = [dict(zip(names, values, strict=True)) | {"label": label} for values, label in pairs]
        return [Row(row, f"{self.name}, row {i}") for i, row in enumerate(rows)]

    def has(self, split: SplitName) -> bool:
        """Rows to train on."""
        return split == "train"
