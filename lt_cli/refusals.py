"""What other libraries refuse, as mistakes of one line."""

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from lt_cli.errors import RunError, UserError


def out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed; on a CPU torch raises a plain RuntimeError."""
    on_cpu = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    return on_cpu or isinstance(error, MemoryError | torch.OutOfMemoryError)


def _lost_worker(error: BaseException) -> bool:
    """Whether a process that fetches batches was killed, which torch says in a plain RuntimeError."""
    return isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker")


def _lost_process(error: BaseException) -> bool:
    """Whether processes cannot reach one another, which torch says in the words of the network's library."""
    of_gloo = isinstance(error, RuntimeError) and "/gloo/transport/" in str(error)
    return of_gloo or isinstance(error, torch.distributed.DistError)


def _cannot_be_cut(error: BaseException) -> bool:
    """Whether a part of a model, or an optimiser, does not work on weights that processes share out."""
    marks = ("torch.Tensor and DTensor", "Sharding propagation failed", "placement changes are not supported")
    return isinstance(error, RuntimeError) and any(mark in str(error) for mark in marks)


def is_refusal(error: BaseException) -> bool:
    """Whether a library refuses what it was told, or memory ends; anything else is a defect."""
    if isinstance(error, UserError):
        return False
    if _lost_worker(error) or _lost_process(error) or _cannot_be_cut(error):
        return True
    raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    told = isinstance(error, ValueError | RuntimeError) and not {"lightning", "optim"}.isdisjoint(raised_in.parts)
    return isinstance(error, MisconfigurationException) or told or out_of_memory(error)


def root_cause(error: BaseException) -> BaseException:
    """What was raised first, or the first of our own on the way to it."""
    while error.__cause__ is not None and not isinstance(error, UserError):
        error = error.__cause__
    return error


def as_mistake(error: BaseException, where: str = "") -> UserError:
    """What another library refused as a mistake of one line; one of ours stays itself.

    Args:
        error: Its exception.
        where: The option or the class that it speaks of.
    """
    if isinstance(error, UserError):
        return error
    text = str(error).strip()
    if out_of_memory(error):
        size = re.search(r"allocate ([\d.]+ \w+)", text)
        missing = f" for another {size[1]}" if size else ""
        return RunError(f"there is not enough memory{missing}: make the model or --data.batch_size smaller")
    if _lost_worker(error):
        return RunError(f"{text.rstrip('.')}: it may have run out of memory; use fewer --data.num_workers, or 0")
    if _lost_process(error):
        said = re.sub(r"^\[\S+\] |\. This is typically.*", "", text.partition("\n")[0])
        more = re.search(r"Last error:\s*(.+)", text)  # of NCCL, whose first line has no cause
        said = f"{said} ({more[1].strip()})" if more else said
        return RunError(f"the processes of the run lost or did not find one another: {said}")
    if _cannot_be_cut(error):
        return UserError(
            "a part of the model or the optimiser does not work on weights that processes share out: use "
            f"--trainer.strategy=ddp, or another optimiser ({text.partition('. ')[0]:.200})"
        )
    line = text.partition("\n")[0] or type(error).__name__
    return UserError(f"{where}: {line}" if where else line)


@contextmanager
def refusals_of(option: str) -> Iterator[None]:
    """Within it, what a class that an option chose does not accept is a mistake in that option."""
    try:
        yield
    except (MisconfigurationException, ArithmeticError, TypeError, ValueError, RuntimeError) as error:
        raise as_mistake(error, option) from error


def constructor(error: BaseException) -> str:
    """The class whose constructor raised, or nothing; the outermost one, which the user chose."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_name == "__init__" and frame.f_locals.get("self") is not None:
            return type(frame.f_locals["self"]).__name__
    return ""


def mismatch(message: str) -> str:
    """The first of the differences between weights that torch lists, and how many there are."""
    lines = [line.strip() for line in message.splitlines()[1:] if line.strip()]
    more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
    return lines[0][:300].rstrip(".") + more + "; leave out --config to use the checkpoint's own configuration"
