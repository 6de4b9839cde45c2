"""What a run will take in seconds, timed on a rehearsal of its first steps."""

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from statistics import median
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from frostline.computed_once import cut_of
from frostline.cost import held_bytes
from frostline.data.order import randomness_kept
from frostline.estimate import estimated
from frostline.flops import kind_of
from frostline.forecast import Forecast, Pace, Spell
from frostline.freeze.strategy import Solution
from frostline.memory import keep_freed_memory, leave_new_memory_unfilled
from frostline.nn.calls import twin_of
from frostline.nn.ridge import linear_head, solutions
from frostline.prepare import Prepared
from frostline.rehearsal import rehearsed, rehearsed_instead
from frostline.stopwatch import SAMPLES, Stopwatch

EACH, ALL = 2.0, 10.0
"""Seconds that one rehearsal may train, and all of them together."""

WIDE = 256
"""Features, and half the examples, of the greatest problem that is solved to know what another one takes."""


def calibrated(prepared: Prepared, *, seconds: float = ALL) -> Forecast:
    """Return what a run takes, in seconds too: a few steps of some phases are rehearsed on a copy.

    Args:
        prepared: What `prepare` returned; only its copy trains.
        seconds: How long all rehearsals may train.
    """
    keep_freed_memory()
    leave_new_memory_unfilled()
    forecast, begun = estimated(prepared), perf_counter()
    held = held_bytes(on_gpu=False)
    if prepared.plan.strategy.instead is not None:
        return forecast.at(_pace_instead(prepared, forecast.evaluations), resident=held, on_gpu=False)
    if not any(spell.batches for spell in forecast.spells):
        return forecast.at(None, resident=held, on_gpu=False)
    watches, reading = list[Stopwatch](), _reading(prepared)
    for spell in _in_turn(forecast.spells):
        if watches and perf_counter() - begun + EACH > seconds:
            break
        watches.append(rehearsed(prepared, spell.phase, within=EACH))
    on_gpu, rehearsed_upon = watches[0].on_gpu, [*prepared.module.parameters(), *prepared.module.buffers()]
    resident = watches[0].resident - (0 if on_gpu else sum(tensor.nbytes for tensor in rehearsed_upon))
    pace = _joined([pace for watch in watches if (pace := watch.pace())])
    steps = {kind: max(0.0, seconds - reading) for kind, seconds in pace.steps.items()}  # a rehearsal reads all its own
    pace = replace(pace, steps=steps, reading=reading, computing=_computing(prepared))
    return forecast.at(pace, resident=resident, on_gpu=on_gpu)


def _pace_instead(prepared: Prepared, evaluations: int) -> Pace | None:
    """Return how fast this machine does what is done in place of training: a few batches of it are rehearsed.

    Args:
        prepared: The run; a copy of its network takes part.
        evaluations: Batches of validation by which something is chosen.
    """
    watch = rehearsed_instead(prepared, within=EACH)
    pace, instead = watch.pace(), prepared.plan.strategy.instead
    if pace is None or not isinstance(instead, Solution):
        return pace
    scored = pace.epoch * len(instead.strengths) * max(1.0, evaluations / (SAMPLES + 1))
    return replace(pace, computing=_computing(prepared), epoch=_solving(prepared, instead.strengths) + scored)


def _solving(prepared: Prepared, strengths: Sequence[float]) -> float:
    """Return the seconds in which heads are solved: a smaller problem is, and tells by the operations of both."""
    head, examples = linear_head(prepared.plan.stages), len(prepared.data.drawn("train"))
    few, narrow = min(examples, 2 * WIDE), min(head.in_features, WIDE)
    drawn = np.random.default_rng(0)
    features, targets = drawn.normal(size=(few, narrow)), drawn.normal(size=(few, head.out_features))
    spent = list[float]()
    for _ in range(2):  # the first one takes longer
        begun = perf_counter()
        deque(solutions(features, targets, strengths, intercept=head.bias is not None), maxlen=0)
        spent.append(perf_counter() - begun)
    return spent[1] * _operations(examples, head.in_features) / _operations(few, narrow)


def _operations(rows: int, columns: int) -> float:
    """Return what the singular values and vectors of a matrix take; Golub and Van Loan 2013, figure 8.6.1, R-SVD."""
    fewer, more = sorted((rows, columns))
    return 6.0 * more * fewer**2 + 20.0 * fewer**3


def _in_turn(spells: Sequence[Spell]) -> list[Spell]:
    """Return a spell of each kind, in the order in which they are worth a rehearsal: the extremes, then the others."""
    kinds = {kind_of(spell.phase): spell for spell in spells if spell.batches}
    ordered = sorted(kinds.values(), key=lambda spell: spell.count.flops)
    return list({kind_of(s.phase): s for s in [ordered[-1], ordered[0], *ordered]}.values())


def _computing(prepared: Prepared) -> float:
    """Return the seconds that a FLOP takes of what is computed to be kept."""
    cut = next(filter(None, (cut_of(prepared, phase) for phase in prepared.plan.phases)), None)
    if cut is None or prepared.cuts is None:
        return 0.0
    twin = twin_of(prepared.network, parameter=Tensor.detach, buffer=torch.clone)
    train, spent = prepared.data.drawn("train"), list[float]()
    with randomness_kept():
        batches = list(islice(prepared.data.in_order(train, view=0, at_once=prepared.cuts.at_once(train)), SAMPLES))
        for batch in [batches[0], *batches]:  # the first one takes longer
            begun = perf_counter()
            with prepared.cuts.computing():
                cut.taken(twin, batch.inputs)
            spent.append((perf_counter() - begun) / len(batch.places))
    return median(spent[1:]) / cut.flops if cut.flops else 0.0  # to look up embeddings counts as none


def _reading(prepared: Prepared) -> float:
    """Return the seconds by which a batch is loaded faster when its examples have been seen before."""
    if prepared.cfg.data.get("num_workers"):  # they load while the network computes
        return 0.0
    drawn, size = prepared.data.drawn("train"), len(prepared.first.places)
    last = range(max(0, len(drawn) - size), len(drawn))
    spent: list[float] = []
    for _ in range(2):
        begun = perf_counter()
        with randomness_kept():
            drawn.__getitems__(last)
        spent.append(perf_counter() - begun)
    return max(0.0, spent[0] - spent[1])


def _joined(paces: Sequence[Pace]) -> Pace:
    """Return the pace of several rehearsals, each of one kind of phase."""
    return Pace(
        steps={kind: seconds for pace in paces for kind, seconds in pace.steps.items()},
        opening=median(pace.opening for pace in paces),
        first=median(pace.first for pace in paces),
        epoch=median(pace.epoch for pace in paces),
        evaluation=median(pace.evaluation for pace in paces),
    )
