"""Trials that a person decides about: another chance for what has failed, no more for what is not worth it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from haps_search.errors import ConfigError
from haps_search.records.remote import dropped
from haps_search.records.run_folder import ERROR_FILE
from haps_search.sweep.events import TrialEnded, TrialRecord, TrialRetried
from haps_search.sweep.following import run_folder
from haps_search.sweep.hold import Hold
from haps_search.sweep.journal import Journal
from haps_search.verbs.find import sweep_journal

SKIPPED = "skipped: somebody decided so"


def retry(name: str, trials: Sequence[int] = (), runs: str | Path = "runs") -> tuple[int, ...]:
    """Give failed trials another chance, all of them where none is named: `resume` then goes on with them from their
    last checkpoint. Returns their numbers.

    Raises:
        ConfigError: no such sweep, a driver is at it, or a trial that has not failed.
    """
    journal = _held(runs, name)
    try:
        chosen = _chosen(journal, trials, lambda t: t.state == "failed", "has not failed") if trials else []
        chosen = chosen or [t for t in journal.trials() if t.state == "failed"]
        if not chosen:
            raise ConfigError("no trial has failed", f"sweep {name}")
        for trial in chosen:
            # Its own last word would end it again.
            dropped(run_folder(journal.folder, trial) / ERROR_FILE)
            journal.append(TrialRetried(trial.number))
    finally:
        journal.close()
    return tuple(trial.number for trial in chosen)


def skip(name: str, trials: Sequence[int], runs: str | Path = "runs") -> tuple[int, ...]:
    """Let trials that have not ended count as failed, so that the sweep goes on without them. Returns their numbers.

    Raises:
        ConfigError: no such sweep, a driver is at it, or a trial that has ended.
    """
    journal = _held(runs, name)
    try:
        chosen = _chosen(journal, trials, lambda t: not t.ended, "has ended")
        for trial in chosen:
            why = f"{SKIPPED}, after {trial.broke}" if trial.broke else SKIPPED
            journal.append(TrialEnded(trial.number, "failed", error=why, log=trial.log))
    finally:
        journal.close()
    return tuple(trial.number for trial in chosen)


def _held(runs: str | Path, name: str) -> Journal:
    folder = sweep_journal(runs, name).folder
    return Journal(folder, Hold(folder))


def _chosen(
    journal: Journal, numbers: Sequence[int], fits: Callable[[TrialRecord], bool], otherwise: str
) -> list[TrialRecord]:
    there = {trial.number: trial for trial in journal.trials()}
    problems = [f"there is no trial {n}; it has {len(there)}" for n in numbers if n not in there]
    problems += [f"trial {n} {otherwise}: it is {there[n].state}" for n in numbers if n in there and not fits(there[n])]
    if problems:
        raise ConfigError(problems, f"sweep {journal.folder.name}")
    return [there[n] for n in numbers]
