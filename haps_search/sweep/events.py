"""What can happen in a sweep, and what has become of its trials when all of it is read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from haps_search.errors import Kind as ErrorKind
from haps_search.records.printed import last_lines
from haps_search.records.remote import pulled
from haps_search.records.result import has_steps_left

Kind = Literal["search", "comparison", "confirm"]
Ended = Literal["finished", "stopped", "failed"]
FORMAT = 4
"""Of journals that are written now."""
State = Literal["suggested", "running", "finished", "stopped", "failed"]


@dataclass(frozen=True, slots=True)
class SweepStarted:
    """A driver took the sweep up with this configuration; the last one written counts.

    `study` is `config.load.dump`'s, `version` the code's, `time` in seconds since the epoch. Before `format` 2 rewards
    did not say how they compare, before 3 validation questions both chose and were reported on, before 4 the first of
    them validated a run. `known` are results of another sweep, `like`, that count as this one's: parameters and
    metrics; the first event of a sweep has them.
    """

    study: Mapping[str, Any]
    fingerprint: str
    version: str
    time: float
    format: int = FORMAT
    like: str = ""
    known: Sequence[Mapping[str, Any]] = ()

    @property
    def steps(self) -> int:
        return int(self.study["experiment"]["run"]["steps"])


@dataclass(frozen=True, slots=True)
class TrialSuggested:
    """A trial's setting, fixed before it starts. `label` says what a comparison or confirmation is for.

    `of` is the search trial whose setting this one repeats on another seed, None for a setting of its own.
    """

    number: int
    parameters: Mapping[str, Any]
    seed: int
    kind: Kind = "search"
    label: str = ""
    of: int | None = None


@dataclass(frozen=True, slots=True)
class AttemptStarted:
    """A trial began, or went on after an interruption; attempts count from 1."""

    number: int
    attempt: int


@dataclass(frozen=True, slots=True)
class TrialReported:
    """Metrics of one step."""

    number: int
    step: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class TrialEnded:
    """`finished` at its last step, `stopped` by the scheduler or for want of gain, `failed` with an error; `log` is
    what its process printed last where that had to be given up."""

    number: int
    state: Ended
    metrics: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None
    log: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class AttemptBroke:
    """An attempt came to no end of its own. `kind` says what trying again is good for (`errors.Kind`), `step` how far
    its newest checkpoint is, `log` what its process printed last."""

    number: int
    attempt: int
    step: int
    error: str
    kind: str
    log: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class TrialRetried:
    """Somebody gives a failed trial another chance."""

    number: int


@dataclass(frozen=True, slots=True)
class SweepEnded:
    """All trials were done, or the time was up."""

    reason: str
    time: float


TrialEvent = AttemptStarted | AttemptBroke | TrialReported | TrialEnded | TrialRetried
Event = SweepStarted | TrialSuggested | TrialEvent | SweepEnded
_EVENTS: dict[str, type[Event]] = {
    "sweep_started": SweepStarted,
    "trial_suggested": TrialSuggested,
    "attempt_started": AttemptStarted,
    "attempt_broke": AttemptBroke,
    "trial_retried": TrialRetried,
    "trial_reported": TrialReported,
    "trial_ended": TrialEnded,
    "sweep_ended": SweepEnded,
}
_NAMES = {kind: name for name, kind in _EVENTS.items()}


def encode(event: Event) -> str:
    """One line of JSON without its newline."""
    return json.dumps({"event": _NAMES[type(event)], **asdict(event)}, ensure_ascii=False)


def decode(line: str) -> Event:
    """The event of a line.

    Raises:
        ValueError: not JSON, or no event this version knows.
    """
    fields = json.loads(line)
    if not isinstance(fields, dict) or fields.get("event") not in _EVENTS:
        raise ValueError(f"got no event that this version knows; it knows {', '.join(_EVENTS)}")
    kind = _EVENTS[fields.pop("event")]
    if kind is SweepStarted:
        fields.setdefault("format", 1)
    if "log" in fields:
        fields["log"] = tuple(fields["log"])
    try:
        return kind(**fields)
    except TypeError as error:
        raise ValueError(str(error)) from error


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """What a journal knows of a trial: `reports` are (step, metrics) by step, `metrics` those of its end.

    `deaths` counts the attempts that broke for a reason nobody knows since the trial got further than `reached`;
    `broke` is why the last one did, `log` what it printed.
    """

    number: int
    parameters: Mapping[str, Any]
    seed: int
    kind: Kind
    label: str
    state: State = "suggested"
    reports: tuple[tuple[int, Mapping[str, float]], ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None
    attempts: int = 0
    of: int | None = None
    deaths: int = 0
    reached: int = 0
    broke: str = ""
    log: tuple[str, ...] = ()

    @property
    def ended(self) -> bool:
        return self.state in ("finished", "stopped", "failed")


@dataclass(slots=True)
class _Trial:
    record: TrialRecord
    reports: dict[int, Mapping[str, float]] = field(default_factory=dict)
    whole: TrialRecord | None = None
    """The record with its reports; None where something has happened since it was made."""

    def seen(self) -> TrialRecord:
        if self.whole is None:
            reports = sorted(self.reports.items(), key=lambda item: item[0])
            self.whole = replace(self.record, reports=tuple(reports))
        return self.whole


class Fold:
    """What events come to, one after the other.

    The first setting of a trial's number counts. A step reported twice counts once, the later report holding (a
    resumed attempt repeats the steps since its checkpoint). After a trial's end only one thing counts: a new
    attempt of a failed trial. A sweep taken up with more steps opens its finished trials again.
    """

    def __init__(self) -> None:
        self.count = 0
        """Events so far."""
        self.begun: SweepStarted | None = None
        """The first driver's."""
        self.started: SweepStarted | None = None
        """The last driver's, whose configuration is in force."""
        self.ended: SweepEnded | None = None
        """None while the sweep goes on, or was taken up again."""
        self.last_end: SweepEnded | None = None
        """As `ended`, but kept when it was taken up again, until something of its search happens."""
        self._trials: dict[int, _Trial] = {}

    def take(self, event: Event) -> None:
        """Raises ValueError for an event of a trial that was never suggested."""
        self.count += 1
        if isinstance(event, SweepStarted):
            if self.started is not None and event.steps > self.started.steps:
                _reopen(self._trials.values())
            if self.started is not None and _wanted(event) != _wanted(self.started):
                self.last_end = None
            self.begun, self.started, self.ended = self.begun or event, event, None
        elif isinstance(event, SweepEnded):
            self.ended = self.last_end = event
        elif isinstance(event, TrialSuggested):
            if event.kind != "confirm":
                self.last_end = None
            self._trials.setdefault(event.number, _Trial(_suggested(event)))
        elif event.number in self._trials:
            if isinstance(event, TrialRetried):
                self.ended = self.last_end = None
            _take(self._trials[event.number], event)
        else:
            raise ValueError(f"trial {event.number} was never suggested, but has a {_NAMES[type(event)]}")

    def trials(self) -> list[TrialRecord]:
        """By number; those to which nothing has happened are the objects of the last call."""
        return [trial.seen() for _, trial in sorted(self._trials.items())]


