"""Text of any size as blocks of tokens on disk: written once, as a stream, and read by the block."""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frostline.errors import DataError

_TOKENS, _ENDS, _DIGESTS, _ABOUT = "tokens.bin", "ends.bin", "digests.bin", "about.json"


class TokenFile:
    """Blocks of tokens in a folder, mapped into memory; a copy of it in another process maps them again.

    Args:
        folder: Where they are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.about: dict[str, Any] = json.loads((folder / _ABOUT).read_text())

    def __reduce__(self) -> tuple[type["TokenFile"], tuple[Path]]:
        return TokenFile, (self.folder,)

    def __len__(self) -> int:
        return int(self.about["blocks"])

    def __getitem__(self, row: int) -> NDArray[np.int64]:
        """Return the tokens of one block."""
        begin = self._ends[row - 1] if row else 0
        return np.asarray(self._tokens[begin : self._ends[row]]).astype(np.int64)

    @property
    def digests(self) -> tuple[str, ...]:
        """The content of each block, as a hexadecimal SHA-256."""
        content = (self.folder / _DIGESTS).read_bytes()
        return tuple(content[begin : begin + 32].hex() for begin in range(0, len(content), 32))

    @cached_property
    def _tokens(self) -> NDArray[Any]:
        return np.memmap(self.folder / _TOKENS, dtype=self.about["type"], mode="r")

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        return np.memmap(self.folder / _ENDS, dtype=np.int64, mode="r")


def token_file(
    name: str, blocks: Callable[[], Iterable[NDArray[Any]]], about: Callable[[], dict[str, Any]], *, largest: int
) -> TokenFile:
    """Return the blocks that a name stands for, written now where they are not in the user's cache yet.

    They are there whole or not at all, whatever other processes do and whenever this one is killed.

    Args:
        name: What tells them from all others.
        blocks: Makes them, one at a time.
        about: Tells, once all are made, what is kept beside them.
        largest: The largest token that may stand in them.

    Raises:
        DataError: They cannot be written.
    """
    folder = cache_folder() / name
    if not folder.exists():
        with _whole_or_not(folder) as partial:
            kind = np.dtype(np.uint16 if largest < 2**16 else np.uint32)
            count = _write(partial, blocks(), kind)
            (partial / _ABOUT).write_text(json.dumps({"type": kind.name, "blocks": count, **about()}))
    return TokenFile(folder)


def cache_folder() -> Path:
    """Return where this program keeps what it can make again: below `$XDG_CACHE_HOME`, else `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "frostline"


def _write(folder: Path, blocks: Iterable[NDArray[Any]], kind: np.dtype[Any]) -> int:
    end = count = 0
    with ExitStack() as stack:
        tokens, ends, digests = (stack.enter_context((folder / n).open("wb")) for n in (_TOKENS, _ENDS, _DIGESTS))
        for block in blocks:
            content = block.astype(kind).tobytes()
            end, count = end + len(block), count + 1
            tokens.write(content)
            ends.write(np.int64(end).tobytes())
            digests.write(sha256(content).digest())
    return count


@contextmanager
def _whole_or_not(folder: Path) -> Iterator[Path]:
    """Give a folder of another name to write to, and this name once all is written."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(mkdtemp(dir=folder.parent, prefix=f".{folder.name[:8]}."))
    except OSError as error:
        raise DataError(_unwritten(folder.parent, error)) from error
    try:
        yield partial
        _take_name(partial, folder)
    except OSError as error:
        raise DataError(_unwritten(partial.parent, error)) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _unwritten(folder: Path, error: OSError) -> str:
    return (
        f"data: tokens cannot be written into {folder} ({error.strerror}); set the environment variable XDG_CACHE_HOME "
        "to a folder that has room and is yours"
    )


def _take_name(partial: Path, folder: Path) -> None:
    try:
        partial.rename(folder)
    except OSError:
        if not folder.exists():  # else another process was first, with the same blocks
            raise
