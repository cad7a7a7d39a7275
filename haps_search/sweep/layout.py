"""Where a sweep keeps what: runs/NAME/journal.jsonl, runs/NAME/trials/003/, runs/NAME/logs/."""

from __future__ import annotations

from pathlib import Path


def trial_name(number: int) -> str:
    return f"{number:03d}"


def trial_folder(sweep: Path, number: int) -> Path:
    return sweep / "trials" / trial_name(number)
