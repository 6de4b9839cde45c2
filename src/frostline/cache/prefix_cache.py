"""Gives the network what its frozen stages made of each example, computed once, while Lightning trains and measures."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import partial
from typing import Any, Protocol

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from frostline.batch import Batch
from frostline.cache.cut import Cut, NotExact, size_of
from frostline.cache.cuts import Cuts, NotKept
from frostline.cache.stock import Payer, Stock
from frostline.data.whole import NotWritten
from frostline.errors import RequestError
from frostline.plan import Phase, Plan

_TOLD: set[str] = set()
"""What was said to a person, who need not hear it again of each run of a study."""


class Engine(Protocol):
    """What is asked of the engine: the plan, and what trains now."""

    plan: Plan
    phase: Phase | None


class Clock(Protocol):
    """Who times the steps."""

    def leave_out(self, seconds: float) -> None:
        """Leave out what was just spent on something else."""


class PrefixCache(Callback):
    """Compute what the frozen stages of each phase give once for each example, and give it from then on.

    What is kept lies on a shelf that all runs of this user share, and is found by its content.

    Args:
        cuts: Where the network can be cut.
        engine: Knows the phase; called before this callback.
        payer: Where the cost goes.
        clock: Times the steps, to which what is computed here does not belong; None where nobody does.

    Attributes:
        reasons: Why the frozen stages of a phase run in every epoch, by its span.
    """

    def __init__(self, cuts: Cuts, engine: Engine, payer: Payer, clock: Clock | None = None) -> None:
        self.reasons: dict[str, str] = {}
        self._clock = clock
        self._cuts = cuts
        self._engine = engine
        self._stock = Stock(cuts, payer, self._hurried)
        self._phase: Phase | None = None
        self._given_before = 0
        self._others: Sequence[object] = ()
        self._giving = ExitStack()

    @property
    def given(self) -> int:
        """Examples whose frozen stages were given, each time counted."""
        return self._stock.given

    @property
    def computing(self) -> float:
        """The seconds that a FLOP of what was computed to be kept has taken; 0 where nothing was."""
        return self._stock.seconds / self._stock.flops if self._stock.flops else 0.0

    def metrics(self) -> dict[str, float]:
        """Return how many examples' frozen stages were computed to be kept, and how many times they were given."""
        return {"cost/prefix_computed": float(self._stock.computed), "cost/prefix_given": float(self.given)}

    def state_dict(self) -> dict[str, Any]:
        """Return what was computed, given, billed and not kept so far."""
        counts = {"computed": self._stock.computed, "given": self._stock.given}
        return counts | {"billed": sorted(self._stock.billed), "reasons": dict(self.reasons)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting where an interrupted run stopped."""
        self._stock.computed, self._stock.given = state_dict["computed"], state_dict["given"]
        self.reasons = dict(state_dict["reasons"])
        self._stock.billed = set(state_dict.get("billed", ()))  # older checkpoints do not say

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Remember the other callbacks, one of which may be asked to stop."""
        self._others = trainer.callbacks  # type: ignore[attr-defined]

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Cut the network as this phase allows, and have ready what this epoch is given."""
        self._enter(trainer.current_epoch)
        ends = trainer.current_epoch * self._engine.plan.per_epoch + self._engine.plan.per_epoch
        stays = self._stock.cut is not None and self._engine.plan.known(ends - 1) and self._stays_until(ends)
        known = self._stock.has("train", self._view(trainer.current_epoch))
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
            self._enter_the_phase_of(trainer.global_step)
        elif self._engine.phase is None:
            self._enter_the_end()
        self._evaluate("val", trainer.val_dataloaders, trainer.limit_val_batches)

    def on_sanity_check_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note what had been given before this look, of which an interrupted run has a second one."""
        self._given_before = self._stock.given

    def on_sanity_check_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count from the first epoch on: runs that train along with others have no look before it."""
        self._stock.given = self._given_before

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Try again what could not be had before: from now on, the reason is told."""
        self._stock.try_again()

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
        if self._stock.cut is None or not self._stock.has(split, view):
            raise NotKept(f"what the frozen stages give of {split} is not kept")
        return self._stock.cut

    def taken(self, split: str, batch: Batch, *, epoch: int) -> list[Tensor]:
        """Return what is kept of a batch's examples, as an epoch shows them, once that is at hand."""
        rows = self._stock.rows(split, batch, view=self._view(epoch) if split == "train" else 0)
        assert rows is not None
        return rows

    def _enter(self, epoch: int) -> None:
        """Take the cut of a phase that is new, and compute what it gives of the training examples of this epoch."""
        phase = self._engine.phase
        assert phase is not None
        if phase is not self._phase:
            self._take(phase)
        self._have("train", self._view(epoch))

    def _enter_the_phase_of(self, step: int) -> None:
        """Take the cut of the phase in which a run begins, or goes on, which the engine has still to enter."""
        plan = self._engine.plan
        for phase in plan.phases:
            if phase.start <= min(step, plan.end - 1) < phase.stop:
                with suppress(NotKept):
                    self._change_to(self._cuts.of(plan, phase))

    def _enter_the_end(self) -> None:
        if self._phase is None and self._stock.cut is not None:
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
        self._stock.change_to(cut, self._engine.plan)

    def _tell(self, reason: str) -> None:
        """Keep why frozen stages run in every epoch, and refuse that where it must not be."""
        if self._phase is not None and self._engine.plan.frozen_prefix(self._phase):
            self.reasons[self._phase.span] = reason
            if self._cuts.policy == "require":
                raise RequestError(f"cache=require: {self._phase.span}: {reason}; choose cache=auto")

    def _evaluate(self, split: str, loader: Any, limit: float) -> None:
        if is_all(limit):
            self._have(split, 0)
            _look_away(loader, blind=self._blind and self._stock.has(split, 0))

    def _have(self, split: str, view: int) -> None:
        """Have at hand what the cut gives of a split, if there is one; tell why not."""
        before = self._stock.seconds
        try:
            self._stock.fetch(split, view)
        except (NotExact, NotWritten) as reason:
            self._tell(str(reason))
            if isinstance(reason, NotWritten) and self._phase is not None:
                self._tell_a_person(str(reason))
        if self._clock is not None:
            self._clock.leave_out(self._stock.seconds - before)

    def _tell_a_person(self, reason: str) -> None:
        """Say once what stands in no plan, since somebody can do something about it."""
        if reason not in _TOLD:
            sys.stderr.write(f"\ncache: frozen stages run in every epoch, since {reason}\n")
            _TOLD.add(reason)

    def _hurried(self) -> bool:
        return any(getattr(other, "asked", False) for other in self._others)

    def _give(self, split: str, batch: Batch, *, view: int = 0) -> None:
        rows, cut = self._stock.rows(split, batch, view=view), self._stock.cut
        if rows is not None and cut is not None:
            self._giving.enter_context(cut.giving(self._cuts.network, rows, size_of(batch.inputs)))

    @property
    def _blind(self) -> bool:
        return self._stock.cut is not None and self._stock.cut.blind

    def _view(self, epoch: int) -> int:
        return epoch % (self._cuts.data.drawn("train").different or 1)

    def _stays_until(self, step: int) -> bool:
        """Tell whether the network is cut in the same place up to an optimizer step."""
        plan, phase = self._engine.plan, self._phase
        return phase is not None and all(
            self._stock.cut == self._cut_of(each)
            for each in plan.phases
            if each.stop > phase.start and each.start < step
        )

    def _cut_of(self, phase: Phase) -> Cut | None:
        try:
            return self._cuts.of(self._engine.plan, phase)
        except NotKept:
            return None


def is_all(limit: float | None) -> bool:
    """Tell whether a limit of Lightning's leaves nothing out: 1.0 is all batches, and 1 is one."""
    return limit is None or (isinstance(limit, float) and limit == 1.0)


def _look_away(loader: Any, *, blind: bool) -> None:
    """Let a loader leave out the inputs of the batches to come, or not."""
    if loader is not None and hasattr(loader.sampler, "blind"):
        loader.sampler.blind = blind
