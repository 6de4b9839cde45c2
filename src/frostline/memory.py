"""Memory: what the C library keeps for the next step, what nobody fills or looks through, and what a run gives back."""

import atexit
import ctypes
import gc
import sys
from collections.abc import Callable
from functools import cache

import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Numbers of glibc's options, as its malloc.h has them."""

_LARGEST = 32 * 2**20
"""Bytes of the largest block that glibc can be told to keep: half of what it reserves for a thread."""


@cache
def keep_freed_memory() -> None:
    """Tell glibc to keep freed memory rather than to give it back to the system, where the process runs on it.

    A step takes and frees the same blocks as the step before. By default most of them come from the system anew, which
    fills each page with zeros when it is first touched. See mallopt(3); other C libraries have no such function.
    """
    mallopt = _of_glibc("mallopt")
    mallopt(_MMAP_THRESHOLD, _LARGEST)
    mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def leave_new_memory_unfilled() -> None:
    """Tell torch not to fill new memory with NaN, which it does where algorithms are to be deterministic.

    Each layer's output would be written twice: a twentieth of a training step, a tenth of a pass in evaluation. Numbers
    stay the same, unless a layer reads what nothing has written. See torch.utils.deterministic.
    """
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


@cache
def look_past_what_is_loaded() -> None:
    """Let Python's collector look past all that is in memory by now, modules above all.

    It takes half a second to look through them, which a study does before each run. What of it is given up later is not
    freed where it refers to itself: this is for a program before its work begins, not for a library. See gc.freeze.
    """
    gc.freeze()
    atexit.register(gc.unfreeze)  # libraries that count what is left of theirs at the end would find all of it


def give_back_freed_memory() -> None:
    """Give back to the system what nothing needs now, such as what an earlier run has left. See malloc_trim(3)."""
    gc.collect()  # a trainer, its loops and its callbacks know each other, and are not freed by counting
    _of_glibc("malloc_trim")(0)


def _of_glibc(name: str) -> Callable[..., object]:
    """Return a function of the C library, or one that does nothing where it has none of this name."""
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    return getattr(library, name, lambda *_: None)
