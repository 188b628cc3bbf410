"""Pictures of which there are too many for memory: decoded some at a time, and kept as a file of tokens.

Every process maps the same file, so that the machine holds its pages once, and only those that batches want.
"""

import contextlib
import hashlib
import json
import math
import shutil
import tempfile
import uuid
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lt_cli.data.quantize import NearestColors, token_type
from lt_cli.errors import UserError, one_line
from lt_cli.files import written_whole

VERSION = 1
"""Raised when the same pictures and colours come to give another file, so that kept ones are not used."""
CHUNK = 2**24
"""Bytes of decoded pictures that are in memory at a time."""
CHECKSUM = 4
"""Bytes of the CRC-32 that follows the tokens in their file."""
_LIMIT: ContextVar[float] = ContextVar("memory_limit", default=math.inf)


@contextlib.contextmanager
def memory_limit(num_bytes: float) -> Iterator[None]:
    """Within it, ``decode_once`` leaves pictures of more bytes than these undecoded, as ``ManyPictures``."""
    token = _LIMIT.set(num_bytes)
    try:
        yield
    finally:
        _LIMIT.reset(token)


def is_too_large(shape: tuple[int, ...]) -> bool:
    """Whether pictures of this shape, (N, H, W, C), are beyond the memory limit."""
    return math.prod(shape) > _LIMIT.get()


