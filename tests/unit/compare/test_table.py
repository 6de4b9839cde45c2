"""The comparison as text, against golden texts."""

import csv
import io
import json
import math
from dataclasses import replace

import pytest
from rich.console import Console

from frostline.compare.question import ArmResult, Comparison, Measured, Question
from frostline.compare.statistics import Difference, Interval
from frostline.compare.table import as_json, markdown, results_csv, rich_table

QUESTION = Question(
    name="thaw",
    question="Does thawing pay?",
    metric="test/accuracy",
    arms=("full", "a|b", "crashed"),
    seeds=(0, 1),
    reference="full",
    min_seeds=2,
)
COMPARISON = Comparison(
    question=QUESTION,
    arms=(
        ArmResult(
            arm="full",
            scores={0: 0.9, 1: 0.92},
            failed=0,
            cost={"wall_s": 412.4, "train_flops": 1.2345e15, "trainable_params": 11_173_962},
            interval=Interval(0.9, 0.92),
            difference=None,
            verdict="reference",
        ),
        ArmResult(
            arm="a|b",
            scores={0: 0.91, 1: 0.94},
            failed=0,
            cost={"wall_s": 61.25, "trainable_params": 5130},
            interval=Interval(0.91, 0.94),
            difference=Difference(
                by_seed={0: 0.01, 1: 0.02},
                mean=0.015,
                interval=Interval(0.01, 0.02),
                p=0.0312,
                p_holm=0.0624,
                p_equivalence=0.0004,
                probability_better=1.0,
            ),
            verdict="no difference shown",
            pareto=("wall_s",),
        ),
        ArmResult(
            arm="crashed",
            scores={},
            failed=2,
            cost={},
            interval=None,
            difference=Difference(by_seed={}, mean=math.nan),
            verdict="no inference",
        ),
    ),
    inference=True,
    verdict="'a|b' leads.",
    problems=("'crashed' has no finished run for seeds 0, 1",),
)

MARKDOWN = """\
Does thawing pay?

**'a|b' leads.**

| arm | seeds | mean [min...max] | difference to 'full' [95 % CI] | p | Holm p | equivalence p | verdict | wall s \
| train FLOPs | trainable params | Pareto |
|:--|--:|--:|--:|--:|--:|--:|:--|--:|--:|--:|--:|
| full | 2/2 | 0.9100 [0.9000...0.9200] | – | – | – | – | reference | 412 | 1.23P | 11.2M |  |
| a\\|b | 2/2 | 0.9250 [0.9100...0.9400] | +0.0150 [+0.0100, +0.0200] | 0.031 | 0.062 | <0.001 | no difference shown \
| 61.2 | – | 5.13k | t |
| crashed | 0/2 | – | – | – | – | – | no inference | – | – | – |  |

- 'crashed' has no finished run for seeds 0, 1

test/accuracy, higher is better; differences pair runs of equal seed. p: exact two-sided sign-flip test, sampled \
beyond 14 pairs; Holm p: corrected for the 2 comparisons with 'full'; equivalence p: two one-sided sign-flip tests at \
±0.005, uncorrected. Intervals: bootstrap of the mean, BCa from 8 pairs, percentile below. Pareto: t where no other \
arm scores as well in less wall time, f with fewer training FLOPs. FLOPs are those of each run as if alone; \
seconds are not: who comes first computes what others are given, and runs that train together divide the time. Each \
run is scored once, on the weights of its lowest val/loss.

frostline compare thaw  
commit 1234abc
"""


def test_markdown() -> None:
    assert markdown(COMPARISON, footer=["frostline compare thaw", "commit 1234abc"]) == MARKDOWN


def test_markdown_without_problems_and_footer_has_no_empty_paragraphs() -> None:
    text = markdown(replace(COMPARISON, problems=()))
    assert text.count("\n\n") == 3
    assert text.endswith("lowest val/loss.\n")


@pytest.mark.parametrize(("margin", "score"), [(0.5, "91.23"), (0.005, "91.2346"), (2, "91.2"), (10, "91")])
def test_scores_are_written_one_digit_finer_than_the_margin(margin: float, score: str) -> None:
    arm = replace(COMPARISON.arms[0], scores={0: 91.23456})
    text = markdown(replace(COMPARISON, question=replace(QUESTION, margin=margin), arms=(arm,)))
    assert f"| {score} |" in text


@pytest.mark.parametrize(
    ("params", "text"), [(0, "0"), (7, "7"), (999, "999"), (1000, "1k"), (999_600, "1M"), (1.2345e15, "1.23P")]
)
def test_counts_are_written_with_three_digits_and_a_suffix(params: float, text: str) -> None:
    arm = replace(COMPARISON.arms[0], cost={"trainable_params": params})
    assert f"| reference | – | – | {text} |" in markdown(replace(COMPARISON, arms=(arm,)))


def printed(comparison: Comparison) -> str:
    console = Console(width=110, file=io.StringIO(), color_system=None)
    console.print(rich_table(comparison))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_terminal_table() -> None:
    lines = [line.rstrip() for line in printed(COMPARISON).splitlines()]
    row = next(place for place, line in enumerate(lines) if line.startswith("a|b"))
    assert lines[row].split() == [
        *("a|b", "2/2", "0.9250", "+0.0150", "0.031", "<0.001", "no", "difference", "61.2", "–", "5.13k", "t")
    ]
    assert lines[row + 1].split() == ["[0.9100...0.9400]", "[+0.0100,", "+0.0200]", "0.062", "shown"]


def test_eight_arms_fit_110_columns_in_two_lines_each() -> None:
    names = [f"last_{n}_stages" for n in range(8)]
    text = printed(replace(COMPARISON, arms=tuple(replace(COMPARISON.arms[1], arm=name) for name in names)))
    lines = text.splitlines()
    assert all(name in text for name in names)
    assert max(map(len, lines)) <= 110
    first = next(place for place, line in enumerate(lines) if "last_0_stages" in line)
    assert "last_7_stages" in lines[first + 14]


def test_json_is_plain_and_has_null_for_what_is_not_a_number() -> None:
    plain = json.loads(json.dumps(as_json(COMPARISON), allow_nan=False))
    assert plain == as_json(COMPARISON)
    full, rival, crashed = plain["arms"]
    assert plain["question"]["arms"] == ["full", "a|b", "crashed"]
    assert (full["n"], full["mean"], full["min"], full["max"]) == (2, pytest.approx(0.91), 0.9, 0.92)
    assert full["difference"] is None
    assert rival["scores"] == {"0": 0.91, "1": 0.94}
    assert rival["difference"]["interval"] == [0.01, 0.02]
    assert (crashed["mean"], crashed["min"], crashed["difference"]["mean"]) == (None, None, None)
    assert plain["problems"] == ["'crashed' has no finished run for seeds 0, 1"]


def test_results_csv() -> None:
    first = Measured(arm="full", seed=0, score=0.9, pairing="h", cost={"wall_s": 2.5}, frozen_intact=True, run_id="r0")
    second = replace(first, arm="a,b", seed=1, cost={"step_ms": 4.0}, frozen_intact=None, run_id="r1")
    text = results_csv([first, second])
    assert text == (
        'arm,seed,score,step_ms,wall_s,frozen_intact,run_id\nfull,0,0.9,,2.5,true,r0\n"a,b",1,0.9,4.0,,,r1\n'
    )
    assert next(csv.DictReader(io.StringIO(text)))["wall_s"] == "2.5"
