"""Which folder stands for a run: a trial that was begun again has one for each attempt, NAME, NAME.2, NAME.3."""

from __future__ import annotations

from pathlib import Path

TRIALS, DESCRIBED = "trials", "experiment.json"
"""A folder of a run without it is not there yet."""


def standing(first: Path) -> Path:
    """The folder of the highest attempt that is there, by that of the first, which it is itself where there is no other
    or where no trials lie."""
    if first.parent.name != TRIALS:
        return first
    later = [path for path in first.parent.glob(f"{first.name}.*") if path.suffix[1:].isdigit()]
    there = [path for path in later if (path / DESCRIBED).is_file()]
    return max(there, key=lambda path: int(path.suffix[1:]), default=first)
