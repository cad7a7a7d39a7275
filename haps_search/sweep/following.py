"""What trials record, followed while it grows: by displays and by whoever copies it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from haps_search.records.jsonl import JsonlFollower
from haps_search.records.remote import LOOK_S, pulled
from haps_search.sweep.events import TrialRecord
from haps_search.sweep.layout import trial_folder


class Followed:
    """The metrics of a sweep's trials. Only open ones are looked at, in files and in an object store; one that has
    ended, once more."""

    def __init__(self, sweep: Path) -> None:
        self._sweep = sweep
        self._followers: dict[int, JsonlFollower] = {}
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
        folder = pulled(trial_folder(self._sweep, number), 0.0 if record.ended else LOOK_S)
        follower = self._followers.setdefault(number, JsonlFollower(folder / "metrics.jsonl"))
        restarts = follower.restarts
        lines = [line for line in follower.new() if "metrics" in line]
        if record.ended:
            self._whole.add(number)
        return lines, follower.restarts > restarts
