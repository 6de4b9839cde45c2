"""Features stay near those of the pretrained network, channel by channel as each matters."""

import copy
from collections.abc import Sequence
from itertools import islice
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn

from frostline.batch import Batch
from frostline.errors import RequestError
from frostline.regularizers.features import Caught, head_of, last_of, outputs_of
from frostline.regularizers.regularizer import Start

_INPUT = "input of the network"
_TEMPERATURE = 5
_STEPS = 50
"""Steps of L-BFGS in which the head that weighs the channels is fitted."""


class Delta(nn.Module):
    """Keep the feature maps of each body stage near those of the network as it was carried in.

    Li et al. 2019, arXiv:1901.09229, section 3: the mean over examples of
    `alpha/2 sum_j C_j/P_j sum_c a_jc ||F_jc - F0_jc||^2`, with C_j channels of P_j positions in stage j, and
    `beta/2 ||w_head||^2` on the head, in place of weight decay (set `optimizer.weight_decay=0`). The attention a_j is
    the softmax over channels of how much the loss of the pretrained features grows when a channel is silenced, under a
    head that was fitted to them; it is measured once, on the first `batches` training batches, and costs a pass for
    each channel. As in the authors' code, and not in the paper, that growth is a mean over examples, standardised over
    a layer's channels and divided by 5: as it is, it is too small for the softmax to tell channels apart.

    Args:
        alpha: Strength below the head.
        beta: Strength on the head.
        attention: Whether channels are weighted; without, each has the same weight ("DELTA w/o ATT", section 4).
        batches: Training batches that attention is measured on.
    """

    def __init__(
        self,
        *,
        alpha: Annotated[float, Ge(0)] = 0.01,
        beta: Annotated[float, Ge(0)] = 0.01,
        attention: bool = True,
        batches: Annotated[int, Ge(1)] = 1,
    ) -> None:
        super().__init__()
        self._alpha, self._beta, self._attention, self._batches = alpha, beta, attention, batches
        self._teacher: list[nn.Module] = []  # a list, so that its weights are no part of this module's state
        self._layers: list[str] = []
        self._head: list[nn.Parameter] = []
        self._weights: dict[str, Tensor] = {}
        self._caught: Caught | None = None

    def start(self, start: Start) -> None:
        """Copy the network, weigh its channels, and watch the feature maps of its body stages.

        Raises:
            RequestError: The network has no body stages, or its head does not give its outputs.
        """
        head = head_of(list(start.stages), "regularizer")
        self._head = list(start.stages[-1].parameters.values())
        self._layers = [last_of(stage) for stage in start.stages[1:-1]]
        if not self._layers:
            raise RequestError("regularizer: delta compares the body stages, and this network has none")
        teacher = copy.deepcopy(start.network).eval().requires_grad_(requires_grad=False)
        if self._attention:
            batches = list(islice(start.batches(), self._batches))
            self._weights = _attention(teacher, head, self._layers, start, batches)
        self._teacher = [teacher]
        maps = {name: start.network.get_submodule(name) for name in self._layers}
        self._caught = Caught(inputs_of={_INPUT: start.network}, outputs_of=maps)

    def forward(self) -> Tensor:
        """Return the penalty on the feature maps of the last pass and on the head, a scalar."""
        assert self._caught is not None, "start() comes first"
        now = self._caught.take()
        teacher = self._teacher[0].to(now[_INPUT].device)
        with torch.no_grad(), outputs_of({name: teacher.get_submodule(name) for name in self._layers}) as before:
            teacher(now[_INPUT])
        drift = [self._distance(name, _maps(now[name]), _maps(before[name])) for name in self._layers]
        size = [p.square().sum() for p in self._head if p.requires_grad]
        return self._alpha / 2 * torch.stack(drift).sum() + self._beta / 2 * sum(size, torch.zeros_like(drift[0]))

    def _distance(self, name: str, now: Tensor, before: Tensor) -> Tensor:
        """Return the mean over examples of the weighted squared distance of maps of shape (B, C, P)."""
        _, channels, positions = now.shape
        even = torch.full((channels,), 1 / channels, device=now.device)
        weights = self._weights.get(name, even).to(now.device)
        return channels / positions * ((now - before).square().sum(2) * weights).sum(1).mean()


def _maps(output: Tensor) -> Tensor:
    """Return feature maps as (B, C, P): images are (B, C, H, W), sequences (B, P, C), vectors (B, C)."""
    if output.ndim == 3:
        return output.transpose(1, 2)
    return output.flatten(2) if output.ndim > 3 else output.unsqueeze(2)


def _attention(
    teacher: nn.Module, head: str, layers: Sequence[str], start: Start, batches: Sequence[Batch]
) -> dict[str, Tensor]:
    """Return for each layer the weight of each channel, (C,), of sum 1."""
    _fit(teacher.get_submodule(head), teacher, start, batches)
    with torch.no_grad():
        whole = _loss(teacher, start, batches)
        return {name: _weights_of(_growth(teacher, name, start, batches, whole)) for name in layers}


def _weights_of(growth: Tensor) -> Tensor:
    spread = growth.std(correction=0)
    return torch.softmax((growth - growth.mean()) / spread.clamp(min=torch.finfo(growth.dtype).tiny) / _TEMPERATURE, 0)


def _growth(teacher: nn.Module, name: str, start: Start, batches: Sequence[Batch], whole: Tensor) -> Tensor:
    """Return how much the loss grows without each channel of a layer, (C,)."""
    layer = teacher.get_submodule(name)
    with outputs_of({name: layer}) as held:
        teacher(batches[0].inputs)
    grown = []
    for channel in range(_maps(held[name]).shape[1]):
        hook = layer.register_forward_hook(lambda _, inputs, output, channel=channel: _without(output, channel))
        grown.append(_loss(teacher, start, batches) - whole)
        hook.remove()
    return torch.stack(grown)


def _without(output: Tensor, channel: int) -> Tensor:
    silenced = output.clone()
    _maps(silenced)[:, channel] = 0
    return silenced


def _loss(teacher: nn.Module, start: Start, batches: Sequence[Batch]) -> Tensor:
    return torch.stack([start.loss(teacher(batch.inputs), batch) for batch in batches]).mean()


def _fit(head: nn.Module, teacher: nn.Module, start: Start, batches: Sequence[Batch]) -> None:
    """Fit the head to the pretrained features, as the paper does before it weighs channels (section 3.3)."""
    features = []
    hook = head.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    with torch.no_grad():
        outputs = [teacher(batch.inputs) for batch in batches]
        hook.remove()
        if not all(torch.equal(head(f), o) for f, o in zip(features, outputs, strict=True)):
            raise RequestError("regularizer: delta fits the head by itself, and this head does not give the outputs")
    parameters = list(head.requires_grad_(requires_grad=True).parameters())
    optimizer = torch.optim.LBFGS(parameters, max_iter=_STEPS, line_search_fn="strong_wolfe")

    def closure() -> float:
        optimizer.zero_grad()
        losses = [start.loss(head(f), batch) for f, batch in zip(features, batches, strict=True)]
        size = sum((p.square().sum() for p in parameters), torch.zeros(()))
        loss = torch.stack(losses).mean() + 0.01 / 2 * size
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    with torch.enable_grad():
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    head.requires_grad_(requires_grad=False)
