"""From what a user types to a sweep or a run."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from haps_search.config.anchors import renamed_in
from haps_search.config.base import NAME
from haps_search.config.run import Experiment
from haps_search.config.schema import nearest
from haps_search.errors import ConfigError
from haps_search.records.remote import remote_of
from haps_search.records.standing import standing
from haps_search.sweep.hold import fetched
from haps_search.sweep.inputs import at_hand
from haps_search.sweep.journal import Journal
from haps_search.sweep.layout import sweep_of, trial_folder
from haps_search.sweep.progress import single_runs, sweeps
from haps_search.sweep.ranking import best_first


@dataclass(frozen=True)
class FoundRun:
    """A run's folder and its configuration."""

    folder: Path
    experiment: Experiment


def runs_folder(given: str | Path) -> Path:
    """A folder, or the working folder that stands for `s3://...` or `gs://...`. Raises ConfigError."""
    text = str(given)
    if "://" not in text:
        return Path(text)
    from haps_search.records.remote import working_folder

    return working_folder(text)


def named_folder(runs: str | Path, name: str) -> Path:
    """The folder of a sweep or run of that name, there or not.

    Raises:
        ConfigError: a name that could lead out of the runs folder, or hide there.
    """
    if not re.fullmatch(NAME, name):
        raise ConfigError(f"got the name {name!r}, needs letters, digits, `_`, `-` and `.`, and no `.` or `-` first")
    return runs_folder(runs).resolve() / name


def sweep_journal(runs: str | Path, name: str) -> Journal:
    """Raises ConfigError with the nearest name where there is no such sweep."""
    journal = Journal(fetched(named_folder(runs, name)))
    if journal.started() is None:
        raise ConfigError(f"no sweep {name} under {runs}; {_near(name, sweeps(runs_folder(runs)))}")
    return journal


def folder_of(runs: str | Path, name: str) -> Path:
    """The folder of a sweep or a single run. Raises ConfigError with the nearest name where there is neither."""
    folder = fetched(named_folder(runs, name))
    if Journal(folder).started() is None and not (folder / "experiment.json").exists():
        known = [*sweeps(runs_folder(runs)), *single_runs(runs_folder(runs))]
        raise ConfigError(f"no sweep or run {name} under {runs}; {_near(name, known)}")
    return folder


def find_run(runs: str | Path, text: str) -> FoundRun:
    """A run's folder, NAME/NUMBER, or NAME for the best trial of a sweep. Raises ConfigError."""
    direct, runs = standing(Path(text)), runs_folder(runs)
    if (direct / "experiment.json").exists():
        return _run(direct.resolve())
    name, _, number = text.partition("/")
    if re.fullmatch(NAME, name):
        fetched(runs.resolve() / name)
    single = standing(runs.resolve() / text)
    if (single / "experiment.json").exists():
        return _run(single)
    journal = sweep_journal(runs, name)
    if number:
        if not number.isdigit():
            raise ConfigError(f"{text}: expected NAME/NUMBER, got {number!r} for the trial's number")
        folder = trial_folder(journal.folder, int(number))
        if not (folder / "experiment.json").exists():
            raise ConfigError(f"sweep {name} has no trial {number}; `haps status {name}` lists them")
        return _run(folder)
    best = best_first(journal.study(), journal.trials())
    if not best:
        raise ConfigError(f"sweep {name} has no trial with results yet; `haps status {name}` shows how far it is")
    return _run(trial_folder(journal.folder, best[0].number))


def _near(name: str, known: list[str]) -> str:
    close = nearest(name, known)
    if close is not None:
        return f"did you mean {close}?"
    return f"`haps status` lists the {len(known)} that are there" if known else "there are none yet"


def _run(folder: Path) -> FoundRun:
    from haps_search.records.run_folder import RunFolder  # torch, which a name that is not there needs not

    experiment = RunFolder.experiment_of(folder)
    return FoundRun(folder, renamed_in(experiment, at_hand(sweep_of(folder))) if remote_of(folder) else experiment)
