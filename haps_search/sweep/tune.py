"""Ray Tune around the journal: hands out trials, journals what becomes of them, stops the poor ones.

Tune's own snapshots are never restored. A resumed sweep is a new Tuner over the trials that the journal still wants.
"""

from __future__ import annotations

import logging
import pickle
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray import tune
from ray.exceptions import RayError
from ray.tune import TuneError
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from haps_search.config.samplers import Asha
from haps_search.config.sweep import Study
from haps_search.engines.cluster.failures import reason_of
from haps_search.engines.cluster.session import Session, TableSession
from haps_search.engines.cluster.trial import METRICS, run_trial
from haps_search.errors import Kind as ErrorKind
from haps_search.errors import PoolError
from haps_search.faults.kinds import chain, kind_of
from haps_search.faults.policy import Again, Failures, Over, Policy
from haps_search.records.printed import last_lines
from haps_search.records.remote import remote_of, storage
from haps_search.sweep.attempts import drop_former, newest_step
from haps_search.sweep.events import (
    AttemptBroke,
    AttemptStarted,
    Kind,
    TrialEnded,
    TrialRecord,
    TrialReported,
    TrialSuggested,
    stopped,
    written_ending,
)
from haps_search.sweep.following import run_folder
from haps_search.sweep.journal import Journal
from haps_search.sweep.layout import attempt_folder
from haps_search.sweep.leaving import HOURS, grace_of
from haps_search.sweep.opponents import Search
from haps_search.sweep.settings import Setting, experiment_of
from haps_search.sweep.suggestions import suggestion
from haps_search.tasks.own import passed
from haps_search.tasks.tables.reading import held

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Left:
    """What a fit left: how many of the wanted trials were not begun, and why others are open, where one said so."""

    unbegun: int = 0
    reason: str = ""


def fit(
    journal: Journal,
    study: Study,
    session: Session,
    kind: Kind,
    wanted: Sequence[Setting] | int,
    deadline: float | None,
    search: Search | None = None,
) -> Left:
    """Run what is unfinished of a kind, and then `wanted`: so many suggested settings, or these. Suggestions are those
    of `search`, and only its trials count; None is the study's own.

    Blocks until all have ended, or until they have left: at the `deadline`, of `time.monotonic`, they are asked to.
    What ended is in the journal; what the machines broke for longer than the profile waits is left unfinished there.

    Raises:
        PoolError: the journal or a run's folder cannot be written or read any more.
    """
    settle(journal, study)
    asked = Search(study) if search is None else search
    unfinished = [t for t in journal.trials() if not t.ended and t.kind == kind and asked.label in ("", t.label)]
    handing = _JournalSearch(journal, study, session, unfinished, wanted, asked)
    if not unfinished and not handing.unbegun:
        return Left()
    tuner = tune.Tuner(
        tune.with_resources(_trainable(study), _resources(session, study)),
        tune_config=tune.TuneConfig(
            search_alg=handing,
            scheduler=_scheduler(asked, journal, kind),
            num_samples=-1,  # the search says when it is over: an attempt more is a trial more of Tune's
            max_concurrent_trials=study.sweep.concurrency,
            # A trial's process, and the router actor that it keeps, take seconds of CPU to start.
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            # Never one that was there, also where another machine made it: every fit leaves events.
            name=f"{sum(1 for _ in journal.events()):05d}",
            storage_path=storage(journal.folder / "tune"),
            failure_config=tune.FailureConfig(max_failures=0),
            stop=_Ends(session, handing, journal, deadline),
            callbacks=[_Broken(handing)],
            verbose=0,
        ),
    )
    broke = _fitted(tuner)
    problem = handing.problem
    if isinstance(problem, OSError):
        way_out = "mend it, then start the sweep again: it goes on from there"
        raise PoolError(f"{journal.file}: cannot be written or read ({problem}): {way_out}") from problem
    if problem is not None:
        raise problem
    return Left(handing.unbegun, handing.reason or broke)


def _fitted(tuner: tune.Tuner) -> str:
    """Why Ray broke it off, "" where it did not; a mistake of ours is raised as it is."""
    try:
        tuner.fit()
    except (RayError, TuneError) as error:
        known = next((link for link in chain(error) if isinstance(link, RayError)), None)
        if known is None:
            raise
        _log.warning("Ray broke the trials off", exc_info=True)
        return reason_of(known)
    return ""


