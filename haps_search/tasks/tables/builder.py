"""Rows of any layout gathered into the arrays of an outcome table."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from haps_search.config.complaints import show
from haps_search.config.schema import nearest
from haps_search.errors import DataError
from haps_search.tasks.outcomes import OutcomeTable
from haps_search.tasks.rows import BadRow
from haps_search.tasks.tables.cells import Cell, Entry
from haps_search.tasks.tables.splits import Digests, TextDigests, exact
from haps_search.types import Question

Repeats = Literal["error", "first", "mean"]
Where = Callable[[int], str]


class TableBuilder:
    """Takes entries one at a time; per cell it keeps twelve bytes, as much as the table that `build` makes.

    `whole_rows` says that an id stands in one row only, `repeats` what happens where it does not. Without `texts`
    the questions' texts are not kept, and only what is compared of them is.
    """

    def __init__(self, repeats: Repeats, whole_rows: bool, texts: bool = True) -> None:
        self._repeats, self._whole_rows, self._keep = repeats, whole_rows, texts
        self._places: dict[str, int] = {}
        self._questions: list[Question] = []
        self._tasks: list[str] = []
        self._splits: list[str | None] = []
        self._models: dict[str, _Column] = {}
        self._texts = TextDigests()
        self._parts, self._numbers = array("H"), array("q")
        self._wheres: list[Where] = []
        self.repeated = 0
        """Rows whose id (in long tables: whose id and model) came again."""

    def begin(self, where: Where) -> None:
        """The rows of another file follow; `where` says where a number stands in it."""
        self._wheres.append(where)

    def add(self, entry: Entry, number: int) -> None:
        """Take one entry of row `number`. Raises BadRow where it repeats or contradicts an earlier one."""
        place = self._places.get(entry.id)
        if place is None:
            place = self._append(entry, number)
            again = False
        else:
            self._refuse_contradiction(entry, place)
            again = self._whole_rows or any(self._measured(cell.model, place) for cell in entry.cells)
        if again:
            self.repeated += 1
            self._refuse_repeated(entry, place)
            if self._repeats == "first":
                return
        for cell in entry.cells:
            self._models.setdefault(cell.model, _Column()).add(place, cell)

    def part(self, place: int) -> int:
        """The number of the file that a question came in first."""
        return self._parts[place]

    def where(self, place: int) -> str:
        """Where the row stands that a question came in first."""
        return self._wheres[self._parts[place]](self._numbers[place])

    def digests(self) -> Digests:
        """What is compared of the texts, where they are not kept."""
        return self._texts.done()

    def build(self) -> OutcomeTable:
        """The table of what came; the builder is empty afterwards."""
        models, n = list(self._models), len(self._questions)
        rewards = np.full((n, len(models)), np.nan, np.float32)
        samples = np.zeros((n, len(models)), np.int32)
        costs = np.full((n, len(models)), np.nan, np.float32)
        for c, model in enumerate(models):
            column = self._models.pop(model)
            rewards[:, c], samples[:, c], costs[:, c] = column.means(n)
        return OutcomeTable(
            questions=tuple(self._questions),
            tasks=tuple(self._tasks),
            splits=tuple(self._splits),
            assignments=tuple((model,) for model in models),
            rewards=rewards,
            samples=samples,
            costs=None if np.isnan(costs).all() else costs,
        )

    def _append(self, entry: Entry, number: int) -> int:
        place = self._places[entry.id] = len(self._questions)
        self._questions.append(Question(entry.id, entry.text if self._keep else "", entry.reference))
        if not self._keep:
            self._texts.add(entry.text)
        self._tasks.append(entry.task)
        self._splits.append(entry.split)
        self._parts.append(len(self._wheres) - 1)
        self._numbers.append(number)
        return place

    def _measured(self, model: str, place: int) -> bool:
        column = self._models.get(model)
        return column is not None and column.measured(place)

    def _refuse_repeated(self, entry: Entry, place: int) -> None:
        if self._repeats == "error":
            what = f"got {show(entry.id)}" if self._whole_rows else f"got {show(entry.id)} with {entry.cells[0].model}"
            raise BadRow(
                f"id: {what} again, first on {self._first(place)}; needs different ids, or `duplicate_ids: "
                "first` or `mean`",
                "an id that came before",
            )

    def _refuse_contradiction(self, entry: Entry, place: int) -> None:
        if self._repeats == "first" and self._whole_rows:
            return
        pairs = (
            ("text", *self._compared(entry.text, place)),
            ("task", entry.task, self._tasks[place]),
            ("split", entry.split, self._splits[place]),
        )
        for name, got, first in pairs:
            if got != first:
                before = f"{show(first)} on {self._first(place)}"
                raise BadRow(
                    f"{name}: got {show(got)} for id {show(entry.id)}, which had {before}; needs the same",
                    f"an id that came before with another {name}",
                )

    def _compared(self, text: str, place: int) -> tuple[object, object]:
        return (text, self._questions[place].text) if self._keep else (exact(text), self._texts.exact[place])

    def _first(self, place: int) -> str:
        """Where a question came first; of the file that is being read, its line or row alone."""
        whole = self.where(place)
        return whole if self._parts[place] < len(self._wheres) - 1 else whole.rpartition(":")[2].strip()


class _Column:
    """Sums, counts and costs of one model, as long as the last question it came with."""

    def __init__(self) -> None:
        self._sums, self._counts, self._costs = array("f"), array("i"), array("f")

    def measured(self, place: int) -> bool:
        return place < len(self._counts) and self._counts[place] > 0

    def add(self, place: int, cell: Cell) -> None:
        if cell.score is None:
            return
        gap = place + 1 - len(self._counts)
        if gap > 0:
            self._sums.extend([0.0] * gap)
            self._counts.extend([0] * gap)
            self._costs.extend([0.0] * gap)
        self._sums[place] += cell.score
        self._counts[place] += 1
        self._costs[place] += np.nan if cell.cost is None else cell.cost

    def means(self, n: int) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.float32]]:
        sums, costs = np.zeros(n, np.float32), np.zeros(n, np.float32)
        counts = np.zeros(n, np.int32)
        sums[: len(self._sums)] = self._sums
        costs[: len(self._costs)] = self._costs
        counts[: len(self._counts)] = self._counts
        divisor = np.where(counts > 0, counts, np.nan).astype(np.float32)
        return sums / divisor, counts, costs / divisor


Missing = Literal["error", "keep", "drop"]
Place = Callable[[int, str], str]
"""Where the score of a model on question number q should stand: file, line and column."""
_MOST_SHOWN = 5
_RARE = 0.05


def checked(table: OutcomeTable, missing: Missing, place: Place) -> tuple[OutcomeTable, NDArray[np.bool_]]:
    """The table under its policy for missing cells, and which of its N questions are kept, (N,).

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
        return table, np.ones(len(gaps), np.bool_)
    kept = np.asarray(~gaps.any(axis=1), np.bool_)
    if not kept.any():
        raise DataError(f"{place(0, names[0])}: got no question that all {len(names)} models answered, so that "
                        "`missing: drop` leaves none; needs `missing: keep` or fewer models")  # fmt: skip
    return _select(table, kept), kept


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
