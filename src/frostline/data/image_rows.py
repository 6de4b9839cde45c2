"""Images that stand in the rows of a table, as paths or as bytes."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from annotated_types import MinLen

from frostline.data.image_tree import SPLIT_FOLDERS
from frostline.data.intact import intact_digests
from frostline.data.photographs import Photographs
from frostline.data.splitted import SPLITS
from frostline.data.table import Column, Row, files_of, rows_of
from frostline.errors import DataError


@dataclass(frozen=True, kw_only=True)
class ImageRow:
    """A row with an image, proven readable.

    Attributes:
        where: File and line.
        name: What people call the image: its path as the table has it, else file and line.
        file: Where it is, or its bytes.
        digest: Its content as a hexadecimal SHA-256.
        values: The other columns that were asked for.
    """

    where: str
    name: str
    file: bytes | Path
    digest: str
    values: tuple[Any, ...]


@dataclass(kw_only=True, eq=False, repr=False)
class TabledImages(Photographs):
    """Images named by the rows of .csv, .tsv (without quoting), .jsonl, .parquet or .arrow files.

    A row holds the path of an image, or as in the datasets of Hugging Face the image itself.

    Attributes:
        train: The training images: a file; a pattern, such as `train-*.parquet`, of one that is cut into several; or a
            folder of Hugging Face's, of parquet files named after splits or as `save_to_disk` leaves it, whose own
            validation and test splits are taken along. What lacks is carved from the training images.
        val: The validation images, a file or a pattern.
        test: The test images, likewise.
        root: The folder that paths of images are relative to; None for that of the file they stand in.
        image: The images' column: its name, or its position in files without a header.
        split_column: The column of `train` that says which split a row belongs to: train, val or test.
        separator: What stands between the fields of a line, the last of which takes the rest; None where the file's
            suffix says it.
    """

    train: str
    val: str | None = None
    test: str | None = None
    root: str | None = None
    image: str | int = "image"
    split_column: str | int | None = None
    separator: Annotated[str, MinLen(1)] | None = None

    def sheet(self) -> "Sheet":
        """Return which tables hold the images, and where in them."""
        named = {"train": self.train, "val": self.val, "test": self.test}
        return Sheet(
            files=tuple((split, path) for split, path in named.items() if path is not None),
            root=self.root,
            image=self.image,
            split_column=self.split_column,
            separator=self.separator,
            cwd=Path.cwd(),
        )


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """Some tables that hold images; the attributes are those of `TabledImages`, and where relative paths begin."""

    files: tuple[tuple[str, str], ...]
    root: str | None
    image: str | int
    split_column: str | int | None
    separator: str | None
    cwd: Path

    @property
    def name(self) -> str:
        """What to call them."""
        return self.files[0][1]

    def read(self, asked: Mapping[str, str | int]) -> dict[str, tuple[str, list[ImageRow]]]:
        """Read the rows of each split, train first, and the config key that each comes from.

        Args:
            asked: Config keys and the columns that they ask for, which become `ImageRow.values`.

        Raises:
            DataError: A table or an image is not what it should be; file and line are named.
        """
        chosen = {"data.image": self.image, **asked}
        columns = [Column(key=key, asked=column) for key, column in chosen.items()]
        found = {split: (f"data.{split}", self._rows(split, path, columns)) for split, path in self.files[1:]}
        for split, rows in self._train(columns).items():
            if split in found:
                raise DataError(f"data.{split}: {self.name} has {split} images of its own; leave data.{split} out")
            found[split] = ("data.train", rows)
        if "train" not in found:
            raise DataError(f"data.train={self.name}: there is no row of train; it has {', '.join(found)}")
        return {split: (found[split][0], self._proven(*found[split])) for split in SPLITS if split in found}

    def places(self, found: Mapping[str, tuple[str, Any]]) -> dict[str, str]:
        """Return the config key and the path of each split that `read` found."""
        return {split: self._place(key) for split, (key, _) in found.items()}

    def _place(self, key: str) -> str:
        return f"{key}={dict(self.files)[key.removeprefix('data.')]}"

    def _train(self, columns: Sequence[Column]) -> dict[str, list[Row]]:
        folder = Path(self.name).expanduser()
        parts = _parts(folder) if folder.is_dir() else {"train": files_of("data.train", self.name)}
        if self.split_column is not None:
            columns = [*columns, Column(key="data.split_column", asked=self.split_column)]
        rows = {split: self._rows_of("data.train", files, columns) for split, files in parts.items()}
        if self.split_column is None:
            return rows
        if len(rows) > 1:
            raise DataError(f"data.split_column: {self.name} has splits of its own; leave data.split_column out")
        return _by_column(self.split_column, rows["train"])

    def _rows(self, split: str, path: str, columns: Sequence[Column]) -> list[Row]:
        return self._rows_of(f"data.{split}", files_of(f"data.{split}", path), columns)

    def _rows_of(self, key: str, files: Sequence[Path], columns: Sequence[Column]) -> list[Row]:
        return [row for file in files for row in rows_of(key, file, columns, separator=self.separator)]

    def _proven(self, key: str, rows: Sequence[Row]) -> list[ImageRow]:
        found = [_image(row, self._base(row)) for row in rows]
        names = [
            row.where if name == row.where else f"{row.where} {name}"
            for row, (name, _) in zip(rows, found, strict=True)
        ]
        digests = intact_digests(self._place(key), names, [file for _, file in found])
        return [
            ImageRow(where=row.where, name=name, file=file, digest=digest, values=row.values[1:])
            for row, (name, file), digest in zip(rows, found, digests, strict=True)
        ]

    def _base(self, row: Row) -> Path:
        if self.root is None:
            return row.file.parent
        base = Path(self.root).expanduser()
        if not base.is_dir():
            raise DataError(f"data.root={self.root}: there is no such folder; paths of images are relative to it")
        return base


def _image(row: Row, base: Path) -> tuple[str, bytes | Path]:
    """Return what people call the image of a row, and where it is: a path, bytes, or Hugging Face's pair of both."""
    cell = row.values[0]
    content, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, Mapping) else (cell, None)
    if isinstance(content, bytes):
        return path or row.where, content
    path = content if isinstance(content, str) else path
    if isinstance(path, str) and path.strip():
        return path.strip(), base / Path(path.strip()).expanduser()
    held = "no image" if content is None or content == "" else f"{content!r}, which is neither a path nor an image"
    raise DataError(f"data.image: {row.where} has {held}; correct or remove the row, or choose another data.image")