def _place(folder: Path) -> dict[str, str | None]:
    """Where a trial writes: a folder that all machines see, or a name in the object store."""
    remote = remote_of(folder)
    if remote is None:
        return {"store": None, "folder": str(folder)}
    return {"store": remote.objects.uri, "folder": remote.name(folder)}


def _trainable(study: Study) -> Any:
    """A trial; with what all trials read put into the object store once: a replay's table, which they map and do not
    copy, or a task that a program passed."""
    task = study.experiment.task
    if task.type == "replay":
        return tune.with_parameters(run_trial, table=(task.table, held(task.table)))
    if task.type == "object":
        return tune.with_parameters(run_trial, own_task=passed(task))
    return run_trial


def settle(journal: Journal, study: Study) -> None:
    """Journal the ends of trials whose run got there although its driver did not live to note it."""
    for trial in journal.trials():
        if not trial.ended:
            steps = experiment_of(study, trial).total_steps
            end = written_ending(trial.number, run_folder(journal.folder, trial), steps)
            if end is not None:
                journal.append(end)


class _JournalSearch(Searcher):
    """Hands out trials: those the journal left unfinished, then new ones, journalled before they start. One that broke
    is handed out again when the policy says so; to Tune that is another trial.
    """

    def __init__(
        self,
        journal: Journal,
        study: Study,
        session: Session,
        unfinished: Sequence[TrialRecord],
        wanted: Sequence[Setting] | int,
        search: Search,
    ) -> None:
        super().__init__()
        self._journal, self._study, self._session, self._search = journal, study, session, search
        self._unfinished = list(unfinished)
        self._settings = list(wanted) if not isinstance(wanted, int) else search.wanting(journal.trials())
        self._suggestions = wanted if isinstance(wanted, int) else 0
        self.problem: Exception | None = None
        """Why nothing that happens counts any more. Tune would take it for a trial's error, or for one of its own."""
        self.reason = ""
        """Why trials are left open, where one said so."""
        self._numbers: dict[str, int] = {}
        """Of the trials that run now, by Tune's name."""
        self._steps: dict[int, int] = {}
        self._last: dict[int, Mapping[str, float]] = {}
        self._failures: dict[int, Failures] = {}
        self._due: dict[int, float] = {}
        """When a trial that broke is begun again."""
        self._pool_ended = False

    @property
    def unbegun(self) -> int:
        """How many runs are wanted and have not been handed out."""
        return len(self._settings) + self._suggestions * self._study.sweep.seeds_per_trial

    def suggest(self, trial_id: str) -> Any:
        # Without its pool every further trial would fail, and be suggested knowing nothing of the others.
        if self.problem or self._pool_ended or self._session.gone or self._journal.leaving:
            return Searcher.FINISHED
        handed: Any = Searcher.FINISHED
        with self._keeping():
            handed = self._next(trial_id)
        return handed

    def _next(self, trial_id: str) -> Any:
        """None where nothing is to be begun now, and something may be later."""
        record = self._unfinished.pop(0) if self._unfinished else self._broken() or self._create()
        if record is None:
            return None if self._numbers or self._due else Searcher.FINISHED
        attempt = record.attempts + 1
        self._journal.append(AttemptStarted(record.number, attempt))
        self._numbers[trial_id] = record.number
        if record.reports:
            self._last[record.number] = record.reports[-1][1]
        experiment = experiment_of(self._study, record)
        self._steps[record.number] = experiment.total_steps
        sweep = self._journal.folder.resolve()
        return {
            "number": record.number,
            "attempt": attempt,
            "experiment": experiment.model_dump(mode="json"),
            "steps": experiment.total_steps,
            **_place(attempt_folder(sweep, record.number, attempt)),
            "former": _place(run_folder(sweep, record))["folder"],
            "namespace": self._session.namespace,
            "profile": self._session.profile.model_dump(mode="json"),
        }

    def _broken(self) -> TrialRecord | None:
        """One that broke and is due again."""
        number = next((n for n, due in self._due.items() if due <= time.monotonic()), None)
        if number is None:
            return None
        del self._due[number]
        return self._record(number)

    def _record(self, number: int) -> TrialRecord:
        return next(t for t in self._journal.trials() if t.number == number)

    def _create(self) -> TrialRecord | None:
        if not self.unbegun:
            return None
        trials = self._journal.trials()
        number = max((t.number for t in trials), default=-1) + 1
        setting = self._settings[0] if self._settings else self._suggested(trials, number)
        if setting is None:
            return None
        event = TrialSuggested(number, setting.parameters, setting.seed, setting.kind, setting.label, setting.of)
        self._journal.append(event)
        if self._settings:
            self._settings.pop(0)
        else:
            self._suggestions -= 1
            self._settings = self._search.wanting(self._journal.trials())
        return TrialRecord(number, event.parameters, event.seed, event.kind, event.label, of=event.of)

    def _suggested(self, trials: Sequence[TrialRecord], number: int) -> Setting | None:
        """A new setting; None where none is wanted, or a grid has no more."""
        if self._suggestions == 0:
            return None
        search, known = self._search, self._journal.known() if self._search.kind == "search" else ()
        parameters = suggestion(search.study, search.own(trials), number, known)
        if parameters is None:
            self._suggestions = 0
            return None
        return search.setting(parameters, parameters.get("run.seed", search.study.experiment.run.seed))

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        metrics = {k.removeprefix(METRICS): float(v) for k, v in result.items() if k.startswith(METRICS)}
        number = self._numbers[trial_id]
        if metrics and metrics != self._last.get(number):
            self._last[number] = metrics
            with self._keeping():
                self._journal.append(TrialReported(number, int(result["step"]), metrics))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tune says so when a run returned, or when the scheduler ended it; of what broke it tells more afterwards."""
        if error or result is None:
            self._pool_ended = self._session.ended()
            if not error:
                self._numbers.pop(trial_id, None)  # it was never begun
            return
        self.on_trial_result(trial_id, result)  # Tune leaves it out for the report on which it stopped the trial
        number = self._numbers.pop(trial_id)
        with self._keeping():
            end = self._written(number)
            if end is None and (self._journal.leaving or self._session.gone):
                return  # it goes on from its checkpoint under the next driver
            self._end(end or stopped(number, self._last.get(number, {})))

    def broke(self, trial_id: str, error: BaseException) -> None:
        """A trial's process raised or died: journalled, and what follows is the policy's."""
        number = self._numbers.pop(trial_id, None)
        if number is None:
            return  # it had returned already, and Tune itself stumbled over it
        with self._keeping():
            end = self._written(number)
            if end is not None:
                self._end(end)  # its process was lost after its last word
                return
            self.reason = reason_of(error)
            _log.warning("trial %d broke: %s", number, error)
            if not (self._pool_ended or self._session.gone or self._journal.leaving):
                self._follow(number, kind_of(error))

    def _follow(self, number: int, kind: ErrorKind) -> None:
        before = self._record(number)
        folder = run_folder(self._journal.folder, before)
        step, log = newest_step(folder), last_lines(folder)
        self._journal.append(AttemptBroke(number, before.attempts, step, self.reason, kind, log))
        failures = self._failures.setdefault(number, Failures(self._policy))
        if step > before.reached:
            failures.forget()
        deaths = self._record(number).deaths
        match failures.follow(kind, deaths if kind is ErrorKind.UNKNOWN else None):
            case Again(pause_s):
                self._due[number] = time.monotonic() + pause_s
            case Over(final=True):
                often = f" ({deaths} times without getting further)" if deaths > 1 else ""
                self._end(TrialEnded(number, "failed", error=self.reason + often, log=log))

    @property
    def _policy(self) -> Policy:
        retries = self._session.profile.retries
        return Policy(retries.within_s, retries.deaths, longest_s=retries.longest_pause_s)

    def _written(self, number: int) -> TrialEnded | None:
        return written_ending(number, run_folder(self._journal.folder, self._record(number)), self._steps[number])

    def _end(self, event: TrialEnded) -> None:
        self._journal.append(event)
        drop_former(self._journal.folder, self._record(event.number))

    @contextmanager
    def _keeping(self) -> Iterator[None]:
        try:
            yield
        except (PoolError, OSError) as error:
            self.problem = self.problem or error

    # The journal is the truth, so Tune's own saving of searchers has nothing to save.
    def __getstate__(self) -> dict[str, Any]:
        return {}

    def save(self, checkpoint_path: str) -> None:
        return None

    def restore(self, checkpoint_path: str) -> None:
        return None

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        return None


class _Broken(tune.Callback):
    """Tells the search what became of a trial that Tune calls failed."""

    def __init__(self, search: _JournalSearch) -> None:
        self._search = search

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._search.broke(trial.trial_id, _error_of(trial))

    def __getstate__(self) -> dict[str, Any]:
        return {}


def _error_of(trial: Any) -> BaseException:
    """As it was raised, or its text where it could not be pickled."""
    try:
        error = pickle.loads(Path(trial.pickled_error_file or "").read_bytes())
    except Exception as problem:  # noqa: BLE001 - whatever an error of another library says when it is unpickled
        _log.warning("trial %s: its error cannot be read: %s", trial, problem)
        error = None
    if isinstance(error, BaseException):
        return error
    try:
        return PoolError(Path(trial.error_file or "").read_text())
    except OSError:
        return PoolError("its process was lost, and said nothing")


class _Ends(Stopper):
    """Ends the fit with its pool, or with its journal, or when who was asked to leave has had its time. A trial that is
    started again would fail again, or wait for ever: Ray places the pool's own lost worker, for which there is no room,
    before anything else. At the deadline it asks the trials to leave.
    """

    def __init__(self, session: Session, search: _JournalSearch, journal: Journal, deadline: float | None) -> None:
        self._session, self._search, self._journal, self._deadline = session, search, journal, deadline
        self._until: float | None = None

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        now = time.monotonic()
        if self._deadline is not None and now >= self._deadline and not self._journal.leaving:
            self._journal.leave(HOURS)
        if self._journal.leaving and self._until is None:
            self._until = now + grace_of(self._session.profile.grace_s)
        overdue = self._until is not None and now >= self._until
        return overdue or self._session.gone is not None or self._search.problem is not None

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _JournalAsha(AsyncHyperBandScheduler):
    """ASHA whose rungs know what the trials of earlier drivers reported."""

    metric = None
    """For Tune, which would break the whole fit over a trial that leaves before its first report."""

    def __init__(self, settings: Asha, study: Study, past: Sequence[TrialRecord]) -> None:
        objective = study.sweep.objectives[0]
        super().__init__(
            time_attr="step",
            metric=METRICS + objective.metric,
            mode=objective.mode,
            max_t=max(study.experiment.total_steps, settings.grace_steps),
            grace_period=settings.grace_steps,
            reduction_factor=settings.reduction,
            stop_last_trials=False,
        )
        self._past = {t.number: t for t in past}
        for trial in past:
            if trial.ended and trial.kind == "search":
                self._tell(_numbered(SimpleNamespace(config={"number": trial.number})))

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        self._tell(_numbered(trial))

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        super().on_trial_complete(tune_controller, _numbered(trial), result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_remove(tune_controller, _numbered(trial))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """A run at its last step is left to end by itself: stopping it would race with the result it writes."""
        decision = super().on_trial_result(tune_controller, _numbered(trial), result)
        last = "step" in result and result["step"] >= trial.config["steps"]
        return TrialScheduler.CONTINUE if last else decision

    def _tell(self, trial: Any) -> None:
        nobody: Any = None  # ASHA does not look at the controller
        super().on_trial_add(nobody, trial)
        record = self._past.get(trial.config["number"])
        for step, metrics in record.reports if record else ():
            flat = {"step": step, **{METRICS + name: value for name, value in metrics.items()}}
            super().on_trial_result(nobody, trial, flat)


def _numbered(trial: Any) -> Any:
    """A trial by the journal's number: its attempts are trials of their own to Tune, and one in a rung."""
    return SimpleNamespace(trial_id=f"number-{trial.config['number']}", config=trial.config)


def _scheduler(search: Search, journal: Journal, kind: Kind) -> TrialScheduler:
    settings = search.study.sweep.scheduler
    if isinstance(settings, Asha) and kind == search.kind:
        return _JournalAsha(settings, search.study, search.own(journal.trials()))
    return FIFOScheduler()


def _resources(session: Session, study: Study) -> tune.PlacementGroupFactory:
    """A trial's process, and beside it the bundle that its router actor takes."""
    trial, router = session.profile.trial, session.profile.router
    if isinstance(session, TableSession):  # the router is in the trial's own process
        gpus = trial.gpus + router.gpus if study.experiment.routing.reads_by_a_model else 0.0
        return tune.PlacementGroupFactory([_bundle(trial.cpus + router.cpus, gpus)])
    bundles = [_bundle(r.cpus, r.gpus) for r in (trial, router)]
    return tune.PlacementGroupFactory(bundles if bundles[1] else bundles[:1])


def _bundle(cpus: float, gpus: float) -> dict[str, float]:
    return {kind: amount for kind, amount in (("CPU", cpus), ("GPU", gpus)) if amount}
