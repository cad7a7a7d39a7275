"""What a report is made from: the journal, every run's own records, and what measuring left in the folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from haps_search.config.run import Experiment
from haps_search.config.sweep import Objective, Study
from haps_search.records.jsonl import read_records
from haps_search.report.stored import Fields, read_stored
from haps_search.sweep.ending import written_ending
from haps_search.sweep.events import SweepEnded, SweepStarted, TrialRecord
from haps_search.sweep.journal import Journal
from haps_search.sweep.layout import trial_folder
from haps_search.sweep.ranking import ranked

Points = tuple[tuple[int, Mapping[str, float]], ...]
"""(step, metrics) by step."""
STORED = (
    *("report.json", "compare-validation.json", "compare-test.json"),
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
        """Search trials with a result, best first."""
        return ranked(self.trials, self.objectives)

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
