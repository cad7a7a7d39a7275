"""How a trial ended, read from its folder: the run itself wrote it there before it left."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from haps_search.records.remote import pulled
from haps_search.sweep.events import TrialEnded


def written_ending(number: int, folder: Path) -> TrialEnded | None:
    """The end of a run that reached its end or broke for good; None where it could go on."""
    pulled(folder)
    result, error = folder / "result.json", folder / "error.json"
    if result.exists():
        return TrialEnded(number, "finished", json.loads(result.read_text())["metrics"])
    if error.exists():
        note = json.loads(error.read_text())
        return TrialEnded(number, "failed", error=f"{note['kind']}: {note['message']}")
    return None


def stopped(number: int, last: Mapping[str, float]) -> TrialEnded:
    """The scheduler ended it; its last report stands."""
    return TrialEnded(number, "stopped", last)
