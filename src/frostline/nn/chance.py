"""Chance in what a network is shown: drawn anew while it trains, the same at every evaluation."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def chance(device: torch.device, *, training: bool) -> Iterator[None]:
    """Draw from torch's generators, which a checkpoint keeps; outside training from the same seed, leaving them be.

    Each batch is drawn for as a whole: what an example is shown in evaluation is the same again in the same batch, not
    in one of another size or with other neighbours.

    Args:
        device: Where it is drawn.
        training: Whether each time is another.
    """
    if training:
        yield
        return
    on_gpu = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        torch.default_generator.manual_seed(0)  # `torch.manual_seed` would reset every accelerator
        if on_gpu:
            torch.cuda.manual_seed(0)
        yield