def chunk_rows(shape: tuple[int, ...]) -> int:
    """How many of the pictures, (N, H, W, C), are decoded at a time; at least eight, for as many threads."""
    return max(8, CHUNK // math.prod(shape[1:]))


class ManyPictures:
    """Pictures that are never in memory all at once.

    Args:
        shape: (N, H, W, C).
        chunks: Begins anew to decode all of them: some at a time and in order, (n, H, W, C), uint8.
        names: What are others whenever the pictures are: the set's own name, then those under which the same pictures
            may have become tokens. None where only the pictures themselves can tell.
        directory: Where files go; None for the user's cache directory.

    Attributes:
        first: Ascending row numbers of the pictures that a palette is fitted on.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        chunks: Callable[[], Iterator[np.ndarray]],
        names: Sequence[str],
        directory: Path | None,
    ) -> None:
        """Decodes nothing."""
        self.shape = shape
        self.first: NDArray[np.int64] = np.empty(0, np.int64)
        self._chunks, self._names, self._directory = chunks, list(names), directory
        self._pixels: np.ndarray | None = None
        self._place: NDArray[np.int64] = np.empty(0, np.int64)
        self._tokens: tuple[NDArray[Any], Path] | None = None

    @classmethod
    def of(cls, images: np.ndarray, directory: Path | None) -> "ManyPictures":
        """Pictures that a source holds in memory; once their tokens are in a file, it may let go of them."""

        def chunks() -> Iterator[np.ndarray]:
            for start in range(0, len(images), step):
                yield images[start : start + step]

        step = chunk_rows(images.shape)
        return cls(images.shape, chunks, [_digest(chunks())], directory)

    def __len__(self) -> int:
        """Number of pictures."""
        return self.shape[0]

    def __iter__(self) -> Iterator[np.ndarray]:
        """One picture after the other, (H, W, C), as of an array."""
        for chunk in self._in_order():
            yield from chunk

    def names(self) -> list[str]:
        """As the argument; where nothing else can tell, the pictures are decoded for it."""
        if not self._names:
            self._decode()  # once, and kept: files that nobody vouches for may be others the next time
            self._names = [_digest(self._in_order())]
        return self._names

    def first_pictures(self) -> np.ndarray:
        """The pictures of ``first``, as an array that lies in a file: (len(first), H, W, C), uint8."""
        return self._decode()[: len(self.first)]

    def tokens(self, nearest: NearestColors, check: bool) -> tuple[NDArray[Any], Path]:
        """The tokens of all pictures, mapped from a file that is written where there is none, and that file.

        Args:
            nearest: The colours.
            check: Whether to compare the file's checksum, for which all of it is read; one process of a machine does.

        Shape:
            - output: (N, H*W), uint8 or int16
        """
        if self._tokens is None:
            centroids = nearest.centroids
            dtype, shape = np.dtype(token_type(len(centroids))), (self.shape[0], self.shape[1] * self.shape[2])
            colors = hashlib.sha256(np.ascontiguousarray(centroids, np.float32).data).hexdigest()
            paths = [self._path([name, self.shape, centroids.shape, colors]) for name in self.names()]
            path = next((path for path in paths if path.exists()), paths[0])
            tokens = _read(path, shape, dtype, check)
            if tokens is None:
                self._write(path, shape, dtype, nearest)
                tokens = _read(path, shape, dtype, check=False)
            if tokens is None:
                raise UserError(f"{path} was damaged as soon as it was written: see to its disk, and start again")
            self._tokens, self._pixels = (tokens, path), None
        return self._tokens

    def _path(self, key: list[Any]) -> Path:
        from lt_cli.data import cache  # which imports torch

        digest = hashlib.sha256(json.dumps([VERSION, *key]).encode()).hexdigest()
        return cache.place("tokens", digest, self._directory).with_suffix(".npy")

    def _write(self, path: Path, shape: tuple[int, int], dtype: np.dtype[Any], nearest: NearestColors) -> None:
        from lightning.pytorch.utilities import rank_zero_info

        num_bytes = math.prod(shape) * dtype.itemsize
        rank_zero_info(f"{shape[0]:,} pictures are beyond memory_limit: {num_bytes:,} bytes of tokens go to {path}")
        checksum = 0
        with self._room(path.parent, num_bytes, "tokens"), written_whole(path, f".{uuid.uuid4().hex}.part") as file:
            header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for chunk in self._in_order():
                tokens = nearest.quantize(chunk).data
                checksum = zlib.crc32(tokens, checksum)
                file.write(tokens)
            file.write(checksum.to_bytes(CHECKSUM, "little"))

    def _decode(self) -> np.ndarray:
        """All pictures in a file without a name, those of ``first`` ahead, so that these lie side by side."""
        if self._pixels is None:
            from lt_cli.data import cache  # which imports torch

            ahead = np.zeros(len(self), bool)
            ahead[self.first] = True
            places = [0, len(self.first)]
            self._place = np.where(ahead, ahead.cumsum(), len(self.first) + (~ahead).cumsum()) - 1
            size, row = math.prod(self.shape[1:]), 0
            directory = cache.place("pictures", "", self._directory).parent
            with (
                self._room(directory, len(self) * size, "decoded pictures, for a while"),
                tempfile.TemporaryFile(dir=directory) as file,  # the system removes it, however this process ends
            ):
                for chunk in self._chunks():
                    among_first = ahead[row : row + len(chunk)]
                    for part, rows in enumerate((among_first, ~among_first)):
                        file.seek(places[part] * size)
                        file.write(chunk[rows].data)  # a full disk is an error here; through a map it is the end
                        places[part] += int(rows.sum())
                    row += len(chunk)
                file.flush()
                self._pixels = np.asarray(np.memmap(file, np.uint8, "r", shape=self.shape))
        return self._pixels

    def _in_order(self) -> Iterator[np.ndarray]:
        """Some pictures at a time: from the file where they are in one, else decoded."""
        if self._pixels is None:
            yield from self._chunks()
        else:
            step = chunk_rows(self.shape)
            for start in range(0, len(self), step):
                yield self._pixels[self._place[start : start + step]]

    @contextlib.contextmanager
    def _room(self, directory: Path, num_bytes: int, what: str) -> Iterator[None]:
        """A directory that these bytes are written to; says so where they cannot be, if possible before the work."""
        try:
            directory.mkdir(parents=True, exist_ok=True)
            if (free := shutil.disk_usage(directory).free) < num_bytes:
                raise OSError(f"{free:,} are free")
            yield
        except OSError as error:
            limit = math.ceil(math.prod(self.shape) / 2**30 * 100) / 100
            raise UserError(
                f"{directory} cannot take {num_bytes:,} bytes of {what} ({one_line(error)}): make room there, "
                f"or set --data.memory_limit={limit:g} to keep the pictures in memory"
            ) from error


def _digest(chunks: Iterator[np.ndarray]) -> str:
    """What differs wherever pictures do."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(np.ascontiguousarray(chunk).data)
    return digest.hexdigest()


def _read(path: Path, shape: tuple[int, int], dtype: np.dtype[Any], check: bool) -> NDArray[Any] | None:
    """The mapped tokens, or None where there is no such file or it is damaged."""
    if not path.exists():
        return None
    try:
        # Read through "c", which nothing writes to, as torch takes no array that it could not write to.
        tokens = np.lib.format.open_memmap(path, mode="c")
        end = tokens.offset + tokens.nbytes
        if (tokens.shape, tokens.dtype, path.stat().st_size) != (shape, dtype, end + CHECKSUM):
            raise ValueError(f"its size is not that of {shape[0]:,} pictures")
        if check:
            with path.open("rb") as file:
                file.seek(end)
                if zlib.crc32(tokens.data) != int.from_bytes(file.read(), "little"):
                    raise ValueError("its checksum is another one")
    except Exception as error:  # damaged files fail in many ways
        from lightning.pytorch.utilities import rank_zero_warn

        rank_zero_warn(f"computing the tokens anew, as {path} is damaged: {one_line(error)}")
        return None
    return np.asarray(tokens)
