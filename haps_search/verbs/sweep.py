"""Search a study's space, or run its arms; and go on with what was begun."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from haps_search.config.anchors import unplaced
from haps_search.config.load import dump, parse_study
from haps_search.config.samplers import TpeSampler
from haps_search.config.sweep import Study
from haps_search.engines.placement.precision import settled
from haps_search.evaluation.comparison import Row, row_of
from haps_search.records.sealed import replace_text
from haps_search.report.source import read_sweep
from haps_search.sweep.events import SweepEnded, TrialRecord
from haps_search.sweep.hold import fetched
from haps_search.sweep.inputs import all_at_hand, kept
from haps_search.sweep.journal import Journal, differences
from haps_search.sweep.layout import trial_folder
from haps_search.sweep.opponents import Search, opponents, spent, trials_each
from haps_search.sweep.prior import Prior, prior_of
from haps_search.sweep.progress import planned_trials
from haps_search.sweep.ranking import best_first, broken
from haps_search.sweep.repeats import groups
from haps_search.sweep.settings import QUESTIONS, arms, missing, with_dtypes_of, with_questions_of
from haps_search.tasks.own import hold_task, with_task
from haps_search.tasks.task import Task
from haps_search.verbs.compare import ArmsComparison, measure_arms, stored_arms
from haps_search.verbs.driver import Driver, driven, no_result, profile_of
from haps_search.verbs.events import Report, Said, silent
from haps_search.verbs.find import named_folder, sweep_journal
from haps_search.verbs.frames import comparison_frame, page, trials_frame
from haps_search.verbs.table import measured_rows
from haps_search.verbs.tracking import tracking_uri
from haps_search.version import __version__

if TYPE_CHECKING:
    from pandas import DataFrame

REPORT = "report.json"


@dataclass(frozen=True)
class SweepResult:
    """A sweep that has ended. `records` are all its trials, `rows` the comparison, the best trial's row last; a study
    of arms has neither rows nor a best trial, and `arms` where its comparison is on."""

    name: str
    folder: Path
    study: Study
    records: tuple[TrialRecord, ...]
    rows: tuple[Row, ...]
    best: TrialRecord | None
    arms: ArmsComparison | None
    tracking_uri: str | None
    """MLflow's store, None where it is off."""

    @property
    def ranked(self) -> list[TrialRecord]:
        """Search trials with a result, best first."""
        return best_first(self.study, self.records)

    @property
    def trials(self) -> DataFrame:
        """A row per trial: parameters, metrics, state."""
        return trials_frame(self.records)

    @property
    def comparison(self) -> DataFrame:
        """A row per line of the comparison: mean reward and the joint router's paired gain, with 95 % intervals."""
        return self.arms.frame if self.arms is not None else comparison_frame(self.rows)

    @property
    def checkpoints(self) -> Path | None:
        """Where the best trial's are."""
        return None if self.best is None else trial_folder(self.folder, self.best.number) / "checkpoints"

    def _repr_html_(self) -> str:
        return page(f"sweep {self.name}", {"comparison": self.comparison, "trials": self.trials})


def sweep(
    study: Study,
    name: str | None = None,
    runs: str | Path = "runs",
    report: Report = silent,
    task: Task | None = None,
    like: str | None = None,
) -> SweepResult:
    """Begin the sweep, or take up the one of that name and configuration. Safe to kill at any moment and to repeat.
    A `task` of your own takes the place of the study's; a new sweep begins with the results of another one that is
    `like` it, where their spaces meet.

    Raises:
        ConfigError, DataError, CandidateError, TrackerError: before anything runs.
        PoolError: the machines gave up, the time is over, or it was asked to leave; `resume` goes on.
    """
    study = with_task(study, task)
    folder = named_folder(runs, name or study.name)
    study = _as_begun(kept(study, folder), folder, report)
    return _drive(study, folder, False, report, _prior(study, folder, like, runs, report))


def _as_begun(study: Study, folder: Path, report: Report) -> Study:
    """A sweep that has begun keeps the validation questions that it chooses on, those that it reports on, what stopped
    trials are told as, and the dtypes that `auto` was found to be; a new one finds them out."""
    journal = Journal(fetched(folder))
    if journal.started() is None:
        return _settled(study, report)
    begun = journal.study()
    study = with_dtypes_of(study, begun.experiment)
    for name in QUESTIONS:
        then, now = (getattr(s.experiment.run.validation, name) for s in (begun, study))
        if then != now:
            report(Said(f"{folder.name} keeps run.validation.{name}: {then}, with which it was begun, not {now}"))
    return _told_as_begun(with_questions_of(study, begun.experiment), begun, folder, report)


