"""Rows of tables (.csv, .tsv, .txt, .jsonl, .parquet), read as a stream; what is wrong with one names its line."""

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from frostline.errors import DataError
from frostline.nearest import nearest


@dataclass(frozen=True, kw_only=True)
class Column:
    """Which column of a table is asked for.

    Attributes:
        key: The config key that chooses it.
        asked: What the user chose: a name, or a position from 0 in a file without a header; None for nothing.
        names: What such a column is usually called, in lower case; where the user chose nothing.
        place: Where it usually stands in files without a header, likewise.
    """

    key: str
    asked: str | int | None
    names: tuple[str, ...]
    place: int

    def among(self, names: Sequence[str]) -> str | None:
        """Return which of a table's names is meant, or None."""
        if isinstance(self.asked, str):
            return self.asked if self.asked in names else None
        return None if self.asked is not None else next((n for n in names if n.strip().lower() in self.names), None)


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one row holds of the columns that were asked for.

    Attributes:
        where: File and line, for messages and as the example's name.
        values: One for each column.
        named: Whether the columns were found by their names, rather than by where they usually stand.
    """

    where: str
    values: tuple[Any, ...]
    named: bool


def read_rows(key: str, path: str, columns: Sequence[Column]) -> Iterator[Row]:
    """Yield the chosen columns of a table's rows, in the file's order; empty lines are none.

    In a `.tsv` a quotation mark is a letter, as in every corpus that comes as one; a line of a `.txt` is a label, a
    space and a text, which stand at the positions 1 and 0.

    Args:
        key: The config key that names the file, such as `data.train`.
        path: A file, or a pattern such as `train-*.parquet` for one that is cut into several.
        columns: What to read of each row.

    Raises:
        DataError: The file is missing, empty, of an unknown kind, not UTF-8, or a row lacks a field; file and line are
            named.
    """
    for file in files_of(key, path):
        yield from _Table(key, file, columns).rows()


def files_of(key: str, path: str) -> list[Path]:
    """Return the files that a path or a pattern names.

    Raises:
        DataError: There are none.
    """
    if found := sorted(glob(str(Path(path).expanduser()), recursive=True)):  # noqa: PTH207 (Path.glob takes no absolute pattern)
        return [Path(name) for name in found]
    folder = Path(path).expanduser().parent
    meant = nearest(Path(path).name, [each.name for each in folder.iterdir()] if folder.is_dir() else [])
    raise DataError(f"{key}={path}: there is no such file" + (f"; did you mean '{meant}'?" if meant else ""))


def text_lines(key: str, file: Path) -> Iterator[str]:
    """Yield the lines of a text file with their ends, read as a stream.

    Raises:
        DataError: It cannot be read, or a line is not UTF-8.
    """
    try:
        with file.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                yield _decoded(key, file, number, line)
    except OSError as error:
        raise DataError(f"{key}={file}: cannot be read ({error.strerror}); name a file") from error


def _decoded(key: str, file: Path, number: int, line: bytes) -> str:
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{key}={file}: line {number} is not UTF-8; save the file as UTF-8") from error


class _Table:
    def __init__(self, key: str, file: Path, columns: Sequence[Column]) -> None:
        self.key, self.file, self.columns = key, file, columns
        self.named = True

    def rows(self) -> Iterator[Row]:
        """Yield the rows in the file's order."""
        line = 0
        for line, fields in self._reader()():
            yield Row(where=f"{self.file.name}:{line}", values=tuple(fields), named=self.named)
        if not line:
            raise self._error("it has no rows; choose another file")

    def _reader(self) -> Callable[[], Iterator[tuple[int, Sequence[Any]]]]:
        readers: Mapping[str, Callable[[], Iterator[tuple[int, Sequence[Any]]]]] = {
            ".csv": self._csv,
            ".tsv": self._tsv,
            ".txt": self._txt,
            ".jsonl": self._jsonl,
            ".parquet": self._parquet,
        }
        if self.file.suffix not in readers:
            raise self._error(f"it ends in none of {', '.join(readers)}; rename it")
        return readers[self.file.suffix]

    def _lines(self) -> Iterator[tuple[int, str]]:
        for number, line in enumerate(text_lines(self.key, self.file), 1):
            if line.strip():
                yield number, line.rstrip("\r\n")

    def _tsv(self) -> Iterator[tuple[int, Sequence[Any]]]:
        return self._picked((number, line.split("\t")) for number, line in self._lines())

    def _txt(self) -> Iterator[tuple[int, Sequence[Any]]]:
        return self._picked((number, line.split(" ", 1)[::-1]) for number, line in self._lines())

    def _csv(self) -> Iterator[tuple[int, Sequence[Any]]]:
        reader = csv.reader(text_lines(self.key, self.file), strict=True)
        try:
            yield from self._picked((reader.line_num, fields) for fields in reader if fields)
        except csv.Error as error:
            raise self._error(f"line {reader.line_num} is no CSV ({error})") from error

    def _jsonl(self) -> Iterator[tuple[int, Sequence[Any]]]:
        for number, line in self._lines():
            try:
                content = json.loads(line)
            except json.JSONDecodeError as error:
                raise self._error(f"line {number} is no JSON ({error})") from error
            if not isinstance(content, dict):
                raise self._error(f"line {number} is no JSON object; write an object with the columns a line")
            yield number, [content[self._named(column, list(content))] for column in self.columns]

    def _parquet(self) -> Iterator[tuple[int, Sequence[Any]]]:
        try:
            with pq.ParquetFile(self.file) as table:
                names = [self._named(column, table.schema_arrow.names) for column in self.columns]
                spelt = [_class_names(table.schema_arrow, name) for name in names]
                number = 0
                for part in table.iter_batches(columns=names):
                    for values in zip(*(part.column(name).to_pylist() for name in names), strict=True):
                        number += 1
                        yield number, [_spelt(value, names) for value, names in zip(values, spelt, strict=True)]
        except (pa.ArrowInvalid, OSError) as error:
            raise self._error(f"it is no whole parquet file ({error})") from error

    def _picked(self, lines: Iterator[tuple[int, Sequence[str]]]) -> Iterator[tuple[int, Sequence[Any]]]:
        """Yield the chosen fields of each line."""
        first = next(lines, None)
        if first is None:
            return
        self.named = self._is_header(first[1])
        places = [self._place(column, first[1]) for column in self.columns]
        for number, fields in lines if self.named else _after(first, lines):
            if len(fields) <= max(places):
                raise self._error(
                    f"line {number} has {len(fields)} field{'s' * (len(fields) != 1)}, but {self._asked(places)}"
                )
            yield number, [fields[place] for place in places]

    def _is_header(self, fields: Sequence[str]) -> bool:
        if any(isinstance(column.asked, str) for column in self.columns):
            return True
        unsaid = [column for column in self.columns if column.asked is None]
        return bool(unsaid) and all(column.among(fields) is not None for column in unsaid)

    def _place(self, column: Column, header: Sequence[str]) -> int:
        if isinstance(column.asked, int):
            return column.asked
        return list(header).index(self._named(column, header)) if self.named else column.place

    def _named(self, column: Column, names: Sequence[str]) -> str:
        if (found := column.among(names)) is not None:
            return found
        has = f"{self.file} has {', '.join(map(repr, names))}"
        if column.asked is None:
            raise DataError(f"{column.key}: {has}, and no '{column.names[0]}'; say which column it is")
        raise DataError(f"{column.key}={column.asked}: {has}, and no such column; name one of these")

    def _asked(self, places: Sequence[int]) -> str:
        """Say which key asks for the field that lies furthest."""
        far = max(zip(places, self.columns, strict=True), key=lambda pair: pair[0])
        return f"{far[1].key} is field {far[0] + 1}; mend the line, or set {far[1].key}"

    def _error(self, problem: str) -> DataError:
        return DataError(f"{self.key}={self.file}: {problem}")


def _after(first: tuple[int, Sequence[str]], rest: Iterator[tuple[int, Sequence[str]]]) -> Iterator[Any]:
    yield first
    yield from rest


def _class_names(schema: pa.Schema, column: str) -> Sequence[str] | None:
    """Return what Hugging Face's `ClassLabel` calls the integers of a column, or of its lists."""
    kept = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    feature = kept.get("info", {}).get("features", {}).get(column, {})
    feature = feature.get("feature", feature) if isinstance(feature, dict) else {}
    names: Sequence[str] | None = feature.get("names") if isinstance(feature, dict) else None
    return names


def _spelt(value: Any, names: Sequence[str] | None) -> Any:
    if isinstance(value, list):
        return [_spelt(each, names) for each in value]
    return names[value] if names and isinstance(value, int) and 0 <= value < len(names) else value
