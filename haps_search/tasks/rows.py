"""A file as a stream of rows, whatever its format: one line, record, element or batch in memory at a time."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any

from haps_search.config.complaints import show
from haps_search.errors import ConfigError, DataError
from haps_search.tasks.json_array import ArrayBroken, elements
from haps_search.tasks.paths import root

ENDINGS = ".json, .jsonl, .ndjson, .csv, .tsv, .parquet, each but the last also with .gz"
DOCUMENT = ("data", "rows", "questions", "examples")
"""Where a JSON file is one object, its rows are the list under one of these keys, in any case."""
_LINES = (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")
_BATCH = 1024
_PEEKED = 10
_LONGEST_FIELD = 1 << 30  # csv's own limit of 128 KiB is shorter than some prompts
_BOM = b"\xef\xbb\xbf"
_NOT_UTF8 = "got bytes that are not UTF-8 (at byte {}), save the file as UTF-8"


Header = Callable[[Sequence[str]], Sequence[str] | None]


class BadRow(Exception):
    """One row's problem, without file and place. `kind` is what problems of its sort have in common.

    After a `final` one nothing of the file can be read.
    """

    def __init__(self, reason: str, kind: str = "", final: bool = False) -> None:
        super().__init__(reason)
        self.kind, self.final = kind or reason, final


@dataclass(frozen=True, slots=True)
class Row:
    """A value, or why it is none. `number` is its line, where `Rows.by_line`, else its own; `place` is for messages."""

    number: int
    place: str
    value: Any


@dataclass(frozen=True, slots=True)
class Rows:
    """A source's rows in its order. `columns` is None where only the rows know them (JSON)."""

    name: str
    columns: tuple[str, ...] | None
    by_line: bool
    stream: Iterator[Row]

    def where(self, number: int) -> str:
        """Where the row of a number stands, for messages."""
        return f"{self.name}:{number}" if self.by_line else f"{self.name}: row {number}"

    def close(self) -> None:
        """Let go of the file, where not all of it is wanted."""
        close = getattr(self.stream, "close", None)
        if close is not None:
            close()


def open_rows(path: Path, wanted: Sequence[str] | None = None, header: Header | None = None) -> Rows:
    """Open a file by its ending; one of another ending is JSON where it begins like it.

    Of Parquet only the columns that `wanted` paths begin in are read (None: all). Where `header` knows the columns of a
    CSV that begins with a given record, that is its first row and no header.

    Raises:
        ConfigError: no such file, or an ending that says nothing.
        DataError: not the format its ending says.
    """
    if not path.is_file():
        raise ConfigError(f"cannot read `{path}`: no such file; name one of {ENDINGS}")
    name = path.name.lower().removesuffix(".gz")
    if name.endswith(".csv"):
        return _csv(path, ",", header)
    if name.endswith(".tsv"):
        return _csv(path, "\t", header)
    if name.endswith(".parquet"):
        return _parquet(path, wanted)
    if name.endswith((".json", ".jsonl", ".ndjson")) or _begins_like_json(path):
        return Rows(str(path), None, _by_line(path), _json(path))
    raise ConfigError(f"`{path}`: got the ending {path.suffix or '(none)'}, needs one of {ENDINGS}")


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")  # type: ignore[return-value]


def _begins_like_json(path: Path) -> bool:
    return _start(path)[:1] in (b"{", b"[")


def _start(path: Path) -> bytes:
    with _open(path) as file:
        return file.read(1024).removeprefix(_BOM).lstrip()


def _by_line(path: Path) -> bool:
    """Whether a JSON file has a row per line, as far as its beginning says."""
    start = _start(path)
    return not start.startswith(b"[") and not _is_document(path, start.split(b"\n", 1)[0])


def _is_document(path: Path, line: bytes) -> bool:
    """Whether a first line is the beginning of an object that goes on in the next one."""
    goes_on = line.startswith(b"{") and line.rstrip().endswith((b"{", b"[", b",", b":"))
    return goes_on and not path.name.lower().endswith(_LINES)


def _json(path: Path) -> Iterator[Row]:
    """The rows of a JSON array, of an object that holds one, or of lines; blank lines are skipped."""
    try:
        listed = _start(path).startswith(b"[")
        with _open(path) as file:
            if listed:  # it may be one line, so it is never read as one
                yield from _array(file)
                return
            for number, line in enumerate(file, start=1):
                line = line.removeprefix(_BOM) if number == 1 else line
                if not line.strip():
                    continue
                rows = _document(line + file.read(), number) if _is_document(path, line.strip()) else None
                yield from _lines(file, line, number) if rows is None else rows
                return
    except OSError as error:
        raise ConfigError(f"cannot read `{path}` ({error.strerror or error})") from error


