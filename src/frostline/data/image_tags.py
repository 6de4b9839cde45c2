"""Anybody's own images, a row each in a table, with any number of labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import MinLen
from numpy.typing import NDArray

from frostline.data.examples import Examples, Places, Source, consecutive
from frostline.data.image_rows import ImageRow, Sheet, TabledImages
from frostline.data.labelled import in_order
from frostline.data.pixels import EncodedImages
from frostline.errors import DataError

UNLABELLED = "(no label)"
_TRUTH = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}


@dataclass(kw_only=True, eq=False, repr=False)
class ImageTags(TabledImages):
    """Images with any number of labels each, none included, in tables as `ImageTable` reads them.

    Splits are carved and shots drawn evenly by each image's rarest label, of those in train: `data.shots=5` means five
    training images for each label, of those whose rarest label it is, and five without any. So every label that is
    drawn from has at least so many images, whatever the combinations in which labels come.

    Attributes:
        label: The labels' column, in which they are a list or stand between separators.
        label_separator: What stands between the labels of an image.
        labels: In place of `label`, columns of 0 and 1, one for each label; their order is that of the classes.
    """

    tasks: ClassVar[tuple[str, ...]] = ("multilabel",)

    label: str | int = "label"
    label_separator: Annotated[str, MinLen(1)] = "|"
    labels: Annotated[list[str], MinLen(2)] | None = None

    def source(self) -> Source:
        """Return the images of the tables, each proven readable."""
        columns = None if self.labels is None else tuple(self.labels)
        return _read(self.sheet(), self.label, self.label_separator, columns)


@dataclass(frozen=True, kw_only=True, eq=False)
class TaggedImages:
    """Images and their labels, by row.

    Attributes:
        images: The images.
        classes: Names of the labels.
        tags: Which of the C labels each of the N images has, bool of shape (N, C).
    """

    images: EncodedImages
    classes: tuple[str, ...]
    tags: NDArray[np.bool_]

    def __getitem__(self, row: int) -> NDArray[np.uint8]:
        """Return the image, uint8 of shape (3, H, W)."""
        return self.images[row]


class TaggedExamples(Examples):
    """Examples with any number of labels; their strata are their rarest labels."""

    content: TaggedImages

    def targets(self, places: Places) -> NDArray[np.float32]:
        """Return 1 for each label that an example has and 0 for the others, float32 of shape (B, C)."""
        return self.content.tags[self.rows[places]].astype(np.float32)

    def spelt(self, strata: Sequence[str]) -> list[str]:
        """Return the labels of each example, in words."""
        classes = np.array(self.content.classes)
        return ["|".join(classes[tags]) for tags in self.content.tags[self.rows]]

    def balance(self, strata: Sequence[str]) -> dict[str, int]:
        """Count the examples of each label, and those of none."""
        tags = self.content.tags[self.rows]
        each = dict(zip(self.content.classes, tags.sum(axis=0).tolist(), strict=True))
        return each | {UNLABELLED: int((~tags.any(axis=1)).sum())}


@lru_cache(maxsize=8)
def _read(sheet: Sheet, label: str | int, separator: str, columns: tuple[str, ...] | None) -> Source:
    asked: dict[str, str | int] = {"data.label": label} if columns is None else _asked(columns)
    splits = sheet.read(asked)
    sets = {
        split: [_set(row, label, separator) if columns is None else _flagged(row, columns) for row in rows]
        for split, (_, rows) in splits.items()
    }
    classes = columns or tuple(in_order(set().union(*sets["train"])))
    _check(sheet.name, splits, sets, classes)
    content = _content([row for _, rows in splits.values() for row in rows], sets, classes)
    strata, rarest = _rarest(content.tags, len(sets["train"]), classes)
    parts = {split: _examples(content, splits[split][1], places, rarest) for split, places in consecutive(sets).items()}
    return Source(name=sheet.name, classes=classes, splits=parts, strata=strata, places=sheet.places(splits))


def _asked(columns: Sequence[str]) -> dict[str, str | int]:
    if twice := [name for name in columns if columns.count(name) > 1]:
        raise DataError(f"data.labels={list(columns)}: '{twice[0]}' stands there twice; name each label once")
    return {f"data.labels.{place}": name for place, name in enumerate(columns)}


def _set(row: ImageRow, column: str | int, separator: str) -> set[str]:
    """Return the labels that one column says: a list of them, or text with separators; nothing is no label."""
    (cell,) = row.values
    if cell is None or cell == "" or (isinstance(cell, float) and np.isnan(cell)):
        return set()
    said = [str(each).strip() for each in (cell if isinstance(cell, list) else str(cell).split(separator))]
    if said == [""]:
        return set()
    if "" in said:
        raise DataError(f"data.label={column}: {row.where} has an empty label among others; remove it")
    return set(said)


def _flagged(row: ImageRow, columns: Sequence[str]) -> set[str]:
    """Return the labels whose columns say 1."""
    said = {name: _TRUTH.get(str(cell).strip().lower()) for name, cell in zip(columns, row.values, strict=True)}
    for (name, flag), cell in zip(said.items(), row.values, strict=True):
        if flag is None:
            raise DataError(f"data.labels: {row.where} says {cell!r} of '{name}'; say 0 or 1")
    return {name for name, flag in said.items() if flag}


def _check(
    name: str,
    splits: Mapping[str, tuple[str, Sequence[ImageRow]]],
    sets: Mapping[str, Sequence[set[str]]],
    classes: Sequence[str],
) -> None:
    if len(classes) < 2:
        known = f"only the label '{classes[0]}'" if classes else "no label"
        raise DataError(f"data.train: {name} has {known}; add images of others, or choose another data.label")
    if lacking := [each for each in classes if not any(each in labels for labels in sets["train"])]:
        raise DataError(f"data.labels: no image of train has the label '{lacking[0]}'; add some, or leave it out")
    for split, (key, rows) in splits.items():
        for row, labels in zip(rows, sets[split], strict=True):
            if unknown := sorted(labels - set(classes)):
                way_out = f"add images of it to train, or remove it from {split}"
                raise DataError(f"{key}: {row.where} has a label '{unknown[0]}' that train lacks; {way_out}")


def _content(
    rows: Sequence[ImageRow], sets: Mapping[str, Sequence[set[str]]], classes: tuple[str, ...]
) -> TaggedImages:
    tags = [[name in labels for name in classes] for part in sets.values() for labels in part]
    images = EncodedImages(files=tuple(row.file for row in rows), names=tuple(row.name for row in rows))
    return TaggedImages(images=images, classes=classes, tags=np.array(tags, dtype=np.bool_))


def _rarest(tags: NDArray[np.bool_], train: int, classes: Sequence[str]) -> tuple[tuple[str, ...], Places]:
    """Return the strata, and that of each image: its label that the fewest images of train have.

    Args:
        tags: Labels of all images, (N, C), the first of them those of train.
        train: How many of them train has.
        classes: Names of the labels.
    """
    by_count = np.argsort(tags[:train].sum(axis=0), kind="stable")
    none = np.ones((len(tags), 1), dtype=np.bool_)  # what has no label, or none that train has so, comes last
    ranked = np.concatenate([tags[:, by_count], none], axis=1)
    used = np.unique(ranked[:train].argmax(axis=1))
    names = [*(classes[place] for place in by_count), UNLABELLED]
    return tuple(names[place] for place in used), ranked[:, used].argmax(axis=1)


def _examples(content: TaggedImages, rows: Sequence[ImageRow], places: Places, strata: Places) -> Examples:
    return TaggedExamples(
        content=content,
        rows=places,
        labels=strata[places],
        digests=tuple(row.digest for row in rows),
        ids=tuple(row.name for row in rows),
    )
