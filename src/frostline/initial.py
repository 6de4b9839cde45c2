"""The network of a run with the carried weights in, before a strategy adds to it: the same for all arms of a seed."""

import hashlib
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from frostline.batch import Batch, tensors_in
from frostline.checkpoint import Carried, weights_hash
from frostline.data.splitted import SplittedData
from frostline.delta import fingerprints
from frostline.digest import digest
from frostline.errors import RequestError
from frostline.init_from import Weights, carried_into
from frostline.nn.backbone import Backbone
from frostline.nn.stages import Stage, stages
from frostline.objectives.objective import Objective

LARGEST = 1_000_000_000
"""Bytes of weights beyond which no network is kept beside those in use."""


@dataclass(frozen=True, kw_only=True)
class Ingredients:
    """What the config's keys ask for, each by itself."""

    data: SplittedData
    model: Backbone
    objective: Objective
    weights: Weights | None


@dataclass(frozen=True, kw_only=True)
class Initial:
    """A network with the carried weights in, before a strategy adds to it, and the first batch that it will see."""

    network: nn.Module
    parts: tuple[Stage, ...]
    first: Batch
    pairing: str
    carried: Carried | None
    weights: str
    """The hash of its weights."""
    fingerprints: Mapping[str, str]
    layers: str
    """Its layers, as torch prints them."""

    def copy(self) -> "Initial":
        """Return one with a network of its own."""
        network, parts = deepcopy((self.network, self.parts))
        return replace(self, network=network, parts=parts)

    @property
    def bytes(self) -> int:
        """What its weights take."""
        return sum(tensor.nbytes for tensor in self.network.state_dict().values() if isinstance(tensor, Tensor))


class Initials:
    """Makes the networks of many runs: where one begins as the run before did, its network is a copy, bit for bit."""

    def __init__(self) -> None:
        self._name = ""
        self._kept: Initial | None = None
        self._random = torch.get_rng_state()

    def of(self, name: str, make: Callable[[], Initial]) -> Initial:
        """Return what `make` would, and leave torch's random numbers as that would.

        Args:
            name: What tells whether that is the same as before.
            make: Draws the network and carries the weights into it.
        """
        if self._kept is None or name != self._name:
            self.clear()  # before there is another one
            new = make()
            self._kept = new.copy() if new.bytes <= LARGEST else None
            self._name, self._random = name, torch.get_rng_state()
            return new
        torch.set_rng_state(self._random)
        return self._kept.copy()

    def clear(self) -> None:
        """Keep nothing any more."""
        self._name, self._kept = "", None


def drawn(given: Ingredients, *, min_coverage: float, prefix: str | None) -> Initial:
    """Draw the network of a run and carry the weights into it; arms of a comparison are paired by what was drawn.

    Args:
        given: What the config's keys ask for; the data are drawn.
        min_coverage: The share of the parameters outside the head that must fit, 0 to 1.
        prefix: What the names begin with that are carried, where the weights hold several networks.

    Raises:
        RequestError: The network cannot take the data, or the weights do not fit.
    """
    network = given.objective.network(given.model, given.data.class_names)
    parts = _stages(network, given.data)
    first = next(iter(given.data.train_dataloader()))
    pairing = _pairing(first, parts[-1])
    carried = carried_into(
        network,
        given.weights,
        head=parts[-1],
        classes=given.data.class_names,
        min_coverage=min_coverage,
        prefix=prefix,
    )
    return Initial(
        network=network,
        parts=parts,
        first=first,
        pairing=pairing,
        carried=carried,
        weights=weights_hash(network.state_dict()),
        fingerprints=fingerprints(network),
        layers=repr(network),
    )


def example_of(data: SplittedData) -> Any:
    """Return the inputs of one or two examples, as evaluation shows them."""
    val = data.drawn("val")
    return val.__getitems__(range(min(2, len(val)))).inputs


def _stages(network: nn.Module, data: SplittedData) -> tuple[Stage, ...]:
    example = example_of(data)
    try:
        return stages(network, example)
    except RuntimeError as error:
        raise RequestError(f"{data.sized_by}: the network cannot take {_shape(example)}: {error}") from error


def _shape(example: Any) -> str:
    if isinstance(example, Tensor):
        return f"images of {'x'.join(str(side) for side in example.shape[-2:])} pixels"
    return "these examples"


def _pairing(first: Batch, head: Stage) -> str:
    """Hash what every arm of a comparison must share: the first training batch, and the head as it was drawn."""
    tensors = [*tensors_in([first.inputs, first.targets]), first.places, *head.parameters.values()]
    return hashlib.blake2b("".join(digest(t) for t in tensors).encode(), digest_size=16).hexdigest()
