"""Examples before anything is drawn: who they are, what they are called, and where their content is."""

from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from functools import lru_cache
from hashlib import sha256
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from frostline.errors import DataError
from frostline.nearest import did_you_mean

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

    first: ClassVar[str] = "the first label in the order of the classes"
    """Which of different labels of one content is kept in train, in words."""

    content: Any
    rows: Places
    labels: Places
    digests: tuple[str, ...]
    ids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, places: Sequence[int] | Places) -> "Examples":
        """Return the examples at `places`, in that order."""
        return replace(
            self,
            rows=self.rows[places],
            labels=self.labels[places],
            digests=tuple(self.digests[place] for place in places),
            ids=tuple(self.ids[place] for place in places),
        )

    def by_content(self) -> "Examples":
        """Return the examples in the order of their digests, which no file name or disk can change."""
        keys = list(zip(self.digests, self.labels.tolist(), self.ids, strict=True))
        return self.take(np.array(sorted(range(len(self)), key=keys.__getitem__), dtype=np.int64))

    def targets(self, places: Places) -> NDArray[Any]:
        """Return what an objective compares with: class indices, int64 of shape (B,)."""
        return self.labels[places]

    def spelt(self, strata: Sequence[str]) -> list[str]:
        """Return how each example is labelled, in words."""
        return [strata[label] for label in self.labels.tolist()]

    def balance(self, strata: Sequence[str]) -> dict[str, int]:
        """Count the examples of each class, for people to read."""
        return self.per_stratum(strata)

    def per_stratum(self, strata: Sequence[str]) -> dict[str, int]:
        """Count the examples of each stratum."""
        return dict(zip(strata, np.bincount(self.labels, minlength=len(strata)).tolist(), strict=True))

    def hash(self, strata: Sequence[str]) -> str:
        """Return one SHA-256 over contents and labels, in the order of the examples."""
        pairs = zip(self.digests, self.spelt(strata), strict=True)
        return sha256("\n".join(f"{digest} {label}" for digest, label in pairs).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """A dataset as its owner hands it over; read once per process and compared by identity.

    Attributes:
        name: What to call the dataset in messages and records.
        classes: Class names in the order of the labels.
        splits: `train`, and `val` and `test` where the source has them.
        ignored: What lay beside its examples and is none of them, by name: files, or rows.
        strata: What splits are carved and shots are drawn from evenly, in the order of `Examples.labels`; by default
            the classes.
        places: The config key and the file or folder that each split comes from, where it is not the source's name.
        remarks: Sentences on what a person should know of it although it is no mistake.
    """

    name: str
    classes: tuple[str, ...]
    splits: Mapping[str, Examples]
    ignored: tuple[str, ...] = ()
    strata: tuple[str, ...] = ()
    places: Mapping[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @property
    def heading(self) -> str:
        """What sentences on it begin with: its name, unless that is of one of several files."""
        files = {place.partition("=")[2] for place in self.places.values()}
        return "data" if self.name in files and len(files) > 1 else self.name

    def __post_init__(self) -> None:
        if not self.strata:
            object.__setattr__(self, "strata", self.classes)


def consecutive(splits: Mapping[str, Sized]) -> dict[str, Places]:
    """Return the rows of each split in a content that holds all splits one after the other."""
    ends = np.cumsum([len(part) for part in splits.values()])
    return {split: np.arange(end - len(part), end) for (split, part), end in zip(splits.items(), ends, strict=True)}


def chosen(source: Source, classes: Sequence[str] | None) -> Source:
    """Return the source's examples of some classes, numbered in that order; None for all as they are.

    Raises:
        DataError: A class is none of the source's, stands twice, or is the only one.
    """
    return source if classes is None else _chosen(source, tuple(classes))


@lru_cache(maxsize=16)
def _chosen(source: Source, classes: tuple[str, ...]) -> Source:
    _check_chosen(source, classes)
    number = np.full(len(source.classes), -1)
    number[[source.classes.index(name) for name in classes]] = np.arange(len(classes))
    splits = {}
    for split, examples in source.splits.items():
        kept = examples.take(np.flatnonzero(number[examples.labels] >= 0))
        splits[split] = replace(kept, labels=number[kept.labels])
    return Source(name=source.name, classes=classes, splits=splits, ignored=source.ignored, places=source.places)


def _check_chosen(source: Source, classes: Sequence[str]) -> None:
    asked = f"data.classes={list(classes)}"
    for name in classes:
        if name not in source.classes:
            raise DataError(f"{asked}: {source.name} has no class '{name}'; {did_you_mean(name, source.classes)}")
        if classes.count(name) > 1:
            raise DataError(f"{asked}: '{name}' stands there twice; name each class once")
    if len(classes) < 2:
        raise DataError(f"{asked}: there is nothing to tell apart; choose at least two classes, or null for all")
