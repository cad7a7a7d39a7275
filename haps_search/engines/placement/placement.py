"""The plan of a study on a cluster: every process with its seat, what it needs there and what is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from haps_search.config.candidates import CandidateConfig, TableSource, endpoints_of
from haps_search.config.engines import ClusterProfile, Nodes, Resources
from haps_search.config.routing import BackboneConfig, BankLowLevel, StaticLowLevel
from haps_search.config.run import Experiment
from haps_search.engines.placement.needs import LIGHT_BYTES, Need, Needs, kept, most
from haps_search.engines.placement.seating import (
    Crew,
    Node,
    Seat,
    crews,
    endpoint_misfits,
    nodes_of,
    seat_pool,
    seat_routers,
)
from haps_search.types import ModuleTable

GB = 1_000_000_000
TICKET_BYTES = 1024
"""Of a ticket at the broker, at most."""
PROMPT_TOKENS = 1024


@dataclass(frozen=True, slots=True)
class Row:
    """A process of the plan. `there`: bytes of its share of GPU memory, None on a CPU or where it is not declared."""

    seat: Seat
    need: Need
    on_gpu: bool
    there: float | None


@dataclass(frozen=True, slots=True)
class Beside:
    """What is on a node beside workers and routers, in bytes of its memory, of which `least` cannot be fewer; `there`
    where that is bounded and known."""

    who: str
    node: int
    bytes: int
    least: int
    there: float | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """`problems` say why it cannot run, `remarks` what should be known where it can."""

    machines: tuple[Nodes, ...]
    rows: tuple[Row, ...]
    beside: tuple[Beside, ...]
    remarks: tuple[str, ...]
    problems: tuple[str, ...]


def needs_of(experiment: Experiment, prompt_tokens: int) -> Needs:
    """Read every model's configuration. Raises CandidateError, ConfigError where one cannot be had."""
    return kept(experiment, prompt_tokens, lambda: _worked_out(experiment, prompt_tokens))


def _worked_out(experiment: Experiment, prompt_tokens: int) -> Needs:
    from haps_search.engines.placement.memory import adapter_bytes, candidate_need, router_need  # transformers, torch

    found: dict[str, Need] = {}
    tables: dict[str, ModuleTable] = {}
    new, stages = experiment.run.sampling.max_new_tokens, experiment.played()
    for candidate in experiment.candidates:
        each = [candidate_need(candidate, s.learning, s.routing, prompt_tokens, new) for s in stages]
        found[candidate.name], tables[candidate.name] = most([need for need, _ in each]), each[0][1]
    router = most([router_need(stage, tables, prompt_tokens) for stage in stages])
    adapters = {name: adapter_bytes(experiment.routing, table) for name, table in tables.items()}
    shared = isinstance(experiment.routing.low_level, StaticLowLevel | BankLowLevel)
    return Needs(found, router, adapters, shared)


def plan(experiment: Experiment, trials: int, profile: ClusterProfile, needs: Needs) -> Plan:
    """Seat the pool and the routers of `trials` concurrent trials on the profile's machines and compare memory."""
    hosted = [c for c in experiment.candidates if not isinstance(c.source, TableSource)]
    profile = profile.with_endpoints(endpoints_of(hosted))
    pool, machines = crews(hosted, profile), profile.machines()
    nodes = nodes_of(machines) or [_anything(pool, profile, trials)]
    travels = _Travels(experiment, trials, profile, needs)
    seats = seat_pool(pool, nodes)
    workers = [_row(s, travels.with_lease(c.name), c.device, nodes) for s, c in zip(seats, _sitting(pool), strict=True)]
    backbone = experiment.routing.backbone
    device = backbone.device if isinstance(backbone, BackboneConfig) else "cpu"
    routers = [_row(s, travels.with_step(), device, nodes) for s in seat_routers(profile, trials, nodes)]
    problems = [_no_room(row.seat, nodes) for row in [*workers, *routers[:1]] if not row.seat.node]
    problems += [*_devices(hosted, profile), *endpoint_misfits(hosted, profile)]
    rows = [row for row in (*workers, *routers) if row.seat.node]
    beside = _beside(rows, nodes, travels.tickets) if hosted else []
    problems += [_too_large(row) for row in rows if row.there is not None and row.need.least > row.there]
    problems += [*_full_nodes(rows, beside, nodes), *_full_stores(beside, nodes)]
    remarks = [*_strangers(experiment, profile), *_waiting(routers), *_tight([*workers, *routers])]
    remarks += _stored(hosted, needs)
    return Plan(machines, tuple(rows), tuple(beside), tuple(remarks), tuple(dict.fromkeys(problems)))


