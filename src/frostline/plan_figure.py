"""The plan as a picture for the record."""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from io import BytesIO
from pathlib import Path

from frostline.plan import Plan


def save_figure(plan: Plan, path: Path) -> None:
    """Draw which stages train in which epoch, and how fast, to a PNG file."""
    names = tuple(stage.depth.name for stage in plan.stages)
    title = f"{type(plan.strategy).__name__}: learning-rate factor, 0 (ice) is frozen"
    path.write_bytes(_drawn(title, names, _rates(plan), max(1, plan.epochs)))


@lru_cache(maxsize=32)
def _drawn(title: str, names: Sequence[str], rates: Sequence[Sequence[float]], epochs: int) -> bytes:
    """Return the picture; the seeds of a study share it, and drawing takes longer than all else in a record."""
    from matplotlib.colors import LinearSegmentedColormap  # matplotlib is slow to import, and `plan` may not need it
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(max(5, 2 + 0.25 * epochs), 0.8 + 0.3 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    ice_to_fire = LinearSegmentedColormap.from_list("thaw", ["#dbe9f4", "#f6b26b", "#c0392b"])
    axes.imshow(rates, cmap=ice_to_fire, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(title, fontsize=9)
    picture = BytesIO()
    figure.savefig(picture, dpi=100)
    return picture.getvalue()


def _rates(plan: Plan) -> tuple[tuple[float, ...], ...]:
    """Return the greatest factor of each stage (row) in each epoch (column); NaN where it is not settled."""
    of_stage = [[g.name for g in plan.groups if g.stage == stage.depth] for stage in plan.stages]
    columns = plan.columns
    return tuple(tuple(_greatest(column, names) for column in columns) for names in of_stage)


def _greatest(scales: Mapping[str, float] | None, names: Sequence[str]) -> float:
    return math.nan if scales is None else max((scales[name] for name in names), default=0.0)
