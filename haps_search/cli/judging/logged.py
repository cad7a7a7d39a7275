"""`haps evaluate --logged`: what a searched router would have earned on a log with one outcome per question."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from haps_search.cli.display import wide_console
from haps_search.cli.judging.routers import ROUTER, chosen_settings, routers
from haps_search.cli.judging.subject import Subject, find_subject
from haps_search.config.load import load_log
from haps_search.errors import DataError
from haps_search.evaluation.intervals import Interval
from haps_search.evaluation.logged import LoggedJudgement, LoggedRow, judge_logged
from haps_search.evaluation.off_policy import Floats
from haps_search.evaluation.replay.asked import featurise, read_features
from haps_search.evaluation.replay.policies import Policy
from haps_search.records.remote import pushed, storage
from haps_search.records.sealed import replace_text
from haps_search.routing.features.embeddings import features_cache
from haps_search.tasks.build import build_task
from haps_search.tasks.replay import ReplayTask
from haps_search.tasks.rewards import normalise
from haps_search.tasks.tables.logged import LoggedTable, read_log, recognise_log

SAMPLED = "router, sampled"


def judge_log(runs: Path, text: str, file: Path) -> None:
    """Judge the sweep or run `text` by a log (a file, or a YAML that describes one), show it and keep it as JSON.

    Raises:
        ConfigError: no such sweep, run or log. DataError: malformed rows, or a log that cannot say it, with numbers.
    """
    subject = find_subject(runs, text)
    config = load_log(file) if file.suffix in (".yaml", ".yml") else recognise_log(file)
    judgement, known = judged_by_log(subject, read_log(config), config.floor)
    kept = subject.folder / f"logged-{Path(config.file).name}.json"
    replace_text(kept, json.dumps(contents(judgement, known), indent=1, allow_nan=False))
    pushed(kept)
    console = wide_console()
    for part in page(judgement, known):
        console.print(part, highlight=False, soft_wrap=isinstance(part, str))
    console.print(f"kept in {storage(subject.folder)}: {kept.name}", highlight=False, soft_wrap=True)


def judged_by_log(subject: Subject, log: LoggedTable, floor: float) -> tuple[LoggedJudgement, int]:
    """The judgement, and how many rows are left out because their text stands in the run's own table.

    Raises as `judge_log` does.
    """
    task = build_task(subject.experiment.task)
    assert isinstance(task, ReplayTask)
    own = {normalise(question.text) for question in task.table.questions}
    kept = np.array([normalise(question.text) not in own for question in log.questions])
    if not kept.any():
        raise DataError(f"all {len(kept):,} logged questions stand in the run's own table: it needs others")
    table = _taken(log, np.flatnonzero(kept))
    chosen = chosen_settings(subject)
    found = routers(subject, "other", table.questions, chosen.settings)[ROUTER]
    names = [candidate.name for candidate in subject.experiment.candidates]
    read = featurise(read_features(chosen.settings[0].searched.experiment.routing), features_cache())
    learnt = [question.text for split in ("train", "validation") for question in task.questions(split)]
    features = read(learnt, [task.worded(question).text for question in table.questions])
    policies = {ROUTER: np.mean([_greedy(policy) for policy in found], axis=0)}
    policies[SAMPLED] = np.mean([_proper(policy.probabilities) for policy in found], axis=0)
    return judge_logged(table, names, policies, features.astype(np.float64), floor), int((~kept).sum())


def _taken(log: LoggedTable, rows: NDArray[np.intp]) -> LoggedTable:
    return replace(
        log,
        questions=tuple(log.questions[row] for row in rows),
        actions=tuple(log.actions[row] for row in rows),
        rewards=log.rewards[rows],
        propensities=None if log.propensities is None else log.propensities[rows],
    )


def _greedy(policy: Policy) -> Floats:
    """The likeliest candidate; equal ones share the question."""
    best = policy.probabilities == policy.probabilities.max(axis=1, keepdims=True)
    return _proper(best.astype(np.float64))


def _proper(probabilities: NDArray[np.floating[Any]]) -> Floats:
    exact = probabilities.astype(np.float64)
    return np.asarray(exact / exact.sum(axis=1, keepdims=True), np.float64)


def page(judgement: LoggedJudgement, known: int) -> list[Table | str]:
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
    return [head, shown, *_notes(judgement, known)]


def _notes(judgement: LoggedJudgement, known: int) -> list[str]:
    notes = []
    if known:
        notes.append(f"note: {known:,} logged questions whose text stands in the run's own table are left out")
    if judgement.foreign:
        notes.append(f"note: {judgement.foreign:,} choices are no candidates of the run: no policy here takes them")
    if judgement.clipped is not None:
        c = judgement.clipped
        notes.append(f"note: propensities are estimated; {c.raised:,} were below {c.floor:g} and were raised to it")
    return notes + [f"note: {row.label} cannot be told: {row.refused}" for row in judgement.rows if row.refused]


def contents(judgement: LoggedJudgement, known: int) -> dict[str, object]:
    """The judgement as JSON."""
    clipped = judgement.clipped
    return {
        "count": judgement.count,
        "known": known,
        "foreign": judgement.foreign,
        "earned": _spread(judgement.earned),
        "estimated": None if clipped is None else {"raised": clipped.raised, "floor": clipped.floor},
        "rows": [_line(row) for row in judgement.rows],
    }


def _line(row: LoggedRow) -> dict[str, object]:
    found: dict[str, object] = {"label": row.label, "refused": row.refused}
    if row.estimates is not None and row.gain is not None:
        e = row.estimates
        spreads: Sequence[tuple[str, Interval]] = (
            ("doubly robust", e.doubly_robust),
            ("over the log", row.gain),
            ("self-normalised", e.self_normalised),
            ("inverse propensity", e.inverse_propensity),
        )
        found |= {name: _spread(interval) for name, interval in spreads} | {"effective": e.effective}
    return found


def _spread(interval: Interval) -> dict[str, float]:
    return {"mean": interval.mean, "low": interval.low, "high": interval.high}


def _signed(interval: Interval | None) -> str:
    return "" if interval is None else f"{interval.mean:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"
