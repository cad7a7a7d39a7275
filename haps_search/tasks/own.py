"""Tasks of the user's own: a Python object that a program passes, one that a package registers, questions in a list."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from haps_search.config.tasks import ObjectTask, PluginTask
from haps_search.errors import ConfigError
from haps_search.tasks.plugins import made_by_package
from haps_search.types import Episode, Message, Parsed, Question, Role, Split, Turn

if TYPE_CHECKING:
    from haps_search.config.sweep import Study
    from haps_search.tasks.task import Task

NEEDS = ("name", "description", "roles", "questions", "turn", "parse", "reward", "measures")
"""What an object must have to be a task."""

_passed: dict[str, Task] = {}


def hold_task(task: Task) -> ObjectTask:
    """Keep a program's task for this process; what stands for it in a configuration.

    Raises:
        ConfigError: it lacks something that a task has.
    """
    _checked(task, "the task that was passed")
    described = ObjectTask(name=task.name)
    _passed[task.name] = task
    return described


def with_task(study: Study, task: Task | None) -> Study:
    """The study over a program's task instead of its own. Raises ConfigError where that is no task."""
    if task is None:
        return study
    experiment = study.experiment.model_copy(update={"task": hold_task(task)})
    return study.model_copy(update={"experiment": experiment})


def passed(config: ObjectTask) -> Task:
    """Raises ConfigError where this process was not given it."""
    if config.name not in _passed:
        raise ConfigError(
            f"task {config.name} is a Python object that a program passed, and this process has none of that name: "
            "pass it again (`haps_search.resume(NAME, task=...)`, or `haps_search.hold_task(...)` before other verbs)"
        )
    return _passed[config.name]


def registered(config: PluginTask) -> Task:
    """The task of an installed package. Raises ConfigError: no such entry point, or what it makes is no task."""
    task: Task = made_by_package(config)
    _checked(task, f"task.name: what {config.name} makes")
    return task


def _checked(task: Any, what: str) -> None:
    lacking = [name for name in NEEDS if not hasattr(task, name)]
    if lacking:
        raise ConfigError(f"{what}: a task needs {', '.join(NEEDS)}; it lacks {', '.join(lacking)}")


class QuestionTask:
    """Questions in lists, answered by one role with one text, paid by a function of the user's own.

    `reward(question, answer)` gives a number in [0, 1]. `prompt` is filled with {question} and {context}.
    """

    roles = (Role("answerer", "Answers the question."),)

    def __init__(
        self,
        questions: Mapping[Split, Sequence[Question]],
        reward: Callable[[Question, str], float],
        name: str = "own",
        description: str = "Answer the question.",
        prompt: str = "{context}\n\nQuestion: {question}\nAnswer:",
    ) -> None:
        """Raises ConfigError for splits that are not there, or share a question."""
        self.name, self.description, self._reward, self._prompt = name, description, reward, prompt
        self._questions = {split: tuple(asked) for split, asked in questions.items()}
        for split in ("train", "validation"):
            if not self._questions.get(split):
                raise ConfigError(f"task {name}: needs questions for train and validation, got none for {split}")
        seen: dict[str, str] = {}
        for split, asked in self._questions.items():
            for question in asked:
                if seen.setdefault(question.text, split) != split:
                    raise ConfigError(f"task {name}: {question.text!r} stands in {seen[question.text]} and {split}")

    def questions(self, split: Split) -> Sequence[Question]:
        if split not in self._questions:
            raise ConfigError(f"task {self.name}: has no {split} questions; give them to QuestionTask")
        return self._questions[split]

    def turn(self, episode: Episode) -> Turn | None:
        if episode.completions:
            return None
        asked = episode.question
        text = self._prompt.replace("{context}", asked.context).replace("{question}", asked.text)
        return Turn("answerer", (Message("user", text.strip()),))

    def parse(self, question: Question, role: str, text: str) -> Parsed:
        answer = text.strip()
        return Parsed(answer) if answer else Parsed(None, "the text is empty")

    def reward(self, episode: Episode) -> float:
        return 0.0 if episode.answer is None else float(self._reward(episode.question, episode.answer))

    def measures(self, episode: Episode) -> Mapping[str, float]:
        return {}
