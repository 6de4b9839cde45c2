"""A strategy as a picture: a row for each stage, a column for each epoch."""

from collections.abc import Callable, Iterable, Sequence

from frostline.depth import Depth, Place, Role
from frostline.freeze.strategy import Progress, Strategy, with_norm_policy

LEGEND = "# trains   + trains at a lower rate   o trains in part   . frozen"
UNSETTLED = "   ? decided while training"


def depths(names: Sequence[str]) -> tuple[Depth, ...]:
    """Return the stages of these names, from the input to the output."""
    return tuple(Depth(name=name, index=index, count=len(names)) for index, name in enumerate(names))


def draw(
    strategy: Strategy,
    epochs: int,
    stages: Sequence[Depth] = depths(["stem", "body", "head"]),
    roles: Iterable[Role] = (Role.WEIGHT, Role.BIAS, Role.NORM),
    steps: int = 100,
) -> str:
    """Draw when each stage trains, at the start of each epoch, with the signs of `LEGEND`.

    Args:
        strategy: What to draw.
        epochs: Epochs of the whole run.
        stages: Stages from the input to the output.
        roles: The kinds of parameters that these stages hold.
        steps: Optimizer steps of an epoch.
    """
    kinds = tuple(roles)

    def scales(stage: Depth, epoch: int) -> list[float] | None:
        progress = Progress(epoch=epoch, epochs=epochs, step=epoch * steps, steps=epochs * steps)
        if not strategy.known(progress):
            return None
        places = [Place(stage=stage, role=role) for role in kinds]
        return [with_norm_policy(strategy, strategy.scale_of(place, progress), place.role) for place in places]

    return picture([stage.name for stage in stages], epochs, lambda row, epoch: scales(stages[row], epoch))


def picture(names: Sequence[str], epochs: int, scales: Callable[[int, int], Sequence[float] | None]) -> str:
    """Draw rows of these names with the signs of `LEGEND`, `?` where it is not settled.

    Args:
        names: The names of the rows.
        epochs: The number of columns.
        scales: From row and epoch to the factors of the parameters there, or None where they are not settled.
    """
    width = max(len("epoch"), *map(len, names))
    rows = [f"{'epoch':{width}} {''.join(str(epoch % 10) for epoch in range(epochs))}"]
    for row, name in enumerate(names):
        rows.append(f"{name:{width}} {''.join(_mark(scales(row, epoch)) for epoch in range(epochs))}")
    return "\n".join(rows)


def _mark(scales: Sequence[float] | None) -> str:
    if scales is None:
        return "?"
    if not any(scales):
        return "."
    if not all(scales):
        return "o"
    return "#" if min(scales) >= 1 else "+"