def _told_as_begun(study: Study, begun: Study, folder: Path, report: Report) -> Study:
    """With the `stopped` of the sampler that it was begun with, where that is all that differs: there was none once."""
    then, now = begun.sweep.sampler, study.sweep.sampler
    if not isinstance(then, TpeSampler) or not isinstance(now, TpeSampler) or then == now:
        return study
    if now.model_copy(update={"stopped": then.stopped}) != then:
        return study
    report(Said(f"{folder.name} keeps sampler.stopped: {then.stopped}, with which it was begun, not {now.stopped}"))
    return study.model_copy(update={"sweep": study.sweep.model_copy(update={"sampler": then})})


def _settled(study: Study, report: Report) -> Study:
    """Raises CandidateError for a model that cannot be had."""
    found = settled(study.experiment, study.sweep.concurrency, profile_of(study))
    for line in found.said:
        report(Said(line))
    return study.model_copy(update={"experiment": found.experiment})


def _prior(study: Study, folder: Path, like: str | None, runs: str | Path, report: Report) -> Prior | None:
    """None also where the sweep was begun with it: its journal has what it knew, whatever became of the other one."""
    if like is None:
        return None
    begun = Journal(folder)
    if begun.started() is not None and begun.like() == like:
        report(Said(f"{folder.name} was begun with {len(begun.known())} results of {like}, and keeps them"))
        return None
    other = sweep_journal(runs, like)
    prior = prior_of(like, other.study(), other.trials(), study)
    report(Said(f"begins with {len(prior.known)} results of {like}"))
    for reason, count in prior.left_out.items():
        report(Said(f"  {count} left out: {reason}"))
    return prior


def resume(
    name: str,
    runs: str | Path = "runs",
    *,
    trials: int | None = None,
    concurrency: int | None = None,
    max_hours: float | None = None,
    profile: str | None = None,
    uri: str | None = None,
    report: Report = silent,
    task: Task | None = None,
) -> SweepResult:
    """Go on with a sweep: unfinished trials from their last checkpoint, then those not yet begun.

    What may differ on a changed cluster is given anew: a name or file of a `profile`, MLflow's `uri`; and the `task`,
    where the sweep was begun with a Python object.

    Raises:
        ConfigError: no such sweep. As `sweep` otherwise.
    """
    journal = sweep_journal(runs, name)
    values = dump(journal.study())
    for key, value in (("trials", trials), ("concurrency", concurrency), ("max_hours", max_hours)):
        if value is not None:
            values["sweep"][key] = value
    if profile is not None:
        values["experiment"]["engine"] = {"type": "ray", "profile": profile}
    if uri is not None:
        values.setdefault("tracking", {})["uri"] = uri
    study = all_at_hand(parse_study(values, f"sweep {name}"), journal.folder)
    if task is not None:
        hold_task(task)
    return _drive(study, journal.folder, True, report)


def _drive(study: Study, folder: Path, again: bool, report: Report, prior: Prior | None = None) -> SweepResult:
    there = _as_it_ended(study, folder)
    if there is not None:
        report(Said(f"{folder.name} has ended; nothing is started"))
        return there
    work = _arms if study.arms else _search
    return driven(study, folder, again, report, lambda d: work(d, study), prior)


def _as_it_ended(study: Study, folder: Path) -> SweepResult | None:
    """What an ended sweep of this very study was measured to be; None where anything is left to do or to read."""
    journal = Journal(fetched(folder))
    if journal.ended() is None or dump(journal.study())["sweep"]["trials"] != study.sweep.trials:
        return None
    begun = journal.study()
    if differences(unplaced(dump(begun)), unplaced(dump(study))) or begun.arms != study.arms:
        return None
    if (
        begun.sweep.seeds != study.sweep.seeds
        or begun.sweep.opponents != study.sweep.opponents
        or any(not t.ended for t in journal.trials())
    ):
        return None
    if study.arms:
        measured = stored_arms(folder, "validation") if study.sweep.comparison else None
        return None if study.sweep.comparison and measured is None else _result(journal, study, (), None, measured)
    rows = stored_rows(folder / REPORT)
    return _result(journal, study, rows, best_trial(journal, study), None) if rows else None


