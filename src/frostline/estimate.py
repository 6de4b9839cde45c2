"""What a run will take in FLOPs and memory, counted on a twin of what it trains."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from frostline.batch import tensors_in
from frostline.computed_once import reuses_of
from frostline.config.effective import WITHOUT_EFFECT, plain, signature
from frostline.flops import Count, Counting, Work, kind_of
from frostline.forecast import Forecast, Memory, Spell
from frostline.freeze.strategy import Solution
from frostline.modules import Training
from frostline.plan import Phase, Plan
from frostline.precision import width_of
from frostline.prepare import Prepared, batches_seen
from frostline.processes import processes_of

MOST_KINDS, FEW_KINDS = 64, 8
"""Kinds of phases that a plan, and a run beforehand, count; what a strategy draws besides is as the most similar."""

_COUNTED: dict[str, Count] = {}
"""What a step takes, of all that this process has counted: the arms and seeds of a study have many in common."""


def estimated(prepared: Prepared, *, thrifty: bool = False) -> Forecast:
    """Return what a run takes in FLOPs and memory; nothing of it is touched, and nothing is drawn.

    Args:
        prepared: What `prepare` returned.
        thrifty: Whether to count so few kinds of phases that it is little beside the run itself.
    """
    data, trainer, plan = prepared.data, prepared.cfg.trainer, prepared.plan
    loader, batch_size = data.train_dataloader(), len(prepared.first.places)
    seen = batches_seen(trainer, "train", batches=len(loader))
    examples = min(seen * batch_size, len(loader.sampler), len(loader) * batch_size)  # type: ignore[arg-type]
    if plan.strategy.instead is not None:
        seen, examples = len(data.reference_places()), len(data.drawn("train"))
    sizes = {split: math.ceil(len(data.drawn(split)) / processes_of(trainer)) for split in ("val", "test")}
    val, test = (
        batches_seen(trainer, split, batches=math.ceil(size / data.batch_size)) for split, size in sizes.items()
    )
    return Forecast(
        spells=_spells(prepared, batches=seen, examples=examples, thrifty=thrifty),
        batch_size=batch_size,
        epochs=plan.passes,
        evaluations=val if plan.strategy.instead is None else _evaluations_instead(prepared),
        tests=val + test,
        processes=processes_of(trainer),
        chooses=plan.epochs > 0,
    )


def _evaluations_instead(prepared: Prepared) -> int:
    """Return the batches of validation that choose in place of training, whatever the trainer's limit."""
    chooses = isinstance(prepared.plan.strategy.instead, Solution)
    return math.ceil(len(prepared.data.drawn("val")) / prepared.data.batch_size) if chooses else 0


def _spells(prepared: Prepared, *, batches: int, examples: int, thrifty: bool) -> list[Spell]:
    """Describe each phase, of epochs of so many batches and examples."""
    plan, phases = prepared.plan, outlook(prepared.plan)
    counts = _counts(prepared, phases, most=FEW_KINDS if thrifty else MOST_KINDS)
    weights, trains = _weights(prepared.module, plan), plan.strategy.instead is None
    width = width_of(prepared.cfg.trainer.get("precision")) if trains else 1.0  # it is a trainer that casts
    shares = [min(1, plan.passes) * (phase.stop - phase.start) / plan.per_epoch for phase in phases]
    of_a_step = len(prepared.first.places) * int(prepared.cfg.trainer.get("accumulate_grad_batches", 1))
    reuses = reuses_of(prepared, phases)

    def until(step: int) -> int:
        """Return how many examples come before an optimizer step; the last one of an epoch may have fewer."""
        whole, rest = divmod(step, plan.per_epoch)
        return min(1, plan.passes) * (whole * examples + min(examples, rest * of_a_step))

    return [
        Spell(
            phase=phase,
            batches=round(share * batches),
            examples=until(phase.stop) - until(phase.start),
            trainable=plan.trainable(phase),
            count=counts[kind_of(phase)],
            memory=weights.memory(phase, counts[kind_of(phase)]).times(width),
            settled=phase.start < plan.horizon,
            reuse=reuse,
        )
        for phase, share, reuse in zip(phases, shares, reuses, strict=True)
    ]


