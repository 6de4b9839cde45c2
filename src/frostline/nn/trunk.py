"""A classification network without its head: what dense prediction and self-supervision put other heads on."""

from collections.abc import Collection
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from math import isqrt, prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from frostline.errors import RequestError
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
        maps: Whether its maps alone are trained on: then the layers that run after them go with the head, since
            nothing would train these, and pooled features are the maps' means.

    Attributes:
        channels: C of its maps.
        width: F of its pooled features.
        side: h of its maps where images have the size that the recipe expects.
    """

    def __init__(self, recipe: Backbone, *, maps: bool = False) -> None:
        super().__init__()
        self.network = recipe.network(2)  # a head of any size: it goes
        self._maps = maps
        side = recipe.input.size
        example = torch.zeros(2, 3, side, side)
        _behead(self.network, example)
        called = str(getattr(recipe, "name", type(recipe).__name__))
        self._last, places = _last_with_maps(self.network, example)
        self._tokens = _Tokens(called=called, size=side, tokens=places)
        self._pooled = _flat(_evaluated(self.network, example)).shape[1]
        if maps:
            self._keep_maps_alone(example, called=called)
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
        height, width = images.shape[2:]
        grid = self._tokens.grid(seen[-1].shape[1], (height, width)) if seen[-1].ndim == 3 else (0, 0)
        maps = as_maps(seen[-1], width=self._pooled, grid=grid)
        if self._maps:
            return Features(maps, maps.mean(dim=(2, 3)))
        pooled = pooled[0] if isinstance(pooled, tuple) else pooled  # GoogLeNet and Inception, while they train
        return Features(maps, _flat(pooled))

    def _keep_maps_alone(self, example: Tensor, *, called: str) -> None:
        """Leave only what the maps depend on.

        Raises:
            RequestError: The rest of the network cannot do without what goes.
        """
        problem = f"model.name: the feature maps of {called} do without some of its layers"
        refusal = f"{problem}; choose a network of one path"
        try:
            _take_out(self.network, _idle(self, example))
            idle = _idle(self, example)
        except Exception as error:  # whatever a network says whose branches need each other
            raise RequestError(refusal) from error
        if idle:
            raise RequestError(refusal)


def as_maps(features: Tensor, *, width: int, grid: tuple[int, int]) -> Tensor:
    """Return features of shape (B, C, h, w): those of tokens (B, N, C) on their grid, without class tokens before it.

    Args:
        features: Of shape (B, C, h, w), (B, h, w, C) or (B, N, C).
        width: How many features an image has once they are pooled, which tells where the channels are.
        grid: h and w of tokens.
    """
    if features.ndim == 4:
        last = features.shape[1] != width and features.shape[3] == width
        return features.movedim(3, 1) if last else features
    places = features[:, features.shape[1] - prod(grid) :]
    return places.transpose(1, 2).reshape(len(places), -1, *grid)


@dataclass(frozen=True, kw_only=True)
class _Tokens:
    """How the tokens of a network lie on images.

    Attributes:
        called: The network.
        size: Height and width in pixels of the images that it expects.
        tokens: Their tokens; what is left over of a square grid are class tokens.
    """

    called: str
    size: int
    tokens: int

    def grid(self, tokens: int, sides: tuple[int, int]) -> tuple[int, int]:
        """Return rows and columns of the tokens of images.

        Args:
            tokens: How many an image has.
            sides: Height and width in pixels.

        Raises:
            RequestError: So many lie on no grid of the patches that the network has where it is shown squares.
        """
        across = isqrt(self.tokens)
        extra = self.tokens - across**2
        whole = [side * across // self.size for side in sides]
        begun = [-(-side * across // self.size) for side in sides]
        for rows, columns in (whole, begun):
            if rows * columns + extra == tokens:
                return rows, columns
        problem = f"of {sides[0]} x {sides[1]} pixels become {tokens} tokens of {self.called}, which are no grid"
        raise RequestError(
            f"data.image_size: images {problem}; show it squares of {self.size}, or choose a convolutional network"
        )


def _flat(features: Tensor) -> Tensor:
    """Return features as (B, F), the same F for images of any size: maps (B, C, h, w) as their means."""
    return features.mean(dim=(2, 3)) if features.ndim == 4 else features.flatten(1)


def _behead(network: nn.Module, example: Tensor) -> None:
    """Let the network return what its head would have taken; auxiliary classifiers, which only training calls, go.

    Pooling stays also where it comes after the last layer (SqueezeNet): without it features grow with the image.
    """
    head = stages(network, example)[-1].modules
    tops = [name for name in head if name.rpartition(".")[0] not in head]
    for name in tops:
        if isinstance(head[name], nn.AdaptiveAvgPool2d):
            continue
        parent, _, own = name.rpartition(".")
        auxiliary = own.lower().startswith("aux")
        setattr(network.get_submodule(parent), own, None if auxiliary else nn.Identity())


class _Gone(nn.Module):
    """What stands where a layer was that nothing needs."""

    def forward(self, given: Any, *_: Any, **__: Any) -> Any:
        """Return the first of what the layer was given."""
        return given


def _idle(trunk: Trunk, example: Tensor) -> list[str]:
    """Return the names of the parameters of a trunk's network that its maps do not depend on."""
    twin = deepcopy(trunk).eval()
    named = twin.network.named_parameters()
    names: dict[Any, str] = {parameter: name for name, parameter in named if parameter.requires_grad}
    with torch.enable_grad():
        todo = [twin(example).maps.grad_fn]
    met = set(todo)
    while todo:
        step: Any = todo.pop()
        names.pop(getattr(step, "variable", None), None)
        new = {before for before, _ in step.next_functions if before is not None} - met
        met |= new
        todo += new
    return list(names.values())


