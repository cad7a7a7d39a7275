"""Whether opponents can be what their settings and spaces say, before a sweep begins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from haps_search.config.checks import pool_problems, readable, space_problems
from haps_search.config.complaints import validate
from haps_search.config.document import Problem, Where, dotted
from haps_search.config.opponents import BASES
from haps_search.config.overrides import with_parameters
from haps_search.config.run import Experiment
from haps_search.errors import ConfigError


def opponent_problems(opponents: Mapping[str, Any], experiment: Mapping[str, Any]) -> list[Problem]:
    """Every problem of opponents' settings and spaces around an experiment's plain values (which may be wrong
    themselves)."""
    known = {p.text for p in validate(Experiment, experiment)[1]}
    return [
        problem
        for name, base in BASES.items()
        if isinstance(opponents.get(name), Mapping)
        for problem in _of_one(("sweep", "opponents", name), opponents[name], base, experiment, known)
    ]


def _of_one(
    where: Where, opponent: Mapping[str, Any], base: Mapping[str, Any], experiment: Mapping[str, Any], known: set[str]
) -> Iterator[Problem]:
    settings, space = opponent.get("settings") or {}, opponent.get("space") or {}
    if not isinstance(settings, Mapping) or not isinstance(space, Mapping):
        return  # the schema's business
    for path in settings:
        if path.split(".")[0] in ("engine", "task"):
            yield Problem((*where, "settings", path), "opponents answer the same questions on the same machines")
    try:
        changed = with_parameters(experiment, {**base, **settings})
    except ConfigError as error:
        yield from (Problem((*where, "settings"), text) for text in error.problems)
        return
    found = [p for p in validate(Experiment, changed)[1] if p.text not in known]
    for p in [*found, *pool_problems(experiment, changed)]:
        yield Problem((*where, "settings"), f"{dotted(p.where)}: {p.text}" if p.where else p.text)
    if not found:
        problems = space_problems(readable(dict(space)), list(space), changed, grid=False)
        yield from (replace(p, where=(*where, *p.where)) for p in problems)
