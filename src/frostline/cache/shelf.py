"""Tensors on disk by name: each entry is made once and whole, whatever processes do, and the least used go first."""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from zlib import crc32

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from frostline.data.whole import PARTIAL, NotWritten, whole_or_not

_LOCKS = "locks"
_SUMS = "checksums"
_LOOK_UP = 0.5
"""Seconds after which a process that waits for another one looks up, in case that it was asked to stop."""
_AT_A_TIME = 1 << 20
"""Bytes that are read at a time."""


class Hurried(Exception):  # noqa: N818 (no error: who asked to stop does not wait for what would be kept)
    """The run was asked to stop while something was computed to be kept, by it or by another one."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The shape and type of a tensor that is kept, and whether its channels, the second side, lie innermost."""

    sides: tuple[int, ...]
    dtype: torch.dtype
    channels_last: bool = False

    @property
    def bytes(self) -> int:
        """What it takes in storage."""
        return prod(self.sides) * self.dtype.itemsize

    def laid_out(self, flat: Tensor) -> Tensor:
        """Return a tensor of one side as one of this shape, with nothing copied."""
        if self.channels_last:
            rows, channels, *place = self.sides
            return flat.view(rows, *place, channels).movedim(-1, 1)
        return flat.view(self.sides)

    def zeros(self, device: torch.device) -> Tensor:
        """Return a tensor of this shape that holds nothing yet."""
        return self.laid_out(torch.zeros(prod(self.sides), dtype=self.dtype, device=device))


class Shelf:
    """Entries in a folder, each a folder of files that are mapped into memory.

    An entry comes into being whole, by the renaming of its folder, so that a process that is killed leaves none by
    half; processes that want the same one wait for the first. Whoever reads an entry that is thrown out keeps it.

    Args:
        folder: Where the entries are.
        limit: How many bytes they may take together.
    """

    def __init__(self, folder: Path, *, limit: int) -> None:
        self._folder = folder
        self._limit = limit

    def entry(
        self,
        name: str,
        shapes: Sequence[Shape],
        fill: Callable[[Sequence[Tensor]], None],
        *,
        right: Callable[[Sequence[Tensor]], bool] = lambda _: True,
        hurried: Callable[[], bool] = lambda: False,
    ) -> list[Tensor]:
        """Return the tensors of an entry, made now where they are not here.

        Args:
            name: What tells its content from any other.
            shapes: Of its tensors.
            fill: Writes them into the tensors that it is given.
            right: Tells whether an entry that is here holds what it should; one that does not is made anew.
            hurried: Tells whether to wait no longer for a process that is making it.

        Raises:
            Hurried: It was not waited for.
            NotWritten: There is no room, or no right to write there.
        """
        place = self._folder / name
        try:
            (self._folder / _LOCKS).mkdir(parents=True, exist_ok=True)
            with self._turn(name, hurried):
                if _is_whole(place, shapes) and right(found := _opened(place, shapes)):
                    os.utime(place)
                    return found
                self._throw_out(place)
                for left in self._folder.glob(f"{PARTIAL}{name}-*"):  # by a process that was killed
                    shutil.rmtree(left, ignore_errors=True)
                self._make_room(sum(shape.bytes for shape in shapes))
                with whole_or_not(place) as partial:
                    _write(partial, shapes, fill)
                return _opened(place, shapes)
        except OSError as error:
            raise NotWritten(self._folder, error) from error

    def made(self, name: str) -> tuple[str, int, int]:
        """Return what tells an entry that is here from others of its name: which file its checksums are, and when."""
        sums = self._folder / name / _SUMS
        return str(sums), sums.stat().st_ino, sums.stat().st_mtime_ns

    def _lock(self, name: str, timeout: float) -> FileLock:
        return FileLock(self._folder / _LOCKS / name, timeout=timeout)

    @contextmanager
    def _turn(self, name: str, hurried: Callable[[], bool]) -> Iterator[None]:
        """Hold the lock of an entry, once no other process does."""
        lock = self._lock(name, timeout=_LOOK_UP)
        while not lock.is_locked:
            try:
                lock.acquire()
            except Timeout:
                if hurried():
                    raise Hurried from None
        try:
            yield
        finally:
            lock.release()

    def _make_room(self, wanted: int) -> None:
        """Throw out what is left of other entries by half, and those used least recently until there is room."""
        self._sweep()
        entries = sorted(self._entries(), key=lambda entry: entry[0])
        taken = wanted + sum(size for _, size, _ in entries)
        for _, size, place in entries:
            if taken <= self._limit:
                return
            with self._unless_in_use(place.name) as free:
                if free:
                    self._throw_out(place)
                    taken -= size

    def _sweep(self) -> None:
        """Remove what is not whole and nobody works on."""
        for left in self._folder.glob(f"{PARTIAL}*"):
            with self._unless_in_use(left.name.removeprefix(PARTIAL).partition("-")[0]) as free:
                if free:
                    shutil.rmtree(left, ignore_errors=True)

    @contextmanager
    def _unless_in_use(self, name: str) -> Iterator[bool]:
        """Hold the lock of an entry, and tell whether it could be had at once."""
        lock = self._lock(name, timeout=0)
        try:
            lock.acquire()
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def _throw_out(self, place: Path) -> None:
        """Remove an entry; first its name goes, so that it is never there by half."""
        gone = self._folder / f"{PARTIAL}{place.name}-gone"
        shutil.rmtree(gone, ignore_errors=True)
        with suppress(FileNotFoundError):
            place.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)
            gone.unlink()  # a file, where somebody has put one

    def _entries(self) -> list[tuple[float, int, Path]]:
        """Return when each entry was used, what it takes, and where it is; others may be throwing them out just now."""
        found = []
        for place in self._folder.iterdir():
            with suppress(FileNotFoundError):
                if place.is_dir() and place.name != _LOCKS and not place.name.startswith(PARTIAL):
                    size = sum(file.stat().st_size for file in place.iterdir())
                    found.append((place.stat().st_mtime, size, place))
        return found


