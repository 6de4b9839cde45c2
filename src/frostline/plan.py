"""What a strategy will do to a network over a run, known before anything trains.

The engine applies this plan and nothing else, so that what `frostline plan` prints is what a run does.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby, takewhile

from torch import nn

from frostline.freeze.drawing import LEGEND, UNSETTLED, picture
from frostline.freeze.strategy import Decision, Progress, Strategy, with_norm_policy
from frostline.nn.stages import Stage, is_norm
from frostline.optim.partition import Group

MOST_PHASES = 24
"""Phases that are written out; a strategy that draws anew every few steps has thousands."""


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A span of optimizer steps in which the same parameters train.

    Attributes:
        start: First step, from 0.
        stop: The step after the last.
        per_epoch: Steps of an epoch.
        scales: By group name, the factor on the learning rate at the first step; 0 is frozen.
        modes: By module name, whether the module is in train mode.
    """

    start: int
    stop: int
    per_epoch: int
    scales: Mapping[str, float]
    modes: Mapping[str, bool]

    @property
    def span(self) -> str:
        """The span as people write it, inclusive: in epochs where it is made of whole ones, else in steps."""
        if self.start % self.per_epoch or self.stop % self.per_epoch:
            return f"steps {_inclusive(self.start, self.stop)}"
        return f"epochs {_inclusive(self.start // self.per_epoch, self.stop // self.per_epoch)}"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A strategy over the stages of a network, with the groups of their parameters and the time there is.

    Attributes:
        strategy: What trains when.
        stages: The network's stages.
        groups: The parameters, by stage and role.
        epochs: Epochs of the run.
        per_epoch: Optimizer steps of an epoch.
        decisions: What the strategy has decided, where it decides from signals of training.
        monitored: By epoch, the metric that the strategy waits on, as far as it has been validated.
    """

    strategy: Strategy
    stages: Sequence[Stage]
    groups: Sequence[Group]
    epochs: int
    per_epoch: int = 1
    decisions: tuple[Decision, ...] = ()
    monitored: Mapping[int, float] = field(default_factory=dict)

    def moment(self, *, epoch: int, step: int) -> int:
        """Return the step that the strategy is asked about: the first of the epoch, or this one, as its clock says."""
        return epoch * self.per_epoch if self.strategy.clock == "epoch" else step

    def progress(self, step: int) -> Progress:
        """Return what a strategy is told at this optimizer step: how far the run is, and what it has seen by then."""
        epoch = step // self.per_epoch
        return Progress(
            epoch=epoch,
            epochs=self.epochs,
            step=step,
            steps=self.epochs * self.per_epoch,
            decisions=tuple(decision for decision in self.decisions if decision.step <= step),
            monitored={past: value for past, value in self.monitored.items() if past < epoch},
        )

    def known(self, step: int) -> bool:
        """Tell whether it is settled what trains at this optimizer step."""
        return self.strategy.known(self.progress(step))

    def scales(self, step: int) -> dict[str, float]:
        """Return the factor on the learning rate of each group at this optimizer step, by name; 0 is frozen."""
        progress = self.progress(step)
        return {group.name: self._scale(group, progress) for group in self.groups}

    def _scale(self, group: Group, progress: Progress) -> float:
        return with_norm_policy(self.strategy, self.strategy.scale_of(group.place, progress), group.role)

    def training(self, scales: Mapping[str, float]) -> dict[str, nn.Parameter]:
        """Return the parameters that train under these scales, by name.

        They are those of the groups whose factor is not 0, without what the network's author froze.
        """
        free = [group for group in self.groups if scales[group.name]]
        return {name: p for group in free for name, p in group.parameters.items() if name not in group.fixed}

    def modes(self, scales: Mapping[str, float]) -> dict[str, bool]:
        """Return which modules are in train mode under these scales, by module name.

        A normalisation layer obeys `norm_stats`; any other module (dropout, stochastic depth) is in train mode where
        something of its stage trains.
        """
        free = self.training(scales).keys()
        return {
            name: self._trains(module, name, stage, free)
            for stage in self.stages
            for name, module in stage.modules.items()
        }

    def _trains(self, module: nn.Module, name: str, stage: Stage, free: AbstractSet[str]) -> bool:
        own = {f"{name}.{parameter}" if name else parameter for parameter, _ in module.named_parameters()}
        if is_norm(module) and self.strategy.norm_stats != "follow":
            return self.strategy.norm_stats == "running"
        if is_norm(module) and own:
            return not own.isdisjoint(free)
        return not stage.parameters.keys().isdisjoint(free)

    @cached_property
    def phases(self) -> list[Phase]:
        """The spans between changes of what trains, as far as that is known; a run of no epochs has one."""
        every = [(step, self.scales(step)) for step in takewhile(self.known, self._ticks)]
        first = [next(span) for _, span in groupby(every, key=lambda item: who_trains(item[1]))]
        stops = [*(step for step, _ in first[1:]), self.horizon]
        return [
            self.phase(start, stop=stop, scales=scales) for (start, scales), stop in zip(first, stops, strict=False)
        ]

    @property
    def _ticks(self) -> range:
        """The steps at which what trains can change."""
        return range(0, self.end, self.per_epoch if self.strategy.clock == "epoch" else 1)

    @property
    def end(self) -> int:
        """The step after the last."""
        return max(1, self.epochs) * self.per_epoch

    @cached_property
    def horizon(self) -> int:
        """The first step of which it is not yet settled what trains, or the end."""
        return next((step for step in self._ticks if not self.known(step)), self.end)

    def phase(self, start: int, *, stop: int, scales: Mapping[str, float]) -> Phase:
        """Return the phase of these steps, in which these scales hold at the start."""
        return Phase(start=start, stop=stop, per_epoch=self.per_epoch, scales=scales, modes=self.modes(scales))

    @property
    def passes(self) -> int:
        """How often the training examples are passed through: in each epoch, or once in place of training."""
        return self.epochs if self.strategy.instead is None else 1

    def trainable(self, phase: Phase) -> int:
        """Return how many parameters (scalars) train in a phase."""
        return sum(p.numel() for p in self.training(phase.scales).values())

    def frozen_prefix(self, phase: Phase) -> int:
        """Return of how many stages, from the first on, nothing trains in a phase, drops out or takes statistics.

        What these make of an example is the same in every epoch of the phase.
        """
        trained = {group.stage for group in self.groups if group.size and phase.scales[group.name]}
        moving = (s.depth in trained or any(phase.modes[name] for name in s.modules) for s in self.stages)
        return next((place for place, moves in enumerate(moving) if moves), len(self.stages))

    def never_moves(self) -> set[str]:
        """Return the names of the parameters that no phase trains, and of the statistics that no phase updates.

        Of what training has still to decide, anything may move.
        """
        if self.horizon < self.end:
            return set()
        trained = {g.name for g in self.groups if any(phase.scales[g.name] for phase in self.phases)}
        awake = {name for phase in self.phases for name, training in phase.modes.items() if training}
        parameters = {name for group in self.groups if group.name not in trained for name in group.parameters}
        buffers = {name for stage in self.stages for name in stage.buffers if name.rpartition(".")[0] not in awake}
        return parameters | buffers

    def picture(self) -> str:
        """Return the drawn plan: a row a stage, a column an epoch, and what the signs mean."""
        of_stage = [[g.name for g in self.groups if g.stage == stage.depth and g.size] for stage in self.stages]
        columns = self.columns
        drawn = picture(
            [stage.depth.name for stage in self.stages],
            len(columns),
            lambda row, epoch: None if (column := columns[epoch]) is None else [column[name] for name in of_stage[row]],
        )
        return f"{drawn}\n{LEGEND}{UNSETTLED if None in columns else ''}"

    @property
    def columns(self) -> list[dict[str, float] | None]:
        """The scales at the first step of each epoch, None where they are not yet settled."""
        starts = range(0, self.end, self.per_epoch)
        return [self.scales(step) if self.known(step) else None for step in starts]

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
            "modules": abridged(_outermost(list(stage.modules)), ", "),
            "trains": "nothing" if not free else "all" if len(free) == len(groups) else _roles(free),
            "lr": abridged([f"{rate:.4g}" for rate in rates], " / ") or "-",
            "norms": _norms(stage, phase),
            "trainable": f"{sum(group.size for group in free):,}",
            "parameters": f"{sum(p.numel() for p in stage.parameters.values()):,}",
        }


def who_trains(scales: Mapping[str, float]) -> list[bool]:
    """Return, group by group, whether it trains."""
    return [bool(scale) for scale in scales.values()]


def _inclusive(start: int, stop: int) -> str:
    return str(start) if stop == start + 1 else f"{start}-{stop - 1}"


def _norms(stage: Stage, phase: Phase) -> str:
    """Say which statistics the stage's normalisation layers use; those that store none always use the input's own."""
    stored = [n for n, module in stage.modules.items() if is_norm(module) and hasattr(module, "running_mean")]
    if not stored:
        return "-"
    training = {phase.modes[name] for name in stored}
    return "mixed" if len(training) == 2 else "batch statistics" if training.pop() else "stored statistics"


def _roles(groups: Sequence[Group]) -> str:
    return ", ".join(dict.fromkeys(group.role for group in groups))


def _outermost(names: Sequence[str]) -> list[str]:
    return [name for name in names if not any(name.startswith(f"{other}.") for other in names)]


def abridged(names: Sequence[str], between: str) -> str:
    """Name all, or of many the first and the last."""
    return between.join(names) if len(names) <= 3 else f"{names[0]} ... {names[-1]}"


def as_text(plan: Plan, *, lr: float) -> str:
    """Return the whole plan as plain text: the picture, then a table for each phase."""
    blocks = [plan.picture()]
    total = sum(group.size for group in plan.groups)
    for phase in plan.phases[:MOST_PHASES]:
        title = f"{phase.span}: {plan.trainable(phase):,} of {total:,} parameters train"
        blocks.append(f"{title}\n{_table(plan.rows(phase, lr=lr))}")
    if len(plan.phases) > MOST_PHASES:
        blocks.append(f"... and {len(plan.phases) - MOST_PHASES} more phases")
    if plan.strategy.instead is not None:
        blocks = [str(plan.strategy.instead)]
    if plan.horizon < plan.end:
        undecided = f"from step {plan.horizon} on, what trains is decided while training"
        blocks.append("\n".join([undecided, *plan.strategy.announcements]))
    policy = f"norm_stats={plan.strategy.norm_stats} norm_affine={plan.strategy.norm_affine}"
    return "\n\n".join([*blocks, f"normalisation policy: {policy}"]) + "\n"


def _table(rows: Sequence[Mapping[str, str]]) -> str:
    widths = {key: max(len(key), *(len(row[key]) for row in rows)) for key in rows[0]}
    lines = [{key: key for key in widths}, *rows]
    return "\n".join("  ".join(line[key].ljust(width) for key, width in widths.items()).rstrip() for line in lines)
