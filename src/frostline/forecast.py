"""What a run will take: FLOPs by stage and pass, memory and seconds, phase by phase and in all."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from frostline.errors import counted
from frostline.flops import ELSEWHERE, Count, Work, kind_of
from frostline.plan import Phase

WRITTEN_OUT = 8
"""Phases whose FLOPs are written out stage by stage; of more, each further kind has a line."""

_UNITS = {"TFLOP": 1e12, "GFLOP": 1e9, "MFLOP": 1e6, "kFLOP": 1e3}


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes that a training step needs.

    Attributes:
        parameters: Parameters and buffers, frozen or not.
        gradients: Gradients of what trains.
        state: What the optimizer remembers of what trains.
        activations: What the forward pass keeps for the backward pass.
    """

    parameters: int
    gradients: int
    state: int
    activations: int

    def times(self, factor: float) -> "Memory":
        """Return what values of other sizes need."""
        return Memory(**{part: round(factor * size) for part, size in asdict(self).items()})

    @property
    def training(self) -> int:
        """What a training step needs besides the network that is there before."""
        return self.gradients + self.state + self.activations

    @property
    def choosing(self) -> int:
        """What is needed behind the last step, when the checkpoint of the best epoch is read besides."""
        return self.gradients + self.state + self.parameters + self.state


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How fast this machine trains, in seconds.

    Attributes:
        steps: From one batch to the next, by the kind of the phase.
        opening: From the start of training to the first batch.
        first: What the first step of a phase takes longer.
        epoch: Behind the last batch of an epoch, validation's batches aside; or of a pass in place of training, what is
            made of it.
        evaluation: A batch of validation.
        computing: A FLOP of what is computed once to be kept.
        reading: What a batch takes longer in the first epoch, whose examples are read from the disk and decoded.
    """

    steps: Mapping[Hashable, float]
    opening: float
    first: float
    epoch: float
    evaluation: float
    computing: float = 0.0
    reading: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Reuse:
    """What the frozen stages of a phase give, computed once for each example and kept.

    Attributes:
        stages: What is said of them, by their names: that they run once, or that a part of them does.
        flops: What computing it takes for an example.
        spared: What a step is spared for an example.
        training: How many training examples there are; each view of one counts.
        left: Of how many of these, and of val's, it is still to be computed: others are kept of an earlier run.
        size: Bytes that are kept of all examples: mapped into memory, on a GPU held there while it has room.
    """

    stages: Mapping[str, str]
    flops: float
    spared: float
    training: int
    left: int
    size: int


@dataclass(frozen=True, kw_only=True)
class Spell:
    """A phase, and what it takes.

    Attributes:
        phase: The phase.
        batches: How many batches it trains on.
        examples: How many examples these are.
        trainable: Parameters (scalars) that train.
        count: What one step takes with a full batch.
        memory: What such a step needs.
        settled: Whether it is known what trains; else this is the most that the strategy could do.
        reuse: What is computed once instead of in each step, or None.
    """

    phase: Phase
    batches: int
    examples: int
    trainable: int
    count: Count
    memory: Memory
    settled: bool = True
    reuse: Reuse | None = None

    def flops(self, batch_size: int) -> float:
        """Return the FLOPs of a step with a full batch."""
        return self.count.flops - (self.reuse.spared * batch_size if self.reuse else 0.0)

    def all_flops(self, batch_size: int) -> float:
        """Return the FLOPs of all steps, and of what is computed once for them."""
        once = self.reuse.flops * self.reuse.training if self.reuse else 0.0
        return self.flops(batch_size) * self.examples / batch_size + once


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a run will take.

    Attributes:
        spells: Its phases in order.
        batch_size: Examples of a full batch.
        epochs: Epochs of the run; 1 where one pass takes the place of training.
        evaluations: Batches of validation after each epoch.
        tests: Batches of validation and test at the end, of the weights that were chosen.
        resident: Bytes that the process, or on a GPU that memory, holds before training, the network among them;
            0 where that is not known.
        on_gpu: Whether training is on a GPU, where checkpoints are never read to.
        processes: Processes that train together.
        chooses: Whether the weights of the best epoch are read at the end.
        pace: How fast this machine is; None before that is known.
    """

    spells: Sequence[Spell]
    batch_size: int
    epochs: int
    evaluations: int
    tests: int
    resident: int = 0
    on_gpu: bool = False
    processes: int = 1
    chooses: bool = True
    pace: Pace | None = None

    @property
    def flops(self) -> int:
        """FLOPs of training in all processes."""
        return self.processes * round(sum(spell.all_flops(self.batch_size) for spell in self.spells))

    @property
    def settled(self) -> bool:
        """Whether it is known what trains in every phase."""
        return all(spell.settled for spell in self.spells)

    @property
    def peak(self) -> int:
        """The greatest bytes of one process; on a GPU without what is kept, which need not lie there."""
        reads = self.chooses and not self.on_gpu
        behind = self.spells[-1].memory.choosing if reads else 0
        kept = 0 if self.on_gpu else max(spell.reuse.size if spell.reuse else 0 for spell in self.spells)
        return self.resident + kept + max(behind, *(spell.memory.training for spell in self.spells))

    @property
    def training(self) -> float:
        """Seconds of the training steps."""
        assert self.pace is not None
        steps = sum(s.batches * self.step(s) + self.pace.first for s in self.spells if s.batches)
        return steps + self.pace.reading * sum(s.batches for s in self.spells) / max(1, self.epochs)

    @property
    def validating(self) -> float:
        """Seconds behind the epochs: validation, checkpoints, the log, or what is solved in place of training."""
        assert self.pace is not None
        return self.epochs * (self.pace.epoch + self.evaluations * self.pace.evaluation)

    @property
    def wall(self) -> float:
        """Seconds from the start of training to its end, as `cost/wall_s` measures them."""
        assert self.pace is not None
        return self.pace.opening + self.computing + self.training + self.validating

    @property
    def computing(self) -> float:
        """Seconds of computing what is kept."""
        assert self.pace is not None
        kept = [spell.reuse for spell in self.spells if spell.reuse]
        return self.pace.computing * sum(reuse.flops * reuse.left for reuse in kept)

    @property
    def testing(self) -> float:
        """Seconds of the last look at validation and test, which `cost/wall_s` leaves out."""
        assert self.pace is not None
        return self.tests * self.pace.evaluation

    def step(self, spell: Spell) -> float:
        """Return the seconds from one batch to the next in a phase; what was not timed lies between what was."""
        assert self.pace is not None
        timed = self.pace.steps
        if (kind := kind_of(spell.phase)) in timed:
            return timed[kind]
        known = {s.flops(self.batch_size): timed[k] for s in self.spells if (k := kind_of(s.phase)) in timed}
        asked = spell.flops(self.batch_size)
        if len(known) < 2:
            return sum(seconds * asked / max(1, flops) for flops, seconds in known.items())
        flops = sorted(known)
        return float(np.interp(asked, flops, [known[each] for each in flops]))

    def at(self, pace: Pace | None, *, resident: int, on_gpu: bool) -> "Forecast":
        """Return the same on a machine of this pace, for a process that holds so many bytes before it trains."""
        return replace(self, pace=pace, resident=resident, on_gpu=on_gpu)

    def metrics(self) -> dict[str, float]:
        """Return what stands in a record beside what was measured, by the same names with `predicted_`."""
        known = {"cost/predicted_train_flops": float(self.flops)}
        if self.resident:
            known["cost/predicted_peak_memory_mb"] = self.peak / 1e6
        return known if self.pace is None else known | {"cost/predicted_wall_s": self.wall}


