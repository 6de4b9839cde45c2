"""A comparison as files: numbers for machines, Markdown for a README, and one page of HTML that needs nothing else."""

import base64
import io
import json
import math
import os
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from frostline.compare import table
from frostline.compare.question import ArmResult, Comparison

if TYPE_CHECKING:  # slow to import, and only the report draws
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK, _SEED, _LEAD, _BAND = "#1f2933", "#9aa8b5", "#0b6e99", "#dcebf2"

_PAGE = Template("""\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$name</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; color: #1f2933; background: #fff; max-width: 75rem; margin: 2rem auto;
  padding: 0 1.5rem; }
h1 { font-size: 1.5rem; margin-bottom: .25rem; }
.verdict { border-left: 4px solid #0b6e99; padding: .5rem 1rem; background: #f3f8fa; font-size: 1.05rem; }
.problems { border-left: 4px solid #c77700; padding: .5rem 1rem .5rem 2rem; background: #fff8ec; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .6rem; text-align: right; border-bottom: 1px solid #e4e7eb; }
td { white-space: nowrap; }
th { vertical-align: bottom; }
.word { text-align: left; }
.better { color: #1a7f37; } .worse { color: #b42318; } .equivalent { color: #0b6e99; }
figure { margin: 2rem 0; } img { max-width: 100%; }
figcaption, .method, footer { color: #52606d; font-size: .9rem; }
</style>
<h1>$name</h1>
<p>$question</p>
<p class="verdict">$verdict</p>
$problems
<div class="scroll"><table>
$table
</table></div>
$figures
<p class="method">$method</p>
<footer>$footer</footer>
</html>
""")


def write(comparison: Comparison, folder: Path, *, footer: Sequence[str] = ()) -> list[Path]:
    """Write `compare.json`, `compare.md` and `report.html` and return their paths; each appears whole or not at all.

    Args:
        comparison: What to report.
        folder: Where to; made if it is not there.
        footer: Lines that end the page and the Markdown, such as command, commit and hardware.
    """
    texts = {
        "compare.json": json.dumps(table.as_json(comparison), indent=2, allow_nan=False, ensure_ascii=False) + "\n",
        "compare.md": table.markdown(comparison, footer=footer),
        "report.html": html(comparison, footer=footer),
    }
    folder.mkdir(parents=True, exist_ok=True)
    return [_write_whole(folder / name, text) for name, text in texts.items()]


def html(comparison: Comparison, *, footer: Sequence[str] = ()) -> str:
    """Return the report as one page: verdict, problems, table, figures and method; nothing is loaded from elsewhere."""
    problems = "".join(f"<li>{escape(problem)}</li>" for problem in comparison.problems)
    return _PAGE.substitute(
        name=escape(comparison.question.name),
        question=escape(comparison.question.question),
        verdict=escape(comparison.verdict),
        problems=f'<ul class="problems">{problems}</ul>' if problems else "",
        table="\n".join(_rows(comparison)),
        figures="\n".join(_figures(comparison)),
        method=escape(table.method(comparison.question)),
        footer="<br>".join(escape(line.replace("`", "")) for line in footer),
    )


