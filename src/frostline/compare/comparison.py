"""From finished runs to a verdict: arms meet one reference, seed by seed, and no more is said than holds.

A pair counts only where both arms of a seed saw the same first batch and the same new head. Too few pairs give no
inference and no ranking; whatever is left out is named.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from frostline.compare import statistics
from frostline.compare.statistics import Difference, Interval
from frostline.errors import ConfigError
from frostline.nearest import did_you_mean

Verdict = Literal["reference", "better", "worse", "equivalent", "no difference shown", "no inference"]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One finished run.

    Attributes:
        score: The study's metric on the test set.
        pairing: A hash of the first batch and of the new head; empty where unknown.
        cost: Any of `wall_s`, `step_ms`, `train_flops`, `peak_memory_mb`, `trainable_params`, in these units.
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
        pareto: Whether no other arm that allows inference has as good a mean score in as little wall time.
    """

    arm: str
    scores: Mapping[int, float]
    failed: int
    cost: Mapping[str, float]
    interval: Interval | None
    difference: Difference | None
    verdict: Verdict
    pareto: bool = False

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


def compare(question: Question, runs: Sequence[Measured]) -> Comparison:
    """Compare every arm with the reference over paired seeds.

    The difference's mean has a bootstrap interval, an exact sign-flip test with Holm's correction over the declared
    arms, and an equivalence test. Where an arm and a seed come twice, the later of `runs` counts.
    """
    believed = {(run.arm, run.seed): run for run in runs if _doubt(question, run) is None}
    differences = _differences(question, believed)
    arms = _with_front(question, [_result(question, arm, believed, differences.get(arm)) for arm in question.arms])
    return Comparison(
        question=question,
        arms=arms,
        inference=any(difference.p is not None for difference in differences.values()),
        verdict=_headline(question, arms),
        problems=(*_left_out(question, runs), *_unpaired(question, believed), *_powerless(question, differences)),
    )


_Runs = Mapping[tuple[str, int], Measured]


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


def _doubt(question: Question, run: Measured) -> str | None:
    """Say why a run does not count, if it does not."""
    if run.arm not in question.arms or run.seed not in question.seeds:
        return f"seed {run.seed} of '{run.arm}' is not part of the question (run {run.run_id}); it is left out"
    if not math.isfinite(run.score):
        return f"seed {run.seed} of '{run.arm}' has no finite score (run {run.run_id}); it counts as failed"
    if run.frozen_intact is False:
        return f"seed {run.seed} of '{run.arm}' changed what it declared frozen (run {run.run_id}); it counts as failed"
    return None


def _left_out(question: Question, runs: Sequence[Measured]) -> Iterator[str]:
    """Name the runs that do not count, those that never came, and those that came twice."""
    yield from (doubt for run in runs if (doubt := _doubt(question, run)))
    came = {(run.arm, run.seed) for run in runs}
    for arm in question.arms:
        if missing := [seed for seed in question.seeds if (arm, seed) not in came]:
            yield f"'{arm}' has no finished run for {_seeds(missing)}"
    counted = [(run.arm, run.seed) for run in runs if _doubt(question, run) is None]
    for arm, seed in sorted({key for key in counted if counted.count(key) > 1}):
        yield f"seed {seed} of '{arm}' was run more than once; the last run counts"
    if len({frozenset(seed for key, seed in counted if key == arm) for arm in question.arms}) > 1:
        yield "the arms' means cover different seeds; differences use equal seeds only"


def _pairs(question: Question, arm: str, believed: _Runs) -> Iterator[tuple[Measured, Measured]]:
    """Yield the runs of `arm` and of the reference that share a seed."""
    for seed in question.seeds:
        if (arm, seed) in believed and (question.reference, seed) in believed:
            yield believed[arm, seed], believed[question.reference, seed]


def _contradict(one: Measured, other: Measured) -> bool:
    return bool(one.pairing and other.pairing) and one.pairing != other.pairing


def _unpaired(question: Question, believed: _Runs) -> Iterator[str]:
    pairs = [pair for arm in question.rivals for pair in _pairs(question, arm, believed)]
    for one, other in pairs:
        if _contradict(one, other):
            yield (
                f"seed {one.seed}: '{one.arm}' and '{other.arm}' saw different first batches or head initialisations; "
                "the pair is left out"
            )
    if unproven := sum(not (one.pairing and other.pairing) for one, other in pairs):
        yield f"{unproven} of {len(pairs)} pairs rest on equal seeds alone: a run of theirs has no pairing hash"


