"""Score requests in pieces, and the sum of what the pieces gave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from haps_search.lora.adapter import learnt_tensors
from haps_search.types import Score, ScoreRequest, Scores


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
    """Pieces of at most `rows` completions, without those that are left out.

    The completions of a request stay together where they fit: each further piece brings a gradient of its own.
    """
    found: list[Piece] = []
    for number, request in enumerate(requests):
        asked = request.asked
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
    totals: dict[int, Tensor] = {}
    for part, some in zip(parts, scores, strict=True):
        for places, found in zip(part.places, some.completions, strict=True):
            for (number, i), score in zip(places, found, strict=True):
                completions[number][i] = score
        tensors = learnt_tensors(request.adapter for request in part.requests)
        for tensor, gradient in zip(tensors, some.gradients, strict=True):
            if gradient is not None:
                total = totals.get(id(tensor))
                totals[id(tensor)] = gradient if total is None else total + gradient
    wanted = learnt_tensors(request.adapter for request in requests)
    return Scores(tuple(map(tuple, completions)), tuple(totals.get(id(tensor)) for tensor in wanted))
