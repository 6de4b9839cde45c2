"""Decay towards the pretrained weights instead of towards zero."""

from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn

from frostline.depth import NORMS
from frostline.regularizers.regularizer import Start


class L2SP(nn.Module):
    """Penalise the distance to the starting point below the head, and the size of the head (arXiv:1802.01483, eq. 5).

    The penalty is `alpha/2 ||w - w0||^2 + beta/2 ||w_head||^2` over what trains; normalisation layers are left out.
    Plain weight decay pulls towards zero as well: set `optimizer.weight_decay=0` beside it, as the paper does.

    Args:
        alpha: Strength below the head.
        beta: Strength on the head.
    """

    def __init__(self, *, alpha: Annotated[float, Ge(0)] = 0.01, beta: Annotated[float, Ge(0)] = 0.01) -> None:
        super().__init__()
        self._alpha, self._beta = alpha, beta
        self._body: list[tuple[nn.Parameter, str]] = []
        self._head: list[nn.Parameter] = []

    def start(self, start: Start) -> None:
        """Remember where the parameters are now; called once, when the weights have been carried in."""
        for stage in start.stages:
            kept = [p for name, p in stage.parameters.items() if stage.roles[name] not in NORMS]
            if stage.depth.from_head == 0:
                self._head = kept
            else:
                self._remember(kept)

    def _remember(self, parameters: Sequence[nn.Parameter]) -> None:
        for parameter in parameters:
            name = f"start{len(self._body)}"
            self.register_buffer(name, parameter.detach().clone())  # a buffer is saved and moved with the module
            self._body.append((parameter, name))

    def forward(self) -> Tensor:
        """Return the penalty now, a scalar."""
        drift = [(p - self.get_buffer(name)).square().sum() for p, name in self._body if p.requires_grad]
        size = [p.square().sum() for p in self._head if p.requires_grad]
        return self._alpha / 2 * _total(drift) + self._beta / 2 * _total(size)


def _total(terms: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(terms)).sum() if terms else torch.zeros(())
