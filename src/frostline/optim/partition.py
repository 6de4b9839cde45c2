"""One static, total partition of a network's parameters, built once, frozen or not.

Nothing is ever added to or removed from an optimizer, so that schedulers and resumed runs see the same groups always;
what is frozen is a parameter without a gradient, which every torch optimizer skips.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from torch.optim import Optimizer

from frostline.depth import Depth, Grain, Outline, Place, Role
from frostline.nn.stages import Stage

NO_DECAY = frozenset({Role.NORM, Role.NORM_BIAS, Role.BIAS})


@dataclass(frozen=True, kw_only=True)
class Group:
    """The parameters of one role in one stage, or one of them alone.

    Attributes:
        stage: Where they are.
        role: What they do. Norms and biases are not decayed (He et al. 2019, arXiv:1812.01187, section 3.1).
        parameters: The parameters by their qualified names.
        fixed: Names of those that the network's author froze (a table of sines, say); no strategy thaws them.
        tensor: The name of the only parameter, where a strategy tells tensors apart.
    """

    stage: Depth
    role: Role
    parameters: Mapping[str, nn.Parameter]
    fixed: frozenset[str] = frozenset()
    tensor: str = ""

    @property
    def size(self) -> int:
        """Scalars that can train."""
        return sum(p.numel() for name, p in self.parameters.items() if name not in self.fixed)

    @property
    def name(self) -> str:
        """The group's name, `stage.role`, with the tensor's behind it where it holds one."""
        return ".".join(filter(None, (self.stage.name, self.role, self.tensor)))

    @property
    def place(self) -> Place:
        """What a strategy is asked about."""
        return Place(stage=self.stage, role=self.role, name=self.tensor)


def partition(stages: Sequence[Stage], grain: Grain = "role") -> tuple[Group, ...]:
    """Return the groups of all stages, as fine as `grain`; every parameter is in exactly one, by identity."""
    by_role = [_group(stage, role) for stage in stages for role in Role if role in stage.roles.values()]
    groups = tuple(by_role if grain == "role" else [single for group in by_role for single in _singles(group)])
    members = [id(p) for group in groups for p in group.parameters.values()]
    assert len(members) == len(set(members)) == sum(len(stage.parameters) for stage in stages)
    return groups


def _group(stage: Stage, role: Role) -> Group:
    parameters = {name: p for name, p in stage.parameters.items() if stage.roles[name] is role}
    fixed = frozenset(name for name, p in parameters.items() if not p.requires_grad)
    return Group(stage=stage.depth, role=role, parameters=parameters, fixed=fixed)


def _singles(group: Group) -> list[Group]:
    """Return a group for each parameter of this one."""
    return [
        replace(group, parameters={name: p}, fixed=group.fixed & {name}, tensor=name)
        for name, p in group.parameters.items()
    ]


def outline(groups: Sequence[Group]) -> Outline:
    """Return what a strategy may know of these groups: names and places, no module."""
    stages = {group.stage.index: group.stage for group in groups}
    free = [single.place for group in groups for single in _singles(group) if not single.fixed]
    return Outline(stages=[stages[index] for index in sorted(stages)], places=free)


def optimizer_over(groups: Sequence[Group], factory: Callable[[list[dict[str, Any]]], Optimizer]) -> Optimizer:
    """Return the optimizer over these groups, each under its name; norms and biases without weight decay."""
    return factory([_options(group) for group in groups])


def _options(group: Group) -> dict[str, Any]:
    options: dict[str, Any] = {"params": list(group.parameters.values()), "name": group.name}
    return options | {"weight_decay": 0.0} if group.role in NO_DECAY else options