def _arms(d: Driver, study: Study) -> SweepResult:
    with d.watched(planned_trials(study)):
        d.fit("search", missing(arms(study), d.journal.trials()))
    measured = measure_arms(d, study, "validation") if study.sweep.comparison else None
    d.journal.append(SweepEnded("all arms ended", time.time()))
    d.end([measured.file] if measured is not None else [])
    return _result(d.journal, study, (), None, measured)


def _search(d: Driver, study: Study) -> SweepResult:
    begun = len(groups(d.journal.trials()))
    with d.watched(planned_trials(study)):
        d.fit("search", max(study.sweep.trials - begun, 0))
        best = best_trial(d.journal, study)
        _search_opponents(d, study, best)
    from haps_search.verbs.report import written_page  # matplotlib, when there is something to draw

    d.go_on()
    rows = measured_rows(d.live, d.journal, study, best, "validation", d.report)[0]
    d.journal.append(SweepEnded("all trials ended", time.time()))
    d.end([*keep_report(d.journal.folder, study, d.journal.trials(), rows), written_page(read_sweep(d.journal)).parent])
    return _result(d.journal, study, tuple(rows), best, None)


def _search_opponents(d: Driver, study: Study, best: TrialRecord) -> None:
    """Each in its own space, with as many trials or core-seconds as the study's own search had."""
    own = Search(study)
    for name, search in opponents(study, best).items():
        if study.experiment.run.warm_start_low and not search.study.experiment.run.warm_start_low:
            way_out = f"its own run may stand in sweep.opponents.{name}.settings, as run.warm_start and warm_start_low"
            warm = study.experiment.run.warm_start
            d.report(Said(f"{search.label} begins without the adapters of {warm}: {way_out}"))
        asked = study.sweep.opponents
        if asked.match == "trials" or asked.learning[name].trials is not None:
            most = trials_each(study, name, own.begun(d.journal.trials()))
            d.search(search, max(most - search.begun(d.journal.trials()), 0))
            continue
        _until_spent(d, search, spent(own.own(d.journal.trials())))


def _until_spent(d: Driver, search: Search, budget: float) -> None:
    """One trial after the other in each place, until they took so many seconds; or until trials take none, because all
    fail."""
    d.search(search, 0)
    before = -1.0
    while before < (now := spent(search.own(d.journal.trials()))) < budget:
        before = now
        d.search(search, d.study.sweep.concurrency)


def _result(
    journal: Journal, study: Study, rows: tuple[Row, ...], best: TrialRecord | None, measured: ArmsComparison | None
) -> SweepResult:
    folder = journal.folder
    uri = tracking_uri(study, folder) if study.tracking.mlflow else None
    return SweepResult(folder.name, folder, study, tuple(journal.trials()), rows, best, measured, uri)


def stored_rows(file: Path) -> tuple[Row, ...]:
    """The comparison that a sweep ended with; empty where the file is not there or not whole."""
    try:
        return tuple(row_of(each) for each in json.loads(file.read_text())["comparison"])
    except (OSError, ValueError, KeyError, TypeError):
        return ()


def best_trial(journal: Journal, study: Study) -> TrialRecord:
    """Raises PoolError where no trial has a result, with the first reason."""
    trials = best_first(study, journal.trials())
    if trials:
        return trials[0]
    wanted = " and ".join(study.sweep.asked)
    raise no_result(journal.trials(), journal.folder.name, f"none ended with a finite {wanted}")


def keep_report(folder: Path, study: Study, trials: Sequence[TrialRecord], rows: Sequence[Row]) -> list[Path]:
    """Write study.yaml and report.json, `trials` best first, into the sweep's folder; returns the files."""
    described, report = folder / "study.yaml", folder / REPORT
    replace_text(described, yaml.safe_dump(dump(study), sort_keys=False))
    content = {
        "code_version": __version__,
        "comparison": [asdict(row) for row in rows],
        "trials": [
            {
                "number": t.number,
                "state": t.state,
                "parameters": t.parameters,
                "seed": t.seed,
                "metrics": t.metrics,
                "breaks": broken(t.metrics, study.sweep.limits),
            }
            for t in best_first(study, trials)
        ],
        "failed": [
            {"number": t.number, "parameters": t.parameters, "seed": t.seed, "error": t.error, "log": t.log}
            for t in trials
            if t.state == "failed"
        ],
    }
    replace_text(report, json.dumps(content, indent=1))
    return [described, report]
