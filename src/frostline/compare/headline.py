"""The answer in sentences: who leads, by how much, how surely and at what cost; no more is said than holds."""

import math
from collections.abc import Iterator, Sequence

from frostline.compare import statistics
from frostline.compare.question import ArmResult, Question, ranked
from frostline.compare.statistics import Difference


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


def headline(question: Question, arms: Sequence[ArmResult]) -> str:
    """Say in one to three sentences which arm leads and what is known of its lead."""
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
