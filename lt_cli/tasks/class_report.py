"""What a test says of classes: a table of them, and a picture of what is taken for what."""

from collections.abc import Sequence

import numpy as np
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassConfusionMatrix

from lt_cli.pictures import show
from lt_cli.reports import class_table, confusion_picture, span_table
from lt_cli.tasks.base import run_directory


class LabelReport(Metric):
    """Counts, for each of several classes that a row may have, how often it is right, predicted, and in the data.

    Args:
        num_classes: Classes.
    """

    counts: Tensor

    def __init__(self, num_classes: int) -> None:
        """Has seen nothing."""
        super().__init__()
        self.add_state("counts", torch.zeros(num_classes, 3, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, predicted: Tensor, labels: Tensor) -> None:
        """Adds rows.

        Shape:
            - predicted, labels: (B, C), true where a row has a class
        """
        predicted, labels = predicted.bool(), labels.bool()
        self.counts += torch.stack([(predicted & labels).sum(0), predicted.sum(0), labels.sum(0)], dim=1)

    def compute(self) -> Tensor:
        """(C, 3)."""
        return self.counts

    def write(self, names: list[str]) -> None:
        """Prints a table of the classes, and begins anew."""
        counts = self.compute().cpu().numpy()
        self.reset()
        if counts.any():
            rank_zero_info("\n".join(["", *span_table(counts, names), ""]))


class ClassReport(MulticlassConfusionMatrix):
    """Counts what is taken for what, over all processes.

    Args:
        num_classes: Classes.
    """

    def write(self, trainer: Trainer, names: list[str], table: Sequence[str] | None = None) -> None:
        """Prints a table, draws the picture to pictures/confusion.png and TensorBoard, and begins anew.

        Args:
            trainer: Whose run it is.
            names: Of the classes.
            table: Lines; None for those of the classes.
        """
        confusion = self.compute().cpu().numpy().astype(np.int64)
        self.reset()
        path = run_directory(trainer) / "pictures" / "confusion.png"
        if not trainer.is_global_zero or not confusion.any():
            return
        show(trainer, "confusion", confusion_picture(confusion, names), path)
        table = class_table(confusion, names) if table is None else table
        rank_zero_info("\n".join(["", *table, "", f"confusion matrix: {path}"]))