class _Travels:
    """Bytes of adapters and gradients that processes have at a time, and tickets that the broker may have."""

    def __init__(self, experiment: Experiment, trials: int, profile: ClusterProfile, needs: Needs) -> None:
        self._needs, self._leases = needs, profile.leases
        runs = [stage.run for stage in experiment.played()]
        asked = max(run.questions_per_step for run in runs)
        questions = 1 if needs.shared else asked
        self._of_step = questions * sum(needs.adapters.values())
        # Adapters and their gradients, and the adapters of a step that is played ahead.
        self._steps = 2 + max(run.staleness for run in runs)
        self._most = 1 if needs.shared else min(profile.leases.rows, trials * asked)
        self.tickets = trials * max(run.questions_per_step * run.episodes_per_question for run in runs)

    def with_lease(self, candidate: str) -> Need:
        """A worker has those of one lease, which are bounded in bytes and by rows, but a single ticket's at least."""
        pair = 2 * self._needs.adapters.get(candidate, 0)
        lease = min(self._most * pair, max(int(self._leases.gb * GB), pair))
        return replace(self._needs.candidates[candidate], adapters=lease, least_adapters=pair)

    def with_step(self) -> Need:
        """A router has those of its step, where every candidate answers every question."""
        step = self._steps * self._of_step
        return replace(self._needs.router, adapters=step, least_adapters=step)


def _beside(rows: Sequence[Row], nodes: Sequence[Node], tickets: int) -> list[Beside]:
    """Driver and broker on the head, a trial's process beside its router, and on every node what its processes have in
    the object store: a trial maps there what its router made and its workers answered, and copies nothing."""
    head = 2 * LIGHT_BYTES + tickets * TICKET_BYTES
    found = [Beside("driver, broker", 1, head, head)]
    for node in nodes:
        own = [row for row in rows if row.seat.node == node.number]
        trials = sum(not row.need.halves for row in own)
        if trials:
            found.append(Beside("trials", node.number, trials * LIGHT_BYTES, trials * LIGHT_BYTES))
        stored, least = sum(row.need.adapters for row in own), sum(row.need.least_adapters for row in own)
        if stored:
            there = node.kind.store_gb
            found.append(Beside("object store", node.number, stored, least, None if there is None else there * GB))
    return found


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
        if row.need.least - row.need.kept <= row.there:
            way_out = "keep less (activation_gb and prompt_cache_gb of the candidate), or " + way_out
    return (
        f"{row.seat.who} needs {gigabytes(row.need.least)} GB at least (weights {gigabytes(row.need.weights)}, "
        f"{_parts(row.need)}), its {row.seat.resources.gpus:g} GPUs have "
        f"{gigabytes(row.there)}: {way_out}"
    )


def _parts(need: Need) -> str:
    if not need.halves:
        return f"gradients and optimiser {gigabytes(need.optimiser)}, adapters {gigabytes(need.adapters)}"
    return f"activations and prompts kept {gigabytes(need.kept)}, adapters and gradients {gigabytes(need.adapters)}"


def _full_nodes(rows: Sequence[Row], beside: Sequence[Beside], nodes: Sequence[Node]) -> list[str]:
    problems = []
    for node in nodes:
        needed = sum(row.need.least for row in rows if row.seat.node == node.number and not row.on_gpu)
        needed += sum(each.least for each in beside if each.node == node.number)
        if node.kind.memory_gb is not None and needed > node.kind.memory_gb * GB:
            problems.append(
                f"node {node.number}: what sits on its CPUs needs {gigabytes(needed)} GB at least, it has "
                f"{node.kind.memory_gb:g}: fewer trials at a time (sweep.concurrency), a smaller router, more memory"
            )
    return problems


def _full_stores(beside: Sequence[Beside], nodes: Sequence[Node]) -> list[str]:
    return [
        f"node {each.node}: adapters and gradients need {gigabytes(each.least)} GB at least of its object store, which "
        f"has {gigabytes(each.there)}: fewer trials at a time (sweep.concurrency), fewer questions a step, a lower "
        "rank or fewer targets (routing.lora), or a larger store (ray start --object-store-memory, and the profile's "
        "nodes.object_store_gb)"
        for each in beside
        if each.there is not None and each.least > each.there
    ]


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
