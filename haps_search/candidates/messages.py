"""Messages as models take them that know no system role."""

from __future__ import annotations

from collections.abc import Sequence

from haps_search.types import Message


def merged(messages: Sequence[Message]) -> list[Message]:
    """The system text before the first user message; a user message of its own where there is none."""
    system = "\n\n".join(m.content for m in messages if m.role == "system")
    others = [m for m in messages if m.role != "system"]
    if not system:
        return others
    first = next((i for i, m in enumerate(others) if m.role == "user"), None)
    if first is None:
        return [Message("user", system), *others]
    joined = Message("user", f"{system}\n\n{others[first].content}")
    return [*others[:first], joined, *others[first + 1 :]]
