"""One static, total partition of a network's parameters, built once, frozen or not.

Nothing is ever added to or removed from an optimizer, so that schedulers and resumed runs see the same groups always;
what is frozen is a parameter without a gradient, which every torch optimizer skips.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import Optimizer

from frostline.depth import Depth, Role
from frostline.nn.stages import Stage

NO_DECAY = frozenset({Role.NORM, Role.NORM_BIAS, Role.BIAS})


@dataclass(frozen=True, kw_only=True)
class Group:
    """The parameters of one role in one stage.

    Attributes:
        stage: Where they are.
        role: What they do. Norms and biases are not decayed (He et al. 2019, arXiv:1812.01187, section 3.1).
        parameters: The parameters by their qualified names.
        fixed: Names of those that the network's author froze (a table of sines, say); no strategy thaws them.
    """

    stage: Depth
    role: Role
    parameters: Mapping[str, nn.Parameter]
    fixed: frozenset[str] = frozenset()

    @property
    def size(self) -> int:
        """Scalars that can train."""
        return sum(p.numel() for name, p in self.parameters.items() if name not in self.fixed)

    @property
    def name(self) -> str:
        """The group's name, `stage.role`."""
        return f"{self.stage.name}.{self.role}"


def partition(stages: Sequence[Stage]) -> tuple[Group, ...]:
    """Return the groups of all stages; every parameter is in exactly one, by identity."""
    groups = tuple(_group(stage, role) for stage in stages for role in Role if role in stage.roles.values())
    members = [id(p) for group in groups for p in group.parameters.values()]
    assert len(members) == len(set(members)) == sum(len(stage.parameters) for stage in stages)
    return groups


def _group(stage: Stage, role: Role) -> Group:
    parameters = {name: p for name, p in stage.parameters.items() if stage.roles[name] is role}
    fixed = frozenset(name for name, p in parameters.items() if not p.requires_grad)
    return Group(stage=stage.depth, role=role, parameters=parameters, fixed=fixed)


def optimizer_over(groups: Sequence[Group], factory: Callable[[list[dict[str, Any]]], Optimizer]) -> Optimizer:
    """Return the optimizer over these groups, each under its name; norms and biases without weight decay."""
    return factory([_options(group) for group in groups])


def _options(group: Group) -> dict[str, Any]:
    options: dict[str, Any] = {"params": list(group.parameters.values()), "name": group.name}
    return options | {"weight_decay": 0.0} if group.role in NO_DECAY else options
