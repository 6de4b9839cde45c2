"""The two LightningModules: the pre-training objective L_pre and the fine-tuning objective L_fine.

L_pre = 1/N sum l(f(x_i; theta), y_i) over all parameters; L_fine = 1/M sum l(f(x_j; theta'), y'_j) with part of theta'
held fixed. Which part, and when, is the engine's business: these modules know of neither strategy nor kind of model.
"""

from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import Any, Literal

import pytorch_lightning as pl
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torchmetrics import MeanMetric, MetricCollection

from frostline.batch import Batch
from frostline.digest import digest_of_all, together
from frostline.errors import RequestError
from frostline.objectives.objective import Objective
from frostline.optim.partition import Group, optimizer_over
from frostline.regularizers.regularizer import Regularizer

LEFT_OUT = "left_out"
"""The key of a checkpoint under which stands what it does not hold of the network, by name, and a hash of that."""
NETWORK = "network."
"""What the name of a tensor of the network begins with in a checkpoint."""

Evaluated = Literal["val", "test"]
"""What is measured and not trained on."""

Schedule = Callable[..., LRScheduler | ReduceLROnPlateau]


class WeightedMean(MeanMetric):
    """A mean of means over batches that count differently; torchmetrics' own forgets weights where NaN may pass."""

    def update(self, value: float | Tensor, weight: float | Tensor | None = None) -> None:
        """Add the mean of a batch, a scalar, which counts `weight` times; once where that is None."""
        times = 1.0 if weight is None else weight
        if times:  # what counts for nothing may be NaN, a mean over no token
            self.mean_value = self.mean_value + value * times
        self.weight = self.weight + times


