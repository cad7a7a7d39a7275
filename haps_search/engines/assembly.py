"""From a configuration to the parts that every engine hosts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from haps_search.config.routing import FeaturesBackboneConfig, ReadingLowLevel
from haps_search.config.run import Experiment
from haps_search.errors import ConfigError
from haps_search.learning.update import Learner
from haps_search.routing.features.embeddings import features_cache
from haps_search.routing.features_backbone import FeaturesBackbone
from haps_search.routing.prompt import RoutingPrompt
from haps_search.routing.router import Router
from haps_search.seeds import derive_seed
from haps_search.tasks.held_out import of_half
from haps_search.tasks.task import Task
from haps_search.types import CandidateCard, ModuleTable, Question

STANDARD = 256
"""So many training questions, at most, say what a pooled state is like."""


def build_learner(experiment: Experiment, task: Task, tables: Mapping[str, ModuleTable]) -> Learner:
    """The router of a run with its optimiser; the same seed gives the same weights on every engine."""
    cards = tuple(CandidateCard(c.name, c.description) for c in experiment.candidates)
    prompt = RoutingPrompt(experiment.routing.prompt, task.description, task.roles, cards)
    features, seed = _features(experiment, task, prompt), derive_seed(experiment.run.seed, "router")
    router = Router(experiment.routing, prompt, tables, seed, features, _standard(experiment, task))
    return Learner(router, experiment.learning, experiment.run.steps, experiment.run.staleness)


def _standard(experiment: Experiment, task: Task) -> Sequence[Question]:
    """Training questions by which the low level's input is standardised, spread over the split; none where it is not.

    Raises ConfigError where there are none.
    """
    low = experiment.routing.low_level
    if not (isinstance(low, ReadingLowLevel) and low.pooled.standardised):
        return ()
    asked = of_half(task.questions("train"), experiment.run.half)
    if not asked:
        raise ConfigError("routing.low_level.pooled.standardised: the task has no training questions to take it from")
    return [asked[index * len(asked) // STANDARD] for index in range(STANDARD)] if len(asked) > STANDARD else asked


def _features(experiment: Experiment, task: Task, prompt: RoutingPrompt) -> Callable[[], FeaturesBackbone] | None:
    """What makes the backbone that is fitted on the training questions, where one is wanted."""
    backbone = experiment.routing.backbone
    if not isinstance(backbone, FeaturesBackboneConfig):
        return None
    train = prompt.render(of_half(task.questions("train"), experiment.run.half))
    validation = prompt.render(task.questions("validation"))
    return lambda: FeaturesBackbone.load(backbone, experiment.learning, train, [*train, *validation], features_cache())
