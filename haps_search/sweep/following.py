"""What trials record, followed while it grows: by displays and by whoever copies it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from haps_search.records.jsonl import JsonlFollower
from haps_search.records.remote import LOOK_S, pulled
from haps_search.sweep.events import TrialRecord
from haps_search.sweep.layout import trial_folder


class Followed:
    """The metrics of a sweep's trials. In an object store only open trials are looked for; one that has ended, once."""

    def __init__(self, sweep: Path) -> None:
        self._sweep = sweep
        self._followers: dict[int, JsonlFollower] = {}
        self._whole: set[int] = set()

    def new(self, record: TrialRecord) -> tuple[list[dict[str, Any]], bool]:
        """New lines of steps, and whether they begin anew, as the run went back to a checkpoint.

        Raises:
            DataError: a complete line that is not a JSON object. PoolError: the store does not answer.
        """
        folder = self._brought(record)
        follower = self._followers.setdefault(record.number, JsonlFollower(folder / "metrics.jsonl"))
        restarts = follower.restarts
        lines = [line for line in follower.new() if "metrics" in line]
        return lines, follower.restarts > restarts

    def _brought(self, record: TrialRecord) -> Path:
        folder = trial_folder(self._sweep, record.number)
        if not record.ended:
            self._whole.discard(record.number)  # failed once, and begun again
            return pulled(folder, LOOK_S)
        if record.number not in self._whole:
            pulled(folder)
            self._whole.add(record.number)
        return folder
