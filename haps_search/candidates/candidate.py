"""What a candidate is to the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from haps_search.types import ModuleTable, Sampled, SampleRequest, ScoreRequest, Scores


class Candidate(Protocol):
    """A frozen LLM that samples completions and scores given ones, a batch at a time. It knows nothing of rewards,
    algorithms or trials."""

    @property
    def table(self) -> ModuleTable:
        """Its patchable modules, for a router that never sees the model."""
        ...

    @property
    def room(self) -> int:
        """Tokens, read and written, that it takes at once at present."""
        ...

    def sample(self, requests: Sequence[SampleRequest]) -> list[Sampled]:
        """One completion per request, in order; rows never influence one another.

        Raises:
            CandidateError: a request that this model cannot take (too long, layout of another model).
        """
        ...

    def score(self, requests: Sequence[ScoreRequest]) -> Scores:
        """Log-likelihoods of given completions and, where they weigh, one gradient per adapter tensor.

        Raises:
            CandidateError: a request that this model cannot take (too long, layout of another model).
        """
        ...


@runtime_checkable
class Elsewhere(Protocol):
    """A candidate whose work is done by somebody else, so that whoever asks can do other things meanwhile."""

    async def sampled(self, requests: Sequence[SampleRequest]) -> list[Sampled]:
        """As `Candidate.sample`."""
        ...


async def drawn(candidate: Candidate, requests: Sequence[SampleRequest]) -> list[Sampled]:
    """`candidate.sample` on an event loop, which waits where the work is this process's own."""
    return await candidate.sampled(requests) if isinstance(candidate, Elsewhere) else candidate.sample(requests)


Watch = Callable[[int, Callable[[], str]], bool]
"""Told after every token, by the place of its request; what it is given says the request's text so far, without
characters that the next token may change. False: nobody wants the rest."""


@runtime_checkable
class Watched(Protocol):
    """A candidate that can be watched while it samples, and leaves off what nobody wants any more."""

    def sample_watched(self, requests: Sequence[SampleRequest], watch: Watch) -> list[Sampled]:
        """As `Candidate.sample`. A batch that is tried again, where memory ran out, begins its texts anew."""
        ...
