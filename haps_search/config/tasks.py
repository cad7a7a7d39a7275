"""Questions whose outcomes are known: an outcome table takes the place of the candidates."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from haps_search.config.base import Config
from haps_search.config.hotpotqa import HotpotqaTask
from haps_search.config.rewards import F1Reward, Reward
from haps_search.config.tables import TableConfig


class ReplayTask(Config):
    """A single role answers, and what an answer earns stands in a table."""

    type: Literal["replay"] = "replay"
    description: str = "Answer the question."
    table: TableConfig
    held_out: float = Field(default=0.2, gt=0, lt=1)
    """Share of the different texts that are the test split, by a hash of the normalised text. The table's own splits
    are not used."""
    folds: int = Field(default=5, ge=2)
    """The other questions fall into so many folds, by another hash of the text: one validates, the others train."""
    fold: NonNegativeInt = 0
    """The fold that validates. All trials of a sweep share it; `haps confirm` goes on to the others."""
    task_name: bool = False
    """Put the name of a question's task before its text, where the table has one, so that routers read it."""

    @model_validator(mode="after")
    def _a_fold_that_is_there(self) -> Self:
        if self.fold >= self.folds:
            raise ValueError(f"fold: got {self.fold}, needs 0 to {self.folds - 1}, since folds is {self.folds}")
        return self


class SkillsTask(Config):
    """The embedded task: add, reverse or sort, in a format that a tag asks for."""

    type: Literal["skills"] = "skills"
    digits: int = Field(default=2, ge=1, le=6)
    """At most so many digits in a number to add."""
    letters: tuple[PositiveInt, PositiveInt] = (3, 5)
    """Shortest and longest word to reverse or sort."""
    seed: int = 0
    sizes: dict[Literal["train", "validation", "test"], PositiveInt] = {
        "train": 4096,
        "validation": 1000,
        "test": 2000,
    }

    @model_validator(mode="after")
    def _ordered(self) -> SkillsTask:
        if self.letters[0] > self.letters[1]:
            raise ValueError(f"letters: shortest {self.letters[0]} exceeds longest {self.letters[1]}")
        return self


class QaFields(Config):
    """Names of the user's JSON fields."""

    id: str | None = "id"
    """null: rows are named by their line number."""
    question: str = "question"
    reference: str = "reference"
    """A text, or a list of texts of which the best one counts."""
    context: str | None = None
    """Text, or a list of [title, [sentences]] as HotpotQA has it."""
    supporting: str | None = None
    """A field listing [title, sentence] pairs: only those paragraphs of the context are kept."""
    choices: str | None = None
    """A field with the list of options, for multiple choice."""


class QaTask(Config):
    """A single role answers the user's questions."""

    type: Literal["qa"] = "qa"
    description: str = "Answer the question."
    train: str
    """JSONL files, relative to the working directory or absolute."""
    validation: str
    test: str | None = None
    fields: QaFields = QaFields()
    reward: Reward = F1Reward()
    system: str = "Answer the question with a short phrase and nothing else."
    prompt: str = "{context}\n\nQuestion: {question}\nAnswer:"
    """`{question}`, `{context}` and `{choices}` are filled in."""
    limit: dict[Literal["train", "validation", "test"], PositiveInt] = {}
    """Use only the first so many questions of a split."""
    max_context_chars: PositiveInt = 20_000
    """Longer contexts are cut at the end, and counted."""


TaskConfig = Annotated[SkillsTask | QaTask | HotpotqaTask | ReplayTask, Field(discriminator="type")]
