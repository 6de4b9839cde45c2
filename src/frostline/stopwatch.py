"""Times the first steps of each kind of phase and what lies between epochs, of Lightning or in place of training."""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from statistics import median
from time import perf_counter
from typing import Any, TypeVar

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from frostline.cost import held_bytes
from frostline.engine import Freezing
from frostline.flops import kind_of
from frostline.forecast import Pace

_T = TypeVar("_T")

SAMPLES = 5
"""Steps of each kind that are timed, behind the first one of a phase, which is no usual step."""


class Stopwatch(Callback):
    """Note seconds from batch to batch, loading included, and from the last batch of an epoch to the next one.

    Args:
        freezing: Knows the phase; called before this callback.
        seconds: Stop training after so many, but not before two usual steps; None for never.

    Attributes:
        resident: Bytes that the process, or on a GPU its share of the GPU's memory, holds as training starts.
        on_gpu: Whether that is a GPU.
    """

    def __init__(self, freezing: Freezing, seconds: float | None = None) -> None:
        self.resident = 0
        self.on_gpu = False
        self._freezing = freezing
        self._limit = seconds
        self._steps: dict[Hashable, list[float]] = defaultdict(list)
        self._firsts: list[float] = []
        self._epochs: list[float] = []
        self._validations: list[float] = []
        self._validated = 0.0
        self._opening = 0.0
        self._start = self._end = self._batch = self._validating = 0.0
        self._first = True
        self._kind: Hashable = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note when training starts, and from how much memory."""
        self.on_gpu = pl_module.device.type == "cuda"
        self.resident = held_bytes(on_gpu=self.on_gpu)
        self._start = perf_counter()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Take the time since the batch before."""
        now = self._now()
        if self._end:
            self._end_epoch(now)
        elif self._batch:
            self._note(now - self._batch)
        elif not self._opening:
            self._opening = now - self._start
        phase = self._freezing.phase
        kind = None if phase is None else kind_of(phase)
        self._first, self._kind, self._batch = kind != self._kind, kind, now

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take the time of the last batch of an epoch, which no other follows; end a rehearsal that takes long."""
        now = self._now()
        if trainer.is_last_batch or self._over(now):
            self._note(now - self._batch)
            self._batch, self._end = 0.0, now
        if self._over(now):
            trainer.should_stop = True

    def _over(self, now: float) -> bool:
        enough = sum(map(len, self._steps.values())) > 1
        return self._limit is not None and enough and now - self._start > self._limit

    def _note(self, seconds: float) -> None:
        if self._first:
            self._firsts.append(seconds)
        elif len(self._steps[self._kind]) < SAMPLES:
            self._steps[self._kind].append(seconds)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note when validation starts."""
        self._validating = self._now()

    def on_validation_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *batch: Any) -> None:
        """Take the time up to this batch of validation."""
        if self._end:
            now = self._now()
            self._validations.append(now - self._validating)
            self._validated += now - self._validating
            self._validating = now

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take what came behind the last epoch."""
        if self._end:
            self._end_epoch(self._now())

    def _end_epoch(self, now: float) -> None:
        """Keep what an epoch takes besides its steps and its batches of validation."""
        self._epochs.append(max(0.0, now - self._end - self._validated))
        self._end = self._validated = 0.0

    def passing(self, batches: Iterable[_T], *, most: int | None, kind: Hashable) -> Iterator[_T]:
        """Yield the batches of a pass in place of training, and note what the first ones take, loading included.

        Args:
            batches: What loads them; to begin with that is part of the first one.
            most: After how many to end; None for all.
            kind: Of the phase.
        """
        self._kind, self._first, begun = kind, True, self._now()
        for batch in islice(batches, most):
            yield batch
            now = self._now()
            self._note(now - begun)
            self._first, begun = False, now

    def evaluating(self, batches: Iterable[_T], *, most: int | None) -> Iterator[_T]:
        """Yield the batches of validation behind such a pass, or so many, and note what they take."""
        begun = self._now()
        for batch in islice(batches, most):
            yield batch
            now = self._now()
            self._validations.append(now - begun)
            begun = now

    @contextmanager
    def concluding(self) -> Iterator[None]:
        """Note what this context takes, which makes something of such a pass; several are added up."""
        begun = self._now()
        yield
        self._epochs = [sum(self._epochs) + self._now() - begun]

    def leave_out(self, seconds: float) -> None:
        """Leave out what was just spent on something else: other runs, or what is computed to be kept."""
        self._start += seconds if not self._opening else 0.0
        self._batch += seconds if self._batch else 0.0
        self._end += seconds if self._end else 0.0
        self._validating += seconds

    def _now(self) -> float:
        """Return the time, of a rehearsal once the GPU has done what it was told."""
        if self._limit is not None and self.on_gpu:
            torch.cuda.synchronize()
        return perf_counter()

    def pace(self) -> Pace | None:
        """Return how fast this machine trains; None where it was not seen training."""
        steps = {kind: median(found) for kind, found in self._steps.items()}
        if not steps and not self._firsts:
            return None
        steps = steps or {self._kind: median(self._firsts)}
        first = max(0.0, median(self._firsts) - max(steps.values())) if self._firsts else 0.0
        return Pace(
            steps=steps,
            opening=self._opening,
            first=first,
            epoch=median(self._epochs or [0.0]),
            evaluation=median(self._validations or [0.0]),
        )
