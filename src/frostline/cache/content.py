"""What tells what frozen stages make of some examples from everything else: a name made of all that it depends on."""

import inspect
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import torch
from torch import nn

import frostline
from frostline.cache.cut import Cut
from frostline.data.split import Split
from frostline.data.splitted import SplittedData
from frostline.digest import digests, together
from frostline.nn.stages import Stage


class Names:
    """Gives the names under which is kept what the stages below a cut make of a split as one view shows it.

    A name stands for the code of the network, the weights below the cut, the content of the examples in their order,
    how they are shown, and the batches in which they are computed: sums over other batches differ in their last bit.
    What all names of a cut share is hashed once, so that they hold as long as the weights below the cut do.

    Args:
        cut: Where the network is cut.
        network: The network.
        stages: Its stages.
        data: The data.
        at_once: Of how many examples of a split what is kept is computed at once.
        known: Digests of some of the network's tensors, which need not be hashed again.
        recipe: What the network was built from.
    """

    def __init__(
        self,
        cut: Cut,
        network: nn.Module,
        stages: Sequence[Stage],
        data: SplittedData,
        *,
        at_once: Callable[[Split], int],
        known: Mapping[str, str],
        recipe: str,
    ) -> None:
        self._data = data
        self._at_once = at_once
        self._shared = [
            frostline.__version__,
            torch.__version__,
            next(network.parameters()).device.type,
            repr(replace(cut, flops=0.0, spared=0.0)),  # these two depend on the examples
            repr(network),
            recipe,
            *sorted({repr(module.config) for module in network.modules() if hasattr(module, "config")}),
            *sources(network),
            hash_of(tensors_below(cut, network, stages), known),
            json.dumps(data.shown(), sort_keys=True, default=str),
        ]

    def of(self, split: str, view: int) -> str:
        """Return the name of a view of a split."""
        drawn = self._data.drawn(split)
        own = [*drawn.examples.digests, f"{split} {self._at_once(drawn)}", _view(drawn, view)]
        return sha256("\n".join([*self._shared, *own]).encode()).hexdigest()[:32]


def hash_of(tensors: Mapping[str, torch.Tensor], known: Mapping[str, str]) -> str:
    """Return a hash of tensors, of which some digests are known."""
    new = digests({name: tensor for name, tensor in tensors.items() if name not in known})
    return together(new | {name: digest for name, digest in known.items() if name in tensors})


def _view(split: Split, view: int) -> str:
    return "as it is" if split.seed is None else f"seed {split.seed}, view {view}"


def tensors_below(cut: Cut, network: nn.Module, stages: Sequence[Stage]) -> dict[str, torch.Tensor]:
    """Return the tensors below a cut as they are in the network now; moving it to a GPU has made new buffers.

    Of whole stages these are all that they own, and of a stage that is below in part what the modules below hold.
    """
    now = dict(network.named_parameters()) | dict(network.named_buffers())
    owned = {name for stage in stages[: cut.depth] for name in (*stage.parameters, *stage.buffers)}
    modules = [network.get_submodule(name) for name in cut.modules]
    held = {id(tensor) for module in modules for tensor in (*module.parameters(), *module.buffers())}
    return {name: tensor for name, tensor in now.items() if name in owned or id(tensor) in held}


def sources(network: nn.Module) -> list[str]:
    """Return a hash of each file that the network's classes are written in."""
    files = {inspect.getsourcefile(kind) for kind in {type(module) for module in network.modules()} if _has_file(kind)}
    return [sha256(Path(file).read_bytes()).hexdigest() for file in sorted(filter(None, files))]


def _has_file(kind: type) -> bool:
    """Tell whether a class is written in a file, and not made at run time or typed at a prompt."""
    return Path(getattr(sys.modules.get(kind.__module__), "__file__", None) or "").is_file()
