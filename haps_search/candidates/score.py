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
"""So many logits are formed at a time (128 MiB in float32), or those of one position of every row."""


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
    Logits are formed, and their gradient taken, a few positions at a time, so that a large vocabulary does not decide
    the memory. With `likely` tokens of each row (any shape), its likelihoods are over these, its own tokens and those
    that end a turn.
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


def _through_head(
    decoder: Decoder,
    rows: Sequence[Row],
    weights: _Weights,
    states: Tensor,
    reference: Tensor | None,
    words: Words | None = None,
) -> _Found:
    device, head = states.device, decoder.head
    policy = Policy([row.distribution for row in rows], device)
    tokens, mask = pad_right([row.tokens for row in rows], decoder.pad_id, device)
    log_ps: list[Tensor] = []
    along: list[Tensor] = []
    kls = torch.zeros(len(rows), dtype=torch.float64, device=device)
    matches = torch.ones(len(rows), dtype=torch.bool, device=device)
    ends = torch.tensor(decoder.stop_ids, dtype=torch.long, device=device) if any(row.match for row in rows) else None
    if words is not None:
        tokens = words.places(tokens)
        ends = None if ends is None else words.places(ends)
    for part in _parts(tokens.shape, head.width if words is None else len(words.ids)):
        given = _Given(policy, head, tokens[:, part], mask[:, part])
        # Of a slice that is not contiguous torch makes a product per row, each of which reads the whole head.
        leaf = states[:, part].detach().contiguous().requires_grad_(weights.any)
        with torch.set_grad_enabled(weights.any):
            tempered = policy.tempered(head.logits(leaf) if words is None else words.logits(head, leaf))
            log_p = given.log_p(tempered)
            total = (weights.likelihood.to(log_p) * log_p.sum(-1)).sum()
            log_ps.append(log_p.detach())
            if ends is not None:
                matches &= given.match(tempered, ends)
            if reference is not None:
                kl = given.kl(tempered, reference[:, part].contiguous())
                total = total + (weights.kl.to(kl) * kl).sum()
                kls += kl.detach()
            if weights.any:
                along += torch.autograd.grad(total, leaf)
    return _Found(torch.cat(log_ps, 1), kls, matches, torch.cat(along, 1) if along else None)


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
        """Where these tokens, or paddings, stand among the words."""
        return torch.searchsorted(self.ids, tokens).clamp_max(len(self.ids) - 1)

    def logits(self, head: Head, hidden: Tensor) -> Tensor:
        return head.logits(hidden, self.ids).masked_fill(~self.known.unsqueeze(1), float("-inf"))


@torch.no_grad()
def likeliest(decoder: Decoder, rows: Sequence[Row], activations: Sequence[Activations], count: int) -> list[Tensor]:
    """Of each row (T, count): the tokens that the frozen model finds likeliest at each of its places."""
    states = _final_states(decoder, rows, activations)()
    parts = [
        decoder.head.logits(states[:, part].contiguous()).topk(count, -1).indices
        for part in _parts(states.shape[:2], decoder.head.width)
    ]
    return [each[: len(row.tokens)].int().cpu() for row, each in zip(rows, torch.cat(parts, 1), strict=True)]


@dataclass(frozen=True, slots=True)
class _Given:
    """What was said at some positions, (n, t) each."""

    policy: Policy
    head: Head
    tokens: Tensor
    mask: Tensor

    def log_p(self, tempered: Tensor) -> Tensor:
        """(n, t), 0 beyond a row's end."""
        drawn = self.tokens.unsqueeze(-1)
        log_p = self.policy.log_probabilities(tempered, keep=drawn).gather(-1, drawn).squeeze(-1)
        return torch.where(self.mask, log_p, 0.0)

    def match(self, tempered: Tensor, ends: Tensor) -> Tensor:
        """(n,): the likeliest token is the one that was said, or ends the turn as that one does."""
        likeliest = tempered.detach().argmax(-1)
        both_end = torch.isin(likeliest, ends) & torch.isin(self.tokens, ends)
        return ((likeliest == self.tokens) | both_end | ~self.mask).all(-1)

    def kl(self, tempered: Tensor, reference: Tensor) -> Tensor:
        """(n,), to the distribution that the `reference` states (n, t, H) give."""
        with torch.no_grad():
            base = self.policy.tempered(self.head.logits(reference))
        per_token = (tempered.exp() * (tempered - base)).sum(-1)
        return torch.where(self.mask, per_token, 0.0).sum(-1)


def _parts(shape: Sequence[int], vocabulary: int) -> Iterator[slice]:
    """Positions of a text (n, T) whose logits are formed together."""
    rows, steps = shape
    together = max(1, LOGITS // (rows * vocabulary))
    for start in range(0, steps, together):
        yield slice(start, start + together)


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
