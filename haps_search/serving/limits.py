"""What the service takes, and what it refuses."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one request: bytes of its body, characters of its messages, tokens that may be written, seconds until its
    answer is whole; and how many may be open at once, before the next is told to come again."""

    body_bytes: int = 1_000_000
    prompt_characters: int = 100_000
    new_tokens: int = 1024
    seconds: float = 120.0
    open_requests: int = 256
