"""The parts of a stage that a forward pass is through with before anything of the stage trains.

A stage trains as soon as one parameter of it does. What comes before that one gives the same in every epoch, as the
stages below do, and what it gives can be kept in place of what they give.
"""

from collections.abc import Collection, Iterator, Sequence

from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from frostline.cache.prefix import is_inside
from frostline.nn.calls import Calls
from frostline.nn.stages import Stage, is_norm
from frostline.plan import Phase, Plan


def stage_in_part(plan: Plan, phase: Phase) -> Stage | None:
    """Return the first stage in which something trains, where something of it is frozen; else None."""
    rest = plan.stages[plan.frozen_prefix(phase) :]
    if rest and not _training(plan, phase, rest[:1]).issuperset(rest[0].parameters.values()):
        return rest[0]
    return None


def parts_before(network: nn.Module, plan: Plan, phase: Phase, stage: Stage, calls: Calls) -> Iterator[tuple[str, ...]]:
    """Yield which modules of a stage the forward pass leaves before anything in it trains, draws or takes statistics.

    First all of them; then those before the module in which that lies, and so on outwards, lest it cannot be taken
    apart. What is there runs in training mode, as all of a stage that trains does; that it gives the same nevertheless
    is to be proved.

    Args:
        network: The network.
        plan: What trains when.
        phase: The phase.
        stage: The first stage in which something trains.
        calls: When a forward pass of the network calls its modules.
    """
    own, every = _training(plan, phase, [stage]), _training(plan, phase, plan.stages)
    moving = {
        name: _called(name, network, calls)
        for name, module in network.named_modules()
        if _owns(module, every if name in stage.modules else own)
        or (name in stage.modules and phase.modes[name] and _draws_or_counts(module))
    }
    name, found = min(moving, key=moving.__getitem__, default=""), None
    while name:
        if (parts := _left_before(_called(name, network, calls), stage, calls)) and parts != found:
            yield (found := parts)
        name = name.rpartition(".")[0]


def _left_before(time: int, stage: Stage, calls: Calls) -> tuple[str, ...]:
    """Return the outermost modules of a stage that the pass has left by then."""
    left = {name: m for name, m in stage.modules.items() if m in calls.first and calls.end(m) < time}
    return tuple(name for name in left if not is_inside(name, left))


def _training(plan: Plan, phase: Phase, stages: Sequence[Stage]) -> set[nn.Parameter]:
    """Return which parameters of some stages train in a phase."""
    free = plan.training(phase.scales)
    return {free[name] for stage in stages for name in stage.parameters if name in free}


def _owns(module: nn.Module, parameters: Collection[nn.Parameter]) -> bool:
    return any(own in parameters for own in module.parameters(recurse=False))


def _draws_or_counts(module: nn.Module) -> bool:
    """Tell whether a layer drops something at random or takes statistics while it is in training mode."""
    return is_norm(module) or (isinstance(module, _DropoutNd) and module.p > 0)


def _called(name: str, network: nn.Module, calls: Calls) -> int:
    """Return when the pass first called a module, or, of one that is never called itself, what it lies in."""
    while (module := network.get_submodule(name)) not in calls.first:
        name = name.rpartition(".")[0]
    return calls.first[module]