def _differences(question: Question, believed: _Runs) -> dict[str, Difference]:
    """Measure the difference of every rival; an arm without inference stays in Holm's family with p = 1."""
    plain = {arm: _difference(question, _pairs(question, arm, believed)) for arm in question.rivals}
    corrected = statistics.holm([1.0 if d.p is None else d.p for d in plain.values()])
    return {
        arm: difference if difference.p is None else replace(difference, p_holm=p_holm)
        for (arm, difference), p_holm in zip(plain.items(), corrected, strict=True)
    }


def _difference(question: Question, pairs: Iterable[tuple[Measured, Measured]]) -> Difference:
    by_seed = {one.seed: one.score - other.score for one, other in pairs if not _contradict(one, other)}
    values = list(by_seed.values())
    if len(values) < question.min_seeds:
        return Difference(by_seed=by_seed, mean=statistics.mean(values))
    return Difference(
        by_seed=by_seed,
        mean=statistics.mean(values),
        interval=statistics.mean_interval(values, confidence=question.confidence),
        p=statistics.sign_flip(values),
        p_equivalence=statistics.equivalence(values, margin=question.margin),
        probability_better=statistics.probability_better([question.sign * value for value in values]),
    )


def _result(question: Question, arm: str, believed: _Runs, difference: Difference | None) -> ArmResult:
    runs = [believed[arm, seed] for seed in question.seeds if (arm, seed) in believed]
    scores = {run.seed: run.score for run in runs}
    enough = len(scores) >= question.min_seeds
    return ArmResult(
        arm=arm,
        scores=scores,
        failed=len(question.seeds) - len(scores),
        cost=_mean_cost(runs),
        interval=statistics.mean_interval(list(scores.values()), confidence=question.confidence) if enough else None,
        difference=difference,
        verdict="reference" if difference is None else _verdict(question, difference),
    )


def _mean_cost(runs: Sequence[Measured]) -> dict[str, float]:
    measured = [(name, value) for run in runs for name, value in run.cost.items() if math.isfinite(value)]
    names = dict.fromkeys(name for name, _ in measured)
    return {name: statistics.mean(value for key, value in measured if key == name) for name in names}


def _verdict(question: Question, difference: Difference) -> Verdict:
    if difference.interval is None or difference.p_holm is None or difference.p_equivalence is None:
        return "no inference"
    if difference.p_holm < question.alpha and not difference.interval.holds(0):
        return "better" if question.sign * difference.mean > 0 else "worse"
    return "equivalent" if difference.p_equivalence < question.alpha else "no difference shown"


def ranked(question: Question, arms: Iterable[ArmResult]) -> list[ArmResult]:
    """Sort the arms that allow inference, the best mean first; empty where no rival does."""
    able = [arm for arm in arms if arm.verdict != "no inference"]
    if {arm.verdict for arm in able} <= {"reference"}:
        return []
    return sorted(able, key=lambda arm: -question.sign * arm.mean)


def _with_front(question: Question, arms: Sequence[ArmResult]) -> tuple[ArmResult, ...]:
    timed = [arm for arm in ranked(question, arms) if "wall_s" in arm.cost]
    front = statistics.pareto([(question.sign * arm.mean, arm.cost["wall_s"]) for arm in timed])
    best = {arm.arm for arm, undominated in zip(timed, front, strict=True) if undominated}
    return tuple(replace(arm, pareto=arm.arm in best) for arm in arms)


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


def _powerless(question: Question, differences: Mapping[str, Difference]) -> Iterator[str]:
    """Say when even a difference of one sign on every seed could not pass Holm's correction."""
    pairs = max((len(d.by_seed) for d in differences.values() if d.p is not None), default=0)
    family = len(question.rivals)
    if pairs and statistics.smallest_corrected_p(pairs, comparisons=family) >= question.alpha:
        needed = statistics.pairs_needed(question.alpha, comparisons=family)
        yield (
            f"with {pairs} seeds and {family} comparison{'s' * (family > 1)} no corrected p can fall under "
            f"{question.alpha:g}; {needed} seeds would allow it"
        )


