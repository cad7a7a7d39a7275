"""Gradients of what was said with respect to the deltas it was said under.

The seam for replaying only the patched layers: `row_gradients` is all that `frozen_lm` knows of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from haps_search.candidates.generate import Generated, positions
from haps_search.candidates.policy import Policy
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
    model: PreTrainedModel,
    generated: Generated,
    samplings: Sequence[Sampling],
    deltas: Sequence[Delta | None],
    kl: bool,
) -> RowGradients:
    """A second pass over prompt and text (design section 3a): rows are separable, so one backward serves all.

    The KL is that of the whole vocabulary at each sampled prefix, at the row's temperature and before
    truncation, summed over the text.
    """
    policy = Policy(samplings, model.device)
    rows = RowDeltas(deltas, model.dtype, model.device)
    rows.require_gradients()
    with torch.enable_grad(), injected(model, rows):
        tempered = policy.tempered(_text_logits(model, generated))
    drawn = generated.tokens.unsqueeze(-1)
    log_p = policy.log_probabilities(tempered, keep=drawn).gather(-1, drawn).squeeze(-1)
    likelihood = torch.where(generated.token_mask, log_p, 0.0).sum()
    gradients = rows.gradients(likelihood, retain_graph=kl)
    if not kl:
        return RowGradients(gradients, [0.0] * rows.rows, [None] * rows.rows)
    with torch.no_grad():
        frozen = policy.tempered(_text_logits(model, generated))
    per_token = (tempered.exp() * (tempered - frozen)).sum(-1)
    per_row = torch.where(generated.token_mask, per_token, 0.0).sum(-1)
    return RowGradients(gradients, per_row.detach().tolist(), rows.gradients(per_row.sum()))


def _text_logits(model: PreTrainedModel, generated: Generated) -> Tensor:
    """Logits (n, T, V) that predict each token of the text."""
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
