"""What a candidate is taught of a question: texts, and how much each of them weighs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from haps_search.config.learning import ReferencesConfig
from haps_search.tasks.outcomes import Completions, Said, read_completions
from haps_search.types import Question

Lesson = tuple[tuple[str, float], ...]
"""Texts, each once, with weights that sum to 1; nothing where nothing is taught."""
REFERENCE_REWARD = 1.0
SAME = 1e-9
"""Rewards that differ by less are equal: a mean of equal ones differs from them by rounding."""


def texts_of(question: Question, config: ReferencesConfig) -> tuple[str, ...]:
    """The references as answers, each once; none for a question without a reference."""
    return tuple(dict.fromkeys(config.text.replace("{reference}", r) for r in question.references if r))


def evenly(texts: Sequence[str]) -> Lesson:
    return tuple((text, 1.0 / len(texts)) for text in texts)


def weighted(rewards: Sequence[float], temperature: float) -> list[float]:
    """exp(R_i / temperature) / sum_j exp(R_j / temperature)."""
    most = max(rewards)
    powers = [math.exp((reward - most) / temperature) for reward in rewards]
    return [power / math.fsum(powers) for power in powers]


class Lessons:
    """Of references alone, evenly; with completions by what they earned: reward-augmented maximum likelihood (Norouzi
    et al. 2016) where the task has references, reward-weighted regression where it has none."""

    def __init__(self, config: ReferencesConfig) -> None:
        """Raises DataError for a table of completions that cannot be read."""
        self._config = config
        self._said: Completions = {} if config.completions is None else read_completions(Path(config.completions))

    def of(self, question: Question, candidate: str) -> Lesson:
        """What this candidate is taught; nothing where all that it could be taught earned the same."""
        references = texts_of(question, self._config)
        said = self._by(candidate, self._said.get((question.id, question.text), ()))
        if not said:
            return evenly(references)
        earned = dict.fromkeys(references, REFERENCE_REWARD)
        for text in dict.fromkeys(each.text for each in said):
            earned.setdefault(text, fmean(each.reward for each in said if each.text == text))
        if max(earned.values()) - min(earned.values()) < SAME:
            return ()
        weights = weighted(list(earned.values()), self._config.temperature)
        return tuple((text, weight) for text, weight in zip(earned, weights, strict=True) if weight > 0)

    def _by(self, candidate: str, said: Sequence[Said]) -> list[Said]:
        """Completions that say anything."""
        everyone = self._config.completions_of == "all"
        return [each for each in said if each.text and (everyone or each.candidate == candidate)]
