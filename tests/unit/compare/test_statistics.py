"""The statistics against their definitions, written out in plain Python."""

import itertools
import math
import random
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import pytest

from frostline.compare import statistics

GRID = 1024  # multiples of 1/1024 add without rounding


def some_differences(count: int, seed: int) -> list[float]:
    source = random.Random(seed)
    return [source.randint(-20, 60) / GRID for _ in range(count)]


def share_of_signs(differences: Sequence[float], alternative: str) -> float:
    """Return the p-value by its definition: the share of sign assignments as extreme as what was seen."""
    seen = sum(differences)
    sums = [
        sum(s * d for s, d in zip(signs, differences, strict=True))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    extreme = {
        "two-sided": sum(abs(total) >= abs(seen) for total in sums),
        "greater": sum(total >= seen for total in sums),
        "less": sum(total <= seen for total in sums),
    }
    return extreme[alternative] / len(sums)


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
@pytest.mark.parametrize("count", [2, 3, 6, 9])
@pytest.mark.parametrize("seed", range(4))
def test_sign_flip_is_the_share_of_all_sign_assignments(count: int, seed: int, alternative: str) -> None:
    differences = some_differences(count, seed)
    assert statistics.sign_flip(differences, alternative=alternative) == pytest.approx(
        share_of_signs(differences, alternative), abs=1e-12
    )


def test_sign_flip_of_equal_scores_shows_nothing_even_with_rounding() -> None:
    assert statistics.sign_flip([0.0] * 6) == 1
    assert statistics.sign_flip([0.1 + 0.2 - 0.3] * 6) == 1


def test_sign_flip_reaches_its_floor() -> None:
    assert statistics.sign_flip([0.01, 0.02, 0.03, 0.01, 0.02, 0.04]) == 2 / 64


def test_sign_flip_of_many_pairs_is_sampled_and_repeats_itself() -> None:
    values = np.random.default_rng(3).normal(0.4, 1, size=20).tolist()
    p = statistics.sign_flip(values)
    assert p == statistics.sign_flip(values)
    assert p == pytest.approx(normal_p(values), abs=0.03)


def normal_p(values: Sequence[float]) -> float:
    """Approximate the sign-flip test: under the null, the sum is about normal with variance sum of squares."""
    return math.erfc(abs(sum(values)) / math.sqrt(2 * sum(v * v for v in values)))


@pytest.mark.parametrize("seed", range(6))
def test_equivalence_is_the_larger_of_two_one_sided_tests(seed: int) -> None:
    differences, margin = some_differences(7, seed), 24 / GRID
    above = share_of_signs([d + margin for d in differences], "greater")
    below = share_of_signs([d - margin for d in differences], "less")
    assert statistics.equivalence(differences, margin=margin) == pytest.approx(max(above, below), abs=1e-12)


def test_equal_scores_are_equivalent_and_a_difference_of_the_margin_is_not() -> None:
    assert statistics.equivalence([0.0] * 6, margin=0.005) == 1 / 64
    assert statistics.equivalence([0.805 - 0.8] * 6, margin=0.005) == 1


def test_holm_worked_by_hand() -> None:
    # sorted: 0.005 x 4, 0.01 x 3, 0.03 x 2, 0.04 x 1 -> 0.02, 0.03, 0.06, 0.04 -> monotone: 0.02, 0.03, 0.06, 0.06
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_stops_at_one_and_takes_nothing() -> None:
    assert statistics.holm([0.9, 0.6]) == [1.0, 1.0]
    assert statistics.holm([]) == []


@pytest.mark.parametrize("seed", range(5))
def test_holm_rejects_what_the_step_down_procedure_rejects(seed: int) -> None:
    source = random.Random(seed)
    p_values, alpha = [source.random() ** 4 for _ in range(6)], 0.05
    rejected = set()
    for rank, place in enumerate(sorted(range(6), key=lambda i: p_values[i])):
        if p_values[place] > alpha / (6 - rank):
            break
        rejected.add(place)
    assert {i for i, p in enumerate(statistics.holm(p_values)) if p <= alpha} == rejected


@pytest.mark.parametrize(("count", "least", "most"), [(6, 0.82, 0.90), (10, 0.86, 0.94), (40, 0.92, 0.97)])
def test_intervals_of_normal_data_cover_the_mean_as_often_as_documented(count: int, least: float, most: float) -> None:
    draws = np.random.default_rng(7).normal(2.0, 1.0, size=(600, count))
    covered = [statistics.mean_interval(row.tolist(), confidence=0.95).holds(2.0) for row in draws]
    assert least < np.mean(covered) < most


def test_percentile_interval_of_few_values_by_enumeration() -> None:
    values = [0.0, 1.0, 2.0, 4.0, 8.0]
    means = sorted(sum(picked) / 5 for picked in itertools.product(values, repeat=5))
    low, high = statistics.mean_interval(values, confidence=0.9)
    assert low == pytest.approx(means[int(0.05 * len(means))], abs=0.21)  # the means lie 0.2 apart
    assert high == pytest.approx(means[int(0.95 * len(means))], abs=0.21)


def test_interval_widens_with_confidence_and_is_a_point_for_equal_values() -> None:
    values = [0.1, 0.4, 0.2, 0.3, 0.35, 0.15, 0.5, 0.45]
    narrow, wide = (statistics.mean_interval(values, confidence=c) for c in (0.8, 0.99))
    assert wide.low < narrow.low < np.mean(values) < narrow.high < wide.high
    assert statistics.mean_interval([0.25] * 9, confidence=0.95) == (0.25, 0.25)


def test_from_eight_values_on_the_interval_is_bca_by_its_definition() -> None:
    values = [1.0, 1.1, 1.2, 1.3, 1.2, 1.1, 1.0, 4.0]
    assert statistics.mean_interval(values, confidence=0.95) == pytest.approx(bca(values), abs=0.04)
    assert statistics.mean_interval(values[1:], confidence=0.95) != pytest.approx(bca(values[1:]), abs=0.04)


def bca(values: Sequence[float]) -> tuple[float, float]:
    """Compute a 95 % interval of the mean as Efron 1987 defines it: shifted quantiles of the bootstrap's means."""
    data, normal = np.array(values), NormalDist()
    means = np.random.default_rng(11).choice(data, size=(20_000, data.size)).mean(axis=1)
    bias = normal.inv_cdf(((means < data.mean()).mean() + (means <= data.mean()).mean()) / 2)
    left_out = data.mean() - np.array([np.delete(data, i).mean() for i in range(data.size)])
    acceleration = (left_out**3).sum() / (6 * (left_out**2).sum() ** 1.5)
    shifted = [bias + normal.inv_cdf(tail) for tail in (0.025, 0.975)]
    low, high = (np.quantile(means, normal.cdf(bias + z / (1 - acceleration * z))) for z in shifted)
    return float(low), float(high)


def test_probability_better_counts_ties_half() -> None:
    assert statistics.probability_better([0.1, 0.0, -0.1, 0.2]) == 0.625


def test_mean_of_nothing_is_not_a_number() -> None:
    assert math.isnan(statistics.mean([]))


@pytest.mark.parametrize(("comparisons", "needed"), [(1, 6), (5, 8), (7, 9)])
def test_pairs_needed_is_the_first_number_that_allows_rejection(comparisons: int, needed: int) -> None:
    assert statistics.pairs_needed(0.05, comparisons=comparisons) == needed
    agreeing = statistics.sign_flip([1.0] * needed)
    assert statistics.holm([agreeing] * comparisons)[0] < 0.05
    assert statistics.holm([statistics.sign_flip([1.0] * (needed - 1))] * comparisons)[0] >= 0.05


@pytest.mark.parametrize("seed", range(20))
def test_pareto_against_its_definition(seed: int) -> None:
    source = random.Random(seed)
    points = [(source.randint(0, 4), source.randint(0, 4)) for _ in range(7)]  # coarse, so that ties occur
    expected = []
    for gain, cost in points:
        as_good = [(g, c) for g, c in points if g >= gain and c <= cost]
        expected.append(all(g == gain and c == cost for g, c in as_good))
    assert statistics.pareto(points) == expected
