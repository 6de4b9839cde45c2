"""Heads of a study train together: one run takes the others along.

The run that goes first trains as any run does. Behind each of its epochs the heads of the others, stacked, take theirs:
each of their steps is one vectorised pass (`torch.func.vmap`) over what frozen stages give, kept, of the batches that
each run would see alone. Before the last epoch they are left as beginnings, from which each run goes on by itself, to a
record like any other.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import zip_longest
from pathlib import Path
from time import perf_counter
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint

from frostline.batch import Batch
from frostline.beginnings import Beginnings
from frostline.cache.stock import evaluating
from frostline.cost import Meter
from frostline.engine import Freezing
from frostline.interruption import LAST
from frostline.prepare import Prepared
from frostline.stopwatch import Stopwatch
from frostline.together.company import Company, by_batches
from frostline.together.heads import Heads, Seen, by_kind
from frostline.together.kin import share_what_is_frozen
from frostline.together.left import Host, checkpoints_of
from frostline.together.other import Other, others_of

MOST = 32
"""How many runs one takes along: each holds a network of its own meanwhile."""


class TakingAlong(Checkpoint):
    """Train the heads of other runs along with this one, and leave them before the last epoch.

    What goes wrong with the others is not this run's: they are left alone, and train by themselves.

    Args:
        prepared: This run.
        others: The runs that it takes along; they are as they were when this is over.
        beginnings: Where they are left.
        arm: The arm of this run.

    Attributes:
        why_not: Why the others were not trained along, or nothing.
    """

    def __init__(self, prepared: Prepared, others: Sequence[Prepared], *, beginnings: Beginnings, arm: str) -> None:
        self._prepared = prepared
        self._asked = others
        self._beginnings = beginnings
        self._arm = arm
        self._heads: Heads | None = None
        self._others: list[Other] = []
        self._companies: list[Company] = []
        self._examples = 0
        self._seconds = self._begun = 0.0
        self.why_not = ""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stack the heads; a run that is itself continued takes nobody along."""
        found = {type(callback): callback for callback in trainer.callbacks}  # type: ignore[attr-defined]
        self._freezing = found[Freezing]
        self._clocks = [found[Meter], found[Stopwatch]]
        if not trainer.global_step:
            with self._beside():
                self._join(trainer)

    def _join(self, trainer: pl.Trainer) -> None:
        """Let the others begin, those that see the same batches side by side."""
        for runs in by_batches(self._asked):
            for run in runs:
                share_what_is_frozen(self._prepared, run)  # which by now may lie on a GPU, once for all
                run.module.to(self._prepared.module.device)
            begun = len(self._others)
            company = Company(runs[0], range(begun, begun + len(runs)), trainer)
            self._companies.append(company)
            self._others += others_of(company, runs)
        for other in self._others:
            self._freezing.rule(other.optimizer)
        self._heads = Heads(self._prepared.network, [other.parameters for other in self._others])

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Count the examples, which the bill is by."""
        self._examples += len(batch.places)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the epoch of the others; before the last one, leave them."""
        with self._beside():
            if self._heads is not None:
                self._epoch(trainer, trainer.current_epoch)

    def _epoch(self, trainer: pl.Trainer, epoch: int) -> None:
        for other in self._others:
            other.log(self._freezing.rates([other.optimizer]), epoch * other.per_epoch)
        for seen in _side_by_side(company.training(epoch) for company in self._companies):
            if any(getattr(callback, "asked", False) for callback in trainer.callbacks):  # type: ignore[attr-defined]
                self.let_go()  # who asked to stop does not wait for the others
                return
            self._learn(seen)
        with torch.no_grad(), evaluating(self._prepared.network):
            for seen in _side_by_side(company.validation(epoch) for company in self._companies):
                self._look(seen)
        for other in self._others:
            other.end_epoch(epoch)
        if epoch == self._prepared.plan.epochs - 2:
            self._leave(trainer)
            self.let_go()

    def _learn(self, seen: Sequence[Seen]) -> None:
        assert self._heads is not None
        for place, batch, outputs, loss in self._heads.learn(self._prepared.module.objective, seen):
            self._others[place].learn(batch, outputs, loss)

    def _look(self, seen: Sequence[Seen]) -> None:
        assert self._heads is not None
        for place, batch, outputs in self._heads.look(seen):
            self._others[place].prepared.module.measure(outputs, batch, "val")

    @contextmanager
    def _beside(self) -> Iterator[None]:
        """Do something for the others: its time is not this run's, and what goes wrong leaves them alone."""
        self._begun = perf_counter()
        try:
            yield
        except Exception as error:  # whatever does not go in a vectorised pass, such as dropout
            self.why_not = f"{type(error).__name__}: {error}"
            self.let_go()
        spent = perf_counter() - self._begun
        self._seconds += spent
        for clock in self._clocks:
            clock.leave_out(spent)

    def _leave(self, trainer: pl.Trainer) -> None:
        """Leave each of the others as if it had come here alone."""
        own = int(self._prepared.cfg.seed)
        host = Host(
            path=Path(str(trainer.checkpoint_callback.dirpath)) / LAST,  # type: ignore[union-attr]
            seed=own,
            per_epoch=self._prepared.plan.per_epoch,
            examples=self._examples,
            seconds=(self._seconds + perf_counter() - self._begun) / len(self._others),
        )
        for other in self._others:
            self._beginnings.leave(
                other.course.names[-1],
                partial(_write, checkpoints_of(other, host)),
                run_id=str(trainer.loggers[0].version),
                arm=self._arm if other.seed == own else f"{self._arm} seed {own}",
                step=(self._prepared.plan.epochs - 1) * other.per_epoch,
                own=other.course.signature,
                logged=other.points,
            )

    def let_go(self) -> None:
        """Give the others their parameters back; whoever began this run does so when it is over, however it ends."""
        if self._heads is not None:
            self._heads.let_go()
        for other in self._others:
            other.forget()
        self._heads, self._others, self._companies, self._asked = None, [], [], ()


def _side_by_side(ways: Iterable[Iterator[Seen]]) -> Iterator[list[Seen]]:
    """Yield the batches that companies come to at a time, those together that are of a kind; longer ways go on."""
    for seen in zip_longest(*ways):
        yield from by_kind(each for each in seen if each is not None)


def _write(checkpoints: Mapping[str, Mapping[str, Any]], folder: Path) -> None:
    for name, checkpoint in checkpoints.items():
        torch.save(checkpoint, folder / name)
