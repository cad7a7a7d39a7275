"""A judgement on the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.table import Table

from haps_search.evaluation.intervals import Interval
from haps_search.evaluation.replay.cost_quality import METRICS, TwoModels
from haps_search.evaluation.replay.judgement import Costs, Judgement
from haps_search.evaluation.replay.standings import Row


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
    """Cost per question at no weight of cost, and AIQ with its paired difference."""
    shown = Table(box=None, pad_edge=False)
    for name in ("", "cost per question", "AIQ", "router minus this, AIQ"):
        shown.add_column(name, no_wrap=True)
    for row in judgement.rows:
        quality = costs.qualities[row.label]
        shown.add_row(row.label, _cost(row), str(quality.aiq), _signed(quality.difference))
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


def _signed(interval: Interval | None) -> str:
    return "" if interval is None else f"{interval.mean:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"
