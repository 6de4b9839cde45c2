"""Finds where a network can be cut so that what is below need not run again, and proves it on examples."""

import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from frostline.batch import Batch
from frostline.cache.content import tensors_below
from frostline.cache.cut import Cut, NotExact, mask_of, nearly, size_of, without_padding
from frostline.cache.describe import described
from frostline.cache.prefix import Call, Noted, Prefix, Size, Tail, is_inside, outermost
from frostline.data.order import randomness_kept, seed_global_generators
from frostline.nn.calls import twin_of
from frostline.nn.stages import Stage
from frostline.objectives.objective import Objective

EXAMPLES = 3
"""How many examples a cut is proved on; one fewer is still a batch that batch normalisation can train on."""

_TOLERANCE = {"rtol": 1e-5, "atol": 1e-6}

Judge = Callable[[nn.Module, Batch], Sequence[Tensor]]
"""What must be the same with and without the cache: loss and outputs of a network for a batch."""


def judge_of(objective: Objective) -> Judge:
    """Return what tells whether a network does the same under an objective: its loss, and all that it gives."""

    def judge(network: nn.Module, batch: Batch) -> list[Tensor]:
        outputs = network(batch.inputs)
        return [objective.loss(outputs, batch), *(part for part in tree_leaves(outputs) if isinstance(part, Tensor))]

    return judge


def find_cut(
    network: nn.Module,
    stages: Sequence[Stage],
    depth: int,
    modes: Mapping[str, bool],
    *,
    parts: Sequence[str] = (),
    batch: Batch,
    judge: Judge,
) -> Cut:
    """Find how the network can do without computing what comes first in it, and prove it on examples.

    Everything happens on a twin: modes, buffers, gradients and random generators stay as they are.

    Args:
        network: The network.
        stages: Its stages.
        depth: How many of them, from the first on, are frozen.
        modes: Which modules train in the phase, by name.
        parts: Names of modules of the stage after these that are to be below, too.
        batch: `EXAMPLES` examples, as training sees them.
        judge: What must come out the same.

    Raises:
        NotExact: It cannot; the sentence says why.
    """
    if len(batch.places) < EXAMPLES:
        raise NotExact("there are too few examples to prove it on")
    below = (*outermost(stages[:depth]), *parts)
    _refuse_watched(network, below)
    _refuse_watched_around(network, stages[depth:], parts)
    with randomness_kept():
        twin = twin_of(network, parameter=Tensor.detach, buffer=torch.clone)
        place, above = Cut(depth=depth, modules=below, calls=()), _without(parts, stages[depth:])
        search = _Search(twin, stages, place, modes, batch, judge, above=above)
        try:
            return search.tail(above[0] if len(above) == 1 else None) or search.cut()
        except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:  # whatever a network says
            raise NotExact(f"the network does not run without its frozen part: {error}") from error


def _without(parts: Sequence[str], stages: Sequence[Stage]) -> tuple[str, ...]:
    """Return the outermost modules of some stages that are, lie in and hold none of these parts."""
    barred, names = {*parts, *_around(parts, stages)}, [name for stage in stages for name in stage.modules]
    free = {name: None for name in names if name not in barred and not is_inside(name, parts)}
    return tuple(name for name in free if not is_inside(name, free))


def _around(parts: Sequence[str], stages: Sequence[Stage]) -> list[str]:
    """Return the modules of some stages that hold one of these parts."""
    return [name for stage in stages for name in stage.modules if any(is_inside(part, {name}) for part in parts)]


def _refuse_watched(network: nn.Module, modules: Sequence[str]) -> None:
    """Refuse to cut out what somebody else listens to."""
    for name in modules:
        if is_watched(network.get_submodule(name)):
            raise NotExact(f"something looks at what '{name}' gives while training")


def _refuse_watched_around(network: nn.Module, stages: Sequence[Stage], parts: Sequence[str]) -> None:
    """Refuse to cut within what somebody listens to: with what was kept it is called on no real input."""
    for name in _around(parts, stages):
        if _has_listeners(network.get_submodule(name)):
            raise NotExact(f"something looks at what '{name}' is given while training")


