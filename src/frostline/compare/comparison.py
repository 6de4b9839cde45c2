"""From finished runs to a verdict: arms meet one reference, seed by seed, and no more is said than holds.

A pair counts only where both arms of a seed saw the same first batch and the same new head. Too few pairs give no
inference and no ranking; whatever is left out is named.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from frostline.compare import statistics
from frostline.compare.headline import headline
from frostline.compare.question import FRONTS, ArmResult, Comparison, Measured, Question, Verdict, ranked
from frostline.compare.statistics import Difference


def compare(question: Question, runs: Sequence[Measured]) -> Comparison:
    """Compare every arm with the reference over paired seeds.

    The difference's mean has a bootstrap interval, an exact sign-flip test with Holm's correction over the declared
    arms, and an equivalence test. Where an arm and a seed come twice, the later of `runs` counts.
    """
    believed = {(run.arm, run.seed): run for run in runs if _doubt(question, run) is None}
    differences = _differences(question, believed)
    arms = _with_fronts(question, [_result(question, arm, believed, differences.get(arm)) for arm in question.arms])
    return Comparison(
        question=question,
        arms=arms,
        inference=any(difference.p is not None for difference in differences.values()),
        verdict=headline(question, arms),
        problems=(*_left_out(question, runs), *_unpaired(question, believed), *_powerless(question, differences)),
    )


_Runs = Mapping[tuple[str, int], Measured]


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


def _with_fronts(question: Question, arms: Sequence[ArmResult]) -> tuple[ArmResult, ...]:
    fronts = {cost: _front(question, arms, cost) for cost in FRONTS}
    return tuple(replace(arm, pareto=tuple(cost for cost in FRONTS if arm.arm in fronts[cost])) for arm in arms)


def _front(question: Question, arms: Sequence[ArmResult], cost: str) -> set[str]:
    """Name the arms that no other arm beats in score at as little of this cost."""
    measured = [arm for arm in ranked(question, arms) if cost in arm.cost]
    undominated = statistics.pareto([(question.sign * arm.mean, arm.cost[cost]) for arm in measured])
    return {arm.arm for arm, on_front in zip(measured, undominated, strict=True) if on_front}


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
