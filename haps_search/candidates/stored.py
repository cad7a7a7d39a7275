"""Reading references: what no adapter reaches, from the store where it is there, else computed once and stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from haps_search.candidates.activation_store import ActivationStore, key_of
from haps_search.candidates.activations import Activations
from haps_search.candidates.batches import Batches
from haps_search.candidates.decoder import Decoder
from haps_search.candidates.exact import exact
from haps_search.candidates.prefill import recomputed
from haps_search.candidates.score import Row
from haps_search.candidates.suffix import Replay, first_patched, patched_modules, tail_suffices


@dataclass(frozen=True, slots=True)
class Wanted:
    """What adapters need of the frozen model: what enters layer `first`; of the last layer only what enters its
    attention's output (`attended`), or its keys and values (`past`), where these are constant."""

    first: int
    kind: str

    @property
    def name(self) -> str:
        return f"{self.first}-{self.kind}"


def wanted_of(decoder: Decoder, row: Row) -> Wanted | None:
    """None where the whole model is patched, or its layers are not recognised."""
    if decoder.layers is None:
        return None
    targets = patched_modules(row.adapter, row.reference if row.kl else None)
    first, last = first_patched((row.adapter, row.reference if row.kl else None)), len(decoder.layers) - 1
    first = last if first is None else first
    if first == 0:
        return None
    if decoder.attention is not None and decoder.attention.constant_under(targets, last):
        return Wanted(last, "attended")
    return Wanted(first, "past" if tail_suffices(targets, last + 1) else "states")


def read(decoder: Decoder, store: ActivationStore, rows: Sequence[Row], batches: Batches) -> list[Activations | None]:
    """Of each row its activations, where the model stands; None where nothing can be stored for its adapters."""
    by_kind: dict[Wanted, dict[str, Row]] = {}
    places: list[tuple[Wanted, str] | None] = []
    for row in rows:
        wanted, key = wanted_of(decoder, row), key_of(row.prompt, row.tokens)
        places.append(None if wanted is None else (wanted, key))
        if wanted is not None:  # several trials may ask for the same at once
            by_kind.setdefault(wanted, {})[key] = row
    device = decoder.model.device
    found = {
        (wanted, key): entered.to(device)
        for wanted, asked in by_kind.items()
        for key, entered in _of_kind(decoder, store, wanted, asked, batches).items()
    }
    return [None if place is None else found[place] for place in places]


def _of_kind(
    decoder: Decoder, store: ActivationStore, wanted: Wanted, rows: Mapping[str, Row], batches: Batches
) -> dict[str, Activations]:
    found = store.get(wanted.name, rows)
    missing = [key for key in rows if key not in found]

    def work(picked: list[int]) -> dict[str, Activations]:
        keys = [missing[i] for i in picked]
        with exact(decoder.model.dtype):
            entered = _computed(decoder, wanted, [rows[key] for key in keys])
        return dict(zip(keys, (each.to(torch.device("cpu")) for each in entered), strict=True))

    for some in batches.run([rows[key].length for key in missing], work):
        store.put(wanted.name, some)
        found |= some
    return found


def _computed(decoder: Decoder, wanted: Wanted, rows: Sequence[Row]) -> list[Activations]:
    assert decoder.layers is not None
    prompts, completions = [row.prompt for row in rows], [row.tokens for row in rows]
    past = wanted.kind == "past"
    entered = recomputed(decoder, decoder.layers, wanted.first, prompts, completions, past)
    if wanted.kind != "attended" or decoder.attention is None:
        return entered
    with torch.no_grad():
        replay = Replay(decoder.head, decoder.layers, decoder.model.config, entered)
        attended = replay.attended(decoder.attention)
    return [
        Activations(e.first, e.prompt[-1:].clone(), e.text, attended=a[: len(e.text) + 1].clone())
        for e, a in zip(entered, attended, strict=True)
    ]