def _is_whole(place: Path, shapes: Sequence[Shape]) -> bool:
    """Tell whether an entry is there, with all its files, each as long as it must be and as it was written."""
    files = [place / str(i) for i in range(len(shapes))]
    if not all(file.is_file() and file.stat().st_size == s.bytes for file, s in zip(files, shapes, strict=True)):
        return False
    return (place / _SUMS).is_file() and (place / _SUMS).read_bytes() == _sums(files).encode()


def _sums(files: Sequence[Path]) -> str:
    """Return the checksums of files, a line each: they may have been damaged since, by a disk for one."""
    return "".join(f"{_sum(file):08x}\n" for file in files)


def _sum(file: Path) -> int:
    found = 0
    with file.open("rb") as opened:
        while part := opened.read(_AT_A_TIME):
            found = crc32(part, found)
    return found


def _opened(place: Path, shapes: Sequence[Shape]) -> list[Tensor]:
    return [_mapped(place / str(i), shape, shared=False) for i, shape in enumerate(shapes)]


def _write(folder: Path, shapes: Sequence[Shape], fill: Callable[[Sequence[Tensor]], None]) -> None:
    files = [folder / str(i) for i in range(len(shapes))]
    for file, shape in zip(files, shapes, strict=True):
        with file.open("wb") as opened:
            _take_room(opened.fileno(), shape.bytes)
    fill([_mapped(file, shape, shared=True) for file, shape in zip(files, shapes, strict=True)])
    (folder / _SUMS).write_text(_sums(files))
    for file in (*files, folder / _SUMS):
        with file.open("rb+") as opened:
            os.fsync(opened.fileno())


def _take_room(file: int, size: int) -> None:
    """Take room on the disk, where the system can: writing to a map of a full disk would kill the process."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
    else:  # macOS
        os.truncate(file, size)


def _mapped(file: Path, shape: Shape, *, shared: bool) -> Tensor:
    """Map a file into memory; what is not shared is never written back."""
    return shape.laid_out(torch.from_file(str(file), shared=shared, size=prod(shape.sides), dtype=shape.dtype))
