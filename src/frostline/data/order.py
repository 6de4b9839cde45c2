"""Randomness of the data as a pure function of (seed, epoch, place).

Nothing here draws from the global generators, so the batches of an epoch are the same whatever ran before, however many
workers load them, and wherever a run was interrupted.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch.utils.data import Sampler

from frostline.seeds import stream


class EpochOrder(Sampler[int]):
    """A new order of the training examples each epoch, of which every process takes its share.

    Place `i` of epoch `e` comes out as `e * count + i`, so that worker processes that outlive an epoch know which one
    they are in. What does not divide evenly among processes is left out, other examples each epoch.

    Attributes:
        blind: Whether the inputs of the batches to come are left out, since nobody looks at them.
    """

    def __init__(self, count: int, *, seed: int, batch_size: int, rank: int = 0, world: int = 1) -> None:
        assert count >= world, f"{count} examples cannot be shared by {world} processes"
        self.count = count
        self.seed = seed
        self.batch_size = batch_size
        self.rank = rank
        self.world = world
        self.blind = False
        self.start(epoch=0, batch=0)

    def start(self, *, epoch: int, batch: int) -> None:
        """Make the next pass that of `epoch`, from its `batch`-th batch on; later epochs are whole."""
        self.epoch = epoch
        self.batch = batch

    def set_epoch(self, epoch: int) -> None:
        """Move on to `epoch`; Lightning calls this, also right after `start` with the same epoch."""
        if epoch != self.epoch:
            self.start(epoch=epoch, batch=0)

    def __len__(self) -> int:
        return self.count // self.world

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(stream(self.seed, f"order/{self.epoch}"))
        order = torch.randperm(self.count, generator=generator)
        share = order[: len(self) * self.world][self.rank :: self.world]
        keys = (self.epoch * self.count + share[self.batch * self.batch_size :]).tolist()
        yield from (~key if self.blind else key for key in keys)


class Share(Sampler[int]):
    """The examples of an evaluation split in order, each in exactly one process.

    Attributes:
        blind: Whether the inputs of the batches to come are left out, since nobody looks at them.
    """

    def __init__(self, count: int, *, rank: int = 0, world: int = 1) -> None:
        self.places = range(rank, count, world)
        self.blind = False

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Iterator[int]:
        return (~place if self.blind else place for place in self.places)


def leaves_one_over(count: int, *, batch_size: int) -> bool:
    """Say whether the last of several batches has one example, on which batch normalisation cannot train."""
    return count > batch_size and count % batch_size == 1


def none_alone(count: int, *, batch_size: int) -> list[list[int]]:
    """Return the places of all examples in order, batch by batch; one that is left over joins the batch before it."""
    batches = [list(range(count)[begin : begin + batch_size]) for begin in range(0, count, batch_size)]
    return [*batches[:-2], batches[-2] + batches[-1]] if leaves_one_over(count, batch_size=batch_size) else batches


@contextmanager
def randomness_kept() -> Iterator[None]:
    """Put the global generators of Python, NumPy and torch (CPU) back as they were."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def seed_global_generators(seed: int) -> None:
    """Seed (below 2**32) what augmentations draw from; `torch.manual_seed` would also reset the accelerators."""
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
