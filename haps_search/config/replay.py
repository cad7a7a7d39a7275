"""Questions whose outcomes are known: an outcome table takes the place of the candidates."""

from typing import Literal, Self

from pydantic import Field, NonNegativeInt, model_validator

from haps_search.config.base import Config
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
