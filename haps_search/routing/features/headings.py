"""The first line of a text as a choice among those often seen in training."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

_UNUSED = -1.0


@dataclass(frozen=True)
class Headings:
    """One-hot (N, D) over D known first lines; an unknown one is the zero vector.

    `lines` (D,) are hashes of 24 bits, which float32 holds exactly; -1 where fewer were learnt.
    """

    lines: NDArray[np.float32]

    @classmethod
    def fit(cls, texts: Sequence[str], dimensions: int) -> Self:
        """The most frequent first lines that stand over two different texts at least, ties by their names."""
        counts = Counter(_first(text) for text in dict.fromkeys(texts))
        often = sorted((-count, line) for line, count in counts.items() if count > 1)[:dimensions]
        lines = np.full(dimensions, _UNUSED, np.float32)
        lines[: len(often)] = [_hash(line) for _, line in often]
        return cls(lines)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[np.float32]]) -> Self:
        """What `tensors` gave, again."""
        return cls(tensors["lines"])

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """All that was learnt, by name."""
        return {"lines": self.lines}

    def transform(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(N, D)."""
        hashes = np.array([_hash(_first(text)) for text in texts], np.float32)
        return np.asarray(hashes[:, None] == self.lines, np.float32)


def _first(text: str) -> str:
    return text.split("\n", 1)[0].strip()


def _hash(line: str) -> float:
    return float(int.from_bytes(hashlib.sha256(line.encode()).digest()[:3], "big"))
