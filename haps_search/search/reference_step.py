"""One step of a search that learns from references: nothing is sampled and nothing is paid.

route   the router gives the adapters of every candidate, and how likely it would choose each
score   the candidates return one gradient per question: of the likelihood of its references, by teacher forcing
update  the router carries the gradients on into its low level
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from statistics import fmean

from haps_search.config.run import Experiment
from haps_search.errors import Interrupted
from haps_search.learning.references import (
    Known,
    known,
    readers,
    reading_requests,
    reference_metrics,
    reference_requests,
    taught,
)
from haps_search.search.engine import Engine
from haps_search.search.metrics import entropy
from haps_search.search.step import score
from haps_search.search.validation import CHUNK
from haps_search.seeds import derive_seed
from haps_search.tasks.task import Task
from haps_search.types import Adapter, Question

Count = Callable[[str, int, int], None]
"""What is done, how much of it, and of how much."""
READ = 32
"""Questions that are read before somebody is told."""


async def reference_step(
    engine: Engine, task: Task, questions: Sequence[Question], experiment: Experiment, index: int
) -> dict[str, float]:
    """Step `index` of a run on Q questions; returns its metrics. All randomness follows from seed and index."""
    began, learning = time.perf_counter(), experiment.learning
    routes = await engine.route(questions, 1, derive_seed(experiment.run.seed, "step", index), everyone=True)
    requests = reference_requests(task, questions, routes, _names(experiment), learning)
    scores = await score(engine, requests)
    report = await engine.update(questions, taught(routes, requests, scores))
    return {
        **reference_metrics(known(requests, scores)),
        "route_entropy": fmean(entropy(role) for row in routes.marginals for role in row),
        "adapter_norm": routes.adapter_norm,
        **report.metrics,
        "step_seconds": time.perf_counter() - began,
    }


async def held_out_references(
    engine: Engine, task: Task, questions: Sequence[Question], experiment: Experiment
) -> dict[str, float]:
    """What the candidates know of references that they do not learn, without decoding anything.

    `validation_reference_match`, of the likeliest candidate, is at most the share of questions that it answers word for
    word; of each candidate it stands under its name. Likelihoods are in nats per answer; those of different tokenizers
    do not compare.
    """
    found: dict[str, dict[int, Known]] = {}
    chosen: list[Known] = []
    for start in range(0, len(questions), CHUNK):
        part = questions[start : start + CHUNK]
        routes = await engine.route(part, 0, 0, everyone=True)
        requests = reference_requests(task, part, routes, _names(experiment), experiment.learning, learns=False)
        some = known(requests, await score(engine, requests))
        for name, by_question in some.items():
            found.setdefault(name, {}).update({start + q: each for q, each in by_question.items()})
        played = [row[0][0] for row in routes.assignments]
        chosen += [some[name][q] for q, name in enumerate(played) if q in some.get(name, {})]
    if not chosen:
        return {}
    likeliest = {
        "validation_reference_log_likelihood": fmean(one.log_likelihood for one in chosen),
        "validation_reference_match": fmean(one.match for one in chosen),
    }
    return reference_metrics(found, "validation_") | likeliest


async def read_once(
    engine: Engine,
    task: Task,
    questions: Sequence[Question],
    experiment: Experiment,
    count: Count,
    leaves: Callable[[], bool],
) -> None:
    """Have the candidates read all references and store what no adapter reaches, so that the steps of every trial find
    it there. What they have stored before is not read again. `count` is told how far it is.

    Raises Interrupted where `leaves` says so; what was read stays.
    """
    config, names = experiment.learning.references, _names(experiment)
    adapters = readers(await engine.route(questions[:1], 0, 0, everyone=True), names, config)
    label, total, done = f"reading {len(questions):,} questions once", len(questions) * len(adapters), 0

    async def read(name: str, adapter: Adapter) -> None:
        nonlocal done
        for start in range(0, len(questions), READ):
            part = questions[start : start + READ]
            await engine.score(name, reading_requests(task, part, name, adapter, config))
            done += len(part)
            count(label, done, total)
            if leaves():
                raise Interrupted("asked to leave while it read the questions: what was read is stored")

    await asyncio.gather(*(read(name, adapter) for name, adapter in adapters.items()))


def _names(experiment: Experiment) -> list[str]:
    return [candidate.name for candidate in experiment.candidates]
