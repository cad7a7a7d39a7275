"""Replay: questions of an outcome table, whose answers were given and paid for long ago."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haps_search.config.schema import suggest
from haps_search.config.tasks import ColumnSplits
from haps_search.config.tasks import ReplayTask as ReplayConfig
from haps_search.errors import ConfigError, DataError
from haps_search.tasks.outcomes import OutcomeTable
from haps_search.tasks.split_key import split_key
from haps_search.tasks.tables.reading import held
from haps_search.tasks.tables.splits import folds, hash_split
from haps_search.tasks.task import KnownOutcomes
from haps_search.types import Episode, Message, Parsed, Question, Role, Split, Turn

TEST, EMPTY, UNNAMED = -1, -2, -3
_FORBIDDEN = re.compile(r"[^A-Za-z0-9._-]")


def partition(config: ReplayConfig, table: OutcomeTable) -> NDArray[np.int64]:
    """Where each of N rows belongs, (N,): its fold, or `TEST`, or `EMPTY` for a row without any reward, or `UNNAMED`
    for one of a split that nobody asked for.

    By hashes it depends on a row's own normalised text, so duplicates stay together and new rows move no old one.
    Where the table says which questions validate they are fold 0, and folds from 1 on train.

    Raises:
        DataError: a name of a split that no row has.
    """
    texts = [question.text for question in table.questions]
    part = folds(texts, config.folds)
    if isinstance(config.splits, ColumnSplits):
        part = _by_column(config.splits, table, part)
    else:
        part[hash_split(texts, config.held_out)] = TEST
    part[np.isnan(table.rewards).all(axis=1)] = EMPTY
    return part


def _by_column(splits: ColumnSplits, table: OutcomeTable, dealt: NDArray[np.int64]) -> NDArray[np.int64]:
    there = dict.fromkeys(name for name in table.splits if name is not None)
    for name in (*splits.train, *splits.validation, *splits.test):
        if name not in there:
            hint = suggest(name, there, "it has") if there else "no row names any: name its column under `layout`"
            raise DataError(f"task.splits: the table has no split `{name}` ({hint})")
    named = np.array([name or "" for name in table.splits])
    part = np.full(len(dealt), UNNAMED)
    learnt = np.isin(named, splits.train)
    part[learnt] = dealt[learnt] + (1 if splits.validation else 0)
    part[np.isin(named, splits.validation)] = 0
    part[np.isin(named, splits.test)] = TEST
    return part


def candidate_names(table: OutcomeTable) -> tuple[str, ...]:
    """What candidates are called that stand for the models of a table: `-` for what a name may not hold.

    Raises:
        ConfigError: two models that get the same name.
    """
    models: dict[str, str] = {}
    for (model,) in table.assignments:
        name = candidate_name(model)
        if models.setdefault(name, model) != model:
            raise ConfigError(f"task.table: models `{models[name]}` and `{model}` are both named {name}: rename one")
    return tuple(models)


def candidate_name(model: str) -> str:
    """What a candidate is called that stands for a model."""
    return _FORBIDDEN.sub("-", model)


class ReplayTask:
    """One role answers; a candidate says its score as a number, and that is the reward."""

    name = "replay"
    roles = (Role("answerer", "answers the question"),)

    def __init__(self, config: ReplayConfig) -> None:
        self.config = config
        self.description = config.description

    @cached_property
    def table(self) -> OutcomeTable:
        """Of one role: `assignments[c]` is (model,). Raises ConfigError, DataError as `read_table` does."""
        table = held(self.config.table)
        seats = len(table.assignments[0])
        if seats != len(self.roles):
            raise ConfigError(
                f"task.table: its assignments have {seats} roles, replay has one: use a table of single models"
            )
        return table

    @cached_property
    def part(self) -> NDArray[np.int64]:
        """`partition` of the table's rows."""
        return partition(self.config, self.table)

    def rows(self, split: Split) -> NDArray[np.int64]:
        """The table's rows of a split. Raises DataError where there are none."""
        wanted = {
            "test": self.part == TEST,
            "validation": self.part == self.config.fold,
            "train": (self.part >= 0) & (self.part != self.config.fold),
        }[split]
        if not wanted.any():
            raise DataError(
                f"{self.config.table.name}: {len(self.part)} questions leave none for {split}: it needs more of "
                "different texts, or other task.splits, task.held_out and task.folds"
            )
        return np.flatnonzero(wanted)

    def questions(self, split: Split) -> Sequence[Question]:
        return self._questions(self.rows(split))

    def turn(self, episode: Episode) -> Turn | None:
        # Rows may share a text and differ in what they earned, so a look-up goes by id.
        return None if episode.completions else Turn("answerer", (Message("user", episode.question.id),))

    def parse(self, question: Question, role: str, text: str) -> Parsed:
        """A score in [0, 1]."""
        try:
            score = float(text)
        except ValueError:
            return Parsed(None, "a score was expected")
        return Parsed(text.strip()) if 0 <= score <= 1 else Parsed(None, "a score lies in [0, 1]")

    def reward(self, episode: Episode) -> float:
        return 0.0 if episode.answer is None else float(episode.answer)

    def measures(self, episode: Episode) -> Mapping[str, float]:
        """`cost` in the table's money, a missing one at its model's mean; nothing where nobody knows costs."""
        if self.table.costs is None or self.mean_costs is None:
            return {}
        column = self.column(episode.assignment[0])
        cost = float(self.table.costs[self.place[episode.question.id], column])
        return {"cost": float(self.mean_costs[column]) if math.isnan(cost) else cost}

    def remarks(self) -> list[str]:
        """What the table gives; reads it. Raises ConfigError, DataError."""
        counts = {split: len(self.rows(split)) for split in ("train", "validation", "test")}
        missing = np.isnan(self.table.rewards)
        empty, gaps = int((self.part == EMPTY).sum()), int(missing[self.part > EMPTY].sum())
        by = f"fold {self.config.fold}" if self.config.rotation > 1 else "the table's own splits"
        found = [", ".join(f"{count} {split}" for split, count in counts.items()) + f" questions ({by})"]
        if empty:
            found.append(f"warning: {empty} questions without any score left out")
        if gaps:
            found.append(f"warning: {gaps} missing cells: left out of the loss, and never chosen when measuring")
        if self.table.costs is not None and (unpaid := int((np.isnan(self.table.costs) & ~missing).sum())):
            found.append(f"warning: {unpaid} missing costs: taken at the model's mean cost over training questions")
        return [*found, *self._of_splits()]

    def _of_splits(self) -> Iterator[str]:
        if not isinstance(self.config.splits, ColumnSplits):
            if any(self.table.splits):
                yield "the table's own splits are not used: `splits: {type: column}` takes them"
            return
        if unnamed := int((self.part == UNNAMED).sum()):
            yield f"{unnamed} questions of other splits left out"
        learnt = {split_key(self.table.questions[row].text) for row in np.flatnonzero(self.part >= 0)}
        tested = [split_key(self.table.questions[row].text) for row in np.flatnonzero(self.part == TEST)]
        if leaks := sum(text in learnt for text in tested):
            yield f"warning: {leaks} test questions stand in train or validation too; the table's split has them so"

    def answered(self, questions: Sequence[Question], models: Sequence[str]) -> list[Question]:
        """Those on which one of these models at least has a score: of the others a router can neither learn anything
        nor be told anything.

        Raises:
            ConfigError: an unknown model. DataError: no question is left.
        """
        rows, columns = [self.place[question.id] for question in questions], [self.column(model) for model in models]
        known = np.flatnonzero((~np.isnan(self.table.rewards[np.ix_(rows, columns)])).any(axis=1))
        if not len(known):
            raise DataError(
                f"{self.config.table.name}: none of {len(questions)} questions has a score of {', '.join(models)}: "
                "it needs some of each split, or other candidates"
            )
        return [questions[int(place)] for place in known]

    def outcomes(self, questions: Sequence[Question], models: Sequence[str]) -> KnownOutcomes:
        """What these models earned and cost on questions of this table. Raises ConfigError for an unknown model."""
        rows = np.array([self.place[question.id] for question in questions], np.int64)
        columns = np.array([self.column(model) for model in models], np.int64)
        tasks = np.array([self._task_number[self.table.tasks[row]] for row in rows], np.int64)
        return KnownOutcomes(
            rewards=self.table.rewards[np.ix_(rows, columns)],
            task_means=self._task_means[np.ix_(tasks, columns)],
            costs=self._costs(rows, columns),
            prices=self.prices(models),
        )

    def prices(self, models: Sequence[str]) -> NDArray[np.float64] | None:
        """(K,): mean training costs in units of `cost_unit`, what is known of a cost before it is paid."""
        if self.mean_costs is None:
            return None
        return np.asarray(self.mean_costs[[self.column(model) for model in models]] / self.cost_unit, np.float64)

    def worded(self, question: Question) -> Question:
        """With its task's name as the first line, where `task_name` asks for it and the question says one."""
        task = question.attributes.get("task", "")
        text = f"Task: {task}\n\n{question.text}" if self.config.task_name and task else question.text
        return replace(question, text=text)

    def _costs(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.float32] | None:
        """In units of `cost_unit`, a missing one at its model's mean; None where nobody knows costs."""
        if self.table.costs is None or self.mean_costs is None:
            return None
        paid = self.table.costs[np.ix_(rows, columns)]
        whole = np.where(np.isnan(paid), self.mean_costs[columns].astype(np.float32), paid)
        return np.asarray(whole / self.cost_unit, np.float32)

    @cached_property
    def mean_costs(self) -> NDArray[np.float64] | None:
        """(M,): each model's mean cost over the training rows, in the table's money; of one without any there, the
        dearest model's. None where no training row has a cost."""
        if self.table.costs is None:
            return None
        means = column_means(self.table.costs[self.rows("train")])
        return None if np.isnan(means).all() else np.where(np.isnan(means), np.nanmax(means), means)

    @cached_property
    def cost_unit(self) -> float:
        """The mean training cost of the dearest model, in the table's money: what costs are divided by in learning.

        Raises ConfigError where the table has no costs.
        """
        if self.mean_costs is None:
            raise ConfigError("task.table: it has no costs, so cost cannot weigh: set learning.cost_weight: 0")
        return float(self.mean_costs.max()) or 1.0

    @cached_property
    def place(self) -> dict[str, int]:
        """Question id -> row of the table."""
        return {question.id: row for row, question in enumerate(self.table.questions)}

    def column(self, candidate: str) -> int:
        """The table's column of a candidate. Raises ConfigError with the nearest name."""
        if candidate not in self._columns:
            raise ConfigError(
                f"candidates: the table has no model `{candidate}` ({suggest(candidate, self._columns, 'it has')}); "
                "`haps inspect TABLE --candidates` writes all of them"
            )
        return self._columns[candidate]

    @cached_property
    def _columns(self) -> dict[str, int]:
        return {name: c for c, name in enumerate(candidate_names(self.table))}

    @cached_property
    def _task_number(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(sorted(set(self.table.tasks)))}

    @cached_property
    def _task_means(self) -> NDArray[np.float64]:
        """(tasks, models): mean training reward; where a task has no cell of a model, the model's mean over all."""
        train = self.rows("train")
        numbers = np.array([self._task_number[self.table.tasks[row]] for row in train])
        return group_means(self.table.rewards[train], numbers, len(self._task_number))

    def _questions(self, rows: NDArray[np.int64]) -> list[Question]:
        return [self._question(int(row)) for row in rows]

    def _question(self, row: int) -> Question:
        stored, task = self.table.questions[row], self.table.tasks[row]
        return self.worded(Question(stored.id, stored.text, reference="1", attributes={"task": task}))


def column_means(cells: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Means over known cells, (N, M) -> (M,), NaN for a column without any."""
    known = ~np.isnan(cells)
    count = known.sum(axis=0)
    total = np.where(known, cells, 0.0).sum(axis=0, dtype=np.float64)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def group_means(rewards: NDArray[np.floating[Any]], groups: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    """Means per group, rewards (N, M) in groups (N,) -> (`count`, M).

    Where a group has no cell of a column, the column's mean over all; where the column has none, the lowest reward.
    """
    overall = column_means(rewards)
    means = np.tile(np.where(np.isnan(overall), np.nanmin(rewards), overall), (count, 1))
    for group in np.unique(groups):
        own = column_means(rewards[groups == group])
        means[group] = np.where(np.isnan(own), means[group], own)
    return means
