"""What a data loader hands to an objective."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

NO_LABEL = -100
"""The target of what has none: tokens of padding, that a tokenizer adds, all but the first of a word; pixels to ignore.

It is the label that torch's cross-entropy leaves out.
"""


class Batch(NamedTuple):
    """Some examples of one split.

    Attributes:
        inputs: What the network takes: a tensor, such as normalised images (B, C, H, W), or a mapping of such. What it
            holds, lists included, has one entry for each example.
        targets: What the objective compares with, of the same kind; class indices are int64 of shape (B,).
        places: The examples' places in their split, int64 of shape (B,).
    """

    inputs: Any
    targets: Any
    places: Tensor

    def examples(self) -> "Iterator[Batch]":
        """Yield each example as a batch of one."""
        for i in range(len(self.places)):
            yield self.part(slice(i, i + 1))

    def part(self, which: slice) -> "Batch":
        """Return some of the examples."""
        return Batch(_part(self.inputs, which), _part(self.targets, which), self.places[which])


def _part(content: Any, which: slice) -> Any:
    return {k: v[which] for k, v in content.items()} if isinstance(content, Mapping) else content[which]


def moved(content: Any, device: torch.device) -> Any:
    """Return inputs or targets with their tensors on a device."""
    return apply_to_collection(content, Tensor, Tensor.to, device)


def tensors_in(content: Any) -> Iterator[Tensor]:
    """Yield the tensors of inputs or targets, in order."""
    if isinstance(content, Tensor):
        yield content
    elif isinstance(content, Mapping):
        yield from tensors_in(list(content.values()))
    elif isinstance(content, list | tuple):
        for part in content:
            yield from tensors_in(part)