def is_watched(module: nn.Module) -> bool:
    """Tell whether somebody listens to a module or to a part of it."""
    return any(map(_has_listeners, module.modules()))


def _has_listeners(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


class _Search:
    """Finds a cut on a network that may be played with."""

    def __init__(
        self,
        network: nn.Module,
        stages: Sequence[Stage],
        place: Cut,
        modes: Mapping[str, bool],
        batch: Batch,
        judge: Judge,
        *,
        above: tuple[str, ...],
    ) -> None:
        self._network = network
        self._stages = stages
        self._place = place
        self._modes = modes
        self._batch = batch
        self._judge = judge
        self._size = size_of(batch.inputs)
        self._above = above

    def tail(self, name: str | None) -> Cut | None:
        """Return the cut that leaves one module of the network to be run, None where that is not the same."""
        if name is None or is_watched(self._network):
            return None
        try:
            (call,) = self._calls([(0, part) for part in range(self._arguments_of(name))], tail=name)
            return self._proved(replace(self._place, calls=(call,), tail=name))
        except (NotExact, AssertionError, IndexError, RuntimeError, TypeError, ValueError):
            return None  # the usual cut may still be made

    def cut(self) -> Cut:
        """Return the cut.

        Raises:
            NotExact: There is none.
        """
        looked_at = {place for training in (True, False) for place in self._looked_at(training=training)}
        if not looked_at:
            raise NotExact("nothing above the frozen part depends on it")
        return self._proved(replace(self._place, calls=self._calls(looked_at)))

    def _proved(self, found: Cut) -> Cut:
        """Return a cut with what it takes and whether it is blind.

        Raises:
            NotExact: The network does not do the same with it.
        """
        if self._moves_below() or not self._same(found, self._batch.inputs):
            raise NotExact("what the frozen part gives for an example is not always the same")
        with torch.autocast(self._batch.places.device.type, enabled=False):  # rounding to 16 bits would hide a little
            if not self._is_of_each_alone(found):
                raise NotExact("what the frozen part gives for an example depends on the others of its batch")
            if not self._is_of_its_own_tensors(found):
                raise NotExact("what the frozen part gives depends on weights outside of it")
        return replace(self._billed(found), blind=self._blind(found))

    def _billed(self, found: Cut) -> Cut:
        """Return a cut with what it takes and spares."""
        inputs = self._batch.inputs
        self._set_modes(training=False)
        with FlopCounterMode(display=False) as once:
            kept = found.taken(self._network, inputs)
        self._set_modes(training=True)
        spared = self._forward_flops(nullcontext()) - self._forward_flops(found.giving(self._network, kept, self._size))
        return replace(found, flops=once.get_total_flops() / self._size.examples, spared=spared / self._size.examples)

    def _forward_flops(self, given: AbstractContextManager[None]) -> int:
        """Return what a forward pass takes with what is given."""
        seed_global_generators(1)
        with torch.no_grad(), FlopCounterMode(display=False) as counter, given:
            self._network(self._batch.inputs)
        return int(counter.get_total_flops())

    def _moves_below(self) -> bool:
        """Tell whether the network, while it trains, draws anything at random before it is through with the prefix.

        Or whether a buffer of the prefix, such as a statistic, changes.
        """
        self._set_modes(training=True)
        below = tensors_below(self._place, self._network, self._stages).values()
        before = [(buffer, buffer.clone()) for buffer in below if not isinstance(buffer, nn.Parameter)]
        watch = _Draws(next(self._network.parameters()).device)
        with torch.no_grad(), watch.over(self._network, below=self._place.modules, above=self._above):
            self._network(self._batch.inputs)
        return watch.found or not all(torch.equal(*pair) for pair in before)

    def _is_of_its_own_tensors(self, found: Cut) -> bool:
        """Tell whether what is kept depends on no weights but those that its name is made of: all others change."""
        own = {id(tensor) for tensor in tensors_below(found, self._network, self._stages).values()}
        self._set_modes(training=False)
        kept = found.taken(self._network, self._batch.inputs)
        with _changed(self._network, but=own):
            again = found.taken(self._network, self._batch.inputs)
        return all(nearly(*pair) for pair in zip(kept, again, strict=True))

    def _is_of_each_alone(self, found: Cut) -> bool:
        """Tell whether what is kept of an example is the same without the others, and without any padding."""
        self._set_modes(training=False)
        together = found.taken(self._network, self._batch.inputs)
        for place, inputs in enumerate(_each_alone(self._batch)):
            for whole, (row,) in zip(together, found.taken(self._network, inputs), strict=True):
                if not nearly(whole[place][tuple(slice(side) for side in row.shape)], row):
                    return False
        return True

    def _looked_at(self, *, training: bool) -> Iterator[tuple[int, int]]:
        """Yield the outputs that a gradient reaches from outside the prefix, by call and place in its output."""
        self._set_modes(training=training)
        prefix = Prefix(self._network, self._place.modules)
        with torch.enable_grad(), prefix.noting() as noted:
            outputs = [part for part in self._judge(self._network, self._batch) if part.requires_grad]
        asked = {
            (place, part): tensor
            for place, call in enumerate(noted)
            for part, tensor in enumerate(call.content)
            if call.plain and isinstance(tensor, Tensor) and tensor.requires_grad
        }
        prefix.remove()
        if not outputs or not asked:
            return
        total = torch.stack([part.float().sum() for part in outputs]).sum()
        gradients = torch.autograd.grad(total, list(asked.values()), allow_unused=True)
        yield from (place for place, gradient in zip(asked, gradients, strict=True) if gradient is not None)

    def _arguments_of(self, tail: str) -> int:
        """Return how many parts the arguments of a module have, which must be called once."""
        (call,) = self._noted(self._batch.inputs, tail=tail)
        return len(call.content)

    def _noted(self, inputs: Any, *, tail: str | None) -> list[Noted]:
        """Return what is noted of a pass in which nothing trains."""
        self._set_modes(training=False)
        prefix = Prefix(self._network, self._place.modules) if tail is None else Tail(self._network, tail)
        with torch.no_grad(), prefix.noting() as noted:
            self._network(inputs)
        prefix.remove()
        return noted

    def _calls(self, looked_at: Collection[tuple[int, int]], *, tail: str | None = None) -> tuple[Call, ...]:
        """Describe the calls of the prefix from two batches, of which one is an example and a token smaller."""
        larger, smaller = self._batch.inputs, _smaller(self._batch)
        sizes = (self._size, size_of(smaller))
        both = [self._noted(inputs, tail=tail) for inputs in (larger, smaller)]
        return tuple(
            self._call(pair, sizes, [part for place, part in looked_at if place == index])
            for index, pair in enumerate(zip(*both, strict=True))
        )

    def _call(self, pair: Sequence[Noted], sizes: Sequence[Size], looked_at: Collection[int]) -> Call:
        """Describe a call; what owns no parameters and gives no rows, such as anchors, runs as it is."""
        module = pair[0].module
        if not pair[0].plain:
            return Call(module=module)
        try:
            return described(pair, sizes, looked_at)
        except NotExact:
            if any(True for _ in self._network.get_submodule(module).parameters()):
                raise
            return Call(module=module)

    def _same(
        self,
        cut: Cut,
        inputs: Any,
    ) -> bool:
        """Tell whether the network does the same with what is kept, whatever its inputs are then.

        Args:
            cut: Where it is cut.
            inputs: What it is shown then.
        """
        mask = mask_of(self._batch.inputs)
        self._set_modes(training=False)
        kept = [without_padding(tensor, mask) for tensor in cut.taken(self._network, self._batch.inputs)]
        for training in (True, False):
            self._set_modes(training=training)
            seed_global_generators(1)  # in evaluation, what a network draws it draws from the seed 0
            real = self._judge(self._network, self._batch)
            seed_global_generators(1)
            with cut.giving(self._network, [tensor.clone() for tensor in kept], self._size):
                ours = self._judge(self._network, self._batch._replace(inputs=inputs))
            if not all(_close(a, b, mask) for a, b in zip(real, ours, strict=True)):
                return False
        return True

    def _blind(self, cut: Cut) -> bool:
        inputs = self._batch.inputs
        unseen = isinstance(inputs, Tensor) and not is_watched(self._network)
        return unseen and self._same(cut, torch.full_like(inputs, torch.nan))

    def _set_modes(self, *, training: bool) -> None:
        for name, module in self._network.named_modules():
            module.training = training and self._modes.get(name, True)


class _Draws:
    """Notices what a network draws at random before it is through with some modules, unless others of it draw it.

    Attributes:
        found: Whether it drew something.
    """

    def __init__(self, device: torch.device) -> None:
        self.found = False
        self._device = device
        self._state = _generators(device)
        self._between = False

    @contextmanager
    def over(self, network: nn.Module, *, below: Sequence[str], above: Sequence[str]) -> Iterator[None]:
        """Watch the forward passes in this context: what is drawn in the modules `above` is their own."""
        handles: list[Any] = []
        for name in below:
            module = network.get_submodule(name)
            handles += [module.register_forward_pre_hook(self._below), module.register_forward_hook(self._below)]
        for name in above:
            module = network.get_submodule(name)
            handles += [module.register_forward_pre_hook(self._enter), module.register_forward_hook(self._leave)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _moved(self) -> bool:
        return _generators(self._device) != self._state

    def _below(self, *_: object) -> None:
        self.found = self.found or self._between or self._moved()

    def _enter(self, *_: object) -> None:
        self._between = self._between or self._moved()

    def _leave(self, *_: object) -> None:
        self._state = _generators(self._device)


def _generators(device: torch.device) -> tuple[object, ...]:
    """Return where the global generators of Python, NumPy and torch are, that of a device among them."""
    states = [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]
    _, keys, place, *_ = cast("tuple[Any, ...]", np.random.get_state())
    return random.getstate(), bytes(keys), place, *(bytes(state.numpy()) for state in states)


@contextmanager
def _changed(network: nn.Module, *, but: Collection[int]) -> Iterator[None]:
    """Let a network have other weights and statistics, but for some tensors, in this context."""
    tensors = [t for t in (*network.parameters(), *network.buffers()) if id(t) not in but and t.is_floating_point()]
    before = [tensor.data for tensor in tensors]
    try:
        for tensor in tensors:
            tensor.data = tensor.data + torch.randn_like(tensor)
        yield
    finally:
        for tensor, values in zip(tensors, before, strict=True):
            tensor.data = values


def _close(real: Tensor, ours: Tensor, mask: Tensor | None) -> bool:
    if real.shape != ours.shape:
        return False
    real, ours = (without_padding(tensor, mask) for tensor in (real, ours))
    return torch.allclose(real.detach().double(), ours.detach().double(), equal_nan=True, **_TOLERANCE)


def _smaller(batch: Batch) -> Any:
    """Return the inputs of one example fewer, each a token shorter."""
    inputs = batch.part(slice(EXAMPLES - 1)).inputs
    if not (tokens := size_of(batch.inputs).tokens):
        return inputs
    return {name: part[:, :-1] if part.shape[1:2] == (tokens,) else part for name, part in inputs.items()}


def _each_alone(batch: Batch) -> Iterator[Any]:
    """Yield the inputs of each example by itself; of a text, without what it was padded with."""
    tokens = size_of(batch.inputs).tokens
    for each in batch.examples():
        if tokens:
            length = int(each.inputs["attention_mask"].sum())
            yield {name: p[:, :length] if p.shape[1:2] == (tokens,) else p for name, p in each.inputs.items()}
        else:
            yield each.inputs
