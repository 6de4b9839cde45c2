"""Lets the C library keep the memory that one training step frees for the next one."""

import ctypes
import sys
from functools import cache

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Numbers of glibc's options, as its malloc.h has them."""

_LARGEST = 32 * 2**20
"""Bytes of the largest block that glibc can be told to keep: half of what it reserves for a thread."""


@cache
def keep_freed_memory() -> None:
    """Tell glibc to keep freed memory rather than to give it back to the system, where the process runs on it.

    A step takes and frees the same blocks as the step before. By default most of them come from the system anew, which
    fills each page with zeros when it is first touched: up to a tenth of a step of a small network on a processor.
    What a process holds at its peak stays the same. See mallopt(3); other C libraries have no such function.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGEST)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
