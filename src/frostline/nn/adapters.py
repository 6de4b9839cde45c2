"""Adds the small layers of LoRA, DoRA and (IA)^3 to a network, in place, and merges them into it again on a copy.

peft injects the layers; which ones, what else trains and which stage they belong to is not left to it.
"""

import re
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any, TypeVar

import torch
from torch import nn

from frostline.adapter import Adapter
from frostline.depth import Role
from frostline.errors import RequestError
from frostline.nn.calls import watch
from frostline.nn.stages import Stage

_T = TypeVar("_T")
_BASE = ".base_layer"
_TYPES = {"linear": (nn.Linear,), "conv": (nn.Conv2d,), "both": (nn.Linear, nn.Conv2d)}
_OPAQUE = (nn.MultiheadAttention, nn.TransformerEncoderLayer)
"""Modules that read their children's weights themselves, so that a child's adapter would not be asked."""


@dataclass(frozen=True, kw_only=True)
class Attached:
    """What was added to a network, and where.

    Attributes:
        adapter: What was added.
        targets: Names of the adapted layers, as before.
    """

    adapter: Adapter
    targets: tuple[str, ...]


def attach(
    network: nn.Module, stages: Sequence[Stage], adapter: Adapter, *, example: Any, seed: int
) -> tuple[Attached, tuple[Stage, ...]]:
    """Add an adapter to the layers that it asks for, in place; outputs stay as they are until something trains.

    Adapted are linear layers and 2d convolutions below the head that a forward pass calls, one name each. Tied layers
    are left out, because a merged weight would change both ends; so are the projections inside torch's attention, and
    for LoRA and DoRA grouped, dilated or not zero-padded convolutions, which peft cannot reproduce.

    Args:
        network: What to add to; flags, modes and names of everything outside the adapted layers stay.
        stages: Its stages.
        adapter: What to add.
        example: Inputs that the network takes.
        seed: Fixes the added parameters; no other random numbers are used up.

    Returns:
        What was added, and the same stages with the added parameters in them, as `Role.ADAPTER`.

    Raises:
        RequestError: peft is not installed, no layer can be adapted, or the rank is above that of every layer.
    """
    targets = _targets(network, stages, adapter, set(watch(network, example).first))
    if not targets:
        raise RequestError(_nothing(adapter))
    _refuse_a_rank_that_is_no_saving(network, targets, adapter)
    attached = Attached(adapter=adapter, targets=targets)
    inject(network, attached, seed=seed)
    return attached, _with_added(network, stages)


def inject(network: nn.Module, attached: Attached, *, seed: int = 0) -> None:
    """Add an adapter to exactly these layers of a network, in place.

    Raises:
        RequestError: peft is not installed.
    """
    peft = _peft(attached.adapter)
    free = {parameter: parameter.requires_grad for parameter in network.parameters()}
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "fan_in_fan_out is set to")  # peft sees for itself how a weight lies
        torch.default_generator.manual_seed(seed)  # `torch.manual_seed` would reset accelerators too
        peft.inject_adapter_in_model(_config(peft, attached), network)
    for parameter, flag in free.items():  # peft freezes all but its own, the head too
        parameter.requires_grad_(flag)
    injected = tuple(name for name, module in network.named_modules() if _is_adapted(module))
    assert injected == attached.targets, f"asked for {attached.targets}, adapted {injected}"


def merged(network: nn.Module) -> nn.Module:
    """Return a copy of the plain architecture that computes what the adapted network does; the network stays."""
    plain = deepcopy(network)
    for name, module in list(plain.named_modules()):
        if _is_adapted(module):
            module.merge()
            parent, _, own = name.rpartition(".")
            setattr(plain.get_submodule(parent), own, module.base_layer)
    return plain


def plain_name(name: str) -> str:
    """Return the name that a parameter or buffer has in the network without adapters."""
    return name.replace(f"{_BASE}.", ".")


def _is_adapted(module: nn.Module) -> Any:
    return hasattr(module, "merged_adapters") and hasattr(module, "base_layer")


def _targets(
    network: nn.Module, stages: Sequence[Stage], adapter: Adapter, called: Collection[nn.Module]
) -> tuple[str, ...]:
    asked = {
        name
        for stage in stages
        if stage.depth.from_head and (adapter.stages is None or stage.depth.name in adapter.stages)
        for name in stage.modules
    }
    barred = _tied(network) | {part for m in network.modules() if isinstance(m, _OPAQUE) for part in m.modules()}
    return tuple(
        name
        for name, module in network.named_modules()
        if name in asked and module in called and module not in barred and _adaptable(module, adapter)
    )


