"""What strategies do in place of training by steps: statistics taken anew, a head solved in closed form."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from frostline.batch import Batch, moved
from frostline.cache.prefix_cache import PrefixCache
from frostline.flops import kind_of
from frostline.freeze.strategy import Reestimation, Solution
from frostline.instruments import Instruments
from frostline.nn.batch_statistics import reestimate
from frostline.nn.ridge import Matrix, linear_head, solutions
from frostline.objectives.objective import scalars
from frostline.precision import computing_in
from frostline.prepare import Prepared
from frostline.stopwatch import Stopwatch

Giving = Callable[[Batch], AbstractContextManager[None]]
"""Gives the network, for a batch, something in place of what its frozen stages would compute."""


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
        with instruments.meter.measuring():
            _reestimate(prepared, instead, instruments.watch, device)
    return {}


def rehearse(prepared: Prepared, watch: Stopwatch, device: torch.device, *, most: int, giving: Giving | None) -> None:
    """Let a stopwatch time the first batches of what a strategy does in place of training; no head is solved.

    Args:
        prepared: A copy of the run, whose network is of no use afterwards.
        watch: Times batches of train and of val, and how long one head is scored on these.
        device: Where to compute.
        most: How many batches of each.
        giving: Gives the network something in place of what would be kept; None where nothing is.
    """
    instead = prepared.plan.strategy.instead
    prepared.network.to(device)
    if isinstance(instead, Reestimation):
        _reestimate(prepared, instead, watch, device, most=most)
        _evaluate(prepared, watch, device, most=most)
        return
    head = linear_head(prepared.plan.stages)
    probe, shape = _Probe(prepared, head, watch, device), (head.out_features, head.in_features)
    for _ in probe.features("train", giving=giving, most=most):
        pass
    seen = list(probe.features("val", giving=giving, most=most))
    with watch.concluding():
        probe.score(seen, np.zeros(shape), np.zeros(shape[0]))


@torch.no_grad()
def _evaluate(prepared: Prepared, watch: Stopwatch, device: torch.device, *, most: int) -> None:
    """Look at so many batches of validation, for what times them."""
    network = prepared.network.eval()
    for batch in watch.evaluating(prepared.data.val_dataloader(), most=most):
        with computing_in(prepared.autocast, device):
            network(moved(batch.inputs, device))


def _reestimate(
    prepared: Prepared, instead: Reestimation, watch: Stopwatch, device: torch.device, *, most: int | None = None
) -> None:
    """Take the statistics of normalisation layers anew from the training examples, or from so many batches of them."""
    batches = watch.passing(prepared.data.reference_dataloader(), most=most, kind=_kind(prepared))
    placed = ((moved(batch.inputs, device), len(batch.places)) for batch in batches)
    computing = partial(computing_in, prepared.autocast, device)
    reestimate(prepared.network, placed, pseudo_count=instead.pseudo_count, computing=computing)


def _kind(prepared: Prepared) -> Hashable:
    """Return the kind of the one phase that there is."""
    return kind_of(prepared.plan.phases[0])


def _solve(
    prepared: Prepared, strengths: Sequence[float], instruments: Instruments, device: torch.device
) -> dict[str, float]:
    """Give the network the head that val chooses among those of all strengths."""
    head, meter = linear_head(prepared.plan.stages), instruments.meter
    probe = _Probe(prepared, head, instruments.watch, device)
    with meter.measuring(flops=False):  # what is kept goes on the bill by itself
        kept = _what_is_kept(instruments.cache)
    with meter.measuring():
        train = list(probe.features("train", giving=kept.get("train")))
        features = np.concatenate([each.features for each in train])
        targets = np.concatenate([_wanted(each.batch.targets, head.out_features) for each in train])
        if not np.isfinite(features).all():
            raise FloatingPointError(
                "freeze=ridge: what the head is given is not finite; look at the weights and the data"
            )
        with instruments.watch.concluding():
            heads = list(solutions(features, targets, strengths, intercept=head.bias is not None))
    with meter.measuring(flops=False):
        val = list(probe.features("val", giving=kept.get("val")))
        with instruments.watch.concluding():
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

    def __init__(self, prepared: Prepared, head: nn.Linear, watch: Stopwatch, device: torch.device) -> None:
        self._prepared = prepared
        self._head = head
        self._watch = watch
        self._device = device
        metrics = prepared.module.objective.metrics(prepared.data.class_names)
        self.chosen_by = scalars(metrics)[0]
        self.sign = 1.0 if metrics[self.chosen_by].higher_is_better else -1.0

    @torch.no_grad()
    def features(self, split: str, *, giving: Giving | None, most: int | None = None) -> Iterator[_Seen]:
        """Yield what the head is given of each batch of a split, as evaluation shows it.

        Args:
            split: `train` or `val`.
            giving: Gives the network what its frozen stages gave before; None to let it compute all of itself.
            most: After how many batches to end; None for all of the split.
        """
        taken, network = list[Tensor](), self._prepared.network.eval()
        hook = self._head.register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0]))
        try:
            for batch in self._batches(split, most):
                placed = Batch(*(moved(part, self._device) for part in batch))
                given = nullcontext() if giving is None else giving(placed)
                with given, computing_in(self._prepared.autocast, self._device):
                    network(placed.inputs)
                seen = batch._replace(inputs=None)  # many images would not fit into memory at once
                yield _Seen(batch=seen, features=taken.pop().double().cpu().numpy())
        finally:
            hook.remove()

    def _batches(self, split: str, most: int | None) -> Iterator[Batch]:
        data = self._prepared.data
        if split == "train":
            return self._watch.passing(data.reference_dataloader(), most=most, kind=_kind(self._prepared))
        return self._watch.evaluating(data.val_dataloader(), most=most)

    def score(self, seen: Sequence[_Seen], weight: Matrix, bias: Matrix) -> float:
        """Return how good a head is on what was seen."""
        objective, data = self._prepared.module.objective, self._prepared.data
        metrics = objective.metrics(data.class_names)
        for each in seen:
            objective.measure(metrics, torch.from_numpy(each.features @ weight.T + bias).float(), each.batch)
        return self.sign * float(metrics[self.chosen_by].compute())


def _what_is_kept(cache: PrefixCache | None) -> dict[str, Giving]:
    """Return what gives the network what is kept of each split, computed now where that is still to be done."""
    return {} if cache is None else {split: cache.outside_training(split) for split in ("train", "val")}


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
