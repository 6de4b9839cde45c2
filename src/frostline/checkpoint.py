"""Carry weights from one network to another, and say exactly what was and what was not carried."""

import hashlib
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from frostline.errors import WeightsError
from frostline.nn.renaming import Renaming, renaming, spelt_anew
from frostline.nn.weights import COUNTER, HEADER, read_weights

__all__ = ["Carried", "carry", "read_weights", "save_tensors", "save_weights", "weights_hash"]

_LINES = 12


@dataclass(frozen=True, kw_only=True)
class Carried:
    """What came over from the weights to the network.

    Attributes:
        missing: Names in the network only; these tensors stay as they were.
        unexpected: Names in the weights only, as the weights have them where they are outside the renamed tree.
        reshaped: Names on both sides with different shapes, as (name, shape in the weights, shape in the network).
        coverage: Share of the network's parameters outside the head that came from the weights, counted in numbers,
            0 to 1.
        renamed: Which tree of the weights became which of the network.
        other_classes: What the head that came along tells apart, where it is known not to be the data's classes.
    """

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    reshaped: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    coverage: float
    renamed: Renaming
    other_classes: tuple[str, ...] = ()

    @property
    def unfilled(self) -> frozenset[str]:
        """Names of the tensors that stayed as they were."""
        return frozenset({*self.missing, *(name for name, *_ in self.reshaped)})

    def __str__(self) -> str:
        lines = [
            *([] if self.renamed.theirs == self.renamed.ours else [f"  > {self.renamed}  names in the weights, here"]),
            *_first_ones([f"  - {name}  in the network only" for name in self.missing]),
            *_first_ones([f"  + {name}  in the weights only" for name in self.unexpected]),
            *_first_ones(
                [f"  ~ {n}  {theirs} in the weights, {ours} in the network" for n, theirs, ours in self.reshaped]
            ),
        ]
        if self.other_classes:
            lines.append(f"  ! the head came along, but it is for other classes: {', '.join(self.other_classes)}")
        return "\n".join([*lines, f"carried {_percent(self.coverage)} of the parameters outside the head"])


def carry(
    network: nn.Module,
    weights: Mapping[str, Tensor],
    *,
    head: Collection[str],
    min_coverage: float,
    prefix: str | None = None,
) -> Carried:
    """Copy into the network, in place, every weight that fits by name and shape, and leave the rest as it is.

    What a wrapper put before all names (`module.`), and where in a larger network a smaller one lies
    (`model.backbone.body.`), is found by what fits, see `frostline.nn.renaming`. A head of the same shape is carried
    too.

    Args:
        network: What to fill.
        weights: Tensors by name, of any floating type and on any device.
        head: Names of parameters that may stay new; they do not count for the coverage.
        min_coverage: Share of the parameters outside the head that must be carried, 0 to 1.
        prefix: What the names begin with that are to be carried, where the weights hold several networks.

    Raises:
        WeightsError: Too little fits, or a weight that would be carried is NaN or infinite in the network's type, or no
            floating one; the network is untouched.
    """
    own = _tensors(network)
    weights = _below(prefix, spelt_anew(weights, own))
    found = renaming(weights, own)
    named = {found(name): weight for name, weight in weights.items() if found.has(name)}
    outside = [name for name in weights if not found.has(name)]
    fitting = {name: weight for name, weight in named.items() if name in own and weight.shape == own[name].shape}
    carried = _compare(own, named, found, carried={id(own[name]) for name in fitting}, head=head)
    carried = replace(carried, unexpected=tuple(sorted([*carried.unexpected, *outside])))
    if carried.coverage < min_coverage:
        raise WeightsError(
            f"The weights do not fit the network:\n{carried}, but {_percent(min_coverage)} must be; choose the model "
            "that these weights were trained in, or accept less with a lower min_coverage."
        )
    _refuse_other_kinds(fitting, own)
    _refuse_infinite({name: weight.to(own[name].dtype) for name, weight in fitting.items()}, own)
    # Over the network's own state, because some modules refuse to load without the version that torch keeps in it.
    state = network.state_dict()
    state.update(fitting)
    network.load_state_dict(state)
    return carried


