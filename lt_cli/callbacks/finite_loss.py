"""A loss that is no number ends a run; finding it stalls no GPU."""

import math

import torch
from torch import Tensor


class FiniteLoss:
    """Remembers the first loss that was NaN or infinite.

    On a GPU the comparison stays there, and its result is fetched only when asked for.
    """

    def __init__(self) -> None:
        """All is well."""
        self._step: Tensor | None = None
        self._value = torch.tensor(0.0)

    def note(self, loss: Tensor, step: int) -> None:
        """Looks at the loss of one batch."""
        if loss.device.type == "cpu" and math.isfinite(loss.item()):
            return
        loss = loss.detach()
        if self._step is None:
            self._step = torch.full((), -1, device=loss.device)
            self._value = torch.zeros_like(loss)
        first = (self._step < 0) & ~loss.isfinite()
        self._step = torch.where(first, step, self._step)
        self._value = torch.where(first, loss, self._value)

    def broken(self) -> tuple[int, float] | None:
        """Step and value of the first loss that is no number, or None; waits for the GPU."""
        if self._step is None or (step := int(self._step.item())) < 0:
            return None
        return step, float(self._value.item())
