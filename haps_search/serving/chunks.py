"""Replies in OpenAI's shapes: whole, or as the events of a stream."""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

from haps_search.serving.exchange import Chat, Decided, Reply, Seats, extension
from haps_search.serving.refusals import Refused

EXTENSION = "haps"
"""The field of an answer that says what the router decided."""
HEADER = "X-Haps"
"""The same as one line of JSON, before there is an answer."""
DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Shape:
    """One answer to a chat, in the making."""

    chat: Chat
    decided: Decided
    seats: Seats
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def headers(self) -> dict[str, str]:
        return {HEADER: json.dumps(extension(self.decided, self.seats))}

    def whole(self, reply: Reply) -> dict[str, Any]:
        message = {"role": "assistant", "content": reply.text, "refusal": reply.refusal}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reply.finish}
        said = extension(self.decided, self.seats, reply)
        return {**self._head("chat.completion"), "choices": [choice], "usage": usage(reply), EXTENSION: said}

    def first(self) -> bytes:
        return self._event([_delta({"role": "assistant", "content": ""})])

    def piece(self, text: str) -> bytes:
        return self._event([_delta({"content": text})])

    def last(self, reply: Reply) -> bytes:
        """The end of the text, then where it was asked for the usage; the very last has the extension."""
        said = {EXTENSION: extension(self.decided, self.seats, reply)}
        if not self.chat.usage_told:
            return self._event([_delta({}, reply.finish)], **said) + DONE
        return self._event([_delta({}, reply.finish)]) + self._event([], usage=usage(reply), **said) + DONE

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.chat.model}

    def _event(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        told = {"usage": None} if self.chat.usage_told else {}
        return event({**self._head("chat.completion.chunk"), "choices": choices, **told, **more})


def broken(refused: Refused) -> bytes:
    """The end of a stream that failed after it had begun."""
    return event(refused.to_json())


def event(content: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(content)}\n\n".encode()


def usage(reply: Reply) -> dict[str, int]:
    read, written = reply.prompt_tokens, reply.completion_tokens
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def _delta(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": finish}
