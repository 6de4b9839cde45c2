"""Weights that torchvision publishes: fetched where they are not here yet, and put into the network they belong to."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from frostline.errors import WeightsError
from frostline.nn.weights import COUNTER


def download(url: str) -> Path:
    """Return the file that torch.hub keeps of a URL, downloaded where it is not there yet.

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
                f"model.weights: {name} could not be downloaded ({error}); put {url} into {path.parent}, or pass "
                "model.weights=FILE, or model.weights=null for new weights."
            ) from error
    return path


def fill(
    network: nn.Module,
    weights: Mapping[str, Tensor],
    *,
    head: Collection[str],
    source: Path,
    rename: Callable[[str], str] = str,
) -> None:
    """Load weights of the same network, all but parameters of the head that have another size.

    Args:
        network: What to fill, in place.
        weights: Tensors by name.
        head: Names of the parameters that may stay new.
        source: Where the weights come from, for what is said of them.
        rename: From a name in the weights to the network's.

    Raises:
        WeightsError: Outside the head a name is on one side only or has another shape, or a value is not finite.
    """
    state = network.state_dict()
    shapes = {name: tensor.shape for name, tensor in state.items()}
    named = {rename(name): weight for name, weight in weights.items()}
    fitting = {name: w for name, w in named.items() if name not in head or w.shape == shapes[name]}
    refuse(source, "NaN or infinite values in", [n for n, w in fitting.items() if not torch.isfinite(w).all()])
    refuse(source, "another shape of", [n for n, w in fitting.items() if w.shape != shapes.get(n, w.shape)])
    state.clear()
    state.update(fitting)
    # torch keeps the versions of its modules beside the tensors; by these they rename what old files hold.
    vars(state).update(getattr(weights, "__dict__", {}))
    result = network.load_state_dict(state, strict=False)
    refuse(source, "no value for", [n for n in result.missing_keys if n not in head and not n.endswith(COUNTER)])
    refuse(source, "values that the network has no place for:", result.unexpected_keys)


def refuse(source: Path, what: str, names: Sequence[str]) -> None:
    """Refuse weights for what is wrong with these names; there may be none."""
    if names:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise WeightsError(
            f"model.weights: {source} has {what} '{names[0]}'{more}; choose the model.name that these weights belong "
            "to, or carry what fits with init_from=FILE and model.weights=null."
        )
