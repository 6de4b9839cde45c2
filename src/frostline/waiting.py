"""Runs of a study that are prepared and wait for their turn: the arms of a seed begin alike, which is held once."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from torch import Tensor

from frostline.batch import Batch
from frostline.nn.adapters import plain_name
from frostline.prepare import Prepared

ROOM = 1_000_000_000
"""Bytes of weights beyond which no more runs wait; they are prepared again when their turn comes."""

_Place = tuple[str, str, tuple[int, ...]]


class Waiting:
    """Prepared runs, by arm, whose equal tensors are one as long as they wait."""

    def __init__(self) -> None:
        self._runs: dict[str, Prepared] = {}
        self._tensors: dict[_Place, Tensor] = {}
        self._batches: dict[str, Batch] = {}

    def hold(self, arm: str, prepared: Prepared) -> None:
        """Let a run wait if there is room; one with a regularizer has copies of its weights that would be in the way.

        Args:
            arm: Its arm.
            prepared: The run as it was prepared, with nothing trained.
        """
        if prepared.cfg.get("regularizer") or self._bytes + _bytes(self._new(prepared)) > ROOM:
            return
        for place, tensor in _known(prepared):
            tensor.data = self._tensors.setdefault(place, tensor.data)
        first = self._batches.setdefault(prepared.pairing, prepared.first)
        self._runs[arm] = replace(prepared, first=first)

    def take(self, arm: str) -> Prepared | None:
        """Return a run that has waited, with tensors of its own again; None where it did not wait."""
        if (prepared := self._runs.pop(arm, None)) is None:
            return None
        needed = {place for other in self._runs.values() for place, _ in _known(other)}
        for place, tensor in _known(prepared):
            if place in needed:
                tensor.data = tensor.data.clone()
        self._tensors = {place: tensor for place, tensor in self._tensors.items() if place in needed}
        pairings = {other.pairing for other in self._runs.values()}
        self._batches = {pairing: batch for pairing, batch in self._batches.items() if pairing in pairings}
        return prepared

    def look(self, arm: str) -> Prepared | None:
        """Return a run that goes on waiting."""
        return self._runs.get(arm)

    def clear(self) -> None:
        """Let all go."""
        self._runs.clear()
        self._tensors.clear()
        self._batches.clear()

    @property
    def _bytes(self) -> int:
        return _bytes(self._tensors.values())

    def _new(self, prepared: Prepared) -> list[Tensor]:
        return [tensor for place, tensor in _known(prepared) if place not in self._tensors]


def _known(prepared: Prepared) -> Iterator[tuple[_Place, Tensor]]:
    """Yield the tensors of a network that were there before a strategy added any, by name, hash and layout."""
    for name, tensor in prepared.network.state_dict(keep_vars=True).items():
        if found := prepared.fingerprints.get(plain_name(name)):
            yield (plain_name(name), found, tensor.stride()), tensor


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
