"""What a task is to the rest: questions come in, rewards go out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from haps_search.errors import DataError
from haps_search.types import Episode, Parsed, Question, Role, Split, Turn


class Task(Protocol):
    """A set of questions, the roles that answer them, and what an answer earns."""

    @property
    def name(self) -> str: ...

    @property
    def description(self) -> str:
        """One sentence for the routing prompt."""
        ...

    @property
    def roles(self) -> tuple[Role, ...]: ...

    def questions(self, split: Split) -> Sequence[Question]:
        """The questions of a split, in a fixed order. Splits are disjoint.

        Raises:
            DataError: a malformed row, with file, line and field.
        """
        ...

    def turn(self, episode: Episode) -> Turn | None:
        """Whose turn is next in this episode, or None when it is over."""
        ...

    def parse(self, question: Question, role: str, text: str) -> Parsed:
        """Read a role's text. What cannot be read is a value with a reason, never filler."""
        ...

    def reward(self, episode: Episode) -> float:
        """What a finished episode earns, in [0, 1]."""
        ...

    def measures(self, episode: Episode) -> Mapping[str, float]:
        """Other figures of a finished episode, reported beside the reward and never learnt from."""
        ...


def task_of(question: Question) -> str:
    """What kind of question it is among those of its task: the name that its data give it, "" where they give none."""
    return str(question.attributes.get("task", ""))


def paid(task: Task, episode: Episode, learning: bool) -> float:
    """The reward of a finished episode; while `learning`, nothing for an answer that states several.

    Of those the last one counts where answers are measured, and a router should not find out how to make use of that.
    """
    return 0.0 if learning and episode.hedged else task.reward(episode)


def earned(task: Task, episode: Episode, learning: bool = False) -> float:
    """What `paid` pays. Raises DataError where it is not in [0, 1], as where it is NaN."""
    reward = paid(task, episode, learning)
    if not 0 <= reward <= 1:
        raise DataError(
            f"task {task.name}: got the reward {reward!r} for question {episode.question.id}, needs a number in "
            "[0, 1]: mend the task's reward or that question; the last checkpoint stays"
        )
    return reward


@runtime_checkable
class Inspected(Protocol):
    """A task over a user's data, which can be looked at before anything expensive starts."""

    def remarks(self) -> list[str]:
        """What should be known of the questions, leaks between splits among it, a line each; reads them.

        Raises:
            ConfigError, DataError: files, rows or functions that trials would stumble over.
        """
        ...


@runtime_checkable
class SingleTurn(Protocol):
    """A task whose first text is its last, so that its pieces may be told while it is written."""

    single_turn: Literal[True]


@runtime_checkable
class Comparing(Protocol):
    """A task that can show how it compares texts."""

    def compared(self, question: Question, text: str) -> str:
        """An answer that was read, or a reference, as the reward compares it."""
        ...


@runtime_checkable
class Counting(Protocol):
    """A task that can say which answers to several questions are the same one."""

    def counted_as(self, question: Question, text: str) -> str:
        """An answer that was read, or a reference, as it is counted over questions."""
        ...


@dataclass(frozen=True)
class KnownOutcomes:
    """What K models did on Q questions, each (Q, K). Made by a task of known outcomes, read by the outcome step.

    `rewards` is NaN where a cell is missing. `task_means` are mean training rewards over the question's task.
    `costs` are in units of the dearest model's mean training cost, a missing one at its model's mean, and `prices`
    (K,) those means, what is known before paying; None where nobody knows costs.
    """

    rewards: NDArray[np.float32]
    task_means: NDArray[np.float64]
    costs: NDArray[np.float32] | None
    prices: NDArray[np.float64] | None = None


@runtime_checkable
class Tabled(Protocol):
    """A task of one role whose outcomes are all known, so that nothing has to be sampled."""

    def answered(self, questions: Sequence[Question], models: Sequence[str]) -> Sequence[Question]:
        """Those on which one of these models at least earned something known. Raises DataError where none is left."""
        ...

    def outcomes(self, questions: Sequence[Question], models: Sequence[str]) -> KnownOutcomes:
        """What these models earned and cost. Raises ConfigError for a model that the table does not have."""
        ...

    def prices(self, models: Sequence[str]) -> NDArray[np.float64] | None:
        """(K,): the mean training cost of each, in units of the dearest model's; None where nobody knows costs."""
        ...

    def worded(self, question: Question) -> Question:
        """A question from elsewhere, with its `task` attribute if it has one, as the table's are read."""
        ...


def answerable(task: Task, split: Split, models: Sequence[str]) -> Sequence[Question]:
    """The questions of a split, in its order; of a table those alone that one of these models at least answered."""
    questions = task.questions(split)
    return task.answered(questions, models) if isinstance(task, Tabled) else questions