def _by_column(column: str | int, rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Sort rows by what their last value says of their split."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        said = str(row.values[-1]).strip()
        if said.lower() not in SPLIT_FOLDERS:
            way_out = f"say {', '.join(SPLIT_FOLDERS)}"
            raise DataError(f"data.split_column={column}: {row.where} is of no split '{said}'; {way_out}")
        kept = replace(row, values=row.values[:-1])
        found.setdefault(SPLIT_FOLDERS[said.lower()], []).append(kept)
    return found


def _parts(folder: Path) -> dict[str, list[Path]]:
    """Return the files of each split of a folder as `datasets` saves it, or as the Hugging Face Hub keeps it."""
    if (folder / "dataset_dict.json").exists():
        splits = _saved(folder / "dataset_dict.json", "splits")
        return _named_parts(folder, {split: _shards(folder / split) for split in splits})
    if (folder / "state.json").exists():
        return {"train": _shards(folder)}
    shards = sorted(folder.glob("*.parquet")) or sorted(folder.glob("data/*.parquet"))
    if not shards:
        way_out = "name a table, or a folder of .parquet files or one that save_to_disk left"
        raise DataError(f"data.train={folder}: there is no table in this folder; {way_out}")
    if not any(_prefix(path).lower() in SPLIT_FOLDERS for path in shards):
        return {"train": shards}
    return _named_parts(
        folder, {name: [path for path in shards if _prefix(path) == name] for name in map(_prefix, shards)}
    )


def _shards(folder: Path) -> list[Path]:
    """Return the files of a saved dataset; what `datasets` computed from it, `cache-*.arrow`, may lie beside them."""
    return [folder / name for name in _saved(folder / "state.json", "_data_files")]


def _saved(file: Path, key: str) -> list[str]:
    """Return the names that `save_to_disk` wrote down."""
    try:
        names = [each if isinstance(each, str) else each["filename"] for each in json.loads(file.read_bytes())[key]]
    except (OSError, ValueError, TypeError, KeyError):
        names = []
    if not names:
        what = "splits" if key == "splits" else "files"
        problem = f"should name the dataset's {what}, and does not"
        raise DataError(f"data.train: {file} {problem}; save it again with save_to_disk")
    return names


def _prefix(shard: Path) -> str:
    return re.split(r"[-._]", shard.name)[0]


def _named_parts(folder: Path, parts: Mapping[str, list[Path]]) -> dict[str, list[Path]]:
    if unknown := sorted(name for name in parts if name.lower() not in SPLIT_FOLDERS):
        way_out = "name the files that you mean with data.train, data.val and data.test"
        raise DataError(
            f"data.train={folder}: it has a split '{unknown[0]}', which is not train, val or test; {way_out}"
        )
    splits = {name: SPLIT_FOLDERS[name.lower()] for name in parts}
    if twice := sorted(name for name, split in splits.items() if list(splits.values()).count(split) > 1):
        both = " and ".join(map(repr, twice))
        raise DataError(f"data.train={folder}: {both} both stand for {splits[twice[0]]}; keep one of them")
    return {splits[name]: files for name, files in parts.items()}
