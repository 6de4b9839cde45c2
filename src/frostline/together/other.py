"""A run that is taken along: all that is its own while another one trains."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from frostline.batch import Batch
from frostline.beginnings import Course, course_of
from frostline.prepare import Prepared
from frostline.together.company import Company
from frostline.together.kin import trained


@dataclass(kw_only=True)
class Other:
    """A run that is taken along.

    Attributes:
        prepared: The run; its module's sums and metrics are its own.
        company: Those that see the same batches.
        pays: Whether what was spent on what is kept is on its bill: it is the first of its company.
        course: What its beginnings are called.
        parameters: What trains, by name.
        optimizer: Its own.
        schedule: Its own.
        points: What it would have logged, by metric: each step and its value.
        best: Of the epoch of the lowest validation loss: that loss, the epoch, and what trains, as it was then.
    """

    prepared: Prepared
    company: Company
    pays: bool
    course: Course
    parameters: Mapping[str, nn.Parameter]
    optimizer: Optimizer
    schedule: LRScheduler
    points: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    best: tuple[float, int, Mapping[str, Tensor]] = (float("inf"), -1, {})

    @property
    def per_epoch(self) -> int:
        """Its optimizer steps of an epoch."""
        return self.prepared.plan.per_epoch

    @property
    def seed(self) -> int:
        """Its seed."""
        return int(self.prepared.cfg.seed)

    @property
    def last(self) -> dict[str, float]:
        """What it has logged last, by metric."""
        return {name: points[-1][1] for name, points in self.points.items()}

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        """Note what it would have logged at a step."""
        for name, value in metrics.items():
            self.points.setdefault(name, []).append((step, float(value)))

    def learn(self, batch: Batch, outputs: Any, loss: Tensor) -> None:
        """Take the step for which the gradients are there."""
        self.optimizer.step()
        self.schedule.step()
        module = self.prepared.module
        module.train_loss.update(loss, weight=module.objective.weight(outputs, batch))

    def end_epoch(self, epoch: int) -> None:
        """Note what an epoch came to, and keep it if it is the best, as Lightning's ModelCheckpoint chooses."""
        module = self.prepared.module
        came_to = {**module.measured("val"), "train/loss": module.train_loss.compute(), "epoch": float(epoch)}
        module.train_loss.reset()
        self.log(came_to, (epoch + 1) * self.per_epoch - 1)
        loss = self.last["val/loss"]
        loss = loss if loss == loss else float("inf")
        if epoch == 0 or loss < self.best[0]:
            self.best = (loss, epoch, {name: each.detach().clone() for name, each in self.parameters.items()})

    def forget(self) -> None:
        """Leave no sum of an epoch that was broken off."""
        module = self.prepared.module
        for sums in (module.train_loss, module.val_loss, module.val_metrics):
            sums.reset()


def others_of(company: Company, runs: Sequence[Prepared]) -> list[Other]:
    """Return some runs that see the same batches as they begin."""
    return [_other(company, run, pays=run is runs[0]) for run in runs]


def parameters_of(prepared: Prepared) -> dict[str, nn.Parameter]:
    """Return what trains of a run's network, by name."""
    own = dict(prepared.network.named_parameters())
    return {name: own[name] for name in trained(prepared.plan)}


def _other(company: Company, prepared: Prepared, *, pays: bool) -> Other:
    plan = prepared.plan
    optimizer, schedule = prepared.module.optimizer_and_schedule(plan.epochs * plan.per_epoch)
    if isinstance(schedule, ReduceLROnPlateau):
        raise TypeError("the learning rate waits on a metric")
    return Other(
        prepared=prepared,
        company=company,
        pays=pays,
        course=course_of(prepared),
        parameters=parameters_of(prepared),
        optimizer=optimizer,
        schedule=schedule,
    )
