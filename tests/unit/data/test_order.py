"""The order of examples is a function of (seed, epoch) and nothing else."""

import random

import numpy as np
import pytest
import torch

from frostline.data.order import (
    EpochOrder,
    Share,
    leaves_one_over,
    randomness_kept,
    seed_global_generators,
)


def places(order: EpochOrder) -> list[int]:
    return [key % order.count for key in order]


def test_an_epoch_shows_every_example_once_and_says_which_epoch_it_is() -> None:
    order = EpochOrder(10, seed=1, batch_size=4)
    order.set_epoch(3)
    keys = list(order)
    assert {key // 10 for key in keys} == {3}
    assert sorted(places(order)) == list(range(10))


def test_order_follows_seed_and_epoch_only() -> None:
    first = EpochOrder(50, seed=1, batch_size=4)
    torch.manual_seed(99)
    again = EpochOrder(50, seed=1, batch_size=8)
    assert places(first) == places(again)
    again.set_epoch(1)
    assert places(first) != places(again)
    assert places(first) != places(EpochOrder(50, seed=2, batch_size=4))


def test_the_order_of_a_seed_is_pinned_so_that_old_runs_reproduce() -> None:
    assert list(EpochOrder(8, seed=0, batch_size=4)) == [3, 6, 5, 4, 7, 2, 1, 0]


def test_start_gives_exactly_the_remaining_batches_and_later_epochs_whole() -> None:
    whole, resumed = EpochOrder(10, seed=1, batch_size=3), EpochOrder(10, seed=1, batch_size=3)
    whole.set_epoch(2)
    resumed.start(epoch=2, batch=2)
    resumed.set_epoch(2)
    assert list(resumed) == list(whole)[6:]
    assert len(resumed) == 10
    for order in (whole, resumed):
        order.set_epoch(3)
    assert list(resumed) == list(whole)


@pytest.mark.parametrize("count", [9, 10, 11, 12])
def test_processes_train_on_equally_many_examples_and_none_twice(count: int) -> None:
    shares = [places(EpochOrder(count, seed=5, batch_size=2, rank=rank, world=3)) for rank in range(3)]
    assert {len(share) for share in shares} == {count // 3}
    assert len({place for share in shares for place in share}) == count // 3 * 3


def test_one_process_among_several_sees_what_alone_it_would_have_seen_in_turn() -> None:
    alone = places(EpochOrder(12, seed=5, batch_size=2))
    shares = [places(EpochOrder(12, seed=5, batch_size=2, rank=rank, world=3)) for rank in range(3)]
    assert [place for step in zip(*shares, strict=True) for place in step] == alone


@pytest.mark.parametrize("count", [1, 2, 9, 10])
def test_evaluation_covers_every_example_exactly_once(count: int) -> None:
    shares = [list(Share(count, rank=rank, world=3)) for rank in range(3)]
    assert sorted(place for share in shares for place in share) == list(range(count))
    assert [len(Share(count, rank=rank, world=3)) for rank in range(3)] == list(map(len, shares))


@pytest.mark.parametrize(
    ("count", "batch_size", "expected"), [(9, 4, True), (8, 4, False), (10, 4, False), (1, 4, False), (5, 1, False)]
)
def test_only_a_single_example_after_other_batches_is_one_over(count: int, batch_size: int, expected: bool) -> None:
    assert leaves_one_over(count, batch_size=batch_size) is expected


def test_global_generators_come_back_as_they_were() -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), torch.rand(1).item()

    seed_global_generators(1)
    expected = draw()
    seed_global_generators(1)
    with randomness_kept():
        seed_global_generators(2)
        assert draw() != expected
    assert draw() == expected