class Training(pl.LightningModule):
    """What the two have in common: one network, one objective, one static partition of the parameters.

    Args:
        network: From a batch's inputs to what the objective takes.
        objective: Loss and metrics.
        groups: The static partition of the network's parameters.
        optimizer: From parameter groups to an optimizer.
        scheduler: From an optimizer (and `total_steps`, where it takes that) to a learning-rate schedule.
        classes: Names of the data's classes.

    Attributes:
        unmoving: Digests of the network's tensors that are as the run was given them and stay so; no checkpoint need
            hold them.
    """

    objective: Objective

    def __init__(
        self,
        network: nn.Module,
        objective: Objective,
        *,
        groups: Sequence[Group],
        optimizer: Callable[[list[dict[str, Any]]], Optimizer],
        scheduler: Schedule,
        classes: Sequence[str],
    ) -> None:
        super().__init__()
        self.network = network
        self.objective = objective
        self._groups = groups
        self._optimizer = optimizer
        self._scheduler = scheduler
        self.train_loss = WeightedMean(nan_strategy="disable")
        # Lightning's own mean over several processes rounds their numbers of examples down to the same.
        self.val_loss, self.test_loss = WeightedMean(nan_strategy="disable"), WeightedMean(nan_strategy="disable")
        self.val_metrics = objective.metrics(classes)
        self.test_metrics = objective.metrics(classes)
        self.classes = list(classes)
        self.predictions: list[dict[str, Any]] = []
        self.tables: dict[str, Tensor] = {}
        self.unmoving: dict[str, str] = {}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch, a scalar."""
        outputs = self.network(batch.inputs)
        loss = self.objective.loss(outputs, batch)
        self.train_loss.update(loss.detach(), weight=self.objective.weight(outputs, batch))
        return loss + self.penalty()

    def on_train_epoch_end(self) -> None:
        """Log the mean loss over the epoch."""
        self.log("train/loss", self.train_loss.compute())
        self.train_loss.reset()

    def loss(self, batch: Batch) -> Tensor:
        """Return the objective of a batch, a scalar, without any penalty."""
        return self.objective.loss(self.network(batch.inputs), batch)

    def penalty(self) -> Tensor | float:
        """Return what is added to the loss besides the objective."""
        return 0.0

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Measure a batch of the validation split."""
        self._evaluate(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Measure a batch of the test split and keep what was predicted."""
        outputs = self._evaluate(batch, "test")
        rows = {"place": batch.places, **self.objective.predictions(outputs, batch)}
        self.predictions.append({name: _plain(column) for name, column in rows.items()})

    def _evaluate(self, batch: Batch, split: Evaluated) -> Any:
        outputs = self.network(batch.inputs)
        self.measure(outputs, batch, split)
        return outputs

    def measure(self, outputs: Any, batch: Batch, split: Evaluated) -> None:
        """Add what the network gave for a batch to the metrics of a split."""
        mean, metrics = self._sums(split)
        self.objective.measure(metrics, outputs, batch)
        mean.update(self.objective.loss(outputs, batch), weight=self.objective.weight(outputs, batch))

    def _sums(self, split: Evaluated) -> tuple[MeanMetric, MetricCollection]:
        return (self.val_loss, self.val_metrics) if split == "val" else (self.test_loss, self.test_metrics)

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of the validation split."""
        self.log_dict(self.measured("val"))

    def on_test_epoch_end(self) -> None:
        """Log the metrics of the test split."""
        self.log_dict(self.measured("test"))

    def measured(self, split: Evaluated) -> dict[str, Tensor]:
        """Return what a split came to, and begin anew: numbers, of all or of each class, loss first.

        A table of classes by classes is kept for the record.
        """
        mean, metrics = self._sums(split)
        loss = mean.compute()
        values = {f"{split}/{name}": value for name, value in metrics.compute().items()}
        per_class = {
            f"{name}/{each}": number
            for name, value in values.items()
            if value.ndim == 1
            for each, number in zip(self.classes, value, strict=True)
        }
        scalars = {name: value for name, value in values.items() if value.ndim == 0}
        self.tables |= {name: value.cpu() for name, value in values.items() if value.ndim == 2}
        mean.reset()
        metrics.reset()
        return {f"{split}/loss": loss, **{name: value.float() for name, value in (scalars | per_class).items()}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave out what the run does not change, which the run has without it; a hash says what that was."""
        checkpoint[LEFT_OUT] = dict(self._unmoved)
        for name in self._unmoved["names"]:
            del checkpoint["state_dict"][f"{NETWORK}{name}"]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put back what was left out; what the checkpoint brings is not what the run was given, as in a fork."""
        left_out = checkpoint.get(LEFT_OUT, {"names": []})["names"]
        self.complete(checkpoint)
        for name in self.unmoving.keys() - set(left_out):
            del self.unmoving[name]

    def complete(self, checkpoint: dict[str, Any]) -> None:
        """Put into a checkpoint what it leaves out, as the network has it.

        Raises:
            RequestError: The network now holds something else in its place.
        """
        left_out = checkpoint.pop(LEFT_OUT, {"names": [], "hash": digest_of_all({})})
        own = self.network.state_dict()
        held = {name: own[name] for name in left_out["names"]}
        if left_out != self._unmoved and digest_of_all(held) != left_out["hash"]:
            raise RequestError(
                "init_from: gives frozen tensors other values than when the run began; restore what it names, or begin "
                "a new run"
            )
        checkpoint["state_dict"] |= {f"{NETWORK}{name}": tensor for name, tensor in held.items()}

    def adopt(self, checkpoint: dict[str, Any]) -> None:
        """Complete the checkpoint of another run, unless it leaves out what this run never changes either."""
        if checkpoint.get(LEFT_OUT) != self._unmoved:
            self.complete(checkpoint)

    @property
    def _unmoved(self) -> dict[str, Any]:
        """What checkpoints leave out: names, and a hash of these tensors; the audit sees that they stay."""
        return {"names": sorted(self.unmoving), "hash": together(self.unmoving)}

    def optimizer_of(self, groups: Sequence[Group]) -> Optimizer:
        """Return the optimizer that was asked for over these groups."""
        return optimizer_over(groups, self._optimizer)

    def optimizer_and_schedule(self, steps: int) -> tuple[Optimizer, LRScheduler | ReduceLROnPlateau]:
        """Return the optimizer over the static partition, and its schedule over so many optimizer steps."""
        optimizer = self.optimizer_of(self._groups)
        takes_steps = "total_steps" in signature(self._scheduler).parameters
        return optimizer, self._scheduler(optimizer, **{"total_steps": steps} if takes_steps else {})

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build the optimizer over the static partition, and the schedule over the run's optimizer steps."""
        optimizer, scheduler = self.optimizer_and_schedule(max(1, int(self.trainer.estimated_stepping_batches)))
        interval = "epoch" if isinstance(scheduler, ReduceLROnPlateau) else "step"
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": interval, "monitor": "val/loss"},
        }


def names_in(checkpoint: Mapping[str, Any]) -> set[str]:
    """Return the names of a module's tensors that a checkpoint stands for, those that it leaves out among them."""
    left_out = checkpoint.get(LEFT_OUT, {"names": []})
    return {*checkpoint["state_dict"], *(f"{NETWORK}{name}" for name in left_out["names"])}


def headline(metrics: Mapping[str, float]) -> tuple[str, float]:
    """Return the name and the value of the metric that is reported first: of test, or of val where test was left."""
    split = "test" if "test/loss" in metrics else "val"
    return next((k, v) for k, v in metrics.items() if k.startswith(f"{split}/") and k != f"{split}/loss")


def _plain(column: Tensor | Sequence[Any]) -> list[Any]:
    return column.tolist() if isinstance(column, Tensor) else list(column)


class Pretraining(Training):
    """Minimise L_pre: every parameter learns."""


class FineTuning(Training):
    """Minimise L_fine, under a penalty where one is asked for.

    Args:
        network: From a batch's inputs to what the objective takes.
        objective: Loss and metrics.
        regularizer: A penalty on the parameters, or None.
        **training: The rest of what `Training` takes.
    """

    def __init__(
        self, network: nn.Module, objective: Objective, *, regularizer: Regularizer | None, **training: Any
    ) -> None:
        super().__init__(network, objective, **training)
        self.regularizer = regularizer

    def penalty(self) -> Tensor | float:
        """Return the regularizer's penalty."""
        return self.regularizer() if self.regularizer is not None else 0.0
