"""Chance in what a network is shown: drawn anew while it trains, the same at every evaluation."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def chance(*, training: bool) -> Iterator[None]:
    """Draw from torch's generators, which a checkpoint keeps; outside training from the same seed, leaving them be."""
    if training:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
