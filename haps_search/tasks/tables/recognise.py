"""Which layout a file has, by the names in its first row."""

from __future__ import annotations

from pathlib import Path

from haps_search.config.tables import CollectedLayout, Layout, LlmrouterLayout, LongLayout, RouterbenchLayout
from haps_search.errors import ConfigError, DataError
from haps_search.tasks.tables.rows import BadRow, open_rows, place

_NESTED = {"query", "scores"}
_LONG = {"id", "text", "model", "score"}
_COLLECTED = {"question", "assignment", "sample", "reward"}
_MOST_NAMES = 20


def recognise(path: Path) -> Layout:
    """The layout of a table that does not say.

    Raises:
        ConfigError: none that is known; the message lists the columns and the way out.
        DataError: no row, or a first row that cannot be read.
    """
    rows = open_rows(path)
    number, first = next(rows.stream, (0, None))
    if first is None:
        raise DataError(f"{path}: got 0 rows, needs one for each question at least")
    if isinstance(first, BadRow):
        raise DataError(f"{place(path, number)}: {first}")
    columns = list(first)
    if set(columns) >= _COLLECTED:
        return CollectedLayout()
    if set(columns) >= _NESTED:
        return RouterbenchLayout() if "cost" in columns else LlmrouterLayout()
    if set(columns) >= _LONG:
        task, split, cost = (name if name in columns else None for name in ("task", "split", "cost"))
        return LongLayout(task=task, split=split, cost=cost)
    raise ConfigError(_unknown(columns), str(path))


def _unknown(columns: list[str]) -> str:
    shown = ", ".join(columns[:_MOST_NAMES])
    more = f" and {len(columns) - _MOST_NAMES} more" if len(columns) > _MOST_NAMES else ""
    return (
        f"layout: cannot be told from the columns {shown}{more}; say which ones hold the question and the scores, "
        "in a YAML with `layout: {type: wide, id: ..., text: ..., scores: {MODEL: COLUMN, ...}}` "
        "or `{type: long, id: ..., text: ..., model: ..., score: ...}`"
    )