def as_text(forecast: Forecast) -> str:
    """Return the forecast as plain text: a table for each phase, what it needs and takes, and the sum."""
    blocks, seen = list[str](), dict[Hashable, str]()
    for spell in forecast.spells:
        if (kind := kind_of(spell.phase)) in seen:
            continue
        seen[kind] = spell.phase.span
        same = [other for other in forecast.spells if kind_of(other.phase) == kind]
        blocks.append(_block(forecast, same, whole=len(seen) <= WRITTEN_OUT))
    return "\n\n".join([*blocks, _total(forecast)]) + "\n"


def _block(forecast: Forecast, same: Sequence[Spell], *, whole: bool) -> str:
    """Describe a phase, together with those after it whose steps cost the same."""
    first, again = same[0], len(same) - 1
    title = first.phase.span + (f" and {again} more of the kind" if again else "")
    if not first.settled:
        title += ", at the most"
    flops, size = sum(spell.all_flops(forecast.batch_size) for spell in same), forecast.batch_size
    lines = list(_stages(first, size)) if whole else []
    head = f"{title}: {amount(first.flops(size) / size)} per example, {amount(flops)} in all"
    once = f"  once    {_once(forecast, same)}" if first.reuse else ""
    seconds = "" if forecast.pace is None else f"  time    {_time(forecast, same)}"
    return "\n".join(filter(None, [head, *lines, once, f"  memory  {_memory(first.memory)}", seconds]))


