"""Text of any size as blocks of tokens on disk: written once, as a stream, and read by the block."""

import json
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frostline.data.whole import NotWritten, cache_folder, whole_or_not
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
    def longest(self) -> int:
        """The tokens of the longest block."""
        return int(np.diff(self._ends, prepend=0).max(initial=0))

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
    if folder.exists():
        return TokenFile(folder)
    kind = np.dtype(np.uint16 if largest < 2**16 else np.uint32)
    try:
        with whole_or_not(folder) as partial:
            count = _write(partial, blocks(), kind)
            (partial / _ABOUT).write_text(json.dumps({"type": kind.name, "blocks": count, **about()}))
    except NotWritten as error:
        raise DataError(f"data: no place for its tokens: {error}") from error
    return TokenFile(folder)


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
