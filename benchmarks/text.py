"""Text of different lengths: what batches by length are worth, and what a step costs above the bare one.

    python benchmarks/text.py

The names of Unicode's characters, of 4 to 90 bytes, classified by an encoder 128 wide with 4 layers, 32 in a batch: by
length beside by chance, a 50th of an epoch each, forward and backward. What a step costs above the bare one is measured
as in command_line.py, with texts of one length.
"""

from typing import Any

import torch
from command_line import measure
from interleaved import Report, interleave

from lt_cli.backbones.encoder import Encoder
from lt_cli.data.base import SplitName
from lt_cli.data.labeled_text import LabeledText
from lt_cli.data.row_sources import RowSource
from lt_cli.data.rows import Row
from lt_cli.data.tokenizers import ByteTokenizer
from lt_cli.data.unicode_names import UnicodeNames
from lt_cli.tasks.sequence_classification import SequenceClassification

CONFIG = """
model:
  class_path: lt_cli.tasks.sequence_classification.SequenceClassification
  init_args:
    backbone:
      class_path: lt_cli.backbones.encoder.Encoder
      init_args: {{vocab_size: 258, max_seq_len: 32}}
    optimizer: {{class_path: torch.optim.AdamW, init_args: {{lr: 0.003}}}}
    schedule: {{class_path: lt_cli.optim.WarmupCosine, init_args: {{warmup_steps: 10}}}}
data:
  class_path: lt_cli.data.labeled_text.LabeledText
  init_args:
    source: {{class_path: text.Words, init_args: {{num_rows: {rows}}}}}
    tokenizer: {{class_path: lt_cli.data.tokenizers.ByteTokenizer}}
    max_seq_len: 32
    batch_size: {batch}
trainer:
  max_epochs: 1
  limit_train_batches: {steps}
  limit_val_batches: 1
  accelerator: cpu
  callbacks:
  - {{class_path: command_line.Turns, init_args: {{steps: {turn}}}}}
"""


class Words(RowSource):
    """Texts of one length.

    Args:
        num_rows: Rows for training.
    """

    def __init__(self, num_rows: int) -> None:
        """Makes nothing yet."""
        self.num_rows = num_rows

    def rows(self, split: SplitName) -> list[Row] | None:
        """Numbers, and whether they are even."""
        if split not in ("train", "val"):
            return None
        numbers = range(self.num_rows if split == "train" else 64)
        return [Row({"text": f"{number:024}", "label": number % 2}, f"row {number}") for number in numbers]

    def write(self, rows: Any, split: Any, directory: Any) -> Any:
        """Nobody asks."""


def by_length(rounds: int) -> dict[str, float]:
    """Seconds of a part of an epoch, by length and by chance."""
    parts: dict[str, Any] = {}
    for name, bucketed in (("by length", True), ("by chance", False)):
        source, tokenizer = UnicodeNames(), ByteTokenizer()
        data = LabeledText(
            source=source,
            tokenizer=tokenizer,
            text_column="name",
            label_column="kind",
            bucket_by_length=bucketed,
            max_seq_len=96,
        )
        data.setup("fit")
        batches = list(data.train_dataloader())
        parts[name] = batches[:: len(batches) // 15]  # at even distances, so of all lengths
    task = SequenceClassification(backbone=Encoder(vocab_size=258, max_seq_len=96))
    task.attach(data)

    def train(batches: list[Any]) -> None:
        for batch in batches:
            task.zero_grad()
            task.step(batch, "train")["loss"].backward()  # type: ignore[no-untyped-call]

    return interleave({name: lambda batches=batches: train(batches) for name, batches in parts.items()}, rounds)


def main() -> None:
    """Both claims."""
    report = Report("text", (__doc__ or "").partition("\n")[0])
    torch.manual_seed(0)
    report.faster("names of characters, an epoch's part", by_length(report.rounds), "by length", "by chance", 1.5)
    bare, above = measure(10, 4 * report.rounds, {"batch": 32}, CONFIG)
    report.at_most(f"a step of text, above {1000 * bare:.0f} ms", 100 * above / bare, 2, "%")
    report.finish()


if __name__ == "__main__":
    main()
