"""The heads of several networks, stacked, and what they give for the batches that each sees, in one vectorised pass."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.utils._pytree import tree_map

from frostline.batch import Batch, tensors_in
from frostline.cache.cut import Cut, size_of
from frostline.objectives.objective import Objective

Compute = Callable[[Any, Batch], Any]
"""From a network's outputs and the batch to what is wanted of them."""

Transform = Callable[[Callable[..., Any]], Callable[..., Any]]


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A batch that some of the heads see.

    Attributes:
        batch: The batch.
        rows: What is kept of its examples.
        cut: Where the network goes on from that.
        place: The cut in words: batches are stacked only where it is the same.
        heads: Which heads of the stack see it.
    """

    batch: Batch
    rows: Sequence[Tensor]
    cut: Cut
    place: str
    heads: Sequence[int]

    @property
    def content(self) -> tuple[Any, ...]:
        """What of it is looked at: not the inputs, where the rest of the network does without."""
        inputs = () if self.cut.blind or self.cut.tail else (self.batch.inputs,)
        return (self.rows, self.batch.targets, *inputs)

    @property
    def kind(self) -> Hashable:
        """What batches share that can be stacked."""
        return self.place, tuple((tensor.shape, tensor.dtype) for tensor in tensors_in(self.content))


def by_kind(seen: Iterable[Seen]) -> list[list[Seen]]:
    """Group batches that can be stacked."""
    groups: dict[Hashable, list[Seen]] = {}
    for each in seen:
        groups.setdefault(each.kind, []).append(each)
    return list(groups.values())


class Heads:
    """The parameters of several heads, stacked; what each network has of them are views into the stack.

    Args:
        network: A network with such a head, whose frozen part is that of all.
        owned: Of each head, the parameters by name.
    """

    def __init__(self, network: nn.Module, owned: Sequence[Mapping[str, nn.Parameter]]) -> None:
        self._network = network
        self._owned = owned
        self._before = [{name: parameter.detach().clone() for name, parameter in own.items()} for own in owned]
        self._stack = {name: torch.stack([own[name].detach() for own in owned]) for name in owned[0]}
        self._one_by_one = False
        for place, own in enumerate(owned):
            for name, parameter in own.items():
                parameter.data = self._stack[name][place]

    def let_go(self) -> None:
        """Give the networks their parameters back as they were."""
        for own, before in zip(self._owned, self._before, strict=True):
            for name, parameter in own.items():
                parameter.data, parameter.grad = before[name], None

    def learn(self, objective: Objective, seen: Sequence[Seen]) -> list[tuple[int, Batch, Any, Tensor]]:
        """Take the gradients of the heads that see batches of one kind.

        Returns:
            Of each head its place in the stack, its batch, its network's outputs and its loss.
        """

        def loss(outputs: Any, batch: Batch) -> tuple[Tensor, Any]:
            return objective.loss(outputs, batch), outputs

        found = []
        for place, batch, (gradients, (value, outputs)) in self._each(
            seen, loss, partial(grad_and_value, has_aux=True)
        ):
            for name, parameter in self._owned[place].items():
                parameter.grad = gradients[name]
            found.append((place, batch, outputs, value.detach()))
        return found

    def look(self, seen: Sequence[Seen]) -> list[tuple[int, Batch, Any]]:
        """Return, of each head that sees one of these batches, its place, its batch and its network's outputs."""
        return self._each(seen, lambda outputs, _: outputs, lambda function: function)

    def _each(self, seen: Sequence[Seen], compute: Compute, whole: Transform) -> list[tuple[int, Batch, Any]]:
        """Compute something of each head, at once unless what is computed depends on what stands in a batch."""
        if self._one_by_one and len(seen) > 1:
            return [found for one in seen for found in self._each([one], compute, whole)]
        try:
            results = self._in_one_pass(seen, compute, whole)
        except RuntimeError:
            if len(seen) == 1:
                raise
            self._one_by_one = True  # such as an objective that asks which tokens have labels
            return self._each(seen, compute, whole)
        heads = [(place, one.batch) for one in seen for place in one.heads]
        return [(place, batch, _part(results, i)) for i, (place, batch) in enumerate(heads)]

    def _in_one_pass(self, seen: Sequence[Seen], compute: Compute, whole: Transform) -> Any:
        def computed(parameters: dict[str, Tensor], content: tuple[Any, ...]) -> Any:
            rows, targets, *inputs = content
            batch = first.batch._replace(targets=targets, inputs=inputs[0] if inputs else first.batch.inputs)
            with first.cut.giving(self._network, rows, size_of(batch.inputs)):
                outputs = functional_call(self._network, parameters, (batch.inputs,))
            return compute(outputs, batch)

        first = seen[0]
        if len(seen) == 1:
            return vmap(whole(computed), in_dims=(0, None))(self._of(first.heads), first.content)
        contents = [one.content for one in seen for _ in one.heads]
        stacked = tree_map(lambda *parts: torch.stack(parts), *contents)
        return vmap(whole(computed))(self._of([place for one in seen for place in one.heads]), stacked)

    def _of(self, places: Sequence[int]) -> dict[str, Tensor]:
        if list(places) == list(range(len(self._owned))):
            return self._stack
        return {name: tensor[list(places)] for name, tensor in self._stack.items()}


def _part(results: Any, place: int) -> Any:
    """Return what a pass gave for one head."""
    return tree_map(lambda part: part[place] if isinstance(part, Tensor) else part, results)
