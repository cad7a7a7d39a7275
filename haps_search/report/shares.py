"""Route shares: which candidates took the seats, over the steps of a run."""

from __future__ import annotations

import math
from dataclasses import dataclass

from haps_search.report.draw.areas import draw_areas
from haps_search.report.learning import MOST_POINTS, SERIES, thinned
from haps_search.report.shape import Figure, Key, Section, Table
from haps_search.report.source import Points, Source
from haps_search.sweep.events import TrialRecord

PREFIX, REST = "share/", "all others"


@dataclass(frozen=True, slots=True)
class Shares:
    """Shares (K, N) of a run: rows are candidates, columns are steps."""

    trial: int
    title: str
    candidates: tuple[str, ...]
    steps: tuple[int, ...]
    values: tuple[tuple[float, ...], ...]


def shares(source: Source) -> list[Shares]:
    """Of the best trial; of each arm's first seed; of the run that is furthest while none has ended."""
    found = [_shares(trial, title, source.of(trial)) for trial, title in _shown(source)]
    return [each for each in found if each is not None]


def gathered(found: Shares) -> Shares:
    """At most 8 rows, in the order of before: all but the seven most used candidates are added up."""
    if len(found.candidates) <= SERIES:
        return found
    used = sorted(range(len(found.values)), key=lambda i: -math.fsum(found.values[i]))
    kept, others = sorted(used[: SERIES - 1]), used[SERIES - 1 :]
    rest = tuple(math.fsum(column) for column in zip(*(found.values[i] for i in others), strict=True))
    names = (*(found.candidates[i] for i in kept), REST)
    return Shares(found.trial, found.title, names, found.steps, (*(found.values[i] for i in kept), rest))


def shares_section(source: Source) -> Section:
    found = shares(source)
    if not found:
        return Section("routes", "Route shares", missing="no step with route shares has been recorded yet")
    text = "Share of the seats that each candidate took in training episodes."
    return Section("routes", "Route shares", (text,), figures=tuple(_figure(each) for each in found))


def _shown(source: Source) -> list[tuple[TrialRecord, str]]:
    if source.kind == "run":
        return [(source.trials[0], "This run")]
    if source.arms:
        first: dict[str, TrialRecord] = {}
        for trial in source.trials:
            if source.of(trial):
                first.setdefault(trial.label, trial)
        return [(first[arm], f"{arm}, seed {first[arm].seed}") for arm in source.arms if arm in first]
    if source.ranked:
        return [(source.ranked[0], f"Best trial, {source.ranked[0].number:03d}")]
    furthest = max(source.trials, key=lambda t: len(source.of(t)), default=None)
    return [(furthest, f"Trial {furthest.number:03d}, the furthest so far")] if furthest else []


def _shares(trial: TrialRecord, title: str, points: Points) -> Shares | None:
    with_shares = [(s, m) for s, m in points if any(n.startswith(PREFIX) for n in m)]
    if not with_shares:
        return None
    names = dict.fromkeys(n.removeprefix(PREFIX) for _, m in with_shares for n in m if n.startswith(PREFIX))
    stride = max(1, math.ceil(len(with_shares) / MOST_POINTS))
    columns = {n: thinned([(s, m.get(PREFIX + n, 0.0)) for s, m in with_shares], stride) for n in names}
    steps = tuple(step for step, _ in next(iter(columns.values())))
    return Shares(trial.number, title, tuple(names), steps, tuple(tuple(v for _, v in c) for c in columns.values()))


def _figure(found: Shares) -> Figure:
    rows = tuple((step, *(row[i] for row in found.values)) for i, step in enumerate(found.steps))
    data = Table(f"shares-{found.trial:03d}", found.title, ("step", *found.candidates), rows)
    drawn = gathered(found)
    last = ", ".join(f"{n} {row[-1]:.2f}" for n, row in zip(drawn.candidates, drawn.values, strict=True))
    said = f"Route shares over steps; at the end: {last}."
    keys = tuple(Key(name, f"series{i}", "area") for i, name in enumerate(drawn.candidates))
    return Figure(data, said, draw_areas(data.name, found.title, said, drawn.steps, drawn.values), keys)
