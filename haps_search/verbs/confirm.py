"""The best settings again, on seeds that the search has not seen: the best of many trials looks better than it is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from haps_search.config.sweep import Study
from haps_search.evaluation.intervals import Interval, seed_interval
from haps_search.sweep.events import SweepEnded, TrialRecord
from haps_search.sweep.inputs import all_at_hand
from haps_search.sweep.journal import Journal
from haps_search.sweep.opponents import opponents_again
from haps_search.sweep.ranking import best_first
from haps_search.sweep.settings import Setting, confirmations, missing
from haps_search.verbs.driver import Driver, driven, no_result
from haps_search.verbs.events import Report, silent
from haps_search.verbs.find import sweep_journal
from haps_search.verbs.frames import frame, page

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class Confirmed:
    """One setting: what the search saw, and what each fresh seed that ended gave; `interval` over these seeds is None
    without any."""

    number: int
    searched: float
    values: tuple[float, ...]
    interval: Interval | None


@dataclass(frozen=True)
class Confirmation:
    """The confirmed settings, the best of the search first, by the sweep's first objective."""

    name: str
    metric: str
    questions: int
    """At most so many validation questions a run."""
    settings: tuple[Confirmed, ...]

    @property
    def frame(self) -> DataFrame:
        """A row per setting."""
        found = [
            {"trial": s.number, "searched": s.searched, "confirmed": s.interval.mean if s.interval else None}
            | {f"seed {i}": value for i, value in enumerate(s.values, start=1)}
            for s in self.settings
        ]
        return frame(found, "trial")

    def _repr_html_(self) -> str:
        return page(f"{self.name}: {self.metric} on fresh seeds", {"settings": self.frame})


def confirm(
    name: str,
    top: int = 1,
    seeds: int = 3,
    runs: str | Path = "runs",
    report: Report = silent,
    opponents: bool = False,
) -> Confirmation:
    """Run the best `top` settings on `seeds` fresh seeds each, and where asked the best setting of each opponent on the
    same ones, so that the final table is paired by seed; those already there are not run again.

    Raises:
        ConfigError: no such sweep. PoolError: it has no result yet, or the machines gave up; the same call goes on.
    """
    journal = sweep_journal(runs, name)
    study = all_at_hand(journal.study(), journal.folder)
    best = best_first(study, journal.trials())
    if not best:
        raise no_result(journal.trials(), name)
    wanted = confirmations(study, best, top, seeds)
    wanted += opponents_again(study, best[0], journal.trials(), seeds) if opponents else []
    trials = run_settings(study, journal.folder, wanted, report)
    metric = study.sweep.objectives[0].metric
    settings = tuple(_confirmed(record, trials, metric) for record in best[:top])
    return Confirmation(name, metric, study.experiment.run.validation.questions, settings)


def _confirmed(record: TrialRecord, trials: Sequence[TrialRecord], metric: str) -> Confirmed:
    again = [t.metrics[metric] for t in trials if t.label == f"trial {record.number}" and metric in t.metrics]
    return Confirmed(record.number, record.metrics[metric], tuple(again), seed_interval(again) if again else None)


def run_settings(study: Study, folder: Path, settings: list[Setting], report: Report) -> list[TrialRecord]:
    """Run given settings in an existing sweep; all of them as they ended. Where all have, no pool is started."""
    journal, kind = Journal(folder), settings[0].kind
    labels = {(s.label, s.seed) for s in settings}

    def own() -> list[TrialRecord]:
        return [t for t in journal.trials() if t.kind == kind and (t.label, t.seed) in labels]

    if not missing(settings, journal.trials()) and all(t.ended for t in own()):
        return own()
    ended = journal.last_end()

    def work(d: Driver) -> None:
        wanted = missing(settings, d.journal.trials())
        with d.watched(len(d.journal.trials()) + len(wanted)):
            d.fit(kind, wanted)
        if ended is not None:  # taking the sweep up opened it again
            d.journal.append(SweepEnded(ended.reason, time.time()))
            d.end([])
        else:
            d.tracking.tick()

    driven(study, folder, True, report, work)
    return own()
