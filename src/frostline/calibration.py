"""What a run will take, counted on a twin of what it trains and timed on a rehearsal of its first steps."""

import math
from collections.abc import Collection, Hashable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from frostline.batch import Batch, tensors_in
from frostline.cache.cut import Cut, size_of
from frostline.cache.cuts import NotKept
from frostline.cache.prefix import is_inside
from frostline.config.build import build
from frostline.config.effective import WITHOUT_EFFECT, plain, signature
from frostline.cost import Meter, held_bytes
from frostline.data.order import randomness_kept
from frostline.engine import Freezing
from frostline.flops import FEWEST, Count, Counting, Work, kind_of
from frostline.forecast import Forecast, Memory, Pace, Reuse, Spell
from frostline.freeze.full import Full
from frostline.freeze.strategy import Reestimation
from frostline.interruption import LAST, Interruption
from frostline.memory import keep_freed_memory
from frostline.modules import Training
from frostline.nn.calls import twin_of
from frostline.plan import MOST_PHASES, Phase, Plan
from frostline.prepare import Prepared, batches_seen
from frostline.processes import processes_of
from frostline.stopwatch import SAMPLES, Stopwatch
from frostline.training import best_of, last_of, quiet, writing

EACH, ALL = 2.0, 10.0
"""Seconds that one rehearsal may train, and all of them together."""

MOST_KINDS, FEW_KINDS = 64, 8
"""Kinds of phases that a plan, and a run beforehand, count; what a strategy draws besides is as the most similar."""

EVALUATED = 4
"""Batches of validation that a rehearsal looks at."""

_COUNTED: dict[str, Count] = {}
"""What a step takes, of all that this process has counted: the arms and seeds of a study have many in common."""


def counted(prepared: Prepared, *, thrifty: bool = False) -> Forecast:
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
        examples = len(data.drawn("train"))
    sizes = {split: math.ceil(len(data.drawn(split)) / processes_of(trainer)) for split in ("val", "test")}
    val, test = (
        batches_seen(trainer, split, batches=math.ceil(size / data.batch_size)) for split, size in sizes.items()
    )
    return Forecast(
        spells=_spells(prepared, batches=seen, examples=examples, thrifty=thrifty),
        batch_size=batch_size,
        epochs=plan.epochs,
        evaluations=val,
        tests=val + test,
        processes=processes_of(trainer),
    )


def _spells(prepared: Prepared, *, batches: int, examples: int, thrifty: bool) -> list[Spell]:
    """Describe each phase, of epochs of so many batches and examples."""
    plan, phases = prepared.plan, outlook(prepared.plan)
    epochs = 1 if plan.strategy.instead is not None else plan.epochs
    counts = _counts(prepared, phases, most=FEW_KINDS if thrifty else MOST_KINDS)
    weights = _weights(prepared.module, plan)
    shares = [min(1, epochs) * (phase.stop - phase.start) / plan.per_epoch for phase in phases]
    of_a_step = len(prepared.first.places) * int(prepared.cfg.trainer.get("accumulate_grad_batches", 1))
    reuses = _reuses(prepared, phases)

    def until(step: int) -> int:
        """Return how many examples come before an optimizer step; the last one of an epoch may have fewer."""
        whole, rest = divmod(step, plan.per_epoch)
        return min(1, epochs) * (whole * examples + min(examples, rest * of_a_step))

    return [
        Spell(
            phase=phase,
            batches=round(share * batches),
            examples=until(phase.stop) - until(phase.start),
            trainable=plan.trainable(phase),
            count=counts[kind_of(phase)],
            memory=weights.memory(phase, counts[kind_of(phase)]),
            settled=phase.start < plan.horizon,
            reuse=reuse,
        )
        for phase, share, reuse in zip(phases, shares, reuses, strict=True)
    ]


def _reuses(prepared: Prepared, phases: Sequence[Phase]) -> list[Reuse | None]:
    """Return what is computed once in each phase: what no earlier one with the same cut, and weights, has seen."""
    plan, cuts, found = prepared.plan, [_cut(prepared, phase) for phase in phases], list[Reuse | None]()
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


def _cut(prepared: Prepared, phase: Phase) -> Cut | None:
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
    return Reuse(stages=once, flops=cut.flops, spared=spared, training=0, left=0)


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
    inputs = prepared.first.part(slice(FEWEST)).inputs
    size = size_of(inputs)
    kept = [torch.zeros(shape.sides, dtype=shape.dtype) for shape in cut.shapes(size)]
    twin, flops = twin_of(prepared.network, parameter=Tensor.detach, buffer=torch.clone), list[int]()
    for given in (nullcontext(), cut.giving(twin, kept, size)):
        with randomness_kept(), torch.no_grad(), FlopCounterMode(display=False) as counter, given:
            twin(inputs)
        flops.append(counter.get_total_flops())
    return (flops[0] - flops[1]) / size.examples


def _counts(prepared: Prepared, phases: Sequence[Phase], *, most: int) -> dict[Hashable, Count]:
    """Count a step of so many kinds of phases, of the extremes first; the others are as what trains as much."""
    plan = prepared.plan
    counting = Counting(module=prepared.module, plan=plan, batch=prepared.first)
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
    """Return what tells a step's cost from that of all others: the config but for rates and chance, and all shapes."""
    without = {"seed", "freeze", "optimizer", "scheduler"}
    told = [signature(plain(prepared.cfg), exclude=WITHOUT_EFFECT | without), repr(prepared.network)]
    told += [f"{tensor.dtype} {tuple(tensor.shape)}" for tensor in tensors_in([*prepared.first])]
    told += [f"{each.name} {sorted(each.parameters)} {sorted(each.fixed)}" for each in prepared.plan.groups]
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


