"""The head of the page: what was run, by which code, and how far it is."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

from haps_search import __version__
from haps_search.report.source import Source, reason
from haps_search.sweep.progress import planned_trials

Facts = tuple[tuple[str, str], ...]


def facts(source: Source) -> Facts:
    """(term, value) pairs in reading order; empty values are left out."""
    experiment = source.experiment
    run = experiment.run
    pairs = [
        *_of_sweep(source),
        ("State", state(source)),
        ("Trials", _counts(source) if source.study else ""),
        ("Task", experiment.task.type),
        ("Candidates", ", ".join(c.name for c in experiment.candidates)),
        ("Run", f"{run.steps} steps x {run.questions_per_step} questions x {run.episodes_per_question} episodes"),
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
        return words.get(trial.state, f"not ended, {last} of {source.experiment.run.steps} steps done")
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
