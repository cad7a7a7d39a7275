"""The plan of a study on a cluster: every process with its seat, what it needs there and what is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from haps_search.config.candidates import CandidateConfig, TableSource
from haps_search.config.engines import ClusterProfile, Nodes, Resources
from haps_search.config.routing import BackboneConfig
from haps_search.config.run import Experiment
from haps_search.engines.placement.needs import Need, Needs, kept
from haps_search.engines.placement.seating import Crew, Node, Seat, crews, nodes_of, seat_pool, seat_routers
from haps_search.types import ModuleTable

GB = 1_000_000_000
PROMPT_TOKENS = 1024


@dataclass(frozen=True, slots=True)
class Row:
    """A process of the plan. `there`: bytes of its share of GPU memory, None on a CPU or where it is not declared."""

    seat: Seat
    need: Need
    on_gpu: bool
    there: float | None


@dataclass(frozen=True, slots=True)
class Plan:
    """`problems` say why it cannot run, `remarks` what should be known where it can."""

    machines: tuple[Nodes, ...]
    rows: tuple[Row, ...]
    remarks: tuple[str, ...]
    problems: tuple[str, ...]


def needs_of(experiment: Experiment, prompt_tokens: int) -> Needs:
    """Read every model's configuration. Raises CandidateError, ConfigError where one cannot be had."""
    return kept(experiment, prompt_tokens, lambda: _worked_out(experiment, prompt_tokens))


def _worked_out(experiment: Experiment, prompt_tokens: int) -> Needs:
    from haps_search.engines.placement.memory import candidate_need, router_need  # transformers and torch

    found: dict[str, Need] = {}
    tables: dict[str, ModuleTable] = {}
    new = experiment.run.sampling.max_new_tokens
    for candidate in experiment.candidates:
        found[candidate.name], tables[candidate.name] = candidate_need(
            candidate, experiment.learning, experiment.routing, prompt_tokens, new
        )
    return Needs(found, router_need(experiment, tables, prompt_tokens))


def plan(experiment: Experiment, trials: int, profile: ClusterProfile, needs: Needs) -> Plan:
    """Seat the pool and the routers of `trials` concurrent trials on the profile's machines and compare memory."""
    hosted = [c for c in experiment.candidates if not isinstance(c.source, TableSource)]
    pool, machines = crews(hosted, profile), profile.machines()
    nodes = nodes_of(machines) or [_anything(pool, profile, trials)]
    seats = seat_pool(pool, nodes)
    workers = [_row(s, needs.candidates[c.name], c.device, nodes) for s, c in zip(seats, _sitting(pool), strict=True)]
    backbone = experiment.routing.backbone
    device = backbone.device if isinstance(backbone, BackboneConfig) else "cpu"
    routers = [_row(s, needs.router, device, nodes) for s in seat_routers(profile, trials, nodes)]
    problems = [_no_room(row.seat, nodes) for row in [*workers, *routers[:1]] if not row.seat.node]
    problems += _devices(hosted, profile)
    rows = [row for row in (*workers, *routers) if row.seat.node]
    problems += [_too_large(row) for row in rows if row.there is not None and row.need.least > row.there]
    problems += _full_nodes(rows, nodes)
    remarks = [*_strangers(experiment, profile), *_waiting(routers), *_tight([*workers, *routers])]
    remarks += _stored(hosted, needs)
    return Plan(machines, tuple(rows), tuple(remarks), tuple(dict.fromkeys(problems)))


def _sitting(pool: Sequence[Crew]) -> list[CandidateConfig]:
    return [candidate for crew in pool for candidate in crew.seats]


def _anything(pool: Sequence[Crew], profile: ClusterProfile, trials: int) -> Node:
    """Where no machine is declared: one with room for everybody."""
    asked = [crew.resources for crew in pool for _ in crew.seats] + [profile.router, profile.trial] * trials
    kind = Nodes(cpus=sum(r.cpus for r in asked) + 1, gpus=sum(int(r.gpus) + 1 for r in asked))
    return Node(1, kind, kind.cpus, [1.0] * kind.gpus)


def _row(seat: Seat, need: Need, device: str, nodes: Sequence[Node]) -> Row:
    on_gpu = seat.resources.gpus > 0 and device != "cpu"
    memory = nodes[seat.node - 1].kind.gpu_memory_gb if seat.node else None
    there = seat.resources.gpus * memory * GB if on_gpu and memory is not None else None
    return Row(seat, need, on_gpu, there)


