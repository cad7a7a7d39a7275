"""The run's own log: a JSON object per line, appended, on disk before the call returns.

A step's line is `{"step": 7, "time": 1767225600.0, "metrics": {"reward": 0.5}}`, the last one
`{"step": 200, "time": ..., "status": "finished", "summary": {...}}`. JSON knows no NaN: metrics that are not
finite stand as the strings "nan", "inf" and "-inf". A kill can tear the last line; readers leave it out and
say so, the next writer cuts it off.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from haps_search.errors import DataError, TrackerError
from haps_search.faults.kinds import kind_of
from haps_search.records.tracker import Record, Status, StepGate

_log = logging.getLogger(__name__)
_FINGER = 256
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Lines:
    """The complete lines of a file; `torn` is what a killed writer left of a last one, empty where whole."""

    fields: tuple[dict[str, Any], ...]
    torn: str = ""


def read_lines(path: Path) -> Lines:
    """All complete lines; none where there is no file.

    Raises:
        DataError: a complete line that is not a JSON object, with file and line number.
    """
    data = path.read_bytes() if path.exists() else b""
    whole = data.rfind(b"\n") + 1
    return Lines(tuple(_parse(data[:whole], path)), data[whole:].decode(errors="replace"))


def read_records(path: Path) -> list[Record]:
    """The step records of a run, in file order. A torn last line is left out with a warning.

    Raises:
        DataError: a complete line that is not a JSON object, with file and line number.
    """
    lines = read_lines(path)
    if lines.torn:
        _log.warning("%s: the last line is torn and left out (%d characters)", path, len(lines.torn))
    return [
        Record(fields["step"], decode_metrics(fields["metrics"]), fields["time"])
        for fields in lines.fields
        if "metrics" in fields
    ]


def truncate_after(path: Path, step: int) -> int:
    """Drop the lines of steps above `step` and the run's ending; returns how many lines went.

    For any file whose lines carry a `step`; lines without one stay. Written aside and renamed.
    """
    lines = read_lines(path)
    kept = [fields for fields in lines.fields if "status" not in fields and fields.get("step", -1) <= step]
    dropped = len(lines.fields) - len(kept)
    if dropped or lines.torn:
        aside = path.with_name(f"{path.name}.tmp-{os.getpid()}")
        try:
            with aside.open("wb") as file:
                file.write(b"".join(_line(fields) for fields in kept))
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
    return dropped


def encode_metrics(metrics: Mapping[str, float]) -> dict[str, float | str]:
    """Metrics for strict JSON: what is not finite becomes "nan", "inf" or "-inf"."""
    return {name: value if math.isfinite(value) else str(value) for name, value in metrics.items()}


def decode_metrics(metrics: Mapping[str, float | str]) -> dict[str, float]:
    """The inverse of `encode_metrics`."""
    return {name: float(value) for name, value in metrics.items()}


class JsonlWriter:
    """Appends lines. What the disk did not take is kept, counted and tried again at the next call."""

    def __init__(self, path: Path) -> None:
        """Opens the file, made with its folders where missing, and cuts a torn last line off.

        Raises:
            TrackerError: the file cannot be opened for writing.
        """
        self._path = path
        self._pending: list[bytes] = []
        self._half = False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._open()
        except OSError as error:
            raise TrackerError(
                f"{path}: cannot be written ({error}); free the place or choose another runs folder"
            ).of_kind(kind_of(error)) from error

    @property
    def missed(self) -> int:
        """Lines that are not on disk."""
        return len(self._pending)

    def append(self, fields: Mapping[str, Any]) -> None:
        """Add a line. `fields` is strict JSON: finite numbers, string keys."""
        self._pending.append(_line(fields))
        self._flush()

    def truncate_after(self, step: int) -> int:
        """`truncate_after` on the open file."""
        dropped = truncate_after(self._path, step)
        self.close()
        self._open()
        return dropped

    def close(self) -> None:
        """Try once more what is missed, and close."""
        if not self._file.closed:
            self._flush()
            self._file.close()

    def _open(self) -> None:
        self._file: BinaryIO = self._path.open("ab", buffering=0)
        self._whole = self._path.read_bytes().rfind(b"\n") + 1
        self._half = True  # whatever a killed writer left behind the last newline goes first
        self._flush()

    def settle(self) -> None:
        """Write what is missed. Raises OSError where the disk still does not take it."""
        if self._half:
            self._file.truncate(self._whole)
            self._half = False
        while self._pending:
            self._write(self._pending[0])
            del self._pending[0]

    def _flush(self) -> None:
        try:
            self.settle()
        except OSError as error:
            _log.warning("%s: %d lines wait to be written: %s", self._path, self.missed, error)

    def _write(self, line: bytes) -> None:
        self._half = True
        rest = memoryview(line)
        while rest:  # a disk that takes a part of it says why with the next part
            rest = rest[self._file.write(rest) :]
        self._half = False
        self._whole += len(line)


class JsonlTracker:
    """The Tracker that is always on."""

    def __init__(self, path: Path) -> None:
        """Continues the file where there is one.

        Raises:
            TrackerError: the file cannot be opened for writing.
            DataError: it holds a line that is not a JSON object.
        """
        self._writer = JsonlWriter(path)
        self._path = path
        self._gate = StepGate(self._read_last_step())

    @property
    def last_step(self) -> int:
        return self._read_last_step() if self._writer.missed else self._gate.highest

    @property
    def missed(self) -> int:
        return self._writer.missed

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.log_many([Record.now(step, metrics)])

    def log_many(self, records: Sequence[Record]) -> None:
        for record in records:
            if self._gate.admit(record.step):
                self._writer.append(
                    {"step": record.step, "time": record.time, "metrics": encode_metrics(record.metrics)}
                )

    def settle(self) -> None:
        """Write what is missed. Raises OSError where the disk still does not take it."""
        self._writer.settle()

    def finish(self, status: Status, summary: Mapping[str, float], reason: str = "") -> None:
        ending = {"step": self._gate.highest, "time": time.time(), "status": status}
        why = {"reason": reason} if reason else {}
        self._writer.append({**ending, "summary": encode_metrics(summary), **why})
        self._writer.close()

    def truncate_after(self, step: int) -> int:
        """Before a resume from the checkpoint of `step`: forget what came after it, so that no step is
        there twice. Returns how many lines went."""
        dropped = self._writer.truncate_after(step)
        self._gate = StepGate(self._read_last_step())
        return dropped

    def _read_last_step(self) -> int:
        return max((record.step for record in read_records(self._path)), default=-1)


class LineFollower:
    """Reads a file that grows: each call gives the complete lines since the last one.

    A file that was replaced or cut short is read from its start again; `restarts` counts that.
    """

    def __init__(self, path: Path) -> None:
        self.restarts = 0
        self._path = path
        self._offset = self._lines = 0
        self._finger = b""

    def read(self, parse: Callable[[bytes, int], T]) -> list[T]:
        """What `parse` makes of complete new lines and their numbers, none while there is no file.

        Where it raises, none of them counts as read.
        """
        try:
            with self._path.open("rb") as file:
                self._restart_if_replaced(file)
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            if self._offset:
                self._restart()
            return []
        data = data[: data.rfind(b"\n") + 1]
        lines = data.split(b"\n")[:-1]
        parsed = [parse(line, number) for number, line in enumerate(lines, start=self._lines + 1)]
        self._offset += len(data)
        self._lines += len(parsed)
        self._finger = (self._finger + data)[-_FINGER:]
        return parsed

    def _restart_if_replaced(self, file: BinaryIO) -> None:
        """What was read last must still stand there; an inode may come back, these bytes hardly do."""
        file.seek(self._offset - len(self._finger))
        if file.read(len(self._finger)) != self._finger:
            self._restart()

    def _restart(self) -> None:
        self.restarts += 1
        self._offset, self._lines, self._finger = 0, 0, b""


class JsonlFollower(LineFollower):
    """The same for JSON objects."""

    def new(self) -> list[dict[str, Any]]:
        """Complete new lines, none while there is no file.

        Raises:
            DataError: a complete line that is not a JSON object.
        """
        return self.read(lambda line, number: _parse_line(line, self._path, number))


def _line(fields: Mapping[str, Any]) -> bytes:
    return (json.dumps(fields, allow_nan=False) + "\n").encode()


def _parse(data: bytes, path: Path) -> list[dict[str, Any]]:
    return [_parse_line(line, path, number) for number, line in enumerate(data.split(b"\n")[:-1], start=1)]


def _parse_line(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        fields = json.loads(line)
    except ValueError as error:
        raise DataError(f"{path}:{number}: not JSON ({error}); repair or delete the line") from error
    if not isinstance(fields, dict):
        raise DataError(f"{path}:{number}: needs a JSON object, got {type(fields).__name__}; delete the line")
    return fields
