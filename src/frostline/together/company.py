"""Runs that see the same batches, and what these are."""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import pytorch_lightning as pl

from frostline.batch import Batch, moved
from frostline.cache.prefix_cache import PrefixCache
from frostline.plan import Phase, Plan
from frostline.prepare import Prepared
from frostline.together.heads import Seen


@dataclass
class _Only:
    """The only phase of a plan, as the cache asks for it."""

    plan: Plan
    phase: Phase | None


class Company:
    """Runs that see the same batches: of one seed, and on the same examples.

    Args:
        prepared: One of these runs.
        heads: Their places among all that train together.
        trainer: Trains the run that takes them along.

    Attributes:
        heads: As above.
        examples: Examples trained on until now, each time counted.
        kept: FLOPs of what is kept of their training examples.
        spent: Those of them that were spent here; others are an earlier run's.
        cache: Gives what is kept.
    """

    def __init__(self, prepared: Prepared, heads: Sequence[int], trainer: pl.Trainer) -> None:
        assert prepared.cuts is not None
        self.heads = heads
        self.examples = 0
        self.kept = self.spent = 0.0
        self.cache = PrefixCache(prepared.cuts, _Only(prepared.plan, prepared.plan.phases[0]), self)
        self.cache.setup(trainer, prepared.module, "fit")
        self._data = prepared.data
        self._device = prepared.module.device

    def spend(self, flops: float, *, shared: bool) -> None:
        """Add to what is kept, and to what was spent on it here."""
        self.kept += flops
        self.spent += 0.0 if shared else flops

    def training(self, epoch: int) -> Iterator[Seen]:
        """Yield what the runs train on in an epoch, batch by batch."""
        for seen in self._seen("train", epoch):
            self.examples += len(seen.batch.places)
            yield seen

    def validation(self, epoch: int) -> Iterator[Seen]:
        """Yield what the runs are measured on, batch by batch."""
        return self._seen("val", epoch)

    def _seen(self, split: Literal["train", "val"], epoch: int) -> Iterator[Seen]:
        cut = self.cache.at_hand(split, epoch=epoch)
        place = repr(replace(cut, flops=0.0, spared=0.0))  # these two depend on the examples that it was found with
        for batch in self._data.batches(split, epoch=epoch, blind=cut.blind):
            placed = self._placed(batch, blind=cut.tail is not None)
            rows = self.cache.taken(split, placed, epoch=epoch)
            yield Seen(batch=placed, rows=rows, cut=cut, place=place, heads=self.heads)

    def _placed(self, batch: Batch, *, blind: bool) -> Batch:
        """Return a batch on the device of the networks; its inputs only where the rest of these may look at them."""
        targets, places = (moved(part, self._device) for part in (batch.targets, batch.places))
        return Batch(batch.inputs if blind else moved(batch.inputs, self._device), targets, places)


def by_batches(runs: Iterable[Prepared]) -> list[list[Prepared]]:
    """Group runs that see the same batches: of one source, all else that draws them being the same in their configs."""
    groups: dict[Hashable, list[Prepared]] = {}
    for run in runs:
        groups.setdefault((run.data.source(), run.data.seed, run.data.shots), []).append(run)
    return list(groups.values())
