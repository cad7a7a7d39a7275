"""Questions whose outcomes are known: an outcome table takes the place of the candidates."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from haps_search.config.base import NAME, Config
from haps_search.config.hotpotqa import HotpotqaTask
from haps_search.config.rewards import F1Reward, Reward
from haps_search.config.tables import TableConfig


class HashSplits(Config):
    """By hashes of the normalised text: `held_out` of the texts are test, and the others fall into folds."""

    type: Literal["hash"] = "hash"


class ColumnSplits(Config):
    """The table's own: what its column of splits calls the rows of each. Rows of other names are left out."""

    type: Literal["column"] = "column"
    train: tuple[str, ...] = Field(default=("train",), min_length=1)
    validation: tuple[str, ...] = ()
    """Empty: the training questions fall into folds that take turns, as they do under `hash`."""
    test: tuple[str, ...] = Field(default=("test",), min_length=1)

    @model_validator(mode="after")
    def _disjoint(self) -> Self:
        names = [*self.train, *self.validation, *self.test]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"got `{twice}` twice, needs each name once, since splits are disjoint")
        return self


Splits = Annotated[HashSplits | ColumnSplits, Field(discriminator="type")]


class ReplayTask(Config):
    """A single role answers, and what an answer earns stands in a table."""

    type: Literal["replay"] = "replay"
    description: str = "Answer the question."
    table: TableConfig
    held_out: float = Field(default=0.2, gt=0, lt=1)
    """Share of the different texts that are the test split under `splits: {type: hash}`."""
    splits: Splits = HashSplits()
    """Which questions are train, validation and test."""
    folds: int = Field(default=5, ge=2)
    """The other questions fall into so many folds, by another hash of the text: one validates, the others train.
    Where the table says which questions validate, references are tuned on folds and routers are not."""
    fold: NonNegativeInt = 0
    """The fold that validates. All trials of a sweep share it; `haps confirm` goes on to the others."""
    task_name: bool = False
    """Put the name of a question's task before its text, where the table has one, so that routers read it."""

    @property
    def rotation(self) -> int:
        """How many folds take turns validating: one, where the table says which questions do."""
        given = isinstance(self.splits, ColumnSplits) and self.splits.validation
        return 1 if given else self.folds

    @model_validator(mode="after")
    def _a_fold_that_is_there(self) -> Self:
        if self.rotation == 1 and self.fold:
            raise ValueError(f"fold: got {self.fold}, needs 0, since the table says which questions validate")
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
    """Names of the user's fields: dotted paths such as `answers.text`, or templates such as `{premise} {hypothesis}`.

    Left at their defaults, rows of SQuAD, HotpotQA, TriviaQA, ARC, MMLU, GSM8K and chats are recognised.
    """

    id: str | None = "id"
    """null: rows are named by their line number."""
    question: str = "question"
    reference: str = "reference"
    """A text, or a list of texts of which each is right."""
    context: str | None = None
    """Text, or a list of [title, [sentences]] as HotpotQA has it."""
    supporting: str | None = None
    """A field listing [title, sentence] pairs: only those paragraphs of the context are kept."""
    choices: str | tuple[str, ...] | None = None
    """A field with the list of options, for multiple choice, or a field for each option."""
    labels: str | None = None
    """A field with the options' labels in their order: the reference is one of them."""
    task: str | None = None
    """A field that says what kind of question it is, such as the data set it comes from: tables are compared with the
    best candidate and the commonest answer of each."""
    messages: str | None = None
    """A field with a chat, [{role, content}]: the last user's message is the question, what the assistant says to it
    the reference (where it says something), and candidates read the messages before that as they are."""


class DatasetSource(Config):
    """A data set of Hugging Face, read by the library `datasets`: from the hub, or from a folder that
    `Dataset.save_to_disk` wrote."""

    hub: str | None = None
    folder: str | None = None
    config: str | None = None
    split: str | None = None
    """null: the split of the same name, where there are several."""
    revision: str | None = None
    """A commit of the hub's, so that the questions stay the same."""

    @property
    def name(self) -> str:
        """What it is called in messages."""
        named = self.folder or self.hub or ""
        return named if self.config is None else f"{named} ({self.config})"

    @model_validator(mode="after")
    def _of_one_place(self) -> Self:
        if (self.hub is None) == (self.folder is None):
            got = "neither" if self.hub is None else "both"
            raise ValueError(f"got {got} of hub and folder, needs one of them")
        if self.folder is not None and (self.config is not None or self.revision is not None):
            raise ValueError("config: got one for a folder, which has none, nor a revision: leave both out")
        return self


Source = str | DatasetSource
Scalar = str | int | float | bool


class QaTask(Config):
    """A single role answers the user's questions."""

    type: Literal["qa"] = "qa"
    description: str = "Answer the question."
    train: Source
    """A JSON, JSONL, CSV, TSV or Parquet file or a folder of `datasets`, relative to the working directory or absolute;
    or {hub: NAME, config: ..., split: ...}."""
    validation: Source
    test: Source | None = None
    fields: QaFields = QaFields()
    where: dict[str, Scalar | tuple[Scalar, ...]] = {}
    """Field to the value, or the values, that a row must have there to be asked."""
    reward: Reward = F1Reward()
    system: str = "Answer the question with a short phrase and nothing else."
    prompt: str = "{context}\n\nQuestion: {question}\nAnswer:"
    """`{question}`, `{context}` and `{choices}` are filled in."""
    limit: dict[Literal["train", "validation", "test"], PositiveInt] = {}
    """Use only the first so many questions of a split."""
    max_context_chars: PositiveInt = 20_000
    """Longer contexts are cut at the end, and counted."""


class PluginTask(Config):
    """A task that an installed package registers under the entry point group `haps_search.tasks`."""

    GROUP: ClassVar[str] = "haps_search.tasks"
    type: Literal["plugin"] = "plugin"
    name: str
    options: dict[str, Any] = {}
    """What the package's factory is called with."""


class ObjectTask(Config):
    """A Python object that a program passed, as in `haps_search.train(study, task=...)`; no YAML file can name one."""

    type: Literal["object"] = "object"
    name: str = Field(pattern=NAME)


TaskConfig = Annotated[
    SkillsTask | QaTask | HotpotqaTask | ReplayTask | PluginTask | ObjectTask, Field(discriminator="type")
]
