"""Who trains, who validates, who tests: decided by content and seed alone, never by file names or the order on disk."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple

import numpy as np

from frostline.data.examples import Examples, Places, Source
from frostline.errors import DataError, counted


class Duplicate(NamedTuple):
    """An example that is left out as its content stands elsewhere, too.

    Attributes:
        name: What people call it.
        kept: What people call the one that is kept.
        by: The split that keeps it.
    """

    name: str
    kept: str
    by: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Division:
    """Three splits that share no content.

    Attributes:
        train: What is left for training, each content once.
        val: For every choice that is made.
        test: For the one look at the end.
        duplicates: The examples that each split lost because their content stood elsewhere.
        contradictions: Names of examples of one content and different labels, two for each such content.
    """

    train: Examples
    val: Examples
    test: Examples
    duplicates: Mapping[str, Sequence[Duplicate]]
    contradictions: Sequence[tuple[str, str]]


@lru_cache(maxsize=16)
def divide(source: Source, *, seed: int, val_fraction: float, test_fraction: float) -> Division:
    """Return the splits that the source has, and carve those that it lacks from its training examples.

    Raises:
        DataError: A split or the training examples of a class come out empty.
    """
    splits, duplicates = without_duplicates(source.splits)
    lacking = {"test": test_fraction, "val": val_fraction}
    fractions = {split: fraction for split, fraction in lacking.items() if split not in splits}
    check_fractions(fractions)
    pool = splits["train"]
    parts = carve(pool.labels, pool.digests, fractions=fractions, seed=seed)
    splits |= {split: pool.take(places) for split, places in parts.items()}
    _check_content(source, splits, fractions)
    return Division(**splits, duplicates=duplicates, contradictions=contradictions(source))


def without_duplicates(splits: Mapping[str, Examples]) -> tuple[dict[str, Examples], dict[str, list[Duplicate]]]:
    """Drop content that stands in two splits from the one that can spare it: test keeps it, then val, then train.

    The training examples also keep only one of each content; given val and test sets are otherwise left as they are.

    Returns:
        The splits, each in the order of its content, and the examples that each of them lost.
    """
    seen: dict[str, tuple[str, str]] = {}
    kept: dict[str, Examples] = {}
    lost: dict[str, list[Duplicate]] = {}
    for split in [name for name in ("test", "val", "train") if name in splits]:
        examples = splits[split].by_content()
        places: list[int] = []
        lost[split] = []
        own: dict[str, tuple[str, str]] = {}
        for place, (digest, name) in enumerate(zip(examples.digests, examples.ids, strict=True)):
            known = seen.get(digest) or (own.get(digest) if split == "train" else None)
            if known:
                lost[split].append(Duplicate(name, *known))
            else:
                places.append(place)
                own.setdefault(digest, (name, split))
        kept[split] = examples.take(np.array(places, dtype=np.int64))
        seen |= own
    return kept, lost


def contradictions(source: Source) -> list[tuple[str, str]]:
    """Name, for each content that stands under different labels, the first example and the first that differs."""
    first: dict[str, tuple[str, str]] = {}
    found: dict[str, tuple[str, str]] = {}
    for examples in source.splits.values():
        for digest, label, name in zip(examples.digests, examples.spelt(source.strata), examples.ids, strict=True):
            known, other = first.setdefault(digest, (label, name))
            if known != label:
                found.setdefault(digest, (other, name))
    return list(found.values())


def carve(labels: Places, digests: Sequence[str], *, fractions: Mapping[str, float], seed: int) -> dict[str, Places]:
    """Cut the same fractions out of every class, by a hash of seed and content; the rest is `train`.

    Args:
        labels: Class indices, int64 of shape (N,).
        digests: N different contents.
        fractions: The share of each named part, in the order in which they are cut.
        seed: Another seed gives another cut.

    Returns:
        Ascending places of each part and of `train`.
    """
    assert len(set(digests)) == len(digests), "the same content twice could land in two parts"
    parts: dict[str, list[int]] = {part: [] for part in (*fractions, "train")}
    for members in by_class(labels, digests, f"{seed}"):
        begin = 0
        for part, fraction in fractions.items():
            end = begin + int(fraction * len(members) + 0.5)
            parts[part] += members[begin:end]
            begin = end
        parts["train"] += members[begin:]
    return {part: np.array(sorted(places), dtype=np.int64) for part, places in parts.items()}


def by_class(labels: Places, digests: Sequence[str], salt: str) -> list[list[int]]:
    """List the places of each class, in the order of a hash of salt and content."""
    key = {place: blake2b(f"{salt}/{digest}".encode()).digest() for place, digest in enumerate(digests)}
    members: list[list[int]] = [[] for _ in range(int(labels.max(initial=-1)) + 1)]
    for place in sorted(key, key=key.__getitem__):
        members[labels[place]].append(place)
    return members


def draw_shots(examples: Examples, *, strata: Sequence[str], shots: int, seed: int, key: str) -> Examples:
    """Draw exactly `shots` examples of each stratum; the draw depends on seed and content only.

    Args:
        examples: What to draw from, each content once.
        strata: Names of the labels.
        shots: Examples of each.
        seed: Another seed gives another draw.
        key: The config key that asked, `data.shots` or `data.val_shots`; each is a stream of its own.

    Raises:
        DataError: A stratum has too few examples.
    """
    _check_shots(examples.per_stratum(strata), shots, key)
    drawn = [
        place for members in by_class(examples.labels, examples.digests, f"{key}/{seed}") for place in members[:shots]
    ]
    return examples.take(np.array(sorted(drawn), dtype=np.int64))


def _check_shots(counts: Mapping[str, int], shots: int, key: str) -> None:
    name = min(counts, key=lambda name: counts[name])
    if counts[name] < shots:
        kind = "validation" if key == "data.val_shots" else "training"
        few = f"{key}={shots}: class '{name}' has {counted(counts[name], f'{kind} example')}"
        raise DataError(f"{few}; choose at most {counts[name]}, or add examples of '{name}'")


def check_fractions(fractions: Mapping[str, float]) -> None:
    """Refuse to carve everything.

    Raises:
        DataError: Nothing is left to train on.
    """
    if sum(fractions.values()) >= 1:
        given = " and ".join(f"data.{split}_fraction={fraction}" for split, fraction in fractions.items())
        raise DataError(f"{given} leave nothing to train on; choose fractions whose sum is below 1")


def _check_content(source: Source, splits: Mapping[str, Examples], fractions: Mapping[str, float]) -> None:
    for split in ("test", "val"):
        if not len(splits[split]):
            raise DataError(_why_empty(split, source, splits, fractions))
    for name, count in splits["train"].per_stratum(source.strata).items():
        if not count:
            where = f"{source.name}: class '{name}' has no training example left"
            shares = [f"data.{split}_fraction={share} has taken its share" for split, share in fractions.items()]
            lost = " and ".join(["those that stand in val or test too are dropped", *shares])
            raise DataError(f"{where} once {lost}; add examples of '{name}'")


def _why_empty(split: str, source: Source, splits: Mapping[str, Examples], fractions: Mapping[str, float]) -> str:
    if split not in fractions:
        some, problem = "some", f"there is no example of {split}"
        if len(source.splits[split]):
            some, problem = "others", f"every example of {split} stands in test too"
        place, way_out = source.places.get(split, source.name), f"remove it to have {split} carved from train"
        return f"{place}: {problem}; add {some}, or {way_out}"
    pool = sum(len(splits[part]) for part in ("train", *fractions))
    asked = f"data.{split}_fraction={fractions[split]} of {pool} training examples of {source.name}"
    return f"{asked} leaves {split} empty; raise data.{split}_fraction, or add examples"
