"""What training changed, without what it left: a small file that, put on the same base, is the trained network."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError
from torch import Tensor, nn

from frostline.adapter import Adapter
from frostline.checkpoint import read_weights, save_tensors, weights_hash
from frostline.digest import digests
from frostline.errors import WeightsError
from frostline.nn.adapters import Attached, inject, plain_name
from frostline.nn.weights import header_of


def fingerprints(network: nn.Module) -> dict[str, str]:
    """Return a hash of each tensor of a network's state, by name, to tell later which have changed."""
    return digests(network.state_dict())


def changed(network: nn.Module, start: Mapping[str, str]) -> dict[str, Tensor]:
    """Return what differs from the start, parameters and buffers, and what was added since.

    Args:
        network: The trained network, its adapters not merged.
        start: The fingerprints of the network at the start, without adapters.
    """
    now = fingerprints(network)
    return {name: tensor for name, tensor in network.state_dict().items() if start.get(plain_name(name)) != now[name]}


def save_delta(
    network: nn.Module,
    delta: Mapping[str, Tensor],
    path: str | Path,
    *,
    attached: Attached | None,
    metadata: Mapping[str, str],
) -> None:
    """Write what differs from the start as safetensors, with a hash of the base: of all that does not differ.

    A new head is in the file, not in the base, so that weights from which it came to be need no seed beside them.

    Args:
        network: The trained network, its adapters not merged.
        delta: What `changed` found.
        path: The file, replaced where it exists.
        attached: What was added to the network.
        metadata: What else to keep in the file's header.
    """
    kept = {name: value for name, value in network.state_dict().items() if name not in delta}
    own = {"base": _base(kept), "adapter": json.dumps(asdict(attached)) if attached else ""}
    save_tensors(delta, path, metadata=dict(metadata) | own)


def apply_delta(network: nn.Module, path: str | Path) -> None:
    """Turn the base network into the trained one, in place and bit for bit; adapters are added, not merged.

    Args:
        network: The architecture of the run, without adapters, with the weights that the run started from; what the
            delta replaces (the head) may hold anything.
        path: What `save_delta` wrote.

    Raises:
        WeightsError: The file is no delta, or it belongs to another base; the network is untouched.
        RequestError: The delta holds adapters and peft is not installed.
    """
    delta, header = read_weights(path), _header(Path(path))
    state = network.state_dict()
    replaced = {plain_name(name) for name in delta}
    attached = _attached(header["adapter"])
    strangers = replaced - state.keys() - {n for n in replaced if attached and n.startswith(_inside(attached))}
    misshapen = {n for n in replaced & state.keys() if state[n].shape != delta.get(n, state[n]).shape}
    if strangers or misshapen or _base({n: t for n, t in state.items() if n not in replaced}) != header["base"]:
        raise WeightsError(
            f"{path} belongs to another base than this network; build the run's model with the weights that the run "
            "started from, its init_from."
        )
    if attached is not None:
        inject(network, attached)
    network.load_state_dict(network.state_dict() | delta)


def _base(state: Mapping[str, Tensor]) -> str:
    return weights_hash({plain_name(name): tensor for name, tensor in state.items()})


def _inside(attached: Attached) -> tuple[str, ...]:
    return tuple(f"{target}." for target in attached.targets)


def _header(path: Path) -> dict[str, str]:
    try:
        header = header_of(path)
    except SafetensorError:
        header = {}
    if not {"base", "adapter"} <= header.keys():
        raise WeightsError(f"{path} is no delta; take the delta.safetensors of a run.")
    return header


def _attached(text: str) -> Attached | None:
    if not text:
        return None
    told = json.loads(text)
    return Attached(adapter=Adapter(**told["adapter"]), targets=tuple(told["targets"]))
