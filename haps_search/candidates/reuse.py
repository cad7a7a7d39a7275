"""Activations from sampling to scoring: collected, kept, found again, or computed anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from haps_search.candidates.activations import ActivationCache, Activations, Ids, Kept
from haps_search.candidates.decoder import Decoder
from haps_search.candidates.prefill import recomputed
from haps_search.candidates.score import Row
from haps_search.candidates.suffix import first_patched, patched_modules, tail_suffices
from haps_search.types import Adapter


def collecting(cache: ActivationCache, adapters: Sequence[Adapter | None]) -> Kept | None:
    """What is to watch a batch whose rows have these `adapters`, None for those that nobody will score.

    A batch may hold adapters of several trials. What enters the lowest patched layer serves them all, but for those
    that patch the very first: nothing lies below it.
    """
    firsts = [first_patched([adapter]) for adapter in adapters]
    lowest = min((first for first in firsts if first), default=None)
    return Kept(lowest) if lowest is not None and cache.budget else None


def keep(
    decoder: Decoder,
    cache: ActivationCache,
    kept: Kept,
    adapters: Sequence[Adapter | None],
    prompts: Sequence[Ids],
    completions: Sequence[Ids],
) -> None:
    """Put what a batch left behind into the cache, for the rows that `collecting` was told of."""
    assert decoder.layers is not None
    rows = [i for i, adapter in enumerate(adapters) if (first_patched([adapter]) or 0) >= kept.first]
    some = [prompts[i] for i in rows], [completions[i] for i in rows]
    tails = [tail_suffices(patched_modules(adapters[i]), len(decoder.layers)) for i in rows]
    for prompt, completion, activations in zip(*some, kept.activations(rows, *some, tails), strict=True):
        cache.put(prompt, completion, activations)


@dataclass(frozen=True, slots=True)
class Group:
    """Rows, by their places, that are scored alike: from layer `first` on, 0 for the whole model. `tail`: without the
    positions of their prompts; `attended`: without attention; `shortlist`: over fewer words, which so many likely ones
    of each place are among. `kept` are their activations, None where they are to be
    computed."""

    rows: list[int]
    first: int
    tail: bool
    attended: bool = False
    shortlist: int = 0
    kept: list[Activations] | None = None

    def lengths(self, rows: Sequence[Row]) -> list[int]:
        """Tokens that each row brings into a batch."""
        return [len(rows[i].tokens) if self.attended else rows[i].length for i in self.rows]

    def activations(self, decoder: Decoder, rows: Sequence[Row], picked: Sequence[int]) -> list[Activations] | None:
        """Of the `picked` places in this group; None for the whole model."""
        if self.kept is not None:
            return [self.kept[i] for i in picked]
        if decoder.layers is None or self.first == 0:
            return None
        some = [rows[self.rows[i]] for i in picked]
        prompts, completions = [row.prompt for row in some], [row.tokens for row in some]
        return recomputed(decoder, decoder.layers, self.first, prompts, completions, self.tail)


def groups(
    decoder: Decoder, cache: ActivationCache, rows: Sequence[Row], stored: Sequence[Activations | None]
) -> list[Group]:
    """All rows, those together that may share a batch. `stored` are activations that are at hand."""
    found: dict[tuple[int, bool, bool, int, bool], Group] = {}
    for place, (row, kept) in enumerate(zip(rows, stored, strict=True)):
        first, tail = (0, False) if decoder.layers is None else _enters(row, len(decoder.layers))
        if kept is None and first:
            kept = cache.get(row.prompt, row.tokens, first, tail)
        if kept is not None:
            first, tail = kept.first, kept.past is not None
        attended = kept is not None and kept.attended is not None
        fewer = row.shortlist > 0 and kept is not None and not row.kl and decoder.head.narrows
        shortlist = row.shortlist if fewer else 0
        new = Group([], first, tail, attended, shortlist, None if kept is None else [])
        group = found.setdefault((first, tail, attended, shortlist, kept is None), new)
        group.rows.append(place)
        if kept is not None and group.kept is not None:
            group.kept.append(kept)
    return list(found.values())


def _enters(row: Row, layers: int) -> tuple[int, bool]:
    """The lowest of so many layers that no kept state can stand for, and whether the positions of the prompt can be
    left out there."""
    adapters = (row.adapter, row.reference if row.kl else None)
    first = first_patched(adapters)
    return (layers - 1 if first is None else first), tail_suffices(patched_modules(*adapters), layers)
