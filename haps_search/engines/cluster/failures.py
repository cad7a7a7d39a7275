"""Ray's errors in our words: what an actor raised comes back as itself, what a machine did as PoolError."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from ray.exceptions import RayActorError, RayError, RayTaskError

from haps_search.errors import ConfigError, HapsError, PoolError


def unwrapped(error: RayError) -> HapsError | RayError:
    """The HapsError behind a Ray error; a lost actor or node as PoolError; anything else unchanged."""
    if isinstance(error, RayTaskError):
        cause = error.cause
        return cause if isinstance(cause, HapsError) else error
    if isinstance(error, RayActorError):
        return PoolError(f"an actor was lost: {str(error).splitlines()[0]}")
    return error


def refused(error: Exception, address: str) -> Exception:
    """ConfigError where a cluster does not take our token or gets none, PoolError where it cannot be reached.

    Anything else unchanged. Ray's own client says of a wrong token that it cannot connect.
    """
    token = (
        "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to a file (mode 0600) with the token that the cluster was "
        "started with"
    )
    if type(error).__name__ == "AuthenticationError":  # not imported: older versions of Ray know no tokens
        return ConfigError(f"{address}: {str(error).splitlines()[0]}; {token}")
    if isinstance(error, ConnectionError):
        return PoolError(f"{address}: {error} Is it up, and reached from here? If it wants a token, {token}")
    return error


async def answer(reference: Awaitable[Any]) -> Any:
    """Await an actor call. Raises the HapsError that the actor raised, or PoolError where the actor is gone."""
    try:
        return await reference
    except RayError as error:
        raise unwrapped(error) from error
