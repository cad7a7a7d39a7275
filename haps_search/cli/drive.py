"""Drive a sweep from its journal to its table: what `sweep`, `resume` and `confirm` share."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from haps_search.cli.data import read_arms, read_task
from haps_search.cli.display import Frame, watching, wide_console
from haps_search.cli.logs import log_to
from haps_search.cli.measure import compared
from haps_search.cli.plan_table import start_lines
from haps_search.cli.report import closing, comparison_table, comparison_title, keep_report, ranking_table
from haps_search.config.engines import ClusterProfile, RayEngineConfig
from haps_search.config.load import load_profile
from haps_search.config.sweep import Study
from haps_search.engines.cluster.session import Session, session
from haps_search.errors import ConfigError, PoolError
from haps_search.records.remote import storage
from haps_search.report.build import build, write
from haps_search.report.parameters import why_not
from haps_search.report.source import read_sweep
from haps_search.search.warm_start import warm_source
from haps_search.sweep.events import Kind, SweepEnded, TrialRecord
from haps_search.sweep.journal import Journal, open_sweep
from haps_search.sweep.leaving import ready_to_leave
from haps_search.sweep.prior import Prior
from haps_search.sweep.progress import Progress, fraction_done, planned_trials
from haps_search.sweep.ranking import best_first
from haps_search.sweep.repeats import groups
from haps_search.sweep.settings import Setting, arms, comparisons, missing
from haps_search.sweep.suggestions import check_sampler, importances
from haps_search.sweep.tune import Left, fit
from haps_search.verbs.tracking import Tracking


@dataclass(frozen=True)
class Driver:
    """One driver's hold on a sweep: its journal, its session on Ray, and where metrics are mirrored."""

    console: Console
    journal: Journal
    study: Study
    live: Session
    tracking: Tracking
    deadline: float | None
    """As of `time.monotonic`, so that a clock set back does not prolong it."""

    def _left(self) -> float | None:
        """Seconds until --max-hours."""
        return None if self.deadline is None else max(self.deadline - time.monotonic(), 1.0)

    def fit(self, kind: Kind, wanted: Sequence[Setting] | int) -> None:
        """Run what is unfinished of a kind, and then so many suggestions, or these settings."""
        self.finish_or_leave(kind, fit(self.journal, self.study, self.live, kind, wanted, self._left()))

    def finish_or_leave(self, kind: Kind, left: Left) -> None:
        """Go on only if every trial of the kind was begun and has ended; trials of others are others' to finish.

        Raises:
            PoolError: some have not, because the time is over or the machines gave up.
        """
        open_trials = [t.number for t in self.journal.trials() if t.kind == kind and not t.ended]
        if not open_trials and not left.unbegun and not self.journal.leaving:
            return
        again = f"`haps {'confirm' if kind == 'confirm' else 'resume'} {self.journal.folder.name}`"
        if self.journal.leaving:
            raise PoolError(f"asked to leave (SIGTERM); trials {open_trials} saved their last step: {again} goes on")
        rest = f" and {left.unbegun} were not begun" if left.unbegun else ""
        if self.deadline is not None and time.monotonic() >= self.deadline:
            raise PoolError(f"--max-hours is over, {len(open_trials)} trials are unfinished{rest}: {again}")
        ended = self.live.ended_by() or left.reason or "their processes were lost, or Ctrl-C ended them"
        raise PoolError(
            f"trials {open_trials} were interrupted{rest} ({ended}); see {self.journal.folder / 'logs'}, then {again}"
        )

    def end(self, files: list[Path]) -> None:
        """Close the sweep in MLflow, and say so where that was away."""
        if not self.tracking.end(files):
            again = f"`haps resume {self.journal.folder.name}` sends the rest once it answers"
            self.console.print(f"MLflow did not take everything, the JSONL has it: {again}", soft_wrap=True)


def drive(study: Study, folder: Path, resume: bool, prior: Prior | None = None) -> None:
    """Search or run the arms, compare, print. Safe to kill at any moment and to call again.

    A new sweep begins with what `prior` knows.

    Raises:
        ConfigError, TrackerError: before anything runs. PoolError: the machines gave up, or the time is over.
    """
    with driver(study, folder, resume, prior) as d:
        if study.arms:
            _drive_arms(d, study)
        else:
            _drive_search(d, study)


def _drive_arms(d: Driver, study: Study) -> None:
    from haps_search.cli.arms import show_arms, summary_table

    with _watched(d, planned_trials(study)):
        d.fit("search", missing(arms(study), d.journal.trials()))
    d.console.print(summary_table(d.journal.trials(), study))
    files = [show_arms(d, study, "validation")] if study.sweep.comparison else []
    d.journal.append(SweepEnded("all arms ended", time.time()))
    d.end(files)
    d.console.print(f"next        haps compare {d.journal.folder.name} --split test", highlight=False, soft_wrap=True)


