"""Score requests in pieces, and the sum of what the pieces gave."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from haps_search.lora.adapter import learnt_tensors
from haps_search.types import Adapter, Score, ScoreRequest, Scores

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Piece:
    """Some completions of some requests: `places[i]` are those of `requests[i]`, named by request and completion of
    the whole."""

    requests: tuple[ScoreRequest, ...]
    places: tuple[tuple[tuple[int, int], ...], ...]

    @property
    def rows(self) -> int:
        return sum(map(len, self.places))


def pieces(requests: Sequence[ScoreRequest], rows: int) -> list[Piece]:
    """Pieces of at most `rows` completions, without those that are neither scored nor stored.

    The completions of a request stay together where they fit: each further piece brings a gradient of its own.
    """
    found: list[Piece] = []
    for number, request in enumerate(requests):
        asked = request.read
        for start in range(0, len(asked), rows):
            some = asked[start : start + rows]
            part = replace(request, completions=tuple(request.completions[i] for i in some))
            places = tuple((number, i) for i in some)
            if found and found[-1].rows + len(some) <= rows:
                last = found.pop()
                found.append(Piece((*last.requests, part), (*last.places, places)))
            else:
                found.append(Piece((part,), (places,)))
    return found


def added(requests: Sequence[ScoreRequest], parts: Sequence[Piece], scores: Sequence[Scores]) -> Scores:
    """The scores of the whole from those of its pieces."""
    completions: list[list[Score | None]] = [[None] * len(request.completions) for request in requests]
    total = GradientSum()
    for part, some in zip(parts, scores, strict=True):
        for places, found in zip(part.places, some.completions, strict=True):
            for (number, i), score in zip(places, found, strict=True):
                completions[number][i] = score
        total.add((request.adapter for request in part.requests), some.gradients)
    return Scores(tuple(map(tuple, completions)), total.of(request.adapter for request in requests))


class GradientSum:
    """Gradients of adapters' learnt tensors, each tensor's own sum, where they are."""

    def __init__(self) -> None:
        self._totals: dict[int, Tensor] = {}

    def add(self, adapters: Iterable[Adapter | None], gradients: Sequence[Tensor | None]) -> None:
        """One gradient for each of `learnt_tensors(adapters)`, or none at all."""
        for tensor, gradient in zip(learnt_tensors(adapters), gradients, strict=bool(gradients)):
            if gradient is not None:
                total = self._totals.get(id(tensor))
                self._totals[id(tensor)] = gradient if total is None else total + gradient

    def of(self, adapters: Iterable[Adapter | None]) -> tuple[Tensor | None, ...]:
        """For each of `learnt_tensors(adapters)`; None where nothing was added."""
        return tuple(self._totals.get(id(tensor)) for tensor in learnt_tensors(adapters))
