"""Which layout a file has, by the names of its columns and its first rows."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from haps_search.config.tables import (
    CollectedLayout,
    Layout,
    LlmrouterLayout,
    LongLayout,
    NestedLayout,
    RouterbenchLayout,
    WideLayout,
)
from haps_search.errors import ConfigError, DataError
from haps_search.tasks.rows import BadRow, at, objects, open_rows
from haps_search.tasks.tables.proposal import proposed

SAMPLE = 200
"""So many rows are looked at."""
NAMES: Mapping[str, tuple[str, ...]] = {
    "id": ("id", "sample_id", "question_id", "prompt_id", "query_id", "qid", "embedding_id"),
    "text": ("text", "query", "question", "prompt", "input", "instruction"),
    "task": ("task", "task_name", "eval_name", "dataset", "benchmark", "category", "subject"),
    "split": ("split", "partition"),
    "model": ("model", "model_name", "llm", "model_id"),
    "score": ("score", "performance", "label", "correct", "is_correct", "reward", "accuracy"),
    "cost": ("cost", "total_cost", "cost_usd", "price"),
}
"""What others call the columns, the likeliest first; case, spaces and hyphens aside."""
_COLLECTED = {"question", "assignment", "sample", "reward"}
_COSTS = ("costs", "cost")
_TELLING = {"scores", *_COSTS, *NAMES["id"], *NAMES["text"]}
"""Columns whose values are looked at too."""
_COST, _SAID = "|total_cost", "|model_response"
_MOST_NAMES = 20


def recognise(path: Path) -> Layout:
    """The layout of a table that does not say.

    Raises:
        ConfigError: none that is known; the message has the columns, and a description that may be right.
        DataError: no row, or a first row that cannot be read.
    """
    sample = _sample(path, telling=True)
    for known in (_collected, _nested, _routerbench, _long):
        layout = known(sample)
        if layout is not None:
            return layout
    raise ConfigError(_unknown(path, _sample(path)), str(path))


@dataclass(frozen=True)
class Sample:
    """The first rows of a table, and the names of its columns."""

    rows: Sequence[Mapping[str, Any]]
    columns: Sequence[str]

    def named(self, role: str) -> str | None:
        """The column that by its name has a role."""
        folded = {_folded(name): name for name in reversed(self.columns)}
        return next((folded[name] for name in NAMES[role] if name in folded), None)

    def values(self, name: str) -> list[Any]:
        return [row[name] for row in self.rows if row.get(name) is not None]


def _folded(name: str) -> str:
    return name.lower().replace(" ", "_").replace("-", "_")


def _sample(path: Path, telling: bool = False) -> Sample:
    """`telling`: of Parquet only columns whose values tell a layout, since others may be long."""
    with closing(open_rows(path, ())) as asked:
        columns = asked.columns
    wanted = [name for name in columns if _folded(name) in _TELLING] if telling and columns is not None else None
    opened, found = open_rows(path, wanted), list[Mapping[str, Any]]()
    with closing(opened):
        for row, value in islice(objects(opened), SAMPLE):
            if not isinstance(value, BadRow):
                found.append(value)
            elif not found:
                raise DataError(f"{at(opened.name, row.place)}: {value}")
    if not found:
        raise DataError(f"{path}: got 0 rows, needs one for each question at least")
    return Sample(found, list(dict.fromkeys(columns or (name for row in found for name in row))))


def _collected(sample: Sample) -> Layout | None:
    return CollectedLayout() if set(sample.columns) >= _COLLECTED else None


def _nested(sample: Sample) -> Layout | None:
    first, text = sample.rows[0], sample.named("text")
    if not isinstance(first.get("scores"), Mapping) or text is None:
        return None
    if {"id", "query"} <= set(first):
        return RouterbenchLayout() if "cost" in first else LlmrouterLayout()
    costs = next((name for name in _COSTS if isinstance(first.get(name), Mapping)), None)
    return NestedLayout(
        id=sample.named("id"), text=text, task=sample.named("task"), split=sample.named("split"), costs=costs
    )


def _routerbench(sample: Sample) -> Layout | None:
    """RouterBench's own table: a column of scores named after each model, and others that say what of it they hold."""
    columns, text = set(sample.columns), sample.named("text")
    models = [m for m in sample.columns if f"{m}{_COST}" in columns or f"{m}{_SAID}" in columns]
    if not models or text is None:
        return None
    return WideLayout(
        id=sample.named("id"),
        text=text,
        listed=_is_list(sample.rows[0].get(text)),
        task=sample.named("task"),
        split=sample.named("split"),
        scores={m: m for m in models},
        costs={m: f"{m}{_COST}" for m in models if f"{m}{_COST}" in columns},
    )


def _is_list(text: Any) -> bool:
    if not isinstance(text, str) or not text.startswith("["):
        return False
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return False
    return isinstance(found, list) and all(isinstance(each, str) for each in found)


def _long(sample: Sample) -> Layout | None:
    text, model, score = (sample.named(role) for role in ("text", "model", "score"))
    if text is None or model is None or score is None:
        return None
    id_ = sample.named("id")
    if id_ is not None and _numbers_rows(sample, id_, text):
        id_ = None
    task, split, cost = (sample.named(role) for role in ("task", "split", "cost"))
    return LongLayout(id=id_, text=text, model=model, score=score, task=task, split=split, cost=cost)


def _numbers_rows(sample: Sample, id_: str, text: str) -> bool:
    """Whether a column tells rows apart and not questions: it never repeats, though texts do."""
    ids, texts = map(str, sample.values(id_)), map(str, sample.values(text))
    return len(set(ids)) == len(sample.rows) > len(set(texts))


def _unknown(path: Path, sample: Sample) -> str:
    columns = sample.columns
    shown = ", ".join(columns[:_MOST_NAMES])
    more = f" and {len(columns) - _MOST_NAMES} more" if len(columns) > _MOST_NAMES else ""
    names = {role: name for role in NAMES if (name := sample.named(role)) is not None}
    return (
        f"layout: cannot be told from the columns {shown}{more}. This description may be right: save it, mend it, and "
        f"give it as `--config FILE`, or put it under `task.table` of a study\n{proposed(path, sample.rows, names)}"
    )
