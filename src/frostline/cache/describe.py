"""What a call of the frozen part gives, described so that it can be given again to a batch of any size."""

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from frostline.cache.cut import NotExact
from frostline.cache.prefix import Call, Kept, Leaf, Noted, Side, Size


def described(pair: Sequence[Noted], sizes: Sequence[Size], looked_at: Collection[int]) -> Call:
    """Describe a call from two batches of different size.

    Args:
        pair: What it gave in each.
        sizes: Of the batches.
        looked_at: The places in its output of what the rest of the network looks at.

    Raises:
        NotExact: What it gives is not one row for each example, and otherwise always the same.
    """
    larger, smaller = pair
    if larger.structure != smaller.structure:
        raise NotExact(f"what '{larger.module}' gives is not one row for each example")
    content = [
        _leaf(parts, sizes, keep=place in looked_at, module=larger.module)
        if isinstance(parts[0], Tensor)
        else _constant(parts, module=larger.module)
        for place, parts in enumerate(zip(larger.content, smaller.content, strict=True))
    ]
    return Call(module=larger.module, content=tuple(content), structure=larger.structure)


def _constant(parts: Sequence[Any], *, module: str) -> Any:
    """Return what an output holds besides tensors, which must not depend on the batch."""
    if parts[0] != parts[1]:
        raise NotExact(f"what '{module}' gives depends on the batch")
    return parts[0]


def _leaf(tensors: Sequence[Tensor], sizes: Sequence[Size], *, keep: bool, module: str) -> Leaf:
    keep = keep or not tensors[0].is_floating_point()  # no gradient tells who looks at a mask
    shapes = [tuple(tensor.shape) for tensor in tensors]
    found = [_side(lengths, sizes) for lengths in zip(*shapes, strict=True)]
    sides = tuple(side for side in found if side is not None)
    if len(sides) < len(found) or (keep and not _is_a_row_of_each(sides)):
        raise NotExact(f"what '{module}' gives is not one row for each example")
    return (Kept if keep else Leaf)(sides=sides, dtype=tensors[0].dtype, channels_last=_has_channels_last(tensors[0]))


def _has_channels_last(tensor: Tensor) -> bool:
    return not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last)


def _is_a_row_of_each(sides: Sequence[Side]) -> bool:
    """Tell whether a tensor has a row for each example and, where it knows of tokens, then one for each of these."""
    return sides[:1] == (Side(examples=1),) and all(
        side == Side(fixed=side.fixed) or (place == 1 and side == Side(tokens=1))
        for place, side in enumerate(sides[1:], start=1)
    )


def _side(lengths: Sequence[int], sizes: Sequence[Size]) -> Side | None:
    """Return what the length of a side depends on, given it for two batches; None where that cannot be told."""
    larger, smaller = lengths
    gain = larger - smaller
    if gain == 0:
        return Side(fixed=larger)
    if larger == gain * sizes[0].examples and smaller == gain * sizes[1].examples:
        return Side(examples=gain)
    return Side(fixed=larger - sizes[0].tokens, tokens=1) if gain == 1 and sizes[0].tokens else None
