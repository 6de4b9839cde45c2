"""What passes through a network while it trains, caught at a few of its modules."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from frostline.errors import RequestError
from frostline.nn.stages import Stage


class Caught:
    """The inputs of some modules and the outputs of others in the last pass that recorded gradients.

    A pass without gradients, such as one of validation, is not caught. What was caught is given away once, so that no
    graph outlives its step.

    Args:
        inputs_of: Modules whose first input is caught, by a name for it.
        outputs_of: Modules whose output is caught, by a name for it.
    """

    def __init__(self, *, inputs_of: dict[str, nn.Module], outputs_of: dict[str, nn.Module]) -> None:
        self._held: dict[str, Tensor] = {}
        # Bound methods and no lambdas: a copy of the network is then watched by the copy of this.
        for name, module in inputs_of.items():
            module.register_forward_pre_hook(partial(self._hold_input, name))
        for name, module in outputs_of.items():
            module.register_forward_hook(partial(self._hold_output, name))

    def _hold_input(self, name: str, _: nn.Module, inputs: tuple[Any, ...]) -> None:
        if torch.is_grad_enabled():
            self._held[name] = inputs[0]

    def _hold_output(self, name: str, _: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if torch.is_grad_enabled():
            self._held[name] = output

    def take(self) -> dict[str, Tensor]:
        """Return what was caught and forget it."""
        held, self._held = self._held, {}
        return held


@contextmanager
def outputs_of(modules: dict[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """Catch the outputs of modules inside this context, with or without gradients."""
    held: dict[str, Tensor] = {}
    hooks = [
        module.register_forward_hook(lambda _, inputs, output, name=name: held.update({name: output}))
        for name, module in modules.items()
    ]
    try:
        yield held
    finally:
        for hook in hooks:
            hook.remove()


def head_of(stages: list[Stage], key: str) -> str:
    """Return the name of the module that owns the head's parameters.

    Raises:
        RequestError: The network is all head.
    """
    if len(stages) < 2:
        raise RequestError(f"{key}: needs features below the head, and this network is all head")
    return next(
        name for name, module in stages[-1].modules.items() if any(True for _ in module.parameters(recurse=False))
    )


def last_of(stage: Stage) -> str:
    """Return the name of the last outermost module of a stage with parameters, such as a pooling behind it has not."""
    names = [name for name, module in stage.modules.items() if any(True for _ in module.parameters())]
    return [name for name in names if not any(name.startswith(f"{other}.") for other in names)][-1]
