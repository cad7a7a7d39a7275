"""All sections of a report, in reading order."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from haps_search.records.sealed import replace_text
from haps_search.report.canvas import style_sheet
from haps_search.report.comparisons import front_section, standings_section
from haps_search.report.curves import learning_section, shares_section
from haps_search.report.noise import noise_section
from haps_search.report.parameters import (
    Importance,
    importance_section,
    parallel_section,
    scatter_section,
    trials_section,
)
from haps_search.report.replays import replay_sections
from haps_search.report.shape import Cell, Report, Section, Table
from haps_search.report.source import Source, reason
from haps_search.report.verdict import alarms_section, failures_section, verdict
from haps_search.search.stages import in_words
from haps_search.sweep.progress import planned_trials
from haps_search.version import __version__


def build(source: Source, importances: Sequence[Importance] = ()) -> Report:
    """The report of a source; the same for the same source. Raises DataError for a damaged stored file."""
    sections: list[Section | None] = [
        standings_section(source),
        *replay_sections(source),
        learning_section(source),
        shares_section(source),
        front_section(source),
        noise_section(source),
        *(_of_search(source, importances) if source.study and not source.arms else ()),
        trials_section(source) if source.study else None,
        alarms_section(source),
        failures_section(source),
    ]
    return Report(source.name, source.kind, facts(source), verdict(source), tuple(s for s in sections if s is not None))


def _of_search(source: Source, importances: Sequence[Importance]) -> tuple[Section, ...]:
    return importance_section(source, importances), parallel_section(source), scatter_section(source)


Facts = tuple[tuple[str, str], ...]


def facts(source: Source) -> Facts:
    """(term, value) pairs in reading order; empty values are left out."""
    experiment = source.experiment
    pairs = [
        *_of_sweep(source),
        ("State", state(source)),
        ("Trials", _counts(source) if source.study else ""),
        ("Task", experiment.task.type),
        ("Candidates", ", ".join(c.name for c in experiment.candidates)),
        *((name.capitalize(), text) for name, text in in_words(experiment)),
        ("Seeds", _seeds(source)),
        ("Code", source.started.version if source.started else __version__),
    ]
    return tuple((term, value) for term, value in pairs if value)


def state(source: Source) -> str:
    """How the sweep or run stands, in words."""
    if source.kind == "run":
        trial = source.trials[0]
        words = {"finished": f"ended: {reason(source) or 'finished'}", "failed": f"failed: {trial.error}"}
        last = source.of(trial)[-1][0] if source.of(trial) else 0
        return words.get(trial.state, f"not ended, {last} of {source.experiment.total_steps} steps done")
    if source.ended:
        return f"ended: {source.ended.reason}"
    return "not ended: it runs, or `haps resume` goes on; all numbers are of what is there so far"


def _of_sweep(source: Source) -> list[tuple[str, str]]:
    study = source.study
    if study is None:
        return []
    objectives = ", ".join(f"{o.mode} {o.metric}" for o in study.sweep.objectives)
    searched = f"{study.sweep.sampler.type} sampler, scheduler {study.sweep.scheduler.type}"
    begun = datetime.fromtimestamp(source.started.time, UTC).strftime("%Y-%m-%d %H:%M UTC") if source.started else ""
    return [
        ("Study", study.name),
        ("About", study.description.strip()),
        ("Expected", study.expected.strip()),
        ("Objective", objectives),
        ("Constraints", ", ".join(study.sweep.constraints)),
        ("Search", f"{len(study.arms)} arms, no search" if study.arms else searched),
        ("Last begun", begun),
    ]


def _counts(source: Source) -> str:
    if source.study is None:
        return ""
    counts = Counter(t.state for t in source.trials)
    listed = ", ".join(f"{counts[s]} {s}" for s in sorted(counts)) or "none begun"
    confirming = sum(t.kind == "confirm" for t in source.trials)
    beside = f" and {confirming} confirming runs" if confirming else ""
    return f"{len(source.trials) - confirming} of {planned_trials(source.study)} planned{beside}: {listed}"


def _seeds(source: Source) -> str:
    if source.study is None:
        return f"run {source.experiment.run.seed}"
    seeds = sorted({t.seed for t in source.trials}) or [source.experiment.run.seed]
    sampler = "" if source.arms else f"sampler {source.study.sweep.seed}; "
    return f"{sampler}runs {', '.join(map(str, seeds))}"


HERE = Path(__file__).parent


def page(report: Report) -> str:
    """The whole document."""
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["cell"] = shown
    style = style_sheet() + (HERE / "page.css").read_text()
    return environment.get_template("page.html.jinja").render(report=report, style=style)


def shown(value: Cell) -> str:
    """A cell for reading: numbers short, three digits of small ones, nothing as nothing."""
    if value is None:
        return ""
    if isinstance(value, float):
        if 1000 <= abs(value) < 1e6:
            return f"{value:.0f}"
        return f"{value:.3f}" if 0.1 <= abs(value) < 1000 or value == 0 else f"{value:.3g}"
    return str(value)


def write(report: Report, folder: Path) -> Path:
    """Write everything into `folder`, made where missing; returns the page. Files of the same names are replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    for table in report.tables:
        replace_text(folder / f"{table.name}.csv", as_csv(table))
    file = folder / "index.html"
    replace_text(file, page(report))
    return file


def as_csv(table: Table) -> str:
    """RFC 4180 with a header; None is an empty field, numbers keep all their digits."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows(table.rows)
    return text.getvalue()
