"""JSON files that measuring left in a run's folder, read with the place of whatever is wrong in them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from haps_search.config.constraints import Constraint
from haps_search.config.run import Experiment
from haps_search.config.sweep import Objective, Study
from haps_search.errors import DataError
from haps_search.records.jsonl import read_records
from haps_search.report.shape import Cell
from haps_search.sweep.events import SweepEnded, SweepStarted, TrialRecord, written_ending
from haps_search.sweep.journal import Journal
from haps_search.sweep.layout import trial_folder
from haps_search.sweep.ranking import best_first, ranked


@dataclass(frozen=True, slots=True)
class Fields:
    """A JSON object and where it stands; reading a field that is not as needed raises DataError."""

    place: str
    content: Mapping[str, Any]

    def objects(self, name: str) -> list[Fields]:
        """A list of objects, each with its own place."""
        found = self.content.get(name)
        if not isinstance(found, list):
            raise self._wrong(name, "a list of objects", found)
        return [_fields(f"{self.place}, {name}[{index}]", each) for index, each in enumerate(found)]

    def text(self, name: str) -> str:
        found = self.content.get(name)
        if not isinstance(found, str):
            raise self._wrong(name, "a text", found)
        return found

    def number(self, name: str) -> float:
        found = self.maybe(name)
        if found is None:
            raise self._wrong(name, "a finite number", self.content.get(name))
        return found

    def maybe(self, name: str) -> float | None:
        """A number, or None where it is absent, null or not finite."""
        found = self.content.get(name)
        if found is None:
            return None
        if isinstance(found, bool) or not isinstance(found, int | float):
            raise self._wrong(name, "a number or null", found)
        return float(found) if math.isfinite(found) else None

    def cell(self, name: str) -> Cell:
        """A text, a whole number, a number, or None where it is absent, null or not finite."""
        found = self.content.get(name)
        if isinstance(found, str) or (isinstance(found, int) and not isinstance(found, bool)):
            return found
        return self.maybe(name)

    def object(self, name: str) -> Fields:
        return _fields(f"{self.place}, {name}", self.content.get(name))

    def has(self, name: str) -> bool:
        return self.content.get(name) is not None

    def _wrong(self, name: str, needed: str, got: Any) -> DataError:
        shown = "nothing" if got is None else json.dumps(got)[:60]
        return DataError(f"{self.place}: field {name}: needs {needed}, got {shown}; measure again or remove the file")


def read_stored(file: Path) -> Fields | None:
    """The object of a JSON file, None where there is no file. Raises DataError where it is damaged."""
    if not file.exists():
        return None
    try:
        return _fields(str(file), json.loads(file.read_bytes()))
    except ValueError as error:
        raise DataError(f"{file}: not JSON ({error}); measure again or remove the file") from error


def _fields(place: str, content: Any) -> Fields:
    if not isinstance(content, dict):
        raise DataError(f"{place}: needs a JSON object, got {type(content).__name__}; measure again or remove the file")
    return Fields(place, content)


Points = tuple[tuple[int, Mapping[str, float]], ...]
"""(step, metrics) by step."""
STORED = (
    *("report.json", "table-test.json", "compare-validation.json", "compare-test.json"),
    *("references.json", "curve.json", "tasks.json", "calibration.json"),
)


@dataclass(frozen=True, slots=True)
class Source:
    """Everything a report shows. A single run is one trial, number 0, without a study."""

    name: str
    folder: Path
    kind: Literal["sweep", "run"]
    experiment: Experiment
    study: Study | None
    started: SweepStarted | None
    ended: SweepEnded | None
    trials: tuple[TrialRecord, ...]
    records: Mapping[int, Points]
    stored: Mapping[str, Fields]

    @property
    def objectives(self) -> tuple[Objective, ...]:
        return self.study.sweep.objectives if self.study else (Objective(),)

    @property
    def ranked(self) -> list[TrialRecord]:
        """Searched settings with a result, best first."""
        return best_first(self.study, self.trials) if self.study else ranked(self.trials, self.objectives)

    @property
    def constraints(self) -> tuple[Constraint, ...]:
        return self.study.sweep.limits if self.study else ()

    @property
    def arms(self) -> tuple[str, ...]:
        """Labels of the arms in the study's order, empty for a search and a single run."""
        return tuple(self.study.arms) if self.study else ()

    def of(self, trial: TrialRecord) -> Points:
        return self.records.get(trial.number, ())


def read_sweep(journal: Journal) -> Source:
    """A sweep in any state; also while it runs.

    Raises:
        ConfigError: no sweep here. DataError: a damaged file, with its place.
    """
    study, trials = journal.study(), tuple(journal.trials())
    records = {t.number: _points(trial_folder(journal.folder, t.number)) or t.reports for t in trials}
    return Source(
        journal.folder.name,
        journal.folder,
        "sweep",
        study.experiment,
        study,
        journal.started(),
        journal.ended(),
        trials,
        records,
        _stored(journal.folder),
    )


def read_run(folder: Path, experiment: Experiment) -> Source:
    """A single run in any state. Raises DataError for a damaged file."""
    end, points = written_ending(0, folder), _points(folder)
    state = end.state if end else "running"
    metrics = end.metrics if end else {}
    trial = TrialRecord(
        0, {}, experiment.run.seed, "search", "", state, points, metrics, end.error if end else None, attempts=1
    )
    return Source(
        folder.name, folder, "run", experiment, None, None, None, (trial,), {0: points}, _stored(folder)
    )  # fmt: skip


def reason(source: Source) -> str:
    """Why a single run ended, empty while it has not."""
    file = source.folder / "result.json"
    return str(json.loads(file.read_text()).get("reason", "")) if file.exists() else ""


def _points(folder: Path) -> Points:
    return tuple((record.step, record.metrics) for record in read_records(folder / "metrics.jsonl"))


def _stored(folder: Path) -> dict[str, Fields]:
    found = {name: read_stored(folder / name) for name in STORED}
    return {name: fields for name, fields in found.items() if fields is not None}
