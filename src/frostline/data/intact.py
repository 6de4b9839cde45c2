"""Proof that image files decode, before any run depends on them."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

from frostline.data.pixels import content_of, opened, problem_of
from frostline.errors import DataError

_LISTED = 5


def intact_digests(where: str, names: Sequence[str], files: Sequence[bytes | Path]) -> list[str]:
    """Hash every file and prove that it decodes, so that no run dies of an image in its last epoch.

    Args:
        where: The config key and its value, for the message.
        names: What people call each file.
        files: The files, or their bytes.

    Returns:
        The SHA-256 of each file, hexadecimal.

    Raises:
        DataError: Some do not decode; the first five are named.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = [pair for part in pool.map(_inspect, _chunks(files, 256)) for pair in part]
    broken = [f"'{name}' ({problem})" for name, (_, problem) in zip(names, found, strict=True) if problem]
    if broken:
        raise DataError(f"{where}: cannot read {some_of(broken)}; replace or remove what is broken")
    return [digest for digest, _ in found]


def some_of(broken: Sequence[str]) -> str:
    """List the first five, and count the others."""
    more = f" and {len(broken) - _LISTED} more" if len(broken) > _LISTED else ""
    return ", ".join(broken[:_LISTED]) + more


def _chunks(files: Sequence[bytes | Path], size: int) -> list[Sequence[bytes | Path]]:
    return [files[begin : begin + size] for begin in range(0, len(files), size)]


def _inspect(files: Sequence[bytes | Path]) -> list[tuple[str, str]]:
    return [_digest_and_problem(file) for file in files]


def _digest_and_problem(file: bytes | Path) -> tuple[str, str]:
    try:
        content = content_of(file)
        opened(content, least=32)
    except Exception as error:  # Pillow's formats raise whatever they stumble over
        return "", problem_of(error)
    return sha256(content).hexdigest(), ""
