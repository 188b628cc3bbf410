"""Texts that the model writes while it learns."""

from pathlib import Path
from typing import Protocol, runtime_checkable

from lightning.pytorch import LightningModule, Trainer

from lt_cli.callbacks.samples import Samples
from lt_cli.errors import UserError
from lt_cli.files import written_whole
from lt_cli.pictures import tensorboards


@runtime_checkable
class WritesTexts(Protocol):
    """A task that writes texts."""

    def sample_texts(self, num_samples: int) -> list[str]:
        """Texts, the same for the same weights."""
        ...


class SampleTexts(Samples):
    """Lets the model write from nothing after validation, to the run's texts/ and to TensorBoard.

    Args:
        every_n_epochs: Epochs between two files of texts; the last epoch always has one.
        num_samples: Texts in a file.

    Raises:
        UserError: If a number is below 1, or the task writes no texts.
    """

    def __init__(self, *, every_n_epochs: int = 1, num_samples: int = 4) -> None:
        """Checks the numbers."""
        super().__init__(every_n_epochs, num_samples)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuses a task that cannot write, before training."""
        if not isinstance(pl_module, WritesTexts):
            raise UserError(f"sample_texts needs a task that writes texts; {type(pl_module).__name__} does not")

    def path(self, run: Path, step: int) -> Path:
        """texts/samples-<step>.txt."""
        return run / "texts" / f"samples-{step:07d}.txt"

    def draw(self, pl_module: LightningModule) -> list[str]:
        """Texts."""
        assert isinstance(pl_module, WritesTexts)
        return pl_module.sample_texts(self.num_samples)

    def write(self, trainer: Trainer, samples: list[str], path: Path) -> None:
        """All texts in one file, a line of dashes between them."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as file:
            file.write(f"\n{'-' * 80}\n".join(samples).encode())
        for board in tensorboards(trainer):
            for number, text in enumerate(samples):
                board.add_text(f"samples/{number}", text, trainer.global_step)
