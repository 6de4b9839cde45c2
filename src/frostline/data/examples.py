"""Labelled examples before anything is drawn: who they are, what they are called, and where their pixels are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from frostline.data.pixels import Images

Places = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Examples:
    """Some labelled images.

    Attributes:
        images: Where the pixels are; shared by all splits of one source.
        rows: Each example's row in `images`, int64 of shape (N,).
        labels: Class indices, int64 of shape (N,).
        digests: Each example's content as a hexadecimal SHA-256.
        ids: What people call each example: a path relative to the data's root, or a position.
    """

    images: Images
    rows: Places
    labels: Places
    digests: tuple[str, ...]
    ids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, places: Sequence[int] | Places) -> "Examples":
        """Return the examples at `places`, in that order."""
        return Examples(
            images=self.images,
            rows=self.rows[places],
            labels=self.labels[places],
            digests=tuple(self.digests[place] for place in places),
            ids=tuple(self.ids[place] for place in places),
        )

    def by_content(self) -> "Examples":
        """Return the examples in the order of their digests, which no file name or disk can change."""
        keys = list(zip(self.digests, self.labels.tolist(), self.ids, strict=True))
        return self.take(np.array(sorted(range(len(self)), key=keys.__getitem__), dtype=np.int64))

    def per_class(self, classes: Sequence[str]) -> dict[str, int]:
        """Count the examples of each class."""
        return dict(zip(classes, np.bincount(self.labels, minlength=len(classes)).tolist(), strict=True))

    def hash(self, classes: Sequence[str]) -> str:
        """Return one SHA-256 over digests and class names, in the order of the examples."""
        pairs = zip(self.digests, self.labels, strict=True)
        return sha256("\n".join(f"{digest} {classes[label]}" for digest, label in pairs).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """A dataset as its owner hands it over; read once per process and compared by identity.

    Attributes:
        name: What to call the dataset in messages and records.
        classes: Class names in the order of the labels.
        splits: `train`, and `val` and `test` where the source has them.
        ignored: Files that are no images.
    """

    name: str
    classes: tuple[str, ...]
    splits: Mapping[str, Examples]
    ignored: int = 0
