"""What a run will compute once and keep: where each phase cuts the network, and of how many examples."""

import math
from collections.abc import Collection, Sequence
from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from frostline.batch import moved
from frostline.cache.cut import Cut, size_of
from frostline.cache.cuts import NotKept
from frostline.cache.prefix import is_inside
from frostline.data.order import randomness_kept
from frostline.flops import FEWEST
from frostline.forecast import Reuse
from frostline.freeze.strategy import Reestimation
from frostline.nn.calls import twin_of
from frostline.plan import MOST_PHASES, Phase, Plan
from frostline.prepare import Prepared


def reuses_of(prepared: Prepared, phases: Sequence[Phase]) -> list[Reuse | None]:
    """Return what is computed once in each phase: what no earlier one with the same cut, and weights, has seen."""
    plan, cuts, found = prepared.plan, [cut_of(prepared, phase) for phase in phases], list[Reuse | None]()
    for place, cut in enumerate(cuts):
        if cut is None:
            found.append(None)
            continue
        moves = [each for each in range(place) if _moves_below(plan, cut, phases[each])]
        before = [each for each in range(moves[-1] + 1 if moves else 0, place) if cuts[each] == cut]
        had = {view for each in before for view in _views(prepared, phases[each])}
        spared = next((known.spared for known, other in zip(found, cuts, strict=False) if known and other == cut), None)
        reuse = _reuse(prepared, cut, spared=_spared(prepared, cut) if spared is None else spared)
        views = _views(prepared, phases[place]) - had
        left = _left(prepared, cut, views, new=not before, moved=bool(moves))
        found.append(replace(reuse, training=len(prepared.data.drawn("train")) * len(views), left=left))
    return found


def _views(prepared: Prepared, phase: Phase) -> set[int]:
    """Return which views of the training examples a phase sees."""
    per_epoch, different = prepared.plan.per_epoch, prepared.data.drawn("train").different or 1
    return {epoch % different for epoch in range(phase.start // per_epoch, math.ceil(phase.stop / per_epoch))}


def cut_of(prepared: Prepared, phase: Phase) -> Cut | None:
    """Return where a phase that will be cuts the network."""
    plan = prepared.plan
    if prepared.cuts is None or isinstance(plan.strategy.instead, Reestimation) or len(plan.phases) > MOST_PHASES:
        return None
    try:
        return prepared.cuts.of(plan, phase)
    except NotKept:
        return None


def _reuse(prepared: Prepared, cut: Cut, *, spared: float) -> Reuse:
    """Return what a cut computes once, before it is known of how many examples."""
    stages = prepared.plan.stages[: cut.depth + bool(cut.parts(prepared.plan.stages))]
    once = {stage.depth.name: "once" if stage.depth.index < cut.depth else "in part once" for stage in stages}
    size = prepared.cuts.size(cut) if prepared.cuts else 0
    return Reuse(stages=once, flops=cut.flops, spared=spared, training=0, left=0, size=size)


def _moves_below(plan: Plan, cut: Cut, phase: Phase) -> bool:
    """Tell whether anything below a cut trains in a phase."""
    whole = {name for stage in plan.stages[: cut.depth] for name in stage.parameters}
    return any(name in whole or is_inside(name, cut.modules) for name in plan.training(phase.scales))


def _left(prepared: Prepared, cut: Cut, views: Collection[int], *, new: bool, moved: bool) -> int:
    """Return of how many examples it is still to be computed what a cut gives.

    Args:
        prepared: The run.
        cut: Where the network is cut.
        views: Which views of the training examples are asked for.
        new: Whether val is asked for, too.
        moved: Whether anything below the cut has trained before, so that nothing can be kept of an earlier run.
    """
    cuts, splits = prepared.cuts, {"train": views, "val": [0] if new else []}
    assert cuts is not None
    if moved:
        return sum(len(prepared.data.drawn(split)) * len(asked) for split, asked in splits.items())
    names = cuts.names(prepared.plan, cut)
    return sum(cuts.left(names, split, asked) for split, asked in splits.items())


def _spared(prepared: Prepared, cut: Cut) -> float:
    """Return what a cut spares of a forward pass for an example of the first batch: of tokens, these may have more."""
    if not size_of(prepared.first.inputs).tokens:
        return cut.spared
    inputs = moved(prepared.first.part(slice(FEWEST)).inputs, prepared.module.device)
    size = size_of(inputs)
    kept = [shape.zeros(prepared.module.device) for shape in cut.shapes(size)]
    twin, flops = twin_of(prepared.network, parameter=Tensor.detach, buffer=torch.clone), list[int]()
    assert prepared.cuts is not None
    for given in (nullcontext(), cut.giving(twin, kept, size)):
        counter = FlopCounterMode(display=False)
        with randomness_kept(), torch.no_grad(), prepared.cuts.computing(), counter, given:
            twin(inputs)
        flops.append(counter.get_total_flops())
    return (flops[0] - flops[1]) / size.examples
