"""Texts to the features that the router's own backbone reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from haps_search.config.features import FeaturesConfig, TfidfFeatures
from haps_search.config.references import ReferencesConfig
from haps_search.config.routing import FeaturesBackboneConfig, RoutingConfig
from haps_search.config.run import Experiment
from haps_search.config.schema import suggest
from haps_search.errors import ConfigError, DataError
from haps_search.evaluation.references.labelled import Labelled
from haps_search.evaluation.references.tuned import Measured, measure
from haps_search.evaluation.routing_metrics.routes import Floats
from haps_search.routing.features.block import FeatureBlock
from haps_search.routing.features.embeddings import features_cache
from haps_search.tasks.build import build_task
from haps_search.tasks.held_out import Held
from haps_search.tasks.outcomes import OutcomeTable
from haps_search.tasks.replay import ReplayTask, candidate_names
from haps_search.tasks.split_key import split_key
from haps_search.tasks.task import answerable
from haps_search.types import Question, Split


def read_features(routing: RoutingConfig) -> tuple[FeaturesConfig, ...]:
    """What references read: the features of the router's backbone, or hashed TF-IDF where the backbone is an LM,
    which has none that could be read without training it."""
    backbone = routing.backbone
    return backbone.features if isinstance(backbone, FeaturesBackboneConfig) else (TfidfFeatures(),)


def featurise(features: Sequence[FeaturesConfig], cache: Path) -> Featurise:
    """The blocks side by side, each row of a block of length 1, as the backbone has them.

    What features learn from texts, they learn from the training texts given. Raises CandidateError for an encoder that
    cannot be loaded.
    """

    def read(training: Sequence[str], texts: Sequence[str]) -> Floats:
        return np.concatenate([FeatureBlock(each, training, texts, cache).rows(texts) for each in features], axis=1)

    return read


JudgedOn = Literal["validation", "test", "other"]
"""A split of the run's own table, or another table."""
Featurise = Callable[[Sequence[str], Sequence[str]], Floats]
"""Training texts, from which whatever features learn is learnt, and the texts to read -> (N, D)."""
REFERENCE_SEED = 0


@dataclass(frozen=True)
class Asked:
    """What is judged and what references learn from.

    On `validation` references learn from the run's training questions, on `test` from all questions outside the test
    split. `folds` (N,) are those of `train`: settings are chosen on them. `questions` are those of `test`, and
    `left_out` how many more there are that none of the models answered; of another table `known` counts those whose
    text the run's own table has, which are left out too.
    """

    train: Labelled
    folds: NDArray[np.int64]
    test: Labelled
    questions: tuple[Question, ...]
    left_out: int
    known: int = 0

    def only(self, ids: Collection[str]) -> Asked:
        """Of the judged questions those with these ids."""
        rows = np.array([place for place, question in enumerate(self.questions) if question.id in ids], np.int64)
        return replace(self, test=self.test.take(rows), questions=tuple(self.questions[row] for row in rows))


def ask(task: ReplayTask, models: Sequence[str], split: Held, featurise: Featurise) -> Asked:
    """Read the questions of a split, and those before it. Only `split` test reads test rows.

    Questions without a reward of any of these models are left out. Raises DataError where a split has none left.
    """
    earlier: tuple[Split, ...] = ("train",) if split == "validation" else ("train", "validation")
    columns = [task.column(model) for model in models]
    before, after = _read(task, earlier, models), _read(task, (split,), models)
    learnt, judged = list(before.values()), list(after.values())
    texts = [question.text for question in learnt]
    return Asked(
        _labelled(task.table, list(before), columns, featurise(texts, texts)),
        task.part[list(before)],
        _labelled(task.table, list(after), columns, featurise(texts, [question.text for question in judged])),
        tuple(judged),
        len(task.questions(split)) - len(judged),
    )


