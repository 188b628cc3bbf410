"""What an optimiser and its schedule are set to: scaled for each group, changed where a run is resumed otherwise."""

from collections.abc import Sequence
from typing import Any

from torch.optim import Optimizer

from lt_cli.errors import UserError
from lt_cli.optim import SCALE, StepSchedule


def scale_rates(optimizer: Optimizer, layer_decay: float, backbone_lr_scale: float = 1.0) -> None:
    """Multiplies the learning rate of each group by the scale that ``parameter_groups`` gave it."""
    wanted = {"layer_decay": layer_decay, "backbone_lr_scale": backbone_lr_scale}
    given = {name: scale for name, scale in wanted.items() if scale != 1}
    if given and not all(SCALE in group for group in optimizer.param_groups):
        name = next(iter(given))
        raise UserError(
            f"{name} ({given[name]}) must be 1 with {type(optimizer).__name__}, which makes groups of its own: "
            "use torch.optim.AdamW"
        )
    for group in optimizer.param_groups:
        group["lr"] *= group.pop(SCALE, 1.0)


def refuse_other_groups(optimizer: Optimizer, before: Sequence[Sequence[Any]] | None) -> None:
    """Refuses to go on from a checkpoint whose optimiser had another number of groups; None where there is none."""
    if before and len(before[0]) != len(optimizer.param_groups):
        raise UserError(
            f"{type(optimizer).__name__} has {len(optimizer.param_groups)} groups of parameters, the checkpoint's "
            f"{len(before[0])}: go on with the same --model.optimizer, .layer_decay and "
            ".backbone_lr_scale, or start anew without --ckpt_path"
        )


def plain_settings(optimizer: Optimizer) -> list[dict[str, Any]]:
    """The plain hyper-parameters of each group."""
    plain = (bool, int, float, str, tuple, list, type(None))
    return [
        {name: value for name, value in group.items() if name != "params" and isinstance(value, plain)}
        for group in optimizer.param_groups
    ]


def let_prevail(
    optimizer: Optimizer, before: Sequence[dict[str, Any]], now: Sequence[dict[str, Any]], *, keeps_rate: bool
) -> None:
    """Writes what the configuration changed into an optimiser whose state was loaded.

    Only what changed is written, as a schedule may have moved the rest.

    Args:
        optimizer: With what its checkpoint had.
        before: The settings of each group that the checkpoint stands for.
        now: Those of the configuration.
        keeps_rate: Whether there is no schedule, so that the learning rate is the configuration's.

    Raises:
        UserError: If the optimiser of the checkpoint has not the same settings.
    """
    for group, old, new in zip(optimizer.param_groups, before, now, strict=True):
        if unknown := sorted(new.keys() - group.keys()):
            raise UserError(
                f"{type(optimizer).__name__} has {unknown[0]}, which the checkpoint's optimiser has not: "
                "go on with the same --model.optimizer, or start anew without --ckpt_path"
            )
        for name in (n for n in new if n in old and old[n] != new[n]):
            group[name] = new[name] if name != "lr" else group["lr"] * new["lr"] / old["lr"]
        if keeps_rate and "lr" in new:
            group["lr"] = new["lr"]
        group["initial_lr"] = new.get("lr", group["lr"])


def go_on(scheduler: Any, step: int) -> None:
    """Lets a schedule go on from the learning rates of its optimiser."""
    if hasattr(scheduler, "base_lrs"):
        scheduler.base_lrs = [group["initial_lr"] for group in scheduler.optimizer.param_groups]
    if isinstance(scheduler, StepSchedule):
        scheduler.stand_at(step)
