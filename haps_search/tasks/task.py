"""What a task is to the rest: questions come in, rewards go out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

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
        """Who speaks next in this episode, or None when it is over."""
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


@runtime_checkable
class Inspected(Protocol):
    """A task over a user's data, which can be looked at before anything expensive starts."""

    def remarks(self) -> list[str]:
        """What should be known of the training and validation questions, a line each; reads them.

        Raises:
            ConfigError, DataError: files, rows or functions that trials would stumble over.
        """
        ...
