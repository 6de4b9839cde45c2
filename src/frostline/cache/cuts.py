"""Which frozen stages of a run are computed once for each example, and why others are computed again."""

from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from frostline.batch import Batch, moved, tensors_in
from frostline.cache.content import Names, hash_of, sources
from frostline.cache.cut import Cut, NotExact
from frostline.cache.find_cut import EXAMPLES, Judge, find_cut, is_watched
from frostline.cache.parts import parts_before, stage_in_part
from frostline.cache.prefix import Size, outermost
from frostline.data.split import Split
from frostline.data.splitted import SPLITS, SplittedData
from frostline.digest import digest_of_all
from frostline.freeze.strategy import Reestimation, Solution
from frostline.nn.calls import Calls, watch
from frostline.nn.stages import Stage
from frostline.plan import MOST_PHASES, Phase, Plan, abridged
from frostline.precision import computing_in

Policy = Literal["auto", "off", "require"]
"""Keep what frozen stages give where that is exact and pays; never; or wherever it is exact, else refuse."""

WORTH = 20.0
"""FLOPs that a kept byte must spare: what a core computes while it reads one (10 GFLOP/s to 2 GB/s, and twice that).

The break-even rule of Nautilus (SIGMOD 2022, section 4): keep what is read faster than it is computed.
"""

SHARE = 0.1
"""Of what a forward pass takes above the frozen stages, the least that frozen parts of the next one must take.

A cut within a stage is another proof, and what it gives is of use to fewer strategies.
"""

_EXAMPLES, _TOKENS, _BYTES = 96, 4096, 5_000_000
"""Of how many examples a processor computes at once what is kept, whatever the batches of training: the most of them,
of their tokens, and of the bytes of their inputs. What many large ones become on their way would not stay in its cache.
"""

_PARTS: dict[Hashable, Sequence[tuple[tuple[str, ...], float]]] = {}
"""The parts of stages that this process has found, with their shares: the arms of a study are networks alike."""

_PROVED: dict[str, Cut | str] = {}
"""The cuts that this process has proved, or why there is none: the arms of a study begin as equal networks."""


class NotKept(Exception):  # noqa: N818 (no error: the stages run in every epoch, and the plan says why)
    """What frozen stages give is not kept; says why."""


