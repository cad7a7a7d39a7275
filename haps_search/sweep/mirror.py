"""Copies what runs record into another tracker, such as MLflow, from the one process that drives the sweep.

The runs' own JSONL is complete and on disk first; what a tracker has is read from the tracker itself. So
nothing depends on when either was killed: what is missing is sent, what is there is not sent again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from haps_search.errors import TrackerError
from haps_search.records.jsonl import decode_metrics
from haps_search.records.tracker import Record, Status
from haps_search.sweep.events import TrialRecord
from haps_search.sweep.following import Followed
from haps_search.sweep.journal import Journal
from haps_search.sweep.layout import trial_name

_log = logging.getLogger(__name__)


class BatchTracker(Protocol):
    """What the mirror needs of a tracker."""

    @property
    def last_step(self) -> int: ...

    @property
    def missed(self) -> int: ...

    def log_many(self, records: list[Record]) -> None: ...

    def finish(self, status: Status, summary: Mapping[str, float], reason: str = "") -> None: ...


OpenTracker = Callable[[str, Mapping[str, Any]], BatchTracker]
"""Trial name and parameters -> its tracker."""


class Mirror:
    """Call `tick` now and then, and once at the end."""

    def __init__(self, journal: Journal, open_tracker: OpenTracker) -> None:
        self._journal, self._open = journal, open_tracker
        self._trackers: dict[int, BatchTracker] = {}
        self._followed = Followed(journal.folder)
        self._sent: dict[int, int] = {}
        self._finished: set[int] = set()
        self._closed: set[int] = set()

    def tick(self, last: bool = False) -> bool:
        """Send what is new; False where trials that ended are not closed in their trackers.

        A trial whose tracker cannot be opened now is tried again at the next call. In the `last` call of a driver also
        a tracker that failed shortly before is asked once more.
        """
        open_ends = False
        for record in self._journal.trials():
            if record.number not in self._closed and record.attempts:
                try:
                    self._advance(record, last)
                except TrackerError as error:
                    _log.warning("trial %d waits for its tracker: %s", record.number, error)
                open_ends |= record.ended and record.number not in self._closed
        return not open_ends

    @property
    def missed(self) -> int:
        """Records that the trackers have not taken."""
        return sum(t.missed for t in self._trackers.values())

    def _advance(self, record: TrialRecord, last: bool) -> None:
        number, tracker = record.number, self._tracker(record)
        lines, _ = self._followed.new(record)
        new = [line for line in lines if line["step"] > self._sent[number]]
        records = [Record(line["step"], decode_metrics(line["metrics"]), line["time"]) for line in new]
        if records or tracker.missed:
            tracker.log_many(records)
        if records:
            self._sent[number] = records[-1].step
        if record.ended and (last or number not in self._finished or not tracker.missed):
            tracker.finish(_status(record), record.metrics, _reason(record))
            self._finished.add(number)
            if not tracker.missed:
                self._closed.add(number)

    def _tracker(self, record: TrialRecord) -> BatchTracker:
        if record.number not in self._trackers:
            described = {"kind": record.kind, "label": record.label, "seed": record.seed}
            tracker = self._open(trial_name(record.number), {**record.parameters, **described})
            self._trackers[record.number] = tracker
            self._sent[record.number] = tracker.last_step
        return self._trackers[record.number]


def _reason(record: TrialRecord) -> str:
    """Why it failed, and what it printed last."""
    return "\n".join([record.error or "", *record.log]) if record.state == "failed" else ""


def _status(record: TrialRecord) -> Status:
    if record.state == "finished" or record.state == "stopped":
        return record.state
    return "failed"
