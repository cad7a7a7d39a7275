"""The user's own questions, answered by a single role."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import assert_never

from haps_search.config import tasks as config
from haps_search.errors import ConfigError
from haps_search.tasks.rewards import (
    LETTERS,
    UserReward,
    exact_match,
    load_function,
    read_choice,
    read_pattern,
    token_f1,
)
from haps_search.tasks.split_files import SplitFiles, read_questions
from haps_search.types import Episode, Message, Parsed, Question, Role, Split, Turn

_PLACEHOLDER = re.compile(r"\{(context|question|choices)\}")
Score = Callable[[Question, str], float]


class QaTask:
    """The user's questions. A split's file is read when its questions are first asked for.

    Raises:
        ConfigError: all that is missing or contradictory in the configuration, files included.
    """

    name = "qa"
    roles = (Role("answerer", "Answers the question."),)

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
        self._score = _score(task.reward)
        self._pattern = re.compile(task.reward.pattern) if isinstance(task.reward, config.RegexReward) else None

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
        """Cut contexts and leaks of train and validation.

        Raises:
            ConfigError, DataError: malformed rows, or no reward function under the configured name.
        """
        if isinstance(self._config.reward, config.FunctionReward):
            load_function(self._config.reward.function)
        return self._files.remarks(self._config.max_context_chars)

    def turn(self, episode: Episode) -> Turn | None:
        if episode.completions:
            return None
        system = (Message("system", self._config.system),) if self._config.system.strip() else ()
        chat: tuple[Message, ...] | None = episode.question.attributes.get("messages")
        if chat is not None:
            return Turn("answerer", chat if chat[0].role == "system" else (*system, *chat))
        return Turn("answerer", (*system, Message("user", _prompt(self._config.prompt, episode.question))))

    def parse(self, question: Question, role: str, text: str) -> Parsed:
        """The text without its margins, what `pattern` finds, or the option that is named."""
        answer = text.strip()
        if not answer:
            return Parsed(None, "the text is empty")
        options = question.attributes.get("choices")  # a question that a user asks by hand has none
        if isinstance(self._config.reward, config.ChoiceReward) and options:
            return read_choice(answer, options)
        return read_pattern(self._pattern, answer) if self._pattern else Parsed(answer)

    def reward(self, episode: Episode) -> float:
        """What the configured reward pays for the answer, in [0, 1]; 0 where no answer could be read.

        Raises:
            ConfigError, DataError: the user's own function is missing, failed or left [0, 1].
        """
        return 0.0 if episode.answer is None else self._score(episode.question, episode.answer)

    def measures(self, episode: Episode) -> Mapping[str, float]:
        """Exact match beside token F1; nothing beside the other rewards."""
        if not isinstance(self._config.reward, config.F1Reward):
            return {}
        return {"exact_match": exact_match(episode.answer or "", episode.question.reference)}


def _prompt(template: str, question: Question) -> str:
    options = zip(LETTERS, question.attributes.get("choices", ()), strict=False)
    values = {
        "question": question.text,
        "context": question.context,
        "choices": "\n".join(f"{letter}. {option}" for letter, option in options),
    }
    # One pass, so that braces in a context are left alone.
    return _PLACEHOLDER.sub(lambda found: values[found[1]], template).strip()


def _score(reward: config.Reward) -> Score:
    match reward:
        case config.F1Reward():
            return lambda question, answer: token_f1(answer, question.reference)
        case config.ExactReward() | config.RegexReward():
            return lambda question, answer: exact_match(answer, question.reference)
        case config.ChoiceReward():
            return lambda question, answer: float(answer == question.reference)
        case config.FunctionReward():
            return UserReward(reward.function)
        case _:
            assert_never(reward)


def _problems(task: config.QaTask) -> Iterator[str]:
    if "{question}" not in task.prompt:
        yield "task.prompt: has no {question}, so no candidate would see it: put {question} in"
    if task.fields.supporting is not None and task.fields.context is None:
        yield "task.fields.supporting: picks paragraphs of the context: name task.fields.context too"
    if isinstance(task.reward, config.ChoiceReward):
        if task.fields.choices is None and task.fields != config.QaFields():
            yield "task.reward: multiple_choice needs task.fields.choices, the field with the options"
        if "{choices}" not in task.prompt:
            yield "task.prompt: has no {choices}, so no candidate would see the options: put {choices} in"
    if isinstance(task.reward, config.RegexReward):
        yield from _pattern_problems(task.reward.pattern)


def _pattern_problems(pattern: str) -> Iterator[str]:
    try:
        re.compile(pattern)
    except re.error as error:
        yield f"task.reward.pattern: `{pattern}` is no regular expression ({error})"
