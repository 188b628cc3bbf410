"""Features of videos by the videos' ids: numbers for each frame, which another network has made of it."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lt_cli.errors import UserError, did_you_mean, one_line, some_of

KINDS = ("i3d_flow", "i3d_rgb", "vggish")
"""What the AVSD challenges give of each video: I3D of its motion and of its pictures, VGGish of its sound."""
SHOWN = 3
"""Videos that a message names."""


class VideoFeatures(ABC):
    """Features of videos by their ids; constructing one reads nothing.

    Attributes:
        dim: Numbers of a frame; known after ``check``.
    """

    dim: int

    def prepare(self) -> None:  # noqa: B027  # most have nothing to download
        """Downloads what is missing, on one process."""

    @abstractmethod
    def check(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """The number of frames of each video, as ``frames`` gives them.

        Args:
            ids: The videos; one may be there more than once.

        Shape:
            - output: (len(ids),), at least 1

        Raises:
            UserError: If videos have no features, or not as many numbers for each frame as others: which.
        """

    @abstractmethod
    def frames(self, video_id: str) -> NDArray[np.float32]:
        """The features of one video.

        Shape:
            - output: (T, dim)
        """


class NpyFeatures(VideoFeatures):
    """Features in files of numpy, PATH/KIND/VIDEO.npy, each (T, D): as the AVSD challenges give them.

    The kinds of a video are put side by side, and cut to the shortest. Files are read when they are needed, and
    only what is needed of them.

    Args:
        path: Folder of the folders of kinds.
        kinds: Folders in it, in the order in which a frame has them; null where path has the files itself.
        max_frames: Frames of a video, at most; of more, so many are taken that are evenly spaced, with the first and
            the last, or the middle one for 1. null for no limit.

    Raises:
        UserError: If kinds is empty or names one twice, or max_frames is below 1.
    """

    def __init__(self, path: str, *, kinds: Sequence[str] | None = KINDS, max_frames: int | None = None) -> None:
        """Reads nothing."""
        if kinds is not None and (not kinds or len({*kinds}) < len(kinds)):
            raise UserError(f"kinds ({list(kinds)}) must name one folder at least, and each once; null for none")
        if max_frames is not None and max_frames < 1:
            raise UserError(f"max_frames ({max_frames}) must be at least 1, or null for all")
        self.path, self.max_frames = Path(path).expanduser(), max_frames
        self.kinds = [""] if kinds is None else list(kinds)
        self._first: dict[str, tuple[str, int]] = {}

    def check(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """As above; of the files only the first bytes are read."""
        self._check_folders()
        counts: dict[str, int] = {}
        wrong: dict[str, str] = {}
        for video in dict.fromkeys(ids):
            try:
                counts[video] = self._num_frames(video)
            except _Unusable as error:
                wrong[video] = str(error)
        if wrong:
            raise UserError(
                f"{len(wrong):,} of {len(wrong) + len(counts):,} videos have no features that can be used in "
                f"{self.path}: {some_of([*wrong.values()], SHOWN, '; ')}: leave these dialogs out, or give the files"
            )
        self.dim = sum(dim for _, dim in self._first.values())
        return np.array([counts[video] for video in ids], dtype=np.int64)

    def frames(self, video_id: str) -> NDArray[np.float32]:
        """As above, joined and cut."""
        files = [self._file(kind, video_id) for kind in self.kinds]
        arrays = [_mapped(file) for file in files]
        rows = self._taken(min(map(len, arrays)))
        with np.errstate(over="ignore"):  # refused below
            parts = [np.asarray(array[rows], dtype=np.float32) for array in arrays]
        for file, part in zip(files, parts, strict=True):
            if not np.isfinite(part).all():
                raise UserError(f"{file} has numbers that are not finite as float32: mend it, or leave the video out")
        return np.concatenate(parts, axis=1)

    def _taken(self, num_frames: int) -> slice | NDArray[np.int64]:
        """Which of a video's frames are taken."""
        wanted = self.max_frames
        if wanted is None or num_frames <= wanted:
            return slice(num_frames)
        if wanted == 1:
            return np.array([(num_frames - 1) // 2])
        return np.arange(wanted) * (num_frames - 1) // (wanted - 1)

    def _file(self, kind: str, video: str) -> Path:
        return self.path / kind / f"{video}.npy"

    def _check_folders(self) -> None:
        if not self.path.is_dir():
            raise UserError(
                f"features.path ({self.path}) must be a folder, and there is none: correct --data.features.path"
            )
        for kind in self.kinds:
            if not (self.path / kind).is_dir():
                there = sorted(folder.name for folder in self.path.iterdir() if folder.is_dir())
                cure = (
                    did_you_mean(kind, there)
                    or ": correct --data.features.kinds, or set it to null where the folder has the files"
                )
                raise UserError(
                    f"{self.path} has no folder {kind!r} of kinds {self.kinds}, only "
                    f"{', '.join(there[:10]) or 'none'}{cure}"
                )

    def _num_frames(self, video: str) -> int:
        """How many frames of a video are taken, by the first bytes of its files."""
        if not video or video in (".", "..") or {*video} & {"/", "\\", "\0"}:
            raise _Unusable(f"{video!r:.80}, an id that is no file's name")
        lengths = []
        for kind in self.kinds:
            file = self._file(kind, video)
            try:
                length, dim = _shape(file)
                first, usual = self._first.setdefault(kind, (video, dim))
                if dim != usual:
                    raise _Unusable(f"has {dim:,} numbers for each frame, where that of {first} has {usual:,}")
            except _Unusable as error:
                raise _Unusable(f"{file.relative_to(self.path)} {error}") from error
            lengths.append(length)
        return min(lengths) if self.max_frames is None else min(*lengths, self.max_frames)


class _Unusable(Exception):
    """Why a file is of no use, to go behind its name."""


def _shape(file: Path) -> tuple[int, int]:
    """Frames, and numbers for each, of a file that has all that it says."""
    try:
        with file.open("rb") as stream:
            size = stream.seek(0, 2)
            if not size:
                raise _Unusable("is empty")
            stream.seek(0)
            shape, kind, expected = _header(stream)
    except FileNotFoundError as error:
        raise _Unusable("is missing") from error
    except OSError as error:
        raise _Unusable(f"cannot be read: {error.strerror}") from error
    if kind.kind != "f":
        raise _Unusable(f"has numbers of type {kind}, where they must be floats")
    if len(shape) != 2 or not shape[1]:
        raise _Unusable(f"must be of shape (frames, numbers for each), and is {shape}")
    if not shape[0]:
        raise _Unusable("has no frame")
    if size < expected:
        raise _Unusable(f"is cut off: it has {size:,} bytes, where it says {expected:,}")
    return shape[0], shape[1]


def _header(stream: Any) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Shape and type of a file's array, and the bytes that the file must have."""
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, kind = read(stream)
    except ValueError as error:
        raise _Unusable("is no .npy of numpy, which np.save writes") from error
    count = 1
    for length in shape:
        count *= length
    return shape, kind, stream.tell() + count * kind.itemsize


def _mapped(file: Path) -> NDArray[Any]:
    """A file's array, of which only what is looked at is read."""
    try:
        array: NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or one_line(error)
        raise UserError(f"{file} cannot be read: {said}: mend it, or leave the video out") from error
    return array
