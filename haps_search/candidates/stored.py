"""Reading references: what no adapter reaches, from the store where it is there, else computed once and stored.

What was stored for a placement further down serves those above it: a few layers are run instead of all below.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from haps_search.candidates.activation_store import ActivationStore, key_of
from haps_search.candidates.activations import Activations, Kept, keeping
from haps_search.candidates.batches import Batches
from haps_search.candidates.decoder import Decoder
from haps_search.candidates.exact import exact
from haps_search.candidates.prefill import recomputed
from haps_search.candidates.score import Row, likeliest
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


class LikelyWords:
    """What the frozen model finds likeliest at each place of a reference, looked up once; of `MOST` references."""

    MOST = 100_000

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, int], Tensor] = OrderedDict()

    def of(self, decoder: Decoder, rows: Sequence[Row], activations: Sequence[Activations], count: int) -> list[Tensor]:
        """Of each row (T, count)."""
        keys = [(key_of(row.prompt, row.tokens), count) for row in rows]
        new = [i for i, key in enumerate(keys) if key not in self._known]
        if new:
            found = likeliest(decoder, [rows[i] for i in new], [activations[i] for i in new], count)
            self._known |= {keys[i]: words for i, words in zip(new, found, strict=True)}
        likely = [self._known[key] for key in keys]
        while len(self._known) > self.MOST:
            self._known.popitem(last=False)
        return likely


def _of_kind(
    decoder: Decoder, store: ActivationStore, wanted: Wanted, rows: Mapping[str, Row], batches: Batches
) -> dict[str, Activations]:
    found = store.get(wanted.name, rows)
    missing = [key for key in rows if key not in found]
    for first, lower in _lower(store, wanted, missing).items():
        keys = list(lower) if first else [key for key in missing if key not in found]
        for some in _made(decoder, wanted, {key: rows[key] for key in keys}, lower, batches):
            store.put(wanted.name, some)
            found |= some
    return found


def _lower(store: ActivationStore, wanted: Wanted, missing: Sequence[str]) -> dict[int, dict[str, Activations]]:
    """By layer, the highest first, what is stored that the wanted can be made of; 0 stands for the rest."""
    found: dict[int, dict[str, Activations]] = {}
    left = list(missing)
    highest = wanted.first if wanted.kind == "attended" else wanted.first - 1
    for first in range(highest, 0, -1) if wanted.kind != "past" else ():
        if left and (some := store.get(f"{first}-states", left)):
            found[first], left = some, [key for key in left if key not in some]
    return {**found, 0: {}} if left else found


def _made(
    decoder: Decoder,
    wanted: Wanted,
    rows: Mapping[str, Row],
    lower: Mapping[str, Activations],
    batches: Batches,
) -> Iterator[dict[str, Activations]]:
    """A batch at a time, of `lower` activations of all rows or from token ids alone."""
    keys, device = list(rows), decoder.model.device

    def work(picked: list[int]) -> dict[str, Activations]:
        some = [keys[i] for i in picked]
        with exact(decoder.model.dtype), torch.no_grad():
            if lower:
                entered = _raised(decoder, wanted, [lower[key].to(device) for key in some])
            else:
                entered = _computed(decoder, wanted, [rows[key] for key in some])
        return dict(zip(some, (each.to(torch.device("cpu")) for each in entered), strict=True))

    yield from batches.run([rows[key].length for key in keys], work)


def _computed(decoder: Decoder, wanted: Wanted, rows: Sequence[Row]) -> list[Activations]:
    assert decoder.layers is not None
    prompts, completions = [row.prompt for row in rows], [row.tokens for row in rows]
    past = wanted.kind == "past"
    entered = recomputed(decoder, decoder.layers, wanted.first, prompts, completions, past)
    return _raised(decoder, wanted, entered) if wanted.kind == "attended" else entered


def _raised(decoder: Decoder, wanted: Wanted, lower: Sequence[Activations]) -> list[Activations]:
    """States that enter the wanted layer, or what is attended to there, from states that enter one below it."""
    assert decoder.layers is not None
    replay, kept = Replay(decoder.head, decoder.layers, decoder.model.config, lower), Kept(wanted.first)
    attention = decoder.attention if wanted.kind == "attended" else None
    with keeping(decoder.layers, kept):
        attended = [None] * len(lower) if attention is None else replay.attended(attention)
        if attention is None:
            replay.hidden()
    assert kept.prompt is not None
    width = max(len(row.prompt) for row in lower)
    found = []
    for row, states, entering in zip(lower, kept.prompt, attended, strict=True):
        prompt, text = states[width - len(row.prompt) : width], states[width : width + len(row.text)]
        if entering is not None:
            prompt, entering = prompt[-1:], entering[: len(text) + 1].clone()
        found.append(Activations(wanted.first, prompt.clone(), text.clone(), attended=entering))
    return found
