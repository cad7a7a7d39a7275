"""Scoring: log-likelihoods of given completions, and gradients with respect to the adapters that they share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from haps_search.candidates.activations import Activations, Ids
from haps_search.candidates.decoder import Decoder
from haps_search.candidates.policy import Policy
from haps_search.candidates.prompts import pad_left, pad_right, positions
from haps_search.candidates.stack import Head
from haps_search.candidates.suffix import Replay
from haps_search.lora.injection import injected
from haps_search.lora.row_adapters import RowAdapters
from haps_search.types import Adapter, Distribution, Score

LOGITS = 2**25
"""So many logits are formed at a time (128 MiB in float32), or those of one token."""


@dataclass(frozen=True, slots=True)
class Row:
    """One completion to be scored. `kl`: its KL to `reference` is wanted, whatever it weighs; `match`: whether greedy
    decoding would say it."""

    prompt: Ids
    tokens: Ids
    distribution: Distribution
    adapter: Adapter | None = None
    weight: float = 0.0
    kl_weight: float = 0.0
    kl: bool = False
    reference: Adapter | None = None
    match: bool = False
    shortlist: int = 0

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.tokens)


@dataclass(frozen=True, slots=True)
class RowScores:
    """Per row its score; for each distinct learnt tensor of the rows' adapters its gradient, none where no row
    weighs."""

    rows: list[Score]
    gradients: list[Tensor]


def score(
    decoder: Decoder,
    rows: Sequence[Row],
    activations: Sequence[Activations] | None = None,
    likely: Sequence[Tensor] | None = None,
) -> RowScores:
    """A second pass over the completions (design section 3a), and one backward for their weighted sum.

    With `activations`, which enter at one layer, only the layers from there on are run; without them the whole model.
    Logits are formed, and their gradient taken, of the tokens that rows have and not of padding, a few at a time, so
    that a large vocabulary does not decide the memory. With `likely` tokens of each row (any shape), its likelihoods
    are over these, its own tokens and those that end a turn.
    """
    model, weights = decoder.model, _Weights.of(rows, decoder.model.device)
    hidden = _final_states(decoder, rows, activations)
    adapters = RowAdapters([row.adapter for row in rows], model.dtype, model.device)
    if weights.any:
        adapters.require_gradients()
    with torch.set_grad_enabled(weights.any), injected(model, adapters):
        states = hidden()
    words = None if likely is None else Words.of(decoder, rows, likely)
    found = _through_head(decoder, rows, weights, states, _reference_states(decoder, rows, hidden), words)
    numbers = zip(rows, found.log_p.tolist(), found.kl.tolist(), found.matches.tolist(), strict=True)
    scores = [
        Score(tuple(log_p[: len(row.tokens)]), kl if row.kl else None, match if row.match else None)
        for row, log_p, kl, match in numbers
    ]
    if found.along is None:
        return RowScores(scores, [])
    return RowScores(scores, [weights.scale * g for g in adapters.gradients(states, found.along)])


@dataclass(frozen=True, slots=True)
class _Weights:
    """Of each row, (n,) divided by the largest of them: `scale`, so that half precision loses no small one."""

    likelihood: Tensor
    kl: Tensor
    scale: float

    @classmethod
    def of(cls, rows: Sequence[Row], device: torch.device) -> _Weights:
        learn = [row.adapter is not None and bool(row.adapter.learnt) for row in rows]
        pairs = [(row.weight, row.kl_weight) if learns else (0.0, 0.0) for row, learns in zip(rows, learn, strict=True)]
        scale = max(abs(w) for pair in pairs for w in pair)
        both = torch.tensor(pairs, dtype=torch.float64, device=device)
        likelihood, kl = (both / (scale or 1.0)).unbind(-1)
        return cls(likelihood, kl, scale)

    @property
    def any(self) -> bool:
        return self.scale > 0.0


@dataclass(frozen=True, slots=True)
class _Found:
    """Log-probability of each token (n, T), the KL and whether each is what greedy decoding says (n,), and d weighted
    sum / d final states (n, T, H)."""

    log_p: Tensor
    kl: Tensor
    matches: Tensor
    along: Tensor | None


class _Live:
    """The N tokens that the rows of a batch have, one row's after the other's: their `ids` (N,), and the row and the
    place in it of each. No number of theirs is waited for."""

    def __init__(self, rows: Sequence[Row], device: torch.device) -> None:
        self.owners = [number for number, row in enumerate(rows) for _ in row.tokens]
        self.shape = len(rows), max(len(row.tokens) for row in rows)
        tokens = [token for row in rows for token in row.tokens]
        places = [place for row in rows for place in range(len(row.tokens))]
        self.ids, self.rows, self._places = torch.tensor([tokens, self.owners, places], device=device)

    def parts(self, vocabulary: int) -> Iterator[slice]:
        """Tokens whose logits are formed together."""
        together = max(1, LOGITS // vocabulary)
        for start in range(0, len(self.owners), together):
            yield slice(start, start + together)

    def of(self, states: Tensor, part: slice) -> Tensor:
        """(p, H) of states (n, T, H)."""
        return states[self.rows[part], self._places[part]]

    def spread(self, found: Sequence[Tensor]) -> Tensor:
        """(n, T, ...) from parts of (N, ...); 0 where no token is."""
        flat = torch.cat(list(found))
        return flat.new_zeros(*self.shape, *flat.shape[1:]).index_put((self.rows, self._places), flat)


def _through_head(
    decoder: Decoder,
    rows: Sequence[Row],
    weights: _Weights,
    states: Tensor,
    reference: Tensor | None,
    words: Words | None = None,
) -> _Found:
    device, head = states.device, decoder.head
    live = _Live(rows, device)
    log_ps: list[Tensor] = []
    along: list[Tensor] = []
    kls, misses = (torch.zeros(len(rows), dtype=torch.float64, device=device) for _ in range(2))
    ends = torch.tensor(decoder.stop_ids, dtype=torch.long, device=device) if any(row.match for row in rows) else None
    ids = live.ids if words is None else words.places(live.ids)
    ends = ends if ends is None or words is None else words.places(ends)
    for part in live.parts(head.width if words is None else len(words.ids)):
        of = live.rows[part]
        given = _Given(Policy([rows[row].distribution for row in live.owners[part]], device), head, ids[part])
        leaf = live.of(states.detach(), part).requires_grad_(weights.any)
        with torch.set_grad_enabled(weights.any):
            tempered = given.policy.tempered(_logits(head, leaf) if words is None else words.logits(head, leaf, of))
            log_p = given.log_p(tempered)
            total = (weights.likelihood[of].to(log_p) * log_p).sum()
            log_ps.append(log_p.detach())
            if ends is not None:
                misses.index_add_(0, of, given.misses(tempered, ends).double())
            if reference is not None:
                kl = given.kl(tempered, live.of(reference, part))
                total = total + (weights.kl[of].to(kl) * kl).sum()
                kls.index_add_(0, of, kl.detach().double())
            if weights.any:
                along += torch.autograd.grad(total, leaf)
    return _Found(live.spread(log_ps), kls, misses == 0, live.spread(along) if along else None)


def _logits(head: Head, hidden: Tensor) -> Tensor:
    """(N, V) of states (N, H), as if they were one text."""
    return head.logits(hidden.unsqueeze(0))[0]


@dataclass(frozen=True, slots=True)
class Words:
    """Fewer words than the vocabulary has: all that a batch needs (v,), ascending, and which of them each row knows
    (n, v), so that rows do not influence one another."""

    ids: Tensor
    known: Tensor

    @classmethod
    def of(cls, decoder: Decoder, rows: Sequence[Row], likely: Sequence[Tensor]) -> Words:
        device = decoder.model.device
        ends = torch.tensor(decoder.stop_ids, dtype=torch.long)
        own = [
            torch.cat([ends, torch.tensor(r.tokens), some.flatten().long().cpu()])
            for r, some in zip(rows, likely, strict=True)
        ]
        ids = torch.cat(own).unique()
        known = torch.stack([torch.isin(ids, each) for each in own])
        return cls(ids.to(device), known.to(device))

    def places(self, tokens: Tensor) -> Tensor:
        """Where these tokens stand among the words."""
        return torch.searchsorted(self.ids, tokens).clamp_max(len(self.ids) - 1)

    def logits(self, head: Head, hidden: Tensor, rows: Tensor) -> Tensor:
        """(N, v) of states (N, H) that belong to these rows (N,)."""
        return head.logits(hidden.unsqueeze(0), self.ids)[0].masked_fill(~self.known[rows], float("-inf"))


@torch.no_grad()
def likeliest(decoder: Decoder, rows: Sequence[Row], activations: Sequence[Activations], count: int) -> list[Tensor]:
    """Of each row (T, count): the tokens that the frozen model finds likeliest at each of its places."""
    states = _final_states(decoder, rows, activations)()
    live, head = _Live(rows, states.device), decoder.head
    parts = [_logits(head, live.of(states, part)).topk(count, -1).indices.int() for part in live.parts(head.width)]
    return list(torch.cat(parts).cpu().split([len(row.tokens) for row in rows]))


@dataclass(frozen=True, slots=True)
class _Given:
    """Some tokens (N,), and what each was drawn from."""

    policy: Policy
    head: Head
    tokens: Tensor

    def log_p(self, tempered: Tensor) -> Tensor:
        """(N,)."""
        drawn = self.tokens.unsqueeze(-1)
        return self.policy.log_probabilities(tempered, keep=drawn).gather(-1, drawn).squeeze(-1)

    def misses(self, tempered: Tensor, ends: Tensor) -> Tensor:
        """(N,): the likeliest token is not the one that was said, and does not end the turn as that one does."""
        likeliest = tempered.detach().argmax(-1)
        both_end = torch.isin(likeliest, ends) & torch.isin(self.tokens, ends)
        return ~((likeliest == self.tokens) | both_end)

    def kl(self, tempered: Tensor, reference: Tensor) -> Tensor:
        """(N,), to the distribution that the `reference` states (N, H) give."""
        with torch.no_grad():
            base = self.policy.tempered(_logits(self.head, reference))
        return (tempered.exp() * (tempered - base)).sum(-1)


@torch.no_grad()
def _reference_states(decoder: Decoder, rows: Sequence[Row], hidden: Callable[[], Tensor]) -> Tensor | None:
    """Final hidden states (n, T, H) under what the KL is taken to, None where nobody wants one."""
    if not any(row.kl for row in rows):
        return None
    references = [row.reference if row.kl else None for row in rows]
    with injected(decoder.model, RowAdapters(references, decoder.model.dtype, decoder.model.device)):
        return hidden()


def _final_states(
    decoder: Decoder, rows: Sequence[Row], activations: Sequence[Activations] | None
) -> Callable[[], Tensor]:
    """What gives the final hidden states (n, T, H) from which each token of the completions is predicted."""
    head = decoder.head  # which is tried out at its first use, and not under adapters
    if activations is None or decoder.layers is None:
        return lambda: _whole(decoder, head, rows)
    attention = decoder.attention if activations[0].attended is not None else None
    return Replay(head, decoder.layers, decoder.model.config, activations, attention).hidden


def _whole(decoder: Decoder, head: Head, rows: Sequence[Row]) -> Tensor:
    device = decoder.model.device
    prompt, read = pad_left([row.prompt for row in rows], decoder.pad_id, device)
    tokens, mask = pad_right([row.tokens for row in rows], decoder.pad_id, device)
    ids, mask = torch.cat([prompt, tokens], -1), torch.cat([read, mask], -1)
    inputs = {"attention_mask": mask, "position_ids": positions(mask), "use_cache": False}
    hidden, _ = head.hidden(input_ids=ids, **inputs)
    return hidden[:, prompt.shape[1] - 1 : -1]
