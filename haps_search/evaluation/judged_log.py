"""Policies judged by a log with one outcome per question: what each would have earned, beside what the log earned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from haps_search.errors import DataError
from haps_search.evaluation.intervals import Interval, mean_interval
from haps_search.evaluation.off_policy import (
    Estimates,
    Floats,
    Ints,
    Log,
    difference,
    doubly_robust_terms,
    estimates,
    predicted_rewards,
    refusal,
)
from haps_search.evaluation.propensities import Estimated, estimated
from haps_search.tasks.replay import candidate_name
from haps_search.tasks.tables.log import LoggedTable
from haps_search.tasks.tables.splits import folds

FOLDS = 5
OTHER = "(no candidate)"


@dataclass(frozen=True)
class LoggedRow:
    """A policy: its estimates and what it would have gained over the log (doubly robust, paired), or why the log cannot
    tell."""

    label: str
    estimates: Estimates | None
    gain: Interval | None
    refused: str | None


@dataclass(frozen=True)
class LoggedJudgement:
    """`earned` is what the log's own choices earned on its `count` questions, `foreign` of which went to no candidate.
    `clipped` is None where propensities were noted."""

    count: int
    foreign: int
    earned: Interval
    rows: tuple[LoggedRow, ...]
    clipped: Estimated | None


def judge_logged(
    table: LoggedTable, names: Sequence[str], policies: Mapping[str, Floats], features: Floats, floor: float
) -> LoggedJudgement:
    """Judge policies, label to probabilities (N, C) over the candidates `names`, the router first; and each candidate
    alone. `features` (N, D) are of the log's questions: what is learnt from the log (rewards, and propensities where
    nobody noted them) is learnt across five folds by text.

    Raises:
        DataError: no logged choice is a candidate's, or the log cannot say what the first policy would have earned.
    """
    column = {name: place for place, name in enumerate(names)}
    actions = np.array([column.get(candidate_name(action), len(names)) for action in table.actions], np.int64)
    foreign = int((actions == len(names)).sum())
    if foreign == len(actions):
        there = ", ".join(list(dict.fromkeys(table.actions))[:8])
        raise DataError(f"the log's choices are no candidates of the run: it has {there}, the run {', '.join(names)}")
    dealt = folds([question.text for question in table.questions], FOLDS)
    log, clipped = _log(table, actions, features, dealt, floor)
    predicted = predicted_rewards(features, log, dealt, len(names) + 1)
    alone = {f"always {name}": np.tile(np.eye(len(names))[c], (len(log), 1)) for c, name in enumerate(names)}
    rows = tuple(
        _row(label, log, _with_other(policy), predicted, [*names, OTHER])
        for label, policy in {**policies, **alone}.items()
    )
    if rows and rows[0].refused is not None:
        raise DataError(f"the log cannot say what {rows[0].label} would have earned: {rows[0].refused}")
    earned = mean_interval(table.rewards.tolist())
    return LoggedJudgement(len(log), foreign, earned, rows, clipped)


def _log(
    table: LoggedTable, actions: Ints, features: Floats, dealt: Ints, floor: float
) -> tuple[Log, Estimated | None]:
    if table.propensities is not None:
        return Log(actions, table.rewards, table.propensities), None
    found = estimated(features, actions, dealt, floor)
    return Log(actions, table.rewards, found.propensities), found


def _with_other(policy: Floats) -> Floats:
    """A column for what is no candidate, which no policy chooses."""
    return np.concatenate([policy, np.zeros((len(policy), 1))], axis=1)


def _row(label: str, log: Log, policy: Floats, predicted: Floats, names: Sequence[str]) -> LoggedRow:
    refused = refusal(log, policy, names)
    if refused is not None:
        return LoggedRow(label, None, None, refused)
    gain = difference(doubly_robust_terms(log, policy, predicted), log.rewards)
    return LoggedRow(label, estimates(log, policy, predicted), gain, None)
