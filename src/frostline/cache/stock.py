"""What a cut gives of the examples, at hand while a run goes on: taken from the shelf, or computed and put there."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Protocol

import torch
from torch import Tensor, nn

from frostline.batch import Batch, moved
from frostline.cache.content import Names
from frostline.cache.cut import Cut, NotExact, mask_of, nearly, size_of, without_padding
from frostline.cache.cuts import Cuts
from frostline.cache.find_cut import EXAMPLES, is_watched
from frostline.cache.prefix import Kept, Size
from frostline.cache.shelf import Hurried, Shelf
from frostline.data.order import randomness_kept
from frostline.data.whole import NotWritten
from frostline.plan import Plan

_RIGHT: set[Hashable] = set()
"""The entries of a shelf that this process has found right, as they were made."""

_SHARE_OF_GPU = 0.25
"""How much of a GPU's free memory what is kept may take there; what is larger is read from the disk."""


class Payer(Protocol):
    """Who keeps the cost."""

    def spend(self, flops: float, *, shared: bool) -> None:
        """Add FLOPs to the cost of training, which another run has spent where they are shared."""


class Stock:
    """What one cut gives of the views of each split, as far as it was asked for.

    Args:
        cuts: The network, the data, and where the shelf is.
        payer: Where the cost goes.
        hurried: Tells whether the run was asked to stop, so that nothing is computed or waited for any more.

    Attributes:
        cut: Where the network is cut now; None where it is not.
        computed: Examples that were computed to be kept.
        flops: What computing them took, since this process began or went on.
        seconds: How long that took.
        given: Examples that were given, each time counted.
        billed: The names of what was put on the bill.
    """

    def __init__(self, cuts: Cuts, payer: Payer, hurried: Callable[[], bool]) -> None:
        self.cut: Cut | None = None
        self.computed = 0
        self.flops = 0.0
        self.seconds = 0.0
        self.given = 0
        self.billed: set[str] = set()
        self._cuts = cuts
        self._payer = payer
        self._hurried = hurried
        self._shelf = Shelf(cuts.folder, limit=cuts.limit)
        self._names: Names | None = None
        self._kept: dict[tuple[str, int], Sequence[Tensor]] = {}
        self._never: set[tuple[str, int]] = set()

    def change_to(self, cut: Cut | None, plan: Plan) -> None:
        """Take another cut and forget what the one before gave; what one gives stays the same as long as it is made."""
        if cut == self.cut:
            return
        self.cut = cut
        self._names = self._cuts.names(plan, cut) if cut else None
        self._kept.clear()
        self._never.clear()

    def try_again(self) -> None:
        """Let what could not be had be asked for again."""
        self._never.clear()

    def has(self, split: str, view: int) -> bool:
        """Tell whether what the cut gives of a view of a split is at hand."""
        return (split, view) in self._kept

    def fetch(self, split: str, view: int) -> None:
        """Have at hand what the cut gives of a split, unless that has been asked for before, or in a hurry.

        Raises:
            NotExact: It cannot be kept; told once.
            NotWritten: There is no room for it, or no right to write; told once.
        """
        if self.cut is None or {(split, view)} & (self._kept.keys() | self._never):
            return
        try:
            self._kept[split, view] = self._held(self._entry(self.cut, split, view))
        except Hurried:
            return
        except (NotExact, NotWritten):
            self._never.add((split, view))
            raise

    def rows(self, split: str, batch: Batch, *, view: int) -> list[Tensor] | None:
        """Return what is kept of a batch's examples, and count them as given; None where nothing is kept."""
        kept, cut = self._kept.get((split, view)), self.cut
        if kept is None or cut is None:
            return None
        self.given += len(batch.places)
        size = size_of(batch.inputs)
        return [
            _beginning(tensor[batch.places.to(tensor.device)], leaf, size).to(self._device)
            for tensor, leaf in _leaves(cut, kept)
        ]

    def _entry(self, cut: Cut, split: str, view: int) -> list[Tensor]:
        """Return an entry of the shelf, and bill what was computed, also by another run.

        Whoever comes first costs no more than who comes later.
        """
        assert self._names is not None
        drawn, name, before = self._cuts.data.drawn(split), self._names.of(split, view), self.computed
        kept = self._shelf.entry(
            name,
            cut.shapes(Size(len(drawn), drawn.longest)),
            lambda tensors: self._fill(cut, split, view, tensors),
            right=lambda tensors: self._is_right(cut, name, split, view, tensors),
            hurried=self._hurried,
        )
        if split == "train" and name not in self.billed:
            self.billed.add(name)
            self._payer.spend(cut.flops * len(drawn), shared=self.computed == before)
        return kept

    def _fill(self, cut: Cut, split: str, view: int, tensors: Sequence[Tensor]) -> None:
        """Compute what is kept of all examples of a split."""
        drawn, begun = self._cuts.data.drawn(split), perf_counter()
        with randomness_kept(), evaluating(self._cuts.network):
            for batch in self._cuts.data.in_order(drawn, view=view, at_once=self._cuts.at_once(drawn)):
                if self._hurried():
                    raise Hurried
                rows = slice(int(batch.places[0]), int(batch.places[-1]) + 1)
                for tensor, taken in zip(tensors, self._taken(cut, batch), strict=True):
                    tensor[rows][tuple(slice(side) for side in taken.shape)] = taken
        self.computed += len(drawn)
        self.flops += cut.flops * len(drawn)
        self.seconds += perf_counter() - begun

    def _taken(self, cut: Cut, batch: Batch) -> list[Tensor]:
        """Return what is kept of a batch.

        Raises:
            NotExact: It is not as large as it was when the cut was found.
        """
        inputs = moved(batch.inputs, self._device)
        with self._cuts.computing():
            taken = cut.taken(self._cuts.network, inputs)
        shapes = [(shape.sides, shape.dtype) for shape in cut.shapes(size_of(inputs))]
        if [(tuple(tensor.shape), tensor.dtype) for tensor in taken] != shapes:
            raise NotExact("what the frozen part gives is not of one size and type for all examples")
        return taken

    def _is_right(self, cut: Cut, name: str, split: str, view: int, tensors: Sequence[Tensor]) -> bool:
        """Tell whether what lies on the shelf is what the network gives: of code, a name cannot hold everything.

        Of one process it can, as long as nobody listens to the network: what was right for a run is so for the next.
        """
        entry = self._shelf.made(name)
        if entry in _RIGHT and not is_watched(self._cuts.network):
            return True
        drawn = self._cuts.data.drawn(split)
        first, count = view * len(drawn), EXAMPLES if self._cuts.autocast is None else self._cuts.at_once(drawn)
        batch = drawn.__getitems__(range(first, first + min(count, len(drawn))))  # 16 bits round as in that batch
        with randomness_kept(), evaluating(self._cuts.network):
            taken = self._taken(cut, batch)
        size, mask = size_of(batch.inputs), mask_of(batch.inputs)
        rows = [_beginning(tensor[batch.places], leaf, size) for tensor, leaf in _leaves(cut, tensors)]
        both = [
            [without_padding(each, mask) for each in (there.cpu(), here)]
            for there, here in zip(taken, rows, strict=True)
        ]
        right = all(nearly(*pair) for pair in both)
        _RIGHT.update([entry] if right else [])
        return right

    def _held(self, kept: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return what is kept on the GPU, where it is that of the network and has room."""
        if self._device.type != "cuda":
            return kept
        free, _ = torch.cuda.mem_get_info(self._device)
        fits = sum(tensor.nbytes for tensor in kept) < _SHARE_OF_GPU * free
        return [tensor.to(self._device) for tensor in kept] if fits else kept

    @property
    def _device(self) -> torch.device:
        return next(self._cuts.network.parameters()).device


def _leaves(cut: Cut, tensors: Sequence[Tensor]) -> Iterator[tuple[Tensor, Kept]]:
    """Yield tensors that are kept with what is known of their shape."""
    for tensor, (*_, leaf) in zip(tensors, cut.kept, strict=True):
        yield tensor, leaf


def _beginning(rows: Tensor, leaf: Kept, size: Size) -> Tensor:
    """Return, of rows that are as long as the longest example of all, what a batch has."""
    for place, side in enumerate(leaf.sides):
        if side.tokens:
            rows = rows.narrow(place, 0, side.of(size))
    return rows


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Hold a network in evaluation mode, and put each module's mode back."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
