"""TensorBoard, as a Tracker: a folder of event files per run, one event per step with all its metrics.

Event files are read back for what is kept: each process begins one of its own, and a record that a kill tore stands
last in its file, where every reader leaves it out.
"""

from __future__ import annotations

import json
import logging
import os
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import Any

from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import masked_crc32c
from tensorboardX.summary import hparams, text

from haps_search.errors import TrackerError
from haps_search.records.tracker import Record, Status, StepGate

SUMMARY = "summary/"
"""Before the names of a run's summary metrics, as in MLflow."""
_LENGTH, _CHECK = struct.Struct("<Q"), struct.Struct("<I")
Ending = tuple[str, dict[str, bytes]]
"""A run's status with the reason, and its summary."""
_log = logging.getLogger(__name__)


class TensorboardTracker:
    """What the disk did not take is kept, counted and tried again at the next call."""

    def __init__(self, folder: Path, parameters: Mapping[str, Any]) -> None:
        """Continues the folder's run where there is one. One that has ended gets a file when there is more to say.

        Raises:
            TrackerError: the folder cannot be written or read.
        """
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            kept, self._ended = _kept(folder)
            self._file = folder / f"events.out.tfevents.{time.time():.6f}.{os.getpid()}"
            self._stream = None if self._ended else self._file.open("xb", buffering=0)
        except OSError as error:
            raise TrackerError(
                f"{folder}: cannot be written ({error}); leave tensorboard out of tracking.also"
            ) from error
        self._whole, self._kept, self._gate = 0, kept, StepGate(kept)
        self._pending: list[tuple[int, bytes]] = []
        self._parameters = parameters
        if self._stream:
            self._queue(-1, _version())
            self._send()

    @property
    def last_step(self) -> int:
        return self._kept

    @property
    def missed(self) -> int:
        return len(self._pending)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.log_many([Record.now(step, metrics)])

    def log_many(self, records: Sequence[Record]) -> None:
        for record in records:
            if self._gate.admit(record.step):
                event = Event(wall_time=record.time, step=record.step, summary=_scalars(record.metrics))
                self._queue(record.step, event)
                self._ended = None
        self._send()

    def finish(self, status: Status, summary: Mapping[str, float], reason: str = "") -> None:
        """The summary as scalars, and as the metrics of the parameters' page (HPARAMS). What has ended so already is
        left as it is."""
        now, step = time.time(), max(self._gate.highest, 0)
        named = {f"{SUMMARY}{name}": value for name, value in summary.items()}
        ended = f"{status}: {reason}" if reason else status
        ending = ended, _stored(_scalars(named))
        if self._ended == ending:
            self._send()
            return
        self._ended = ending
        shown = {name: _shown(value) for name, value in self._parameters.items()}
        for part in (*hparams(shown, named), _scalars(named)):
            self._queue(-1, Event(wall_time=now, step=step, summary=part))
        self._queue(-1, Event(wall_time=now, step=step, summary=text("status", ended)))
        self._send()

    def _queue(self, step: int, event: Event) -> None:
        self._pending.append((step, _framed(event)))

    def _send(self) -> None:
        if not self._pending:
            return
        try:
            if self._stream is None:
                self._stream = self._file.open("xb", buffering=0)
                self._pending.insert(0, (-1, _framed(_version())))
            self._stream.truncate(self._whole)
            self._stream.seek(self._whole)
            while self._pending:
                step, data = self._pending[0]
                self._write(self._stream, data)
                self._whole += len(data)
                self._kept = max(self._kept, step)
                del self._pending[0]
        except OSError as error:
            _log.warning("%s: %d records wait to be written: %s", self._file, self.missed, error)

    @staticmethod
    def _write(stream: FileIO, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[stream.write(rest) :]


def framed(data: bytes) -> bytes:
    """A TFRecord: length, its check, the data, its check."""
    length = _LENGTH.pack(len(data))
    return length + _CHECK.pack(masked_crc32c(length)) + data + _CHECK.pack(masked_crc32c(data))


def read_events(folder: Path) -> Iterator[Event]:
    """All whole events of a folder, file by file in the order they were begun."""
    for file in sorted(folder.glob("events.out.tfevents.*")):
        data, at = file.read_bytes(), 0
        while at + 12 <= len(data):
            (size,) = _LENGTH.unpack_from(data, at)
            end = at + 12 + size + 4
            body = data[at + 12 : end - 4]
            if end > len(data) or _CHECK.unpack_from(data, end - 4)[0] != masked_crc32c(body):
                break
            yield Event.FromString(body)
            at = end


def _framed(event: Event) -> bytes:
    return framed(event.SerializeToString())


def _version() -> Event:
    return Event(wall_time=time.time(), file_version="brain.Event:2")


def _kept(folder: Path) -> tuple[int, Ending | None]:
    """The highest step of a folder, and how its run has ended; None where steps came after that, or it has not."""
    kept, ended, summary = -1, None, dict[str, bytes]()
    for event in read_events(folder):
        if _is_step(event):
            kept, ended = max(kept, event.step), None
        summary |= _stored(event.summary)
        for value in event.summary.value:
            if value.tag.startswith("status"):
                ended, summary = (value.tensor.string_val[0].decode(), summary), {}
    return kept, ended


def _stored(found: Summary) -> dict[str, bytes]:
    """A summary's scalars as they are in a file: narrowed to 32 bits, and NaN is NaN."""
    own = (value for value in found.value if value.HasField("simple_value") and value.tag.startswith(SUMMARY))
    return {value.tag: struct.pack("<f", value.simple_value) for value in own}


def _is_step(event: Event) -> bool:
    """Whether it holds a step's metrics, not a summary's or a status."""
    return any(v.HasField("simple_value") and not v.tag.startswith(SUMMARY) for v in event.summary.value)


def _scalars(metrics: Mapping[str, float]) -> Summary:
    return Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in metrics.items()])


def _shown(value: Any) -> str | float | bool:
    return value if isinstance(value, str | int | float | bool) else json.dumps(value, default=str)
