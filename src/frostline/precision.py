"""Precisions of a trainer, for what a network computes outside of Lightning's steps and what a step is to need."""

from contextlib import AbstractContextManager, nullcontext

import torch

MIXED = ("bf16-mixed", "bf16")
"""Lightning's names of the mixed precision that is known here; `16-mixed`, for a GPU alone, scales its loss."""


def autocast_of(precision: object) -> torch.dtype | None:
    """Return the type that a trainer of this precision lets a network compute in beside float32; None if unknown here.

    Args:
        precision: Lightning's name of it, or None for its default.
    """
    return torch.bfloat16 if precision in MIXED else None


def width_of(precision: object) -> float:
    """Return the bytes of a parameter where a trainer of this precision has cast it, as a multiple of float32's."""
    return {"64": 2.0, "64-true": 2.0, "16-true": 0.5, "bf16-true": 0.5}.get(str(precision), 1.0)


def is_single(precision: object) -> bool:
    """Tell whether a trainer of this precision computes in float32 alone."""
    return str(precision or 32) in ("32", "32-true")


def computing_in(autocast: torch.dtype | None, device: torch.device) -> AbstractContextManager[None]:
    """Let a network compute as it does in Lightning's steps: weights are cast at each use, as these may change."""
    return nullcontext() if autocast is None else torch.autocast(device.type, dtype=autocast, cache_enabled=False)
