"""Chat-formatted rows: lists of messages, as chat models are trained and logged with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from haps_search.config.complaints import show
from haps_search.tasks.rows import BadRow
from haps_search.types import Message

_ROLES: Mapping[str, Literal["system", "user", "assistant"]] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
}


@dataclass(frozen=True, slots=True)
class Chat:
    """What candidates read, the last of it by the user; and what was replied, empty where nothing was."""

    messages: tuple[Message, ...]
    reply: str

    @property
    def question(self) -> str:
        return self.messages[-1].content


def read_chat(value: Any, name: str) -> Chat:
    """Messages with `role` and `content`, a text or parts of type text. Raises BadRow."""
    if not isinstance(value, list) or not value:
        raise BadRow(f"`{name}`: got {show(value)}, needs a list of messages with role and content")
    messages = [_message(each, f"{name}[{place}]") for place, each in enumerate(value)]
    reply = messages.pop().content if messages[-1].role == "assistant" else ""
    if not messages or messages[-1].role != "user":
        raise BadRow(f"`{name}`: got no message of the user at the end, or before the assistant's last, needs one")
    return Chat(tuple(messages), reply)


def _message(value: Any, name: str) -> Message:
    role = _ROLES.get(str(value.get("role"))) if isinstance(value, Mapping) else None
    if role is None:
        raise BadRow(f"`{name}`: got {show(value)}, needs a role (system, user or assistant) and content")
    content = value.get("content")
    if isinstance(content, list) and all(isinstance(part, Mapping) and part.get("type") == "text" for part in content):
        content = "\n".join(str(part.get("text", "")) for part in content)
    if not isinstance(content, str) or not content.strip():
        raise BadRow(f"`{name}.content`: got {show(content)}, needs text that is not empty")
    return Message(role, content.strip())
