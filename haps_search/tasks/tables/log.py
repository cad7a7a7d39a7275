"""Logs with one outcome per question: what was chosen, what it earned, and with which probability it was chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haps_search.config.tables import ESTIMATE, LogConfig
from haps_search.errors import ConfigError, DataError
from haps_search.tasks.paths import root
from haps_search.tasks.rows import BadRow, Rows, at, objects, open_rows, peeked
from haps_search.tasks.tables import cells
from haps_search.tasks.tables.cells import Units
from haps_search.tasks.tables.reading import raise_for
from haps_search.tasks.tables.recognising import Sample
from haps_search.types import Question

MOST_PROBLEMS = 10
_ACTIONS = ("action", "chosen", "chosen_model", "arm")
_PROPENSITIES = ("propensity", "propensities", "action_prob", "action_probability", "probability")


@dataclass(frozen=True)
class LoggedTable:
    """N rows of a log. `actions` are names as the log has them; `propensities` (N,) is None where nobody noted them."""

    questions: tuple[Question, ...]
    actions: tuple[str, ...]
    rewards: NDArray[np.float64]
    propensities: NDArray[np.float64] | None


def recognise_log(path: Path) -> LogConfig:
    """The description of a log that does not say, by its columns' names.

    Raises:
        ConfigError: no such file, or columns that cannot be told; the message says how to name them.
    """
    first, rows = peeked(open_rows(path))
    sample = Sample([first], list(first))
    action = _first(first, _ACTIONS) or sample.named("model")
    reward, text, propensity = sample.named("score"), sample.named("text"), _first(first, _PROPENSITIES)
    if action is None or reward is None or text is None or propensity is None:
        lacking = [name for name, found in
                   (("the choice", action), ("the reward", reward), ("the text", text), ("the propensity", propensity))
                   if found is None]  # fmt: skip
        raise ConfigError(
            f"{rows.name}: cannot tell {' and '.join(lacking)} from the columns {', '.join(first)}: name them in a "
            "YAML with `file: ...`, `text: COLUMN` and `logged: {action: COLUMN, reward: COLUMN, propensity: COLUMN}`, "
            f"or `propensity: {ESTIMATE}` where nobody noted it"
        )
    logged = {"action": action, "reward": reward, "propensity": propensity}
    return LogConfig.model_validate({"file": str(path), "text": text, "task": sample.named("task"), "logged": logged})


def read_log(config: LogConfig) -> LoggedTable:
    """The rows of a log.

    Raises:
        ConfigError: no such file.
        DataError: malformed rows (up to ten, each with file, line and column), or no rows.
    """
    logged, rows = config.logged, open_rows(Path(config.file))
    named = [config.text, logged.action, logged.reward, *([] if logged.estimated else [logged.propensity])]
    _refuse_absent(rows, [*named, *([config.task] if config.task else [])])
    units = Units(*config.score_range)
    questions: list[Question] = []
    actions: list[str] = []
    numbers: list[tuple[float, float]] = []
    problems: list[str] = []
    for row, value in objects(rows):
        try:
            if isinstance(value, BadRow):
                raise value
            action, reward, propensity = _choice(value, config, units)
            task = cells.named_label(value, config.task) or ""
            question = Question(str(row.number), cells.text(value, config.text), "1", attributes={"task": task})
        except BadRow as problem:
            problems.append(f"{at(rows.name, row.place)}: {problem}")
            if len(problems) == MOST_PROBLEMS:
                break
            continue
        questions.append(question)
        actions.append(action)
        numbers.append((reward, propensity))
    raise_for(problems)
    if not questions:
        raise DataError(f"{rows.name}: got 0 rows, needs one for each logged choice")
    rewards, propensities = np.array(numbers, np.float64).T
    return LoggedTable(tuple(questions), tuple(actions), rewards, None if logged.estimated else propensities)


def _choice(row: Mapping[str, Any], config: LogConfig, units: Units) -> tuple[str, float, float]:
    """Action, reward and propensity (NaN where it is to be estimated). Raises BadRow."""
    logged = config.logged
    action = cells.named_label(row, logged.action)
    if action is None:
        raise BadRow(f"`{logged.action}`: got nothing, needs the name of what was chosen")
    reward = units.score(cells.field(row, logged.reward), logged.reward)
    if reward is None:
        raise BadRow(f"`{logged.reward}`: got nothing, needs what the choice earned")
    if logged.estimated:
        return action, reward, np.nan
    given = cells.field(row, logged.propensity)
    propensity = cells.number(given, logged.propensity)
    if propensity is None or not 0 < propensity <= 1:
        raise cells.refusal(logged.propensity, given, "the probability of the choice, more than 0 and at most 1")
    return action, reward, propensity


def _first(row: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    folded = {name.lower(): name for name in row}
    return next((folded[name] for name in names if name in folded), None)


def _refuse_absent(rows: Rows, names: list[str]) -> None:
    if rows.columns is not None:
        absent = [name for name in names if root(name, rows.columns) is None]
        raise_for([f"{rows.name}: {cells.no_column(name, rows.columns)}" for name in absent])
