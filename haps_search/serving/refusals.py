"""Errors as OpenAI's clients read them."""

from __future__ import annotations

import logging
import traceback
from typing import Any

from haps_search.errors import CandidateError, EndpointError, HapsError, Kind, PoolError, TooLong

_log = logging.getLogger(__name__)
NOT_TAKEN = frozenset({400, 413, 422})
"""What an endpoint answers where it is the question that it does not take."""
INVALID, SERVER, BUSY = "invalid_request_error", "server_error", "rate_limit_error"


class Refused(HapsError):
    """A request that is answered with an error. `field` is what of its body is at fault."""

    def __init__(
        self, status: int, message: str, field: str | None = None, code: str | None = None, again_s: int | None = None
    ) -> None:
        super().__init__(status, message, field, code, again_s)
        self.status, self.message, self.field, self.code, self.again_s = status, message, field, code, again_s

    def __str__(self) -> str:
        return self.message

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.again_s is None else {"Retry-After": str(self.again_s)}

    def to_json(self) -> dict[str, Any]:
        type_ = BUSY if self.status == 429 else SERVER if self.status >= 500 else INVALID
        return {"error": {"message": self.message, "type": type_, "param": self.field, "code": self.code}}


def refusal(error: BaseException) -> Refused:
    """What a client is told of an error. One that nobody foresaw is logged by its type and place: its text may hold a
    prompt."""
    match error:
        case Refused():
            return error
        case TooLong():
            return Refused(400, str(error), "messages", "context_length_exceeded")
        case EndpointError():
            return _behind(error)
        case CandidateError() if error.kind is Kind.PERMANENT:
            return Refused(400, str(error), "messages")
        case CandidateError() | PoolError():
            return Refused(503, str(error), None, "unavailable", 1)
        case TimeoutError():
            return Refused(503, "the answer was not whole within the time limit: ask for less", None, "timeout", 1)
        case _:
            where = "".join(traceback.format_tb(error.__traceback__))
            _log.error("%s (its text is left out, which may hold a prompt) at\n%s", type(error).__name__, where)
            return Refused(500, f"the service failed ({type(error).__name__}); its log says where", None, "internal")


def _behind(error: EndpointError) -> Refused:
    """Of a model elsewhere a client hears neither the address nor what the server says of its key."""
    _log.warning("an endpoint did not answer: status %s, %s", error.status, error.kind)
    if error.kind is not Kind.PERMANENT:
        return Refused(503, "the model behind it does not answer now", None, "unavailable", 1)
    if error.status in NOT_TAKEN:
        return Refused(400, f"the model behind it does not take this (status {error.status})", "messages")
    return Refused(
        502, "the model behind it cannot be asked; the service's log says with which status", None, "upstream"
    )
