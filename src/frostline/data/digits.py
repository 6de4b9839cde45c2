"""The 1,797 handwritten 8x8 digits that scikit-learn brings along: real data that needs no download."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Annotated

import numpy as np
from annotated_types import Ge, Le
from sklearn.datasets import load_digits
from torch import Tensor
from torchvision.transforms import v2

from frostline.data.examples import Examples, Source
from frostline.data.images import ImageData
from frostline.data.pixels import ArrayImages
from frostline.errors import DataError


@dataclass(kw_only=True, eq=False, repr=False)
class Digits(ImageData):
    """Handwritten digits (Alpaydin and Kaynak 1998, UCI), split 70/15/15 by content unless the fractions say otherwise.

    Attributes:
        digits: Which digits to tell apart; None for all ten. Their labels are their places in this list.
    """

    digits: list[Annotated[int, Ge(0), Le(9)]] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._chosen = tuple(range(10)) if self.digits is None else tuple(self.digits)
        _check(self._chosen)

    def source(self) -> Source:
        """Return the chosen digits as one pool, from which val and test are carved."""
        return _read(self._chosen)

    def size_for(self, expected: int) -> int:
        """Return 16 pixels where a network made for small images leaves the choice; more shows nothing more."""
        return 16 if expected <= 32 else expected

    def augmentation(self, size: int) -> Callable[[Tensor], Tensor]:
        """Shift by up to an eighth of the side; a mirrored digit would be another character."""
        shift: Callable[[Tensor], Tensor] = v2.RandomCrop(size, padding=size // 8)
        return shift


@lru_cache(maxsize=1)
def _all() -> Examples:
    bunch = load_digits()
    array = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    return Examples(
        content=ArrayImages(array=array),
        rows=np.arange(len(array)),
        labels=bunch.target.astype(np.int64),
        digests=tuple(sha256(image.tobytes()).hexdigest() for image in array),
        ids=tuple(f"digits/{row:04d}" for row in range(len(array))),
    )


@lru_cache(maxsize=64)
def _read(chosen: tuple[int, ...]) -> Source:
    examples = _all().take(np.flatnonzero(np.isin(_all().labels, chosen)))
    labels = np.array([chosen.index(digit) for digit in examples.labels], dtype=np.int64)
    pool = Examples(
        content=examples.content, rows=examples.rows, labels=labels, digests=examples.digests, ids=examples.ids
    )
    return Source(name="scikit-learn digits", classes=tuple(map(str, chosen)), splits={"train": pool})


def _check(chosen: tuple[int, ...]) -> None:
    asked = f"data.digits={list(chosen)}"
    outside = [digit for digit in chosen if digit not in range(10)]
    if outside:
        raise DataError(f"{asked}: {outside[0]} is no digit; choose from 0 to 9")
    repeated = [digit for digit in chosen if chosen.count(digit) > 1]
    if repeated:
        raise DataError(f"{asked}: {repeated[0]} stands there twice; name each digit once")
    if len(chosen) < 2:
        raise DataError(f"{asked}: there is nothing to tell apart; choose at least two digits, or null for all ten")
