"""A judgement on the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.table import Table

from haps_search.cli.display import Terminal
from haps_search.evaluation.intervals import Interval
from haps_search.evaluation.judged_log import LoggedJudgement
from haps_search.evaluation.replay.cost_quality import METRICS, TwoModels
from haps_search.evaluation.replay.judgement import Costs, Judgement
from haps_search.evaluation.replay.standings import Row
from haps_search.records.remote import storage
from haps_search.verbs.judge import Judged
from haps_search.verbs.logged import JudgedByLog


def show_judged(terminal: Terminal, found: Judged) -> None:
    """The judgement, and where it is kept."""
    for part in page(found.judgement, found.notes):
        if isinstance(part, str):
            terminal.say(part)
        else:
            terminal.show(part)
    shows = "the test result, which stays as it is" if found.beside else "them"
    own = found.judgement.split in ("validation", "test")
    report = f"; `haps report {found.name}` shows {shows}" if own else ""
    terminal.say(f"kept in {storage(found.folder)}: {', '.join(found.files)}{report}")


def show_log(terminal: Terminal, found: JudgedByLog) -> None:
    """What policies would have earned, and where it is kept."""
    for part in log_page(found.judgement, found.known):
        if isinstance(part, str):
            terminal.say(part)
        else:
            terminal.show(part)
    terminal.say(f"kept in {storage(found.file.parent)}: {found.file.name}")


def page(judgement: Judgement, notes: Sequence[str]) -> list[Table | str]:
    """The tables and what has to be known of them, then the verdict in sentences."""
    rows = judgement.rows
    seeds = len(next(row for row in rows if row.label == judgement.router).seeds)
    asked = f"{judgement.split}{' split' if judgement.split in ('validation', 'test') else ', another table'}"
    head = (
        f"\n{asked}, {rows[0].reward.count:,} questions, {seeds} seed{'s' if seeds > 1 else ''} of the "
        "router; 95 % intervals, of the router over questions and seeds"
    )
    priced: list[Table | str] = [] if judgement.costs is None else ["", _costs(judgement, judgement.costs)]
    pair: list[Table | str] = [] if judgement.pair is None else ["", *_pair(judgement, judgement.pair)]
    said = [*(f"note: {note}" for note in notes), *(verdict.sentence for verdict in judgement.verdicts)]
    return [head, _table(judgement), *priced, *pair, *said]


def _table(judgement: Judgement) -> Table:
    shown = Table(box=None, pad_edge=False)
    for name in ("", "reward", "router minus this", "macro", "gap closed", "regret"):
        shown.add_column(name, no_wrap=True)
    for row in judgement.rows:
        summary = row.summary
        shown.add_row(
            row.label,
            str(row.reward),
            _signed(row.difference),
            f"{summary.macro.mean:.3f}",
            "-" if math.isnan(summary.gap_closed.mean) else f"{summary.gap_closed.mean:.3f}",
            f"{summary.regret.mean:.3f}",
        )
    return shown


def _costs(judgement: Judgement, costs: Costs) -> Table:
    """Cost per question at no weight of cost, and AIQ0 with its paired difference; RouterBench's AIQ beside it."""
    shown = Table(box=None, pad_edge=False)
    for name in ("", "cost per question", "AIQ0", "router minus this, AIQ0", "AIQ"):
        shown.add_column(name, no_wrap=True)
    for row in judgement.rows:
        quality = costs.qualities[row.label]
        shown.add_row(row.label, _cost(row), str(quality.aiq0), _signed(quality.difference), str(quality.aiq))
    return shown


def _pair(judgement: Judgement, pair: TwoModels) -> list[Table | str]:
    """RouteLLM's metrics: the share of calls that strong must get, and the average share of the gap recovered."""
    shown = Table(box=None, pad_edge=False)
    for name in ("", *METRICS):
        shown.add_column(name, no_wrap=True)
    for row in judgement.rows:
        shown.add_row(row.label, *(_known(pair.calls[row.label][name]) for name in METRICS))
    said = f"share of questions that have to go to {pair.strong} instead of {pair.weak} for so much of the gap:"
    return [said, shown]


def _known(interval: Interval) -> str:
    return "-" if math.isnan(interval.mean) else str(interval)


def _cost(row: Row) -> str:
    return "-" if row.cost is None else f"{row.cost:.3g}"


def log_page(judgement: LoggedJudgement, known: int) -> list[Table | str]:
    """The log, the table of policies, and what has to be known of them."""
    shown = Table(box=None, pad_edge=False)
    for name in ("", "doubly robust", "over the log", "self-normalised", "inverse propensity", "effective questions"):
        shown.add_column(name, no_wrap=True)
    for row in judgement.rows:
        if row.estimates is not None:
            e = row.estimates
            cells = (str(e.doubly_robust), _signed(row.gain), str(e.self_normalised), str(e.inverse_propensity))
            shown.add_row(row.label, *cells, f"{e.effective:,.0f}")
    head = f"\n{judgement.count:,} logged choices, which earned {judgement.earned}; 95 % intervals over questions"
    return [head, shown, *_log_notes(judgement, known)]


def _log_notes(judgement: LoggedJudgement, known: int) -> list[str]:
    notes = []
    if known:
        notes.append(f"note: {known:,} logged questions whose text stands in the run's own table are left out")
    if judgement.foreign:
        notes.append(f"note: {judgement.foreign:,} choices are no candidates of the run: no policy here takes them")
    if judgement.clipped is not None:
        c = judgement.clipped
        notes.append(f"note: propensities are estimated; {c.raised:,} were below {c.floor:g} and were raised to it")
    return notes + [f"note: {row.label} cannot be told: {row.refused}" for row in judgement.rows if row.refused]


def _signed(interval: Interval | None) -> str:
    return "" if interval is None else f"{interval.mean:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"
