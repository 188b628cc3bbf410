"""How much each class counts in a training loss."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from lt_cli.errors import UserError, did_you_mean

ClassWeights = Literal["balanced"] | dict[str, float] | None


def class_weights_of(wanted: ClassWeights, names: Sequence[str], counts: Sequence[int]) -> Tensor | None:
    """The weight of each class, or None where all count the same.

    Args:
        wanted: ``balanced`` for rows / (classes * rows of the class), as in scikit-learn; or weights by name, 1 for
            classes that are not named.
        names: Of the classes.
        counts: Training rows of each class.

    Raises:
        UserError: If a name is no class, or a weight is not above 0.
    """
    if wanted is None:
        return None
    if wanted == "balanced":
        number = torch.tensor(counts, dtype=torch.float32)
        return number.sum() / (len(number) * number)
    for name, weight in wanted.items():
        if name not in names:
            known = f"{', '.join(names):.200}"
            raise UserError(f"class_weights names {name!r}, and the classes are {known}{did_you_mean(name, names)}")
        if not 0 < weight < math.inf:  # a batch of weight 0 has no mean loss
            raise UserError(
                f"class_weights of {name!r} ({weight}) must be above 0: leave out rows that are not to count"
            )
    return torch.tensor([wanted.get(name, 1.0) for name in names])
