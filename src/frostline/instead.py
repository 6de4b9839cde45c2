"""What strategies do in place of training by steps: statistics taken anew, a head solved in closed form."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from frostline.batch import Batch, moved
from frostline.cache.prefix_cache import PrefixCache
from frostline.cost import Meter
from frostline.freeze.strategy import Reestimation, Solution
from frostline.instruments import Instruments
from frostline.nn.batch_statistics import reestimate
from frostline.nn.ridge import Matrix, linear_head, solutions
from frostline.objectives.objective import scalars
from frostline.precision import computing_in
from frostline.prepare import Prepared


def done_instead(prepared: Prepared, instruments: Instruments, device: torch.device) -> dict[str, float]:
    """Change the network as its strategy asks, without a step, and audit what stays frozen.

    Args:
        prepared: What `prepare` returned; its strategy does something in place of training.
        instruments: What goes along with the run.
        device: Where to compute.

    Returns:
        What there is to log of it.

    Raises:
        IntegrityError: Something frozen has changed.
    """
    instead = prepared.plan.strategy.instead
    assert instead is not None
    prepared.network.to(device)
    with instruments.freezing.audit.held(instead.name, prepared.plan.phases[0]):
        if isinstance(instead, Solution):
            return _solve(prepared, instead.strengths, instruments, device)
        _reestimate(prepared, instead, instruments.meter, device)
    return {}


def _reestimate(prepared: Prepared, instead: Reestimation, meter: Meter, device: torch.device) -> None:
    """Take the statistics of normalisation layers anew from the training examples."""
    batches = prepared.data.reference_dataloader()
    placed = ((moved(batch.inputs, device), len(batch.places)) for batch in batches)
    computing = partial(computing_in, prepared.autocast, device)
    with meter.measuring():
        reestimate(prepared.network, placed, pseudo_count=instead.pseudo_count, computing=computing)


def _solve(
    prepared: Prepared, strengths: Sequence[float], instruments: Instruments, device: torch.device
) -> dict[str, float]:
    """Give the network the head that val chooses among those of all strengths."""
    head, meter = linear_head(prepared.plan.stages), instruments.meter
    probe = _Probe(prepared, head, device)
    with meter.measuring(flops=False):  # what is kept goes on the bill by itself
        probe.is_given_what_is_kept(instruments.cache)
    with meter.measuring():
        train = list(probe.features("train"))
        features = np.concatenate([each.features for each in train])
        targets = np.concatenate([_wanted(each.batch.targets, head.out_features) for each in train])
        if not np.isfinite(features).all():
            raise FloatingPointError(
                "freeze=ridge: what the head is given is not finite; look at the weights and the data"
            )
        heads = list(solutions(features, targets, strengths, intercept=head.bias is not None))
    with meter.measuring(flops=False):
        val = list(probe.features("val"))
        scores = [probe.score(val, *solution) for solution in heads]
    if np.isnan(scores).all():
        raise FloatingPointError(f"freeze=ridge: {probe.chosen_by} is nan on val, by which no strength can be chosen")
    best = max(range(len(heads)), key=lambda place: (np.nan_to_num(scores[place], nan=-np.inf), strengths[place]))
    _fill(head, *heads[best])
    told = {f"ridge/{strength:g}": probe.sign * score for strength, score in zip(strengths, scores, strict=True)}
    return told | {"best/strength": float(strengths[best])}


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """A batch, and what the head is given of it: features (B, D)."""

    batch: Batch
    features: Matrix


class _Probe:
    """Takes a head's inputs, and scores heads on them by the first metric of the objective, higher is better.

    Attributes:
        chosen_by: That metric.
        sign: -1 where less of it is better.
    """

    def __init__(self, prepared: Prepared, head: nn.Linear, device: torch.device) -> None:
        self._prepared = prepared
        self._head = head
        self._device = device
        self._giving: dict[str, Callable[[Batch], AbstractContextManager[None]]] = {}
        metrics = prepared.module.objective.metrics(prepared.data.class_names)
        self.chosen_by = scalars(metrics)[0]
        self.sign = 1.0 if metrics[self.chosen_by].higher_is_better else -1.0

    def is_given_what_is_kept(self, cache: PrefixCache | None) -> None:
        """Let the network be given what its frozen stages gave before, computed now where that is still to be done."""
        if cache is not None:
            self._giving = {split: cache.outside_training(split) for split in ("train", "val")}

    @torch.no_grad()
    def features(self, split: str) -> Iterator[_Seen]:
        """Yield what the head is given of each batch of a split, as evaluation shows it."""
        data, taken = self._prepared.data, list[Tensor]()
        giving = self._giving.get(split, _computing)
        network = self._prepared.network.eval()
        hook = self._head.register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0]))
        try:
            for batch in data.reference_dataloader() if split == "train" else data.val_dataloader():
                placed = Batch(*(moved(part, self._device) for part in batch))
                with giving(placed), computing_in(self._prepared.autocast, self._device):
                    network(placed.inputs)
                seen = batch._replace(inputs=None)  # many images would not fit into memory at once
                yield _Seen(batch=seen, features=taken.pop().double().cpu().numpy())
        finally:
            hook.remove()

    def score(self, seen: Sequence[_Seen], weight: Matrix, bias: Matrix) -> float:
        """Return how good a head is on what was seen."""
        objective, data = self._prepared.module.objective, self._prepared.data
        metrics = objective.metrics(data.class_names)
        for each in seen:
            objective.measure(metrics, torch.from_numpy(each.features @ weight.T + bias).float(), each.batch)
        return self.sign * float(metrics[self.chosen_by].compute())


def _computing(batch: Batch) -> AbstractContextManager[None]:
    """Let the network compute all of itself."""
    del batch
    return nullcontext()


def _wanted(targets: Tensor, classes: int) -> Matrix:
    """Return what the head is to give: classes one-hot, of several labels each as it is."""
    wanted = one_hot(targets, classes) if targets.ndim == 1 else targets
    solved: Matrix = wanted.double().cpu().numpy()
    return solved


@torch.no_grad()
def _fill(head: nn.Linear, weight: Matrix, bias: Matrix) -> None:
    head.weight.copy_(torch.from_numpy(weight))
    if head.bias is not None:
        head.bias.copy_(torch.from_numpy(bias))
