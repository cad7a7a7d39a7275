"""A plan as one table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich.table import Table

from haps_search.cli.display import Terminal
from haps_search.engines.placement.needs import PROCESS_BYTES
from haps_search.engines.placement.placement import Beside, Plan, Row, gigabytes
from haps_search.verbs.plan import Planned, described


def show_plan(terminal: Terminal, found: Planned) -> None:
    """The plan, then what should be known of it. Raises ConfigError where it cannot run, with the numbers."""
    made, run = found.plan, found.study.experiment.run
    asked = max(stage.run.questions_per_step for stage in found.study.experiment.played())
    machines = "; ".join(map(described, made.machines)) or "nodes not declared, so nothing is compared"
    terminal.say(f"{found.study.name} on profile {found.profile.name}: {machines}\n")
    terminal.show(plan_table(made))
    computing = [r.need for r in made.rows if r.need.halves and r.need.weights]
    rows = ", ".join(dict.fromkeys(str(need.rows) for need in computing)) or "no"
    notes = [
        "",
        f"GB are 10^9 bytes, {gigabytes(PROCESS_BYTES)} of them for each process itself that holds a model. Adapters "
        "are those of a lease in a worker and of a step in a router, with their gradients; kept are activations and "
        "prompts (activation_gb, prompt_cache_gb). Working memory is that of "
        f"{rows} rows of {found.prompt_tokens} + {run.sampling.max_new_tokens} tokens in a candidate's worker and of "
        f"{asked} questions of up to {found.prompt_tokens} tokens in a router (--prompt-tokens).",
        *made.remarks,
    ]
    for line in notes:
        terminal.say(line)
    found.check()


SHOWN = 40
"""Rows from which on equal ones share a line."""


def plan_table(made: Plan) -> Table:
    """A row per process; memory in GB, of a GPU's share or of the machine. Of very many, equal ones share a row."""
    shown = Table(box=None, pad_edge=False)
    for name in ("who", "where", "asks for"):
        shown.add_column(name, no_wrap=True)
    for name in ("weights", "optimiser", "adapters", "kept", "working", "needs", "there"):
        shown.add_column(name, justify="right", no_wrap=True)
    lines = [_beside(each, bool(made.machines)) for each in made.beside]
    lines += [_cells(row, bool(made.machines)) for row in made.rows]
    for line in lines if len(lines) <= SHOWN else _joined(lines):
        shown.add_row(line.who, line.where, *line.cells)
    return shown


@dataclass(frozen=True, slots=True)
class _Line:
    """A row of the table: `of` is what it is one of."""

    of: str
    who: str
    where: str
    cells: tuple[str, ...]


def _joined(lines: Sequence[_Line]) -> list[_Line]:
    found: dict[tuple[str, ...], list[_Line]] = {}
    for line in lines:
        found.setdefault((line.of, *line.cells), []).append(line)
    return [
        replace(same[0], who=f"{same[0].of} x {len(same)}", where=_span([line.where for line in same]))
        if len(same) > 1
        else same[0]
        for same in found.values()
    ]


def _span(places: Sequence[str]) -> str:
    names = list(dict.fromkeys(place.partition(" GPU")[0] for place in places))
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}, {len(names)} nodes"


def _beside(each: Beside, placed: bool) -> _Line:
    place = "head" if each.who == "driver, broker" else f"node {each.node}"
    there = "-" if each.there is None else gigabytes(each.there)
    stored = gigabytes(each.bytes) if each.who == "object store" else "-"
    return _Line(
        each.who, each.who, place if placed else "-",
        ("nothing", "-", "-", stored, "-", "-", gigabytes(each.bytes), there),
    )  # fmt: skip


def _cells(row: Row, placed: bool) -> _Line:
    need = row.need
    there = "-" if row.there is None else gigabytes(row.there)
    sizes = (need.weights, need.optimiser, need.adapters, need.kept, need.working, need.total)
    of = row.seat.who.partition(" (")[0] if need.halves else "router"
    where = _place(row) if placed else "-"
    return _Line(of, row.seat.who, where, (_share(row), *map(gigabytes, sizes), there))


def _place(row: Row) -> str:
    gpus = ", ".join(map(str, row.seat.gpus))
    return f"node {row.seat.node}" + (f" GPU {gpus}" if gpus else "")


def _share(row: Row) -> str:
    asked = row.seat.resources
    return f"{asked.gpus:g} GPU, {asked.cpus:g} CPU" if asked.gpus else f"{asked.cpus:g} CPU"
