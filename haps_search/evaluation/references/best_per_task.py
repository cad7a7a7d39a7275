"""All that the task's name can tell."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from haps_search.evaluation.references.labelled import Labelled, Unlabelled, mean_rewards
from haps_search.evaluation.routing_metrics.routes import Floats, assignment_means


class BestPerTask:
    """Each assignment's mean reward on the question's task, over its measured training cells.

    Where the task was not in training, or the assignment was not measured on it, its mean over all tasks stands in.
    """

    reachable: ClassVar[bool] = True

    def fit(self, train: Labelled, seed: int) -> None:
        self._overall = mean_rewards(train.rewards)
        tasks = np.asarray(train.tasks, dtype=object)
        self._by_task = {task: self._means(train.rewards[tasks == task]) for task in set(train.tasks)}

    def scores(self, questions: Unlabelled) -> Floats:
        return np.stack([self._by_task.get(task, self._overall) for task in questions.tasks])

    def _means(self, rewards: Floats) -> Floats:
        means = assignment_means(rewards)
        return np.where(np.isnan(means), self._overall, means)
