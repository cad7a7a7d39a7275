"""Ray's errors in our words: what an actor raised comes back as itself, what a machine did as PoolError."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from ray.exceptions import RayActorError, RayError, RayTaskError

from haps_search.errors import HapsError, PoolError


def unwrapped(error: RayError) -> HapsError | RayError:
    """The HapsError behind a Ray error; a lost actor or node as PoolError; anything else unchanged."""
    if isinstance(error, RayTaskError):
        cause = error.cause
        return cause if isinstance(cause, HapsError) else error
    if isinstance(error, RayActorError):
        return PoolError(f"an actor was lost: {str(error).splitlines()[0]}")
    return error


async def answer(reference: Awaitable[Any]) -> Any:
    """Await an actor call. Raises the HapsError that the actor raised, or PoolError where the actor is gone."""
    try:
        return await reference
    except RayError as error:
        raise unwrapped(error) from error
