"""Ray's errors in our words: what an actor raised comes back as itself, what a machine did as PoolError."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from haps_search.errors import ConfigError, HapsError, Kind, PoolError
from haps_search.faults.kinds import kind_of
from haps_search.faults.policy import first_line

MOST_SAID = 500
"""Characters of a reason; the log has all of it."""


def unwrapped(error: RayError) -> HapsError | RayError:
    """The HapsError behind a Ray error; a lost actor or node as PoolError; anything else unchanged."""
    if isinstance(error, RayTaskError):
        cause = error.cause
        return cause if isinstance(cause, HapsError) else error
    if isinstance(error, RayActorError):
        return PoolError(f"an actor was lost: {reason_of(error)}").of_kind(kind_of(error))
    return error


def reason_of(error: BaseException) -> str:
    """What a person needs of it, on one line: of a lost process what Ray knows of its end, of an error its own text."""
    if isinstance(error, RayTaskError) and isinstance(error.cause, BaseException):
        return reason_of(error.cause)
    if isinstance(error, RayActorError):
        said = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith("\t")]
        return " ".join(dict.fromkeys(said)).partition(" Some common causes include")[0][:MOST_SAID]
    text = " ".join(str(error).split())[:MOST_SAID]
    return text if isinstance(error, HapsError) and text else f"{type(error).__name__}: {text}"


def refused(error: Exception, address: str) -> Exception:
    """ConfigError where a cluster does not take our token or gets none, PoolError where it cannot be reached.

    Anything else unchanged. Ray's own client says of a wrong token that it cannot connect.
    """
    token = (
        "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to a file (mode 0600) with the token that the cluster was "
        "started with"
    )
    if type(error).__name__ == "AuthenticationError":  # not imported: older versions of Ray know no tokens
        return ConfigError(f"{address}: {first_line(error)}; {token}")
    if isinstance(error, ConnectionError):
        said = f"{address}: {error} Is it up, and reached from here? If it wants a token, {token}"
        return PoolError(said).of_kind(Kind.TRANSIENT)
    return error


async def answer(reference: Awaitable[Any], within_s: float) -> Any:
    """Await an actor call. Raises the HapsError that the actor raised, or PoolError where the actor is gone or says
    nothing for so long."""
    try:
        # Not `wait_for`: before Python 3.12 it swallows a cancellation that meets the answer, and who was told to leave
        # goes on.
        async with asyncio.timeout(within_s):
            return await reference
    except TimeoutError as error:
        raise _unanswered(within_s) from error
    except RayError as error:
        raise unwrapped(error) from error


def got(reference: Any, within_s: float) -> Any:
    """The same in a thread that waits."""
    try:
        return ray.get(reference, timeout=within_s)
    except GetTimeoutError as error:
        raise _unanswered(within_s) from error
    except RayError as error:
        raise unwrapped(error) from error


def _unanswered(seconds: float) -> PoolError:
    said = f"an actor has not answered for {seconds:g} s: it hangs, or its node cannot be reached"
    return PoolError(said).of_kind(Kind.TRANSIENT)
