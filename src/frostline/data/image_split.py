"""One split of a dataset, fetched a batch at a time."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from frostline.batch import Batch
from frostline.data.examples import Examples
from frostline.data.order import randomness_kept, seed_global_generators
from frostline.data.pixels import Images
from frostline.nn.backbone import ImageInput
from frostline.seeds import stream


class ImageSplit(Dataset[Batch]):
    """One split as a network takes it.

    Keys are places in the split; `epoch * len(split) + place` is the same example as epoch `epoch` shows it.
    """

    def __init__(self, examples: Examples, *, pixels: Images, spec: ImageInput, seed: int | None) -> None:
        self.examples = examples
        self.pixels = pixels
        self.seed = seed
        self.mean = torch.tensor(spec.mean).view(-1, 1, 1)
        self.std = torch.tensor(spec.std).view(-1, 1, 1)

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, key: int) -> Batch:
        batch = self.__getitems__([key])
        return Batch(batch.inputs[0], batch.targets[0], batch.places[0])

    def __getitems__(self, keys: Sequence[int]) -> Batch:
        """Return a whole batch: normalised float images of shape (B, 3, H, W), labels and places of shape (B,)."""
        epochs, places = np.divmod(np.asarray(keys, dtype=np.int64), len(self))
        rows = self.examples.rows[places].tolist()
        pixels = torch.stack(self._fixed(rows) if self.seed is None else self._random(self.seed, rows, epochs, places))
        inputs = pixels.to(torch.float32).div_(255).sub_(self.mean).div_(self.std)
        return Batch(inputs, torch.from_numpy(self.examples.labels[places]), torch.from_numpy(places))

    def _fixed(self, rows: Iterable[int]) -> list[Tensor]:
        return [self.pixels[row] for row in rows]

    def _random(self, seed: int, rows: Iterable[int], epochs: Iterable[int], places: Iterable[int]) -> list[Tensor]:
        views = []
        with randomness_kept():
            for row, epoch, place in zip(rows, epochs, places, strict=True):
                seed_global_generators(stream(seed, f"augment/{epoch}/{place}"))
                views.append(self.pixels[row])
        return views


def as_fetched(batch: Any) -> Any:
    """Collate nothing: what `__getitems__` returned is a batch already."""
    return batch
