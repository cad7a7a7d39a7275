"""From the checkpoints of a subject to the policies that are judged."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from haps_search.cli.find import FoundRun
from haps_search.cli.judging.subject import Setting, Subject
from haps_search.engines.loaded import load_run
from haps_search.evaluation.replay.policies import Member, Policy, best_count, ensembles, mean_policy
from haps_search.evaluation.replay.questions import Held
from haps_search.evaluation.routing_metrics.cells import Floats
from haps_search.evaluation.routing_metrics.routes import earned
from haps_search.learning.known import said
from haps_search.search.outcome_validation import chances
from haps_search.tasks.replay import ReplayTask
from haps_search.types import Question

WEIGHTS = 16
"""Points of the curve of a router that reads the weight of cost, evenly spaced in its logarithm."""
ROUTER, SINGLE = "router", "best setting, one checkpoint"


@dataclass(frozen=True)
class Routers:
    """Label to one policy per seed, the judged one first; how many settings it averages, and what the ensemble of
    their searched runs earned on the validation fold on which that number was chosen (None for a run)."""

    policies: dict[str, tuple[Policy, ...]]
    settings: int
    validation: float | None


def chosen_settings(subject: Subject, questions: Sequence[Question], rewards: Floats) -> tuple[int, float | None]:
    """How many of the best settings are averaged, and what that earns, both on the search's own validation fold.

    `questions` and `rewards` (N, C) are of that fold: test questions have no say in it.
    """
    if len(subject.settings) == 1:
        return 1, None
    searched = [policy(setting.searched, "validation", questions, _models(subject)) for setting in subject.settings]
    count = best_count(searched, rewards)
    return count, float(earned(mean_policy(searched[:count]).greedy(rewards), rewards).mean())


def routers(
    subject: Subject, split: Held, questions: Sequence[Question], settings: int, validation: float | None
) -> Routers:
    """Every router of the subject on the questions of a split.

    On validation only runs of the search's own fold may be asked: the others were trained on it.
    """
    members = {setting.label: _members(subject, setting, split, questions) for setting in subject.settings[:settings]}
    first = next(iter(members.values()))
    found = {ROUTER: ensembles(member for part in members.values() for member in part)}
    if settings > 1 or len(first) > 1:
        found[SINGLE] = tuple(member.policy for member in first)
    if settings > 1 and len(first) > 1:
        found["best setting, ensemble"] = ensembles(first)
    return Routers(found, settings, validation)


def policy(run: FoundRun, split: Held, questions: Sequence[Question], models: Sequence[str]) -> Policy:
    """What a run's best checkpoint would do on questions of a split, which it reads in its own way.

    Columns are `models`; one that is no candidate of the run has probability 0. Raises CheckpointError, ConfigError.
    """
    loaded = load_run(run.folder, run.experiment)
    assert isinstance(loaded.task, ReplayTask)
    own = {question.id: question for question in loaded.task.questions(split)}
    asked = [own[question.id] for question in questions]
    columns = [models.index(candidate.name) for candidate in run.experiment.candidates]

    def probabilities(texts: Sequence[Question]) -> Floats:
        found = np.zeros((len(texts), len(models)))
        found[:, columns] = asyncio.run(chances(loaded.engine, texts))
        return found

    limits = run.experiment.learning.cost_conditioned
    weights = [] if limits is None else np.geomspace(limits.low, limits.high, WEIGHTS).tolist()
    priced = {weight: probabilities([said(question, weight) for question in asked]) for weight in weights}
    return Policy(probabilities(asked), priced)


def _members(subject: Subject, setting: Setting, split: Held, questions: Sequence[Question]) -> list[Member]:
    own = _fold(setting.searched)
    runs = [run for run in setting.runs if split == "test" or _fold(run) == own]
    return [Member(setting.label, _fold(run), policy(run, split, questions, _models(subject))) for run in runs]


def _fold(run: FoundRun) -> int:
    task = run.experiment.task
    assert task.type == "replay"
    return task.fold


def _models(subject: Subject) -> list[str]:
    return [candidate.name for candidate in subject.experiment.candidates]
