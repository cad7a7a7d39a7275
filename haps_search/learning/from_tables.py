"""What an outcome table teaches the high level: its rows in the router's order, and how well a router does on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from haps_search.config.learning import LearningConfig
from haps_search.errors import ConfigError, DataError
from haps_search.learning.update import Learner
from haps_search.routing.distribution import all_assignments
from haps_search.tasks.outcomes import OutcomeTable
from haps_search.tasks.tables.splits import hash_split
from haps_search.types import Outcomes, Question, UpdateReport

MOST_ASSIGNMENTS = 4096
ROWS = 256
"""Questions in one forward pass when nothing is learnt."""


@dataclass(frozen=True)
class TaughtRows:
    """N questions and the utility of each of all C assignments there: (N, C) float64, NaN where nobody measured it.

    `left_out` says what of the table is not in here, and why.
    """

    questions: tuple[Question, ...]
    rewards: NDArray[np.float64]
    left_out: tuple[str, ...] = ()

    def part(self, index: Sequence[int] | NDArray[np.int64]) -> TaughtRows:
        return replace(self, questions=tuple(self.questions[i] for i in index), rewards=self.rewards[list(index)])


@dataclass(frozen=True)
class Scores:
    """Per question, (N,): the expected reward under the router's distribution, and the likeliest assignment's reward.

    Both are over the known cells: missing ones are left out of the distribution and of the choice.
    """

    expected: NDArray[np.float64]
    greedy: NDArray[np.float64]
    entropy: float
    """Mean entropy of the distribution over all assignments, nats."""


def taught_rows(table: OutcomeTable, names: Sequence[str], roles: int, learning: LearningConfig) -> TaughtRows:
    """The table's rows in the order of `all_assignments(names, roles)`; rewards net of `cost_weight` times cost.

    Questions of the test split and those without any cell are left out, and so are assignments of candidates that
    the study does not have.

    Raises:
        ConfigError: candidates or roles that the table does not have, more assignments than can be held, or costs
            that are to weigh and are not there.
    """
    _check(table, names, roles)
    rewards = np.full((len(table.questions), len(names) ** roles), np.nan)
    utility = _utility(table, learning.cost_weight)
    column = {z: c for c, z in enumerate(all_assignments(names, roles))}
    foreign = 0
    for c, z in enumerate(table.assignments):
        if z in column:
            rewards[:, column[z]] = utility[:, c]
        foreign += z not in column
    test = np.array([split == "test" for split in table.splits], dtype=bool)
    empty = np.isnan(rewards).all(1) & ~test
    counts = {
        "questions of the test split": int(test.sum()),
        "questions without a known reward": int(empty.sum()),
        "assignments of candidates that the study does not have": foreign,
    }
    left_out = tuple(f"{count} {what}" for what, count in counts.items() if count)
    return TaughtRows(table.questions, rewards, left_out).part(np.flatnonzero(~test & ~empty))


def held_out_split(rows: TaughtRows, fraction: float) -> tuple[TaughtRows, TaughtRows]:
    """What to learn from, and about `fraction` of the questions to validate on, by a hash of their normalised text.

    Raises:
        DataError: too few questions for both.
    """
    aside = hash_split([q.text for q in rows.questions], fraction, "warmup")
    if aside.all() or not aside.any():
        raise DataError(
            f"the table's {len(rows.questions)} questions leave {int((~aside).sum())} to learn from and "
            f"{int(aside.sum())} to validate on: it needs more questions of different texts, or another "
            "run.warmup.held_out"
        )
    return rows.part(np.flatnonzero(~aside)), rows.part(np.flatnonzero(aside))


def learn(learner: Learner, rows: TaughtRows) -> UpdateReport:
    """One step of the high level on these rows. Raises Diverged."""
    rewards = tuple(tuple(row) for row in rows.rewards.tolist())
    return learner.update(rows.questions, Outcomes(learner.version, rewards))


@torch.no_grad()
def scores(learner: Learner, rows: TaughtRows) -> Scores:
    """How the router as it stands does on these rows; every row has a known cell."""
    parts: list[NDArray[np.float64]] = []
    for start in range(0, len(rows.questions), ROWS):
        reading = learner.router.read(rows.questions[start : start + ROWS])
        parts.append(reading.distribution.log_p_all().double().cpu().numpy())
    log_p = np.concatenate(parts)
    known = ~np.isnan(rows.rewards)
    paid = np.where(known, rows.rewards, 0.0)
    among = np.where(known, log_p, -np.inf)
    p = np.exp(among - among.max(1, keepdims=True))
    expected = (p * paid).sum(1) / p.sum(1)
    chosen = among.argmax(1)
    entropy = float(-(np.exp(log_p) * log_p).sum(1).mean())
    return Scores(expected, paid[np.arange(len(paid)), chosen], entropy)


def _utility(table: OutcomeTable, cost_weight: float) -> NDArray[np.float64]:
    rewards = table.rewards.astype(np.float64)
    if not cost_weight:
        return rewards
    if table.costs is None:
        raise ConfigError(f"learning.cost_weight: got {cost_weight:g}, but the table has no costs; set it to 0")
    return rewards - cost_weight * table.costs.astype(np.float64)


def _check(table: OutcomeTable, names: Sequence[str], roles: int) -> None:
    seats = len(table.assignments[0])
    if seats != roles:
        raise ConfigError(f"task: {roles} roles, but the table's assignments have {seats}; it belongs to another task")
    if len(names) ** roles > MOST_ASSIGNMENTS:
        raise ConfigError(
            f"candidates: {len(names)} candidates in {roles} roles are {len(names) ** roles} assignments, warm-up "
            f"takes at most {MOST_ASSIGNMENTS}; leave candidates out"
        )
    there = sorted({name for z in table.assignments for name in z})
    missing = [name for name in names if name not in there]
    if missing:
        raise ConfigError(
            f"candidates: the table has no rewards of {', '.join(missing)}; the study has {', '.join(names)}, the "
            f"table {', '.join(there)}: use the same names, or leave those candidates out"
        )
