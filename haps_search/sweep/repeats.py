"""Several runs of one setting, each on a seed of its own (`sweep.seeds_per_trial`), and the setting they stand for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from haps_search.config.constraints import SEATS
from haps_search.config.sweep import Study
from haps_search.seeds import derive_seed
from haps_search.sweep.events import State, TrialRecord
from haps_search.sweep.settings import Setting

_WORST: tuple[State, ...] = ("failed", "suggested", "running", "stopped", "finished")


def groups(trials: Iterable[TrialRecord]) -> dict[int, list[TrialRecord]]:
    """The runs of each searched setting, by the number of its first trial."""
    found: dict[int, list[TrialRecord]] = {}
    for trial in trials:
        if trial.kind == "search":
            found.setdefault(trial.number if trial.of is None else trial.of, []).append(trial)
    return found


def searched(trials: Iterable[TrialRecord], seeds: int = 1) -> list[TrialRecord]:
    """A record for each searched setting: of its first trial, with the means over all its runs.

    A setting ends with the last of its `seeds` runs; it has failed where one of them has, since a mean over those that
    lived would flatter it.
    """
    return [_merged(runs, seeds) for runs in groups(trials).values()]


def _merged(runs: Sequence[TrialRecord], seeds: int) -> TrialRecord:
    first = runs[0]
    if seeds == 1:
        return first
    state = min((t.state for t in runs), key=_WORST.index)
    if state in ("finished", "stopped") and len(runs) < seeds:
        state = "running"
    error = next((t.error for t in runs if t.error), None)
    metrics = _means([t.metrics for t in runs]) if state in ("finished", "stopped") else {}
    return replace(first, state=state, metrics=metrics, error=error, reports=_curve(runs))


def _means(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of what all have; a seat that had no turn in a run failed at none there."""
    filled = [{**{name: 0.0 for m in found for name in m if name.startswith(SEATS)}, **m} for m in found]
    return {name: fmean(m[name] for m in filled) for name in filled[0] if all(name in m for m in filled)}


def _curve(runs: Sequence[TrialRecord]) -> tuple[tuple[int, Mapping[str, float]], ...]:
    curves = [dict(t.reports) for t in runs]
    return tuple((step, _means([c[step] for c in curves])) for step in curves[0] if all(step in c for c in curves))


def wanting(study: Study, trials: Iterable[TrialRecord]) -> list[Setting]:
    """Runs that begun settings still lack, in order; their seeds are the same for all settings."""
    lacking = []
    for number, runs in groups(trials).items():
        for index in range(len(runs), study.sweep.seeds_per_trial):
            seed = derive_seed(study.experiment.run.seed, "repeat", index) % 2**31
            lacking.append(Setting(runs[0].parameters, seed, "search", f"{number:03d} again", number))
    return lacking
