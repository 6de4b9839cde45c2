"""The statistics of normalisation layers, computed anew from data: no gradient, no parameter moves."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from frostline.nn.calls import twin_of


def storing(network: nn.Module) -> dict[str, nn.Module]:
    """Return the layers that store statistics of what they have seen, by name."""
    return {n: m for n, m in network.named_modules() if isinstance(getattr(m, "running_mean", None), Tensor)}


def of_one_value(network: nn.Module, example: Any) -> list[str]:
    """Name torch's layers of batch normalisation that get one value per channel, on which they cannot train.

    Args:
        network: It stays as it is; its passes in evaluation mode are looked at.
        example: Inputs of one example.
    """
    twin, found = twin_of(network, parameter=Tensor.detach, buffer=torch.clone), list[str]()

    def note(name: str, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if inputs[0].numel() == inputs[0].shape[1]:
            found.append(name)

    for name, layer in twin.named_modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.register_forward_pre_hook(partial(note, name))
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        twin(example)
    return found


@torch.no_grad()
def reestimate(
    network: nn.Module,
    batches: Iterable[tuple[Any, int]],
    *,
    pseudo_count: float = 0.0,
    computing: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> None:
    """Replace the stored means and variances by those of these batches, blended with what was stored.

    One pass, in which each layer normalises with the statistics of the batch, as in training, while the mean and the
    unbiased variance of its inputs are pooled over all examples (Wu and Johnson 2021, arXiv:2105.07576, section 3.1).
    They are blended as in Schneider et al. 2020, arXiv:2006.16971, section 3: of n examples, the old statistics count
    N/(N+n) and the new ones n/(N+n). Dropout is off; modes and everything but the two statistics stay as they were;
    so do layers that no pass in evaluation mode calls.

    Args:
        network: What to adapt, in place.
        batches: Inputs that the network takes, and how many examples each batch has.
        pseudo_count: N, how many examples the stored statistics count for; infinity keeps them.
        computing: Lets the network compute in another precision, while it is in this context.
    """
    layers = storing(network)
    pooled = {name: _Pool() for name in layers}
    examples = 0
    with _as_in_training(network, list(layers.values())), _watched(layers, pooled):
        for inputs, count in batches:
            with computing():
                network(inputs)
            examples += count
    old = pseudo_count / (pseudo_count + examples) if pseudo_count < float("inf") else 1.0
    for name, layer in layers.items():
        if not pooled[name].count:
            continue  # an auxiliary head, say, that only training calls
        for buffer, new in ((layer.running_mean, pooled[name].mean), (layer.running_var, pooled[name].variance)):
            assert isinstance(buffer, Tensor)
            buffer.copy_(old * buffer.double() + (1 - old) * new)


class _Pool:
    """Sums over all values of each channel, in double precision."""

    def __init__(self) -> None:
        self.count = 0
        self.total: Any = 0.0
        self.squares: Any = 0.0

    def add(self, inputs: Tensor) -> None:
        """Add inputs of shape (B, C, ...)."""
        values = inputs.detach().double().transpose(0, 1).flatten(1)
        self.count += values.shape[1]
        self.total = self.total + values.sum(1)
        self.squares = self.squares + values.square().sum(1)

    @property
    def mean(self) -> Tensor:
        mean: Tensor = self.total / self.count
        return mean

    @property
    def variance(self) -> Tensor:
        spread: Tensor = (self.squares / self.count - self.mean.square()).clamp(min=0)
        return spread * self.count / max(1, self.count - 1)


@contextmanager
def _watched(layers: dict[str, nn.Module], pooled: dict[str, _Pool]) -> Iterator[None]:
    hooks = [
        layer.register_forward_pre_hook(lambda _, inputs, pool=pooled[name]: pool.add(inputs[0]))
        for name, layer in layers.items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _as_in_training(network: nn.Module, layers: Sequence[nn.Module]) -> Iterator[None]:
    """Normalise with the batch's statistics, and put modes and stored statistics back."""
    modes = {module: module.training for module in network.modules()}
    stored = [(buffer, buffer.clone()) for layer in layers for buffer in layer.buffers(recurse=False)]
    network.eval()
    for layer in layers:
        layer.train()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for buffer, before in stored:
            buffer.copy_(before)
