"""What is taught: the references of questions, and what candidates' scores of them become (`learning.references`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from haps_search.config.learning import LearningConfig, ReferencesConfig
from haps_search.errors import ConfigError
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


def texts_of(question: Question, config: ReferencesConfig) -> tuple[str, ...]:
    """The answers that are taught, each once; none for a question without a reference."""
    return tuple(dict.fromkeys(config.text.replace("{reference}", r) for r in question.references if r))


def messages_of(task: Task, question: Question) -> tuple[Message, ...]:
    """What the one role of the task is asked."""
    turn = task.turn(Episode(question, ()))
    assert turn is not None, "an episode begins with a turn"
    return turn.messages


def check(task: Task, questions: Sequence[Question], config: ReferencesConfig) -> None:
    """Raises ConfigError where nothing can be taught: several roles, no references, or answers that earn nothing."""
    if len(task.roles) != 1:
        raise ConfigError(
            f"learning.signal: references are answers of one role, and task {task.name} has {len(task.roles)}; use "
            "rollouts"
        )
    with_some = [question for question in questions if texts_of(question, config)]
    if not with_some:
        raise ConfigError(f"learning.signal: no training question of task {task.name} has a reference; use rollouts")
    tried = with_some[:TRIED]
    if all(earned_by(task, question, texts_of(question, config)[0]) == 0 for question in tried):
        raise ConfigError(
            f"learning.references.text: none of the references of {len(tried)} training questions earns anything as an "
            f"answer, for instance `{texts_of(tried[0], config)[0]}`: write answers as task.reward reads them"
        )


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
    """The references of each question under the adapters of those who are taught them, with their weights in the loss:

    1/Q * sum over questions q, candidates k and references i of w_qk / R_q * (-log p_i + kl_weight * KL_i),

    all 0 where nothing is to be learnt. A candidate with w_qk = 0 is left out.
    """
    found: dict[str, dict[int, ScoreRequest]] = {name: {} for name in names}
    for q, question in enumerate(questions):
        texts = texts_of(question, learning.references)
        messages = messages_of(task, question) if texts else ()
        for name, chance in zip(names, routes.marginals[q][0], strict=True):
            weight = 1.0 if learning.references.of == "all" else chance
            if not texts or weight == 0.0:
                continue
            share = weight / (len(texts) * len(questions)) if learns else 0.0
            one = [GivenCompletion(messages, text, -share, share * learning.kl_weight) for text in texts]
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
    task: Task, questions: Sequence[Question], adapter: Adapter, config: ReferencesConfig
) -> list[ScoreRequest]:
    """The references of questions, of which nothing is asked but that they be read and stored."""
    found = []
    for question in questions:
        if texts := texts_of(question, config):
            messages = messages_of(task, question)
            found.append(ScoreRequest(tuple(GivenCompletion(messages, t) for t in texts), adapter, keep=True))
    return found


def taught(routes: Routes, requests: Requests, scores: Mapping[str, Scores]) -> Taught:
    """The signal of one step, from what `reference_requests` asked for and was given."""
    gradients = adapter_gradients(requests, scores)
    return Taught(routes.version, gradients.first, gradients.further)


@dataclass(frozen=True, slots=True)
class Known:
    """How well a candidate knows the references of a question: the mean log-likelihood, nats per answer, and whether
    greedy decoding would say one of them."""

    log_likelihood: float
    match: bool


def known(requests: Requests, scores: Mapping[str, Scores]) -> dict[str, dict[int, Known]]:
    """Per candidate and question."""
    return {
        name: {q: _known(some) for q, some in zip(asked, scores[name].completions, strict=True)}
        for name, asked in requests.items()
    }


def _known(scores: Sequence[Score | None]) -> Known:
    there = [score for score in scores if score is not None]
    return Known(fmean(score.log_likelihood for score in there), any(score.match for score in there))


def reference_metrics(found: Mapping[str, Mapping[int, Known]], prefix: str = "") -> dict[str, float]:
    """`reference_log_likelihood` and `reference_match` over all, and of each candidate under its name."""
    groups = {"": [one for some in found.values() for one in some.values()]}
    groups |= {f"/{name}": list(some.values()) for name, some in found.items()}
    metrics: dict[str, float] = {}
    for name, some in groups.items():
        metrics[f"{prefix}reference_log_likelihood{name}"] = fmean(one.log_likelihood for one in some)
        metrics[f"{prefix}reference_match{name}"] = fmean(one.match for one in some)
    return metrics