def _take_out(network: nn.Module, idle: Collection[str]) -> None:
    """Take the modules out of a network all of whose parameters are idle; a sequence stays, without its layers."""
    gone: list[str] = []
    for name, module in list(network.named_modules()):
        own = {f"{name}.{parameter}" for parameter, _ in module.named_parameters()}
        inside = name.startswith(tuple(gone))
        if own and own.issubset(idle) and not inside and not isinstance(module, nn.Sequential):
            parent, _, last = name.rpartition(".")
            setattr(network.get_submodule(parent), last, _Gone())
            gone.append(f"{name}.")


def _last_with_maps(network: nn.Module, example: Tensor) -> tuple[str, int]:
    """Name the last module of the forward pass that gives a map of more than one place, or tokens: and how many.

    A map that is as large for images half as wide comes of pooling (VGG, AlexNet), where others can be had.
    """
    shapes = _shapes(network, example)
    half = example.shape[-1] // 2
    try:
        smaller = dict(_shapes(network, example[..., :half, :half]))
    except Exception:  # whatever a network says that takes images of one size
        smaller = {}
    ended = [(name, shape[1]) for name, shape in shapes if smaller.get(name) != shape]
    assert ended, "a network of images has feature maps"
    return ended[-1]


def _shapes(network: nn.Module, example: Tensor) -> list[tuple[str, torch.Size]]:
    """Return the modules that give maps or tokens, in the order in which they end, and the shape of what they give."""
    twin = deepcopy(network)
    pools = [module for module in twin.modules() if "AttentionPool" in type(module).__name__]  # timm's
    inner = {part for pool in pools for part in pool.modules()}
    ended: list[tuple[str, torch.Size]] = []
    for name, module in twin.named_modules():
        if module not in inner:
            module.register_forward_hook(partial(_note, ended, name))
    _evaluated(twin, example)
    return ended


def _note(ended: list[tuple[str, torch.Size]], name: str, *call: object) -> None:
    output = call[-1]
    if not isinstance(output, Tensor):
        return
    places = output.shape[1:2] if output.ndim == 3 else output.shape[-2:] if output.ndim == 4 else ()
    if prod(places) > 1:
        ended.append((name, output.shape))


def _keep(seen: list[Tensor], *call: Any) -> None:
    seen.append(call[-1])


def _evaluated(module: nn.Module, example: Tensor) -> Any:
    """Return what a new module makes of an example in eval mode, and leave it in training mode."""
    with torch.no_grad():
        outputs = module.eval()(example)
    module.train()
    return outputs
