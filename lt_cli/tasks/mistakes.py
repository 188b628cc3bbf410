"""Which pictures a test took most wrongly for another class."""

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torchmetrics import Metric

from lt_cli.data.base import PictureInputs
from lt_cli.pictures import show
from lt_cli.reports import drawable, mistakes_picture
from lt_cli.tasks.base import run_directory

SHOWN = 32
"""Pictures, at most."""


class Mistakes(Metric):
    """The wrongly classified rows whose own class seemed least likely, over all processes.

    States are as long on all of them, with places that no row has taken yet at minus infinity.
    """

    full_state_update = False
    index: Tensor
    nats: Tensor
    label: Tensor
    prediction: Tensor

    def __init__(self) -> None:
        """Has seen nothing."""
        super().__init__()
        for name in ("index", "label", "prediction"):
            self.add_state(name, torch.zeros(SHOWN, dtype=torch.long), dist_reduce_fx=None)
        self.add_state("nats", torch.full((SHOWN,), -torch.inf), dist_reduce_fx=None)

    def update(self, scores: Tensor, labels: Tensor, index: Tensor) -> None:
        """Adds rows.

        Shape:
            - scores: (B, C)
            - labels, index: (B,)
        """
        wrong = scores.argmax(-1) != labels
        scores, labels = scores[wrong].float(), labels[wrong]
        self.nats = torch.cat([self.nats, torch.nn.functional.cross_entropy(scores, labels, reduction="none")])
        self.label = torch.cat([self.label, labels])
        self.prediction = torch.cat([self.prediction, scores.argmax(-1)])
        self.index = torch.cat([self.index, index[wrong].to(labels.device)])
        worst = self.nats.argsort(descending=True, stable=True)[:SHOWN]
        for name in ("index", "label", "prediction", "nats"):
            setattr(self, name, getattr(self, name)[worst])

    def compute(self) -> dict[str, list[int]]:
        """Row, label and prediction of the worst, the worst first."""
        nats = self.nats.flatten()  # synchronised, they are (processes, SHOWN)
        worst = nats.argsort(descending=True, stable=True)[: min(SHOWN, int(nats.isfinite().sum()))]
        return {name: getattr(self, name).flatten()[worst].tolist() for name in ("index", "label", "prediction")}

    def write(self, trainer: Trainer, names: list[str], data: PictureInputs) -> None:
        """Draws them to pictures/mistakes.png and TensorBoard, and begins anew."""
        worst = self.compute()
        self.reset()
        path = run_directory(trainer) / "pictures" / "mistakes.png"
        if not trainer.is_global_zero or not worst["index"]:
            return
        said, taken = ([drawable(names[i], i) for i in worst[of]] for of in ("label", "prediction"))
        sheet = mistakes_picture(data.pictures("test", worst["index"]), said, taken)
        show(trainer, "mistakes", sheet, path)
        rank_zero_info(f"worst mistakes: {path}")
