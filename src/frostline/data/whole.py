"""Folders in the user's cache that are there whole or not at all, whatever other processes do or a kill leaves."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

PARTIAL = ".partial-"
"""What the name of a folder begins with that is not whole yet, or never became so."""


class NotWritten(Exception):  # noqa: N818 (whether it is an error, who asked must say)
    """A folder cannot be written; says which and why, and where the user's cache may be put instead."""

    def __init__(self, folder: Path, error: OSError) -> None:
        super().__init__(
            f"{folder} cannot be written to ({error.strerror or error}); set the environment variable XDG_CACHE_HOME "
            "to a folder that has room and is yours"
        )


def cache_folder() -> Path:
    """Return where this program keeps what it can make again: below `$XDG_CACHE_HOME`, else `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "frostline"


@contextmanager
def whole_or_not(folder: Path) -> Iterator[Path]:
    """Give a folder of another name to write to, and this name once all is written.

    Raises:
        NotWritten: There is no room, or no right to write there.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(mkdtemp(dir=folder.parent, prefix=f"{PARTIAL}{folder.name}-"))
    except OSError as error:
        raise NotWritten(folder.parent, error) from error
    try:
        yield partial
        _take_name(partial, folder)
    except OSError as error:
        raise NotWritten(folder.parent, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _take_name(partial: Path, folder: Path) -> None:
    try:
        partial.rename(folder)
    except OSError:
        if not folder.exists():  # else another process was first, with the same content
            raise
