"""One split of a dataset, fetched a batch at a time."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from frostline.batch import Batch
from frostline.data.examples import Examples
from frostline.data.order import randomness_kept, seed_global_generators
from frostline.seeds import stream


class Split(Dataset[Batch], ABC):
    """One split as a network takes it.

    Keys are places in the split; `epoch * len(split) + place` is the same example as epoch `epoch` shows it, and `~key`
    the same without its inputs, where nobody looks at them.

    Args:
        examples: What is in it.
        seed: Draws the random change of each example in each epoch; None to change nothing.

    Attributes:
        views: How many ways of showing an example there are, in turn; None for a new one in each epoch.
    """

    def __init__(self, examples: Examples, *, seed: int | None) -> None:
        self.examples = examples
        self.seed = seed
        self.views: int | None = None

    @property
    def different(self) -> int | None:
        """How many ways of showing an example there are; None where each epoch has its own."""
        return 1 if self.seed is None else self.views

    @property
    def mixes(self) -> bool:
        """Whether what is shown of an example depends on the others of its batch."""
        return False

    @property
    def longest(self) -> int:
        """The tokens of the longest example, 0 where there are none."""
        return 0

    @property
    def sizes(self) -> Collection[tuple[int, int]]:
        """Heights and widths of its images where a batch is padded to its largest; none where it is not."""
        return ()

    @abstractmethod
    def show(self, row: int) -> Any:
        """Return one example; what is random about it draws from the global generators."""

    @abstractmethod
    def collate(self, shown: Sequence[Any], places: NDArray[np.int64]) -> Batch:
        """Return a batch.

        Args:
            shown: What `show` returned of each example, B of them.
            places: The examples' places in the split, (B,).
        """

    def without_inputs(self, keys: Sequence[int]) -> Batch:
        """Return a batch of which nobody looks at the inputs, without their being loaded where that can be spared."""
        return self.__getitems__(keys)

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, key: int) -> Batch:
        """Return a batch of one."""
        return self.__getitems__([key])

    def __getitems__(self, keys: Sequence[int]) -> Batch:
        """Return a whole batch."""
        if keys[0] < 0:
            return self.without_inputs([~key for key in keys])
        epochs, places = np.divmod(np.asarray(keys, dtype=np.int64), len(self))
        rows = self.examples.rows[places].tolist()
        shown = [self.show(row) for row in rows] if self.seed is None else self._random(self.seed, rows, epochs, places)
        return self.collate(shown, places)

    def _random(self, seed: int, rows: Iterable[int], epochs: Iterable[int], places: Iterable[int]) -> list[Any]:
        views = []
        with randomness_kept():
            for row, epoch, place in zip(rows, epochs, places, strict=True):
                view = epoch if self.views is None else epoch % self.views
                seed_global_generators(stream(seed, f"augment/{view}/{place}"))
                views.append(self.show(row))
        return views


def as_fetched(batch: Any) -> Any:
    """Collate nothing: what `__getitems__` returned is a batch already."""
    return batch
