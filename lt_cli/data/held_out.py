"""Parts of what there is to train on that are kept for validation and test."""

from collections.abc import Callable
from typing import Literal

from lt_cli.errors import UserError

HeldOut = Literal["val", "test"]

SPLIT_NAMES: dict[Literal["train", "val", "test"], tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test",),
}
"""What files and folders of splits are called."""

VAL_FRACTION = 0.1
"""Kept for validation where neither the source nor the user says."""


def check_fractions(val_fraction: float | None, test_fraction: float | None, split_seed: int) -> None:
    """Refuses what is out of range."""
    if split_seed < 0:
        raise UserError(f"split_seed ({split_seed}) must not be negative")
    for name, fraction in (("val_fraction", val_fraction), ("test_fraction", test_fraction)):
        if fraction is not None and not 0 < fraction < 1:
            raise UserError(f"{name} ({fraction}) must be above 0 and below 1, or null")


def fractions_of(
    val_fraction: float | None,
    test_fraction: float | None,
    has: Callable[[HeldOut], bool],
    what: str,
) -> dict[HeldOut, float]:
    """The parts to keep for the splits that a source has not, in the order in which they are taken.

    Args:
        val_fraction: What the user says; None for the usual.
        test_fraction: What the user says; None for none.
        has: Whether the source has a split of its own.
        what: What is shared out, for messages.

    Raises:
        UserError: If a fraction has no use, or nothing is left to train on.
    """
    fractions: dict[HeldOut, float] = {}
    given: dict[HeldOut, float | None] = {"test": test_fraction, "val": val_fraction}
    for split, fraction in given.items():
        own = has(split)
        if own and fraction is not None:
            raise UserError(
                f"{split}_fraction ({fraction}) has no use, as the source has {split} {what}: "
                f"set --data.{split}_fraction=null"
            )
        if not own and (fraction is not None or split == "val"):
            fractions[split] = VAL_FRACTION if fraction is None else fraction
    if sum(fractions.values()) >= 1:
        named = " and ".join(f"{split}_fraction ({fraction})" for split, fraction in fractions.items())
        raise UserError(f"{named} must be below 1 in all, to leave {what} to train on")
    return fractions
