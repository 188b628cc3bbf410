"""Prompts of different lengths as batches; what files of them say is tested with packed text."""

import numpy as np
import torch

from lt_cli.data.prompts import Prompts
from lt_cli.data.rows import Row


class TestPrompts:
    """Texts of different lengths."""

    @staticmethod
    def make(lengths: list[int]) -> Prompts:
        tokens = [np.arange(1, length + 1, dtype=np.int32) + 10 * row for row, length in enumerate(lengths)]
        return Prompts(tokens, [Row({"prompt": str(row)}, f"prompt {row}") for row in range(len(lengths))], 0)

    def test_longest_first_and_otherwise_in_their_order(self) -> None:
        prompts = self.make([2, 5, 2, 1, 5])
        assert len(prompts) == 5
        assert prompts.batch(range(5), 0)["index"].tolist() == [1, 4, 0, 2, 3]

    def test_padding(self) -> None:
        prompts = self.make([2, 5, 2, 1])
        batch = prompts.batch([1, 3], 0)
        assert {name: values.tolist() for name, values in batch.items()} == {
            "index": [0, 3],
            "input_ids": [[1, 2], [31, 0]],
            "attention_mask": [[1, 1], [1, 0]],
        }
        assert all(values.dtype == torch.int64 for values in batch.values())
