"""The tasks a user can name."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from haps_search.config.base import Config, Hook
from haps_search.config.hotpotqa import HotpotqaTask
from haps_search.config.replay import ReplayTask


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
    def _ordered(self) -> "SkillsTask":
        if self.letters[0] > self.letters[1]:
            raise ValueError(f"letters: shortest {self.letters[0]} exceeds longest {self.letters[1]}")
        return self


class QaFields(Config):
    """Names of the user's JSON fields."""

    id: str | None = "id"
    """null: rows are named by their line number."""
    question: str = "question"
    reference: str = "reference"
    context: str | None = None
    """Text, or a list of [title, [sentences]] as HotpotQA has it."""
    supporting: str | None = None
    """A field listing [title, sentence] pairs: only those paragraphs of the context are kept."""
    choices: str | None = None
    """A field with the list of options, for multiple choice."""


class F1Reward(Config):
    """Token F1 after the usual normalisation; yes, no and noanswer count only when equal (HotpotQA)."""

    type: Literal["f1"] = "f1"


class ExactReward(Config):
    """1 where the normalised texts are equal."""

    type: Literal["exact"] = "exact"


class ChoiceReward(Config):
    """1 where the option named is the reference's."""

    type: Literal["multiple_choice"] = "multiple_choice"


class RegexReward(Config):
    """1 where the first group of `pattern` (or its whole match) equals the reference, normalised."""

    type: Literal["regex"] = "regex"
    pattern: str


class FunctionReward(Config):
    """The user's own `function(question, answer) -> float in [0, 1]`, as `module:function`."""

    type: Literal["function"] = "function"
    function: Hook


Reward = Annotated[F1Reward | ExactReward | ChoiceReward | RegexReward | FunctionReward, Field(discriminator="type")]


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
