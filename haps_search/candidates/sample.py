"""Sampling: batched decoding with a key-value cache, every row under its own adapter and seed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor

from haps_search.candidates.activations import Kept, keeping
from haps_search.candidates.decode import stepping
from haps_search.candidates.decoder import Decoder
from haps_search.candidates.policy import Policy, uniforms
from haps_search.candidates.prefill import prefill, split_of
from haps_search.candidates.prompt_cache import may_join, side_by_side
from haps_search.candidates.prompts import Prefilled
from haps_search.types import Adapter, Sampling

SHRINK = 0.75
"""Rows that have ended leave a batch when no larger share of it still decodes: leaving copies what the others hold."""

UNSEEN = {"cuda": 8}
"""So many tokens are drawn before the CPU waits for the device to see whose text has ended; one, where it need not
wait."""


Drew = Callable[[int, int], bool]
"""Told of a row of the batch and the token it drew, an end token too; False: nobody wants the rest of that row."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """The completions of a batch, padded right: `tokens` and `mask` (n, T), end tokens included, and the
    log-probability (n, T) of each token where it was drawn; `known` says per row whether the prompt was known from
    before.
    """

    tokens: Tensor
    mask: Tensor
    log_probabilities: Tensor
    known: tuple[bool, ...]

    def rows(self) -> list[tuple[tuple[int, ...], tuple[float, ...]]]:
        """Per row its token ids and their log-probabilities."""
        lengths = self.mask.sum(-1).tolist()
        drawn = zip(self.tokens.tolist(), self.log_probabilities.tolist(), lengths, strict=True)
        return [(tuple(ids[:length]), tuple(log_p[:length])) for ids, log_p, length in drawn]


@torch.no_grad()
def sample(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    samplings: Sequence[Sampling],
    adapters: Sequence[Adapter | None],
    kept: Kept | None = None,
    together: int | None = None,
    drew: Drew | None = None,
) -> Drawn:
    """Draw one completion per prompt until an end token, the row's own `max_new_tokens`, or where `drew` says so.

    At most `together` rows (default: all) decode at a time; those that wait take the places of those that have ended,
    in their order. A prompt that rows share is read once for those that begin together, above the first patched layer
    once per adapter. With `kept`, hidden states for scoring are collected into it.
    """
    with _watched(decoder, kept):
        return _Texts(decoder, prompts, samplings, adapters, kept, together or len(prompts), drew).drawn()


class _Texts:
    """Texts of n requests: those that decode, and those that wait."""

    def __init__(
        self,
        decoder: Decoder,
        prompts: Sequence[Sequence[int]],
        samplings: Sequence[Sampling],
        adapters: Sequence[Adapter | None],
        kept: Kept | None,
        together: int,
        drew: Drew | None,
    ) -> None:
        self._decoder, self._prompts, self._samplings, self._adapters = decoder, prompts, samplings, adapters
        self._kept, self._together, self._waiting = kept, together, deque(_runs(prompts, together))
        self._known = [False] * len(prompts)
        self._drew = drew
        self._split = split_of(decoder.layers, adapters)
        device = self._device = decoder.model.device
        self._looks = UNSEEN.get(device.type, 1)
        self._limits = torch.tensor([s.max_new_tokens for s in samplings], device=device)
        self._stops = torch.tensor(list(decoder.stop_ids), device=device)
        self._uniform = uniforms(samplings, max(s.max_new_tokens for s in samplings)).to(device)
        # One more place than the longest text has: what rows say that have ended is put there.
        shape = len(prompts), self._uniform.shape[1] + 1
        self._tokens = torch.full(shape, decoder.pad_id, device=device)
        self._chosen = torch.zeros(shape, dtype=torch.float64, device=device)
        self._counts = torch.zeros_like(self._limits)

    def drawn(self) -> Drawn:
        state: Prefilled | None = None
        rows: list[int] = []
        while self._waiting or rows:
            new: list[int] = []
            while self._fits(len(rows) + len(new)):
                new += self._waiting.popleft()
            if new:
                read = self._read(new)
                state = read if state is None else side_by_side(state, read, self._decoder.model.config)
                rows = [*rows, *new]
            assert state is not None
            state, rows = self._decode(state, rows)
        length = int(self._counts.max())
        mask = torch.arange(length, device=self._device) < self._counts.unsqueeze(-1)
        tokens = self._tokens[:, :length].masked_fill(~mask, self._decoder.pad_id)
        return Drawn(tokens, mask, self._chosen[:, :length], tuple(self._known))

    def _fits(self, decoding: int) -> bool:
        """Whether those that wait longest could join so many rows."""
        return bool(self._waiting) and decoding + len(self._waiting[0]) <= self._together

    def _read(self, rows: list[int]) -> Prefilled:
        if self._kept is not None:
            self._kept.reads(rows)
        prompts, adapters = [self._prompts[row] for row in rows], [self._adapters[row] for row in rows]
        read = prefill(self._decoder, prompts, adapters, self._kept, self._split)
        for row, known in zip(rows, read.known, strict=True):
            self._known[row] = known
        return read

    def _decode(self, state: Prefilled, rows: list[int]) -> tuple[Prefilled | None, list[int]]:
        """Until all have ended, or until enough have for others to join: then those that have not, and their rows."""
        index, alive = self._begin(rows)
        policy, logits = self._policy(rows), state.logits
        joins = may_join(state.cache)
        adapters, room = [self._adapters[row] for row in rows], max(self._samplings[row].max_new_tokens for row in rows)
        with stepping(self._decoder, state, adapters, room, self._kept) as decoding:
            for step in count(1):
                token, alive = self._draw(policy, logits, index, alive)
                if step % self._looks == 0 or step == room:  # by then all have ended
                    going_on = int(alive.sum())
                    if not going_on:
                        break
                    if going_on <= SHRINK * len(rows) and decoding.keep(alive):
                        rows, token = _where(rows, alive), token[alive]
                        index, alive = self._begin(rows)
                        policy = self._policy(rows)
                    if joins and going_on <= SHRINK * self._together and self._fits(going_on):
                        return decoding.left(alive, decoding.logits(token)), _where(rows, alive)
                logits = decoding.logits(token)
        return None, []

    def _begin(self, rows: list[int]) -> tuple[Tensor, Tensor]:
        """Rows as a tensor, all of them alive."""
        index = torch.tensor(rows, device=self._device)
        if self._kept is not None:
            self._kept.writes(index)
        return index, torch.ones_like(index, dtype=torch.bool)

    def _policy(self, rows: list[int]) -> Policy:
        return Policy.of([self._samplings[row] for row in rows], self._device)

    def _draw(self, policy: Policy, logits: Tensor, rows: Tensor, alive: Tensor) -> tuple[Tensor, Tensor]:
        """The next token of each row, and who goes on after it."""
        at = self._counts[rows]
        log_p = policy.log_probabilities(policy.tempered(logits))
        uniform = self._uniform[rows, at.clamp_max(self._uniform.shape[1] - 1)]
        token = torch.where(alive, policy.draw(log_p, uniform), self._decoder.pad_id)
        self._tokens[rows, at] = token
        self._chosen[rows, at] = log_p.gather(-1, token.unsqueeze(-1)).squeeze(-1).double()
        self._counts[rows] += alive.long()
        if self._drew is not None:
            alive = alive & _wanted(self._drew, rows, token, alive)
        return token, alive & ~torch.isin(token, self._stops) & (at + 1 < self._limits[rows])


def _runs(prompts: Sequence[Sequence[int]], most: int) -> list[list[int]]:
    """Neighbours that ask the same, at most so many: they begin together, and their prompt is read once."""
    found: list[list[int]] = []
    for row, prompt in enumerate(prompts):
        if found and prompts[found[-1][0]] == prompt and len(found[-1]) < most:
            found[-1].append(row)
        else:
            found.append([row])
    return found


def _where(rows: list[int], alive: Tensor) -> list[int]:
    return [row for row, on in zip(rows, alive.tolist(), strict=True) if on]


def _wanted(drew: Drew, rows: Tensor, token: Tensor, alive: Tensor) -> Tensor:
    told = zip(rows.tolist(), token.tolist(), alive.tolist(), strict=True)
    return torch.tensor([drew(row, drawn) if there else False for row, drawn, there in told], device=rows.device)


def _watched(decoder: Decoder, kept: Kept | None) -> AbstractContextManager[None]:
    if kept is None or decoder.layers is None:
        return nullcontext()
    return keeping(decoder.layers, kept)
