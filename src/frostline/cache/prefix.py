"""The modules of a frozen prefix, taken out of a network's forward pass: their outputs are noted, or given again.

A network is not cut in two, which would take knowing its forward pass. Its own `forward` runs as ever, and only the
modules of the prefix do not compute: those whose output the rest looks at return what was kept, the others something of
the right shape that costs nothing.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from frostline.nn.stages import Stage

_PLAIN = (Tensor, int, float, bool, str, type(None))
"""What an output may be made of that is given again; a module that gives anything else runs as it is."""

Forward = Callable[..., Any]


class Size(NamedTuple):
    """How large a batch is: its examples, and the tokens of its longest, 0 where there are none."""

    examples: int
    tokens: int


@dataclass(frozen=True, kw_only=True)
class Side:
    """One side of a tensor: `fixed + examples * B + tokens * L`."""

    fixed: int = 0
    examples: int = 0
    tokens: int = 0

    def of(self, size: Size) -> int:
        """Return how long it is for a batch."""
        return self.fixed + self.examples * size.examples + self.tokens * size.tokens


@dataclass(frozen=True, kw_only=True)
class Leaf:
    """One tensor of an output; maps may lie in memory with their channels last."""

    sides: tuple[Side, ...]
    dtype: torch.dtype
    channels_last: bool = False

    def empty(self, size: Size, device: torch.device) -> Tensor:
        """Return a tensor of this shape that takes no memory."""
        return torch.zeros((), dtype=self.dtype, device=device).expand([side.of(size) for side in self.sides])


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of a module of the prefix in a forward pass.

    Attributes:
        module: Its name.
        content: What the output is made of, with a `Leaf` for each tensor; None where the module runs as it is.
        structure: How that is put together.
    """

    module: str
    content: tuple[Any, ...] | None = None
    structure: TreeSpec | None = None


@dataclass(kw_only=True)
class Noted:
    """What a call gave: its tensors, by their place among the output's parts."""

    module: str
    content: list[Any]
    structure: TreeSpec
    plain: bool


class _Enough(Exception):  # noqa: N818 (no error: the rest of the pass is not needed)
    """All that is kept has been noted."""


def _taking_the_place(module: nn.Module, instead: Callable[..., Any]) -> Callable[[], None]:
    """Let a module call something else, first with what it did until now; return what undoes that.

    A module may have a forward of its own, that of no class, from whoever built the network.
    """
    own = vars(module).get("forward")
    module.forward = partial(instead, module.forward)
    return partial(delattr, module, "forward") if own is None else partial(setattr, module, "forward", own)


class Prefix:
    """Takes the place of some modules of a network while a context below says so, and of none otherwise.

    Args:
        network: The network.
        names: The outermost modules of the prefix.
    """

    def __init__(self, network: nn.Module, names: Sequence[str]) -> None:
        self._modules = {name: network.get_submodule(name) for name in names}
        self._instead: Callable[[str, Forward], Any] | None = None
        self._put_back = [_taking_the_place(m, partial(self._called, name)) for name, m in self._modules.items()]

    def remove(self) -> None:
        """Leave the network as it was."""
        for put_back in self._put_back:
            put_back()

    def _called(self, name: str, forward: Forward, *arguments: Any, **named: Any) -> Any:
        call = partial(forward, *arguments, **named)
        return call() if self._instead is None else self._instead(name, call)

    @contextmanager
    def _doing(self, instead: Callable[[str, Forward], Any]) -> Iterator[None]:
        before, self._instead = self._instead, instead
        try:
            yield
        finally:
            self._instead = before

    @contextmanager
    def noting(self, only: Collection[int] | None = None) -> Iterator[list[Noted]]:
        """Note what the modules give, as tensors that a gradient can be asked for.

        Args:
            only: The places of the calls whose tensors are noted, behind the last of which it breaks off; None for all.
        """
        noted: list[Noted] = []
        last = None if only is None else max(only)
        with self._doing(partial(_note, noted, only, last)), suppress(_Enough):
            yield noted

    @contextmanager
    def giving(self, calls: Sequence[Call], kept: Sequence[Tensor], size: Size) -> Iterator[None]:
        """Give, in place of what the modules would, the tensors that were kept, in the order of the calls.

        Args:
            calls: What the forward pass calls of the prefix.
            kept: What was kept, in the order of `Cut.kept`; each is given once.
            size: How large the batch is.
        """
        with self._doing(_Giving(calls, kept, size)):
            yield


