"""What a test says of classes: a table of them, and a picture of what is taken for what."""

from collections.abc import Sequence

import numpy as np
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info
from torchmetrics.classification import MulticlassConfusionMatrix

from lt_cli.pictures import show
from lt_cli.reports import class_table, confusion_picture
from lt_cli.tasks.base import run_directory


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
