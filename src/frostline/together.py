"""Heads of a study that differ in their optimizer's settings alone train together: one run takes the others along.

The run that goes first trains as any run does. Behind each of its steps the heads of the others, stacked, take theirs
in one vectorised pass (`torch.func.vmap`) on the same batch and the same kept features. Before the last epoch they are
left as beginnings, from which each run goes on by itself, to a record like any other.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from pytorch_lightning.callbacks import Checkpoint
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torch.utils._pytree import tree_map

from frostline.batch import Batch
from frostline.beginnings import Beginnings, Course, course_of, in_training
from frostline.cache.cuts import NotKept
from frostline.cache.prefix_cache import PrefixCache
from frostline.config.effective import WITHOUT_EFFECT, plain, signature
from frostline.cost import Meter
from frostline.engine import Freezing
from frostline.interruption import BEST, LAST, OURS, read_checkpoint
from frostline.modules import NETWORK, Training
from frostline.prepare import Prepared
from frostline.record import Store
from frostline.stopwatch import Stopwatch

Points = Mapping[str, Sequence[tuple[int, float]]]
"""By metric, steps and values."""

MOST = 32
"""How many runs one takes along: each holds a network of its own meanwhile."""

FEWEST_EPOCHS = 3
"""Epochs below which there is too little to share."""


def kin_of(cfg: DictConfig) -> str:
    """Return what the configs of runs share that may train together: all but the settings of the optimizer."""
    settings = {key for key in plain(cfg)["optimizer"] if key != "_target_"}
    return signature(plain(cfg), exclude=WITHOUT_EFFECT | {f"optimizer.{key}" for key in settings})


def takes_others(prepared: Prepared) -> bool:
    """Tell whether others can train along with a run: the head alone trains, on kept features, whatever happens."""
    cfg, plan = prepared.cfg, prepared.plan
    usual = {"accumulate_grad_batches": 1, "val_check_interval": 1.0, "check_val_every_n_epoch": 1}
    unusual = [cfg.trainer.get(key) for key, value in usual.items() if cfg.trainer.get(key) not in (None, value)]
    own_ways = [cfg.stopping, cfg.regularizer, cfg.trainer.get("gradient_clip_val"), *unusual]
    if any(own_ways) or plan.epochs < FEWEST_EPOCHS or not course_of(prepared).names:
        return False
    (phase, *others) = plan.phases
    if others or prepared.cuts is None or plan.frozen_prefix(phase) != len(plan.stages) - 1:
        return False
    with suppress(NotKept):
        return bool(prepared.cuts.of(plan, phase))
    return False


@dataclass(kw_only=True)
class _Other:
    """A run that is taken along.

    Attributes:
        course: What its beginnings are called.
        module: Its own module; the parameters that train are views into the stack.
        optimizer: Its own.
        schedule: Its own.
        logged: What it came to, by metric, epoch by epoch.
        best: Of the epoch of the lowest validation loss: that loss, the epoch, the head and the statistics then.
    """

    course: Course
    module: Training
    optimizer: Optimizer
    schedule: LRScheduler
    logged: dict[str, list[float]] = field(default_factory=dict)
    best: tuple[float, int, Mapping[str, Tensor]] = (float("inf"), -1, {})

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Note what this epoch came to."""
        for name, value in metrics.items():
            self.logged.setdefault(name, []).append(float(value))

    def choose(self, epoch: int, tensors: Mapping[str, Tensor]) -> None:
        """Keep this epoch if it is the best until now, as Lightning's ModelCheckpoint chooses."""
        loss = self.logged["val/loss"][-1]
        loss = loss if loss == loss else float("inf")
        if epoch == 0 or loss < self.best[0]:
            self.best = (loss, epoch, {name: tensor.clone() for name, tensor in tensors.items()})


