"""What an adaptive strategy looks at while Lightning trains: gradients of a probe, or the sum of those trained on.

Under several processes every one sees the same: of batches the mean gradient, of single examples those of all.
"""

import math
from collections.abc import Iterator, Mapping
from itertools import chain, islice
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from frostline.batch import Batch
from frostline.freeze.adaptive import Gradients, Probe
from frostline.modules import Training
from frostline.processes import from_each


class Sums:
    """The gradients that were trained on since the last decision, summed with their signs."""

    def __init__(self) -> None:
        self.totals: dict[str, Tensor] = {}

    def add(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Add the gradients as they are now; what is frozen has none."""
        for name, parameter in parameters.items():
            if parameter.grad is not None:
                gradient = parameter.grad.detach()
                known = self.totals.get(name)
                self.totals[name] = gradient.clone() if known is None else known.to(gradient.device).add_(gradient)

    def take(self, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
        """Return the sums, zero for what had no gradient, and begin anew."""
        totals, self.totals = self.totals, {}
        return {name: totals.get(name, torch.zeros_like(p)).to(p.device) for name, p in parameters.items()}


def overflowed(trainer: pl.Trainer, parameters: Mapping[str, nn.Parameter]) -> bool:
    """Tell whether this step's gradients overflowed in half precision, so that it will not be taken."""
    if getattr(trainer.precision_plugin, "scaler", None) is None:
        return False
    gradients = [parameter.grad for parameter in parameters.values() if parameter.grad is not None]
    return not bool(torch.nn.utils.get_total_norm(gradients).isfinite())


def probe(
    trainer: pl.Trainer, module: Training, parameters: Mapping[str, nn.Parameter], wanted: Probe
) -> Iterator[Gradients]:
    """Yield the gradients that are wanted, the same in every process; see `Probe`."""
    return islice(_shared(trainer, _own(trainer, module, parameters, wanted), wanted), wanted.count)


def _own(
    trainer: pl.Trainer, module: Training, parameters: Mapping[str, nn.Parameter], wanted: Probe
) -> Iterator[Gradients]:
    """Yield gradients of the objective at the weights as they are, in evaluation mode, one at a time.

    Every parameter given is left requiring a gradient and every module in evaluation mode; the engine sets both anew.
    """
    module.network.eval()
    for parameter in parameters.values():
        parameter.requires_grad_()
    for batch in _batches(trainer, wanted):
        with trainer.precision_plugin.forward_context():
            loss = module.loss(batch)
        scaler = getattr(trainer.precision_plugin, "scaler", None)  # in half precision, small gradients would be 0
        scale = scaler.get_scale() if scaler is not None else 1.0
        found = torch.autograd.grad(loss * scale, list(parameters.values()), materialize_grads=True, allow_unused=True)
        yield {name: gradient / scale for name, gradient in zip(parameters, found, strict=True)}


def _shared(trainer: pl.Trainer, gradients: Iterator[Gradients], wanted: Probe) -> Iterator[Gradients]:
    """Yield what all processes agree on: the mean over them, or single examples of each in turn."""
    if trainer.world_size == 1 or not wanted.single:
        yield from ({n: _mean(trainer, g) for n, g in gradient.items()} for gradient in gradients)
        return
    for gradient in gradients:
        of_each = {name: from_each(g) for name, g in gradient.items()}
        yield from ({name: held[rank] for name, held in of_each.items()} for rank in range(trainer.world_size))


def _batches(trainer: pl.Trainer, wanted: Probe) -> Iterator[Batch]:
    """Yield what is probed, from a loader of its own: the one that trains is left where it is."""
    loader = trainer.datamodule.train_dataloader()  # type: ignore[attr-defined]
    if hasattr(loader.sampler, "set_epoch"):
        loader.sampler.set_epoch(trainer.current_epoch)
    batches: Iterator[Any] = iter(loader)
    if wanted.single:
        batches = chain.from_iterable(batch.examples() for batch in batches)
    share = math.ceil(wanted.count / trainer.world_size) if wanted.single else wanted.count
    for batch in islice(batches, share):
        yield trainer.strategy.batch_to_device(batch)


def _mean(trainer: pl.Trainer, gradient: Tensor) -> Tensor:
    reduced = trainer.strategy.reduce(gradient, reduce_op="mean")
    assert isinstance(reduced, Tensor)
    return reduced