@dataclass(frozen=True, kw_only=True)
class _Held(Plan):
    """A plan of one phase only."""

    held: Phase

    def known(self, step: int) -> bool:
        """Return that all is settled."""
        return True

    def scales(self, step: int) -> dict[str, float]:
        """Return the phase's factors."""
        return dict(self.held.scales)

    def modes(self, scales: Mapping[str, float]) -> dict[str, bool]:
        """Return the phase's modes."""
        return dict(self.held.modes)


def calibrated(prepared: Prepared, *, seconds: float = ALL) -> Forecast:
    """Return what a run takes, in seconds too: a few steps of some phases are rehearsed on a copy.

    Args:
        prepared: What `prepare` returned; only its copy trains.
        seconds: How long all rehearsals may train.
    """
    keep_freed_memory()
    forecast, begun = counted(prepared), perf_counter()
    if not any(spell.batches for spell in forecast.spells) or prepared.plan.strategy.instead is not None:
        return forecast.at(None, resident=held_bytes(on_gpu=False), on_gpu=False)
    watches, reading = list[Stopwatch](), _reading(prepared)
    for spell in _in_turn(forecast.spells):
        if watches and perf_counter() - begun + EACH > seconds:
            break
        watches.append(_rehearse(prepared, spell.phase))
    on_gpu, copied = watches[0].on_gpu, forecast.spells[0].memory.parameters
    resident = watches[0].resident - (0 if on_gpu else copied)
    pace = _joined([pace for watch in watches if (pace := watch.pace())])
    steps = {kind: max(0.0, seconds - reading) for kind, seconds in pace.steps.items()}  # a rehearsal reads all its own
    pace = replace(pace, steps=steps, reading=reading, computing=_computing(prepared))
    return forecast.at(pace, resident=resident, on_gpu=on_gpu)


def _in_turn(spells: Sequence[Spell]) -> list[Spell]:
    """Return a spell of each kind, in the order in which they are worth a rehearsal: the extremes, then the others."""
    kinds = {kind_of(spell.phase): spell for spell in spells if spell.batches}
    ordered = sorted(kinds.values(), key=lambda spell: spell.count.flops)
    return list({kind_of(s.phase): s for s in [ordered[-1], ordered[0], *ordered]}.values())


def _rehearse(prepared: Prepared, phase: Phase) -> Stopwatch:
    """Train a copy for some steps of a phase, as a run does, and return what timed them."""
    cut = _cut(prepared, phase)
    module, stages, groups = deepcopy((prepared.module, prepared.plan.stages, prepared.plan.groups))
    batches = SAMPLES + 2
    plan = _Held(strategy=Full(), stages=stages, groups=groups, epochs=2, per_epoch=batches, held=phase)
    freezing = Freezing(module.network, plan)
    watch = Stopwatch(freezing, EACH)
    with randomness_kept(), quiet(), TemporaryDirectory() as folder:
        given = [_Given(cut, module.network)] if cut else []
        kept = [best_of(Path(folder)), last_of(Path(folder)), Interruption(Path(folder) / LAST)]
        callbacks = [freezing, Meter(freezing), watch, *given, *kept]
        trainer = build(
            prepared.cfg.trainer,
            key="trainer",
            logger=False,
            callbacks=callbacks,
            enable_progress_bar=False,
            num_sanity_val_steps=0,
            max_epochs=2,
            devices=1,
            strategy="auto",
            limit_train_batches=batches,
            limit_val_batches=EVALUATED,
            **writing(prepared.cfg),
        )
        data = prepared.data
        trainer.fit(module, train_dataloaders=data.train_dataloader(), val_dataloaders=data.val_dataloader())
    return watch


class _Given(Callback):
    """Give the network, in place of what would be kept, zeros of the same size: a step takes as long.

    Args:
        cut: Where the network is cut.
        network: The network.
    """

    def __init__(self, cut: Cut, network: nn.Module) -> None:
        self._cut = cut
        self._network = network
        self._giving = ExitStack()

    def on_train_batch_start(self, trainer: object, pl_module: object, batch: Batch, batch_idx: int) -> None:
        """Give zeros in training."""
        self._give(batch)

    def on_train_batch_end(self, *_: object) -> None:
        """Let the network compute all of itself again."""
        self._giving.close()

    def on_validation_batch_start(self, trainer: object, pl_module: object, batch: Batch, *_: object) -> None:
        """Give zeros in validation."""
        self._give(batch)

    def on_validation_batch_end(self, *_: object) -> None:
        """Let the network compute all of itself again."""
        self._giving.close()

    def _give(self, batch: Batch) -> None:
        size, device = size_of(batch.inputs), next(self._network.parameters()).device
        zeros = [torch.zeros(s.sides, dtype=s.dtype, device=device) for s in self._cut.shapes(size)]
        self._giving.enter_context(self._cut.giving(self._network, zeros, size))


def _computing(prepared: Prepared) -> float:
    """Return the seconds that a FLOP takes of what is computed to be kept."""
    cut = next(filter(None, (_cut(prepared, phase) for phase in prepared.plan.phases)), None)
    if cut is None or prepared.cuts is None:
        return 0.0
    twin = twin_of(prepared.network, parameter=Tensor.detach, buffer=torch.clone)
    train, spent = prepared.data.drawn("train"), list[float]()
    with randomness_kept():
        batches = list(islice(prepared.data.in_order(train, view=0, at_once=prepared.cuts.at_once(train)), SAMPLES))
        for batch in [batches[0], *batches]:  # the first one takes longer
            begun = perf_counter()
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