class TakingAlong(Checkpoint):
    """Train the heads of other runs along with this one, and leave them before the last epoch.

    What goes wrong with the others is not this run's: they are left alone, and train by themselves.

    Args:
        prepared: This run.
        others: The runs that it takes along; they are as they were when this is over.
        beginnings: Where they are left.
        store: Holds the record of this run.
        arm: The arm of this run.

    Attributes:
        why_not: Why the others were not trained along, or nothing.
    """

    def __init__(
        self, prepared: Prepared, others: Sequence[Prepared], *, beginnings: Beginnings, store: Store, arm: str
    ) -> None:
        self._prepared = prepared
        self._asked = others
        self._beginnings = beginnings
        self._store = store
        self._arm = arm
        self._network = prepared.network
        self._stack: dict[str, Tensor] = {}
        self._before: list[dict[str, Tensor]] = []
        self._others: list[_Other] = []
        self._seconds = 0.0
        self.why_not = ""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stack the heads; a run that is itself continued takes nobody along."""
        found = {type(callback): callback for callback in trainer.callbacks}  # type: ignore[attr-defined]
        self._freezing, self._cache = found[Freezing], found[PrefixCache]
        self._clocks = [found[Meter], found[Stopwatch]]
        if not trainer.global_step:
            with self._beside():
                self._join(pl_module.device)

    def _join(self, device: torch.device) -> None:
        """Stack what trains of the others' networks; what is there stays theirs, as views into the stack."""
        plan = self._prepared.plan
        trains = [n for g in plan.groups if plan.phases[0].scales[g.name] for n in g.parameters if n not in g.fixed]
        owned = [dict(other.module.to(device).network.named_parameters()) for other in self._asked]
        self._before = [{name: each[name].detach().clone() for name in trains} for each in owned]
        self._stack = {name: torch.stack([each[name].detach() for each in owned]) for name in trains}
        for place, each in enumerate(owned):
            for name in trains:
                each[name].data = self._stack[name][place]
        self._others = [self._other(prepared) for prepared in self._asked]

    def _other(self, prepared: Prepared) -> _Other:
        steps = prepared.plan.epochs * prepared.plan.per_epoch
        optimizer, schedule = prepared.module.optimizer_and_schedule(steps)
        assert not isinstance(schedule, ReduceLROnPlateau)
        self._freezing.rule(optimizer)
        return _Other(course=course_of(prepared), module=prepared.module, optimizer=optimizer, schedule=schedule)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the learning rates of the epoch."""
        for other in self._others:
            other.log(self._freezing.rates([other.optimizer]))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Take the step of the others."""
        with self._beside():
            if self._others:
                self._step(batch, trainer.current_epoch)

    def _step(self, batch: Batch, epoch: int) -> None:
        def loss(parameters: dict[str, Tensor]) -> tuple[Tensor, Any]:
            outputs = functional_call(self._network, parameters, (batch.inputs,))
            return objective.loss(outputs, batch), outputs

        objective = self._prepared.module.objective
        with self._cache.giving("train", batch, epoch=epoch):
            gradients, (losses, outputs) = vmap(grad_and_value(loss, has_aux=True))(self._stack)
        for place, other in enumerate(self._others):
            own = dict(other.module.network.named_parameters())
            for name, gradient in gradients.items():
                own[name].grad = gradient[place]
            other.optimizer.step()
            other.schedule.step()
            weight = objective.weight(_of(outputs, place), batch)
            other.module.train_loss.update(losses[place].detach(), weight=weight)

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, *_: Any
    ) -> None:
        """Measure the others."""
        if trainer.sanity_checking or not self._others:
            return
        with self._beside(), torch.no_grad(), self._cache.giving("val", batch):
            outputs = vmap(lambda parameters: functional_call(self._network, parameters, (batch.inputs,)))(self._stack)
            for place, other in enumerate(self._others):
                other.module.measure(_of(outputs, place), batch, "val")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note what the epoch came to; before the last one, leave the others."""
        with self._beside():
            for place, other in enumerate(self._others):
                other.log(other.module.measured("val"))
                other.log({"train/loss": other.module.train_loss.compute()})
                other.module.train_loss.reset()
                other.choose(trainer.current_epoch, {name: tensor[place] for name, tensor in self._stack.items()})
            if self._others and trainer.current_epoch == self._prepared.plan.epochs - 2:
                self._leave(trainer)
                self._let_go()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Let the others go as they were."""
        self._let_go()

    @contextmanager
    def _beside(self) -> Iterator[None]:
        """Do something for the others: its time is not this run's, and what goes wrong leaves them alone."""
        begun = perf_counter()
        try:
            yield
        except Exception as error:  # whatever does not go in a vectorised pass, such as dropout
            self.why_not = f"{type(error).__name__}: {error}"
            self._let_go()
        spent = perf_counter() - begun
        self._seconds += spent
        for clock in self._clocks:
            clock.leave_out(spent)

    def _leave(self, trainer: pl.Trainer) -> None:
        """Leave each of the others as if it had come here alone, in the form of this run's own last checkpoint."""
        path = Path(str(trainer.checkpoint_callback.dirpath)) / LAST  # type: ignore[union-attr]
        run_id = str(trainer.loggers[0].version)
        points = _points(self._store.history(run_id), read_checkpoint(path))
        for place, other in enumerate(self._others):
            checkpoint = read_checkpoint(path)
            self._make_it_of(other, {name: tensor[place] for name, tensor in self._stack.items()}, checkpoint)
            best = deepcopy(checkpoint)
            best["epoch"] = other.best[1]
            best["state_dict"] |= _in_module(other.best[2])
            told = {"run_id": run_id, "arm": self._arm, "step": trainer.global_step, "own": True}
            self._beginnings.leave(
                other.course.names[-1],
                partial(_write, {LAST: checkpoint, BEST: best}),
                **told,
                logged=_logged(points, other.logged),
            )

    def _make_it_of(self, other: _Other, tensors: Mapping[str, Tensor], checkpoint: dict[str, Any]) -> None:
        """Put another run's part in place of this one's into a checkpoint."""
        checkpoint["state_dict"] |= _in_module(tensors)
        checkpoint["optimizer_states"] = [other.optimizer.state_dict()]
        checkpoint["lr_schedulers"] = [other.schedule.state_dict()]
        last = {name: values[-1] for name, values in other.logged.items()}
        ours = checkpoint[OURS]
        ours["metrics"] = {name: last.get(name, value) for name, value in ours["metrics"].items()}
        ours["waiting"] = []  # it stands in what is told of the beginning
        states = checkpoint["callbacks"]
        share = self._seconds / len(self._others)
        states["Meter"] |= {
            "flops": states["Meter"]["flops"] - states["Meter"]["spent"],
            "spent": 0.0,
            "steps": [],
            "wall": share,
        }
        states["PrefixCache"]["computed"] = 0
        choosing = next(key for key in states if key.startswith("ModelCheckpoint") and "'val/loss'" in key)
        loss, path = torch.tensor(other.best[0]), str(Path(states[choosing]["dirpath"]) / BEST)
        states[choosing] |= {
            "best_model_score": loss,
            "best_model_path": path,
            "current_score": torch.tensor(last["val/loss"]),
            "best_k_models": {path: loss},
            "kth_best_model_path": path,
            "kth_value": loss,
        }

    def _let_go(self) -> None:
        """Give the others their parameters back as they were."""
        for prepared, before in zip(self._asked, self._before, strict=False):
            own = dict(prepared.network.named_parameters())
            for name, tensor in before.items():
                own[name].data, own[name].grad = tensor, None
        self._before, self._others = [], []


def _of(outputs: Any, place: int) -> Any:
    """Return what a network in the stack gave."""
    return tree_map(lambda part: part[place] if isinstance(part, Tensor) else part, outputs)


def _in_module(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{NETWORK}{name}": tensor.detach().cpu().clone() for name, tensor in tensors.items()}


def _write(checkpoints: Mapping[str, Mapping[str, Any]], folder: Path) -> None:
    for name, checkpoint in checkpoints.items():
        torch.save(checkpoint, folder / name)


def _points(history: Points, checkpoint: Mapping[str, Any]) -> Points:
    """Return what a run has logged until its last checkpoint, written or not, in the order of the steps."""
    points = {name: list(written) for name, written in in_training(history).items()}
    for metrics, step in checkpoint[OURS]["waiting"]:
        for name, value in metrics.items():
            points.setdefault(name, []).append((step, value))
    return {name: sorted(each, key=lambda point: point[0]) for name, each in points.items()}


def _logged(points: Points, own: Mapping[str, Sequence[float]]) -> Points:
    """Return the same with the values of another run, which has logged the same metrics at the same steps."""
    steps = {name: [step for step, _ in each] for name, each in points.items()}
    return {name: list(zip(steps[name], own[name], strict=False)) if name in own else points[name] for name in points}
