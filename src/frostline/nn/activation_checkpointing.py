"""Activations of the body are computed again in the backward pass instead of being kept."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from frostline.nn.stages import Stage


def recompute(stages: Sequence[Stage]) -> None:
    """Let the modules of the body stages forget their activations, in place (Chen et al. 2016, arXiv:1604.06174).

    Each outermost module with parameters becomes of a class that does so, so that names, parameters and hooks stay. A
    layer that updates statistics as it passes would do so twice.

    Args:
        stages: The stages of a network; stem and head keep their activations.
    """
    for stage in stages[1:-1]:
        names = [
            n for n, module in stage.modules.items() if _computes(module) and any(True for _ in module.parameters())
        ]
        for name in (n for n in names if not any(n.startswith(f"{other}.") for other in names)):
            module = stage.modules[name]
            module.__class__ = _recomputing(type(module))


def _computes(module: nn.Module) -> bool:
    """Tell a module with a forward pass from a container such as ModuleList."""
    return type(module).forward is not nn.Module.forward


def _recomputing(kind: type[nn.Module]) -> type[nn.Module]:
    def forward(self: nn.Module, *inputs: Any, **options: Any) -> Any:
        if not torch.is_grad_enabled():
            return kind.forward(self, *inputs, **options)
        return checkpoint(kind.forward, self, *inputs, use_reentrant=False, **options)

    return type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})