def draw_scores(comparison: Comparison) -> "Figure":
    """Draw every seed's score and its difference to the reference, arm by arm, with means, intervals and the margin."""
    from matplotlib.figure import Figure

    question, arms = comparison.question, comparison.arms
    figure = Figure(figsize=(11, 1.4 + 0.45 * len(arms)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for seed in question.seeds:
        scores = [arm.scores.get(seed, math.nan) for arm in arms]
        left.plot(scores, range(len(arms)), "o-", color=_SEED, markersize=4, lw=0.5, alpha=0.7)
    right.axvspan(-question.margin, question.margin, color=_BAND, lw=0, zorder=0)
    right.axvline(0, color=_INK, lw=0.8)
    for row, arm in enumerate(arms):
        _mark(left, row, arm.mean, arm.interval)
        if arm.difference:
            differences = list(arm.difference.by_seed.values())
            right.plot(differences, [row] * len(differences), "o", color=_SEED, markersize=4, alpha=0.7)
            _mark(right, row, arm.difference.mean, arm.difference.interval)
    left.set_yticks(range(len(arms)), [arm.arm for arm in arms])
    left.invert_yaxis()
    left.set_xlabel(question.metric)
    right.set_xlabel(f"difference to '{question.reference}'")
    _plain_axes(left, right)
    return figure


def draw_cost(comparison: Comparison) -> "Figure":
    """Draw mean score against mean wall time, in seconds, with intervals of the score and the Pareto front."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    timed = sorted(_timed(comparison), key=lambda arm: (arm.cost["wall_s"], arm.mean))
    front = [arm for arm in timed if "wall_s" in arm.pareto]
    axes.step([a.cost["wall_s"] for a in front], [a.mean for a in front], where="post", color=_LEAD, lw=1, zorder=1)
    for place, arm in enumerate(timed):
        seconds, colour = arm.cost["wall_s"], _LEAD if "wall_s" in arm.pareto else _SEED
        if arm.interval:
            axes.plot([seconds, seconds], arm.interval, color=colour, lw=1.5)
        axes.plot(seconds, arm.mean, "o", color=colour)
        shift = (6, 7) if place % 2 else (6, -13)
        axes.annotate(arm.arm, (seconds, arm.mean), xytext=shift, textcoords="offset points", color=_INK, fontsize=9)
    if timed and timed[-1].cost["wall_s"] > 20 * timed[0].cost["wall_s"] > 0:
        axes.set_xscale("log")
    axes.margins(x=0.15, y=0.15)
    axes.set_xlabel("mean wall time of a run, seconds")
    axes.set_ylabel(f"mean {comparison.question.metric}")
    _plain_axes(axes)
    return figure


def _figures(comparison: Comparison) -> Iterator[str]:
    question = comparison.question
    band = f"the band is ±{question.margin:g}, the smallest difference of interest"
    yield _embed(
        draw_scores(comparison),
        f"Scores by seed, grey lines joining arms that share it, and differences to '{question.reference}'; dark: mean "
        f"with its {question.confidence * 100:g} % interval where the seeds allow one; {band}.",
    )
    if _timed(comparison):
        yield _embed(draw_cost(comparison), "Mean score against mean wall time; the blue line is the Pareto front.")


def _timed(comparison: Comparison) -> list[ArmResult]:
    return [arm for arm in comparison.arms if arm.scores and "wall_s" in arm.cost]


def _mark(axes: "Axes", row: int, mean: float, interval: Sequence[float] | None) -> None:
    below = row + 0.25  # the seeds stay visible
    if interval:
        axes.plot(interval, [below, below], color=_INK, lw=1.5)
    axes.plot(mean, below, "D", color=_INK, markersize=4)


def _plain_axes(*several: "Axes") -> None:
    for axes in several:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="both", color="#eef1f4", lw=0.8)
        axes.set_axisbelow(True)


def _embed(figure: "Figure", caption: str) -> str:
    """Return a figure as an image inside the page; equal figures give equal bytes."""
    from matplotlib import rc_context

    picture = io.BytesIO()
    with rc_context({"svg.hashsalt": "frostline"}):
        figure.savefig(picture, format="svg", metadata={"Date": None})
    data = base64.b64encode(picture.getvalue()).decode("ascii")
    text = escape(caption)
    return f'<figure><img alt="{text}" src="data:image/svg+xml;base64,{data}"><figcaption>{text}</figcaption></figure>'


def _rows(comparison: Comparison) -> Iterator[str]:
    headings = table.columns(comparison.question)
    yield _row("th", headings, headings, verdict="")
    for result in comparison.arms:
        yield _row("td", table.cells(comparison.question, result), headings, verdict=result.verdict)


def _row(tag: str, texts: Sequence[str], headings: Sequence[str], *, verdict: str) -> str:
    kinds = {"arm": "word", "verdict": f"word {verdict}"}
    cells = (
        f'<{tag} class="{kinds.get(heading, "")}">{escape(text)}</{tag}>'
        for heading, text in zip(headings, texts, strict=True)
    )
    return f"<tr>{''.join(cells)}</tr>"


def _write_whole(path: Path, text: str) -> Path:
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_text(text, encoding="utf-8", newline="\n")
        return part.replace(path)
    finally:
        part.unlink(missing_ok=True)
