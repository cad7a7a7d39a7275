"""What trials record, followed while it grows: by displays and by whoever copies it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from haps_search.records.jsonl import JsonlFollower
from haps_search.records.remote import LOOK_S, pulled
from haps_search.sweep.events import TrialRecord
from haps_search.sweep.layout import attempt_folder, trial_folder


class Followed:
    """The metrics of a sweep's trials. Only open ones are looked at, in files and in an object store; one that has
    ended, once more."""

    def __init__(self, sweep: Path) -> None:
        self._sweep = sweep
        self._followers: dict[int, tuple[Path, JsonlFollower]] = {}
        self._whole: set[int] = set()

    def new(self, record: TrialRecord) -> tuple[list[dict[str, Any]], bool]:
        """New lines of steps, and whether they begin anew, as the run went back to a checkpoint.

        Raises:
            DataError: a complete line that is not a JSON object. PoolError: the store does not answer.
        """
        number = record.number
        if not record.ended:
            self._whole.discard(number)  # it may have failed before
        elif number in self._whole:
            return [], False
        folder = run_folder(self._sweep, record, 0.0 if record.ended else LOOK_S)
        before, follower = self._followers.get(number, (folder, None))
        if follower is None or folder != before:  # the first look, or another attempt's
            follower = JsonlFollower(folder / "metrics.jsonl")
            self._followers[number] = folder, follower
        restarts = follower.restarts
        lines = [line for line in follower.new() if "metrics" in line]
        if record.ended:
            self._whole.add(number)
        return lines, follower.restarts > restarts or folder != before


def run_folder(sweep: Path, record: TrialRecord, every_s: float = 0.0) -> Path:
    """The folder that stands for a trial, its small files as an object store has them. Raises PoolError."""
    pulled(attempt_folder(sweep, record.number, record.attempts), every_s)
    return trial_folder(sweep, record.number)
