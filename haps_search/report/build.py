"""All sections of a report, in reading order."""

from __future__ import annotations

from collections.abc import Sequence

from haps_search.report.facts import facts
from haps_search.report.front import front_section
from haps_search.report.importance import Importance, importance_section
from haps_search.report.learning import learning_section
from haps_search.report.parameters import parallel_section, scatter_section, trials_section
from haps_search.report.replay import replay_sections
from haps_search.report.shape import Report, Section
from haps_search.report.shares import shares_section
from haps_search.report.source import Source
from haps_search.report.standings import standings_section
from haps_search.report.trouble import alarms_section, failures_section
from haps_search.report.verdict import verdict


def build(source: Source, importances: Sequence[Importance] = ()) -> Report:
    """The report of a source; the same for the same source. Raises DataError for a damaged stored file."""
    sections: list[Section | None] = [
        standings_section(source),
        *replay_sections(source),
        learning_section(source),
        shares_section(source),
        front_section(source),
        *(_of_search(source, importances) if source.study and not source.arms else ()),
        trials_section(source) if source.study else None,
        alarms_section(source),
        failures_section(source),
    ]
    return Report(source.name, source.kind, facts(source), verdict(source), tuple(s for s in sections if s is not None))


def _of_search(source: Source, importances: Sequence[Importance]) -> tuple[Section, ...]:
    return importance_section(source, importances), parallel_section(source), scatter_section(source)
