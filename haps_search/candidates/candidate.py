"""What a candidate is to the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from haps_search.types import ModuleTable, Request, Response


class Candidate(Protocol):
    """A frozen LLM that answers batches. It knows nothing of rewards, algorithms or trials."""

    @property
    def table(self) -> ModuleTable:
        """Its patchable modules, for a router that never sees the model."""
        ...

    @property
    def room(self) -> int:
        """Tokens, read and written, that it takes at once at present."""
        ...

    def respond(self, requests: Sequence[Request]) -> list[Response]:
        """One response per request, in order; rows never influence one another.

        Raises:
            CandidateError: a request that this model cannot take (too long, layout of another model).
        """
        ...
