"""Tensors on disk by name: each entry is made once and whole, whatever processes do, and the least used go first."""

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor

from frostline.data.whole import PARTIAL, NotWritten, whole_or_not

_LOCKS = "locks"


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The shape and type of a tensor that is kept."""

    sides: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        """What it takes in storage."""
        return prod(self.sides) * self.dtype.itemsize


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

    def entry(self, name: str, shapes: Sequence[Shape], fill: Callable[[Sequence[Tensor]], None]) -> list[Tensor]:
        """Return the tensors of an entry, made now where they are not here.

        Args:
            name: What tells its content from any other.
            shapes: Of its tensors.
            fill: Writes them into the tensors that it is given.

        Raises:
            NotWritten: There is no room, or no right to write there.
        """
        place = self._folder / name
        try:
            (self._folder / _LOCKS).mkdir(parents=True, exist_ok=True)
            with FileLock(self._folder / _LOCKS / name):
                if not place.exists():
                    self._make_room(sum(shape.bytes for shape in shapes), name)
                    with whole_or_not(place) as partial:
                        _write(partial, shapes, fill)
                os.utime(place)
                return [_mapped(place / str(i), shape, shared=False) for i, shape in enumerate(shapes)]
        except OSError as error:
            raise NotWritten(self._folder, error) from error

    def _make_room(self, wanted: int, name: str) -> None:
        """Throw out what a killed process left of this entry, and the least recently used until there is room."""
        for left in self._folder.glob(f"{PARTIAL}{name[:16]}-*"):
            shutil.rmtree(left, ignore_errors=True)
        entries = sorted(self._entries(), key=lambda entry: entry[0])
        taken = wanted + sum(size for _, size, _ in entries)
        for _, size, place in entries:
            if taken <= self._limit:
                return
            shutil.rmtree(place, ignore_errors=True)
            taken -= size

    def _entries(self) -> list[tuple[float, int, Path]]:
        """Return when each entry was used, what it takes, and where it is; others may be throwing them out just now."""
        found = []
        for place in self._folder.iterdir():
            try:
                if place.name != _LOCKS:
                    size = sum(file.stat().st_size for file in place.iterdir())
                    found.append((place.stat().st_mtime, size, place))
            except FileNotFoundError:
                continue
        return found


def _write(folder: Path, shapes: Sequence[Shape], fill: Callable[[Sequence[Tensor]], None]) -> None:
    files = [folder / str(i) for i in range(len(shapes))]
    for file, shape in zip(files, shapes, strict=True):
        with file.open("wb") as opened:
            _take_room(opened.fileno(), shape.bytes)
    fill([_mapped(file, shape, shared=True) for file, shape in zip(files, shapes, strict=True)])
    for file in files:
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
    flat = torch.from_file(str(file), shared=shared, size=prod(shape.sides), dtype=shape.dtype)
    return flat.view(shape.sides)
