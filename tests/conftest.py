"""Every test runs in its own directory, on one thread, without a network."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from contract_suite import in_two_processes

from lt_cli.data.images import ImageSet, TorchvisionImages

os.environ["HF_HUB_OFFLINE"] = "1"
LEFT_BEHIND = ["PL_GLOBAL_SEED", "PL_SEED_WORKERS"]
LEFT_BEHIND += ["MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE"]
"""What Lightning writes into the environment: a later run would take itself for a process of an earlier one."""


@pytest.fixture(autouse=True)
def _own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Runs and caches go to a directory that is gone afterwards; the seed of one test is not the next one's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in LEFT_BEHIND:
        monkeypatch.delenv(name, raising=False)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    for name in LEFT_BEHIND:
        os.environ.pop(name, None)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection to anywhere but this machine is a failure, not a download."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        host = address[0] if isinstance(address, tuple) else "localhost"
        if host not in ("localhost", "127.0.0.1", "::1", "0.0.0.0"):
            raise OSError(f"the test tried to reach {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # read long ago; else it tries for a minute


@pytest.fixture
def offline_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torchvision's sets as a handful of random pictures of the right size, so that shipped configs run anywhere."""

    def load(self: TorchvisionImages, split: str, size: tuple[int, int] | None = None, channels: int = 3) -> ImageSet:
        side = 32 if self.name.startswith("CIFAR") else 28
        generator = np.random.default_rng(split == "test")
        pictures = generator.integers(256, size=(20, side, side, channels), dtype=np.uint8)
        return ImageSet(pictures, np.arange(20) % 10, [str(digit) for digit in range(10)])

    monkeypatch.setattr(TorchvisionImages, "prepare", lambda self: None)
    monkeypatch.setattr(TorchvisionImages, "load", load)


@pytest.fixture(scope="session")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every contract's fit and predict under DDP: one start of two processes for all of them."""
    return in_two_processes("two_processes.py", tmp_path_factory.mktemp("two"))
