"""The order in which one forward pass calls the modules of a network, noted on a twin that is thrown away."""

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from frostline.batch import moved


class Calls:
    """When each module was called in one forward pass, the first and the last time."""

    def __init__(self) -> None:
        self.first: dict[nn.Module, int] = {}
        self.last: dict[nn.Module, int] = {}
        self.clock = count()

    def note(self, module: nn.Module, *_: object) -> None:
        """Count one call of a module; the rest is what a forward pre-hook is told of the one that was called."""
        now = next(self.clock)
        self.first.setdefault(module, now)
        self.last[module] = now

    def reached(self, module: nn.Module) -> bool:
        """Tell whether the pass called a module or anything in it: a ModuleList is never called itself."""
        return any(part in self.first for part in module.modules())

    def start(self, module: nn.Module) -> int:
        """Return when the pass first called a module, or the first part of one that it never calls itself.

        A part that another module called before, because both have it, does not count.
        """
        if module in self.first:
            return self.first[module]
        return min(self.start(child) for child in module.children() if self.reached(child))

    def end(self, module: nn.Module) -> int:
        """Return when the pass last called a module or anything in it."""
        return max(self.last[part] for part in module.modules() if part in self.last)


def watch(network: nn.Module, example: Any) -> Calls:
    """Run a twin of the network once in eval mode and note its calls: without values, or really where that fails.

    Nothing that a forward pass writes, be it to a buffer or to a plain attribute, reaches the network.

    Args:
        network: Any network that `copy.deepcopy` can copy.
        example: Inputs that the network takes: a tensor, or tensors in lists and mappings.

    Raises:
        RuntimeError: The network does not take the example.
    """
    try:
        return _watch_twin(
            network, twin_of(network, parameter=_on_meta, buffer=_on_meta), moved(example, torch.device("meta"))
        )
    except Exception:  # whatever a network does that needs values, the real run below can do or will explain
        device = next(network.parameters()).device
    try:
        return _watch_twin(
            network, twin_of(network, parameter=Tensor.detach, buffer=torch.clone), moved(example, device)
        )
    except AssertionError as error:  # timm's and torchvision's transformers assert the size of images
        raise RuntimeError(str(error)) from error


def _on_meta(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, device="meta")


def twin_of(
    network: nn.Module, *, parameter: Callable[[Tensor], Tensor], buffer: Callable[[Tensor], Tensor]
) -> nn.Module:
    """Copy a network in eval mode with other tensors in it, so that its own take no memory twice."""
    tensors: dict[int, Tensor] = {
        id(own): nn.Parameter(parameter(own), own.requires_grad) for own in network.parameters()
    }
    tensors |= {id(own): buffer(own) for own in network.buffers()}
    return deepcopy(network, dict(tensors)).eval()


def _watch_twin(network: nn.Module, twin: nn.Module, example: Any) -> Calls:
    calls = Calls()
    for module, copied in zip(network.modules(), twin.modules(), strict=True):
        copied.register_forward_pre_hook(partial(calls.note, module))
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        twin(example)
    return calls
