"""What a training step computes and keeps, by stage, counted on a twin of what trains: no time, no weight changes.

FLOPs are those of torch's own formulas (`torch.utils.flop_counter`), a multiply-add counts as two. The backward pass is
told apart into gradients of inputs, which go on to the layers below, and gradients of weights, which end here.
"""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from math import comb
from typing import Any, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from frostline.batch import Batch, moved
from frostline.data.order import randomness_kept
from frostline.modules import Training
from frostline.nn.calls import twin_of
from frostline.nn.stages import Stage
from frostline.plan import Phase, Plan
from frostline.precision import computing_in

ELSEWHERE = "elsewhere"
"""What belongs to no stage: the loss, a penalty, a container that several stages share."""

FEWEST = 2
"""Examples of the smallest count; batch normalisation cannot train on one."""

Pass = Literal["forward", "inputs", "weights"]


class Work(NamedTuple):
    """FLOPs of one stage: of the forward pass, of the gradients of its inputs, and of those of its weights."""

    forward: int = 0
    inputs: int = 0
    weights: int = 0


@dataclass(frozen=True, kw_only=True)
class Count:
    """What one training step takes.

    Attributes:
        work: FLOPs by the name of the stage, `ELSEWHERE` the last.
        activations: Bytes that the forward pass keeps for the backward pass, parameters and inputs aside.
    """

    work: Mapping[str, Work]
    activations: int

    @property
    def flops(self) -> int:
        """All FLOPs of the step."""
        return sum(map(sum, self.work.values()))


def kind_of(phase: Phase) -> Hashable:
    """Return what two phases share whose steps cost the same: what trains, and which modules are in train mode."""
    return tuple(map(bool, phase.scales.values())), tuple(phase.modes.values())


@dataclass(kw_only=True)
class Counting:
    """Counts the steps of phases on a twin of what trains, with the examples of one batch.

    Attributes:
        module: What trains; it, and what it holds, stays as it is.
        plan: What trains when.
        batch: Examples as training sees them.
        autocast: The type that mixed precision lets the network compute in beside float32; None for no other.
        linear: Whether a step's FLOPs were found to be the same for every example; None before that was looked at.
    """

    module: Training
    plan: Plan
    batch: Batch
    autocast: torch.dtype | None = None
    linear: bool | None = field(default=None, init=False)

    def of(self, phase: Phase, *, examples: int) -> Count:
        """Return what one step of a phase takes with a batch of so many examples, as large as those of this batch.

        A few examples are counted, and the rest is a polynomial in their number: exact for what is at most quadratic
        in it, as a loss is that compares every example with every other.
        """
        most = min(examples, len(self.batch.places))
        counts = [self._step(phase, min(FEWEST, most))]
        for size in range(FEWEST + 1, min(FEWEST + 2, most) + 1):
            rounded = self.autocast is not None and size == FEWEST + 1  # rounded weights are kept, whatever the batch
            if rounded or not self.linear:
                counts.append(self._step(phase, size))
                self.linear = all(_proportional(counts[0].work, each.work, size) for each in counts[1:])
        if len(counts) > 1 or most <= FEWEST:
            return _extrapolated(counts, examples)
        return _times(counts[0], examples, FEWEST)

    def _step(self, phase: Phase, examples: int) -> Count:
        """Return what one step takes with the first examples of the batch."""
        with randomness_kept():
            few = Batch(*(moved(part, self.module.device) for part in self.batch.part(slice(examples))))
            return _counted(_still(self.module, self.plan, phase), self.plan.stages, few, self.autocast)


def _still(module: Training, plan: Plan, phase: Phase) -> Training:
    """Return a twin with the flags and modes that the engine sets in a phase; it shares the parameters' values."""
    twin = twin_of(module, parameter=Tensor.detach, buffer=torch.clone)
    assert isinstance(twin, Training)
    set_phase(twin.network, plan, phase)
    return twin


def set_phase(network: nn.Module, plan: Plan, phase: Phase) -> None:
    """Set flags and modes of a network of the plan's names as the engine does in a phase."""
    own, free = dict(network.named_parameters()), plan.training(phase.scales)
    for group in plan.groups:
        for name in group.parameters:
            own[name].requires_grad_(name in free)
    for name, part in network.named_modules():
        part.training = phase.modes.get(name, True)


def _counted(twin: Training, stages: Sequence[Stage], batch: Batch, autocast: torch.dtype | None) -> Count:
    tally, places = Tally(twin.network, stages), set(_storages(batch))
    with tally, torch.enable_grad(), _saving(twin, places) as saved:
        with computing_in(autocast, twin.device):
            loss = twin.loss(batch) + twin.penalty()
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
    order = [*(stage.depth.name for stage in stages), ELSEWHERE]
    work = {name: Work(**{part: tally.found[name, part] for part in Work._fields}) for name in order}
    return Count(work=work, activations=sum(saved.values()))


def _storages(content: Any) -> Iterator[int]:
    yield from (leaf.untyped_storage()._cdata for leaf in tree_leaves(content) if isinstance(leaf, Tensor))


