"""The user's own questions, answered by a single role."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Literal

from haps_search.config import tasks as config
from haps_search.config.rewards import ChoiceReward, F1Reward, RegexReward
from haps_search.errors import ConfigError
from haps_search.tasks.choice_labels import labels_for
from haps_search.tasks.overlap import exact_match
from haps_search.tasks.rewards import build_reward
from haps_search.tasks.split_files import SplitFiles, read_questions
from haps_search.types import Episode, Message, Parsed, Question, Role, Split, Turn

_PLACEHOLDER = re.compile(r"\{(context|question|choices)\}")


class QaTask:
    """The user's questions. A split's file is read when its questions are first asked for.

    Raises:
        ConfigError: all that is missing or contradictory in the configuration, files included.
    """

    name = "qa"
    roles = (Role("answerer", "Answers the question."),)
    single_turn: Literal[True] = True

    def __init__(self, task: config.QaTask) -> None:
        names: dict[Split, config.Source | None] = {
            "train": task.train,
            "validation": task.validation,
            "test": task.test,
        }
        self._files = SplitFiles(names, partial(read_questions, config=task))
        problems = (*self._files.problems(), *_problems(task))
        if problems:
            raise ConfigError(problems)
        self._config = task
        self._scheme = build_reward(task.reward)

    @property
    def description(self) -> str:
        return self._config.description

    def questions(self, split: Split) -> Sequence[Question]:
        """The questions of a split in the order of its file.

        Raises:
            ConfigError: the split has no file.
            DataError: malformed rows, with file, line and field.
        """
        return self._files.questions(split)

    def remarks(self) -> list[str]:
        """Cut contexts and leaks between the splits, and what should be known of the reward.

        Raises:
            ConfigError, DataError: malformed rows, or no reward function or library under the configured name.
        """
        found = self._scheme.check()
        return [*found, *self._files.remarks(self._config.max_context_chars)]

    def turn(self, episode: Episode) -> Turn | None:
        if episode.completions:
            return None
        system = (Message("system", self._config.system),) if self._config.system.strip() else ()
        chat: tuple[Message, ...] | None = episode.question.attributes.get("messages")
        if chat is not None:
            return Turn("answerer", chat if chat[0].role == "system" else (*system, *chat))
        return Turn("answerer", (*system, Message("user", _prompt(self._config, episode.question))))

    def parse(self, question: Question, role: str, text: str) -> Parsed:
        """What the configured reward reads from the text."""
        said = text.strip()
        return self._scheme.read(question, said) if said else Parsed(None, "the text is empty")

    def reward(self, episode: Episode) -> float:
        """What the configured reward pays for the answer, in [0, 1]; 0 where no answer could be read.

        Raises:
            ConfigError, DataError: the user's own function is missing, failed or left [0, 1].
        """
        return 0.0 if episode.answer is None else self._scheme.pay(episode.question, episode.answer)

    def compared(self, question: Question, text: str) -> str:
        """An answer that was read, or a reference, as the configured reward compares it."""
        return self._scheme.compared(question, text)

    def counted_as(self, question: Question, text: str) -> str:
        """The same over questions: of multiple choice the label alone."""
        return self._scheme.key(question, text)

    def measures(self, episode: Episode) -> Mapping[str, float]:
        """Exact match beside token F1; nothing beside the other rewards."""
        reward = self._config.reward
        if not isinstance(reward, F1Reward):
            return {}
        said, references = episode.answer or "", episode.question.references
        return {"exact_match": max(exact_match(said, reference, reward.normaliser) for reference in references)}


def _prompt(task: config.QaTask, question: Question) -> str:
    options = zip(labels_for(question, task.reward), question.attributes.get("choices", ()), strict=False)
    values = {
        "question": question.text,
        "context": question.context,
        "choices": "\n".join(f"{letter}. {option}" for letter, option in options),
    }
    # One pass, so that braces in a context are left alone.
    return _PLACEHOLDER.sub(lambda found: values[found[1]], task.prompt).strip()


def _problems(task: config.QaTask) -> Iterator[str]:
    if "{question}" not in task.prompt:
        yield "task.prompt: has no {question}, so no candidate would see it: put {question} in"
    if task.fields.supporting is not None and task.fields.context is None:
        yield "task.fields.supporting: picks paragraphs of the context: name task.fields.context too"
    if isinstance(task.reward, ChoiceReward):
        if task.fields.choices is None and task.fields != config.QaFields():
            yield "task.reward: multiple_choice needs task.fields.choices, the field with the options"
        if "{choices}" not in task.prompt:
            yield "task.prompt: has no {choices}, so no candidate would see the options: put {choices} in"
    if isinstance(task.reward, RegexReward):
        yield from _pattern_problems(task.reward.pattern)


def _pattern_problems(pattern: str) -> Iterator[str]:
    try:
        re.compile(pattern)
    except re.error as error:
        yield f"task.reward.pattern: `{pattern}` is no regular expression ({error})"
