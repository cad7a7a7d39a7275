"""A file as a stream of rows: one line, one record or one batch in memory at a time."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from haps_search.config.complaints import show
from haps_search.errors import ConfigError, DataError

Row = Mapping[str, Any]
ENDINGS = ".jsonl, .ndjson, .csv, .tsv, .parquet"
_BATCH = 1024
_LONGEST_FIELD = 1 << 30  # csv's own limit of 128 KiB is shorter than some prompts


class BadRow(Exception):
    """One row's problem, without file and line."""


@dataclass(frozen=True, slots=True)
class Rows:
    """`stream` gives (line, row), or the problem of a row that cannot be read. `columns` is None for JSONL.

    Lines count from 1; in Parquet, which has none, rows do.
    """

    columns: tuple[str, ...] | None
    stream: Iterator[tuple[int, Row | BadRow]]


def open_rows(path: Path, wanted: Sequence[str] | None = None) -> Rows:
    """Open a table; of Parquet only the `wanted` columns are read (None: all).

    Raises:
        ConfigError: no such file, or an ending that says nothing.
        DataError: not the format its ending says.
    """
    if not path.is_file():
        raise ConfigError(f"cannot read `{path}`: no such file; name a table ({ENDINGS})")
    match path.suffix.lower():
        case ".jsonl" | ".ndjson":
            return Rows(None, _jsonl(path))
        case ".csv":
            return _csv(path, ",")
        case ".tsv":
            return _csv(path, "\t")
        case ".parquet":
            return _parquet(path, wanted)
    raise ConfigError(f"`{path}`: got the ending {path.suffix or '(none)'}, needs one of {ENDINGS}")


def place(path: Path, number: int) -> str:
    """Where a row stands, for messages."""
    return f"{path}: row {number}" if path.suffix.lower() == ".parquet" else f"{path}:{number}"


def _jsonl(path: Path) -> Iterator[tuple[int, Row | BadRow]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if line.strip():
                yield number, _object(line)


def _object(line: bytes) -> Row | BadRow:
    try:
        row = json.loads(line)
    except UnicodeDecodeError as error:
        return BadRow(f"got bytes that are not UTF-8 (at byte {error.start}), save the file as UTF-8")
    except json.JSONDecodeError as error:
        return BadRow(f"bad JSON ({error.msg} at character {error.pos + 1}), needs one object per line")
    return row if isinstance(row, dict) else BadRow(f"got {show(row)}, needs a JSON object")


def _csv(path: Path, delimiter: str) -> Rows:
    stream = _records(path, delimiter)
    _, header = next(stream, (1, []))
    if not header:
        raise DataError(f"{path}:1: got no header, needs the names of the columns")
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise DataError(f"{path}:1: got the column `{twice[0]}` twice, needs different names")
    return Rows(tuple(header), ((line, _named(header, values)) for line, values in stream if values))


def _records(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The first line of each record, and its values."""
    csv.field_size_limit(_LONGEST_FIELD)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        line = 1
        try:
            for values in reader:
                yield line, values
                line = reader.line_num + 1
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path}:{line}: got bytes here or soon after that are not UTF-8, save it as UTF-8"
            ) from error
        except csv.Error as error:
            raise DataError(f"{path}:{line}: not valid CSV ({error})") from error


def _named(header: Sequence[str], values: Sequence[str]) -> Row | BadRow:
    if len(values) != len(header):
        return BadRow(f"got {len(values)} values, needs {len(header)} as in the header (is a quote missing?)")
    return {name: value if value.strip() else None for name, value in zip(header, values, strict=True)}


def _parquet(path: Path, wanted: Sequence[str] | None) -> Rows:
    try:
        file = pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: not a Parquet file ({error})") from error
    columns = tuple(file.schema_arrow.names)
    kept = [name for name in columns if wanted is None or name in wanted]
    return Rows(columns, _batches(file, path, kept))


def _batches(file: pq.ParquetFile, path: Path, columns: Sequence[str]) -> Iterator[tuple[int, Row]]:
    number = 0
    try:
        for batch in file.iter_batches(_BATCH, columns=list(columns)):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: damaged after row {number} ({error})") from error
    finally:
        file.close()
