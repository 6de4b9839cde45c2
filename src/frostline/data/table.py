"""Rows of tables: .csv, .tsv, .jsonl, .parquet, .arrow, or lines of fields; every problem has a line."""

import csv
import io
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

Columns = Mapping[str, str | int]
"""Which column each config key asks for: by name, or by position in a file without a header."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one row holds of the columns that were asked for.

    Attributes:
        file: Where it stands.
        where: The file's name and the line, for messages and as the example's name; in files of no lines the row.
        values: One for each column.
    """

    file: Path
    where: str
    values: tuple[Any, ...]


def read_rows(key: str, path: str, columns: Columns, *, separator: str | None = None) -> list[Row]:
    """Read the chosen columns of a table.

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
    return [row for file in files_of(key, path) for row in rows_of(key, file, columns, separator=separator)]


def rows_of(key: str, file: Path, columns: Columns, *, separator: str | None = None) -> list[Row]:
    """Read the chosen columns of one file, as `read_rows`."""
    rows = list(_Table(key, file, columns, separator).rows())
    if not rows:
        raise DataError(f"{key}={file}: it has no rows; add some, or choose another file")
    return rows


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
    if found := sorted(glob(str(exact))):  # noqa: PTH207 (Path.glob takes no absolute pattern)
        return [Path(name) for name in found]
    folder = Path(path).expanduser().parent
    meant = nearest(Path(path).name, [each.name for each in folder.iterdir()] if folder.is_dir() else [])
    raise DataError(f"{key}={path}: there is no such file" + (f"; did you mean '{meant}'?" if meant else ""))


class _Table:
    def __init__(self, key: str, file: Path, columns: Columns, separator: str | None) -> None:
        self.key, self.file, self.columns, self.separator = key, file, columns, separator

    def rows(self) -> Iterator[Row]:
        """Yield the rows in the file's order; empty lines are none."""
        for line, fields in self._reader()():
            yield Row(file=self.file, where=f"{self.file.name}:{line}", values=tuple(fields))

    def _reader(self) -> Callable[[], Iterator[tuple[int, Sequence[Any]]]]:
        readers = {
            ".csv": self._csv,
            ".tsv": self._lines,
            ".jsonl": self._jsonl,
            ".parquet": self._parquet,
            ".arrow": self._arrow,
        }
        if self.separator is not None:
            return self._lines
        if self.file.suffix.lower() not in readers:
            raise self._error(f"it ends in none of {', '.join(readers)}; rename it, or set data.separator")
        return readers[self.file.suffix.lower()]

    def _lines(self) -> Iterator[tuple[int, Sequence[Any]]]:
        """Lines without quoting: a quotation mark is a letter, as in every corpus that comes as .tsv."""
        separator = "\t" if self.separator is None else self.separator
        numbered = [(n, line.rstrip("\r")) for n, line in enumerate(self._text().split("\n"), 1) if line.strip()]
        cuts = -1 if self.separator is None or not numbered else self._width(numbered[0][1]) - 1
        yield from self._picked((number, line.split(separator, cuts)) for number, line in numbered)

    def _csv(self) -> Iterator[tuple[int, Sequence[Any]]]:
        reader = csv.reader(io.StringIO(self._text(), newline=""), strict=True)
        try:
            yield from self._picked((reader.line_num, fields) for fields in reader if fields)
        except csv.Error as error:
            raise self._error(f"line {reader.line_num} is no CSV ({error})") from error

    def _jsonl(self) -> Iterator[tuple[int, Sequence[Any]]]:
        for number, line in enumerate(self._text().split("\n"), 1):
            if line.strip():
                yield number, self._of_object(number, line)

    def _of_object(self, number: int, line: str) -> list[Any]:
        try:
            content = json.loads(line)
        except json.JSONDecodeError as error:
            raise self._error(f"line {number} is no JSON ({error})") from error
        if not isinstance(content, Mapping):
            raise self._error(f"line {number} is no JSON object, such as {{...}}")
        return [content[self._named(key, column, content, number)] for key, column in self.columns.items()]

    def _parquet(self) -> Iterator[tuple[int, Sequence[Any]]]:
        try:
            schema = pq.read_schema(self.file)
            names = self._all_named(schema.names)
            table = pq.read_table(self.file, columns=names, partitioning=None)
        except (pa.ArrowException, OSError) as error:
            raise self._error(f"it is no whole parquet file ({error})") from error
        yield from _of_columns(schema, names, table)

    def _arrow(self) -> Iterator[tuple[int, Sequence[Any]]]:
        """Arrow's stream of record batches, which `datasets.save_to_disk` writes, or its file of them."""
        try:
            with pa.memory_map(str(self.file)) as content:
                whole = content.read(6) == b"ARROW1"
                content.seek(0)
                table = (pa.ipc.open_file if whole else pa.ipc.open_stream)(content).read_all()
        except (pa.ArrowException, OSError) as error:
            raise self._error(f"it is no whole arrow file ({error})") from error
        yield from _of_columns(table.schema, self._all_named(table.schema.names), table)

    def _picked(self, lines: Iterator[tuple[int, Sequence[str]]]) -> Iterator[tuple[int, Sequence[Any]]]:
        """Yield the chosen fields of each line; columns that are named need a header."""
        header: Sequence[str] = []
        if not all(isinstance(column, int) for column in self.columns.values()):
            _, header = next(lines, (0, []))
            self._check_header(header)
        places = [self._place(key, column, header) for key, column in self.columns.items()]
        for number, fields in lines:
            if len(fields) <= max(places):
                raise self._error(
                    f"line {number} has {len(fields)} fields, and {self._asked()} needs {max(places) + 1}"
                )
            if header and len(fields) > len(header):
                raise self._error(f"line {number} has {len(fields)} fields, and the header {len(header)}")
            yield number, [fields[place] for place in places]

    def _check_header(self, header: Sequence[str]) -> None:
        if not header:
            raise self._error("it is empty; a table has a line of column names and a line for each example")
        if twice := [
            name for name in self.columns.values() if [*header].count(str(name)) > 1 and isinstance(name, str)
        ]:
            raise self._error(f"it has two columns '{twice[0]}'; rename one of them")

    def _place(self, key: str, column: str | int, header: Sequence[str]) -> int:
        return column if isinstance(column, int) else list(header).index(self._named(key, column, header))

    def _all_named(self, names: Sequence[str]) -> list[str]:
        return [self._named(key, column, names) for key, column in self.columns.items()]

    def _named(
        self, key: str, column: str | int, names: Sequence[str] | Mapping[str, Any], line: int | None = None
    ) -> str:
        if isinstance(column, str) and column in names:
            return column
        where = self.file if line is None else f"{self.file}:{line}"
        way_out = f"it has {', '.join(map(repr, names))}; a position, from 0, stands for a column without a name"
        raise DataError(f"{key}={column}: {where} has no such column: {way_out}")

    def _width(self, first: str) -> int:
        """Return how many fields a line has: as many as the header, or as many as are asked for by position."""
        positions = [column for column in self.columns.values() if isinstance(column, int)]
        named = len(positions) < len(self.columns)
        return len(first.split(self.separator)) if named else 1 + max(positions)

    def _asked(self) -> str:
        return " ".join(f"{key}={column}" for key, column in self.columns.items())

    def _text(self) -> str:
        content = self.file.read_bytes()
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = content[: error.start].count(b"\n") + 1
            raise self._error(f"line {line} is not UTF-8; save the file as UTF-8") from error

    def _error(self, problem: str) -> DataError:
        return DataError(f"{self.key}={self.file}: {problem}")


def _of_columns(schema: pa.Schema, names: Sequence[str], table: pa.Table) -> Iterator[tuple[int, Sequence[Any]]]:
    """Yield the chosen columns row by row, classes by their names."""
    spelt = [_class_names(schema, name) for name in names]
    columns = [table.column(name).to_pylist() for name in names]
    for number, values in enumerate(zip(*columns, strict=True), 1):
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
