"""Examples before anything is drawn: who they are, what they are called, and where their content is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

Places = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Examples:
    """Some examples.

    Attributes:
        content: Where images, texts and annotations are, by row; shared by all splits of one source.
        rows: Each example's row in `content`, int64 of shape (N,).
        labels: Which of the source's strata each belongs to, int64 of shape (N,): its class, where it has one.
        digests: Each example's content as a hexadecimal SHA-256.
        ids: What people call each example: a path relative to the data's root, or a position.
    """

    content: Any
    rows: Places
    labels: Places
    digests: tuple[str, ...]
    ids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, places: Sequence[int] | Places) -> "Examples":
        """Return the examples at `places`, in that order."""
        return Examples(
            content=self.content,
            rows=self.rows[places],
            labels=self.labels[places],
            digests=tuple(self.digests[place] for place in places),
            ids=tuple(self.ids[place] for place in places),
        )

    def by_content(self) -> "Examples":
        """Return the examples in the order of their digests, which no file name or disk can change."""
        keys = list(zip(self.digests, self.labels.tolist(), self.ids, strict=True))
        return self.take(np.array(sorted(range(len(self)), key=keys.__getitem__), dtype=np.int64))

    def per_stratum(self, strata: Sequence[str]) -> dict[str, int]:
        """Count the examples of each stratum."""
        return dict(zip(strata, np.bincount(self.labels, minlength=len(strata)).tolist(), strict=True))

    def hash(self, strata: Sequence[str]) -> str:
        """Return one SHA-256 over digests and names of strata, in the order of the examples."""
        pairs = zip(self.digests, self.labels, strict=True)
        return sha256("\n".join(f"{digest} {strata[label]}" for digest, label in pairs).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """A dataset as its owner hands it over; read once per process and compared by identity.

    Attributes:
        name: What to call the dataset in messages and records.
        classes: Class names in the order of the labels.
        splits: `train`, and `val` and `test` where the source has them.
        ignored: Files that are none of its examples.
        strata: What splits are carved and shots are drawn from evenly, in the order of `Examples.labels`; by default
            the classes.
    """

    name: str
    classes: tuple[str, ...]
    splits: Mapping[str, Examples]
    ignored: int = 0
    strata: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.strata:
            object.__setattr__(self, "strata", self.classes)
