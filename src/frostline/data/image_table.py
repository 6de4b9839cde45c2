"""Anybody's own images, a row each in a table, with one label."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from frostline.data.examples import Source, chosen
from frostline.data.image_rows import ImageRow, Sheet, TabledImages
from frostline.data.labelled import Labelled, label_of, labelled_source
from frostline.data.pixels import EncodedImages


@dataclass(kw_only=True, eq=False, repr=False)
class ImageTable(TabledImages):
    """Images with one label each, in .csv, .tsv (without quoting), .jsonl, .parquet or .arrow files.

    Attributes:
        label: The labels' column: its name, or its position in files without a header. What is written alike, but for
            spaces around it, is one class; numbers are sorted by value.
        classes: Which classes to tell apart; None for all. Their labels are their places in this list.
    """

    label: str | int = "label"
    classes: list[str] | None = None

    def source(self) -> Source:
        """Return the images of the tables, each proven readable."""
        return chosen(_read(self.sheet(), self.label), self.classes)


@lru_cache(maxsize=8)
def _read(sheet: Sheet, label: str | int) -> Source:
    splits = sheet.read({"data.label": label})
    return labelled_source(
        sheet.name,
        {split: [_labelled(row, label) for row in rows] for split, (_, rows) in splits.items()},
        keys={split: key for split, (key, _) in splits.items()},
        keep=_images,
        places=sheet.places(splits),
    )


def _labelled(row: ImageRow, column: str | int) -> Labelled:
    """Return a row as an example, its name with its content for `_images`."""
    (cell,) = row.values
    label = label_of(cell, row.where, key=f"data.label={column}", instead="choose data=image_tags, or")
    return Labelled(name=row.name, content=(row.file, row.name), label=label, digest=row.digest, where=row.where)


def _images(contents: Sequence[tuple[bytes | Path, str]]) -> Any:
    return EncodedImages(files=tuple(file for file, _ in contents), names=tuple(name for _, name in contents))
