"""The plan as a picture for the record."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from frostline.plan import Plan


def save_figure(plan: Plan, path: Path) -> None:
    """Draw which stages train in which epoch, and how fast, to a PNG file."""
    from matplotlib.colors import LinearSegmentedColormap  # matplotlib is slow to import, and `plan` may not need it
    from matplotlib.figure import Figure

    names = [stage.depth.name for stage in plan.stages]
    epochs = max(1, plan.epochs)
    figure = Figure(figsize=(2 + 0.25 * epochs, 0.8 + 0.3 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    ice_to_fire = LinearSegmentedColormap.from_list("thaw", ["#dbe9f4", "#f6b26b", "#c0392b"])
    axes.imshow(_rates(plan), cmap=ice_to_fire, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("epoch")
    axes.set_title(f"{type(plan.strategy).__name__}: learning-rate factor, 0 (ice) is frozen", fontsize=9)
    figure.savefig(path, dpi=100)


def _rates(plan: Plan) -> list[list[float]]:
    """Return the greatest factor of each stage (row) in each epoch (column); NaN where it is not settled."""
    of_stage = [[g.name for g in plan.groups if g.stage == stage.depth] for stage in plan.stages]
    return [[_greatest(column, names) for column in plan.columns] for names in of_stage]


def _greatest(scales: Mapping[str, float] | None, names: Sequence[str]) -> float:
    return math.nan if scales is None else max((scales[name] for name in names), default=0.0)
