"""Where a sweep keeps what: runs/NAME/{journal.jsonl,lock}, runs/NAME/trials/003/, inputs/, logs/.

A trial that was begun again has its second attempt in trials/003.2, its third in trials/003.3: each writes in a folder
of its own, so that one that was taken for dead and lives can harm nothing.
"""

from __future__ import annotations

from pathlib import Path

from haps_search.records.standing import TRIALS, standing

JOURNAL = "journal.jsonl"


def trial_name(number: int) -> str:
    return f"{number:03d}"


def attempt_folder(sweep: Path, number: int, attempt: int) -> Path:
    """Where an attempt writes; they count from 1."""
    name = trial_name(number)
    return sweep / TRIALS / (name if attempt <= 1 else f"{name}.{attempt}")


def trial_folder(sweep: Path, number: int) -> Path:
    """What stands for a trial: the folder of its highest attempt that is there."""
    return standing(attempt_folder(sweep, number, 1))


def sweep_of(trial: Path) -> Path:
    """The sweep's folder of a trial's."""
    return trial.parents[1]


def lock_file(sweep: Path) -> Path:
    return sweep / "lock"
