"""Plain PNG files, many at once: as Pillow reads them one by one, or not at all."""

import io
import struct
import zlib
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from lt_cli.data.png import MAX_PIXELS, decode_pngs

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(lines: bytes, height: int, width: int, channels: int, pieces: int = 1) -> bytes:
    """A file of lines that are filtered already, in several pieces."""
    header = struct.pack(">2I5B", width, height, 8, {1: 0, 3: 2}[channels], 0, 0, 0)
    packed = zlib.compress(lines)
    ends = [len(packed) * piece // pieces for piece in range(pieces + 1)]
    parts = [chunk(b"IDAT", packed[start:end]) for start, end in pairwise(ends)]
    return SIGNATURE + chunk(b"IHDR", header) + b"".join(parts) + chunk(b"IEND", b"")


def saved(picture: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, "png", **options)
    return file.getvalue()


def by_pillow(files: list[bytes]) -> np.ndarray:
    images = np.stack([np.asarray(Image.open(io.BytesIO(file))) for file in files])
    return images[..., None] if images.ndim == 3 else images


def picture(*shape: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(5, 7), (1, 1), (1, 9), (32, 32)])
def test_every_filter(size: tuple[int, int], channels: int) -> None:
    """Each line has a filter of its own; the first lines too, which have nothing above them."""
    height, width = size
    rng = np.random.default_rng(0)
    lines = rng.integers(0, 256, (60, height, 1 + width * channels), dtype=np.uint8)
    lines[..., 0] = rng.integers(0, 5, (60, height))
    files = [png(line.tobytes(), height, width, channels, pieces=1 + row % 3) for row, line in enumerate(lines)]
    found = decode_pngs(files, (height, width, channels))
    assert found is not None
    assert found.shape == (60, height, width, channels)
    np.testing.assert_array_equal(found, by_pillow(files))


def test_as_pillow_writes_them() -> None:
    files = [saved(picture(16, 16, 3, seed=seed), optimize=seed % 2 == 0) for seed in range(20)]
    np.testing.assert_array_equal(decode_pngs(iter(files), (16, 16, 3)), by_pillow(files))  # type: ignore[arg-type]


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(picture(4, 4, 3), exif=exif)


def noted() -> bytes:
    note = PngImagePlugin.PngInfo()
    note.add_text("by", "me")
    return saved(picture(4, 4, 3), pnginfo=note)


GOOD = saved(picture(4, 4, 3))
LINES = bytes(4 * 13)


@pytest.mark.parametrize(
    "make",
    [
        lambda: None,
        lambda: b"",
        lambda: b"GIF89a",
        lambda: saved(picture(4, 4)),
        lambda: saved(picture(4, 4, 4)),
        lambda: saved(picture(4, 4, 3).quantize(4)),
        lambda: saved(picture(4, 5, 3)),
        lambda: saved(Image.fromarray(np.zeros((4, 4), np.uint16))),
        lambda: saved(picture(4, 4, 3), transparency=(1, 2, 3)),
        turned,
        noted,
        lambda: GOOD[:-1],
        lambda: GOOD[:60],
        lambda: GOOD[:-12],
        lambda: GOOD[:50] + bytes([GOOD[50] ^ 1]) + GOOD[51:],
        lambda: GOOD[:20] + bytes([GOOD[20] ^ 1]) + GOOD[21:],
        lambda: png(LINES[:-1], 4, 4, 3),
        lambda: png(LINES + b"\0", 4, 4, 3),
        lambda: png(b"\x05" + LINES[1:], 4, 4, 3),
        lambda: png(LINES, 4, 4, 3)[: len(SIGNATURE) + 25] + chunk(b"IDAT", b"no zlib") + chunk(b"IEND", b""),
        lambda: (
            png(LINES, 4, 4, 3)[: len(SIGNATURE) + 25] + chunk(b"IDAT", zlib.compress(LINES)[:-1]) + chunk(b"IEND", b"")
        ),
    ],
)
@pytest.mark.parametrize("place", [0, 2])
def test_left_to_pillow(make: Callable[[], bytes | None], place: int) -> None:
    """Whatever says more than plain lines, is damaged, or of another size."""
    files: list[bytes | None] = [GOOD, GOOD, GOOD]
    assert decode_pngs(files, (4, 4, 3)) is not None
    files[place] = make()
    assert decode_pngs(files, (4, 4, 3)) is None


def test_large_ones_are_not_taken() -> None:
    """Nor is any more read than one that is not plain."""
    side = int(MAX_PIXELS**0.5) + 1
    assert decode_pngs([saved(picture(side, side, 3))], (side, side, 3)) is None
    files = iter([b"no picture", GOOD])
    assert decode_pngs(files, (4, 4, 3)) is None
    assert next(files) == GOOD
