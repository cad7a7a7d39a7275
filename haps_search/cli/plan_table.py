"""A plan as one table."""

from __future__ import annotations

from rich.table import Table

from haps_search.cli.display import Terminal
from haps_search.engines.placement.needs import PROCESS_BYTES
from haps_search.engines.placement.placement import Plan, Row, gigabytes
from haps_search.verbs.plan import Planned, described


def show_plan(terminal: Terminal, found: Planned) -> None:
    """The plan, then what should be known of it. Raises ConfigError where it cannot run, with the numbers."""
    made, run = found.plan, found.study.experiment.run
    machines = "; ".join(map(described, made.machines)) or "nodes not declared, so nothing is compared"
    terminal.say(f"{found.study.name} on profile {found.profile.name}: {machines}\n")
    terminal.show(plan_table(made))
    rows = ", ".join(dict.fromkeys(str(r.need.rows) for r in made.rows if r.need.halves))
    notes = [
        "",
        f"GB are 10^9 bytes, {gigabytes(PROCESS_BYTES)} of them for each process itself. Working memory is that of "
        f"{rows} rows of {found.prompt_tokens} + {run.sampling.max_new_tokens} tokens in a candidate's worker and of "
        f"{run.questions_per_step} questions of up to {found.prompt_tokens} tokens in a router (--prompt-tokens).",
        *made.remarks,
    ]
    for line in notes:
        terminal.say(line)
    found.check()


def plan_table(made: Plan) -> Table:
    """A row per process; memory in GB, of a GPU's share or of the machine."""
    shown = Table(box=None, pad_edge=False)
    for name in ("who", "where", "asks for"):
        shown.add_column(name, no_wrap=True)
    for name in ("weights", "optimiser", "working", "needs", "there"):
        shown.add_column(name, justify="right", no_wrap=True)
    shown.add_row("driver, broker", "head" if made.machines else "-", "nothing", *["-"] * 5)
    for row in made.rows:
        shown.add_row(*_cells(row, bool(made.machines)))
    return shown


def _cells(row: Row, placed: bool) -> list[str]:
    need = row.need
    there = "-" if row.there is None else gigabytes(row.there)
    sizes = [gigabytes(s) for s in (need.weights, need.optimiser, need.working, need.total)]
    return [row.seat.who, _place(row) if placed else "-", _share(row), *sizes, there]


def _place(row: Row) -> str:
    gpus = ", ".join(map(str, row.seat.gpus))
    return f"node {row.seat.node}" + (f" GPU {gpus}" if gpus else "")


def _share(row: Row) -> str:
    asked = row.seat.resources
    return f"{asked.gpus:g} GPU, {asked.cpus:g} CPU" if asked.gpus else f"{asked.cpus:g} CPU"
