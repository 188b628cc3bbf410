"""Prompts: texts that a model continues or fills in, from a list or a file."""

import os
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lt_cli.data.base import Batch
from lt_cli.data.rows import ROW_SUFFIXES, Row, read_rows, read_text
from lt_cli.errors import UserError


class Prompts:
    """Beginnings of texts of different lengths, the longest first, so that those of a batch are about as long.

    Args:
        tokens: Those of each prompt.
        rows: What the file says of each, and where.
        pad_id: Fills the ends of shorter rows; nothing ever reads it.
    """

    def __init__(self, tokens: list[NDArray[np.int32]], rows: list[Row], pad_id: int) -> None:
        """Sorts; prompts of one length stay in their order."""
        self.tokens, self.rows, self.pad_id = tokens, rows, pad_id
        self.order = sorted(range(len(tokens)), key=lambda row: -len(tokens[row]))

    def __len__(self) -> int:
        """Number of prompts."""
        return len(self.order)

    def batch(self, rows: Sequence[int], epoch: int) -> Batch:
        """``index`` (B,), the prompts' numbers in the file; ``input_ids`` and ``attention_mask`` (B, T)."""
        index = [self.order[row] for row in rows]
        longest = max(len(self.tokens[i]) for i in index)
        input_ids = torch.full((len(index), longest), self.pad_id)
        mask = torch.zeros_like(input_ids)
        for place, i in enumerate(index):
            input_ids[place, : len(self.tokens[i])] = torch.from_numpy(self.tokens[i].astype(np.int64))
            mask[place, : len(self.tokens[i])] = 1
        return {"index": torch.tensor(index), "input_ids": input_ids, "attention_mask": mask}


def prompt_rows(prompts: list[str] | str, column: str) -> list[Row]:
    """The rows of prompts, and where they stand.

    Args:
        prompts: Texts, or a file with one on each line, or with rows.
        column: Of the text in a row.

    Raises:
        UserError: If there is no such file, or no prompt.
    """
    if isinstance(prompts, list):
        rows = [Row({column: text}, f"prompt {i}") for i, text in enumerate(prompts, 1)]
    else:
        path = os.path.expanduser(prompts)
        if not os.path.isfile(path):  # which pathlib refuses to say of a long text
            short = textwrap.shorten(prompts, 100, placeholder=" …")
            raise UserError(
                f"data.prompts ({short}) must be a file, or texts within brackets: --data.prompts='[\"…\"]'"
            )
        rows = _read(Path(path), column)
    if not rows:
        raise UserError(f"data.prompts ({prompts}) must have at least one text, or be null")
    return rows


def _read(path: Path, column: str) -> list[Row]:
    """The rows of a file, or the lines of any other."""
    if path.suffix in ROW_SUFFIXES:
        return list(read_rows(path, column))
    lines = read_text(path).removesuffix("\n").split("\n")
    rows = [Row({column: line.removesuffix("\r")}, f"{path}:{number}") for number, line in enumerate(lines, 1)]
    for row in rows:
        if not row.fields[column]:
            raise UserError(f"{row.place} is blank: every line of {path.suffix or 'a text file'} is a prompt")
    return rows
