"""Anybody's own labelled texts."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from frostline.data.examples import Examples, Source
from frostline.data.labelled import Labelled, label_of, labelled_source
from frostline.data.table import Column, Row, Tables, read_rows, tables
from frostline.data.token_split import TokenData, TokenSplit
from frostline.errors import DataError

TEXT = ("text", "sentence")
"""What the column of texts is usually called."""


@dataclass(kw_only=True, eq=False, repr=False)
class TextFiles(TokenData):
    """Texts with one label each, in .tsv (without quoting), .csv, .jsonl, .parquet or .txt (label, space, text) files.

    Attributes:
        train: The training texts, or a pattern such as `train-*.parquet`; what lacks is carved from them.
        val: The validation texts.
        test: The test texts.
        text: The texts' column: its name, or its position from 0 in files without a header; null for `text` or
            `sentence`, or the first.
        label: The labels' column, likewise; null for `label`, or the second.
    """

    tasks: ClassVar[tuple[str, ...]] = ("classification",)
    left_out: ClassVar[str] = "row(s) are left out, as they have no text"

    train: str
    val: str | None = None
    test: str | None = None
    text: str | int | None = None
    label: str | int | None = None

    def source(self) -> Source:
        """Return the texts of the files."""
        return _read(tables({"train": self.train, "val": self.val, "test": self.test}), self.text, self.label)

    def split(self, examples: Examples, *, random: bool) -> "TextSplit":
        """Return texts as tokens, and their classes."""
        texts = [examples.content[row] for row in examples.rows]
        encodings, over_long = self.spec.encoded(texts, longest=self.longest)
        return TextSplit(examples, ids=[each.ids for each in encodings], spec=self.spec, over_long=over_long)

    def shown(self) -> dict[str, Any]:
        """Return what `TokenData` tells, and how many rows were left out because they have no text."""
        return {**super().shown(), "without_text": len(self.source().ignored)}


class TextSplit(TokenSplit):
    """One split of labelled texts."""

    def targets(self, inputs: dict[str, Tensor], places: NDArray[np.int64]) -> Tensor:
        """Return the classes, (B,)."""
        return torch.from_numpy(self.examples.labels[places])


@lru_cache(maxsize=8)
def _read(files: Tables, text: str | int | None, label: str | int | None) -> Source:
    columns = (
        Column(key="data.text", asked=text, names=TEXT, place=0),
        Column(key="data.label", asked=label, names=("label",), place=1),
    )
    splits = {split: _labelled(split, file, columns) for split, file in files.paths}
    empty = tuple(each.name for examples in splits.values() for each in examples if not each.content.strip())
    filled = {split: [each for each in examples if each.content.strip()] for split, examples in splits.items()}
    keys = {split: f"data.{split}" for split in filled}
    return labelled_source(files.name, filled, keys=keys, ignored=empty, places=files.places)


def _labelled(split: str, file: str, columns: Sequence[Column]) -> list[Labelled]:
    rows = list(read_rows(f"data.{split}", file, columns))
    examples = [_example(split, row) for row in rows]
    if split == "train" and not rows[0].named:
        _refuse_a_header(file, examples)
    return examples


def _example(split: str, row: Row) -> Labelled:
    text, label = row.values
    if not isinstance(text, str | None):
        raise DataError(f"data.{split}: {row.where} has no text, but {text!r}; choose another data.text")
    text = text or ""
    return Labelled(
        name=row.where,
        content=text,
        label=label_of(label, row.where, key=f"data.{split}"),
        digest=sha256(" ".join(text.split()).encode()).hexdigest(),
    )


def _refuse_a_header(file: str, examples: Sequence[Labelled]) -> None:
    """Refuse a first line whose label is that of no other line, while all other labels stand more than once."""
    first, counts = examples[0], Counter(example.label for example in examples)
    if counts.pop(first.label) == 1 and counts and min(counts.values()) > 1:
        raise DataError(
            f"data.train={file}: the first line looks like a header ('{first.content}', '{first.label}'); "
            "name its columns with data.text and data.label"
        )
