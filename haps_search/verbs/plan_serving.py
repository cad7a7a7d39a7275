"""Who would sit where when a run is served: arithmetic over shapes, nothing is started."""

from __future__ import annotations

from dataclasses import replace

from haps_search.config.engines import ClusterProfile
from haps_search.config.run import Experiment
from haps_search.engines.placement import placement
from haps_search.engines.placement.needs import LIGHT_BYTES
from haps_search.engines.placement.placement import PROMPT_TOKENS, Beside, Plan, Row, gigabytes, needs_of


def here(experiment: Experiment) -> str:
    """What one process holds that serves alone, in a line. Raises CandidateError for a shape that cannot be had."""
    needs = needs_of(experiment, PROMPT_TOKENS)
    parts = {**{name: need.weights for name, need in needs.candidates.items()}, "router": needs.router.weights}
    listed = ", ".join(f"{name} {gigabytes(size)}" for name, size in parts.items())
    return f"one process with weights of {gigabytes(sum(parts.values()))} GB: {listed}"


def plan_serving(experiment: Experiment, profile: ClusterProfile, prompt_tokens: int = PROMPT_TOKENS) -> Plan:
    """The replicas that are there at once, at the least of each candidate, and the process that listens. Nothing
    learns: no gradients, no optimiser, and an adapter for each request of a batch.

    Raises:
        CandidateError: a shape that cannot be had.
    """
    made = placement.plan(experiment, 1, profile, needs_of(experiment, prompt_tokens))
    listens = Beside("listens", 1, LIGHT_BYTES, LIGHT_BYTES)
    return replace(made, rows=tuple(map(_serving, made.rows)), beside=(listens,))


def _serving(row: Row) -> Row:
    need = row.need
    if need.halves:
        return replace(row, need=replace(need, adapters=need.adapters // 2, least_adapters=need.least_adapters // 2))
    seat = replace(row.seat, who="router")
    return replace(row, seat=seat, need=replace(need, optimiser=0, adapters=0, least_adapters=0))
