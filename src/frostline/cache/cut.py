"""A place where a network can do without what is below, and what is kept there of each example."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from frostline.cache.prefix import Call, Kept, Prefix, Size, Tail
from frostline.cache.shelf import Shape
from frostline.nn.stages import Stage

_OTHER_COMPANY = 1e-5
"""How far apart, as a share of the largest, sums are that were taken in another order, in another batch."""


class NotExact(Exception):  # noqa: N818 (no error: the cut is not made, and the plan says why)
    """What a cut would give is not what the network gives; says why."""


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A place in the forward pass of a network below which nothing need be computed again.

    Attributes:
        depth: How many whole stages are below.
        modules: Names of the outermost modules below, those of a stage that is below in part among them.
        calls: The calls of these in a forward pass; of the tail, where there is one, as its arguments.
        tail: The module that alone runs above the cut, where that is all of the network that is left.
        blind: Whether the rest of the network does not look at the inputs, which then need not be loaded.
        flops: What it takes to compute what is kept of an example, a multiply-add as two.
        spared: What a training step's forward pass is spared for an example that is given.
    """

    depth: int
    modules: tuple[str, ...]
    calls: tuple[Call, ...]
    tail: str | None = None
    blind: bool = False
    flops: float = 0.0
    spared: float = 0.0

    def parts(self, stages: Sequence[Stage]) -> list[str]:
        """Return which modules below belong to a stage that is not so as a whole."""
        return [name for stage in stages[self.depth :] for name in self.modules if name in stage.modules]

    @property
    def kept(self) -> list[tuple[int, int, Kept]]:
        """What is kept: the place of the call, the place in its output, and the tensor's shape."""
        return [
            (place, part, leaf)
            for place, call in enumerate(self.calls)
            for part, leaf in enumerate(call.content or ())
            if isinstance(leaf, Kept)
        ]

    def shapes(self, size: Size) -> list[Shape]:
        """Return the shapes of what is kept of so many examples."""
        return [
            Shape(sides=tuple(s.of(size) for s in leaf.sides), dtype=leaf.dtype, channels_last=leaf.channels_last)
            for *_, leaf in self.kept
        ]

    def bytes(self, size: Size) -> int:
        """Return what so many examples take in storage."""
        return sum(shape.bytes for shape in self.shapes(size))

    def taken(self, network: nn.Module, inputs: Any) -> list[Tensor]:
        """Return what is to be kept of some examples, without computing what comes after."""
        asked = {place for place, *_ in self.kept}
        with torch.no_grad(), self._in_place_of(network) as prefix, prefix.noting(asked) as noted:
            network(inputs)
        return [noted[place].content[part] for place, part, _ in self.kept]

    @contextmanager
    def giving(self, network: nn.Module, kept: Sequence[Tensor], size: Size) -> Iterator[None]:
        """Let the network compute only what is above the cut, from what was kept of a batch of this size."""
        with self._in_place_of(network) as prefix, prefix.giving(self.calls, kept, size):
            yield

    @contextmanager
    def _in_place_of(self, network: nn.Module) -> Iterator[Prefix | Tail]:
        prefix = Prefix(network, self.modules) if self.tail is None else Tail(network, self.tail)
        try:
            yield prefix
        finally:
            prefix.remove()


def size_of(inputs: Any) -> Size:
    """Return how many examples some inputs are, and how many tokens the longest of them has."""
    if isinstance(inputs, Mapping) and "attention_mask" in inputs:
        rows, tokens = inputs["attention_mask"].shape
        return Size(int(rows), int(tokens))
    first = inputs if isinstance(inputs, Tensor) else next(iter(inputs.values()))
    return Size(len(first), 0)


def mask_of(inputs: Any) -> Tensor | None:
    """Return which tokens are none of padding, (B, L); None where there are no tokens."""
    return inputs["attention_mask"] if size_of(inputs).tokens else None


def without_padding(tensor: Tensor, mask: Tensor | None) -> Tensor:
    """Return a tensor with 0 for padding: in a longer batch an example has more of it than when it was kept."""
    if mask is None or tensor.shape[:2] != mask.shape:
        return tensor
    return tensor * mask.view(*mask.shape, *[1] * (tensor.ndim - 2)).to(tensor.dtype)


def nearly(one: Tensor, other: Tensor) -> bool:
    """Tell whether two tensors that were computed in different batches are the same, but for rounding."""
    most = float(one.double().abs().max()) if one.numel() else 0.0
    return torch.allclose(one.double(), other.double(), rtol=1e-4, atol=_OTHER_COMPANY * most, equal_nan=True)
