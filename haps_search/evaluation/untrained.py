"""What is compared and trains nothing: a task's commonest answer, its best candidate, prompts with examples, and what
answerers who know nothing of one another would earn together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from haps_search.config.candidates import ZooSource
from haps_search.config.run import Experiment
from haps_search.search.validation import Scored
from haps_search.seeds import derive_seed
from haps_search.tasks.task import Comparing, Counting, Task, earned, task_of
from haps_search.types import Assignment, Completion, Episode, Message, Parsed, Question, Role, Sampled, Split, Turn

Floats = NDArray[np.float64]
NOBODY = "nobody"
"""Who gives an answer that no candidate was asked for."""


def majority_answers(task: Task, learnt: Sequence[Question]) -> dict[str, str]:
    """Per task the commonest first reference of its training questions, as the reward compares texts (labels of
    multiple choice); of equally common ones the first."""
    counts: dict[str, Counter[str]] = {}
    written: dict[tuple[str, str], str] = {}
    for question in learnt:
        name, text = task_of(question), question.reference
        same = _counted_as(task, question, text)
        counts.setdefault(name, Counter())[same] += 1
        written.setdefault((name, same), text)
    return {name: written[name, counted.most_common(1)[0][0]] for name, counted in counts.items()}


def _counted_as(task: Task, question: Question, text: str) -> str:
    if isinstance(task, Counting):
        return task.counted_as(question, text)
    return task.compared(question, text) if isinstance(task, Comparing) else text


def score_majority(task: Task, answers: Mapping[str, str], questions: Sequence[Question]) -> Scored:
    """What one answer per task earns, as if somebody had said it; one whose task has none earns what silence does."""
    episodes = tuple(_said(task, question, answers.get(task_of(question))) for question in questions)
    return Scored(episodes, tuple(earned(task, e) for e in episodes))


def _said(task: Task, question: Question, answer: str | None) -> Episode:
    text = answer or ""
    completion = Completion(task.roles[0].name, NOBODY, (), Sampled(text, (), (), 0, 0), Parsed(answer))
    return Episode(question, (NOBODY,) * len(task.roles), (completion,))


def best_per_task(questions: Sequence[Question], frozen: Mapping[Assignment, Sequence[float]]) -> dict[str, Assignment]:
    """The assignment that earned most on each task's questions; "" has the one that earned most on all."""
    chosen = {"": _best(frozen, range(len(questions)))}
    names = [task_of(question) for question in questions]
    for name in dict.fromkeys(names):
        chosen[name] = _best(frozen, [i for i, each in enumerate(names) if each == name])
    return chosen


def _best(frozen: Mapping[Assignment, Sequence[float]], rows: Sequence[int]) -> Assignment:
    return max(frozen, key=lambda z: fmean(frozen[z][row] for row in rows))


def per_task(
    chosen: Mapping[str, Assignment], questions: Sequence[Question], frozen: Mapping[Assignment, Sequence[float]]
) -> list[float]:
    """What the chosen assignments earn; a task that nobody chose for takes that of all."""
    return [frozen[chosen.get(task_of(q), chosen[""])][i] for i, q in enumerate(questions)]


def independent(rewards: Floats, tasks: Sequence[str]) -> Floats:
    """(N,): the expected best of C rewards (C, N), each drawn by itself from those of its row on the question's task.

    The per-query oracle of answerers whose luck is their own: what that oracle has beyond it, or less, is what they
    have in common. With rewards of 0 and 1 it is 1 - prod_c (1 - p_c).
    """
    found, names = np.empty(rewards.shape[1]), np.asarray(tasks, dtype=object)
    for name in dict.fromkeys(tasks):
        rows = np.flatnonzero(names == name)
        found[rows] = _expected_maximum(rewards[:, rows])
    return found


def _expected_maximum(rewards: Floats) -> float:
    """Of independent draws from the rows' own values: sum over v of v (F(v) - F(v-)), F the product of all rows'."""
    values = np.unique(rewards)
    below = np.stack([np.searchsorted(np.sort(row), values, side="right") for row in rewards]) / rewards.shape[1]
    return float(values @ np.diff(below.prod(axis=0), prepend=0.0))


class WithExamples:
    """A task of one role whose prompts begin with `count` answered training questions, those of the question's own
    task where it has any: chosen by a hash, the same ones each time."""

    def __init__(self, task: Task, learnt: Sequence[Question], count: int) -> None:
        self._task, self._examples = task, _examples(learnt, count)
        self.name, self.description, self.roles = task.name, task.description, task.roles

    roles: tuple[Role, ...]

    def questions(self, split: Split) -> Sequence[Question]:
        return self._task.questions(split)

    def turn(self, episode: Episode) -> Turn | None:
        turn = self._task.turn(episode)
        if turn is None:
            return None
        shown = self._examples.get(task_of(episode.question), self._examples[""])
        examples = [m for example in shown for m in self._answered(example, episode.assignment)]
        system = [m for m in turn.messages if m.role == "system"]
        asked = [m for m in turn.messages if m.role != "system"]
        return Turn(turn.role, (*system, *examples, *asked))

    def _answered(self, example: Question, assignment: Assignment) -> list[Message]:
        turn = self._task.turn(Episode(example, assignment))
        assert turn is not None, "the first turn of an episode is somebody's"
        asked = [m for m in turn.messages if m.role != "system"]
        return [*asked, Message("assistant", example.reference)]

    def parse(self, question: Question, role: str, text: str) -> Parsed:
        return self._task.parse(question, role, text)

    def reward(self, episode: Episode) -> float:
        return self._task.reward(episode)

    def measures(self, episode: Episode) -> Mapping[str, float]:
        return self._task.measures(episode)


def _examples(learnt: Sequence[Question], count: int) -> dict[str, list[Question]]:
    """By task the first of its questions in an order by hash; under "" those of all."""
    order = sorted(learnt, key=lambda question: derive_seed("few-shot", question.id))
    names = dict.fromkeys(map(task_of, order))
    found = {name: [q for q in order if task_of(q) == name][:count] for name in names}
    return {**found, "": order[:count]}


def takes_examples(task: Task, experiment: Experiment) -> list[str]:
    """The candidates that can be shown examples: none of the zoo, which read single questions, and of a task of one
    role, whose answers are the references."""
    if len(task.roles) > 1:
        return []
    return [c.name for c in experiment.candidates if not isinstance(c.source, ZooSource) and c.source.type != "table"]
