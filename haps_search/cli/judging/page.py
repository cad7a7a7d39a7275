"""A judgement on the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.table import Table

from haps_search.evaluation.intervals import Interval
from haps_search.evaluation.replay.judge import Judgement
from haps_search.evaluation.replay.standings import Row


def page(judgement: Judgement, notes: Sequence[str]) -> list[Table | str]:
    """The table and what has to be known of it, then the verdict in sentences."""
    rows = judgement.rows
    seeds = len(next(row for row in rows if row.label == judgement.router).seeds)
    head = (
        f"\n{judgement.split} split, {rows[0].reward.count:,} questions, {seeds} seed{'s' if seeds > 1 else ''} of the "
        "router; 95 % intervals, of the router over questions and seeds"
    )
    return [head, _table(judgement), *(f"note: {note}" for note in notes), *(v.sentence for v in judgement.verdicts)]


def _table(judgement: Judgement) -> Table:
    shown = Table(box=None, pad_edge=False)
    costs = judgement.costs is not None
    columns = ("", "reward", "router minus this", "macro", "gap closed", "regret", *(("cost", "AIQ") if costs else ()))
    for name in columns:
        shown.add_column(name, no_wrap=True)
    for row in judgement.rows:
        summary = row.summary
        cells = [
            row.label,
            str(row.reward),
            _signed(row.difference),
            f"{summary.macro.mean:.3f}",
            "-" if math.isnan(summary.gap_closed.mean) else f"{summary.gap_closed.mean:.3f}",
            f"{summary.regret.mean:.3f}",
        ]
        if judgement.costs is not None:
            cells += [_cost(row), str(judgement.costs.qualities[row.label].aiq)]
        shown.add_row(*cells)
    return shown


def _cost(row: Row) -> str:
    return "-" if row.cost is None else f"{row.cost:.3g}"


def _signed(interval: Interval | None) -> str:
    return "" if interval is None else f"{interval.mean:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"
