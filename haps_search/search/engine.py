"""What the loop sees of the machines."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from haps_search.config.run import Experiment
from haps_search.types import (
    Adapter,
    Question,
    Routes,
    Sampled,
    SampleRequest,
    ScoreRequest,
    Scores,
    Signal,
    Snapshot,
    UpdateReport,
)

T = TypeVar("T")


def finished(work: Coroutine[Any, Any, T]) -> T:
    """Run to its end what an engine was asked; in a thread of its own where this one's event loop runs already, as in
    a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as alone:
        return alone.submit(asyncio.run, work).result()


class Engine(Protocol):
    """A router and a pool of candidates, wherever they live. The loop cannot tell the engines apart."""

    async def load(self, experiment: Experiment) -> None:
        """Put this experiment's fresh router in the place of the one before; the candidates stay.

        Raises:
            CandidateError, ConfigError: what the router could not load.
        """
        ...

    async def route(self, questions: Sequence[Question], episodes: int, seed: int, everyone: bool = False) -> Routes:
        """Draw `episodes` assignments per question, or the likeliest one where `episodes` is 0. `everyone`: with the
        adapters of every candidate, whoever is used."""
        ...

    async def sample(self, candidate: str, requests: Sequence[SampleRequest]) -> list[Sampled]:
        """One completion per request, in order.

        Raises:
            CandidateError: the candidate cannot take a request.
            PoolError: the machines gave up on it.
        """
        ...

    async def score(self, candidate: str, requests: Sequence[ScoreRequest]) -> Scores:
        """Log-likelihoods of given completions, and their weighted gradient per adapter tensor. Raises as `sample`."""
        ...

    async def update(self, questions: Sequence[Question], signal: Signal) -> UpdateReport:
        """One optimiser step. Raises StaleUpdate, Diverged."""
        ...

    async def snapshot(self) -> Snapshot: ...

    async def restore(self, snapshot: Snapshot) -> None: ...

    async def close(self) -> None:
        """Give back what the engine holds; safe to call twice."""
        ...


class OpenEngine(Engine, Protocol):
    """One whose adapters can be had."""

    async def adapters_of(self, questions: Sequence[Question]) -> dict[tuple[int, str], Adapter]:
        """Adapters of every candidate for every question, whoever the router would choose, as torch tensors."""
        ...
