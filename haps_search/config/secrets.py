"""Passwords in addresses: where they stand, and how an address is shown without them."""

from __future__ import annotations

import re

_PLACES = (
    re.compile(r"(?<=://)(?P<kept>[^\s/@:]*:)[^\s/]+(?=@)"),
    re.compile(r"(?P<kept>[?&](?:password|passwd|token|secret|api_key)=)[^\s&#]+", re.IGNORECASE),
)


def concealed(text: str) -> str:
    """The text with `***` for every password in an address: `user:***@host`, `?password=***`."""
    for place in _PLACES:
        text = place.sub(r"\g<kept>***", text)
    return text
