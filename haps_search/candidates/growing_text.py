"""The text of tokens as they come, by pieces that stay as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

HALF = "\N{REPLACEMENT CHARACTER}"
"""What a tokenizer writes for bytes that are no whole character yet."""


class GrowingText:
    """The text of one completion. Each call decodes the tokens of the last two pieces only: how a token reads may
    depend on the one before it, as with spaces at a beginning."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._said = ""
        self._from = self._to = 0

    def add(self, token: int) -> None:
        self._ids.append(token)

    def so_far(self) -> str:
        """Without a last character that is not whole yet."""
        before, now = self._text(self._from, self._to), self._text(self._from, len(self._ids))
        if len(now) > len(before) and not now.endswith(HALF):
            self._said += now[len(before) :]
            self._from, self._to = self._to, len(self._ids)
        return self._said

    def _text(self, start: int, end: int) -> str:
        return str(self._tokenizer.decode(self._ids[start:end], skip_special_tokens=True)) if end > start else ""
