"""Gradients of what was said with respect to the deltas it was said under."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from haps_search.candidates.generate import Decoder, Generated, positions
from haps_search.candidates.policy import Policy
from haps_search.candidates.suffix import Kept, Replay
from haps_search.lora.injection import RowDeltas, injected
from haps_search.types import Delta, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class RowGradients:
    """Per row: d log-likelihood / d delta (P,), the KL to the frozen model (nats), and its gradient (P,)."""

    log_likelihood: list[Tensor | None]
    kl: list[float]
    kl_gradient: list[Tensor | None]


def row_gradients(
    decoder: Decoder,
    generated: Generated,
    samplings: Sequence[Sampling],
    deltas: Sequence[Delta | None],
    kl: bool,
    kept: Kept | None = None,
) -> RowGradients:
    """A second pass over the text (design section 3a): rows are separable, so one backward serves all.

    With `kept` only the patched layers are replayed, without it the whole model.

    The KL is that of the whole vocabulary at each sampled prefix, at the row's temperature and before
    truncation, summed over the text.
    """
    model = decoder.model
    logits = _replayed(decoder, generated, deltas, kept)
    policy = Policy(samplings, model.device)
    rows = RowDeltas(deltas, model.dtype, model.device)
    rows.require_gradients()
    with torch.enable_grad(), injected(model, rows):
        tempered = policy.tempered(logits())
    drawn = generated.tokens.unsqueeze(-1)
    log_p = policy.log_probabilities(tempered, keep=drawn).gather(-1, drawn).squeeze(-1)
    likelihood = torch.where(generated.token_mask, log_p, 0.0).sum()
    gradients = rows.gradients(likelihood, retain_graph=kl)
    if not kl:
        return RowGradients(gradients, [0.0] * rows.rows, [None] * rows.rows)
    with torch.no_grad():
        frozen = policy.tempered(logits())
    per_token = (tempered.exp() * (tempered - frozen)).sum(-1)
    per_row = torch.where(generated.token_mask, per_token, 0.0).sum(-1)
    return RowGradients(gradients, per_row.detach().tolist(), rows.gradients(per_row.sum()))


def _replayed(
    decoder: Decoder, generated: Generated, deltas: Sequence[Delta | None], kept: Kept | None
) -> Callable[[], Tensor]:
    """What gives the logits (n, T, V) that predict each token of the text."""
    if kept is None or decoder.layers is None:
        return lambda: _whole(decoder.model, generated)
    mask = torch.cat([generated.prompt_mask, torch.ones_like(generated.token_mask)], -1)[:, :-1]
    replay = Replay(decoder.model, decoder.layers, kept, mask, positions(mask))
    tail = replay.tail_suffices([t for delta in deltas if delta is not None for t in delta.layout.targets])
    return lambda: replay.logits(tail)


def _whole(model: PreTrainedModel, generated: Generated) -> Tensor:
    mask = torch.cat([generated.prompt_mask, generated.token_mask], -1)
    steps = generated.tokens.shape[1]
    out = model(
        input_ids=torch.cat([generated.prompt, generated.tokens], -1),
        attention_mask=mask,
        position_ids=positions(mask),
        use_cache=False,
        logits_to_keep=steps + 1,
    )
    return out.logits[:, :-1]
