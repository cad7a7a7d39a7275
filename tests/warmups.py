"""Outcome tables whose best assignment is a visible function of the question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from haps_search.config.run import Experiment
from haps_search.config.tasks import SkillsTask as SkillsConfig
from haps_search.tasks.outcomes import OutcomeTable
from haps_search.tasks.skills import SkillsTask
from haps_search.types import Assignment, Question

NAMES = ("adder", "reverser", "sorter")
PAYS = {"add": (1.0, 0.2, 0.0), "reverse": (0.0, 1.0, 1.0), "sort": (0.0, 0.2, 1.0)}
"""Reward of each candidate by the question's skill; reversing is a tie of two."""


def skills_table(count: int) -> OutcomeTable:
    """`count` questions of the embedded task; every seventh question lacks a cell that is not among its best."""
    questions = SkillsTask(SkillsConfig(sizes={"train": count, "validation": 8, "test": 8})).questions("train")
    rewards = [list(PAYS[q.attributes["skill"]]) for q in questions]
    for row in rewards[::7]:
        row[row.index(0.0)] = float("nan")
    return table(questions, [(name,) for name in NAMES], rewards)


def table(
    questions: Sequence[Question],
    assignments: Sequence[Assignment],
    rewards: Sequence[Sequence[float]],
    costs: Sequence[Sequence[float]] | None = None,
    splits: Sequence[str | None] | None = None,
) -> OutcomeTable:
    paid = np.array(rewards, np.float32)
    return OutcomeTable(
        questions=tuple(questions),
        tasks=("",) * len(questions),
        splits=tuple(splits or (None,) * len(questions)),
        assignments=tuple(assignments),
        rewards=paid,
        samples=(~np.isnan(paid)).astype(np.int32),
        costs=None if costs is None else np.array(costs, np.float32),
    )


def skills_experiment(**run: Any) -> Experiment:
    """Zoo candidates and the zoo's reverser as backbone, small steps for small tables."""
    zoo: list[Mapping[str, Any]] = [{"name": n, "source": {"type": "zoo", "name": n}, "device": "cpu"} for n in NAMES]
    return Experiment.model_validate(
        {
            "task": {"type": "skills"},
            "candidates": zoo,
            "routing": {
                "prompt": "question",
                "backbone": {"source": {"type": "zoo", "name": "reverser"}, "device": "cpu"},
            },
            "learning": {"learning_rate": {"high": 3e-3, "low": 1e-3}, "entropy_bonus": 0.0},
            "run": {"questions_per_step": 16, "sampling": {"max_new_tokens": 8}, "warmup": {"epochs": 4}, **run},
            "engine": {"type": "local", "threads": 1},
        }
    )