class Tail:
    """Takes the place of a whole network but for its last module, which runs alone on the arguments that were kept.

    Args:
        network: The network, whose output is what the last module gives.
        name: The last module.
    """

    def __init__(self, network: nn.Module, name: str) -> None:
        self._network, self._name = network, name
        self._last = network.get_submodule(name)
        self._noted: list[Noted] | None = None
        self._given: tuple[Any, ...] | None = None
        self._enough = False
        self._put_back = [_taking_the_place(network, self._run), _taking_the_place(self._last, self._called)]

    def remove(self) -> None:
        """Leave the network as it was."""
        for put_back in self._put_back:
            put_back()

    def _run(self, forward: Forward, *arguments: Any, **named: Any) -> Any:
        return forward(*arguments, **named) if self._given is None else self._last(*self._given)

    def _called(self, forward: Forward, *arguments: Any, **named: Any) -> Any:
        if self._noted is not None:
            content, structure = tree_flatten(arguments)
            plain = not named and all(isinstance(part, _PLAIN) for part in content)
            self._noted.append(Noted(module=self._name, content=content, structure=structure, plain=plain))
            if self._enough:
                raise _Enough
        return forward(*arguments, **named)

    @contextmanager
    def noting(self, only: Collection[int] | None = None) -> Iterator[list[Noted]]:
        """Note with which arguments the last module is called; break off there if only this call is asked for."""
        assert only is None or set(only) == {0}
        self._noted, self._enough = [], only is not None
        try:
            with suppress(_Enough):
                yield self._noted
        finally:
            self._noted = None

    @contextmanager
    def giving(self, calls: Sequence[Call], kept: Sequence[Tensor], size: Size) -> Iterator[None]:
        """Run nothing but the last module, on what was kept."""
        (call,) = calls
        assert call.content is not None
        assert call.structure is not None
        given = iter(kept)
        self._given = tree_unflatten(
            [next(given) if isinstance(part, Kept) else part for part in call.content], call.structure
        )
        try:
            yield
        finally:
            self._given = None


class _Giving:
    """Stands for the modules of the prefix during one forward pass."""

    def __init__(self, calls: Sequence[Call], kept: Sequence[Tensor], size: Size) -> None:
        self._calls = iter(calls)
        self._kept = iter(kept)
        self._size = size
        self._device = kept[0].device

    def __call__(self, name: str, forward: Forward) -> Any:
        call = next(self._calls, None)
        assert call is not None, f"{name} is called more often than when the forward pass was watched"
        assert call.module == name, f"{name} is called where {call.module} was when the forward pass was watched"
        if call.content is None or call.structure is None:
            return forward()
        return tree_unflatten([self._part(part) for part in call.content], call.structure)

    def _part(self, part: Any) -> Any:
        if isinstance(part, Kept):
            return next(self._kept)
        return part.empty(self._size, self._device) if isinstance(part, Leaf) else part


@dataclass(frozen=True, kw_only=True)
class Kept(Leaf):
    """A tensor that the rest of the network looks at: one row for each example."""


def _note(noted: list[Noted], only: Collection[int] | None, last: int | None, name: str, forward: Forward) -> Any:
    """Note what a call gives, or that it took place where only others are asked for."""
    output, place = forward(), len(noted)
    content, structure = tree_flatten(output)
    plain = all(isinstance(part, _PLAIN) for part in content)
    if only is not None and place not in only:
        content = []
    elif plain:
        content = [_asked(part) if isinstance(part, Tensor) else part for part in content]
        if place != last:  # copies go on: what comes next may write into them
            output = tree_unflatten([part.clone() if isinstance(part, Tensor) else part for part in content], structure)
    noted.append(Noted(module=name, content=content, structure=structure, plain=plain))
    if place == last:
        raise _Enough
    return output


def _asked(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    return tensor.requires_grad_() if tensor.is_floating_point() and torch.is_grad_enabled() else tensor


def outermost(stages: Sequence[Stage]) -> dict[str, nn.Module]:
    """Return the modules of some stages that lie in no other module of theirs, by name."""
    modules = {name: module for stage in stages for name, module in stage.modules.items()}
    return {name: module for name, module in modules.items() if not is_inside(name, modules)}


def is_inside(name: str, names: Collection[str]) -> bool:
    """Tell whether a module lies in one of others, and is none of them."""
    parts = name.split(".")
    return any(".".join(parts[:count]) in names for count in range(1, len(parts)))
