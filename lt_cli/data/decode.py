"""Pictures of every format, size and mode as one array, decoded once."""

import hashlib
import io
import json
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from PIL import ExifTags, Image, ImageOps

from lt_cli.data.mapped import ManyPictures, chunk_rows, is_too_large
from lt_cli.errors import UserError, one_line

Size = tuple[int, int] | None
VERSION = 1
"""Raised when the same files come to give other pictures, so that kept ones are not used."""
SLOW = 1.0
"""Seconds of decoding from which the pictures are kept for the next run."""


@dataclass(frozen=True)
class Origin:
    """Which pictures these are, so that they need not be decoded again.

    Attributes:
        place: The set and its split; for each, one file is kept.
        state: What is another one whenever the pictures are, as ``state_of`` says of files; None where it may not be.
        cache_dir: Where the file goes; None stands for the user's cache directory.
    """

    place: list[str | None]
    state: str | None
    cache_dir: Path | None


def state_of(files: Iterable[Path], *, written_once: bool = False) -> str | None:
    """Names, sizes and modification times; None if any file was modified within the last two seconds.

    Such a file could change again while its times stay, as some file systems count them in steps of two seconds.

    Args:
        files: The files.
        written_once: Whether no file is ever written again, so that it may be a new one.
    """
    digest = hashlib.sha256()
    for path in files:
        status = path.stat()
        if not written_once and status.st_mtime > time.time() - 2:
            return None
        digest.update(json.dumps([str(path), status.st_size, status.st_mtime_ns]).encode())
    return digest.hexdigest()


def decode_once(rows: Any, where: str, size: Size, channels: int, origin: Origin) -> np.ndarray | ManyPictures:
    """``stack_pictures(rows, where, size, channels)``, kept in a file where that takes more than a second.

    Within ``memory_limit``, pictures that are beyond it are not decoded yet.
    """
    pictures_of = _Rows(rows, where, size, channels)
    if is_too_large(pictures_of.shape):
        names = []
        if origin.state is not None:  # a checkpoint says the size that a first fit found, and changes nothing by it
            names = [_name(origin, asked, channels) for asked in dict.fromkeys([size, None])]
        return ManyPictures(pictures_of.shape, pictures_of.chunks, names, origin.cache_dir)
    if origin.state is None:
        return stack_pictures(rows, where, size, channels)
    from lt_cli.data import cache  # which imports torch

    state = json.dumps([origin.state, VERSION, PIL.__version__])
    slot = hashlib.sha256(json.dumps([origin.place, size, channels]).encode()).hexdigest()
    path = cache.place("pictures", slot, origin.cache_dir)
    if (kept := cache.read("pictures", path, state)) is not None:
        return kept["pictures"]
    began = time.monotonic()
    pictures = stack_pictures(rows, where, size, channels)
    if path.exists() or time.monotonic() - began > SLOW:
        cache.write("pictures", path, {"pictures": pictures}, state)
    return pictures


def stack_pictures(rows: Any, where: str, size: Size, channels: int) -> np.ndarray:
    """Every picture with one size and number of channels.

    Args:
        rows: What slices into arrays (H, W, C), PIL images, paths, or dicts with ``bytes`` or a ``path``.
        where: What messages call the rows, where these are no paths.
        size: As in ``ImageSource.load``.
        channels: As in ``ImageSource.load``.

    Shape:
        - output: (N, H, W, C), uint8
    """
    pictures = _Rows(rows, where, size, channels)
    if isinstance(rows, np.ndarray) and rows.shape == pictures.shape:
        return rows
    images = np.empty(pictures.shape, np.uint8)
    pictures.fill(images, 0)
    return images


class _Rows:
    """Rows that decode to pictures of one size; the arguments are those of ``stack_pictures``.

    Attributes:
        shape: (N, H, W, C).
    """

    def __init__(self, rows: Any, where: str, size: Size, channels: int) -> None:
        """Decodes at most the first one, where nothing else says the size."""
        if channels not in (1, 3):
            raise UserError(f"channels ({channels}) must be 1 (grey) or 3 (RGB)")
        if size is not None and min(size) < 1:
            raise UserError(f"size {size} must be a height and a width of at least 1 pixel")
        if len(rows) == 0:
            raise UserError(f"{where}: there are no pictures")
        self._rows, self._where, self._size, self._channels = rows, where, size, channels
        if size is None:
            size = rows.shape[1:3] if isinstance(rows, np.ndarray) else self._decode(0, rows[:1][0]).shape[:2]
        self.shape = (len(rows), *size, channels)

    def fill(self, images: np.ndarray, start: int) -> None:
        """Decodes as many pictures as the array has, in several threads, from this row on."""
        step = min(
            256, -(-len(images) // 8)
        )  # one at a time, small pictures would make the threads wait for each other

        def fill(offset: int) -> None:
            stop = min(offset + step, len(images))
            for row, picture in enumerate(self._rows[start + offset : start + stop], offset):
                image = self._decode(start + row, picture)
                if image.shape != self.shape[1:]:
                    theirs, place = "{}x{}".format(*self.shape[1:3]), self._place(0)
                    sizes = "{}x{} pixels, {} has {}".format(*image.shape[:2], place, theirs)
                    cure = "set size to the height and width that all shall have"
                    raise UserError(f"{self._place(start + row)} has {sizes}: {cure}")
                images[row] = image

        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            list(pool.map(fill, range(0, len(images), step)))

    def chunks(self) -> Iterator[np.ndarray]:
        """Decodes all, some at a time."""
        step = chunk_rows(self.shape)
        for start in range(0, self.shape[0], step):
            images = np.empty((min(step, self.shape[0] - start), *self.shape[1:]), np.uint8)
            self.fill(images, start)
            yield images

    def _decode(self, row: int, picture: Any) -> np.ndarray:
        try:
            return decode(picture, self._size, self._channels)
        except Exception as error:  # Pillow raises many kinds
            said = f"{self._place(row)} is no readable picture ({one_line(error)}); mend or remove it"
            raise UserError(said) from error

    def _place(self, row: int) -> str:
        return str(self._rows[row]) if isinstance(self._rows[row], Path) else f"{self._where}, row {row}"


def _name(origin: Origin, size: Size, channels: int) -> str:
    parts = [origin.place, origin.state, size, channels, VERSION, PIL.__version__]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def decode(picture: Any, size: Size, channels: int) -> np.ndarray:
    """One picture of any kind and mode: (H, W, C), uint8."""
    if isinstance(picture, dict):
        picture = picture["bytes"] or Path(picture["path"])
    if isinstance(picture, Path):
        picture = picture.read_bytes()
    if isinstance(picture, bytes):
        picture = Image.open(io.BytesIO(picture))
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(picture.squeeze(-1) if picture.shape[-1] == 1 else picture)
    turned = picture.getexif().get(ExifTags.Base.Orientation, 1) != 1  # Pillow would copy what is not
    image: Image.Image = ImageOps.exif_transpose(picture) if turned else picture
    if image.mode[0] in "IF":  # Pillow would clip these to 8 bits
        levels = np.asarray(image)
        if image.mode == "F" or levels.min() < 0 or levels.max() > 65535:
            raise ValueError("its values must be integers of 8 or 16 bits")
        image = Image.fromarray(np.rint(levels / 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if image.mode != "RGB" and (image.mode != "L" or channels == 3):
        image = image.convert("RGB")
    if image.mode != "L" and channels == 1:
        image = image.convert("L")
    if size is not None:
        image = ImageOps.fit(image, (size[1], size[0]), Image.Resampling.BICUBIC)
    return np.asarray(image).reshape(image.height, image.width, channels)
