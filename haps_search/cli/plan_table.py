"""A plan as one table, and as the two lines with which a sweep begins."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from haps_search.cli.display import wide_console
from haps_search.config.engines import ClusterProfile, Nodes
from haps_search.config.sweep import Study
from haps_search.engines.placement.memory import PROCESS_BYTES
from haps_search.engines.placement.placement import PROMPT_TOKENS, Plan, Row, gigabytes, needs_of, plan
from haps_search.errors import CandidateError, ConfigError


def show_plan(
    made: Plan, study: Study, profile: ClusterProfile, prompt_tokens: int, console: Console | None = None
) -> None:
    """Print the plan, then what should be known of it. Raises ConfigError where it cannot run, with the numbers."""
    console, run = console or wide_console(), study.experiment.run
    machines = "; ".join(map(_machines, made.machines)) or "nodes not declared, so nothing is compared"
    lines = [f"{study.name} on profile {profile.name}: {machines}", ""]
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)
    console.print(plan_table(made))
    rows = ", ".join(dict.fromkeys(str(r.need.rows) for r in made.rows if r.need.halves))
    notes = [
        "",
        f"GB are 10^9 bytes, {gigabytes(PROCESS_BYTES)} of them for each process itself. Working memory is that of "
        f"{rows} rows of {prompt_tokens} + {run.sampling.max_new_tokens} tokens in a candidate's worker and of "
        f"{run.questions_per_step} questions of up to {prompt_tokens} tokens in a router (--prompt-tokens).",
        *made.remarks,
    ]
    for line in notes:
        console.print(line, highlight=False, soft_wrap=True)
    _refuse(made, profile)


def start_lines(study: Study, profile: ClusterProfile) -> list[str]:
    """What `haps sweep` says of its placement before it starts anything.

    Raises:
        ConfigError: it cannot fit on the profile's nodes, with the numbers.
    """
    if study.experiment.task.type == "replay":
        return []  # no LLM is placed
    try:
        needs = needs_of(study.experiment, PROMPT_TOKENS)
    except CandidateError as error:
        return [f"placement is not checked: {str(error).splitlines()[0]}"]
    made = plan(study.experiment, study.sweep.concurrency, profile, needs)
    _refuse(made, profile)
    workers = [row for row in made.rows if row.need.halves]
    routers = [row for row in made.rows if not row.need.halves]
    machines = "; ".join(map(_machines, made.machines)) or "nodes not declared, so not compared"
    return [
        f"placement   {_counted(workers, 'candidate worker')}, {_counted(routers, 'router')}; {machines}",
        *made.remarks,
    ]


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


def _machines(kind: Nodes) -> str:
    parts = [f"{kind.cpus:g} CPUs"]
    if kind.memory_gb is not None:
        parts.append(f"{kind.memory_gb:g} GB")
    if kind.gpus:
        memory = "" if kind.gpu_memory_gb is None else f" of {kind.gpu_memory_gb:g} GB"
        parts.append(f"{kind.gpus} GPU{'s' if kind.gpus > 1 else ''}{memory}")
    return f"{kind.count} node{'s' if kind.count > 1 else ''} with {', '.join(parts)}"


def _counted(rows: list[Row], what: str) -> str:
    most = max((row.need.total for row in rows), default=0)
    return f"{len(rows)} {what}{'s' if len(rows) != 1 else ''} of up to {gigabytes(most)} GB"


def _refuse(made: Plan, profile: ClusterProfile) -> None:
    if made.problems:
        raise ConfigError(made.problems, f"does not fit profile {profile.name}")
