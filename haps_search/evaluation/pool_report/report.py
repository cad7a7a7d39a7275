"""All that is said of a pool, from its outcome table."""

from __future__ import annotations

from dataclasses import dataclass

from haps_search.evaluation.pool_report.census import Census, census
from haps_search.evaluation.pool_report.complete import complete
from haps_search.evaluation.pool_report.gains import Gains, gains
from haps_search.evaluation.pool_report.likeness import Likeness, likeness
from haps_search.evaluation.pool_report.luck import Luck, luck
from haps_search.evaluation.pool_report.models import ModelLine, model_lines
from haps_search.evaluation.pool_report.verdict import Verdict, verdict
from haps_search.tasks.outcome_table import OutcomeTable


@dataclass(frozen=True, slots=True)
class PoolReport:
    """Made from a table, read by `haps inspect`. Comparisons are None where no question is complete."""

    census: Census
    models: tuple[ModelLine, ...]
    gains: Gains | None
    luck: Luck | None
    likeness: Likeness | None
    verdict: Verdict


def pool_report(table: OutcomeTable) -> PoolReport:
    """Look at a table of one question and two models at least; the same table gives the same report."""
    part = complete(table)
    compared = None if part is None else gains(part)
    chance = None if part is None else luck(part)
    return PoolReport(
        census=census(table),
        models=model_lines(table, part),
        gains=compared,
        luck=chance,
        likeness=None if part is None else likeness(part),
        verdict=verdict(compared, chance),
    )
