"""The nearest valid name, for the sentence that tells a user of a misspelt one."""

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """Return "did you mean 'x'?" for the nearest of the valid names, or the list of them where none is near.

    >>> did_you_mean("evry", ["every", "norm_stats"])
    "did you mean 'every'?"
    >>> did_you_mean("zzz", ["stem", "head"])
    'there are head, stem'
    """
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=1)
    return f"did you mean '{close[0]}'?" if close else f"there are {', '.join(names)}"
