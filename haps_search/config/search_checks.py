"""Whether a space can be searched as a sweep asks: its sampler, and the settings it wants tried first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from haps_search.config.complaints import show
from haps_search.config.conditions import Space, canonical, finite, reachable, same, wanted
from haps_search.config.constraints import FAMILIES, SEATS, parse_constraint
from haps_search.config.distributions import Choice, Distribution
from haps_search.config.document import Problem, Where
from haps_search.config.schema import suggest

TREES = "tpe and random take any space"


def search_problems(space: Space, sweep: Mapping[str, Any], experiment: Mapping[str, Any]) -> list[Problem]:
    """Every problem of a sweep's plain values (which may be wrong themselves) with its space and its candidates."""
    sampler = sweep.get("sampler")
    kind = sampler.get("type") if isinstance(sampler, Mapping) else None
    problems = [Problem(("sweep", "sampler"), text) for text in _sampler(kind, space, sweep)]
    problems += _constraints(space, sweep.get("constraints"), experiment.get("candidates"))
    enqueue = sweep.get("enqueue")
    if isinstance(enqueue, list) and enqueue:
        if kind == "grid":
            problems.append(Problem(("sweep", "enqueue"), "a grid tries every setting anyway; leave it out"))
        problems += [p for i, setting in enumerate(enqueue) for p in _setting(i, setting, space)]
        problems += _twins(enqueue)
    return problems


def _sampler(kind: str | None, space: Space, sweep: Mapping[str, Any]) -> Iterator[str]:
    """Why a sampler of relations between all parameters cannot search this space."""
    if kind not in ("gp", "cmaes"):
        return
    conditional = [name for name in space if space[name].when]
    if conditional:
        yield f"{kind} cannot search a space with conditions, got {conditional[0]} with `when`; {TREES}"
    if kind == "gp":
        return
    chosen = [name for name in space if isinstance(space[name], Choice)]
    if chosen:
        yield f"cmaes searches floats and integers only, got the choice {chosen[0]}; gp takes choices, {TREES}"
    if len(space) < 2:
        yield f"cmaes adapts a covariance and needs two parameters at least, got {len(space)}; {TREES}"
    objectives = sweep.get("objectives")
    if isinstance(objectives, list) and len(objectives) > 1:
        yield f"cmaes searches one objective, got {len(objectives)}; use tpe or gp"
    if sweep.get("constraints"):
        yield "cmaes knows no constraints; use tpe or gp"


def _constraints(space: Space, constraints: Any, candidates: Any) -> Iterator[Problem]:
    """Bounds on the share of a candidate that the study does not have, which no trial would record."""
    named = candidates if isinstance(candidates, list) else []
    names = [str(c["name"]) for c in named if isinstance(c, Mapping) and "name" in c]
    own = [path.split(".") for path in space]
    if not names or any(path[0] == "candidates" and (len(path) < 3 or path[-1] == "name") for path in own):
        return
    for index, text in enumerate(constraints if isinstance(constraints, list) else []):
        try:
            metric = parse_constraint(text).metric
        except (ValueError, TypeError):
            continue  # which the field itself says
        family = next((each for each in FAMILIES if metric.startswith(each)), None)
        if family is None:
            continue
        role, slash, name = metric.removeprefix(family).rpartition("/")
        where: Where = ("sweep", "constraints", index)
        if family in SEATS and not role:
            yield Problem(where, f"{metric}: a share of failures is a seat's; write {family}ROLE/CANDIDATE")
        elif name not in names or (slash and family not in SEATS):
            yield Problem(where, f"{metric}: no such candidate; {suggest(name, names, 'there are')}")


def _setting(index: int, setting: Any, space: Space) -> Iterator[Problem]:
    where: Where = ("sweep", "enqueue", index)
    for name, value in setting.items() if isinstance(setting, Mapping) else ():
        if name not in space:
            yield Problem((*where, name), f"no such parameter in the space; {suggest(name, list(space), 'it has')}")
        elif not within(value, space[name]):
            yield Problem((*where, name), f"got {show(value)}, which the space cannot draw")
        else:
            yield from _inactive((*where, name), setting, space[name], space)


def _inactive(where: Where, setting: Mapping[str, Any], own: Distribution, space: Space) -> Iterator[Problem]:
    for parent, value in own.when.items():
        asked = wanted(value, space[parent]) if parent in space else []
        if parent not in setting:
            yield Problem(where, f"counts only when {parent} is {show(value)}: name that here too")
        elif not any(same(setting[parent], each) for each in asked):
            yield Problem(where, f"does not count when {parent} is {show(setting[parent])}; leave it out")


def _twins(enqueue: Sequence[Any]) -> Iterator[Problem]:
    written = [canonical(setting) for setting in enqueue]
    for index, text in enumerate(written):
        if text in written[:index]:
            yield Problem(("sweep", "enqueue", index), f"is the same as number {written.index(text)}")


def within(value: Any, distribution: Distribution) -> bool:
    """Whether a distribution can draw a value."""
    if finite(distribution) is not None:
        return reachable(value, distribution)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and not isinstance(distribution, Choice) and distribution.low <= value <= distribution.high