def _adaptable(module: nn.Module, adapter: Adapter) -> bool:
    """Tell whether peft adapts this layer rightly; subclasses may compute something else, and are left out."""
    if type(module) not in _TYPES[adapter.types] and not (_is_turned_linear(module) and adapter.types != "conv"):
        return False
    if adapter.method == "ia3" or not isinstance(module, nn.Conv2d):
        return True
    return module.groups == 1 and set(module.dilation) == {1} and module.padding_mode == "zeros"


def _is_turned_linear(module: nn.Module) -> bool:
    """Tell whether a layer is what transformers calls Conv1D: GPT-2's linear layer, whose weight lies the other way."""
    kind = type(module)
    return (kind.__module__, kind.__name__) == ("transformers.pytorch_utils", "Conv1D")


def _tied(network: nn.Module) -> set[nn.Module]:
    """Return the modules that own a parameter which has more than one name."""
    names = [id(parameter) for _, parameter in network.named_parameters(remove_duplicate=False)]
    seen, twice = set[int](), set[int]()
    for name in names:
        (twice if name in seen else seen).add(name)
    return {m for m in network.modules() if any(id(p) in twice for p in m.parameters(recurse=False))}


def _refuse_a_rank_that_is_no_saving(network: nn.Module, targets: Sequence[str], adapter: Adapter) -> None:
    weights = [network.get_submodule(name).get_parameter("weight") for name in targets]
    highest = max(min(weight.flatten(1).shape) for weight in weights)
    if adapter.method != "ia3" and adapter.rank > highest:
        raise RequestError(
            f"freeze.rank: no adapted layer has a rank above {highest}, so {adapter.rank} is no low rank; choose less"
        )


def _nothing(adapter: Adapter) -> str:
    kinds = {"linear": "linear layer", "conv": "convolution", "both": "linear layer or convolution"}[adapter.types]
    where = "below the head" if adapter.stages is None else f"in {', '.join(adapter.stages)}"
    key = "freeze.types" if adapter.types != "both" else "freeze.stages" if adapter.stages else "freeze"
    return f"{key}: {adapter.method} finds no {kinds} {where} that it can adapt; choose other layers or a strategy"


def _peft(adapter: Adapter) -> ModuleType:
    try:
        import peft
    except ImportError as error:
        raise RequestError(f"freeze: {adapter.method} needs peft; pip install 'frostline[peft]'") from error
    return peft  # type: ignore[no-any-return]


def _config(peft: ModuleType, attached: Attached) -> Any:
    """Return peft's own words; a pattern over whole names, because of a list peft takes each as a suffix too."""
    adapter, names = attached.adapter, "|".join(re.escape(name) for name in attached.targets)
    if adapter.method == "ia3":
        scaled = names if adapter.feedforward else []
        return peft.IA3Config(target_modules=names, feedforward_modules=scaled)
    return peft.LoraConfig(
        target_modules=names,
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        use_dora=adapter.method == "dora",
    )


def _with_added(network: nn.Module, stages: Sequence[Stage]) -> tuple[Stage, ...]:
    """Return the same stages over the adapted network: what was added belongs where the layer it adapts does."""
    home = {name: stage.depth.index for stage in stages for name in _owned(stage)}
    modules = {name: module for name, module in network.named_modules() if _place(name, home) is not None}
    after = tuple(
        replace(
            stage,
            parameters=(own := _own(dict(network.named_parameters()), stage, home)),
            roles={name: stage.roles.get(plain_name(name), Role.ADAPTER) for name in own},
            buffers=_own(dict(network.named_buffers()), stage, home),
            modules=_own(modules, stage, home),
        )
        for stage in stages
    )
    assert sum(len(stage.parameters) for stage in after) == len(list(network.parameters()))
    return after


def _owned(stage: Stage) -> Iterator[str]:
    yield from (*stage.parameters, *stage.buffers, *stage.modules)


def _own(named: Mapping[str, _T], stage: Stage, home: Mapping[str, int]) -> dict[str, _T]:
    return {name: thing for name, thing in named.items() if _place(name, home) == stage.depth.index}


def _place(name: str, home: Mapping[str, int]) -> int | None:
    """Return the stage of a name, or of the layer that it was added to."""
    known = plain_name(name)
    while known not in home and known:
        known = known.rpartition(".")[0]
    return home.get(known)
