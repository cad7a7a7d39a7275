"""A pool's report on one screen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from haps_search.config.tables import TableConfig
from haps_search.evaluation.pool.census import Census
from haps_search.evaluation.pool.gains import Choice, Gains, ModelLine
from haps_search.evaluation.pool.likeness import Likeness
from haps_search.evaluation.pool.pool_report import PoolReport, signed
from haps_search.tasks.tables.reading import LoadedTable

MOST_MODELS = 14
MOST_NAMES = 6
MOST_UNREAD = 5


def page(config: TableConfig, loaded: LoadedTable, report: PoolReport) -> Iterator[RenderableType]:
    """Counts, models, ways to choose, verdict."""
    yield Text(f"{config.name} ({loaded.layout})")
    yield _facts([*_counted(report.census), *_policies(config, loaded)])
    yield Text()
    yield _models(report.models, report.census.questions)
    if report.gains is not None and report.likeness is not None:
        yield Text()
        yield _choices(report.gains, report.census.questions)
        yield Text()
        yield Text(_alike(report.likeness))
    yield Text()
    for sentence in report.verdict.sentences:
        yield Text(sentence, style="bold")


def _counted(census: Census) -> list[tuple[str, str]]:
    samples = f", up to {census.most_samples} samples each" if census.most_samples > 1 else ""
    return [
        ("questions", f"{census.questions:,} x {census.models} models{samples}"),
        ("tasks", _named(census.tasks)),
        ("splits", _named(census.splits)),
        ("missing", _missing(census)),
        ("duplicates", _duplicates(census)),
        ("leaks", _leaks(census)),
    ]


def _policies(config: TableConfig, loaded: LoadedTable) -> list[tuple[str, str]]:
    said = []
    if loaded.table.costs is not None:
        said.append(("cost", loaded.cost_unit))
    if loaded.dropped:
        said.append(("dropped", f"{loaded.dropped:,} questions that some model did not answer"))
    if loaded.repeated:
        kept = "only the first is kept" if config.duplicate_ids == "first" else "taken as more samples of the same"
        said.append(("repeated", f"{loaded.repeated:,} rows with an id that came before; {kept}"))
    for unread in loaded.unread[:MOST_UNREAD]:
        said.append(("not read", f"{unread.count:,} times: {unread.first}"))
    if len(loaded.unread) > MOST_UNREAD:
        said.append(("", f"and {len(loaded.unread) - MOST_UNREAD} more sorts of problems, in --json"))
    low, high = config.score_range
    if (low, high) != (0, 1):
        said.append(("rewards", f"scores rescaled from [{low:g}, {high:g}] to [0, 1]"))
    return said


def _named(counts: Mapping[str, int]) -> str:
    if not counts:
        return "the table names none"
    shown = ", ".join(f"{name} {count:,}" for name, count in list(counts.items())[:MOST_NAMES])
    more = f" and {len(counts) - MOST_NAMES} more" if len(counts) > MOST_NAMES else ""
    return f"{len(counts)}: {shown}{more}"


def _missing(census: Census) -> str:
    if not census.missing_cells:
        return "no cell"
    none = f", {census.unanswered:,} of them without any score" if census.unanswered else ""
    return f"{census.missing_cells:,} cells in {census.incomplete:,} questions{none}"


def _duplicates(census: Census) -> str:
    found = census.duplicates
    if not found.texts:
        return "no question comes twice"
    letters = f"{found.same_letters:,} to the letter, the others but for case, punctuation and articles"
    return f"{found.texts:,} texts on {found.questions:,} questions ({letters}), e.g. {', '.join(found.example)}"


def _leaks(census: Census) -> str:
    found = census.leaks
    if len(census.splits) < 2:
        return "none, with fewer than two splits"
    if not found.texts:
        return "no question stands in two splits"
    between = "; ".join(f"{count:,} in {splits}" for splits, count in found.between.items())
    return f"{found.texts:,} texts stand in several splits ({between}), e.g. {', '.join(found.example)}"


def _facts(pairs: Sequence[tuple[str, str]]) -> Table:
    shown = Table.grid(padding=(0, 2))
    for name, fact in pairs:
        shown.add_row(Text(name), Text(fact))
    return shown


def _models(lines: Sequence[ModelLine], questions: int) -> Table:
    gaps, priced = any(m.answered < questions for m in lines), any(m.cost is not None for m in lines)
    shown = _table(
        "model", "mean reward, 95 %", *(["answered"] if gaps else []), "beats all others", *(["cost"] if priced else [])
    )
    for m in lines[:MOST_MODELS]:
        alone = "-" if m.only_best is None else f"{m.only_best:.1%}"
        answered = [f"{m.answered:,}"] if gaps else []
        shown.add_row(Text(m.name), str(m.reward or "-"), *answered, alone, *([_cost(m.cost)] if priced else []))
    if len(lines) > MOST_MODELS:
        shown.add_row(f"and {len(lines) - MOST_MODELS} more, in --json")
    return shown


def _choices(gains: Gains, questions: int) -> Table:
    where = "" if gains.questions == questions else f" ({gains.questions:,} questions that all models answered)"
    priced = gains.best_single.cost is not None
    shown = _table(f"choosing{where}", "mean reward, 95 %", "over best single", *(["cost"] if priced else []))
    rows: list[tuple[str, Choice | None]] = [
        ("at random", gains.random),
        (f"best single: {gains.best_model}", gains.best_single),
        ("best per task (chosen on the other half)", gains.best_per_task),
        ("per-query oracle (hindsight)", gains.oracle),
    ]
    for label, choice in rows:
        if choice is not None:
            gain = "" if choice is gains.best_single else signed(choice.gain)
            shown.add_row(Text(label), str(choice.reward), gain, *([_cost(choice.cost)] if priced else []))
    return shown


def _alike(likeness: Likeness) -> str:
    if likeness.most is None or likeness.least is None:
        return "correlation of successes: none to speak of, models earn the same on every question"
    most, least = likeness.most, likeness.least
    same = f"; identical: {' and '.join(likeness.identical[0])}" if likeness.identical else ""
    return (
        f"correlation of successes: {likeness.mean:.2f} on average, highest {most.correlation:.2f} "
        f"({most.one}, {most.other}), lowest {least.correlation:.2f} ({least.one}, {least.other}){same}"
    )


def _table(*names: str) -> Table:
    shown = Table(box=None, pad_edge=False)
    for index, name in enumerate(names):
        shown.add_column(name, justify="left" if index == 0 else "right", overflow="fold")
    return shown


def _cost(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
