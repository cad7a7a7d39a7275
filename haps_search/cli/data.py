"""A look at the user's data before anything expensive starts."""

from __future__ import annotations

from collections.abc import Sequence

from haps_search.config.features import EncoderFeatures
from haps_search.config.run import Experiment
from haps_search.config.sweep import Study
from haps_search.config.tasks import TaskConfig
from haps_search.errors import ConfigError
from haps_search.routing.features.embeddings import named
from haps_search.sweep.space import apply
from haps_search.tasks.build import build_task
from haps_search.tasks.replay import ReplayTask
from haps_search.tasks.task import Inspected, answerable
from haps_search.types import Split


def read_task(experiment: Experiment) -> list[str]:
    """Read train and validation; what should be known of them, a line each.

    Raises:
        ConfigError, DataError, CandidateError: files, rows, functions or encoders that trials would stumble over.
    """
    task = build_task(experiment.task)
    for features in getattr(experiment.routing.backbone, "features", ()):
        if isinstance(features, EncoderFeatures):
            named(features)
    if isinstance(task, ReplayTask):
        remarks = _unanswered(task, [candidate.name for candidate in experiment.candidates])
        if experiment.learning.cost_weight or experiment.learning.cost_conditioned:
            task.cost_unit  # noqa: B018 - refuses a table without costs
        return [*task.remarks(), *remarks]
    if isinstance(task, Inspected):
        return task.remarks()
    for split in ("train", "validation"):
        task.questions(split)
    return []


def _unanswered(task: ReplayTask, models: Sequence[str]) -> list[str]:
    """How many questions no candidate answered. Raises ConfigError for an unknown one."""
    asked: dict[Split, int] = {split: len(task.questions(split)) for split in ("train", "validation")}
    lacks = {split: count - len(answerable(task, split, models)) for split, count in asked.items()}
    if not any(lacks.values()):
        return []
    counts = ", ".join(f"{count} {split}" for split, count in lacks.items())
    return [f"warning: {counts} questions that no candidate answered left out"]


def read_arms(study: Study) -> None:
    """Read the validation questions of arms that change the task.

    Raises:
        ConfigError: an arm has other validation questions than the experiment, so that nothing could be paired.
        DataError: malformed rows.
    """
    own = study.experiment.task
    for name, arm in study.arms.items():
        task = apply(study.experiment, arm).task
        if task != own and _asked(task) != _asked(own):
            raise ConfigError(
                f"arms.{name}: its validation questions are others than the experiment's, and arms are compared "
                "question by question: change what it trains on, or make it a study of its own"
            )


def _asked(config: TaskConfig) -> list[tuple[str, str, str]]:
    return [(q.id, q.text, q.reference) for q in build_task(config).questions("validation")]
