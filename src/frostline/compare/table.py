"""One comparison as text: a table for the terminal, for a README and for machines, and its runs as rows."""

import csv
import dataclasses
import io
import math
from collections.abc import Mapping, Sequence

from rich.console import JustifyMethod
from rich.table import Table
from rich.text import Text

from frostline.compare import statistics
from frostline.compare.headline import in_units, p_value, with_interval
from frostline.compare.question import FRONTS, ArmResult, Comparison, Measured, Question

_STYLES = {"better": "green", "worse": "red", "equivalent": "cyan"}
_WORDS = ("arm", "verdict")  # columns that read from the left
_WIDTHS = (17, 5, 17, 18, 6, 6, 13, 6, 5, 6, 2)


def columns(question: Question) -> list[str]:
    """Return the headings that `cells` fills."""
    return [
        "arm",
        "seeds",
        "mean [min...max]",
        f"difference to '{question.reference}' [{question.confidence * 100:g} % CI]",
        "p",
        "Holm p",
        "equivalence p",
        "verdict",
        "wall s",
        "train FLOPs",
        "trainable params",
        "Pareto",
    ]


def cells(question: Question, result: ArmResult) -> list[str]:
    """Write one arm as text, in the order of `columns`; a dash where nothing was measured or may be said."""
    difference = result.difference
    return [
        result.arm,
        f"{len(result.scores)}/{len(question.seeds)}",
        _spread(question, result),
        with_interval(question, difference) if difference else "–",
        p_value(difference.p if difference else None),
        p_value(difference.p_holm if difference else None),
        p_value(difference.p_equivalence if difference else None),
        result.verdict,
        _seconds(result.cost.get("wall_s")),
        _short(result.cost.get("train_flops")),
        _short(result.cost.get("trainable_params")),
        "".join(FRONTS[cost] for cost in result.pareto),
    ]


def rich_table(comparison: Comparison) -> Table:
    """Draw the comparison for a terminal of 110 columns: intervals stand under means, Holm's p under the plain one."""
    question = comparison.question
    table = Table(title=Text(f"{question.name}: {question.metric}"), box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for heading, width in zip(_stacked(columns(question)), _WIDTHS, strict=True):
        justify: JustifyMethod = "left" if heading in _WORDS else "right"
        short = heading.replace("equivalence", "equiv.").replace("trainable ", "").replace("Pareto", "P")
        table.add_column(Text(short), justify=justify, max_width=width, overflow="fold")
    for result in comparison.arms:
        table.add_row(*map(Text, _stacked(cells(question, result))), style=_STYLES.get(result.verdict))
    if any(result.pareto for result in comparison.arms):
        table.caption = Text(
            "P, the Pareto fronts: no other arm scores as well in less wall time (t), with fewer training FLOPs (f)"
        )
    return table


def _stacked(row: Sequence[str]) -> list[str]:
    """Put what belongs together into one narrow column of two lines."""
    arm, seeds, *means, p, p_holm = (text.replace(" [", "\n[") for text in row[:6])
    return [arm, seeds, *means, p if p == p_holm == "–" else f"{p}\n{p_holm}", *row[6:]]


def markdown(comparison: Comparison, *, footer: Sequence[str] = ()) -> str:
    """Write question, verdict, table, problems and method as GitHub's Markdown.

    Args:
        comparison: What to write.
        footer: Lines to end with, such as command, commit and hardware.
    """
    question = comparison.question
    rows = [columns(question), *(cells(question, result) for result in comparison.arms)]
    table = [f"| {' | '.join(text.replace('|', chr(92) + '|') for text in row)} |" for row in rows]
    rule = "|" + "|".join(":--" if name in _WORDS else "--:" for name in rows[0]) + "|"
    paragraphs = [
        question.question,
        f"**{comparison.verdict}**",
        "\n".join([table[0], rule, *table[1:]]),
        "\n".join(f"- {problem}" for problem in comparison.problems),
        method(question),
        "  \n".join(footer),
    ]
    return "\n\n".join(text for text in paragraphs if text) + "\n"


def method(question: Question) -> str:
    """Say in one paragraph how the numbers were made and how to read them."""
    family = len(question.rivals)
    return (
        f"{question.metric}, {'higher' if question.higher_is_better else 'lower'} is better; differences pair runs of "
        f"equal seed. p: exact two-sided sign-flip test, sampled beyond {statistics.EXACT_UP_TO} pairs; Holm p: "
        f"corrected for the {family} comparison{'s' * (family != 1)} with '{question.reference}'; equivalence p: two "
        f"one-sided sign-flip tests at ±{question.margin:g}, uncorrected. Intervals: bootstrap of the mean, BCa from "
        f"{statistics.BCA_FROM} pairs, percentile below. Pareto: t where no other arm scores as well in less wall "
        "time, f with fewer training FLOPs. FLOPs are those of each run as if alone; seconds are not: who "
        "comes first computes what others are given, and runs that train together divide the time. Each run is scored "
        "once, on the weights of its lowest val/loss."
    )


def as_json(comparison: Comparison) -> dict[str, object]:
    """Return the comparison in plain JSON types; a number that is not finite becomes null."""
    plain = _plain(dataclasses.asdict(comparison))
    assert isinstance(plain, dict)
    plain["arms"] = [
        row | {"n": len(result.scores), "mean": _plain(result.mean)} | _extremes(result)
        for row, result in zip(plain["arms"], comparison.arms, strict=True)
    ]
    return plain


def results_csv(runs: Sequence[Measured]) -> str:
    """Write one line per run: arm, seed, score, each cost that any run measured, frozen_intact, run_id."""
    costs = sorted({name for run in runs for name in run.cost})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["arm", "seed", "score", *costs, "frozen_intact", "run_id"])
    for run in runs:
        intact = "" if run.frozen_intact is None else str(run.frozen_intact).lower()
        writer.writerow([run.arm, run.seed, run.score, *(run.cost.get(c, "") for c in costs), intact, run.run_id])
    return text.getvalue()


def _spread(question: Question, result: ArmResult) -> str:
    mean = in_units(question, result.mean)
    if len(result.scores) < 2:
        return mean
    low, high = (in_units(question, bound(result.scores.values())) for bound in (min, max))
    return f"{mean} [{low}...{high}]"


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _short(value: float | None) -> str:
    """Write a count with three digits and a suffix: 45.6M, 7.89T."""
    if value is None:
        return "–"
    rounded = float(f"{value:.3g}")
    power = min(6, max(0, math.floor(math.log10(rounded) / 3))) if rounded > 0 else 0
    return f"{rounded / 1000**power:.3g}{' kMGTPE'[power].strip()}"


def _extremes(result: ArmResult) -> dict[str, float | None]:
    return {"min": min(result.scores.values(), default=None), "max": max(result.scores.values(), default=None)}


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
