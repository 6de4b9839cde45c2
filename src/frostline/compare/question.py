"""The nouns of a comparison: what was asked, what was measured, what that says."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from frostline.compare import statistics
from frostline.compare.statistics import Difference, Interval
from frostline.errors import ConfigError
from frostline.nearest import did_you_mean

Verdict = Literal["reference", "better", "worse", "equivalent", "no difference shown", "no inference"]


FRONTS = {"wall_s": "t", "train_flops": "f"}
"""The costs that a Pareto front is drawn over, and their marks: time depends on the machine, FLOPs do not."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One finished run.

    Attributes:
        score: The study's metric on the test set.
        pairing: A hash of the first batch and of the new head; empty where unknown.
        cost: Any of `wall_s`, `step_ms`, `train_flops`, `peak_memory_mb`, `trainable_params`, in these units;
            of the whole run as if made alone, also where it began from what another one had trained.
        frozen_intact: What the integrity audit found; None where there was none.
    """

    arm: str
    seed: int
    score: float
    pairing: str
    cost: Mapping[str, float]
    frozen_intact: bool | None
    run_id: str


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a study asks, declared before it runs.

    Attributes:
        margin: The smallest difference that would matter, in the metric's units.
        confidence: The coverage of intervals; tests reject below 1 - `confidence`.
        min_seeds: The fewest complete pairs that allow inference.

    Raises:
        ConfigError: The reference is not an arm, or a number is out of range.
    """

    name: str
    question: str
    metric: str
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    reference: str
    higher_is_better: bool = True
    margin: float = 0.005
    confidence: float = 0.95
    min_seeds: int = 6

    def __post_init__(self) -> None:
        if problems := list(_mistakes(self)):
            raise ConfigError(problems)

    @property
    def alpha(self) -> float:
        """The p-value under which a test rejects."""
        return 1 - self.confidence

    @property
    def sign(self) -> int:
        """The factor that turns a difference of scores into a gain."""
        return 1 if self.higher_is_better else -1

    @property
    def decimals(self) -> int:
        """Digits behind the point that show scores one digit finer than the margin."""
        return max(0, 1 - math.floor(math.log10(self.margin)))

    @property
    def rivals(self) -> tuple[str, ...]:
        """The arms that meet the reference: the family of Holm's correction, whether or not their runs ended well."""
        return tuple(arm for arm in self.arms if arm != self.reference)


@dataclass(frozen=True, kw_only=True)
class ArmResult:
    """What the runs of one arm say.

    Attributes:
        scores: The score of each seed that ended well.
        failed: How many of the seeds that were asked for have no score.
        cost: Means over the runs that measured it, keyed and in units as in `Measured`.
        interval: Of the mean score; None where the seeds are too few for inference.
        difference: To the reference; None for the reference itself.
        pareto: The costs, of those in `FRONTS`, in which no other arm that allows inference does as well for as little.
    """

    arm: str
    scores: Mapping[int, float]
    failed: int
    cost: Mapping[str, float]
    interval: Interval | None
    difference: Difference | None
    verdict: Verdict
    pareto: tuple[str, ...] = ()

    @property
    def mean(self) -> float:
        """The mean score; NaN without runs."""
        return statistics.mean(self.scores.values())


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The answer to a question.

    Attributes:
        arms: In the question's order.
        inference: Whether any arm has enough complete pairs; without it nothing is ranked.
        verdict: One or two sentences: who leads, by how much, how surely, at what cost.
        problems: What to know before believing it, a sentence each.
    """

    question: Question
    arms: tuple[ArmResult, ...]
    inference: bool
    verdict: str
    problems: tuple[str, ...]


def ranked(question: Question, arms: Iterable[ArmResult]) -> list[ArmResult]:
    """Sort the arms that allow inference, the best mean first; empty where no rival does."""
    able = [arm for arm in arms if arm.verdict != "no inference"]
    if {arm.verdict for arm in able} <= {"reference"}:
        return []
    return sorted(able, key=lambda arm: -question.sign * arm.mean)


def _mistakes(question: Question) -> Iterator[str]:
    if question.reference not in question.arms:
        hint = did_you_mean(question.reference, question.arms)
        yield f"reference: '{question.reference}' is not an arm of '{question.name}'; {hint}"
    if not question.margin > 0:
        yield f"margin: should be greater than 0, got {question.margin}"
    if not 0 < question.confidence < 1:
        yield f"confidence: should lie between 0 and 1, got {question.confidence}"
    if question.min_seeds < 2:
        yield f"min_seeds: should be 2 or more, got {question.min_seeds}"