def fold(events: Iterable[Event]) -> list[TrialRecord]:
    """The trials by number. Raises ValueError for an event of a trial that was never suggested."""
    folded = Fold()
    for event in events:
        folded.take(event)
    return folded.trials()


def _wanted(event: SweepStarted) -> list[Any]:
    """What a sweep under this configuration runs before it ends."""
    sweep = event.study.get("sweep", {})
    return [event.steps, event.study.get("arms"), *(sweep.get(key) for key in ("trials", "seeds", "opponents"))]


def _suggested(event: TrialSuggested) -> TrialRecord:
    return TrialRecord(event.number, event.parameters, event.seed, event.kind, event.label, of=event.of)


def _reopen(trials: Iterable[_Trial]) -> None:
    """What was finished has steps left now; what was stopped or has failed stays so."""
    for trial in trials:
        if trial.record.state == "finished":
            trial.record, trial.whole = replace(trial.record, state="running", metrics={}), None


def _take(trial: _Trial, event: TrialEvent) -> None:
    record, trial.whole = trial.record, None
    if isinstance(event, AttemptStarted):
        newer = event.attempt > record.attempts
        if newer and (not record.ended or record.state == "failed"):
            trial.record = replace(record, state="running", attempts=event.attempt, metrics={}, error=None)
    elif isinstance(event, TrialRetried):
        if record.state == "failed":
            trial.record = replace(record, state="running", metrics={}, error=None, deaths=0, broke="", log=())
    elif record.ended:
        return
    elif isinstance(event, TrialReported):
        trial.reports[event.step] = event.metrics
    elif isinstance(event, AttemptBroke):
        trial.record = _broken(record, event)
    else:
        log = tuple(event.log) or record.log if event.state == "failed" else ()
        trial.record = replace(record, state=event.state, metrics=event.metrics, error=event.error, log=log)


def _broken(record: TrialRecord, event: AttemptBroke) -> TrialRecord:
    """Deaths in a row count: what was got further in between makes those before forgotten."""
    deaths = 0 if event.step > record.reached else record.deaths
    deaths += event.kind == ErrorKind.UNKNOWN
    reached = max(record.reached, event.step)
    return replace(record, deaths=deaths, reached=reached, broke=event.error, log=tuple(event.log))


def written_ending(number: int, folder: Path, steps: int = 0) -> TrialEnded | None:
    """The end of a run that reached its end or broke for good; None where it could go on, to `steps` at least."""
    pulled(folder)
    result, error = folder / "result.json", folder / "error.json"
    if result.exists():
        written = json.loads(result.read_text())
        return None if has_steps_left(written, steps) else TrialEnded(number, "finished", written["metrics"])
    if error.exists():
        note = json.loads(error.read_text())
        return TrialEnded(number, "failed", error=f"{note['kind']}: {note['message']}", log=last_lines(folder))
    return None


def stopped(number: int, last: Mapping[str, float]) -> TrialEnded:
    """The scheduler ended it; its last report stands."""
    return TrialEnded(number, "stopped", last)
