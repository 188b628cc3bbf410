"""Many small PNG files at once: one call of Pillow for all of them, as a call takes longer than its picture does.

The lines of all pictures, still filtered, are put below each other, with a blank line after each picture, as the first
line of the next is filtered against nothing; the whole is then unfiltered as one tall picture.
"""

import struct
import zlib
from collections.abc import Iterable

import numpy as np
from PIL import Image

MAX_PIXELS = 2**14
"""Of a picture; larger ones take so long that a call each does not matter."""


def decode_pngs(files: Iterable[bytes | None], shape: tuple[int, ...]) -> np.ndarray | None:
    """The pictures, or None unless all of them are whole PNG files of the plainest kind: 8 bits, and nothing else told.

    Anything more (transparency, a palette, an orientation, damage) is for Pillow to understand, or to refuse.

    Args:
        files: The contents of some hundred files at most; None is no such file. No more is taken after the first one
            that is not plain.
        shape: (H, W, C) that all must have.

    Shape:
        - output: (N, H, W, C), uint8
    """
    height, width, channels = shape
    line = 1 + width * channels  # the kind of filter comes first
    if height * width > MAX_PIXELS:
        return None
    header = struct.pack(">4s2I5B", b"IHDR", width, height, 8, {1: 0, 3: 2}[channels], 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    parts = []
    try:
        for content in files:
            if content is None or not content.startswith(start):
                return None
            inflate = zlib.decompressobj()
            parts.append(inflate.decompress(_compressed(content, len(start)), height * line + 1))
            if len(parts[-1]) != height * line or not inflate.eof:
                return None
            parts.append(bytes(line))
        mode = "L" if channels == 1 else "RGB"
        size = (width, (height + 1) * (len(parts) // 2))
        tall = Image.frombytes(mode, size, zlib.compress(b"".join(parts), 0), "zip", mode)
    except (struct.error, zlib.error, ValueError):
        return None
    return np.asarray(tall).reshape(-1, height + 1, width, channels)[:, :-1]


def _compressed(content: bytes, at: int) -> bytes:
    """The compressed lines, which must be all that a file has from a place on.

    Raises:
        ValueError: If there is anything else, or a checksum is wrong.
        struct.error: If the file ends before its time.
    """
    parts: list[bytes] = []
    while True:
        length, kind = struct.unpack_from(">I4s", content, at)
        (checksum,) = struct.unpack_from(">I", content, at + 8 + length)
        if kind not in (b"IDAT", b"IEND") or zlib.crc32(content[at + 4 : at + 8 + length]) != checksum:
            raise ValueError("not plain, or damaged")
        if kind == b"IEND":
            return b"".join(parts)
        parts.append(content[at + 8 : at + 8 + length])
        at += 12 + length
