"""Where a sweep keeps what: runs/NAME/{journal.jsonl,lock}, runs/NAME/trials/003/, inputs/, logs/."""

from __future__ import annotations

from pathlib import Path

JOURNAL = "journal.jsonl"


def trial_name(number: int) -> str:
    return f"{number:03d}"


def trial_folder(sweep: Path, number: int) -> Path:
    return sweep / "trials" / trial_name(number)


def sweep_of(trial: Path) -> Path:
    """The sweep's folder of a trial's."""
    return trial.parents[1]


def lock_file(sweep: Path) -> Path:
    return sweep / "lock"
