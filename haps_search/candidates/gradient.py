"""Gradients of what was said with respect to the adapters it was said under."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from haps_search.candidates.decoder import Decoder, positions
from haps_search.candidates.generate import Generated
from haps_search.candidates.policy import Policy
from haps_search.candidates.stack import Head
from haps_search.candidates.suffix import Kept, Replay
from haps_search.lora.injection import RowAdapters, injected
from haps_search.types import Adapter, Sampling

LOGITS = 2**25
"""So many logits are formed at a time (128 MiB in float32), or those of one position of every row."""


@dataclass(frozen=True, slots=True)
class RowGradients:
    """Per row: d log-likelihood / d adapter (P,), the KL to the frozen model (nats), and its gradient (P,)."""

    log_likelihood: list[Tensor | None]
    kl: list[float]
    kl_gradient: list[Tensor | None]


def row_gradients(
    decoder: Decoder,
    generated: Generated,
    samplings: Sequence[Sampling],
    adapters: Sequence[Adapter | None],
    kl: bool,
    kept: Kept | None = None,
) -> RowGradients:
    """A second pass over the text (design section 3a): rows are separable, so one backward serves all.

    With `kept` only the patched layers are replayed, without it the whole model. Logits are formed, and their
    gradient taken, a few positions at a time, so that a large vocabulary does not decide the memory.

    The KL is the reverse one, sum over t of KL(p_adapted(. | y_<t) || p_frozen(. | y_<t)), of the whole vocabulary at
    each sampled prefix, at the row's temperature and before truncation: over samples its mean is the KL of the texts'
    distributions. Its gradient is the sum of each term's own, prefixes taken as given: the part that comes from how
    the adapter changes the prefixes, E[sum over t of d log p(y_t | y_<t) * (KL terms after t)], is left out.
    """
    hidden = _final_states(decoder, generated, adapters, kept)
    policy = Policy(samplings, decoder.model.device)
    rows = RowAdapters(adapters, decoder.model.dtype, decoder.model.device)
    rows.require_gradients()
    with torch.enable_grad(), injected(decoder.model, rows):
        learning = hidden()
    with torch.no_grad():
        frozen = hidden() if kl else None
    along, kl_along, kls = _through_head(policy, decoder.head, generated, learning, frozen)
    found = rows.gradients(learning, along, retain_graph=kl)
    if kl_along is None:
        return RowGradients(found, [0.0] * rows.rows, [None] * rows.rows)
    return RowGradients(found, kls.tolist(), rows.gradients(learning, kl_along))


def _through_head(
    policy: Policy, head: Head, generated: Generated, states: Tensor, frozen: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor]:
    """d log-likelihood / d states (n, T, H), the same of the KL to the `frozen` states', and that KL (n,)."""
    along: list[Tensor] = []
    kl_along: list[Tensor] = []
    kls = torch.zeros(len(states), dtype=torch.float64, device=states.device)
    for part in _parts(generated.tokens.shape, head.width):
        said = _Said(policy, head, generated.tokens[:, part], generated.token_mask[:, part])
        # Of a slice that is not contiguous torch makes a product per row, each of which reads the whole head.
        leaf = states[:, part].detach().contiguous().requires_grad_()
        with torch.enable_grad():
            tempered = policy.tempered(head.logits(leaf))
            along += torch.autograd.grad(said.log_likelihood(tempered), leaf, retain_graph=frozen is not None)
            if frozen is not None:
                per_row = said.kl(tempered, frozen[:, part].contiguous())
                kl_along += torch.autograd.grad(per_row.sum(), leaf)
                kls += per_row.detach()
    return torch.cat(along, 1), torch.cat(kl_along, 1) if kl_along else None, kls


@dataclass(frozen=True, slots=True)
class _Said:
    """What was drawn at some positions, (n, t) each."""

    policy: Policy
    head: Head
    tokens: Tensor
    mask: Tensor

    def log_likelihood(self, tempered: Tensor) -> Tensor:
        drawn = self.tokens.unsqueeze(-1)
        log_p = self.policy.log_probabilities(tempered, keep=drawn).gather(-1, drawn).squeeze(-1)
        return torch.where(self.mask, log_p, 0.0).sum()

    def kl(self, tempered: Tensor, frozen: Tensor) -> Tensor:
        """(n,), to the distribution that the `frozen` states (n, t, H) give."""
        with torch.no_grad():
            base = self.policy.tempered(self.head.logits(frozen))
        per_token = (tempered.exp() * (tempered - base)).sum(-1)
        return torch.where(self.mask, per_token, 0.0).sum(-1)


def _parts(shape: Sequence[int], vocabulary: int) -> Iterator[slice]:
    """Positions of a text (n, T) whose logits are formed together."""
    rows, steps = shape
    together = max(1, LOGITS // (rows * vocabulary))
    for start in range(0, steps, together):
        yield slice(start, start + together)


def _final_states(
    decoder: Decoder, generated: Generated, adapters: Sequence[Adapter | None], kept: Kept | None
) -> Callable[[], Tensor]:
    """What gives the final hidden states (n, T, H) from which each token of the text is predicted."""
    head = decoder.head
    if kept is None or decoder.layers is None:
        return lambda: _whole(head, generated)
    mask = torch.cat([generated.prompt_mask, torch.ones_like(generated.token_mask)], -1)[:, :-1]
    replay = Replay(head, decoder.layers, kept, mask, positions(mask))
    tail = replay.tail_suffices([t for adapter in adapters if adapter is not None for t in adapter.layout.targets])
    return lambda: replay.hidden(tail)


def _whole(head: Head, generated: Generated) -> Tensor:
    mask = torch.cat([generated.prompt_mask, generated.token_mask], -1)
    ids = torch.cat([generated.prompt, generated.tokens], -1)
    hidden, _ = head.hidden(input_ids=ids, attention_mask=mask, position_ids=positions(mask), use_cache=False)
    return hidden[:, generated.prompt.shape[1] - 1 : -1]
