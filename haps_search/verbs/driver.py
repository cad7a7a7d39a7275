"""One driver's hold on a sweep while it works: what `sweep`, `resume`, `confirm` and `compare` share."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import ray

from haps_search.config.candidates import CandidateConfig
from haps_search.config.engines import ClusterProfile, RayEngineConfig
from haps_search.config.features import EncoderFeatures
from haps_search.config.load import load_profile
from haps_search.config.run import Experiment
from haps_search.config.sweep import Study
from haps_search.config.tasks import TaskConfig
from haps_search.engines.cluster.session import Session, session
from haps_search.errors import ConfigError, HapsError, Interrupted, PoolError, TrackerError, Unfinished
from haps_search.errors import Kind as ErrorKind
from haps_search.faults.kinds import kind_of
from haps_search.faults.policy import Failures, Over, Policy, first_line
from haps_search.records.remote import storage
from haps_search.routing.features.embeddings import named
from haps_search.search.warm_start import warm_source
from haps_search.sweep.events import Kind, TrialRecord
from haps_search.sweep.journal import Journal, open_sweep
from haps_search.sweep.layout import JOURNAL
from haps_search.sweep.leaving import grace_of, leave_within, paused, ready_to_leave, unfinished
from haps_search.sweep.opponents import Search
from haps_search.sweep.prior import Prior
from haps_search.sweep.progress import Progress, fraction_done
from haps_search.sweep.settings import Setting
from haps_search.sweep.space import apply
from haps_search.sweep.suggestions import check_sampler
from haps_search.sweep.tune import Left, fit
from haps_search.tasks.build import build_task
from haps_search.tasks.held_out import what_it_costs
from haps_search.tasks.replay import ReplayTask
from haps_search.tasks.task import Inspected, Task, answerable
from haps_search.types import Split
from haps_search.verbs.events import Frame, Report, Said, saying
from haps_search.verbs.logs import logging_to
from haps_search.verbs.measured_rows import FOLDER as MEASURED
from haps_search.verbs.plan import start_lines
from haps_search.verbs.tracking import Tracking
from haps_search.verbs.watching import watching

T = TypeVar("T")
GONE_S = 300.0
"""How long a driver whose pool is gone may take to leave it; Ray has calls without a limit of ours."""


@dataclass(frozen=True)
class Driver:
    """The journal, the session on Ray, and where metrics are mirrored."""

    report: Report
    journal: Journal
    study: Study
    live: Session
    tracking: Tracking
    deadline: float | None
    """As of `time.monotonic`, so that a clock set back does not prolong it."""

    def fit(self, kind: Kind, wanted: Sequence[Setting] | int) -> None:
        """Run what is unfinished of a kind, and then so many suggestions, or these settings."""
        self.finish_or_leave(kind, fit(self.journal, self.study, self.live, kind, wanted, self.deadline))

    def search(self, search: Search, settings: int) -> None:
        """Run what is unfinished of an opponent's search, and then so many more settings of it."""
        left = fit(self.journal, self.study, self.live, search.kind, settings, self.deadline, search)
        self.finish_or_leave(search.kind, left, search.label)

    def finish_or_leave(self, kind: Kind, left: Left, label: str = "") -> None:
        """Go on only if every trial of the kind was begun and has ended, and of the label where there is one; trials of
        others are others' to finish.

        Raises:
            Unfinished: some have not, because somebody wants the driver to leave or the machines gave up.
        """
        own = [t for t in self.journal.trials() if t.kind == kind and label in ("", t.label)]
        open_trials = [t.number for t in own if not t.ended]
        if not open_trials and not left.unbegun and not self.journal.leaving:
            return
        again = f"`haps {'confirm' if kind == 'confirm' else 'resume'} {self.journal.folder.name}`"
        rest = f" and {left.unbegun} were not begun" if left.unbegun else ""
        if self.journal.leaving:
            what = f"trials {open_trials} are saved" if open_trials else "all trials that were begun have ended"
            raise unfinished(self.journal.why, f"{what}{rest}: {again} goes on")
        ended = self.live.ended_by() or left.reason or "their processes were lost"
        raise Unfinished(
            f"trials {open_trials} were interrupted{rest} ({ended}); see {self.journal.folder / 'logs'}, then {again}"
        )

    def go_on(self) -> None:
        """Between two pieces of work. Raises Unfinished where somebody wants the driver to leave."""
        if self.journal.leaving:
            raise unfinished(
                self.journal.why, f"what is done is kept: `haps resume {self.journal.folder.name}` goes on"
            )

    @contextmanager
    def watched(self, planned: int) -> Iterator[None]:
        """While the body runs, report its trials and what breaks, and mirror them."""
        progress = Progress(self.journal, self.study)
        said: tuple[str, ...] = ()

        def frame(last: bool) -> Frame:
            views = progress.trials()
            return Frame(tuple(views), fraction_done(views, self.study, planned), last)

        def tick() -> None:
            nonlocal said
            if self.live.gone:
                leave_within(GONE_S)
            self.tracking.tick()
            waits = self.live.waits()
            for line in waits if len(waits) > len(said) else ():
                self.report(Said(line))
            said = waits
            for record in self.journal.trials():
                if record.broke and broken.get(record.number) != record.attempts:
                    broken[record.number] = record.attempts
                    self.report(Said(_broken_line(record)))

        broken = {record.number: record.attempts for record in self.journal.trials() if record.broke}
        with watching(self.report, frame, tick):
            yield

    def end(self, files: Sequence[Path]) -> None:
        """Close the sweep in MLflow, and say so where that was away."""
        if not self.tracking.end(files):
            again = f"`haps resume {self.journal.folder.name}` sends the rest once it answers"
            self.report(Said(f"MLflow did not take everything, the JSONL has it: {again}"))