def ask_other(task: ReplayTask, models: Sequence[str], other: OutcomeTable, featurise: Featurise) -> Asked:
    """Read the questions of another table that has the same models, and the run's own outside its test split.

    Questions whose normalised text stands anywhere in the run's own table are left out: what a router learnt from
    says nothing of other tables, and its test split is read by its own name only.

    Raises:
        ConfigError: a model that the other table does not have.
        DataError: no question is left.
    """
    theirs = {name: column for column, name in enumerate(candidate_names(other))}
    missing = [model for model in models if model not in theirs]
    if missing:
        hints = [f"the other table has no model `{model}` ({suggest(model, theirs, 'it has')})" for model in missing]
        raise ConfigError([f"{hint}: name its columns as the run's candidates in a description" for hint in hints])
    columns = [theirs[model] for model in models]
    own = {split_key(question.text) for question in task.table.questions}
    known = np.array([split_key(question.text) in own for question in other.questions], np.bool_)
    answered = ~np.isnan(other.rewards[:, columns]).all(axis=1)
    rows: list[int] = np.flatnonzero(answered & ~known).tolist()
    if not rows:
        raise DataError(
            f"none of the other table's {len(known)} questions can be asked: {int(known.sum())} stand in the run's own "
            f"table, and {int((~answered & ~known).sum())} have no score of its candidates"
        )
    learnt = _read(task, ("train", "validation"), models)
    texts = [question.text for question in learnt.values()]
    judged = [_foreign(other, row) for row in rows]
    return Asked(
        _labelled(task.table, list(learnt), [task.column(model) for model in models], featurise(texts, texts)),
        task.part[list(learnt)],
        _labelled(other, rows, columns, featurise(texts, [task.worded(question).text for question in judged])),
        tuple(judged),
        int((~answered & ~known).sum()),
        int(known.sum()),
    )


def _foreign(table: OutcomeTable, row: int) -> Question:
    stored = table.questions[row]
    return Question(stored.id, stored.text, reference="1", attributes={"task": table.tasks[row]})


def measured(asked: Sequence[Asked], config: ReferencesConfig) -> tuple[Measured, ...]:
    """Every reference on the judged questions, tuned on the folds and fitted to all of `train`.

    `asked` are the same questions under each of the features that the router reads; a reference takes those that are
    best for it on the folds. Raises ConfigError where the questions lack what a reference needs.
    """
    tried = [measure(config, each.train, each.test, each.folds, REFERENCE_SEED) for each in asked]
    return tuple(_best(found, len(asked)) for found in zip(*tried, strict=True))


def _best(found: Sequence[Measured], inputs: int) -> Measured:
    chosen = max(range(len(found)), key=lambda index: found[index].validation)
    best = found[chosen]
    if inputs == 1 or not best.settings:
        return best
    return replace(best, settings={**best.settings, "features": chosen})


def _read(task: ReplayTask, splits: Sequence[Split], models: Sequence[str]) -> dict[int, Question]:
    """Row -> question of these splits, by row, where one of these models answered."""
    found = {task.place[q.id]: q for split in splits for q in answerable(task, split, models)}
    return dict(sorted(found.items()))


def _labelled(table: OutcomeTable, rows: Sequence[int], columns: Sequence[int], features: Floats) -> Labelled:
    cells = np.ix_(np.array(rows, np.int64), np.array(columns, np.int64))
    costs = None if table.costs is None else table.costs[cells].astype(np.float64)
    if costs is not None and np.isnan(costs).all():
        costs = None
    tasks = tuple(table.tasks[row] for row in rows)
    return Labelled(features, tasks, table.rewards[cells].astype(np.float64), costs)


def asked(
    base: Experiment, inputs: Sequence[Experiment], split: JudgedOn, other: OutcomeTable | None = None
) -> list[Asked]:
    """The questions of a split, or of another table, once for each different way in which these experiments read
    them."""
    models = [candidate.name for candidate in base.candidates]
    found: dict[str, Asked] = {}
    for experiment in inputs:
        features, task = read_features(experiment.routing), build_task(experiment.task)
        if not isinstance(task, ReplayTask):
            raise ConfigError(f"task: got type {experiment.task.type}, and only replay is judged beside references")
        key = json.dumps([[f.model_dump(mode="json") for f in features], task.config.task_name])
        if key not in found:
            read = featurise(features, features_cache())
            if other is not None:
                found[key] = ask_other(task, models, other, read)
            elif split != "other":
                found[key] = ask(task, models, split, read)
    return list(found.values())
