"""What a strategy will do to a network over a run, known before anything trains.

The engine applies this plan and nothing else, so that what `frostline plan` prints is what a run does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

from torch import nn

from frostline.depth import Role
from frostline.freeze.drawing import LEGEND, draw
from frostline.freeze.strategy import Progress, Strategy, effective_scale
from frostline.nn.stages import Stage, is_norm
from frostline.optim.partition import Group


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A span of epochs in which the same parameters train.

    Attributes:
        start: First epoch, from 0.
        stop: The epoch after the last.
        scales: By group name, the factor on the learning rate in the first epoch; 0 is frozen.
        modes: By module name, whether the module is in train mode.
    """

    start: int
    stop: int
    scales: Mapping[str, float]
    modes: Mapping[str, bool]

    @property
    def epochs(self) -> str:
        """The span as people write it, inclusive."""
        return str(self.start) if self.stop == self.start + 1 else f"{self.start}-{self.stop - 1}"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A strategy over the stages of a network, with the groups of their parameters and the epochs there are."""

    strategy: Strategy
    stages: Sequence[Stage]
    groups: Sequence[Group]
    epochs: int

    def scales(self, epoch: int) -> dict[str, float]:
        """Return the factor on the learning rate of each group in this epoch, by name; 0 is frozen."""
        progress = Progress(epoch=epoch, epochs=self.epochs)
        return {g.name: effective_scale(self.strategy, g.stage, g.role, progress) for g in self.groups}

    def modes(self, scales: Mapping[str, float]) -> dict[str, bool]:
        """Return which modules are in train mode under these scales, by module name.

        A normalisation layer obeys `norm_stats`; any other module (dropout, stochastic depth) is in train mode where
        something of its stage trains.
        """
        free = {n for g in self.groups if scales[g.name] for n in g.parameters if n not in g.fixed}
        return {
            name: self._trains(module, name, stage, free)
            for stage in self.stages
            for name, module in stage.modules.items()
        }

    def _trains(self, module: nn.Module, name: str, stage: Stage, free: set[str]) -> bool:
        own = {f"{name}.{parameter}" if name else parameter for parameter, _ in module.named_parameters()}
        if is_norm(module) and self.strategy.norm_stats != "follow":
            return self.strategy.norm_stats == "running"
        if is_norm(module) and own:
            return not own.isdisjoint(free)
        return not stage.parameters.keys().isdisjoint(free)

    @cached_property
    def phases(self) -> list[Phase]:
        """The spans between changes of what trains; a run of no epochs has one, in which nothing happens."""
        every = [(epoch, self.scales(epoch)) for epoch in range(max(1, self.epochs))]
        spans = [list(span) for _, span in groupby(every, key=lambda item: [bool(s) for s in item[1].values()])]
        return [
            Phase(start=span[0][0], stop=span[-1][0] + 1, scales=span[0][1], modes=self.modes(span[0][1]))
            for span in spans
        ]

    def phase(self, epoch: int) -> Phase:
        """Return the phase that this epoch is in; after the last, the last."""
        return next((phase for phase in self.phases if epoch < phase.stop), self.phases[-1])

    def trainable(self, phase: Phase) -> int:
        """Return how many parameters (scalars) train in a phase."""
        return sum(group.size for group in self.groups if phase.scales[group.name])

    def never_moves(self) -> set[str]:
        """Return the names of the parameters that no phase trains, and of the statistics that no phase updates."""
        free = {g.name for g in self.groups if any(phase.scales[g.name] for phase in self.phases)}
        awake = {name for phase in self.phases for name, training in phase.modes.items() if training}
        parameters = {name for group in self.groups if group.name not in free for name in group.parameters}
        buffers = {name for stage in self.stages for name in stage.buffers if name.rpartition(".")[0] not in awake}
        return parameters | buffers

    def picture(self) -> str:
        """Return the drawn plan: a row a stage, a column an epoch, and what the signs mean."""
        roles = [role for role in Role if any(group.role is role for group in self.groups)]
        drawn = draw(self.strategy, max(1, self.epochs), [stage.depth for stage in self.stages], roles)
        return f"{drawn}\n{LEGEND}"

    def rows(self, phase: Phase, *, lr: float) -> list[dict[str, str]]:
        """Return a table of a phase, a row a stage: what trains, at which rate, how norms behave, how many parameters.

        Args:
            phase: The phase.
            lr: The configured learning rate, before the schedule.
        """
        return [self._row(stage, phase, lr) for stage in self.stages]

    def _row(self, stage: Stage, phase: Phase, lr: float) -> dict[str, str]:
        groups = [group for group in self.groups if group.stage == stage.depth]
        free = [group for group in groups if phase.scales[group.name] and group.size]
        rates = sorted({phase.scales[group.name] * lr for group in free})
        return {
            "stage": stage.depth.name,
            "modules": _abridged(list(stage.modules)),
            "trains": "nothing" if not free else "all" if len(free) == len(groups) else ", ".join(g.role for g in free),
            "lr": " / ".join(f"{rate:g}" for rate in rates) or "-",
            "norms": _norms(stage, phase),
            "trainable": f"{sum(group.size for group in free):,}",
            "parameters": f"{sum(p.numel() for p in stage.parameters.values()):,}",
        }


def _norms(stage: Stage, phase: Phase) -> str:
    """Say which statistics the stage's normalisation layers use; those that store none always use the input's own."""
    stored = [n for n, module in stage.modules.items() if is_norm(module) and hasattr(module, "running_mean")]
    if not stored:
        return "-"
    training = {phase.modes[name] for name in stored}
    return "mixed" if len(training) == 2 else "batch statistics" if training.pop() else "stored statistics"


def _abridged(names: Sequence[str]) -> str:
    """Name the outermost modules only, and of many the first and the last."""
    outer = [n for n in names if not any(n.startswith(f"{other}.") for other in names)]
    return ", ".join(outer) if len(outer) <= 3 else f"{outer[0]} ... {outer[-1]}"


def as_text(plan: Plan, *, lr: float) -> str:
    """Return the whole plan as plain text: the picture, then a table for each phase."""
    blocks = [plan.picture()]
    for phase in plan.phases:
        title = (
            f"epochs {phase.epochs}: {plan.trainable(phase):,} of {sum(g.size for g in plan.groups):,} parameters train"
        )
        blocks.append(f"{title}\n{_table(plan.rows(phase, lr=lr))}")
    policy = f"norm_stats={plan.strategy.norm_stats} norm_affine={plan.strategy.norm_affine}"
    return "\n\n".join([*blocks, f"normalisation policy: {policy}"]) + "\n"


def _table(rows: Sequence[Mapping[str, str]]) -> str:
    widths = {key: max(len(key), *(len(row[key]) for row in rows)) for key in rows[0]}
    lines = [{key: key for key in widths}, *rows]
    return "\n".join("  ".join(line[key].ljust(width) for key, width in widths.items()).rstrip() for line in lines)
