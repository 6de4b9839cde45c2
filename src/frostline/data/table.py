"""Rows of tables (.csv, .tsv, .txt, .jsonl, .parquet, .arrow), read as a stream; what is wrong with one has a line."""

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from glob import glob
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from frostline.errors import DataError, counted
from frostline.nearest import nearest

Numbered = Iterator[tuple[int, Sequence[Any]]]
"""Lines or rows by number, each as its fields."""


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
    names: tuple[str, ...] = ()
    place: int = 0

    def among(self, names: Sequence[str]) -> str | None:
        """Return which of a table's names is meant, or None."""
        if isinstance(self.asked, str):
            return self.asked if self.asked in names else None
        return None if self.asked is not None else next((n for n in names if n.strip().lower() in self.names), None)


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one row holds of the columns that were asked for.

    Attributes:
        file: Where it stands.
        where: The file's name and the line, for messages and as the example's name; in files of no lines the row.
        values: One for each column.
        named: Whether the columns were found by their names, rather than by where they usually stand.
    """

    file: Path
    where: str
    values: tuple[Any, ...]
    named: bool


def read_rows(key: str, path: str, columns: Sequence[Column], *, separator: str | None = None) -> Iterator[Row]:
    """Yield the chosen columns of a table's rows, in the file's order; empty lines are none.

    In a `.tsv` a quotation mark is a letter, as in every corpus that comes as one; a line of a `.txt` is a label, a
    space and a text, which stand at the positions 1 and 0.

    Args:
        key: The config key that names the file, such as `data.train`.
        path: A file, or a pattern such as `train-*.parquet` for one that is cut into several.
        columns: What to read of each row.
        separator: What stands between the fields of a line, the last of which takes the rest of it; None where the
            file's suffix says it.

    Raises:
        DataError: The file is missing, empty, of an unknown kind or not UTF-8, or a row has too few or too many fields;
            file and line are named.
    """
    for file in files_of(key, path):
        yield from rows_of(key, file, columns, separator=separator)


def rows_of(key: str, file: Path, columns: Sequence[Column], *, separator: str | None = None) -> Iterator[Row]:
    """Yield the chosen columns of one file, as `read_rows`."""
    return _Table(key, file, columns, separator).rows()


def files_of(key: str, path: str) -> list[Path]:
    """Return the file of this path, or those that match it as a pattern, in the order of their names.

    Raises:
        DataError: There is none, or it is a folder.
    """
    exact = Path(path).expanduser()
    if exact.is_dir():
        raise DataError(f"{key}={path}: it is a folder; name a file, or a pattern such as {path.rstrip('/')}/*.parquet")
    if exact.exists():
        return [exact]
    if found := sorted(glob(str(exact), recursive=True)):  # noqa: PTH207 (Path.glob takes no absolute pattern)
        return [Path(name) for name in found]
    meant = nearest(exact.name, [each.name for each in exact.parent.iterdir()] if exact.parent.is_dir() else [])
    raise DataError(f"{key}={path}: there is no such file" + (f"; did you mean '{meant}'?" if meant else ""))


@dataclass(frozen=True, kw_only=True)
class Tables:
    """Which file or pattern each split is read from, and what lay there when it was asked; no two states are equal.

    Attributes:
        paths: Of each split the path as it was given.
        states: Of each of its files the place, the size and when it was changed.
    """

    paths: tuple[tuple[str, str], ...]
    states: tuple[tuple[Path, int, int], ...]

    @property
    def name(self) -> str:
        """What to call them."""
        return self.paths[0][1]

    @property
    def places(self) -> dict[str, str]:
        """The config key and the path of each split."""
        return {split: f"data.{split}={path}" for split, path in self.paths}


def tables(given: Mapping[str, str | None]) -> Tables:
    """Return the tables of those splits that have any, as they are now.

    Raises:
        DataError: One is missing, or a folder.
    """
    paths = {split: path for split, path in given.items() if path is not None}
    files = [file.resolve() for split, path in paths.items() for file in files_of(f"data.{split}", path)]
    states = tuple((file, file.stat().st_size, file.stat().st_mtime_ns) for file in files)
    return Tables(paths=tuple(paths.items()), states=states)


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
    def __init__(self, key: str, file: Path, columns: Sequence[Column], separator: str | None) -> None:
        self.key, self.file, self.columns, self.separator = key, file, columns, separator
        self.named = True

    def rows(self) -> Iterator[Row]:
        """Yield the rows in the file's order."""
        line = 0
        for line, fields in self._reader()():
            yield Row(file=self.file, where=f"{self.file.name}:{line}", values=tuple(fields), named=self.named)
        if not line:
            raise self._error("it has no rows; add some, or choose another file")

    def _reader(self) -> Callable[[], Numbered]:
        readers: Mapping[str, Callable[[], Numbered]] = {
            ".csv": self._csv,
            ".tsv": self._tsv,
            ".txt": self._txt,
            ".jsonl": self._jsonl,
            ".parquet": self._parquet,
            ".arrow": self._arrow,
        }
        if self.separator is not None:
            return self._separated
        if self.file.suffix.lower() == ".json":
            raise self._error("a JSON array is not read; save it as .jsonl, which has one object a line")
        if self.file.suffix.lower() not in readers:
            raise self._error(f"it ends in none of {', '.join(readers)}; save it as one of these")
        return readers[self.file.suffix.lower()]

    def _lines(self) -> Iterator[tuple[int, str]]:
        for number, line in enumerate(text_lines(self.key, self.file), 1):
            if line.strip():
                yield number, line.rstrip("\r\n")

    def _tsv(self) -> Numbered:
        return self._picked((number, line.split("\t")) for number, line in self._lines())

    def _txt(self) -> Numbered:
        return self._picked((number, line.split(" ", 1)[::-1]) for number, line in self._lines())

    def _separated(self) -> Numbered:
        """Lines whose last field takes the rest: of as many as the header has, or as are asked for by position."""
        lines = self._lines()
        first = next(lines, (0, ""))
        positions = [column.asked for column in self.columns if isinstance(column.asked, int)]
        named = len(positions) < len(self.columns)
        cuts = -1 if named else max(positions)
        width = len(first[1].split(self.separator, cuts)) - 1
        return self._picked((n, line.split(self.separator, width)) for n, line in chain([first], lines) if n)

    def _csv(self) -> Numbered:
        reader = csv.reader(text_lines(self.key, self.file), strict=True)
        try:
            yield from self._picked((reader.line_num, fields) for fields in reader if fields)
        except csv.Error as error:
            raise self._error(f"line {reader.line_num} is no CSV ({error})") from error

    def _jsonl(self) -> Numbered:
        for number, line in self._lines():
            try:
                content = json.loads(line)
            except json.JSONDecodeError as error:
                raise self._error(f"line {number} is no JSON ({error})") from error
            if not isinstance(content, Mapping):
                raise self._error(f"line {number} is no JSON object, such as {{...}}")
            yield number, [content[self._named(column, list(content), number)] for column in self.columns]

    def _parquet(self) -> Numbered:
        try:
            with pq.ParquetFile(self.file) as table:
                schema = table.schema_arrow
                names = [self._named(column, schema.names) for column in self.columns]
                yield from _of_batches(schema, names, table.iter_batches(columns=names))
        except (pa.ArrowException, OSError) as error:
            raise self._error(f"it is no whole parquet file ({error})") from error

    def _arrow(self) -> Numbered:
        """Arrow's stream of record batches, which `datasets.save_to_disk` writes, or its file of them."""
        try:
            with pa.memory_map(str(self.file)) as content:
                whole = content.read(6) == b"ARROW1"
                content.seek(0)
                table = (pa.ipc.open_file if whole else pa.ipc.open_stream)(content).read_all()
            names = [self._named(column, table.schema.names) for column in self.columns]
            yield from _of_batches(table.schema, names, table.select(names).to_batches())
        except (pa.ArrowException, OSError) as error:
            raise self._error(f"it is no whole arrow file ({error})") from error

    def _picked(self, lines: Iterator[tuple[int, Sequence[str]]]) -> Numbered:
        """Yield the chosen fields of each line."""
        first = next(lines, None)
        if first is None:
            raise self._error("it is empty; a table has a line of column names and a line for each example")
        header = first[1]
        self._refuse_other_separators(header)
        self.named = self._is_header(header)
        places = [self._place(column, header) for column in self.columns]
        for number, fields in lines if self.named else chain([first], lines):
            if len(fields) <= max(places):
                asked = self._asked(places)
                raise self._error(f"line {number} has {counted(len(fields), 'field')}, but {asked}")
            if self.named and len(fields) > len(header):
                raise self._error(f"line {number} has {counted(len(fields), 'field')}, and the header {len(header)}")
            yield number, [fields[place] for place in places]

    def _refuse_other_separators(self, header: Sequence[str]) -> None:
        """Refuse a .csv whose first line another separator than a comma cuts into the fields that are asked for."""
        other = next((each for each in ";\t" if len(header) == 1 and each in header[0]), None)
        if other is None or self.separator is not None or self.file.suffix.lower() != ".csv":
            return
        if len(self.columns) > 1 or self.columns[0].among(header[0].split(other)) is not None:
            raise self._error(f"it is read with commas, but its first line is {header[0]!r}; save it with commas")

    def _is_header(self, fields: Sequence[str]) -> bool:
        if any(isinstance(column.asked, str) for column in self.columns):
            return True
        unsaid = [column for column in self.columns if column.asked is None]
        return bool(unsaid) and all(column.among(fields) is not None for column in unsaid)

    def _place(self, column: Column, header: Sequence[str]) -> int:
        if isinstance(column.asked, int):
            return column.asked
        if not self.named:
            return column.place
        name = self._named(column, header)
        if list(header).count(name) > 1:
            raise self._error(f"it has two columns '{name}'; rename one of them")
        return list(header).index(name)

    def _named(self, column: Column, names: Sequence[str], line: int | None = None) -> str:
        if (found := column.among(names)) is not None:
            return found
        has = f"{self.file if line is None else f'{self.file}:{line}'} has {', '.join(map(repr, names))}"
        wanted = column.names[0] if column.asked is None else str(column.asked)
        meant = nearest(wanted, names)
        hint = f"did you mean '{meant}'?" if meant else None
        if column.asked is None:
            raise DataError(f"{column.key}: {has}, and no '{wanted}'; {hint or 'say which column it is'}")
        raise DataError(f"{column.key}={wanted}: {has}, and no such column; {hint or 'name one of these'}")

    def _asked(self, places: Sequence[int]) -> str:
        """Say which key asks for the field that lies furthest."""
        far = max(zip(places, self.columns, strict=True), key=lambda pair: pair[0])
        return f"{far[1].key} is field {far[0] + 1}; mend the line, or set {far[1].key}"

    def _error(self, problem: str) -> DataError:
        return DataError(f"{self.key}={self.file}: {problem}")


def _of_batches(schema: pa.Schema, names: Sequence[str], batches: Iterator[pa.RecordBatch]) -> Numbered:
    """Yield the chosen columns row by row, classes by their names."""
    spelt = [_class_names(schema, name) for name in names]
    number = 0
    for part in batches:
        for values in zip(*(part.column(name).to_pylist() for name in names), strict=True):
            number += 1
            yield number, [_spelt(value, names) for value, names in zip(values, spelt, strict=True)]


def _class_names(schema: pa.Schema, column: str) -> Sequence[str] | None:
    """Return what Hugging Face's `ClassLabel` calls the integers of a column, or of the lists in it."""
    kept = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    feature = kept.get("info", {}).get("features", {}).get(column, {})
    while isinstance(feature, list) or (isinstance(feature, dict) and "feature" in feature):
        feature = feature[0] if isinstance(feature, list) else feature["feature"]
    names: Sequence[str] | None = feature.get("names") if isinstance(feature, dict) else None
    return names


def _spelt(value: Any, names: Sequence[str] | None) -> Any:
    if isinstance(value, list):
        return [_spelt(each, names) for each in value]
    return names[value] if names and isinstance(value, int) and 0 <= value < len(names) else value
