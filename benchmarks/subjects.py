"""The experiments whose steps are timed: large candidates that babble, and the embedded zoo."""

from __future__ import annotations

import asyncio
import random
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from benchmarks.scale import Size
from haps_search.config.load import load_study
from haps_search.config.run import Experiment
from haps_search.search.engine import Engine
from haps_search.search.step import step
from haps_search.seeds import derive_seed
from haps_search.tasks.build import build_task
from haps_search.tasks.task import Task
from haps_search.types import Episode, Message, Parsed, Question, Role, Split, Turn

RANK, SCALING = 8, 0.5
LORA = {"rank": RANK, "scaling": SCALING, "targets": ["o_proj"], "layers": {"last": 1}}


class Babble:
    """Questions of random letters, one a token; a text earns the share of its even tokens, so advantages differ."""

    name = "babble"
    description = "Say anything."
    roles = (Role("answerer", "says anything"),)

    def questions(self, split: Split) -> Sequence[Question]:
        return []

    def turn(self, episode: Episode) -> Turn | None:
        return None if episode.completions else Turn("answerer", (Message("user", episode.question.text),))

    def parse(self, question: Question, role: str, text: str) -> Parsed:
        return Parsed(text)

    def reward(self, episode: Episode) -> float:
        said = episode.completions[0].sampled.token_ids
        return sum(token % 2 == 0 for token in said) / len(said)

    def measures(self, episode: Episode) -> Mapping[str, float]:
        return {}


class Asking(Protocol):
    def __call__(self, number: int, count: int) -> list[Question]:
        """`count` questions that no other number gets."""
        ...


@dataclass(frozen=True, slots=True)
class Subject:
    """An experiment, the task whose episodes it plays, and its questions."""

    experiment: Experiment
    task: Task
    asked: Asking

    def step(self, engine: Engine, number: int) -> None:
        """One step on questions of its own."""
        asyncio.run(self.stepped(engine, number))

    async def stepped(self, engine: Engine, number: int) -> None:
        questions = self.asked(number, self.experiment.run.questions_per_step)
        await step(engine, self.task, self.experiment, number, questions)


def letters(length: int) -> Asking:
    """Questions of `length` letters."""

    def asked(number: int, count: int) -> list[Question]:
        names = [f"{number}-{i}" for i in range(count)]
        draws = [random.Random(derive_seed("letters", length, name)) for name in names]
        texts = ["".join(draw.choices(string.ascii_lowercase, k=length)) for draw in draws]
        return [Question(name, text, "") for name, text in zip(names, texts, strict=True)]

    return asked


def babbling(folder: Path, names: Sequence[str], size: Size, threads: int) -> Subject:
    """Candidates of one folder under several names, and a router that is small beside them."""
    # A trial's own rows fill such a batch, so what a pool needs in memory does not grow with its trials.
    place = {"source": {"type": "path", "path": str(folder)}, "device": "cpu", "batch_rows": 64}
    described = {
        "task": {"type": "skills"},
        "candidates": [{"name": name, **place} for name in names],
        "routing": {
            "prompt": "question",
            "backbone": {"source": {"type": "zoo", "name": "reverser"}, "device": "cpu"},
            "low_level": {"type": "generated", "hidden": [64], "init": "xavier"},
            "lora": LORA,
        },
        "run": {
            "questions_per_step": size.questions,
            "episodes_per_question": size.episodes,
            "sampling": {"max_new_tokens": size.new},
        },
        "engine": {"type": "local", "threads": threads},
    }
    return Subject(Experiment.model_validate(described), Babble(), letters(size.prompt))


def zoo(size: Size) -> Subject:
    """The embedded study with its own prompts, and Q and G of `size`; one thread."""
    experiment = changed(
        load_study("skills").experiment,
        run={"questions_per_step": size.questions, "episodes_per_question": size.episodes},
        engine={"type": "local", "threads": 1},
    )
    task = build_task(experiment.task)
    train = task.questions("train")

    def asked(number: int, count: int) -> list[Question]:
        start = number * count % (len(train) - count)
        return list(train[start : start + count])

    return Subject(experiment, task, asked)


def changed(experiment: Experiment, run: Mapping[str, Any], **sections: Any) -> Experiment:
    """The same with other fields of `run`, and whole sections replaced."""
    described = experiment.model_dump(mode="json")
    return Experiment.model_validate({**described, "run": {**described["run"], **run}, **sections})