def _broken_line(record: TrialRecord) -> str:
    follows = "has failed" if record.state == "failed" else "tried again"
    return f"trial {record.number:03d}, attempt {record.attempts}: {record.broke}; {follows}"


def driven(
    study: Study, folder: Path, resume: bool, report: Report, work: Callable[[Driver], T], prior: Prior | None = None
) -> T:
    """Do a piece of work with a driver, and begin it again where machines broke it: the journal knows what is done. For
    as long as the profile's `retries` say, counted from the last progress.

    Raises:
        Unfinished: somebody wants the driver to leave, or it does not pass. As `driver` otherwise.
    """
    retries = profile_of(study).retries
    failures = Failures(Policy(retries.within_s, longest_s=retries.longest_pause_s))
    deadline = time.monotonic() + 3600 * study.sweep.max_hours if study.sweep.max_hours else None
    while True:
        before = _progress(folder)
        try:
            with driver(study, folder, resume, report, prior, deadline) as d:
                return work(d)
        except HapsError as error:
            if _progress(folder) > before:
                failures.forget()
            passes = kind_of(error) is ErrorKind.TRANSIENT and not getattr(error, "asked", False)
            if isinstance(error, TrackerError) and not before:
                passes = False  # its address may be wrong, and nothing is lost yet
            follows = failures.follow(ErrorKind.TRANSIENT) if passes else Over(final=True)
            if isinstance(follows, Over) or ray.is_initialized():  # a Ray that could not be left is no place to begin
                if passes and not isinstance(error, Unfinished):
                    raise Unfinished(f"{error}; what is done is saved, and the same again goes on") from error
                raise
            report(Said(f"{first_line(error)}; begun again in {follows.pause_s:.0f} s"))
            why = paused(follows.pause_s, folder)
            if why:
                raise unfinished(why, str(error)) from error
        resume = resume or Journal(folder).started() is not None


def _progress(folder: Path) -> int:
    """Grows with whatever is done."""
    trials = Journal(folder).trials() if (folder / JOURNAL).exists() else []
    rows = len(list((folder / MEASURED).glob("*.json")))
    return rows + sum(t.ended + t.reached + sum(step for step, _ in t.reports[-1:]) for t in trials)


