"""Which classes a head that comes with weights tells apart, as far as names say."""

import re
from collections.abc import Sequence

from torchvision import models

from frostline.errors import RequestError

IMAGENET_CLASSES = 1000

_SYNSET = re.compile(r"n\d{8}")
"""What WordNet numbers its nouns by; ImageNet's classes are in the order of these."""


def imagenet() -> list[str]:
    """Return the names of ImageNet's 1,000 classes, in their order."""
    return list(models.ResNet18_Weights.DEFAULT.meta["categories"])


def same_classes(own: Sequence[str] | None, classes: Sequence[str], *, key: str = "model", exact: bool = False) -> bool:
    """Tell whether a head that comes with weights is for the classes of data, of which it has as many.

    What has no names, or numbers from 0 for names, or ImageNet's own numbers, is taken to be in the right order. Case
    and underscores make no other name.

    Args:
        own: The names of the head's classes, in the order of their indices; None where the weights name none.
        classes: The data's, likewise.
        key: Where the weights were asked for.
        exact: Whether numbers are names like any other, as where a run of this program has written them down.

    Raises:
        RequestError: The classes are the same in another order, so that the head would mistake one for another.
    """
    numbers = [str(place) for place in range(len(classes))]
    ours, theirs = _spelt(classes), numbers if own is None else _spelt(own)
    unnamed = not exact and numbers in (ours, theirs)
    if sorted(ours) == sorted(theirs) and ours != theirs:
        place = next(place for place, name in enumerate(ours) if name != theirs[place])
        named = own or numbers
        problem = f"class {place} of its head is {named[place]}, and of the data {classes[place]}"
        raise RequestError(
            f"{key}: {problem}: the same classes in another order ({_shown(named)}); name the data's classes 0 to "
            f"{len(ours) - 1}, in the head's order, or choose weights that have no head of them"
        )
    in_order = ours == sorted(ours) and all(map(_SYNSET.fullmatch, ours))
    return ours == theirs or unnamed or (in_order and own == imagenet())


def _spelt(names: Sequence[str]) -> list[str]:
    return [name.casefold().replace("_", " ").strip().removeprefix("label ") for name in names]


def _shown(names: Sequence[str]) -> str:
    return f"{', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