@contextmanager
def _saving(twin: nn.Module, known: set[int]) -> Iterator[dict[int, int]]:
    """Note the bytes of every storage that is kept for the backward pass and would not be there without it."""
    known = known | set(_storages([*twin.parameters(), *twin.buffers()]))
    saved: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in known:
            saved[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield saved


class Tally(FlopCounterMode):
    """Torch's counter, which also tells in which stage an operation belongs and what it computes.

    A stage is known by its modules in the forward pass, and in the backward pass by the number of the autograd node:
    the nodes of a stage are numbered while its modules run. A matrix product of the backward pass is a gradient of
    weights where the product of the forward pass had an operand that depends on parameters alone, and this one has not.
    """

    def __init__(self, network: nn.Module, stages: Sequence[Stage]) -> None:
        super().__init__(display=False)
        self.found: Counter[tuple[str, str]] = Counter()
        self._inside = [ELSEWHERE]
        self._numbers, self._names = [0], [ELSEWHERE]
        self._weights = {tensor.untyped_storage()._cdata for tensor in network.parameters()}
        self._operands: dict[int, list[bool]] = defaultdict(list)
        self._alive: list[Any] = []  # an address that is free again would be taken for the weight that it was
        self._stages = {network.get_submodule(n): stage.depth.name for stage in stages for n in stage.modules}
        self._hooks = ExitStack()

    def __enter__(self) -> Self:
        super().__enter__()  # type: ignore[no-untyped-call]
        # Hooks of all modules: a hook of its own would keep an attention from the fast path that it takes in a run.
        for hook in (register_module_forward_pre_hook(self._enter), register_module_forward_hook(self._leave)):
            self._hooks.callback(hook.remove)
        return self

    def __exit__(self, *error: Any) -> Any:
        self._hooks.close()
        return super().__exit__(*error)  # type: ignore[no-untyped-call]

    def _enter(self, module: nn.Module, *_: Any) -> None:
        if module in self._stages:
            self._inside.append(self._stages[module])
            self._mark()

    def _leave(self, module: nn.Module, *_: Any) -> None:
        if module in self._stages:
            self._inside.pop()
            self._mark()

    def _mark(self) -> None:
        if not _in_backward():
            self._numbers.append(_next_node())
            self._names.append(self._inside[-1])

    def _count_flops(self, func_packet: Any, out: Any, args: Any, kwargs: Any) -> Any:
        counted = func_packet in self.flop_registry
        if _in_backward():
            if counted:
                self._add_backward(func_packet, out, args, kwargs)
        else:
            if counted:
                self.found[self._inside[-1], "forward"] += self._flops(func_packet, out, args, kwargs)
                made = _next_node() - 1  # autograd makes an operation's node before it runs
                if made not in self._operands:
                    self._operands[made] = self._of_weights(args)
            elif all(found := self._of_weights([args, kwargs])) and found:
                self._weights.update(_storages(out))
                self._alive.append(out)
        return super()._count_flops(func_packet, out, args, kwargs)  # type: ignore[no-untyped-call]

    def _flops(self, func_packet: Any, out: Any, args: Any, kwargs: Any) -> int:
        return int(self.flop_registry[func_packet](*args, **kwargs, out_val=out))

    def _of_weights(self, content: Any) -> list[bool]:
        """Return, tensor by tensor, whether it depends on parameters alone."""
        return [place in self._weights for place in _storages(content)]

    def _add_backward(self, func_packet: Any, out: Any, args: Any, kwargs: Any) -> None:
        node = torch._C._current_autograd_node()
        number = node._sequence_nr()
        stage = self._names[bisect_right(self._numbers, number) - 1]
        flops = self._flops(func_packet, out, args, kwargs)
        if torch.is_grad_enabled():  # activations that were not kept are computed again
            self.found[stage, "forward"] += flops
        elif func_packet is torch.ops.aten.convolution_backward:
            *rest, (to_inputs, _, _) = args
            inputs = self._flops(func_packet, out, (*rest, [to_inputs, False, False]), kwargs)
            self.found[stage, "inputs"] += inputs
            self.found[stage, "weights"] += flops - inputs
        else:
            self.found[stage, self._gradient_of(number, args)] += flops

    def _gradient_of(self, number: int, args: Any) -> Pass:
        before = self._operands.get(number, [])
        if not any(before):
            return "inputs"
        both = all(before)  # a low-rank update, multiplied before any input meets it
        return "weights" if both or not any(self._of_weights(args)) else "inputs"


def _next_node() -> int:
    """Return the number that autograd gives to the node that it makes next."""
    return int(torch.autograd._get_sequence_nr())  # type: ignore[attr-defined]


def _in_backward() -> bool:
    return bool(torch._C._current_graph_task_id() != -1)


def _proportional(fewer: Mapping[str, Work], more: Mapping[str, Work], size: int) -> bool:
    return all(a * size == b * FEWEST for name in fewer for a, b in zip(fewer[name], more[name], strict=True))


def _times(count: Count, examples: int, counted: int) -> Count:
    work = {name: Work(*(flops * examples // counted for flops in each)) for name, each in count.work.items()}
    return Count(work=work, activations=count.activations * examples // counted)


def _extrapolated(counts: Sequence[Count], examples: int) -> Count:
    """Return the count for so many examples, given those for `FEWEST` and each number after it."""
    names = counts[0].work
    work = {
        name: Work(*(_at(values, examples) for values in zip(*(count.work[name] for count in counts), strict=True)))
        for name in names
    }
    return Count(work=work, activations=max(0, _at([count.activations for count in counts[:2]], examples)))


def _at(values: Sequence[int], examples: int) -> int:
    """Return Newton's polynomial through the values at `FEWEST`, `FEWEST + 1` and so on, at this number."""
    ahead, differences = examples - FEWEST, list(values)
    total = 0
    for order in range(len(values)):
        total += differences[0] * (comb(ahead, order) if ahead >= 0 else int(order == 0))
        differences = [b - a for a, b in pairwise(differences)]
    return total
