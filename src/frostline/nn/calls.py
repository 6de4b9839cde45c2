"""The order in which one forward pass calls the modules of a network, noted by hooks that are gone afterwards."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count

import torch
from torch import Tensor, nn
from torch.func import functional_call


class Calls:
    """When each module was called in one forward pass, the first and the last time."""

    def __init__(self) -> None:
        self.first: dict[nn.Module, int] = {}
        self.last: dict[nn.Module, int] = {}
        self.clock = count()

    def note(self, module: nn.Module, _: object) -> None:
        """Count one call; a forward pre-hook."""
        now = next(self.clock)
        self.first.setdefault(module, now)
        self.last[module] = now

    def reached(self, module: nn.Module) -> bool:
        """Tell whether the pass called a module or anything in it: a ModuleList is never called itself."""
        return any(part in self.first for part in module.modules())

    def start(self, module: nn.Module) -> int:
        """Return when the pass first called a module or anything in it."""
        return min(self.first[part] for part in module.modules() if part in self.first)


def watch(network: nn.Module, example: Tensor) -> Calls:
    """Run the network once in eval mode and note its calls: on the meta device, or really where that fails.

    Args:
        network: Any network; modes, flags, buffers and random states stay as they are.
        example: Inputs that the network takes, (B, ...).
    """
    try:
        return _watch_on(network, torch.empty_like(example, device="meta"), _copies(network, device="meta"))
    except Exception:  # whatever a network does that needs values, the real run below can do or will explain
        device = next(network.parameters()).device
        return _watch_on(network, example.to(device), _copies(network, device=device))


def _watch_on(network: nn.Module, example: Tensor, tensors: Mapping[str, Tensor]) -> Calls:
    calls = Calls()
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
