"""What every table must have, and what happens to a question that some model did not answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from haps_search.config.schema import nearest
from haps_search.errors import DataError
from haps_search.tasks.outcome_table import OutcomeTable

Missing = Literal["error", "keep", "drop"]
Place = Callable[[int, str], str]
"""Where the score of a model on question number q should stand: file, line and column."""
_MOST_SHOWN = 5
_RARE = 0.05


def checked(table: OutcomeTable, missing: Missing, place: Place) -> tuple[OutcomeTable, int]:
    """The table under its policy for missing cells, and how many questions were dropped.

    Raises:
        DataError: fewer than two models, missing cells where none may be, or nothing left.
    """
    names = [", ".join(z) for z in table.assignments]
    if len(names) < 2:
        only = names[0] if names else "none"
        raise DataError(f"{place(0, only)}: got {len(names)} model ({only}), needs two or more to choose between")
    gaps = np.isnan(table.rewards)
    if missing == "error" and gaps.any():
        raise DataError(_gaps(gaps, names, place))
    if missing == "keep" or not gaps.any():
        return table, 0
    kept = np.asarray(~gaps.any(axis=1), np.bool_)
    if not kept.any():
        raise DataError(f"{place(0, names[0])}: got no question that all {len(names)} models answered, so that "
                        "`missing: drop` leaves none; needs `missing: keep` or fewer models")  # fmt: skip
    return _select(table, kept), int((~kept).sum())


def _select(table: OutcomeTable, kept: NDArray[np.bool_]) -> OutcomeTable:
    rows = np.flatnonzero(kept)
    return replace(
        table,
        questions=tuple(table.questions[i] for i in rows),
        tasks=tuple(table.tasks[i] for i in rows),
        splits=tuple(table.splits[i] for i in rows),
        rewards=table.rewards[kept],
        samples=table.samples[kept],
        costs=None if table.costs is None else table.costs[kept],
    )


def _gaps(gaps: NDArray[np.bool_], names: list[str], place: Place) -> str:
    cells = [(int(q), int(c)) for q, c in np.argwhere(gaps)[:_MOST_SHOWN]]
    lines = [f"{place(q, names[c])}: got no score of {names[c]}" for q, c in cells]
    total, questions = int(gaps.sum()), int(gaps.any(axis=1).sum())
    head = (
        f"{total} missing cells in {questions} of {len(gaps)} questions; "
        "needs a score of every model, or `missing: keep` or `drop`"
    )
    return "\n  - ".join([head, *_rare(gaps, names), *lines])


def _rare(gaps: NDArray[np.bool_], names: list[str]) -> list[str]:
    """Models that hardly any row has, with the name they may be a misspelling of."""
    present = 1 - gaps.mean(axis=0)
    often = [name for name, share in zip(names, present, strict=True) if share > _RARE]
    said = []
    for c in np.flatnonzero(present <= _RARE):
        near = nearest(names[c], often)
        hint = f"; did you mean {near}?" if near else ""
        said.append(f"{names[c]} has a score on {int((~gaps[:, c]).sum())} of {len(gaps)} questions{hint}")
    return said[:_MOST_SHOWN]
