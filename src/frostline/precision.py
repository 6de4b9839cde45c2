"""Mixed precision, for what a network computes outside of Lightning's steps."""

from contextlib import AbstractContextManager, nullcontext

import torch

_MIXED = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
"""Lightning's names, and the type that its autocast computes in."""


def lower_precision(name: object) -> torch.dtype | None:
    """Return the type of 16 bits that a trainer of this precision lets a network compute in; None where there is none.

    Args:
        name: Lightning's name of the precision, or None for its default.
    """
    return _MIXED.get(str(name))


def is_single(name: object) -> bool:
    """Tell whether a trainer of this precision computes in float32 alone."""
    return str(name or 32) in ("32", "32-true")


def computing_in(lower: torch.dtype | None, device: torch.device) -> AbstractContextManager[None]:
    """Let a network compute as it does in Lightning's steps: weights are cast at each use, as these may change."""
    return nullcontext() if lower is None else torch.autocast(device.type, dtype=lower, cache_enabled=False)