def save_weights(network: nn.Module, path: str | Path, metadata: Mapping[str, str]) -> None:
    """Write the network's state as safetensors, whole or not at all; tied tensors are written under each name.

    Args:
        network: What to save: its parameters and its persistent buffers.
        path: The file, replaced where it exists.
        metadata: What to keep in the file's header.
    """
    save_tensors(network.state_dict(), path, metadata)


def save_tensors(tensors: Mapping[str, Tensor], path: str | Path, metadata: Mapping[str, str]) -> None:
    """Write tensors as safetensors, whole or not at all; tied tensors are written under each name.

    Args:
        tensors: What to save, by name.
        path: The file, replaced where it exists.
        metadata: What to keep in the file's header.
    """
    path = Path(path)
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        partial = Path(folder) / path.name
        # As one entry: safetensors writes several in another order each time, and equal runs have equal files.
        save_file(state, partial, metadata={HEADER: json.dumps(dict(metadata), sort_keys=True)})
        partial.replace(path)


def weights_hash(weights: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of names, types, shapes and values; order, device and file format do not count."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _below(prefix: str | None, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return the weights below a prefix, which is taken off."""
    if prefix is None:
        return weights
    below = {name.removeprefix(prefix): weight for name, weight in weights.items() if name.startswith(prefix)}
    if not below:
        first = sorted({name.partition(".")[0] for name in weights})
        raise WeightsError(f"init_prefix={prefix}: no name begins so; names begin with {', '.join(first[:8])}")
    return below


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    """The network's state by name, a tied tensor once for each of its names; the tensors themselves, not views."""
    state = network.state_dict(keep_vars=True)
    return {name: tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}


def _compare(
    own: Mapping[str, Tensor],
    named: Mapping[str, Tensor],
    renamed: Renaming,
    *,
    carried: Collection[int],
    head: Collection[str],
) -> Carried:
    body = {id(tensor): tensor.numel() for name, tensor in own.items() if _counts(name, tensor, head)}
    covered = sum(size for identity, size in body.items() if identity in carried)
    absent = [name for name in own.keys() - named.keys() if id(own[name]) not in carried]
    shared = [(name, tuple(named[name].shape), tuple(tensor.shape)) for name, tensor in own.items() if name in named]
    return Carried(
        missing=tuple(sorted(name for name in absent if not name.endswith(COUNTER))),
        unexpected=tuple(sorted(named.keys() - own.keys())),
        reshaped=tuple((name, theirs, ours) for name, theirs, ours in sorted(shared) if theirs != ours),
        coverage=covered / sum(body.values()) if body else 1.0,
        renamed=renamed,
    )


def _counts(name: str, tensor: Tensor, head: Collection[str]) -> bool:
    return isinstance(tensor, nn.Parameter) and name not in head


def _refuse_other_kinds(fitting: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Refuse what torch would turn into other numbers in silence: quantised, complex or sparse weights."""
    for name, weight in fitting.items():
        kind = str(weight.layout if weight.layout is not torch.strided else weight.dtype).removeprefix("torch.")
        if weight.layout is not torch.strided or (own[name].is_floating_point() and not weight.is_floating_point()):
            raise WeightsError(f"The weights hold {kind} numbers in '{name}'; save them as dense floating ones.")


def _refuse_infinite(fitting: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Refuse broken values; a mask that is infinite in the network too is none."""
    broken = [n for n, weight in fitting.items() if not torch.isfinite(weight).all() and torch.isfinite(own[n]).all()]
    if broken:
        more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
        raise WeightsError(
            f"The weights hold NaN or infinite values in '{broken[0]}'{more}; choose a checkpoint from before the "
            "training that wrote them diverged."
        )


def _first_ones(lines: Sequence[str]) -> list[str]:
    rest = len(lines) - _LINES
    return [*lines[:_LINES], f"{lines[0][:4]}... and {rest} more"] if rest > 0 else list(lines)


def _percent(share: float) -> str:
    """Round down: 100.0 % is everything."""
    return f"{math.floor(share * 1000) / 10:.1f} %"
