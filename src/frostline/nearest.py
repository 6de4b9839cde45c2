"""The nearest valid name, for the sentence that tells a user of a misspelt one."""

import difflib
from collections.abc import Iterable
from itertools import takewhile


def nearest(name: str, valid: Iterable[str]) -> str | None:
    """Return the valid name that this one is most likely meant to be, or None where none is near."""
    close = difflib.get_close_matches(name, sorted(valid), n=5)
    return max(close, key=lambda other: _likeness(name, other), default=None)


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """Return "did you mean 'x'?" for the nearest of the valid names, or the list of them where none is near.

    >>> did_you_mean("evry", ["every", "norm_stats"])
    "did you mean 'every'?"
    >>> did_you_mean("resnet21", ["resnet32", "resnet20", "resnet110"])
    "did you mean 'resnet20'?"
    >>> did_you_mean("zzz", ["stem", "head"])
    'there are head, stem'
    """
    names = sorted(valid)
    meant = nearest(name, names)
    return f"there are {', '.join(names)}" if meant is None else f"did you mean '{meant}'?"


def _likeness(name: str, other: str) -> tuple[float, int]:
    """Among names that are equally near, prefer the one that begins alike: people seldom miss the first letters."""
    alike = takewhile(lambda pair: pair[0] == pair[1], zip(name, other, strict=False))
    return round(difflib.SequenceMatcher(None, other, name).ratio(), 6), len(list(alike))
