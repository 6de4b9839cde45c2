"""Weights that torchvision publishes: fetched where they are not here yet, and put into the network they belong to."""

import re
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from frostline.errors import RequestError, WeightsError
from frostline.nearest import did_you_mean
from frostline.nn.renaming import renaming
from frostline.nn.weights import COUNTER, read_weights


def check_choice(key: str, chosen: str | None, enum: Any, *, name: str) -> None:
    """Refuse weights that are neither null, nor a member of a network's weights enum, nor a file.

    Raises:
        RequestError: They are none of these; the nearest member is named.
    """
    if chosen is not None and chosen not in enum.__members__ and not Path(chosen).is_file():
        problem = f"{key}: '{chosen}' is neither a file nor weights that {name} comes with"
        raise RequestError(f"{problem}; {did_you_mean(chosen, enum.__members__)}")


def file_of(chosen: str, enum: Any, *, key: str = "model.weights") -> Path:
    """Return the file of a chosen member of a weights enum, downloaded where it is not here yet, or the chosen file.

    Raises:
        WeightsError: The download failed, or brought another file than it should.
    """
    published = enum.__members__.get(chosen)
    return Path(chosen) if published is None else download(published.url, key=key)


def download(url: str, *, key: str = "model.weights") -> Path:
    """Return the file that torch.hub keeps of a URL, downloaded where it is not there yet.

    Args:
        url: Where the file is published.
        key: What asked for it, for what is said.

    Raises:
        WeightsError: The download failed, or brought another file than it should.
    """
    name = url.rpartition("/")[2]
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        digest = re.search(r"-([0-9a-f]+)\.", name)
        try:
            torch.hub.download_url_to_file(url, str(path), digest and digest[1], progress=False)
        except (OSError, RuntimeError) as error:
            raise WeightsError(
                f"{key}: {name} could not be downloaded ({error}); put {url} into {path.parent}, or pass "
                f"{key}=FILE, or {key}=null for new weights."
            ) from error
    return path


def fill(
    network: nn.Module,
    weights: Mapping[str, Tensor],
    *,
    head: Collection[str],
    source: Path,
    key: str = "model.weights",
    rename: Callable[[str], str] = str,
) -> None:
    """Load weights of the same network, all but parameters of the head that have another size.

    Args:
        network: What to fill, in place.
        weights: Tensors by name.
        head: Names of the parameters that may stay new.
        source: Where the weights come from, for what is said of them.
        key: What asked for them, likewise.
        rename: From a name in the weights to the network's.

    Raises:
        WeightsError: Outside the head a name is on one side only or has another shape, or a value is not finite.
    """
    refuse = partial(_refuse, f"{key}: {source}", key)
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    weights = unwrapped(weights, network, rename=rename)
    named = {rename(name): weight for name, weight in weights.items()}
    fitting = {name: w for name, w in named.items() if name not in head or w.shape == shapes[name]}
    refuse("NaN or infinite values in", [n for n, w in fitting.items() if not torch.isfinite(w).all()])
    refuse("another shape of", [n for n, w in fitting.items() if w.shape != shapes.get(n, w.shape)])
    result = network.load_state_dict(_with_versions(fitting, weights, network), strict=False)
    refuse("no value for", [n for n in result.missing_keys if n not in head and not n.endswith(COUNTER)])
    refuse("values that the network has no place for:", result.unexpected_keys)


def unwrapped(
    weights: Mapping[str, Tensor], network: nn.Module, *, rename: Callable[[str], str] = str
) -> Mapping[str, Tensor]:
    """Return weights without what a wrapper put before all their names (`module.`), found as for `init_from`.

    Args:
        weights: Tensors by name.
        network: What they are for.
        rename: From a name in the weights to the network's.

    Raises:
        WeightsError: They are of several networks that fit.
    """
    own = network.state_dict()
    if not own.keys().isdisjoint(map(rename, weights)):
        return weights
    found = renaming(weights, own)
    if found.ours or not all(map(found.has, weights)):
        return weights
    plain = OrderedDict((found(name), weight) for name, weight in weights.items())
    versions = getattr(weights, "_metadata", {})
    vars(plain)["_metadata"] = {f"{name}.".removeprefix(found.theirs).rstrip("."): v for name, v in versions.items()}
    return plain


def _refuse(told: str, key: str, what: str, names: Sequence[str]) -> None:
    """Refuse weights for what is wrong with these names; there may be none."""
    if names:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise WeightsError(
            f"{told} has {what} '{names[0]}'{more}; choose the model.name that these weights belong to, or carry what "
            f"fits with init_from=FILE and {key}=null."
        )


def _with_versions(named: Mapping[str, Tensor], weights: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Return tensors with the versions of torch's modules beside them, by which modules rename what old files hold.

    Where the weights have none, they are taken to be of the network's versions.
    """
    state: dict[str, Tensor] = network.state_dict()
    state.clear()
    state.update(named)
    vars(state).update(getattr(weights, "__dict__", {}))
    return state


def bring_head(
    chosen: str | None, enum: Any, *, classes: int, new: Callable[[], nn.Module], rename: Callable[[str], str] = str
) -> bool:
    """Tell whether chosen weights, published ones or those of a file, are of a network with as many classes.

    Args:
        chosen: A member of the weights enum, a file, or None.
        enum: The network's weights enum.
        classes: How many classes the network tells apart, with a background where it has one.
        new: Builds the network.
        rename: From a name in a file to the network's.

    Raises:
        WeightsError: The file cannot be read.
    """
    if chosen is None:
        return False
    if (published := enum.__members__.get(chosen)) is not None:
        return len(published.meta["categories"]) == classes
    with torch.device("meta"):
        network = new()
    return fill_whole(network, read_weights(chosen), rename=rename)


def fill_whole(network: nn.Module, weights: Mapping[str, Tensor], *, rename: Callable[[str], str] = str) -> bool:
    """Tell whether weights have a value of the right shape for each parameter of a network, its head included.

    Args:
        network: The network, on the meta device; it takes the values, as far as they fit.
        weights: Tensors by name.
        rename: From a name in the weights to the network's.
    """
    weights = unwrapped(weights, network, rename=rename)
    named = {rename(name): weight for name, weight in weights.items()}
    try:
        result = network.load_state_dict(_with_versions(named, weights, network), strict=False, assign=True)
    except RuntimeError:  # a shape differs
        return False
    return all(name.endswith(COUNTER) for name in result.missing_keys)
