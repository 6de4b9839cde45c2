"""A network as a few stages in forward order, found by watching one forward pass instead of knowing the architecture.

The network's tree of modules is cut into units: the children of the root, and of every container that had to be
expanded so that the head stands alone and there are enough units to choose a depth from. The order in which a forward
pass reaches the units is the order of the stages; the order in which a constructor registered them means nothing.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _NormBase

from frostline.depth import Depth, Role

_FEWEST = 5
"""Containers are expanded until there are so many stages, where the network has so many parts."""

_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm, nn.CrossMapLRN2d)
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
_TABLE = re.compile(r"token|embed|position|^pos_")


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


def stages(network: nn.Module, example: Tensor) -> tuple[Stage, ...]:
    """Cut a network into `stem`, `body1` to `bodyn` and `head`, in forward order.

    The head is the last module of the forward pass that owns parameters, normalisation aside, together with auxiliary
    classifiers. A network of one such module is all head. Modes, flags, buffers and random states stay as they are.

    Args:
        network: Any network; on any device, the meta device included.
        example: Inputs that the network takes, (B, ...); only their shape and type matter where the network can run
            on the meta device.

    Returns:
        Stages that own every parameter and every buffer of the network exactly once, by identity.
    """
    calls = _watch(network, example)
    expanded = _expand(network, calls)
    groups = _groups(expanded, calls)
    _place_uncalled(expanded, groups, calls)
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


class _Calls:
    """When each module was called in one forward pass, the first and the last time."""

    def __init__(self) -> None:
        self.first: dict[nn.Module, int] = {}
        self.last: dict[nn.Module, int] = {}
        self.clock = 0

    def note(self, module: nn.Module, _: object) -> None:
        self.clock += 1
        self.first.setdefault(module, self.clock)
        self.last[module] = self.clock

    def start(self, module: nn.Module) -> int:
        """The first call of a module or of anything in it: a ModuleList is never called itself."""
        return min(self.first[part] for part in module.modules() if part in self.first)

    def reached(self, module: nn.Module) -> bool:
        return any(part in self.first for part in module.modules())


def _watch(network: nn.Module, example: Tensor) -> _Calls:
    """Run the network once in eval mode and note its calls: on the meta device, or really where that fails."""
    try:
        return _watch_on(network, torch.empty_like(example, device="meta"), _copies(network, device="meta"))
    except Exception:  # whatever a network does that needs values, the real run below can do or will explain
        device = next(network.parameters()).device
        return _watch_on(network, example.to(device), _copies(network, device=device))


def _watch_on(network: nn.Module, example: Tensor, tensors: Mapping[str, Tensor]) -> _Calls:
    calls = _Calls()
    hooks = [module.register_forward_pre_hook(calls.note) for module in network.modules()]
    try:
        with _evaluating(network), torch.no_grad(), torch.random.fork_rng(devices=[]):
            functional_call(network, dict(tensors), (example,))
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _copies(network: nn.Module, *, device: torch.device | str) -> dict[str, Tensor]:
    """Stand-ins for what the network owns, so that a forward pass cannot touch it: `.to` copies buffers that it must.

    Parameters are shared where the device is the same, because eval mode only reads them.
    """
    parameters = {name: parameter.detach().to(device) for name, parameter in network.named_parameters()}
    return parameters | {name: buffer.detach().to(device, copy=True) for name, buffer in network.named_buffers()}


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _expand(network: nn.Module, calls: _Calls) -> list[nn.Module]:
    """Choose the containers whose children are units: those around the head, then the widest until stages suffice."""
    head = _head(network, calls)
    expanded = [module for module in network.modules() if module is not head and head in set(module.modules())]
    while len(_groups(network, expanded, calls)) < _FEWEST and (widest := _widest(network, expanded, calls)):
        expanded.append(widest)
    return expanded


def _head(network: nn.Module, calls: _Calls) -> nn.Module:
    owners = [module for module in calls.last if _owns_parameters(module) and not is_norm(module)]
    assert owners, "a forward pass that reaches no module with parameters has no head"
    return max(owners, key=calls.last.__getitem__)


def _widest(network: nn.Module, expanded: Sequence[nn.Module], calls: _Calls) -> nn.Module | None:
    candidates = [unit for unit in _units(network, expanded) if _divides(unit, calls)]
    return max(candidates, key=lambda unit: sum(map(_owns_parameters, unit.modules())), default=None)


def _divides(unit: nn.Module, calls: _Calls) -> bool:
    """Tell whether a unit has parts to cut between: attention that reads its children's weights itself has none."""
    return any(calls.reached(child) and any(True for _ in child.parameters()) for child in unit.children())


def _units(network: nn.Module, expanded: Sequence[nn.Module]) -> list[nn.Module]:
    """The children of expanded containers that are not expanded themselves, as registered, each once."""
    if not expanded:
        return [network]
    children = dict.fromkeys(child for container in expanded for child in container.children())
    return [child for child in children if child not in set(expanded)]


def _groups(network: nn.Module, expanded: Sequence[nn.Module], calls: _Calls) -> list[list[nn.Module]]:
    """Group the units that the forward pass reached, in its order, into what becomes the stages.

    A unit that brings parameters of its own begins a group, unless it only normalises what the group before it gives.
    Units without parameters follow that group too, but from a dropout on they belong to the group whose input it drops.
    """
    head, seen = _head(network, calls), {id(own) for module in expanded for own in module.parameters(recurse=False)}
    groups: list[list[nn.Module]] = []
    waiting: list[nn.Module] = []
    for unit in sorted(filter(calls.reached, _units(network, expanded)), key=calls.start):
        new = {id(parameter) for parameter in unit.parameters()} - seen
        seen |= new
        if unit is not head and not new and (waiting or not groups or isinstance(unit, _DROPOUTS)):
            waiting.append(unit)
        elif unit is head or _begins(unit, groups, new=bool(new)):
            groups.append([*waiting, unit])
            waiting = []
        else:
            groups[-1] += [*waiting, unit]
            waiting = []
    groups[-1] += waiting
    return groups
