"""Anybody's own labelled texts."""

from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from frostline.data.examples import Examples, Source
from frostline.data.labelled import Labelled, labelled_source
from frostline.data.table import Row, read_rows
from frostline.data.token_split import TokenData, TokenSplit
from frostline.errors import DataError


@dataclass(kw_only=True, eq=False, repr=False)
class TextFiles(TokenData):
    """Texts with one label each, in .tsv (without quoting), .csv, .jsonl or .parquet files.

    Attributes:
        train_file: The training texts, or a pattern such as `train-*.parquet`; what lacks is carved from them.
        val_file: The validation texts.
        test_file: The test texts.
        text: The texts' column: its name, or its position in files without a header.
        label: The labels' column, likewise.
        separator: What stands between the fields of a line, the last of which takes the rest; null where the file's
            suffix says it.
    """

    tasks: ClassVar[tuple[str, ...]] = ("classification",)

    train_file: str
    val_file: str | None = None
    test_file: str | None = None
    text: str | int = "text"
    label: str | int = "label"
    separator: str | None = None

    def source(self) -> Source:
        """Return the texts of the files."""
        files = {"train": self.train_file, "val": self.val_file, "test": self.test_file}
        given = tuple((split, file) for split, file in files.items() if file is not None)
        return _read(given, self.text, self.label, self.separator)

    def split(self, examples: Examples, *, random: bool) -> "TextSplit":
        """Return texts as tokens, and their classes."""
        texts = [examples.content[row] for row in examples.rows]
        encodings, over_long = self.spec.encoded(texts, longest=self.longest)
        return TextSplit(examples, ids=[each.ids for each in encodings], spec=self.spec, over_long=over_long)


class TextSplit(TokenSplit):
    """One split of labelled texts."""

    def targets(self, inputs: dict[str, Tensor], places: NDArray[np.int64]) -> Tensor:
        """Return the classes, (B,)."""
        return torch.from_numpy(self.examples.labels[places])


@lru_cache(maxsize=8)
def _read(files: tuple[tuple[str, str], ...], text: str | int, label: str | int, separator: str | None) -> Source:
    columns = {"data.text": text, "data.label": label}
    splits = {
        split: [_labelled(split, row) for row in read_rows(f"data.{split}_file", file, columns, separator=separator)]
        for split, file in files
    }
    return labelled_source(files[0][1], splits, keys={split: f"data.{split}_file" for split in splits})


def _labelled(split: str, row: Row) -> Labelled:
    text, label = row.values
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"data.{split}_file: {row.where} has no text; remove the row, or choose another data.text")
    if label is None or not str(label).strip():
        raise DataError(f"data.{split}_file: {row.where} has no label; remove the row, or choose another data.label")
    return Labelled(name=row.where, content=text, label=str(label).strip(), digest=sha256(text.encode()).hexdigest())
