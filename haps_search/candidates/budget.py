"""How much goes through a model at once, found by trying."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence


class TokenBudget:
    """Tokens per forward pass, padding and the tokens yet to be written included.

    It doubles when a pass filled more than half of it, and is halved where memory ran out; what did not fit once
    is not tried again.
    """

    def __init__(self, start: int) -> None:
        self.tokens = start
        self._failed = math.inf

    def fitted(self, tokens: int) -> None:
        if 2 * tokens > self.tokens:
            self.tokens = max(self.tokens, int(min(2 * self.tokens, 0.9 * self._failed)))

    def failed(self, tokens: int) -> None:
        self._failed = min(self._failed, tokens)
        self.tokens = max(1, min(self.tokens, tokens // 2))

    def batches(self, lengths: Sequence[int], rows: int) -> Iterator[list[int]]:
        """Places of `lengths`, in batches of at most `rows` that fit the budget of that moment; one always goes.

        Those of like length share a batch, so that little is padded.
        """
        order = sorted(range(len(lengths)), key=lambda i: lengths[i])
        while order:
            count = 1
            while count < min(rows, len(order)) and (count + 1) * lengths[order[count]] <= self.tokens:
                count += 1
            yield order[:count]
            del order[:count]
