"""Which classes a head that comes with weights tells apart, as far as names say."""

import re
from collections.abc import Sequence

from torchvision import models

from frostline.errors import RequestError

IMAGENET_CLASSES = 1000

_SYNSET = re.compile(r"n\d{8}")
"""What WordNet numbers its nouns by; ImageNet's classes are in the order of these."""


_PLACEHOLDER = re.compile(r"LABEL_\d+")
"""What transformers calls classes that nobody has named."""


def imagenet() -> list[str]:
    """Return the names of ImageNet's 1,000 classes, in their order."""
    return list(models.ResNet18_Weights.DEFAULT.meta["categories"])


def same_classes(own: Sequence[str] | None, classes: Sequence[str], *, key: str = "model") -> bool:
    """Tell whether a head that comes with weights is for the classes of data, of which it has as many.

    A head without names is taken to be, and one of transformers' `LABEL_0`, .... So is one with names where the data
    only numbers its classes from 0, in their order, or calls them by ImageNet's own numbers. Case and underscores make
    no other name, unless they alone tell two classes apart.

    Args:
        own: The names of the head's classes, in the order of their indices; None where the weights name none.
        classes: The data's, likewise.
        key: Where the weights were asked for.

    Raises:
        RequestError: The classes are the same in another order, so that the head would mistake one for another.
    """
    if own is None:
        return True
    spelt = _spelt if all(len(set(_spelt(names))) == len(names) for names in (own, classes)) else list
    ours, theirs, numbers = spelt(classes), spelt(own), [str(place) for place in range(len(classes))]
    if ours != theirs and sorted(ours) == sorted(theirs):
        _refuse_another_order(own, classes, next(i for i, name in enumerate(ours) if name != theirs[i]), key)
    only_numbered = all(map(_PLACEHOLDER.fullmatch, own)) or (ours == numbers and not all(map(str.isdecimal, theirs)))
    in_order = ours == sorted(ours) and all(map(_SYNSET.fullmatch, ours))
    return ours == theirs or only_numbered or (in_order and list(own) == imagenet())


def _refuse_another_order(own: Sequence[str], classes: Sequence[str], place: int, key: str) -> None:
    problem = f"class {place} of its head is {own[place]}, and of the data {classes[place]}"
    raise RequestError(
        f"{key}: {problem}: the same classes in another order; bring the data's into the head's ({_shown(own)}), or "
        "choose weights that have no head of them"
    )


def _spelt(names: Sequence[str]) -> list[str]:
    return [name.casefold().replace("_", " ").strip().removeprefix("label ") for name in names]


def _shown(names: Sequence[str]) -> str:
    return f"{', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
