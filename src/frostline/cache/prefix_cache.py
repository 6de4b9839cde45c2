"""Gives the network what its frozen stages made of each example, computed once, while Lightning trains and measures."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import partial
from typing import Any, Protocol

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from frostline.batch import Batch, moved
from frostline.cache.content import Names
from frostline.cache.cut import Cut, NotExact, mask_of, nearly, size_of, without_padding
from frostline.cache.cuts import Cuts, NotKept
from frostline.cache.find_cut import EXAMPLES, is_watched
from frostline.cache.prefix import Kept, Size
from frostline.cache.shelf import Hurried, Shelf
from frostline.data.order import randomness_kept
from frostline.data.whole import NotWritten
from frostline.errors import RequestError
from frostline.plan import Phase, Plan

_RIGHT: set[str] = set()
"""The entries of the shelf that this process has found right."""

_SHARE_OF_GPU = 0.25
"""How much of a GPU's free memory what is kept may take there; what is larger is read from the disk."""


class Engine(Protocol):
    """What is asked of the engine: the plan, and what trains now."""

    plan: Plan
    phase: Phase | None


class Bill(Protocol):
    """What keeps the cost."""

    def spend(self, flops: float, *, shared: bool) -> None:
        """Add FLOPs to the cost of training, which another run has spent where they are shared."""


