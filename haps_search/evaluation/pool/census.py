"""What a table holds and what is wrong with it: counts, gaps, duplicates, leaks."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from haps_search.seeds import derive_seed
from haps_search.tasks.outcomes import OutcomeTable
from haps_search.tasks.split_key import split_key


@dataclass(frozen=True, slots=True)
class Repeats:
    """Texts that stand on several questions once case, punctuation, articles and spaces are dropped.

    `same_letters` of the texts are equal to the letter too. `example` names questions of one text, by id.
    """

    texts: int
    questions: int
    same_letters: int
    example: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Leaks:
    """Texts (normalised) that stand in more than one split, and the number of them per set of splits."""

    texts: int
    questions: int
    between: Mapping[str, int]
    example: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Census:
    """Counts. `tasks` and `splits` count questions by name, largest first; what names none is left out."""

    questions: int
    models: int
    tasks: Mapping[str, int]
    splits: Mapping[str, int]
    missing_cells: int
    incomplete: int
    unanswered: int
    most_samples: int
    duplicates: Repeats
    leaks: Leaks


def census(table: OutcomeTable) -> Census:
    """Count a table. `incomplete` questions lack some score, `unanswered` ones all."""
    gaps = np.isnan(table.rewards)
    repeated = _repeated([q.text for q in table.questions])
    return Census(
        questions=len(table.questions),
        models=len(table.assignments),
        tasks=dict(Counter(t for t in table.tasks if t).most_common()),
        splits=dict(Counter(s for s in table.splits if s is not None).most_common()),
        missing_cells=int(gaps.sum()),
        incomplete=int(gaps.any(axis=1).sum()),
        unanswered=int(gaps.all(axis=1).sum()),
        most_samples=int(table.samples.max(initial=0)),
        duplicates=_duplicates(table, repeated),
        leaks=_leaks(table, repeated),
    )


def _repeated(texts: Sequence[str]) -> list[list[int]]:
    """Places of questions with the same normalised text; by a hash of it, since texts may be long."""
    places: dict[int, list[int]] = defaultdict(list)
    for place, text in enumerate(texts):
        places[derive_seed(split_key(text))].append(place)
    return [group for group in places.values() if len(group) > 1]


def _duplicates(table: OutcomeTable, repeated: Sequence[Sequence[int]]) -> Repeats:
    return Repeats(
        texts=len(repeated),
        questions=sum(map(len, repeated)),
        same_letters=sum(len({table.questions[i].text for i in group}) == 1 for group in repeated),
        example=_ids(table, repeated[0]) if repeated else (),
    )


def _leaks(table: OutcomeTable, repeated: Sequence[Sequence[int]]) -> Leaks:
    found = [(group, splits) for group in repeated if len(splits := _splits(table, group)) > 1]
    return Leaks(
        texts=len(found),
        questions=sum(len(group) for group, _ in found),
        between=dict(Counter(" and ".join(splits) for _, splits in found).most_common()),
        example=_ids(table, found[0][0]) if found else (),
    )


def _splits(table: OutcomeTable, group: Sequence[int]) -> list[str]:
    return sorted({name for i in group if (name := table.splits[i]) is not None})


def _ids(table: OutcomeTable, group: Sequence[int]) -> tuple[str, ...]:
    return tuple(table.questions[i].id for i in group[:3])
