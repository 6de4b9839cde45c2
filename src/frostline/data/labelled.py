"""From named labels to the three splits of a source: one class for each example."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any

import numpy as np

from frostline.data.examples import Examples, Places, Source, consecutive
from frostline.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """An example with a label, before classes have numbers.

    Attributes:
        name: What people call it, such as a file and a line.
        content: A text, or where an image is.
        label: Its class.
        digest: Its content as a hexadecimal SHA-256.
        where: File and line, where the name does not say it.
    """

    name: str
    content: Any
    label: str
    digest: str
    where: str = ""


def labelled_source(
    name: str,
    splits: Mapping[str, Sequence[Labelled]],
    *,
    keys: Mapping[str, str],
    keep: Callable[[Sequence[Any]], Any] = tuple,
    ignored: tuple[str, ...] = (),
    places: Mapping[str, str] | None = None,
) -> Source:
    """Return the source of these examples; its classes are those of `train`.

    Args:
        name: What to call the source.
        splits: `train`, and `val` and `test` where there are any.
        keys: The config key that each split comes from, for messages.
        keep: Makes the source's content of the contents of all examples, by row.
        ignored: What the files held besides, by name.
        places: The key and the file of each split, for messages.

    Raises:
        DataError: There are fewer than two classes, or a class that train lacks.
    """
    classes = in_order({example.label for example in splits["train"]})
    if len(classes) < 2:
        raise DataError(f"{keys['train']}: '{', '.join(classes)}' is the only class of {name}; add examples of another")
    for split, examples in splits.items():
        _check_known(keys[split], split, examples, classes)
    everything = [example for examples in splits.values() for example in examples]
    content = keep([example.content for example in everything])
    parts = {split: _examples(splits[split], content, rows, classes) for split, rows in consecutive(splits).items()}
    return Source(name=name, classes=tuple(classes), splits=parts, ignored=ignored, places=places or {})


def label_of(cell: Any, where: str, *, key: str, named: str = "data.label", instead: str = "choose") -> str:
    """Return what a table's cell says of a class, without the spaces around it.

    Args:
        cell: What it holds.
        where: File and line.
        key: The config key to begin messages with, and its value.
        named: The key that chooses the column.
        instead: What to do where it holds several labels, before "another" column.

    Raises:
        DataError: It holds nothing, or several.
    """
    if isinstance(cell, list | tuple | dict | set):
        raise DataError(f"{key}: {where} has several labels; {instead} another {named}")
    if cell is None or not str(cell).strip() or (isinstance(cell, float) and isnan(cell)):
        raise DataError(f"{key}: {where} has no label; remove the row, or choose another {named}")
    return str(cell).strip()


def in_order(labels: set[str]) -> list[str]:
    """Sort labels, numbers by their value."""
    return (
        sorted(labels, key=lambda label: (int(label), label))
        if all(label.isdecimal() for label in labels)
        else sorted(labels)
    )


def _check_known(key: str, split: str, examples: Sequence[Labelled], classes: Sequence[str]) -> None:
    for example in examples:
        if example.label not in classes:
            way_out = f"add examples of it to train, or remove it from {split}"
            where = example.where or example.name
            raise DataError(f"{key}: {where} has a class '{example.label}' that train lacks; {way_out}")


def _examples(examples: Sequence[Labelled], content: Any, rows: Places, classes: Sequence[str]) -> Examples:
    index = {label: place for place, label in enumerate(classes)}
    return Examples(
        content=content,
        rows=rows,
        labels=np.array([index[example.label] for example in examples], dtype=np.int64),
        digests=tuple(example.digest for example in examples),
        ids=tuple(example.name for example in examples),
    )