class PrefixCache(Callback):
    """Compute what the frozen stages of each phase give once for each example, and give it from then on.

    What is kept lies on a shelf that all runs of this user share, and is found by its content.

    Args:
        cuts: Where the network can be cut.
        engine: Knows the phase; called before this callback.
        bill: Where the cost goes.

    Attributes:
        computed: Examples whose frozen stages were computed to be kept.
        given: Examples whose frozen stages were given, each time counted.
        reasons: Why the frozen stages of a phase run in every epoch, by its span.
    """

    def __init__(self, cuts: Cuts, engine: Engine, bill: Bill) -> None:
        self._cuts = cuts
        self._engine = engine
        self._bill = bill
        self._shelf = Shelf(cuts.folder, limit=cuts.limit)
        self._phase: Phase | None = None
        self._cut: Cut | None = None
        self._names: Names | None = None
        self._kept: dict[tuple[str, int], Sequence[Tensor]] = {}
        self._never: set[tuple[str, int]] = set()
        self._billed: set[str] = set()
        self._others: Sequence[object] = ()
        self._giving = ExitStack()
        self.computed = 0
        self.given = 0
        self.reasons: dict[str, str] = {}

    def metrics(self) -> dict[str, float]:
        """Return how many examples' frozen stages were computed to be kept, and how many times they were given."""
        return {"cost/prefix_computed": float(self.computed), "cost/prefix_given": float(self.given)}

    def state_dict(self) -> dict[str, Any]:
        """Return what was computed, given, billed and not kept so far."""
        counts = {"computed": self.computed, "given": self.given}
        return counts | {"billed": sorted(self._billed), "reasons": dict(self.reasons)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting where an interrupted run stopped."""
        self.computed, self.given = state_dict["computed"], state_dict["given"]
        self.reasons = dict(state_dict["reasons"])
        self._billed = set(state_dict.get("billed", ()))  # older checkpoints do not say

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Remember the other callbacks, one of which may be asked to stop."""
        self._others = trainer.callbacks  # type: ignore[attr-defined]

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Cut the network as this phase allows, and have ready what this epoch is given."""
        self._enter(trainer.current_epoch)
        ends = trainer.current_epoch * self._engine.plan.per_epoch + self._engine.plan.per_epoch
        stays = self._cut is not None and self._engine.plan.known(ends - 1) and self._stays_until(ends)
        known = ("train", self._view(trainer.current_epoch)) in self._kept
        _look_away(trainer.train_dataloader, blind=stays and known and self._blind)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Give what was kept of a batch's examples."""
        self._enter(trainer.current_epoch)
        self._give("train", batch, view=self._view(trainer.current_epoch))

    def on_train_batch_end(self, *_: Any) -> None:
        """Let the network compute all of itself again."""
        self._giving.close()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let the next epoch see its inputs unless it says otherwise."""
        _look_away(trainer.train_dataloader, blind=False)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Have ready what is given in validation: as in this phase, or after training as at its end."""
        if trainer.sanity_checking:
            self._enter_the_beginning()
        elif self._engine.phase is None:
            self._enter_the_end()
        self._evaluate("val", trainer.val_dataloaders, trainer.limit_val_batches)

    def on_sanity_check_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count from the first epoch on: runs that train along with others have no look before it."""
        self.given = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Try again what could not be had before: from now on, the reason is told."""
        self._never.clear()

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, *_: Any
    ) -> None:
        """Give what was kept of a batch's examples."""
        self._give("val", batch)

    def on_validation_batch_end(self, *_: Any) -> None:
        """Let the network compute all of itself again."""
        self._giving.close()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let the next validation see its inputs unless it says otherwise."""
        _look_away(trainer.val_dataloaders, blind=False)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Have ready what is given in the test."""
        self._enter_the_end()
        self._evaluate("test", trainer.test_dataloaders, trainer.limit_test_batches)

    def on_test_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, *_: Any) -> None:
        """Give what was kept of a batch's examples."""
        self._give("test", batch)

    def on_test_batch_end(self, *_: Any) -> None:
        """Let the network compute all of itself again."""
        self._giving.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave the network as it was."""
        self._giving.close()

    def outside_training(self, split: str) -> Callable[[Batch], AbstractContextManager[None]]:
        """Return what gives the network what is kept of a batch, in the order of the split and as evaluation shows it.

        Of training examples that are shown in other ways, nothing is kept that is of use.
        """
        self._enter_the_end()
        if self._cuts.data.drawn(split).different == 1:
            self._have(split, 0)

        return partial(self.giving, split)

    @contextmanager
    def giving(self, split: str, batch: Batch) -> Iterator[None]:
        """Give the network what is kept of a batch, as evaluation shows it, in place of computing it again."""
        self._give(split, batch)
        with self._giving:
            yield

    def at_hand(self, split: str, *, epoch: int) -> Cut:
        """Have at hand what is kept of a split as an epoch shows it, where no trainer asks; return where that is.

        Raises:
            NotKept: It cannot be had.
        """
        self._enter(epoch)
        view = self._view(epoch) if split == "train" else 0
        self._have(split, view)
        if self._cut is None or (split, view) not in self._kept:
            raise NotKept(f"what the frozen stages give of {split} is not kept")
        return self._cut

    def taken(self, split: str, batch: Batch, *, epoch: int) -> list[Tensor]:
        """Return what is kept of a batch's examples, as an epoch shows them, once that is at hand."""
        rows = self._rows(split, batch, view=self._view(epoch) if split == "train" else 0)
        assert rows is not None
        return rows

    def _enter(self, epoch: int) -> None:
        """Take the cut of a phase that is new, and compute what it gives of the training examples of this epoch."""
        phase = self._engine.phase
        assert phase is not None
        if phase is not self._phase:
            self._take(phase)
        if self._cut is not None:
            self._have("train", self._view(epoch))

    def _enter_the_beginning(self) -> None:
        """Take the cut of the first phase, which the engine has still to enter."""
        with suppress(NotKept):
            for phase in self._engine.plan.phases[:1]:
                self._change_to(self._cuts.of(self._engine.plan, phase))

    def _enter_the_end(self) -> None:
        if self._phase is None and self._cut is not None:
            return
        self._phase = None
        try:
            self._change_to(self._cuts.of_the_end(self._engine.plan))
        except NotKept:
            self._change_to(None)

    def _take(self, phase: Phase) -> None:
        self._phase = phase
        try:
            self._change_to(self._cuts.of(self._engine.plan, phase))
        except NotKept as reason:
            self._change_to(None)
            self._tell(str(reason))

    def _change_to(self, cut: Cut | None) -> None:
        """Take another cut and forget what the one before gave; what one gives stays the same as long as it is made."""
        if cut == self._cut:
            return
        self._cut = cut
        self._names = self._cuts.names(self._engine.plan, cut) if cut else None
        self._kept.clear()
        self._never.clear()

    def _tell(self, reason: str) -> None:
        """Keep why frozen stages run in every epoch, and refuse that where it must not be."""
        if self._phase is not None and self._engine.plan.frozen_prefix(self._phase):
            self.reasons[self._phase.span] = reason
            if self._cuts.policy == "require":
                raise RequestError(f"cache=require: {self._phase.span}: {reason}; choose cache=auto")

    def _evaluate(self, split: str, loader: Any, limit: float) -> None:
        if self._cut is not None and limit == 1.0:
            self._have(split, 0)
            _look_away(loader, blind=self._blind and (split, 0) in self._kept)

    def _have(self, split: str, view: int) -> None:
        """Fetch, or compute, what the cut gives of a split, unless that is at hand or cannot be had."""
        cut, names = self._cut, self._names
        if cut is None or names is None or (split, view) in self._kept or (split, view) in self._never:
            return
        drawn, name, before = self._cuts.data.drawn(split), names.of(split, view), self.computed
        try:
            kept = self._shelf.entry(
                name,
                cut.shapes(Size(len(drawn), drawn.longest)),
                lambda tensors: self._fill(cut, split, view, tensors),
                right=lambda tensors: self._is_right(cut, name, split, view, tensors),
                hurried=self._hurried,
            )
            self._kept[split, view] = self._held(kept)
            if split == "train":
                self._put_on_the_bill(name, cut.flops * len(drawn), shared=self.computed == before)
        except Hurried:
            return
        except (NotExact, NotWritten) as reason:
            self._never.add((split, view))
            self._tell(str(reason))

    def _put_on_the_bill(self, name: str, flops: float, *, shared: bool) -> None:
        """Bill what was computed, also by another run: whoever comes first costs no more than who comes later."""
        if name not in self._billed:
            self._billed.add(name)
            self._bill.spend(flops, shared=shared)

    def _fill(self, cut: Cut, split: str, view: int, tensors: Sequence[Tensor]) -> None:
        """Compute what is kept of all examples of a split."""
        drawn = self._cuts.data.drawn(split)
        with randomness_kept(), evaluating(self._cuts.network):
            for batch in self._cuts.data.in_order(drawn, view=view):
                if self._hurried():
                    raise Hurried
                rows = slice(int(batch.places[0]), int(batch.places[-1]) + 1)
                for tensor, taken in zip(tensors, self._taken(cut, batch), strict=True):
                    tensor[rows][tuple(slice(side) for side in taken.shape)] = taken
        self.computed += len(drawn)

    def _hurried(self) -> bool:
        return any(getattr(other, "asked", False) for other in self._others)

    def _taken(self, cut: Cut, batch: Batch) -> list[Tensor]:
        """Return what is kept of a batch.

        Raises:
            NotExact: It is not as large as it was when the cut was found.
        """
        inputs = moved(batch.inputs, self._device)
        taken = cut.taken_fast(self._cuts.network, inputs)
        if [tuple(tensor.shape) for tensor in taken] != [shape.sides for shape in cut.shapes(size_of(inputs))]:
            raise NotExact("what the frozen part gives is not of one size for all examples")
        return taken

    def _is_right(self, cut: Cut, name: str, split: str, view: int, tensors: Sequence[Tensor]) -> bool:
        """Tell whether what lies on the shelf is what the network gives: of code, a name cannot hold everything.

        Of one process it can, as long as nobody listens to the network: what was right for a run is so for the next.
        """
        if name in _RIGHT and not is_watched(self._cuts.network):
            return True
        drawn = self._cuts.data.drawn(split)
        first = view * len(drawn)
        batch = drawn.__getitems__(range(first, first + min(EXAMPLES, len(drawn))))
        with randomness_kept(), evaluating(self._cuts.network):
            taken = self._taken(cut, batch)
        size = size_of(batch.inputs)
        rows = [_beginning(tensor[batch.places], leaf, size) for tensor, leaf in _leaves(cut, tensors)]
        mask = mask_of(batch.inputs)
        both = [
            [without_padding(each, mask) for each in (there.cpu(), here)]
            for there, here in zip(taken, rows, strict=True)
        ]
        right = all(nearly(*pair) for pair in both)
        _RIGHT.update([name] if right else [])
        return right

    def _give(self, split: str, batch: Batch, *, view: int = 0) -> None:
        rows, cut = self._rows(split, batch, view=view), self._cut
        if rows is not None and cut is not None:
            self._giving.enter_context(cut.giving(self._cuts.network, rows, size_of(batch.inputs)))

    def _rows(self, split: str, batch: Batch, *, view: int) -> list[Tensor] | None:
        """Return what is kept of a batch's examples, and count them as given; None where nothing is kept."""
        kept, cut = self._kept.get((split, view)), self._cut
        if kept is None or cut is None:
            return None
        self.given += len(batch.places)
        size = size_of(batch.inputs)
        return [
            _beginning(tensor[batch.places.to(tensor.device)], leaf, size).to(self._device)
            for tensor, leaf in _leaves(cut, kept)
        ]

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

    @property
    def _blind(self) -> bool:
        return self._cut is not None and self._cut.blind

    def _view(self, epoch: int) -> int:
        return epoch % (self._cuts.data.drawn("train").different or 1)

    def _stays_until(self, step: int) -> bool:
        """Tell whether the network is cut in the same place up to an optimizer step."""
        plan, phase = self._engine.plan, self._phase
        return phase is not None and all(
            self._cut == self._cut_of(each) for each in plan.phases if each.stop > phase.start and each.start < step
        )

    def _cut_of(self, phase: Phase) -> Cut | None:
        try:
            return self._cuts.of(self._engine.plan, phase)
        except NotKept:
            return None


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


def _look_away(loader: Any, *, blind: bool) -> None:
    """Let a loader leave out the inputs of the batches to come, or not."""
    if loader is not None and hasattr(loader.sampler, "blind"):
        loader.sampler.blind = blind


@contextmanager
def evaluating(network: torch.nn.Module) -> Iterator[None]:
    """Hold a network in evaluation mode, and put each module's mode back."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