def _no_room(seat: Seat, nodes: Sequence[Node]) -> str:
    best = max(nodes, key=lambda n: (sum(n.gpus), n.cpus))
    return (
        f"{seat.who} needs {_asked(seat.resources)} on one node, and the node with most left has "
        f"{sum(best.gpus):g} GPUs and {best.cpus:g} CPUs: take fewer candidates or replicas, or more or larger nodes"
    )


def _asked(resources: Resources) -> str:
    return f"{resources.gpus:g} GPUs and {resources.cpus:g} CPUs"


def _too_large(row: Row) -> str:
    assert row.there is not None
    way_out = "give it more of a GPU, or tune the backbone by lora or not at all"
    if row.need.halves:
        way_out = "give it more GPUs and `device: balanced`, a larger GPU, or a smaller dtype"
    return (
        f"{row.seat.who} needs {gigabytes(row.need.least)} GB at least (weights {gigabytes(row.need.weights)}, "
        f"gradients and optimiser {gigabytes(row.need.optimiser)}), its {row.seat.resources.gpus:g} GPUs have "
        f"{gigabytes(row.there)}: {way_out}"
    )


def _full_nodes(rows: Sequence[Row], nodes: Sequence[Node]) -> list[str]:
    problems = []
    for node in nodes:
        needed = sum(row.need.least for row in rows if row.seat.node == node.number and not row.on_gpu)
        if node.kind.memory_gb is not None and needed > node.kind.memory_gb * GB:
            problems.append(
                f"node {node.number}: what sits on its CPUs needs {gigabytes(needed)} GB at least, it has "
                f"{node.kind.memory_gb:g}: fewer trials at a time (sweep.concurrency), a smaller router, more memory"
            )
    return problems


def _devices(candidates: Sequence[CandidateConfig], profile: ClusterProfile) -> list[str]:
    problems = []
    for candidate in candidates:
        gpus, where = profile.resources_of(candidate.name).gpus, f"candidate {candidate.name}"
        if gpus > 1 and candidate.device != "balanced":
            problems.append(f"{where} is given {gpus:g} GPUs and `device: {candidate.device}` uses one: say `balanced`")
        if gpus == 0 and candidate.device not in ("auto", "cpu"):
            problems.append(f"{where} wants `device: {candidate.device}` and is given no GPU: say `auto`, or give one")
    return problems


def _strangers(experiment: Experiment, profile: ClusterProfile) -> list[str]:
    names = {c.name for c in experiment.candidates}
    unknown = sorted({*profile.candidates, *profile.replicas} - names)
    return [f"profile {profile.name} names {', '.join(unknown)}, which this study has not"] if unknown else []


def _stored(candidates: Sequence[CandidateConfig], needs: Needs) -> list[str]:
    """What references take, a line per candidate that stores anything of them."""
    return [
        f"{c.name}: what is read of 1,000 references takes {1000 * needs.candidates[c.name].stored / GB:.2g} GB; "
        f"{c.stored_gb:g} GB of memory (stored_gb) and {c.stored_disk_gb:g} of disk (stored_disk_gb) are for that"
        for c in candidates
        if needs.candidates[c.name].stored
    ]


def _waiting(routers: Sequence[Row]) -> list[str]:
    seated = sum(row.seat.node > 0 for row in routers)
    if seated in (0, len(routers)):
        return []
    return [f"{seated} of {len(routers)} trials run at a time; there is no room for more routers"]


def _tight(rows: Sequence[Row]) -> list[str]:
    """Those that can run and not at their full size, a line per name."""
    found = {}
    for row in rows:
        need, there = row.need, row.there
        if there is None or not need.least <= there < need.total:
            continue
        if need.halves:
            name, what = (
                row.seat.who.partition(" (")[0],
                f"about {need.rows_in(there)} of {need.rows} rows of a batch fit",
            )
            found[name] = f"{name}: {what}; larger batches are halved"
        else:
            found["router"] = (
                f"routers: {need.rows} questions of {need.tokens} tokens would take {gigabytes(need.total)} GB, and "
                f"{gigabytes(there)} are there: about {need.tokens_in(there)} tokens a prompt fit "
                "(routing.backbone.max_tokens, run.questions_per_step)"
            )
    return list(found.values())


def gigabytes(size: float) -> str:
    return f"{size / GB:.1f}"
