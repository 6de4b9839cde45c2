"""What a comparison of few paired runs may claim: exact tests, intervals, and the front of score against cost.

The primitives are scipy's. Resampling starts from a fixed state, so the same scores always give the same numbers.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from scipy import stats

Alternative = Literal["two-sided", "greater", "less"]

EXACT_UP_TO = 14  # pairs; 2**14 sign assignments take about a tenth of a second
BCA_FROM = 8  # values; the jackknife behind BCa says little with fewer
_RESAMPLES = 9_999
_DECIMALS = 12  # scores that are equal on paper differ by less than this in floating point


class Interval(NamedTuple):
    """A confidence interval, in the units of what it bounds."""

    low: float
    high: float

    def holds(self, value: float) -> bool:
        """Tell whether `value` lies in the interval, bounds included."""
        return self.low <= value <= self.high


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Score of an arm minus score of the reference, over complete pairs of seeds.

    Attributes:
        by_seed: The difference of each complete pair, in the metric's units.
        mean: Their mean; NaN without pairs.
        interval: Of the mean. None, like all that follows, where the pairs are too few for inference.
        p: Of the two-sided sign-flip test, uncorrected.
        p_holm: The same, corrected for the number of arms that are compared with the reference.
        p_equivalence: Of the claim that the mean lies within the margin, uncorrected.
        probability_better: The share of pairs that the arm wins, ties counting half.
    """

    by_seed: Mapping[int, float]
    mean: float
    interval: Interval | None = None
    p: float | None = None
    p_holm: float | None = None
    p_equivalence: float | None = None
    probability_better: float | None = None


def sign_flip(differences: Sequence[float], *, alternative: Alternative = "two-sided") -> float:
    """Return the p-value of the sign-flip test that paired differences are symmetric about 0.

    Exact over all 2**n assignments of signs up to `EXACT_UP_TO` pairs, 2**14 sampled assignments beyond. The smallest
    two-sided value that n pairs can reach is 2**(1 - n).

    Args:
        differences: One per pair, two or more.
        alternative: Which way the mean is suspected to lie from 0.
    """
    assert len(differences) > 1, "a sign-flip test needs two pairs"
    values = np.round(np.asarray(differences, dtype=float), _DECIMALS)
    test = stats.permutation_test(
        (values,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=2**EXACT_UP_TO,
        alternative=alternative,
        rng=np.random.default_rng(0),
    )
    return float(test.pvalue)


def equivalence(differences: Sequence[float], *, margin: float) -> float:
    """Return the p-value of the claim that the mean difference lies within ±`margin`.

    Two one-sided sign-flip tests (TOST: Schuirmann 1987), one against each end; the larger p-value is returned.

    Args:
        differences: One per pair, two or more.
        margin: The smallest difference that would matter, in the units of the differences.
    """
    values = np.asarray(differences, dtype=float)
    above = sign_flip((values + margin).tolist(), alternative="greater")
    below = sign_flip((values - margin).tolist(), alternative="less")
    return max(above, below)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number, in the given order (Holm 1979: step-down Bonferroni)."""
    corrected = [1.0] * len(p_values)
    floor = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        floor = max(floor, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = floor
    return corrected


def mean_interval(values: Sequence[float], *, confidence: float) -> Interval:
    """Return a bootstrap confidence interval of the mean: BCa from `BCA_FROM` values on, percentile below.

    Of few values the bootstrap's interval is narrow: on normal data, 95 % intervals of 6 values cover about 86 % and of
    10 values about 90 %. A claim therefore rests on the exact test as well.

    Args:
        values: Two or more.
        confidence: The nominal coverage, between 0 and 1.
    """
    data = np.asarray(values, dtype=float)
    assert data.size > 1, "an interval needs two values"
    if np.ptp(data) < 10**-_DECIMALS:
        return Interval(float(data.mean()), float(data.mean()))
    result = stats.bootstrap(
        (data,),
        np.mean,
        vectorized=True,
        n_resamples=_RESAMPLES,
        confidence_level=confidence,
        method="BCa" if data.size >= BCA_FROM else "percentile",
        rng=np.random.default_rng(0),
    )
    return Interval(float(result.confidence_interval.low), float(result.confidence_interval.high))


def probability_better(gains: Sequence[float]) -> float:
    """Return the share of pairs with a gain above 0, ties counting half (P(A > B), Bouthillier et al. 2021)."""
    signs = np.sign(np.round(np.asarray(gains, dtype=float), _DECIMALS))
    return float((signs + 1).mean() / 2)


def mean(values: Iterable[float]) -> float:
    """Return the mean; NaN of nothing."""
    numbers = list(values)
    return math.fsum(numbers) / len(numbers) if numbers else math.nan


def smallest_corrected_p(pairs: int, *, comparisons: int) -> float:
    """Return the least p-value that `pairs` pairs can reach after Holm's correction for `comparisons` tests."""
    return min(1.0, comparisons * 2.0 ** (1 - pairs))


def pairs_needed(alpha: float, *, comparisons: int) -> int:
    """Return the fewest pairs whose corrected sign-flip p-value can fall under `alpha`."""
    pairs = 2
    while smallest_corrected_p(pairs, comparisons=comparisons) >= alpha:
        pairs += 1
    return pairs


def pareto(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Tell for each point (gain, cost) whether no other gains as much at no more cost and is better in one of both."""
    return [not any(_dominates(other, point) for other in points) for point in points]


def _dominates(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] >= other[0] and one[1] <= other[1] and one != other