def _lines(file: IO[bytes], first: bytes, start: int) -> Iterator[Row]:
    value = _value(first)
    rest = enumerate(file, start + 1)
    following = next(((number, line) for number, line in rest if line.strip()), None)
    listed = _listed(value) if following is None else None
    if listed is not None:
        yield from (Row(number, f"row {number}", each) for number, each in enumerate(listed, start=1))
        return
    yield Row(start, str(start), value)
    if following is not None:
        yield Row(following[0], str(following[0]), _value(following[1]))
    yield from (Row(number, str(number), _value(line)) for number, line in rest if line.strip())


def _value(line: bytes) -> Any:
    try:
        return json.loads(line)
    except UnicodeDecodeError as error:
        return BadRow(_NOT_UTF8.format(error.start), "bytes that are not UTF-8")
    except json.JSONDecodeError as error:
        return BadRow(f"bad JSON ({error.msg} at character {error.pos + 1}), needs one object per line", "bad JSON")


def _document(content: bytes, line: int) -> Iterator[Row]:
    try:
        value = json.loads(content)
    except UnicodeDecodeError as error:
        yield Row(1, str(line), BadRow(_NOT_UTF8.format(error.start), "bytes that are not UTF-8", final=True))
        return
    except json.JSONDecodeError as error:
        reason = f"bad JSON ({error.msg} at character {error.pos + 1} of the file), needs one object or an array"
        yield Row(1, str(line + error.lineno - 1), BadRow(reason, "bad JSON", final=True))
        return
    listed = _listed(value)
    for number, each in enumerate([value] if listed is None else listed, start=1):
        yield Row(number, f"row {number}", each)


def _listed(value: Any) -> list[Any] | None:
    """The rows that a whole file's object holds; None where it is a row itself."""
    if not isinstance(value, dict):
        return None
    found = [each for key, each in value.items() if key.lower() in DOCUMENT and isinstance(each, list)]
    return found[0] if found and all(isinstance(each, dict) for each in found[0]) else None


def _array(file: IO[bytes]) -> Iterator[Row]:
    """Broken arrays are told once, since nothing after the break can be read."""
    number = 0
    try:
        begun = file.read(len(_BOM) + 1).removeprefix(_BOM)
        for number, (line, value) in enumerate(elements(file, begun), start=1):
            yield Row(number, f"{line} (row {number})", value)
    except ArrayBroken as problem:
        place = f"{problem.line} (row {number + 1})" if problem.inside else str(problem.line)
        yield Row(number + 1, place, BadRow(problem.reason, "bad JSON", final=True))


def _csv(path: Path, delimiter: str, header: Header | None) -> Rows:
    stream = _records(path, delimiter)
    first = next(stream, (1, []))
    known = None if header is None else header(first[1])
    names = first[1] if known is None else list(known)
    if not names:
        raise DataError(f"{path}:1: got no header, needs the names of the columns")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{path}:1: got the column `{twice[0]}` twice, needs different names")
    records = stream if known is None else chain([first], stream)
    rows = (Row(line, str(line), _named(names, values)) for line, values in records if values)
    return Rows(str(path), tuple(names), True, rows)


def _records(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The first line of each record, and its values."""
    csv.field_size_limit(_LONGEST_FIELD)
    with _open(path) as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as file:
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


def _named(header: Sequence[str], values: Sequence[str]) -> Mapping[str, Any] | BadRow:
    if len(values) != len(header):
        reason = f"got {len(values)} values, needs {len(header)} as in the header (is a quote missing?)"
        return BadRow(reason, "another number of values than the header has")
    return {name: value if value.strip() else None for name, value in zip(header, values, strict=True)}


def _parquet(path: Path, wanted: Sequence[str] | None) -> Rows:
    import pyarrow as pa  # not needed for text, and slow to load
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: not a Parquet file ({error})") from error
    columns = tuple(file.schema_arrow.names)
    kept = list(columns) if wanted is None else [name for name in columns if name in {root(w, columns) for w in wanted}]

    def batches() -> Iterator[Row]:
        number = 0
        try:
            for batch in file.iter_batches(_BATCH, columns=kept):
                for row in batch.to_pylist():
                    number += 1
                    yield Row(number, f"row {number}", row)
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(f"{path}: damaged after row {number} ({error})") from error
        finally:
            file.close()

    return Rows(str(path), columns, False, batches())


def at(name: str, place: str) -> str:
    """A source and a place in it, for messages."""
    return f"{name}: {place}" if place.startswith("row ") else f"{name}:{place}"


def objects(rows: Rows) -> Iterator[tuple[Row, Mapping[str, Any] | BadRow]]:
    """Each row as an object, or why it is none."""
    for row in rows.stream:
        if isinstance(row.value, BadRow | Mapping):
            yield row, row.value
        else:
            yield row, BadRow(f"got {show(row.value)}, needs a JSON object", "something else than an object")


def peeked(rows: Rows) -> tuple[Mapping[str, Any], Rows]:
    """The first row that is an object (empty where none of the first is one), and all rows."""
    before = list(islice(rows.stream, _PEEKED))
    first = next((row.value for row in before if isinstance(row.value, Mapping)), {})
    return first, replace(rows, stream=chain(before, rows.stream))