def _counts(prepared: Prepared, phases: Sequence[Phase], *, most: int) -> dict[Hashable, Count]:
    """Count a step of so many kinds of phases, of the extremes first; the others are as what trains as much."""
    plan = prepared.plan
    counting = Counting(module=prepared.module, plan=plan, batch=prepared.first, autocast=prepared.autocast)
    kinds = {kind_of(phase): phase for phase in phases}
    trainable = {kind: plan.trainable(phase) for kind, phase in kinds.items()}
    ordered = sorted(kinds, key=trainable.__getitem__)
    chosen = list(dict.fromkeys([ordered[-1], ordered[0], *ordered]))[:most]
    found = {kind: _forward_only(plan, _count(prepared, counting, kinds[kind])) for kind in chosen}
    return {
        kind: found[min(found, key=lambda other: (other != kind, abs(trainable[other] - trainable[kind])))]
        for kind in kinds
    }


def _count(prepared: Prepared, counting: Counting, phase: Phase) -> Count:
    """Return what a step of a phase takes; a step like one that this process has counted is not counted again.

    Where FLOPs are not proportional to the examples they may depend on what these are, and none is like another.
    """
    name = _name_of_a_step(prepared, phase)
    if name not in _COUNTED:
        count = counting.of(phase, examples=len(prepared.first.places))
        if not counting.linear:
            return count
        _COUNTED[name] = count
    return _COUNTED[name]


def _name_of_a_step(prepared: Prepared, phase: Phase) -> str:
    """Return what tells a step's cost from that of all others: what computes in the config, and all shapes."""
    without = {"seed", "data", "freeze", "optimizer", "scheduler"}
    told = [signature(plain(prepared.cfg), exclude=WITHOUT_EFFECT | without), repr(prepared.network)]
    told += [f"{tensor.dtype} {tuple(tensor.shape)}" for tensor in tensors_in([*prepared.first])]
    for group in prepared.plan.groups:
        sizes = sorted(f"{name} {p.dtype} {tuple(p.shape)}" for name, p in group.parameters.items())
        told.append(f"{group.name} {sizes} {sorted(group.fixed)}")
    return "\n".join([*told, repr(kind_of(phase))])


def outlook(plan: Plan) -> list[Phase]:
    """Return the phases of a plan; what training has still to decide counts as what the strategy does until then."""
    if plan.horizon >= plan.end:
        return plan.phases
    scales = plan.scales(plan.horizon)
    return [*plan.phases, plan.phase(plan.horizon, stop=plan.end, scales=scales)]


def _forward_only(plan: Plan, count: Count) -> Count:
    """Leave out the backward pass where something else happens in place of training."""
    if plan.strategy.instead is None:
        return count
    work = {name: Work(forward=work.forward) for name, work in count.work.items()}
    return Count(work=work, activations=0)


@dataclass(frozen=True, kw_only=True)
class _Weights:
    """Bytes of each parameter, of what the optimizer remembers of it, and of all that is there anyway."""

    plan: Plan
    sizes: Mapping[str, int]
    state: Mapping[str, int]
    whole: int

    def memory(self, phase: Phase, count: Count) -> Memory:
        """Return what a step of a phase needs."""
        free = self.plan.training(phase.scales) if self.plan.strategy.instead is None else {}
        return Memory(
            parameters=self.whole,
            gradients=sum(self.sizes[name] for name in free),
            state=sum(self.state[name] for name in free),
            activations=count.activations,
        )


def _weights(module: Training, plan: Plan) -> _Weights:
    tensors = [*module.parameters(), *module.buffers()]
    sizes = {name: _bytes(p) for group in plan.groups for name, p in group.parameters.items()}
    return _Weights(plan=plan, sizes=sizes, state=_state(module, plan), whole=sum(map(_bytes, tensors)))


def _state(module: Training, plan: Plan) -> dict[str, int]:
    """Ask the optimizer what it remembers of each parameter, by a step without values where it takes such."""
    try:
        return _state_on(torch.device("meta"), module, plan)
    except RuntimeError:  # a fused one takes only what a processor holds
        return _state_on(None, module, plan)


def _state_on(device: torch.device | None, module: Training, plan: Plan) -> dict[str, int]:
    """Do so on a device; None is that of each parameter."""
    twins = {
        name: nn.Parameter(torch.empty_like(p, device=device))
        for group in plan.groups
        for name, p in group.parameters.items()
    }
    for twin in twins.values():
        twin.grad = torch.empty_like(twin)
    groups = [replace(g, parameters={name: twins[name] for name in g.parameters}) for g in plan.groups]
    optimizer = module.optimizer_of(groups)
    optimizer.step()
    return {name: sum(map(_bytes, optimizer.state[twin].values())) for name, twin in twins.items()}


def _bytes(value: object) -> int:
    return value.numel() * value.element_size() if isinstance(value, Tensor) else 0
