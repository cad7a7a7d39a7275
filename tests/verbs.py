"""Both verbs one after the other: what a candidate draws, and each completion's own gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from haps_search.candidates.candidate import Candidate
from haps_search.types import Adapter, GivenCompletion, Sampled, SampleRequest, ScoreRequest


@dataclass(frozen=True, slots=True)
class Said:
    """A completion with its score; `gradient` and `kl_gradient` are None where it has no adapter."""

    sampled: Sampled
    log_likelihood: float
    kl: float | None = None
    gradient: Tensor | None = None
    kl_gradient: Tensor | None = None


def sampled_and_scored(lm: Candidate, requests: Sequence[SampleRequest], kl: bool = True) -> list[Said]:
    """Gradients of the log-likelihood, and with `kl` those of the KL to the frozen model, in a batch of all rows."""
    drawn = lm.sample([replace(request, keep=True) for request in requests])
    asked = [_asked(request, sampled) for request, sampled in zip(requests, drawn, strict=True)]
    likelihoods = lm.score([_weighed(one, 1.0, 0.0) for one in asked])
    kls = lm.score([_weighed(one, 0.0, 1.0) for one in asked]) if kl else None
    gradients = iter(likelihoods.gradients)
    kl_gradients = iter(kls.gradients if kls is not None else ())
    found = []
    for i, (request, sampled) in enumerate(zip(asked, drawn, strict=True)):
        (score,) = likelihoods.completions[i]
        assert score is not None
        if request.adapter is None:
            found.append(Said(sampled, score.log_likelihood))
            continue
        kl_score = kls.completions[i][0] if kls is not None else None
        gradient, kl_gradient = next(gradients), next(kl_gradients, None)
        found.append(Said(sampled, score.log_likelihood, kl_score.kl if kl_score else None, gradient, kl_gradient))
    return found


def given(request: SampleRequest, sampled: Sampled, weight: float = 0.0, kl_weight: float = 0.0) -> GivenCompletion:
    return GivenCompletion(request.messages, sampled.token_ids, weight, kl_weight)


def _asked(request: SampleRequest, sampled: Sampled) -> ScoreRequest:
    """Its adapter shares no tensor with another's, so its gradient is its own."""
    adapter = request.adapter
    if adapter is not None:
        adapter = Adapter(adapter.layout, adapter.values.clone())
    return ScoreRequest((given(request, sampled),), adapter, request.sampling.distribution, every=True)


def _weighed(request: ScoreRequest, weight: float, kl_weight: float) -> ScoreRequest:
    if request.adapter is None:
        return request
    (one,) = request.completions
    return replace(request, completions=(replace(one, weight=weight, kl_weight=kl_weight),))


def same(found: Sequence[Said], wanted: Sequence[Said], likelihood: float = 1e-9) -> None:
    """Token by token, and gradients to 1e-9 in float64."""
    for a, b in zip(found, wanted, strict=True):
        assert a.sampled.token_ids == b.sampled.token_ids
        torch.testing.assert_close(a.log_likelihood, b.log_likelihood, rtol=0.0, atol=likelihood)
        assert (a.gradient is None) == (b.gradient is None)
        if b.gradient is None:
            continue
        assert float(b.gradient.norm()) > 1e-6
        torch.testing.assert_close(a.gradient, b.gradient, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(a.kl_gradient, b.kl_gradient, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(a.kl, b.kl, rtol=0.0, atol=1e-9)