def _drive_search(d: Driver, study: Study) -> None:
    begun = len(groups(d.journal.trials()))
    with _watched(d, planned_trials(study)):
        d.fit("search", max(study.sweep.trials - begun, 0))
        best = best_trial(d.journal, study)
        if study.sweep.comparison:
            d.fit("comparison", missing(comparisons(study, best), d.journal.trials()))
    d.console.print("measuring on the whole validation split", highlight=False)
    rows = compared(d.live, d.journal, study, best)
    d.journal.append(SweepEnded("all trials ended", time.time()))
    trials = best_first(study, d.journal.trials())
    d.end([*keep_report(d.journal.folder, study, trials, rows), _page(d.journal, study)])
    d.console.print(ranking_table(study, trials, d.journal.trials()))
    d.console.print(f"\n{comparison_title(rows, best)}", highlight=False)
    d.console.print(comparison_table(rows), "")
    closing(d.console, d.journal, best, d.tracking.uri)


def _page(journal: Journal, study: Study) -> Path:
    """The report's folder, written as the sweep stands."""
    source = read_sweep(journal)
    found = () if why_not(source) else importances(study, source.trials)
    return write(build(source, found), journal.folder / "report").parent


def run_settings(study: Study, folder: Path, settings: list[Setting]) -> list[TrialRecord]:
    """Run given settings in an existing sweep, those already there left out; all of them as they ended."""
    ended = Journal(folder).ended()
    with driver(study, folder, resume=True) as d:
        kind = settings[0].kind
        wanted = missing(settings, d.journal.trials())
        with _watched(d, len(d.journal.trials()) + len(wanted)):
            d.fit(kind, wanted)
        if ended is not None:  # taking the sweep up opened it again
            d.journal.append(SweepEnded(ended.reason, time.time()))
            d.end([])
        else:
            d.tracking.tick()
        labels = {(s.label, s.seed) for s in settings}
        return [t for t in d.journal.trials() if t.kind == kind and (t.label, t.seed) in labels]


@contextmanager
def driver(study: Study, folder: Path, resume: bool, prior: Prior | None = None) -> Iterator[Driver]:
    """Hold the sweep, open tracking, start Ray and the pool, and wait until every candidate is loaded."""
    profile = profile_of(study)
    check_sampler(study)
    console = wide_console()
    for remark in read_task(study.experiment):
        console.print(remark, highlight=False, soft_wrap=True)
    read_arms(study)
    for line in start_lines(study, profile):
        console.print(line, highlight=False, soft_wrap=True)
    warm_source(study.experiment, folder)
    journal = open_sweep(folder, study, resume, prior)
    try:
        log = folder / "logs" / "driver.log"
        log_to(log)
        console.print(f"sweep {folder.name} in {storage(folder)}, log {log}", highlight=False, soft_wrap=True)
        deadline = time.monotonic() + 3600 * study.sweep.max_hours if study.sweep.max_hours else None
        names = ", ".join(c.name for c in study.experiment.candidates)
        what = "Ray without a pool" if study.experiment.task.type == "replay" else "the pool"
        console.print(f"starting {what} on profile {profile.name}: {names}", highlight=False)
        with (
            Tracking.open(journal, study) as tracking,
            session(folder.name, study.experiment.candidates, profile, folder / "logs") as live,
        ):
            live.wait_for_candidates(lambda line: console.print(line, highlight=False, soft_wrap=True))
            yield Driver(console, journal, study, live, tracking, deadline)
    finally:
        journal.close()


def profile_of(study: Study) -> ClusterProfile:
    """Raises ConfigError for a study that asks for the local engine: trials run on Ray."""
    engine = study.experiment.engine
    if not isinstance(engine, RayEngineConfig):
        raise ConfigError(
            "experiment.engine: a sweep runs on Ray, got type local; use `type: ray` "
            "(profile local-cpu starts Ray on this machine), or `haps train` for one run"
        )
    return load_profile(engine.profile)


def best_trial(journal: Journal, study: Study) -> TrialRecord:
    """Raises PoolError where no trial has a result, with the first reason."""
    trials = best_first(study, journal.trials())
    if trials:
        return trials[0]
    raise no_result(journal, f"none ended with a finite {' and '.join(study.sweep.asked)}")


def no_result(journal: Journal, otherwise: str = "none has ended") -> PoolError:
    """No trial has a result, with the first reason that is known."""
    reasons = [f"trial {t.number}: {t.error}" for t in journal.trials() if t.error]
    return PoolError(f"no trial of {journal.folder.name} has a result; {[*reasons, otherwise][0]}")


@contextmanager
def _watched(d: Driver, planned: int) -> Iterator[None]:
    progress = Progress(d.journal, d.study)

    def frame() -> Frame:
        views = progress.trials()
        return views, fraction_done(views, d.study, planned)

    said: tuple[str, ...] = ()

    def tick() -> None:
        nonlocal said
        d.tracking.tick()
        waits = d.live.waits()
        for line in waits if len(waits) > len(said) else ():
            d.console.print(line, highlight=False, soft_wrap=True)
        said = waits

    with ready_to_leave(d.journal), watching(d.console, frame, tick):
        yield
