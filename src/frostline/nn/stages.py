"""A network as a few stages in forward order, found by watching one forward pass instead of knowing the architecture.

The network's tree of modules is cut into units: the children of the root, and of every container that had to be
expanded so that the head stands alone and there are enough units to choose a depth from. The order in which a forward
pass reaches the units is the order of the stages; the order in which a constructor registered them means nothing.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from frostline.depth import Depth, Role
from frostline.nn.calls import Calls, watch

_FEWEST = 5
"""Containers are expanded until there are so many stages, where the network has so many parts."""

_MOST = 0.75
"""A container of more than this share of the layers is expanded, too: it would leave nothing to choose between."""

_FEW = 3
"""So few stages are too few to leave a module whole whose parts have no one place in the forward pass."""

_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm, nn.CrossMapLRN2d)
_TABLE = re.compile(r"token|embed|position|^pos_")
_BIAS = re.compile(r"bias$|^bias_[ih]h_l\d")  # the latter of recurrent layers


@dataclass(frozen=True, kw_only=True, eq=False)
class Stage:
    """One step of depth of a network: everything in it that lies between two places of the forward pass.

    Attributes:
        depth: Its place among the stages.
        parameters: What it owns, by the names of `network.named_parameters()`; a tied parameter belongs to the first
            stage that uses it.
        roles: What each of `parameters` does, by the same names.
        buffers: What it owns, by the names of `network.named_buffers()`.
        modules: Every module that lies wholly in it, by the names of `network.named_modules()`; containers that were
            expanded, the root among them, lie in no stage.
    """

    depth: Depth
    parameters: Mapping[str, nn.Parameter] = field(repr=False)
    roles: Mapping[str, Role] = field(repr=False)
    buffers: Mapping[str, Tensor] = field(repr=False)
    modules: Mapping[str, nn.Module] = field(repr=False)


def stages(network: nn.Module, example: Any) -> tuple[Stage, ...]:
    """Cut a network into `stem`, `body1` to `bodyn` and `head`, in forward order.

    The head is the last module of the forward pass that owns parameters, normalisation aside, together with auxiliary
    classifiers. A network whose head is more than that names the modules of it in an attribute `head_modules`, and
    parameters that a container of head and body owns itself in `head_parameters`. A network of one such module is all
    head. Modes, flags, buffers and random states stay as they are.

    Args:
        network: Any network; on any device, the meta device included.
        example: Inputs that the network takes, see `watch`; only their shape and type matter where the network can run
            on the meta device.

    Returns:
        Stages that own every parameter and every buffer of the network exactly once, by identity.
    """
    calls = watch(network, example)
    head = _head(network, calls)
    expanded = _expand(network, head, calls)
    groups = _groups(_units(network, expanded), head, calls)
    _place_uncalled(network, expanded, head, groups, calls)
    return _claim(network, expanded, groups)


def is_norm(module: nn.Module) -> bool:
    """Tell whether a module normalises its input, or keeps statistics to do so.

    Subclasses of torch's layers count, so do layers that keep a `running_mean` (torchvision's FrozenBatchNorm2d) and
    the leaf modules of other libraries that own vectors only and say norm in their class's name (LlamaRMSNorm).
    """
    return isinstance(module, _NORMS) or hasattr(module, "running_mean") or _says_norm(module)


def _says_norm(module: nn.Module) -> bool:
    vectors_only = all(parameter.ndim <= 1 for parameter in module.parameters())
    return "norm" in type(module).__name__.lower() and vectors_only and not any(module.children())


def _expand(network: nn.Module, head: Sequence[nn.Module], calls: Calls) -> list[nn.Module]:
    """Choose the containers whose children are units: those around the head, then others until stages suffice."""
    expanded = [module for module in network.modules() if not set(head).isdisjoint(set(module.modules()) - {module})]
    while (container := _next(network, expanded, head, calls)) is not None:
        expanded.append(container)
    return expanded


def _next(
    network: nn.Module, expanded: Sequence[nn.Module], head: Sequence[nn.Module], calls: Calls
) -> nn.Module | None:
    """Return what to expand next: what is of no one depth, or the widest unit as long as stages do not suffice.

    They suffice where there are some, and no unit holds most of the layers. A module that the pass goes through several
    times (ALBERT's layer) stays whole where it can: each of its parts is at every depth.
    """
    units = [unit for unit in _units(network, expanded) if unit not in head]
    if scattered := [unit for unit in units if _scattered(unit, units, calls)]:
        return scattered[0]
    wide = _widest(units, calls)
    if wide is None or _layers(wide) > _MOST * _layers(network):
        return wide
    count = len(_groups(_units(network, expanded), head, calls))
    if count >= _FEWEST:
        return None
    return _widest([unit for unit in units if not _repeats(unit, calls)], calls) or (wide if count < _FEW else None)


def _scattered(unit: nn.Module, units: Iterable[nn.Module], calls: Calls) -> bool:
    """Tell whether a unit is a mere list, between whose parts the pass calls other layers: Twins' patch embeddings."""
    if unit in calls.first or not calls.reached(unit):
        return False
    own, start, end = set(unit.modules()), calls.start(unit), calls.end(unit)
    others = [other for other in units if other not in own and calls.reached(other) and _layers(other)]
    return any(start < calls.start(other) < end for other in others)


def _repeats(unit: nn.Module, calls: Calls) -> bool:
    """Tell whether the pass calls each layer of a unit more than once."""
    return all(calls.last[part] > calls.first[part] for part in unit.modules() if _reached_layer(part, calls))


def _reached_layer(module: nn.Module, calls: Calls) -> bool:
    return module in calls.first and _owns_parameters(module)


def _head(network: nn.Module, calls: Calls) -> list[nn.Module]:
    """Return what the network calls its head, or the module that the pass called last, normalisation aside."""
    named = [network.get_submodule(name) for name in getattr(network, "head_modules", ())]
    owners = [module for module in calls.last if _owns_parameters(module) and not is_norm(module)]
    assert owners, "a forward pass that reaches no module with parameters has no head"
    return named or [max(owners, key=calls.last.__getitem__)]


def _units(network: nn.Module, expanded: Sequence[nn.Module]) -> list[nn.Module]:
    """The children of expanded containers that are not expanded themselves, as registered, each once."""
    children = dict.fromkeys(child for container in expanded for child in container.children())
    return [child for child in children or [network] if child not in expanded]


def _widest(units: Sequence[nn.Module], calls: Calls) -> nn.Module | None:
    divisible = [unit for unit in units if _divides(unit, calls)]
    return max(divisible, key=_layers, default=None)


def _layers(unit: nn.Module) -> int:
    return sum(map(_owns_parameters, unit.modules()))


def _divides(unit: nn.Module, calls: Calls) -> bool:
    """Tell whether a unit has parts to cut between: attention that reads its children's weights itself has none."""
    return any(calls.reached(child) and any(True for _ in child.parameters()) for child in unit.children())


def _groups(units: Sequence[nn.Module], head: Sequence[nn.Module], calls: Calls) -> list[list[nn.Module]]:
    """Group the units that the forward pass reached, in its order, into what becomes the stages.

    Units without parameters stay with the group before them, but from a dropout on they wait for the unit whose input
    it drops: a frozen stage must not drop what it gives, and a stage that trains must.
    """
    groups: list[list[nn.Module]] = [[]]
    waiting: list[nn.Module] = []
    for unit, brings in _arrivals(units, head, calls):
        waiting.append(unit)
        if not brings and (len(waiting) > 1 or isinstance(unit, _DropoutNd)):
            continue
        if brings and _begins(unit, groups[-1], head):
            groups.append([])
        groups[-1] += waiting
        waiting = []
    groups[-1] += waiting
    return groups


def _arrivals(units: Sequence[nn.Module], head: Sequence[nn.Module], calls: Calls) -> Iterator[tuple[nn.Module, bool]]:
    """Yield the units as the forward pass reaches them, and whether each brings parameters not seen before.

    What belongs to the head counts from the end of its last part: some heads look at what comes between, too.
    """
    seen = set[nn.Parameter]()
    last = max(calls.end(unit) for unit in head if calls.reached(unit))
    reached = filter(calls.reached, units)
    for unit in sorted(reached, key=lambda unit: (last, calls.end(unit)) if unit in head else (calls.start(unit), 0)):
        yield unit, unit in head or not seen.issuperset(unit.parameters())
        seen.update(unit.parameters())


def _begins(unit: nn.Module, group: Sequence[nn.Module], head: Sequence[nn.Module]) -> bool:
    """Tell whether a unit begins a stage: the head does, and what does more than normalise the stage before it.

    Tables, of tokens and of their positions, begin one stage together.
    """
    if unit not in head and not set(group).isdisjoint(head):
        return False  # what the pass calls after a head that the network named is an auxiliary classifier
    if unit in head:
        return set(group).isdisjoint(head) and any(_owns_parameters(part) for unit in group for part in unit.modules())
    return _transforms([unit]) and _transforms(group) and not (_only_looks_up([unit]) and _only_looks_up(group))


def _only_looks_up(units: Iterable[nn.Module]) -> bool:
    owners = (module for unit in units for module in unit.modules() if _owns_parameters(module))
    return all(isinstance(module, nn.Embedding | nn.EmbeddingBag) or is_norm(module) for module in owners)


def _transforms(units: Iterable[nn.Module]) -> bool:
    owners = (module for unit in units for module in unit.modules() if _owns_parameters(module))
    return not all(is_norm(module) or _only_weighs(module) for module in owners)


def _only_weighs(module: nn.Module) -> bool:
    """Tell whether a layer only scales and shifts its input, or adds some inputs up: it has vectors, no matrix."""
    return all(sum(side > 1 for side in parameter.shape) <= 1 for parameter in module.parameters(recurse=False))


def _owns_parameters(module: nn.Module) -> bool:
    return any(True for _ in module.parameters(recurse=False))


def _place_uncalled(
    network: nn.Module,
    expanded: Sequence[nn.Module],
    head: Sequence[nn.Module],
    groups: Sequence[list[nn.Module]],
    calls: Calls,
) -> None:
    """Add what evaluation does not reach: to the head what is its own, to the sibling before it what is not."""
    place = {unit: index for index, group in enumerate(groups) for unit in group}
    for container in expanded:
        nearest = 0
        for name, child in container.named_children():
            if calls.reached(child):
                nearest = max(place[part] for part in child.modules() if part in place)
            elif child in head or (container is network and name.lower().startswith("aux")):  # torchvision's name
                groups[-1].append(child)
            else:
                groups[nearest].append(child)


class _Unclaimed:
    """What no stage owns yet, by identity and with its name; whoever asks first owns it."""

    def __init__(self, network: nn.Module) -> None:
        self.parameters = {parameter: name for name, parameter in network.named_parameters()}
        self.buffers = {buffer: name for name, buffer in network.named_buffers()}
        self.modules = {module: name for name, module in network.named_modules()}

    def keep(self, names: Sequence[str]) -> dict[nn.Parameter, str]:
        """Take these parameters out of reach, by identity and with their names."""
        kept = {parameter: name for parameter, name in self.parameters.items() if name in names}
        self.parameters = {parameter: name for parameter, name in self.parameters.items() if parameter not in kept}
        return kept

    def claim(self, depth: Depth, owners: Sequence[nn.Module]) -> Stage:
        """Make the stage of everything that these modules own directly, and of the modules themselves."""
        parameters, roles = {}, {}
        for owner in owners:
            for own, parameter in owner.named_parameters(recurse=False):
                if name := self.parameters.pop(parameter, ""):
                    parameters[name], roles[name] = parameter, _role(owner, own)
        buffers = {
            self.buffers.pop(b): b for owner in owners for b in owner.buffers(recurse=False) if b in self.buffers
        }
        modules = {self.modules.pop(owner): owner for owner in owners if owner in self.modules}
        return Stage(depth=depth, parameters=parameters, roles=roles, buffers=buffers, modules=modules)


def _claim(
    network: nn.Module, expanded: Sequence[nn.Module], groups: Sequence[Sequence[nn.Module]]
) -> tuple[Stage, ...]:
    """Make the stages; what expanded containers own themselves (a class token, a position table) goes to the first."""
    unclaimed = _Unclaimed(network)
    for container in expanded:
        del unclaimed.modules[container]
    owners = [[module for unit in group for module in unit.modules()] for group in groups]
    owners[0] = [*expanded, *owners[0]]
    kept = unclaimed.keep(getattr(network, "head_parameters", ()))
    body = [unclaimed.claim(_depth(index, len(owners)), owned) for index, owned in enumerate(owners[:-1])]
    unclaimed.parameters |= kept
    cut = (*body, unclaimed.claim(_depth(len(body), len(owners)), [*expanded, *owners[-1]]))
    left = [*unclaimed.parameters.values(), *unclaimed.buffers.values(), *unclaimed.modules.values()]
    assert not left, f"every part belongs to one stage, but no stage took {left}"
    return cut


def _depth(index: int, count: int) -> Depth:
    name = "head" if index == count - 1 else "stem" if index == 0 else f"body{index}"
    return Depth(name=name, index=index, count=count)


def _role(owner: nn.Module, name: str) -> Role:
    # ResMLP's affine layers, which it has instead of norms, call their scale alpha and their shift beta.
    shifts = bool(_BIAS.search(name)) or (name == "beta" and hasattr(owner, "alpha"))
    if is_norm(owner):
        return Role.NORM_BIAS if shifts else Role.NORM
    if isinstance(owner, nn.Embedding | nn.EmbeddingBag) or _TABLE.search(name):
        return Role.EMBEDDING
    return Role.BIAS if shifts else Role.WEIGHT
