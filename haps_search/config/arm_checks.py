"""What arms must satisfy before a trial is run under them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from haps_search.config.conditions import canonical
from haps_search.config.document import Problem, Where
from haps_search.config.explain import validate
from haps_search.config.parameters import with_parameters
from haps_search.config.pool_checks import pool_problems
from haps_search.config.run import Experiment
from haps_search.errors import ConfigError


def arm_problems(arms: Mapping[str, Any], experiment: Mapping[str, Any]) -> list[Problem]:
    """Every problem of arms laid over an experiment's plain values (which may be wrong themselves)."""
    known = {p.text for p in validate(Experiment, experiment)[1]}
    found = [p for name, arm in arms.items() if isinstance(arm, Mapping) for p in _arm(name, arm, experiment, known)]
    written = {name: canonical(arm) for name, arm in arms.items()}
    for index, (name, arm) in enumerate(written.items()):
        twin = next((other for other in list(written)[:index] if written[other] == arm), None)
        if twin is not None:
            found.append(Problem(("arms", name), f"is the same as {twin}"))
    return found


def _arm(name: str, arm: Mapping[str, Any], experiment: Mapping[str, Any], known: set[str]) -> Iterator[Problem]:
    where: Where = ("arms", name)
    shared = [path for path in arm if path.split(".")[0] == "engine"]
    if shared:
        yield Problem((*where, shared[0]), "all trials share one engine and its pool: set it in experiment.engine")
    if "run.seed" in arm:
        yield Problem((*where, "run.seed"), "seeds are the same for all arms: list them in sweep.seeds")
    try:
        changed = with_parameters(experiment, arm)
    except ConfigError as error:
        yield from (Problem(where, text) for text in error.problems)
        return
    found = [p for p in validate(Experiment, changed)[1] if p.text not in known]
    yield from (Problem(where, p.text) for p in [*found, *pool_problems(experiment, changed)])