def in_units(question: Question, value: float, *, sign: bool = False) -> str:
    """Write a score or a difference one digit finer than the margin; a dash for NaN."""
    return f"{value:{'+' * sign}.{question.decimals}f}" if math.isfinite(value) else "–"


def with_interval(question: Question, difference: Difference) -> str:
    """Write a mean difference and, where there is one, its interval."""
    mean = in_units(question, difference.mean, sign=True)
    if difference.interval is None:
        return mean
    return f"{mean} [{', '.join(in_units(question, bound, sign=True) for bound in difference.interval)}]"


def p_value(p: float | None) -> str:
    """Write a p-value with three decimals; a dash for none."""
    return "–" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def _headline(question: Question, arms: Sequence[ArmResult]) -> str:
    if not question.rivals:
        return f"'{question.reference}' is the only arm; there is nothing to compare."
    if not (order := ranked(question, arms)):
        most = max(len(arm.difference.by_seed) for arm in arms if arm.difference)
        return (
            f"No inference: at most {most} complete pair{'s' * (most != 1)} of seeds where {question.min_seeds} are "
            "needed; no arm is ranked."
        )
    return " ".join([*_lead(question, order), *_as_good(question, order)])


def _lead(question: Question, order: Sequence[ArmResult]) -> Iterator[str]:
    """Say who has the best mean, and how far that is from the reference and from the runner-up."""
    best, second = order[:2]
    mean = f"has the best mean {question.metric}, {in_units(question, best.mean)}"
    if best.difference is None:
        yield f"The reference '{best.arm}' {mean}; the runner-up '{second.arm}': {_against(question, second, best)}."
        return
    reference = next(arm for arm in order if arm.difference is None)
    yield f"'{best.arm}' {mean}; against the reference '{reference.arm}': {_against(question, best, reference)}."
    if second.difference and (gap := _gap(question, best.difference, second.difference)):
        yield f"Against the runner-up '{second.arm}', a pair chosen after the fact: {with_interval(question, gap)}."


def _against(question: Question, rival: ArmResult, reference: ArmResult) -> str:
    assert rival.difference is not None
    assert rival.difference.probability_better is not None
    words = {"no difference shown": "not significant", "equivalent": f"equivalent within ±{question.margin:g}"}
    return (
        f"{with_interval(question, rival.difference)}, P(better) {rival.difference.probability_better:.2f}, "
        f"p {p_value(rival.difference.p)} uncorrected and {p_value(rival.difference.p_holm)} after Holm "
        f"({words.get(rival.verdict, rival.verdict)}), {_at_cost(rival, reference)}"
    )


def _at_cost(rival: ArmResult, reference: ArmResult) -> str:
    for name, words in (("wall_s", "the wall time"), ("train_flops", "the training FLOPs")):
        if name in rival.cost and reference.cost.get(name, 0) > 0:
            ratio = rival.cost[name] / reference.cost[name]
            return f"at {ratio:.2f}x {words}" if ratio >= 0.1 else f"at {ratio:.1g}x {words}"
    return "at a cost that was not measured"


def _gap(question: Question, one: Difference, other: Difference) -> Difference | None:
    """Measure how far two rivals lie apart on the seeds where both met the reference; None where those are few."""
    by_seed = {seed: value - other.by_seed[seed] for seed, value in one.by_seed.items() if seed in other.by_seed}
    if len(by_seed) < question.min_seeds:
        return None
    values = list(by_seed.values())
    interval = statistics.mean_interval(values, confidence=question.confidence)
    return Difference(by_seed=by_seed, mean=statistics.mean(values), interval=interval)


def _as_good(question: Question, order: Sequence[ArmResult]) -> Iterator[str]:
    """Name the arms that are as good as the reference, with their cost; the leading two are described already."""
    reference = next(arm for arm in order if arm.difference is None)
    told = order[1] if order[0] is reference else order[0]
    same = [f"'{a.arm}' {_at_cost(a, reference)}" for a in order if a.verdict == "equivalent" and a is not told]
    if same:
        yield f"Equivalent to '{reference.arm}' within ±{question.margin:g}: {', '.join(same)}."
