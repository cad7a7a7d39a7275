"""What a searched router would have earned on a log with one outcome per question."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from haps_search.config.load import load_log
from haps_search.errors import DataError
from haps_search.evaluation.intervals import Interval
from haps_search.evaluation.judged_log import LoggedJudgement, LoggedRow, judge_logged
from haps_search.evaluation.off_policy import Floats
from haps_search.evaluation.replay.asked import featurise, read_features
from haps_search.evaluation.replay.policies import Policy
from haps_search.records.remote import pushed
from haps_search.records.sealed import replace_text
from haps_search.routing.features.embeddings import features_cache
from haps_search.tasks.build import build_task
from haps_search.tasks.replay import ReplayTask
from haps_search.tasks.split_key import split_key
from haps_search.tasks.tables.log import LoggedTable, read_log, recognise_log
from haps_search.verbs.find import runs_folder
from haps_search.verbs.frames import frame, interval, page
from haps_search.verbs.subject import ROUTER, Subject, chosen_settings, find_subject, routers

if TYPE_CHECKING:
    from pandas import DataFrame

SAMPLED = "router, sampled"


@dataclass(frozen=True)
class JudgedByLog:
    """What policies would have earned on a log, `known` of whose questions were left out; the file that keeps it."""

    judgement: LoggedJudgement
    known: int
    file: Path

    @property
    def rows(self) -> DataFrame:
        """A row per policy that can be told: the estimates with their 95 % intervals."""
        found = [
            {"": r.label, **interval("doubly_robust", r.estimates.doubly_robust), **interval("gain", r.gain)}
            for r in self.judgement.rows
            if r.estimates is not None
        ]
        return frame(found, "")

    def _repr_html_(self) -> str:
        return page(f"{self.judgement.count:,} logged choices", {"policies": self.rows})


def judge_log(name: str, file: str | Path, runs: str | Path = "runs") -> JudgedByLog:
    """Judge a sweep or run by a log (a file, or a YAML that describes one), and keep that as JSON.

    Raises:
        ConfigError: no such sweep, run or log. DataError: malformed rows, or a log that cannot say it, with numbers.
    """
    subject, log = find_subject(runs_folder(runs), name), Path(file)
    config = load_log(log) if log.suffix in (".yaml", ".yml") else recognise_log(log)
    judgement, known = judged_by_log(subject, read_log(config), config.floor)
    kept = subject.folder / f"logged-{Path(config.file).name}.json"
    replace_text(kept, json.dumps(contents(judgement, known), indent=1, allow_nan=False))
    pushed(kept)
    return JudgedByLog(judgement, known, kept)


def judged_by_log(subject: Subject, log: LoggedTable, floor: float) -> tuple[LoggedJudgement, int]:
    """The judgement, and how many rows are left out because their text stands in the run's own table.

    Raises as `judge_log` does.
    """
    task = build_task(subject.experiment.task)
    assert isinstance(task, ReplayTask)
    own = {split_key(question.text) for question in task.table.questions}
    kept = np.array([split_key(question.text) not in own for question in log.questions])
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
