"""A strategy as a picture: a row for each stage, a column for each epoch."""

from collections.abc import Iterable, Sequence

from frostline.depth import Depth, Role
from frostline.freeze.strategy import Progress, Strategy, effective_scale

LEGEND = "# trains   + trains at a lower rate   o trains in part   . frozen"


def depths(names: Sequence[str]) -> tuple[Depth, ...]:
    """Return the stages of these names, from the input to the output."""
    return tuple(Depth(name=name, index=index, count=len(names)) for index, name in enumerate(names))


def draw(
    strategy: Strategy,
    epochs: int,
    stages: Sequence[Depth] = depths(["stem", "body", "head"]),
    roles: Iterable[Role] = (Role.WEIGHT, Role.BIAS, Role.NORM),
) -> str:
    """Draw when each stage trains: `#` at the full rate, `+` below it, `o` only some kinds of parameters, `.` not.

    Args:
        strategy: What to draw.
        epochs: Epochs of the whole run.
        stages: Stages from the input to the output.
        roles: The kinds of parameters that these stages hold.
    """
    width = max(len("epoch"), *(len(stage.name) for stage in stages))
    kinds = tuple(roles)
    rows = [f"{'epoch':{width}} {''.join(str(epoch % 10) for epoch in range(epochs))}"]
    for stage in stages:
        marks = (_mark(strategy, stage, kinds, Progress(epoch=epoch, epochs=epochs)) for epoch in range(epochs))
        rows.append(f"{stage.name:{width}} {''.join(marks)}")
    return "\n".join(rows)


def _mark(strategy: Strategy, stage: Depth, roles: Sequence[Role], progress: Progress) -> str:
    scales = [effective_scale(strategy, stage, role, progress) for role in roles]
    if not any(scales):
        return "."
    if not all(scales):
        return "o"
    return "#" if min(scales) >= 1 else "+"
