"""Finds where a network can be cut so that what is below need not run again, and proves it on examples."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from frostline.batch import Batch
from frostline.cache.cut import Cut, NotExact, mask_of, nearly, size_of, without_padding
from frostline.cache.describe import described
from frostline.cache.prefix import Call, Noted, Prefix, Size, Tail, outermost
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
    network: nn.Module, stages: Sequence[Stage], depth: int, modes: Mapping[str, bool], *, batch: Batch, judge: Judge
) -> Cut:
    """Find how the network can do without computing its first stages, and prove it on examples.

    Everything happens on a twin: modes, buffers, gradients and random generators stay as they are.

    Args:
        network: The network.
        stages: Its stages.
        depth: How many of them, from the first on, are frozen.
        modes: Which modules train in the phase, by name.
        batch: `EXAMPLES` examples, as training sees them.
        judge: What must come out the same.

    Raises:
        NotExact: It cannot; the sentence says why.
    """
    if len(batch.places) < EXAMPLES:
        raise NotExact("there are too few examples to prove it on")
    names = tuple(outermost(stages[:depth]))
    _refuse_watched(network, names)
    with randomness_kept():
        twin, above = twin_of(network, parameter=Tensor.detach, buffer=torch.clone), tuple(outermost(stages[depth:]))
        search = _Search(twin, names, modes, batch, judge, above=above)
        try:
            return search.tail(_only(stages[depth:]), depth=depth) or search.cut(depth=depth)
        except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:  # whatever a network says
            raise NotExact(f"the network does not run without its frozen part: {error}") from error


def _only(stages: Sequence[Stage]) -> str | None:
    """Return the one module that all of some stages lie in, None if there are several."""
    names = list(outermost(stages))
    return names[0] if len(names) == 1 else None


def _refuse_watched(network: nn.Module, modules: Sequence[str]) -> None:
    """Refuse to cut out what somebody else listens to."""
    for name in modules:
        if is_watched(network.get_submodule(name)):
            raise NotExact(f"something looks at what '{name}' gives while training")


def is_watched(module: nn.Module) -> bool:
    """Tell whether somebody listens to a module or to a part of it."""
    return any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


class _Search:
    """Finds a cut on a network that may be played with."""

    def __init__(
        self,
        network: nn.Module,
        modules: tuple[str, ...],
        modes: Mapping[str, bool],
        batch: Batch,
        judge: Judge,
        *,
        above: tuple[str, ...],
    ) -> None:
        self._network = network
        self._modules = modules
        self._modes = modes
        self._batch = batch
        self._judge = judge
        self._size = size_of(batch.inputs)
        self._above = above

    def tail(self, name: str | None, *, depth: int) -> Cut | None:
        """Return the cut that leaves one module of the network to be run, None where that is not the same."""
        if name is None or is_watched(self._network):
            return None
        try:
            (call,) = self._calls([(0, part) for part in range(self._arguments_of(name))], tail=name)
            found = Cut(depth=depth, modules=self._modules, calls=(call,), tail=name)
            return self._proved(found)
        except (NotExact, AssertionError, IndexError, RuntimeError, TypeError, ValueError):
            return None  # the usual cut may still be made

    def cut(self, *, depth: int) -> Cut:
        """Return the cut.

        Raises:
            NotExact: There is none.
        """
        looked_at = {place for training in (True, False) for place in self._looked_at(training=training)}
        if not looked_at:
            raise NotExact("nothing above the frozen part depends on it")
        return self._proved(Cut(depth=depth, modules=self._modules, calls=self._calls(looked_at)))

    def _proved(self, found: Cut) -> Cut:
        """Return a cut with what it takes and whether it is blind.

        Raises:
            NotExact: The network does not do the same with it.
        """
        if self._draws_below() or not self._same(found, self._batch.inputs):
            raise NotExact("what the frozen part gives for an example is not always the same")
        if not self._is_of_each_alone(found):
            raise NotExact("what the frozen part gives for an example depends on the others of its batch")
        return replace(found, blind=self._blind(found), flops=self._flops(found), spared=self._spared(found))

    def _flops(self, found: Cut) -> float:
        with FlopCounterMode(display=False) as counter:
            found.taken(self._network, self._batch.inputs)
        return float(counter.get_total_flops()) / self._size.examples

    def _spared(self, found: Cut) -> float:
        kept = found.taken(self._network, self._batch.inputs)
        with torch.no_grad(), FlopCounterMode(display=False) as whole:
            self._network(self._batch.inputs)
        with torch.no_grad(), FlopCounterMode(display=False) as rest, found.giving(self._network, kept, self._size):
            self._network(self._batch.inputs)
        return float(whole.get_total_flops() - rest.get_total_flops()) / self._size.examples

    def _draws_below(self) -> bool:
        """Tell whether the network draws anything at random before it is through with the prefix, while it trains."""
        self._set_modes(training=True)
        watch = _Draws()
        with torch.no_grad(), watch.over(self._network, below=self._modules, above=self._above):
            self._network(self._batch.inputs)
        return watch.found

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
        prefix = Prefix(self._network, self._modules)
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
        prefix = Prefix(self._network, self._modules) if tail is None else Tail(self._network, tail)
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

    def __init__(self) -> None:
        self.found = False
        self._state = torch.get_rng_state()
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
        return not torch.equal(torch.get_rng_state(), self._state)

    def _below(self, *_: object) -> None:
        self.found = self.found or self._between or self._moved()

    def _enter(self, *_: object) -> None:
        self._between = self._between or self._moved()

    def _leave(self, *_: object) -> None:
        self._state = torch.get_rng_state()


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
