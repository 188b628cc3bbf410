"""Checkpoints in shards, a file per process as FSDP writes them, made as safe as those of one file.

Shards go into a directory of their own, which a list of sizes and checksums completes; last.ckpt and best.ckpt are
links, which change in one step.
"""

import inspect
import io
import json
import pickle
import shutil
import uuid
import zlib
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.utilities import rank_zero_only
from torch import distributed
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import _EmptyStateDictLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

from lt_cli.errors import RunError
from lt_cli.files import sync

MANIFEST = "checksums.json"
BESIDES = "meta.pt"
"""Where Lightning puts all that is neither weights nor optimiser state."""
OF_DEEPSPEED = "zero_to_fp32.py"
"""What DeepSpeed leaves in a checkpoint, to make a file for torch of it."""

Summary = dict[str, tuple[int, int]]


def is_checkpoint(directory: Path) -> bool:
    """Whether a directory is a checkpoint."""
    return any((directory / name).is_file() for name in (BESIDES, OF_DEEPSPEED))


def writes_shards(strategy: Strategy) -> bool:
    """Whether a strategy leaves the weights in the processes that have them."""
    return bool(getattr(strategy, "_save_distributed_checkpoint", False)) or (
        getattr(strategy, "_state_dict_type", None) == "sharded"
    )


def save(trainer: Trainer, path: Path) -> None:
    """Writes the shards, completes them, and then lets the path mean them; called on all processes.

    Raises:
        RunError: If they cannot be written; the path means what it meant.
    """
    try:
        _save(trainer, path)
    except (OSError, RuntimeError, CheckpointException) as error:
        cause = str(error).strip().splitlines()
        kept = f"; {path} is the last good checkpoint" if path.exists() else ""
        raise RunError(
            f"the checkpoint {path} could not be written: {cause[-1] if cause else error!r}{kept}"
        ) from error
    trainer.strategy.barrier()


def _save(trainer: Trainer, path: Path) -> None:
    directory = path.with_name(f"{path.stem}-{trainer.global_step}-{uuid.uuid4().hex[:8]}.shards")
    directory = Path(trainer.strategy.broadcast(directory))
    trainer.save_checkpoint(directory)
    own = {file.name: _summary(file) for file in directory.glob(f"__{trainer.global_rank}_*")}
    summaries: list[Summary] = [own] * trainer.world_size
    if trainer.world_size > 1:
        distributed.all_gather_object(summaries, own)
    if trainer.is_global_zero:
        besides = {name: _summary(directory / name) for name in (".metadata", BESIDES)}
        manifest = directory / MANIFEST
        manifest.write_text(json.dumps({name: s for part in (*summaries, besides) for name, s in part.items()}))
        for written in (*directory.iterdir(), directory):
            sync(written)
        link(path, directory.name)


def link(path: Path, directory: str) -> None:
    """Lets the path mean a directory beside it, in one step, and then removes what it alone meant before."""
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)
    part.symlink_to(directory)
    part.replace(path)
    sync(path.parent)
    collect(path.parent)


def collect(parent: Path) -> None:
    """Removes the shards that no checkpoint means, as older ones and those that a crash left."""
    meant = {one.resolve() for one in parent.glob("*.ckpt")}
    for old in parent.glob("*.shards"):
        if old.resolve() not in meant:
            shutil.rmtree(old, ignore_errors=True)


def read(directory: Path, *, weights: bool, optimizers: bool) -> dict[str, Any]:
    """What a plain checkpoint would hold.

    Args:
        directory: The shards.
        weights: Whether to put the weights together; otherwise there are none.
        optimizers: Whether to put the optimisers' states together too, where there are any.

    Raises:
        ValueError: If a file is missing, truncated or damaged.
        pickle.UnpicklingError: If a file holds anything but tensors and plain types.
    """
    if rank_zero_only.rank == 0:  # type: ignore[attr-defined]  # Lightning sets it
        _refuse_damage(directory)
    _refuse_code(directory)
    content: dict[str, Any] = torch.load(directory / BESIDES, map_location="cpu", weights_only=True)
    if not weights:
        return {**content, "state_dict": {}}
    whole: dict[str, Any] = {}
    planner = _EmptyStateDictLoadPlanner(keys=None if optimizers else {"state_dict"})  # type: ignore[no-untyped-call]
    _load_state_dict(whole, storage_reader=FileSystemReader(directory), planner=planner, no_dist=True)
    states = [numbered(whole[f"optimizer_{number}"]) for number in range(len(whole) - 1)]
    # without any, as where only weights were saved, there is no such entry in a plain checkpoint either
    return {**content, "state_dict": whole["state_dict"], **({"optimizer_states": states} if states else {})}


def numbered(state: dict[str, Any]) -> dict[str, Any]:
    """An optimiser's state as torch's optimisers have it: with numbers in place of names, which go by its groups."""
    numbers: dict[str, int] = {}
    groups = []
    for group in state["param_groups"]:
        own = {name: len(numbers) + place for place, name in enumerate(group["params"])}
        numbers |= own
        groups.append({**group, "params": [*own.values()]})
    kept = state.get("state", {})  # shards leave out what is empty, as that of SGD is
    return {"state": {numbers[name]: values for name, values in kept.items()}, "param_groups": groups}


def _summary(file: Path) -> tuple[int, int]:
    """Size and checksum."""
    checksum = 0
    with file.open("rb") as content:
        while block := content.read(2**22):
            checksum = zlib.crc32(block, checksum)
    return file.stat().st_size, checksum


def _refuse_damage(directory: Path) -> None:
    manifest = directory / MANIFEST
    if not manifest.is_file():
        raise ValueError(f"it is incomplete: {MANIFEST} is missing")
    for name, summary in json.loads(manifest.read_text()).items():
        if not (directory / name).is_file():
            raise ValueError(f"{name} is missing")
        if list(_summary(directory / name)) != summary:
            raise ValueError(f"the checksum of {name} is wrong")


class _Names(pickle.Unpickler):
    """Knows only the classes that torch describes shards with."""

    PLAIN = frozenset({("torch", "Size"), ("torch.serialization", "_get_layout"), ("pathlib", "PosixPath")})

    def find_class(self, module: str, name: str) -> Any:
        """The class of this name, or a refusal."""
        found = super().find_class(module, name)
        describes = module.startswith("torch.distributed.checkpoint.") and inspect.isclass(found)
        if not describes and not isinstance(found, torch.dtype) and (module, name) not in self.PLAIN:
            raise pickle.UnpicklingError(f"{module}.{name} describes no shard")
        return found


def _refuse_code(directory: Path) -> None:
    """Reads what torch would unpickle without a look: the description of the shards, and what is no tensor in them."""
    with (directory / ".metadata").open("rb") as file:
        metadata: Metadata = _Names(file).load()
    for index, stored in metadata.storage_data.items():
        if isinstance(metadata.state_dict_metadata.get(index.fqn), BytesStorageMetadata):
            with (directory / stored.relative_path).open("rb") as shard:
                shard.seek(stored.offset)
                torch.load(io.BytesIO(shard.read(stored.length)), weights_only=True)
