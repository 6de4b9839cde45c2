"""A classification network without its head: what dense prediction and self-supervision put other heads on."""

from copy import deepcopy
from functools import partial
from math import isqrt
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from frostline.nn.backbone import Backbone
from frostline.nn.stages import stages


class Features(NamedTuple):
    """What a trunk makes of B images.

    Attributes:
        maps: The last feature map before pooling, (B, C, h, w).
        pooled: What the head would have taken, (B, F).
    """

    maps: Tensor
    pooled: Tensor


class Trunk(nn.Module):
    """A classification network without its head, from images (B, 3, H, W) to `Features`.

    Its parameters keep the names that they have in the network, after `network.`.

    Args:
        recipe: Of a classification network.

    Attributes:
        channels: C of its maps.
        width: F of its pooled features.
        side: h of its maps where images have the size that the recipe expects.
    """

    def __init__(self, recipe: Backbone) -> None:
        super().__init__()
        self.network = recipe.network(2)  # a head of any size: it goes
        side = recipe.input.size
        example = torch.zeros(2, 3, side, side)
        _behead(self.network, example)
        self._last = _last_with_maps(self.network, example)
        features: Features = _evaluated(self, example)
        self.channels, self.width, self.side = features.maps.shape[1], features.pooled.shape[1], features.maps.shape[2]

    def forward(self, images: Tensor) -> Features:
        """Map images (B, 3, H, W) to their features."""
        seen: list[Tensor] = []
        handle = self.network.get_submodule(self._last).register_forward_hook(partial(_keep, seen))
        try:
            pooled = self.network(images)
        finally:
            handle.remove()
        pooled = pooled[0] if isinstance(pooled, tuple) else pooled  # GoogLeNet and Inception, while they train
        pooled = pooled.flatten(1)
        return Features(as_maps(seen[-1], width=pooled.shape[1]), pooled)


def as_maps(features: Tensor, *, width: int) -> Tensor:
    """Return features of shape (B, C, h, w): those of tokens (B, N, C) on their square grid, without class tokens.

    Args:
        features: Of shape (B, C, h, w), (B, h, w, C) or (B, N, C).
        width: How many features an image has once they are pooled, which tells where the channels are.
    """
    if features.ndim == 4:
        last = features.shape[1] != width and features.shape[3] == width
        return features.movedim(3, 1) if last else features
    side = isqrt(features.shape[1])
    grid = features[:, features.shape[1] - side**2 :]
    return grid.transpose(1, 2).reshape(len(grid), -1, side, side)


def _behead(network: nn.Module, example: Tensor) -> None:
    """Let the network return what its head would have taken; auxiliary classifiers, which only training calls, go."""
    head = stages(network, example)[-1].modules
    tops = [name for name in head if name.rpartition(".")[0] not in head]
    for name in tops:
        parent, _, own = name.rpartition(".")
        auxiliary = own.lower().startswith("aux")
        setattr(network.get_submodule(parent), own, None if auxiliary else nn.Identity())


def _last_with_maps(network: nn.Module, example: Tensor) -> str:
    """Return the name of the last module of the forward pass that gives a map of more than one place, or tokens."""
    twin = deepcopy(network)
    ended: list[str] = []
    for name, module in twin.named_modules():
        module.register_forward_hook(partial(_note, ended, name))
    _evaluated(twin, example)
    assert ended, "a network of images has feature maps"
    return ended[-1]


def _note(ended: list[str], name: str, *call: object) -> None:
    output = call[-1]
    if isinstance(output, Tensor) and (output.ndim == 3 or (output.ndim == 4 and output.shape[-2:].numel() > 1)):
        ended.append(name)


def _keep(seen: list[Tensor], *call: Any) -> None:
    seen.append(call[-1])


def _evaluated(module: nn.Module, example: Tensor) -> Any:
    """Return what a new module makes of an example in eval mode, and leave it in training mode."""
    with torch.no_grad():
        outputs = module.eval()(example)
    module.train()
    return outputs
