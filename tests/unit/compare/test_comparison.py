"""What a comparison says, and what it refuses to say."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from frostline.compare import statistics
from frostline.compare.comparison import compare
from frostline.compare.question import ArmResult, Comparison, Measured, Question
from frostline.errors import ConfigError

FULL = (0.90, 0.91, 0.92, 0.90, 0.91, 0.93)
GAINS = (0.010, 0.012, 0.014, 0.011, 0.013, 0.015)


def question(*arms: str, seeds: int = 6, **changes: object) -> Question:
    asked = Question(
        name="thaw",
        question="Does thawing pay?",
        metric="test/accuracy",
        arms=arms,
        seeds=tuple(range(seeds)),
        reference="full",
    )
    return replace(asked, **changes)


def runs(arm: str, scores: Sequence[float], *, wall_s: float = 100.0) -> list[Measured]:
    return [
        Measured(
            arm=arm,
            seed=seed,
            score=score,
            pairing=f"batch-{seed}",
            cost={"wall_s": wall_s, "train_flops": wall_s * 10},
            frozen_intact=True,
            run_id=f"{arm}-{seed}",
        )
        for seed, score in enumerate(scores)
    ]


def plus(gains: Sequence[float], *, scores: Sequence[float] = FULL) -> list[float]:
    return [score + gain for score, gain in zip(scores, gains, strict=True)]


def results(comparison: Comparison) -> Mapping[str, ArmResult]:
    return {result.arm: result for result in comparison.arms}


def test_a_better_arm_has_the_definition_s_numbers() -> None:
    comparison = compare(question("full", "thaw"), [*runs("full", FULL), *runs("thaw", plus(GAINS), wall_s=46)])
    thaw = results(comparison)["thaw"]
    assert thaw.verdict == "better"
    assert thaw.mean == pytest.approx(sum(plus(GAINS)) / 6)
    assert thaw.difference.mean == pytest.approx(sum(GAINS) / 6)
    assert thaw.difference.interval == statistics.mean_interval(list(thaw.difference.by_seed.values()), confidence=0.95)
    assert list(thaw.difference.by_seed.values()) == pytest.approx(GAINS)
    assert (thaw.difference.p, thaw.difference.p_holm) == (2 / 64, 2 / 64)
    assert thaw.difference.p_equivalence == 1
    assert thaw.difference.probability_better == 1
    assert results(comparison)["full"].verdict == "reference"
    assert comparison.inference
    assert comparison.problems == ()
    low, high = thaw.difference.interval
    assert comparison.verdict == (
        "'thaw' has the best mean test/accuracy, 0.9242; against the reference 'full': "
        f"+0.0125 [{low:+.4f}, {high:+.4f}], P(better) 1.00, p 0.031 uncorrected and 0.031 after Holm (better), "
        "at 0.46x the wall time."
    )


def test_a_worse_arm_is_worse_and_the_reference_leads() -> None:
    comparison = compare(question("full", "head"), [*runs("full", FULL), *runs("head", plus([-g for g in GAINS]))])
    head = results(comparison)["head"]
    assert head.verdict == "worse"
    assert head.difference.probability_better == 0
    assert comparison.verdict.startswith(
        "The reference 'full' has the best mean test/accuracy, 0.9117; the runner-up 'head': -0.0125 ["
    )


def test_of_a_loss_less_is_better() -> None:
    asked = question("full", "thaw", metric="test/loss", higher_is_better=False)
    comparison = compare(asked, [*runs("full", FULL), *runs("thaw", plus([-g for g in GAINS]), wall_s=200)])
    thaw = results(comparison)["thaw"]
    assert thaw.verdict == "better"
    assert thaw.difference.mean == pytest.approx(-0.0125)
    assert thaw.difference.probability_better == 1
    assert comparison.verdict.startswith(
        "'thaw' has the best mean test/loss, 0.8992; against the reference 'full': -0."
    )
    assert ["wall_s" in result.pareto for result in comparison.arms] == [True, True]


def test_equal_scores_are_equivalent_not_better() -> None:
    comparison = compare(question("full", "thaw"), [*runs("full", FULL), *runs("thaw", FULL, wall_s=30)])
    thaw = results(comparison)["thaw"]
    assert thaw.verdict == "equivalent"
    assert thaw.difference.interval == (0, 0)
    assert (thaw.difference.p, thaw.difference.p_equivalence) == (1, 1 / 64)
    assert thaw.difference.probability_better == 0.5
    assert "1.000 after Holm (equivalent within ±0.005), at 0.30x the wall time." in comparison.verdict
    assert "Equivalent to" not in comparison.verdict, "it is told already"
    assert ["wall_s" in result.pareto for result in comparison.arms] == [False, True]


def test_equivalent_arms_are_named_with_their_cost() -> None:
    measured = [*runs("full", FULL), *runs("thaw", plus(GAINS)), *runs("head", FULL, wall_s=3)]
    comparison = compare(question("full", "thaw", "head"), measured)
    assert comparison.verdict.endswith(" Equivalent to 'full' within ±0.005: 'head' at 0.03x the wall time.")


def test_a_difference_that_the_seeds_do_not_settle() -> None:
    gains = (0.03, -0.02, 0.02, -0.01, 0.03, -0.02)
    comparison = compare(question("full", "thaw"), [*runs("full", FULL), *runs("thaw", plus(gains))])
    assert results(comparison)["thaw"].verdict == "no difference shown"
    assert "after Holm (not significant)" in comparison.verdict


def test_a_small_p_value_whose_interval_holds_0_shows_no_difference() -> None:
    gains = [gain / 256 for gain in (16, -1, 16, -12, 16, 2, 16, 16)]
    measured = [*runs("full", [0.5] * 8), *runs("thaw", [0.5 + gain for gain in gains])]
    thaw = results(compare(question("full", "thaw", seeds=8), measured))["thaw"]
    assert thaw.difference.p_holm == 12 / 256 < 0.05
    assert thaw.difference.interval.low < 0
    assert thaw.verdict == "no difference shown"


def test_five_comparisons_of_six_seeds_cannot_be_significant_and_it_says_so() -> None:
    arms = ("full", *"abcde")
    measured = [*runs("full", FULL), *(run for arm in "abcde" for run in runs(arm, plus(GAINS)))]
    comparison = compare(question(*arms), measured)
    assert comparison.problems == (
        "with 6 seeds and 5 comparisons no corrected p can fall under 0.05; 8 seeds would allow it",
    )
    assert {results(comparison)[arm].verdict for arm in "abcde"} == {"no difference shown"}
    assert "p 0.031 uncorrected and 0.156 after Holm (not significant)" in comparison.verdict


def test_arms_without_runs_stay_in_holm_s_family() -> None:
    measured = [*runs("full", FULL), *runs("thaw", plus(GAINS))]
    comparison = compare(question("full", "thaw", "crashed"), measured)
    thaw, crashed = results(comparison)["thaw"], results(comparison)["crashed"]
    assert thaw.difference.p_holm == 2 * 2 / 64
    assert (crashed.failed, crashed.verdict, math.isnan(crashed.mean)) == (6, "no inference", True)
    assert "'crashed' has no finished run for seeds 0, 1, 2, 3, 4, 5" in comparison.problems


@pytest.mark.parametrize("seeds", [1, 3, 5])
def test_too_few_seeds_give_means_but_no_inference_and_no_ranking(seeds: int) -> None:
    measured = [*runs("full", FULL[:seeds]), *runs("thaw", plus(GAINS)[:seeds], wall_s=9)]
    comparison = compare(question("full", "thaw", seeds=seeds), measured)
    thaw = results(comparison)["thaw"]
    assert not comparison.inference
    assert thaw.verdict == "no inference"
    assert thaw.mean == pytest.approx(sum(plus(GAINS)[:seeds]) / seeds)
    assert thaw.difference.mean == pytest.approx(sum(GAINS[:seeds]) / seeds)
    assert thaw.interval is None
    assert {thaw.difference.p, thaw.difference.p_holm, thaw.difference.p_equivalence} == {None}
    assert not any(result.pareto for result in comparison.arms)
    assert comparison.verdict == (
        f"No inference: at most {seeds} complete pair{'s' * (seeds > 1)} of seeds where 6 are needed; no arm is ranked."
    )


def test_unequal_pairing_hashes_leave_the_pair_out() -> None:
    thaw = runs("thaw", plus(GAINS))
    thaw[3] = replace(thaw[3], pairing="another batch")
    comparison = compare(question("full", "thaw"), [*runs("full", FULL), *thaw])
    assert comparison.problems == (
        "seed 3: 'thaw' and 'full' saw different first batches or head initialisations; the pair is left out",
    )
    assert set(results(comparison)["thaw"].difference.by_seed) == {0, 1, 2, 4, 5}
    assert results(comparison)["thaw"].verdict == "no inference"
    assert len(results(comparison)["thaw"].scores) == 6


def test_unknown_pairing_is_used_and_named() -> None:
    thaw = [replace(run, pairing="") for run in runs("thaw", plus(GAINS))]
    comparison = compare(question("full", "thaw"), [*runs("full", FULL), *thaw])
    assert results(comparison)["thaw"].verdict == "better"
    assert comparison.problems == ("6 of 6 pairs rest on equal seeds alone: a run of theirs has no pairing hash",)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"score": math.nan}, "seed 2 of 'thaw' has no finite score (run thaw-2); it counts as failed"),
        ({"score": math.inf}, "seed 2 of 'thaw' has no finite score (run thaw-2); it counts as failed"),
        (
            {"frozen_intact": False},
            "seed 2 of 'thaw' changed what it declared frozen (run thaw-2); it counts as failed",
        ),
    ],
)
def test_runs_that_cannot_be_believed_count_as_failed(change: dict[str, object], problem: str) -> None:
    thaw = runs("thaw", [*plus(GAINS), 0.94])
    thaw[2] = replace(thaw[2], **change)
    comparison = compare(question("full", "thaw", seeds=7), [*runs("full", [*FULL, 0.92]), *thaw])
    result = results(comparison)["thaw"]
    assert (result.failed, set(result.scores)) == (1, {0, 1, 3, 4, 5, 6})
    assert result.verdict == "better"
    assert comparison.problems == (
        problem,
        "the arms' means cover different seeds; differences use equal seeds only",
    )


def test_missing_repeated_and_foreign_runs_are_named() -> None:
    full = runs("full", FULL)
    again = replace(full[1], score=0.5, run_id="again")
    foreign = [*runs("other", [0.9]), replace(full[0], seed=99, run_id="late")]
    comparison = compare(question("full", "thaw"), [*full, again, *runs("thaw", plus(GAINS)[:5]), *foreign])
    assert comparison.problems == (
        "seed 0 of 'other' is not part of the question (run other-0); it is left out",
        "seed 99 of 'full' is not part of the question (run late); it is left out",
        "'thaw' has no finished run for seed 5",
        "seed 1 of 'full' was run more than once; the last run counts",
        "the arms' means cover different seeds; differences use equal seeds only",
    )
    assert results(comparison)["full"].scores[1] == 0.5


def test_the_runner_up_s_distance_is_paired_too() -> None:
    second = plus([gain - 0.004 for gain in GAINS])
    measured = [*runs("full", FULL), *runs("thaw", plus(GAINS)), *runs("second", second)]
    verdict = compare(question("full", "thaw", "second"), measured).verdict
    assert verdict.endswith(
        " Against the runner-up 'second', a pair chosen after the fact: +0.0040 [+0.0040, +0.0040]."
    )


def test_the_front_leaves_out_arms_that_are_dominated_untimed_or_without_inference() -> None:
    untimed = [replace(run, cost={}) for run in runs("untimed", plus(GAINS))]
    measured = [
        *runs("full", FULL, wall_s=100),
        *runs("thaw", plus(GAINS), wall_s=50),
        *runs("head", plus([-0.1] * 6), wall_s=5),
        *runs("brief", [0.99], wall_s=1),
        *untimed,
    ]
    comparison = compare(question("full", "thaw", "head", "brief", "untimed"), measured)
    assert {result.arm for result in comparison.arms if "wall_s" in result.pareto} == {"thaw", "head"}


def test_cost_is_the_mean_of_what_was_measured() -> None:
    thaw = runs("thaw", plus(GAINS), wall_s=10)
    thaw[0] = replace(thaw[0], cost={"wall_s": 40.0, "peak_memory_mb": math.nan})
    comparison = compare(question("full", "thaw"), [*runs("full", FULL), *thaw])
    assert results(comparison)["thaw"].cost == {"wall_s": 15, "train_flops": 100}


@pytest.mark.parametrize(
    ("names", "words"),
    [(("train_flops",), "at 0.50x the training FLOPs."), ((), "at a cost that was not measured.")],
)
def test_cost_falls_back_to_what_both_arms_know(names: Sequence[str], words: str) -> None:
    measured = [*runs("full", FULL), *runs("thaw", plus(GAINS), wall_s=50)]
    kept = [replace(run, cost={name: run.cost[name] for name in names}) for run in measured]
    assert compare(question("full", "thaw"), kept).verdict.endswith(words)


def test_one_arm_alone_has_nothing_to_be_compared_with() -> None:
    comparison = compare(question("full"), runs("full", FULL))
    assert comparison.verdict == "'full' is the only arm; there is nothing to compare."
    assert not comparison.inference
    assert comparison.arms[0].interval is not None


def test_no_runs_at_all() -> None:
    comparison = compare(question("full", "thaw"), [])
    assert comparison.verdict == "No inference: at most 0 complete pairs of seeds where 6 are needed; no arm is ranked."
    assert [result.failed for result in comparison.arms] == [6, 6]


def test_what_is_wrong_with_a_question_is_said_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        question("full", "thaw", reference="ful", margin=0.0, confidence=95, min_seeds=1)
    assert caught.value.problems == [
        "reference: 'ful' is not an arm of 'thaw'; did you mean 'full'?",
        "margin: should be greater than 0, got 0.0",
        "confidence: should lie between 0 and 1, got 95",
        "min_seeds: should be 2 or more, got 1",
    ]