@contextmanager
def driver(
    study: Study,
    folder: Path,
    resume: bool,
    report: Report,
    prior: Prior | None = None,
    deadline: float | None = None,
) -> Iterator[Driver]:
    """Hold the sweep, open tracking, start Ray and the pool, and wait until every candidate is loaded. A new sweep
    begins with what `prior` knows; at the `deadline`, of `time.monotonic`, trials are asked to leave.

    Raises:
        ConfigError, DataError, CandidateError, TrackerError: before anything is started.
    """
    profile, say = profile_of(study), saying(report)
    check_sampler(study)
    for line in (*read_task(study.experiment), *start_lines(study, profile)):
        say(line)
    read_arms(study)
    warm_source(study.experiment, folder)
    journal = open_sweep(folder, study, resume, prior)
    log = folder / "logs" / "driver.log"
    try:
        with logging_to(log), ready_to_leave(journal, folder, grace_of(profile.grace_s)) as arm:
            say(f"sweep {folder.name} in {storage(folder)}, log {log}")
            names = ", ".join(map(_named, study.experiment.candidates))
            what = "Ray without a pool" if study.experiment.task.type == "replay" else "the pool"
            say(f"starting {what} on profile {profile.name}: {names}")
            with (
                Tracking.open(journal, study) as tracking,
                session(
                    folder.name, study.experiment.candidates, profile, folder / "logs", say, lambda: journal.leaving
                ) as live,
            ):
                arm()
                live.wait_for_candidates(say, lambda: journal.leaving)
                d = Driver(report, journal, study, live, tracking, deadline)
                d.go_on()
                try:
                    yield d
                except Interrupted as error:
                    again = f"`haps resume {folder.name}` goes on"
                    raise unfinished(journal.why, f"{error}: {again}") from error
    finally:
        journal.close()


def _named(candidate: CandidateConfig) -> str:
    """With the dtype of its numbers, which a table has none of."""
    return candidate.name if candidate.source.type == "table" else f"{candidate.name} ({candidate.dtype})"


def profile_of(study: Study) -> ClusterProfile:
    """Raises ConfigError for a study that asks for the local engine: trials run on Ray."""
    engine = study.experiment.engine
    if not isinstance(engine, RayEngineConfig):
        raise ConfigError(
            "experiment.engine: a sweep runs on Ray, got type local; use `type: ray` "
            "(profile local-cpu starts Ray on this machine), or `haps train` for one run"
        )
    return load_profile(engine.profile)


def no_result(trials: Sequence[TrialRecord], name: str, otherwise: str = "none has ended") -> PoolError:
    """No trial has a result, with the first reason that is known."""
    reasons = [f"trial {t.number}: {t.error}" for t in trials if t.error]
    return PoolError(f"no trial of {name} has a result; {[*reasons, otherwise][0]}")


def read_task(experiment: Experiment) -> list[str]:
    """Look at the user's data before anything expensive starts; what should be known of it, a line each.

    Raises:
        ConfigError, DataError, CandidateError: files, rows, functions or encoders that trials would stumble over.
    """
    task = build_task(experiment.task)
    return [*_remarks(task, experiment), what_it_costs(task, experiment)]


def _remarks(task: Task, experiment: Experiment) -> list[str]:
    for features in getattr(experiment.routing.backbone, "features", ()):
        if isinstance(features, EncoderFeatures):
            named(features)
    if isinstance(task, ReplayTask):
        remarks = _unanswered(task, [candidate.name for candidate in experiment.candidates])
        if experiment.learning.cost_weight or experiment.learning.cost_conditioned:
            task.cost_unit  # noqa: B018 - refuses a table without costs
        return [*task.remarks(), *remarks]
    if isinstance(task, Inspected):
        return task.remarks()
    for split in ("train", "validation"):
        task.questions(split)
    return []


def _unanswered(task: ReplayTask, models: Sequence[str]) -> list[str]:
    """How many questions no candidate answered. Raises ConfigError for an unknown one."""
    asked: dict[Split, int] = {split: len(task.questions(split)) for split in ("train", "validation")}
    lacks = {split: count - len(answerable(task, split, models)) for split, count in asked.items()}
    if not any(lacks.values()):
        return []
    counts = ", ".join(f"{count} {split}" for split, count in lacks.items())
    return [f"warning: {counts} questions that no candidate answered left out"]


def read_arms(study: Study) -> None:
    """Read the validation questions of arms that change the task.

    Raises:
        ConfigError: an arm has other validation questions than the experiment, so that nothing could be paired.
        DataError: malformed rows.
    """
    own = study.experiment.task
    for name, arm in study.arms.items():
        task = apply(study.experiment, arm).task
        if task != own and _asked(task) != _asked(own):
            raise ConfigError(
                f"arms.{name}: its validation questions are others than the experiment's, and arms are compared "
                "question by question: change what it trains on, or make it a study of its own"
            )


def _asked(config: TaskConfig) -> list[tuple[str, str, str]]:
    return [(q.id, q.text, q.reference) for q in build_task(config).questions("validation")]