def _once(forecast: Forecast, same: Sequence[Spell]) -> str:
    """Say what is computed once for each example, in phases of one kind."""
    kept = [spell.reuse for spell in same if spell.reuse]
    examples = sum(reuse.left for reuse in kept)
    told = f"{amount(kept[0].flops)} for each of {counted(examples, 'example')}"
    if not examples:
        return f"{amount(kept[0].flops)} per example: all of it was kept by an earlier run"
    if forecast.pace is None:
        return told
    return f"{told}: {duration(forecast.pace.computing * sum(reuse.flops * reuse.left for reuse in kept))}"


def _stages(spell: Spell, examples: int) -> Iterator[str]:
    """Yield the lines of a table: stages as rows, passes as columns, a multiply-add counting as two."""
    each = {name: Work(*(flops // examples for flops in work)) for name, work in spell.count.work.items()}
    once = spell.reuse.stages if spell.reuse else {}
    unit = next((u for u, size in _UNITS.items() if max(map(max, each.values())) >= size), "FLOP")
    size = _UNITS.get(unit, 1.0)
    width = max(len(f"{unit} per example"), *map(len, each))
    yield f"  {f'{unit} per example':{width}}  {'forward':>10}  {'input grad':>10}  {'weight grad':>11}"
    for name, work in each.items():
        if any(work) or name != ELSEWHERE:
            forward, inputs, weights = (_cell(flops / size) for flops in work)
            yield f"  {name:{width}}  {forward:>10}  {inputs:>10}  {weights:>11}  {once.get(name, '')}".rstrip()


def _cell(number: float) -> str:
    return f"{number:.3f}" if number else "-"


def _memory(memory: Memory) -> str:
    parts = {
        "parameters": memory.parameters,
        "gradients": memory.gradients,
        "optimizer state": memory.state,
        "activations": memory.activations,
    }
    return ", ".join(f"{name} {megabytes(size)}" for name, size in parts.items())


def _time(forecast: Forecast, same: Sequence[Spell]) -> str:
    step, batches = forecast.step(same[0]), sum(spell.batches for spell in same)
    return f"{batches:,} x {1000 * step:.1f} ms = {duration(batches * step)}"


def _total(forecast: Forecast) -> str:
    bound = "" if forecast.settled else " at the most"
    held, added = megabytes(forecast.resident), megabytes(forecast.peak - forecast.resident)
    lines = [
        f"in all{bound}: {amount(forecast.flops)} of training",
        f"  memory  peak {megabytes(forecast.peak)}: {held} before, {added} to train and to keep the best epoch",
    ]
    if forecast.pace is not None:
        parts = ", ".join(f"{what} {duration(seconds)}" for what, seconds in _parts(forecast))
        lines.append(f"  time    {duration(forecast.wall)}: {parts}; then test {duration(forecast.testing)}")
    return "\n".join(lines)


def _parts(forecast: Forecast) -> Iterator[tuple[str, float]]:
    """Yield what the time of a run is made of; a start, and what is computed once, where it is to be seen."""
    assert forecast.pace is not None
    for what, seconds in (("start", forecast.pace.opening), ("once", forecast.computing)):
        if seconds >= 0.05:
            yield what, seconds
    yield "steps" if forecast.chooses else "the pass", forecast.training
    if forecast.chooses or forecast.validating:
        yield "validation and " + ("checkpoints" if forecast.chooses else "what is solved"), forecast.validating


def amount(flops: float) -> str:
    """Return FLOPs in the unit that suits them.

    >>> amount(81_000_000), amount(12), amount(3.2e16)
    ('81 MFLOP', '12 FLOP', '3.2e+04 TFLOP')
    """
    unit = next((unit for unit, size in _UNITS.items() if flops >= size), "FLOP")
    return f"{flops / _UNITS.get(unit, 1.0):.3g} {unit}"


def megabytes(size: int) -> str:
    """Return bytes in MB of 10**6, as records have them.

    >>> megabytes(1_500_000_000), megabytes(123_456)
    ('1,500 MB', '0.1 MB')
    """
    return f"{size / 1e6:,.0f} MB" if size >= 1e7 else f"{size / 1e6:.1f} MB"


def duration(seconds: float) -> str:
    """Return seconds as people say them.

    >>> duration(0.4), duration(75.2), duration(7300)
    ('0.4 s', '1 min 15 s', '2 h 2 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return "{} min {} s".format(*divmod(round(seconds), 60))
    return "{} h {} min".format(*divmod(round(seconds / 60), 60))