@dataclass(frozen=True, kw_only=True)
class Cuts:
    """Where the network of a run is cut in each phase.

    Attributes:
        network: The network.
        data: What it is trained on.
        known: Digests of the network's tensors that are as the run was given them and stay so, now.
        judge: What must be the same with and without a cut.
        policy: What the config says.
        folder: Where what is kept lies.
        limit: How many bytes may lie there.
        recipe: What the network was built from, in words that tell it from any other.
        autocast: The type that mixed precision lets the network compute in beside float32; None for no other.
        obstacle: What in the config stands in the way of any cut, or nothing.
    """

    network: nn.Module
    data: SplittedData
    known: Mapping[str, str]
    judge: Judge
    policy: Policy
    folder: Path
    limit: int
    recipe: str
    autocast: torch.dtype | None = None
    obstacle: str = ""
    _found: dict[Hashable, Cut | str] = field(default_factory=dict, init=False)

    def of(self, plan: Plan, phase: Phase) -> Cut:
        """Return where the network is cut in a phase: behind whole stages, or within the next where that spares more.

        Raises:
            NotKept: Nowhere; the sentence says why.
        """
        solved = isinstance(plan.strategy.instead, Solution)
        if solved and not self.obstacle and self.data.drawn("train").different != 1:
            raise NotKept("they look at examples as evaluation shows them, of which nothing is kept with data.augment")
        self._refuse_by_data()
        if self.policy != "require" and not self._lasts(plan, phase):
            raise NotKept("no example comes twice before more of it thaws")
        whole = self._kept(plan, phase, ()) if plan.frozen_prefix(phase) else "the first stage trains"
        for parts in self._parts(plan, phase):
            deeper = self._kept(plan, phase, parts)
            if isinstance(deeper, Cut) and self._spares_more(deeper, whole):
                return deeper
        if isinstance(whole, str):
            raise NotKept(whole)
        return whole

    def _kept(self, plan: Plan, phase: Phase, parts: tuple[str, ...]) -> Cut | str:
        """Return the cut behind the frozen stages and these parts of the next, or why what it gives is not kept."""
        cut = self._cut(plan, phase, parts)
        if isinstance(cut, str):
            return cut
        if self.policy != "require" and cut.spared < WORTH * self._bytes(cut):
            return "computing it again takes no longer than reading it"
        if self.size(cut) > self.limit:
            needed = f"{self.size(cut) / 1e9:.3g} GB would be kept"
            return f"{needed}, more than cache_limit_gb={self.limit / 1e9:g} allows"
        return cut

    def _spares_more(self, deeper: Cut, whole: Cut | str) -> bool:
        """Tell whether a cut within a stage pays for what it keeps beyond the cut before it, if that one is made."""
        spared, kept = (0.0, 0) if isinstance(whole, str) else (whole.spared, self._bytes(whole))
        return deeper.spared - spared >= WORTH * (self._bytes(deeper) - kept)

    def _bytes(self, cut: Cut) -> int:
        """Return how many bytes are kept of an example, as long as the longest."""
        return cut.bytes(Size(1, self.data.drawn("train").longest))

    def terms(self, plan: Plan, phase: Phase) -> str:
        """Return what decides, besides network, data and what trains, whether the network is cut in a phase."""
        if not plan.frozen_prefix(phase) and not self._parts(plan, phase):
            return ""
        return f"{self.policy} {self.limit} {self.policy == 'require' or self._lasts(plan, phase)}"

    def of_the_end(self, plan: Plan) -> Cut:
        """Return where the network is cut, once trained, below all that has trained at any time.

        Raises:
            NotKept: Nowhere.
        """
        passes = plan.epochs or isinstance(plan.strategy.instead, Solution)
        if not passes or plan.horizon < plan.end or len(plan.phases) > MOST_PHASES:
            raise NotKept("it is not known what has trained")
        lowest = min(plan.phases, key=plan.frozen_prefix)
        scales = {name: max(phase.scales[name] for phase in plan.phases) for name in lowest.scales}
        return self.of(plan, replace(lowest, scales=scales, modes=plan.modes(scales)))

    def size(self, cut: Cut) -> int:
        """Return how many bytes are kept of all examples at a cut."""
        return sum(cut.bytes(Size(len(each), each.longest)) * (each.different or 1) for each in self._splits())

    def left(self, names: Names, split: str, views: Collection[int]) -> int:
        """Return of how many examples of a split, each view counted, it is still to be computed what a cut gives."""
        here = [(self.folder / names.of(split, view)).exists() for view in views]
        return len(self.data.drawn(split)) * here.count(False)

    def names(self, plan: Plan, cut: Cut) -> Names:
        """Return what names that which a cut gives, with the weights below it as they are now."""
        return Names(
            cut, self.network, plan.stages, self.data, at_once=self.at_once, known=self.known, recipe=self._recipe
        )

    def computing(self) -> AbstractContextManager[None]:
        """Let the network compute in the precision of training."""
        return computing_in(self.autocast, self._device)

    def at_once(self, split: Split) -> int:
        """Return of how many examples of a split what is kept is computed at once; a GPU computes a batch of training.

        A name stands for it, since sums over other batches differ in their last bit.
        """
        if self._device.type != "cpu":
            return self.data.batch_size
        if split.longest:
            return max(1, min(_EXAMPLES, _TOKENS // split.longest))
        return max(1, min(_EXAMPLES, _BYTES // self._bytes_shown))

    @cached_property
    def _bytes_shown(self) -> int:
        """The bytes of an example as the network is shown it."""
        shown = self._examples().part(slice(1)).inputs
        return max(1, sum(tensor.nbytes for tensor in tensors_in(shown)))

    def told(self, plan: Plan) -> Iterator[str]:
        """Yield, for each phase that begins with frozen stages, whether these run once for each example, or why not.

        Of statistics that are taken anew there is nothing to say: all stages run, once.
        """
        if isinstance(plan.strategy.instead, Reestimation):
            return
        for phase in plan.phases[:MOST_PHASES]:
            try:
                cut = self.of(plan, phase)
                kept = f"what that gives is kept: {self.size(cut) / 1e6:,.1f} MB"
                yield f"{phase.span}: {_run(plan, cut.depth, cut.parts(plan.stages))} once for each example; {kept}"
            except NotKept as reason:
                if depth := plan.frozen_prefix(phase):
                    yield f"{phase.span}: {_run(plan, depth)} in every epoch: {reason}"

    def refusals(self, plan: Plan) -> Iterator[str]:
        """Yield why a phase that begins with frozen stages cannot keep what these give."""
        for phase in plan.phases:
            try:
                if plan.frozen_prefix(phase):
                    self.of(plan, phase)
            except NotKept as reason:
                yield f"{phase.span}: {reason}"

    def _lasts(self, plan: Plan, phase: Phase) -> bool:
        """Tell whether an example comes in the same view twice before a phase ends, or to other runs of the kind."""
        if isinstance(plan.strategy.instead, Solution):
            return True
        views = self.data.drawn("train").different or 1
        return _lasting(plan, phase) > views * plan.per_epoch

    def _refuse_by_data(self) -> None:
        train = self.data.drawn("train")
        if self.obstacle:
            raise NotKept(self.obstacle)
        if train.mixes:
            raise NotKept("data.mix shows each example mixed with another one in every epoch")
        if train.different is None:
            raise NotKept("examples are changed anew in every epoch; data.views=V would show V ways of each, in turn")
        # A smaller image is kept as the largest of one batch pads it, and asked for in batches that pad it otherwise;
        # these cannot be told from their inputs, which may be left out. Where all are as large, none need be told.
        if len({size for each in self._splits() for size in each.sizes}) > 1:
            raise NotKept("images are shown at several sizes, padded to the largest of their batch")

    def _parts(self, plan: Plan, phase: Phase) -> Sequence[tuple[str, ...]]:
        """Return which modules of the first stage that trains may be below the cut, too: most of it first."""
        if (stage := stage_in_part(plan, phase)) is None:
            return ()
        trains, awake = plan.training(phase.scales), (name for name, training in phase.modes.items() if training)
        place = (self._structure, stage.depth, frozenset(trains), frozenset(awake))
        if place not in _PARTS:
            _PARTS[place] = self._parts_of(plan, phase, stage)
        return [parts for parts, share in _PARTS[place] if share >= SHARE]

    def _parts_of(self, plan: Plan, phase: Phase, stage: Stage) -> Sequence[tuple[tuple[str, ...], float]]:
        """Return parts of a stage that come first, and their share in what a forward pass takes from the stage on."""
        calls, flops = self._pass
        rest = flops[""] - sum(flops[name] for name in outermost(plan.stages[: stage.depth.index]))
        every = parts_before(self.network, plan, phase, stage, calls)
        return [(parts, sum(flops[name] for name in parts) / max(rest, 1)) for parts in every]

    @cached_property
    def _pass(self) -> tuple[Calls, Mapping[str, int]]:
        """When a forward pass calls the network's modules, and the FLOPs of each by its name."""
        with FlopCounterMode(display=False) as counter:
            calls = watch(self.network, self._shown)
        root, counts = type(self.network).__name__, counter.get_flop_counts()
        names = {name: ".".join(filter(None, [root, name])) for name, _ in self.network.named_modules()}
        return calls, {name: sum(counts.get(counted, {}).values()) for name, counted in names.items()}

    @property
    def _shown(self) -> Any:
        """What the network is shown to see its calls."""
        return self._examples().part(slice(EXAMPLES - 1)).inputs

    @cached_property
    def _structure(self) -> str:
        """What tells networks apart that call other modules, or whose modules take more or less."""
        shapes = [f"{tensor.dtype} {tuple(tensor.shape)}" for tensor in tensors_in([self._shown])]
        return "\n".join([self._recipe, repr(self.network), *shapes])

    def _examples(self) -> Batch:
        """Return the examples that a cut is proved on."""
        train = self.data.drawn("train")
        return train.__getitems__(range(min(EXAMPLES, len(train))))

    def _cut(self, plan: Plan, phase: Phase, parts: tuple[str, ...]) -> Cut | str:
        trains = frozenset(name for name, training in phase.modes.items() if training)
        where = self._device.type if self.autocast else ""  # each kind of device rounds other layers to 16 bits
        place = (plan.frozen_prefix(phase), parts, trains, where)
        if place not in self._found:
            self._found[place] = self._search(plan, phase, parts)
        return self._found[place]

    @torch.inference_mode(mode=False)  # Lightning evaluates in that mode, in which no gradient tells who looks at what
    def _search(self, plan: Plan, phase: Phase, parts: tuple[str, ...]) -> Cut | str:
        """Return a cut, or why there is none; a network like one that this process has proved it on is not asked."""
        batch = self._examples()
        if is_watched(self.network):  # what listens to it is not in the name
            return self._proof(plan, phase, parts, batch)
        name = self._name_of_the_proof(plan, phase, parts, batch)
        if name not in _PROVED:
            _PROVED[name] = self._proof(plan, phase, parts, batch)
        return _PROVED[name]

    def _proof(self, plan: Plan, phase: Phase, parts: tuple[str, ...], batch: Batch) -> Cut | str:
        placed = Batch(*(moved(part, self._device) for part in batch))
        where = (plan.stages, plan.frozen_prefix(phase), phase.modes)
        try:
            with self.computing():
                return find_cut(self.network, *where, parts=parts, batch=placed, judge=self.judge)
        except NotExact as reason:
            return str(reason)

    def _name_of_the_proof(self, plan: Plan, phase: Phase, parts: tuple[str, ...], batch: Batch) -> str:
        """Return what tells a proof from all others: the whole network, where it is cut, what trains, the examples."""
        network = self.network
        tensors = dict(network.named_parameters()) | dict(network.named_buffers())
        told = [self._recipe, repr(network), *sources(network), hash_of(tensors, self.known)]
        told += [self._device.type, f"{plan.frozen_prefix(phase)} {parts}"]
        told += [repr(sorted(phase.modes.items())), *(repr(sorted(stage.modules)) for stage in plan.stages)]
        shown = tensors_in([batch.inputs, batch.targets])
        told.append(digest_of_all({str(place): tensor for place, tensor in enumerate(shown)}))
        return sha256("\n".join(told).encode()).hexdigest()

    @property
    def _recipe(self) -> str:
        """What the network was built from, and what it computes in."""
        return f"{self.recipe} {self.autocast}"

    @property
    def _device(self) -> torch.device:
        return next(self.network.parameters()).device

    def _splits(self) -> Sequence[Split]:
        return [self.data.drawn(split) for split in SPLITS]


def _run(plan: Plan, depth: int, parts: Sequence[str] = ()) -> str:
    """Say that these first stages run, and these parts of the next one."""
    names = [stage.depth.name for stage in plan.stages]
    stages = " to ".join(dict.fromkeys([names[0], names[depth - 1]])) if depth else ""
    inside = f"{abridged(parts, ', ')} of {names[depth]}" if parts else ""
    return f"{' and '.join(filter(None, [stages, inside]))} {'runs' if depth + len(parts) == 1 else 'run'}"


def _lasting(plan: Plan, phase: Phase) -> int:
    """Return how many steps a phase lasts, also one that the engine has entered without knowing its end.

    Raises:
        NotKept: What trains is decided from step to step.
    """
    if phase.start < plan.horizon:
        return next(each.stop - phase.start for each in plan.phases if each.start <= phase.start < each.stop)
    if plan.strategy.clock == "step":
        raise NotKept("what trains is decided from step to step")
    return phase.stop - phase.start
