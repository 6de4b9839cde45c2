"""The weights that a run starts from: where `init_from` finds them, and what they bring into the network."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from frostline.checkpoint import Carried, carry
from frostline.errors import RequestError, WeightsError
from frostline.nn.class_names import same_classes
from frostline.nn.stages import Stage
from frostline.nn.weights import classes_in, read_weights
from frostline.store import REGISTERED, Store

WEIGHTS = "weights.safetensors"
"""The artifact that holds a finished run's weights, adapters merged."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """What `init_from` names.

    Attributes:
        tensors: By name.
        classes: What the head among them tells apart, in the order of the indices; None where that is not known.
    """

    tensors: Mapping[str, Tensor]
    classes: list[str] | None


def named_weights(init_from: str | None, store: Store | None) -> Weights | None:
    """Read the weights that a config names, onto the CPU; None where it names none.

    Args:
        init_from: A run's id, a version in the model registry, a file or a folder.
        store: Where runs and registry are.

    Raises:
        RequestError: There are none, or they cannot be read.
    """
    if init_from is None:
        return None
    path = _where(init_from, store)
    try:
        return Weights(tensors=read_weights(path), classes=classes_in(path))
    except OSError as error:
        raise WeightsError(f"init_from: {path} cannot be read ({error.strerror or error}); see who may") from error
    except WeightsError as error:
        run = "" if path.exists() else "; a run is named by its id, of 32 characters"
        raise WeightsError(f"init_from: {error}{run}") from error


def _where(init_from: str, store: Store | None) -> Path:
    """Return the file or the folder that `init_from` names."""
    if store is not None and re.fullmatch(r"[0-9a-f]{32}", init_from):
        return store.fetch(init_from, WEIGHTS)
    if store is not None and init_from.startswith(REGISTERED):
        return store.registered(init_from)
    return Path(init_from)


def carried_into(
    network: nn.Module,
    weights: Weights | None,
    *,
    head: Stage,
    classes: Sequence[str],
    min_coverage: float,
    prefix: str | None,
) -> Carried | None:
    """Carry weights into a network, in place, and say what came over; None where there are none.

    Args:
        network: What to fill.
        weights: What `named_weights` returned.
        head: The network's last stage, which may stay new.
        classes: Names of the data's classes, in the order of their indices.
        min_coverage: The share of the parameters outside the head that must fit, 0 to 1.
        prefix: What the names begin with that are carried, where the weights hold several networks.

    Raises:
        RequestError: Too little fits, or the head is for the same classes in another order.
    """
    if weights is None:
        if prefix is not None:
            problem = "init_prefix: there is no init_from whose names it could be of"
            raise RequestError(f"{problem}; add one, or leave it out")
        return None
    names = [*head.parameters, *head.buffers]
    carried = carry(network, weights.tensors, head=names, min_coverage=min_coverage, prefix=prefix)
    whole = carried.unfilled.isdisjoint(head.parameters)
    if weights.classes is None or not whole or same_classes(weights.classes, classes, key="init_from"):
        return carried
    return replace(carried, other_classes=tuple(weights.classes))
