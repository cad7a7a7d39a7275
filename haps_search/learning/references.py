"""How lessons are taught: what candidates are asked to score, and what their scores become (`learning.references`)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from haps_search.config.learning import LearningConfig, ReferencesConfig
from haps_search.errors import ConfigError
from haps_search.learning.lessons import Lessons, evenly, texts_of
from haps_search.learning.objective import Requests, adapter_gradients
from haps_search.tasks.task import Task, paid
from haps_search.types import (
    Adapter,
    Completion,
    Episode,
    GivenCompletion,
    Message,
    Question,
    Routes,
    Sampled,
    Score,
    ScoreRequest,
    Scores,
    Taught,
)

TRIED = 32
"""So many training questions' references are read as answers before anything is taught."""


def messages_of(task: Task, question: Question) -> tuple[Message, ...]:
    """What the one role of the task is asked."""
    turn = task.turn(Episode(question, ()))
    assert turn is not None, "an episode begins with a turn"
    return turn.messages


def teaching(
    task: Task, questions: Sequence[Question], names: Sequence[str], config: ReferencesConfig
) -> list[Question]:
    """The questions that teach one of these candidates something.

    Raises:
        ConfigError: several roles, neither references nor completions that differ, or answers that earn nothing.
        DataError: a table of completions that cannot be read.
    """
    if len(task.roles) != 1:
        raise ConfigError(
            f"learning.signal: references are answers of one role, and task {task.name} has {len(task.roles)}; use "
            "rollouts"
        )
    lessons = Lessons(config)
    found = [question for question in questions if any(lessons.of(question, name) for name in names)]
    if not found and config.completions is not None:
        raise ConfigError(
            f"learning.references.completions: {config.completions} has no completions of training questions of task "
            f"{task.name} that earned more than others; collect several a question (haps collect --samples 8)"
        )
    if not found:
        raise ConfigError(
            f"learning.signal: no training question of task {task.name} has a reference; name a table of "
            "`haps collect` (learning.references.completions), or use rollouts"
        )
    tried = [question for question in found if texts_of(question, config)][:TRIED]
    if tried and all(earned_by(task, question, texts_of(question, config)[0]) == 0 for question in tried):
        raise ConfigError(
            f"learning.references.text: none of the references of {len(tried)} training questions earns anything as an "
            f"answer, for instance `{texts_of(tried[0], config)[0]}`: write answers as task.reward reads them"
        )
    return found


def earned_by(task: Task, question: Question, text: str) -> float:
    """What this text would earn as the answer."""
    role = task.roles[0].name
    said = Completion(
        role, "", messages_of(task, question), Sampled(text, (), (), 0, 0), task.parse(question, role, text)
    )
    return paid(task, Episode(question, ("",), (said,)), learning=True)


def reference_requests(
    task: Task,
    questions: Sequence[Question],
    routes: Routes,
    names: Sequence[str],
    learning: LearningConfig,
    learns: bool = True,
) -> Requests:
    """The lesson of each question under the adapters of those who are taught it, with its weights in the loss:

    1/Q * sum over questions q, candidates k and texts i of w_qk * s_qki * (-log p_i + kl_weight * KL_i),

    s from `lessons`. Where nothing is to be learnt these are the references, whose weights are 0. A candidate with
    w_qk = 0 is left out.
    """
    found: dict[str, dict[int, ScoreRequest]] = {name: {} for name in names}
    config = learning.references
    lessons = Lessons(config)
    for q, question in enumerate(questions):
        messages = messages_of(task, question)
        for name, chance in zip(names, routes.marginals[q][0], strict=True):
            weight = 1.0 if config.of == "all" else chance
            lesson = lessons.of(question, name) if learns else evenly(texts_of(question, config))
            if not lesson or weight == 0.0:
                continue
            share = weight / len(questions) if learns else 0.0
            one = [GivenCompletion(messages, t, -share * s, share * s * learning.kl_weight) for t, s in lesson]
            reference = routes.references.get((q, name)) if learns else None
            shortlist = learning.references.shortlist if learns else 0
            found[name][q] = ScoreRequest(
                tuple(one), routes.adapters[q, name], reference=reference, keep=True, match=True, shortlist=shortlist
            )
    return {name: asked for name, asked in found.items() if asked}


def readers(routes: Routes, names: Sequence[str], config: ReferencesConfig) -> dict[str, Adapter]:
    """Who is taught anything, with the adapter of its first question, whose placement says what has to be read."""
    chances = zip(names, *routes.marginals[0], strict=True)
    return {name: routes.adapters[0, name] for name, chance in chances if config.of == "all" or chance}


def reading_requests(
    task: Task, questions: Sequence[Question], name: str, adapter: Adapter, config: ReferencesConfig
) -> list[ScoreRequest]:
    """What this candidate is taught of questions, of which nothing is asked but that it be read and stored."""
    found = []
    lessons = Lessons(config)
    for question in questions:
        if lesson := lessons.of(question, name):
            messages = messages_of(task, question)
            found.append(ScoreRequest(tuple(GivenCompletion(messages, t) for t, _ in lesson), adapter, keep=True))
    return found


def taught(routes: Routes, requests: Requests, scores: Mapping[str, Scores]) -> Taught:
    """The signal of one step, from what `reference_requests` asked for and was given."""
    gradients = adapter_gradients(requests, scores)
    return Taught(routes.version, gradients.first, gradients.further)


@dataclass(frozen=True, slots=True)
class Known:
    """How well a candidate knows what it is taught of a question: the mean log-likelihood, nats per answer, each text
    weighed as it is taught; and whether greedy decoding would say one of those that weigh most."""

    log_likelihood: float
    match: bool


def known(requests: Requests, scores: Mapping[str, Scores]) -> dict[str, dict[int, Known]]:
    """Per candidate and question."""
    return {
        name: {q: _known(asked[q], some) for q, some in zip(asked, scores[name].completions, strict=True)}
        for name, asked in requests.items()
    }


def _known(asked: ScoreRequest, scores: Sequence[Score | None]) -> Known:
    pairs = zip(asked.completions, scores, strict=True)
    there = [(-given.weight, score) for given, score in pairs if score is not None]
    most, total = max(weight for weight, _ in there), math.fsum(weight for weight, _ in there)
    mean = (
        math.fsum(weight * score.log_likelihood for weight, score in there) / total
        if total
        else fmean(score.log_likelihood for _, score in there)
    )
    return Known(mean, any(score.match for weight, score in there if weight == most))


def reference_metrics(found: Mapping[str, Mapping[int, Known]], prefix: str = "") -> dict[str, float]:
    """`reference_log_likelihood` and `reference_match` over all, and of each candidate under its name."""
    groups = {"": [one for some in found.values() for one in some.values()]}
    groups |= {f"/{name}": list(some.values()) for name, some in found.items()}
    metrics: dict[str, float] = {}
    for name, some in groups.items():
        if not some:
            continue  # nothing was taught
        metrics[f"{prefix}reference_log_likelihood{name}"] = fmean(one.log_likelihood for one in some)
        metrics[f"{prefix}reference_match{name}"] = fmean(one.match for one in some)
    return metrics
