"""Searching the few passages of one question. Rankings and what they rest on are kept, so a repeated query is free."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from haps_search.config.hotpotqa import EncoderRetrieval, Retrieval

KEPT_QUESTIONS = 1024
KEPT_RANKINGS = 16 * KEPT_QUESTIONS


@dataclass(frozen=True, slots=True)
class Passage:
    """A paragraph and its title."""

    title: str
    text: str

    @property
    def whole(self) -> str:
        return f"{self.title}. {self.text}"


Passages = tuple[Passage, ...]
Score = Callable[[str], Sequence[float]]
"""Query -> a score per passage, higher is nearer; -inf where the two have nothing in common."""
Index = Callable[[Passages], Score]


class Retriever:
    """The nearest passages to a query, by the configured score."""

    def __init__(self, config: Retrieval) -> None:
        self._config = config
        self._scores = lru_cache(KEPT_QUESTIONS)(self._index_of)
        self._ranking = lru_cache(KEPT_RANKINGS)(self._rank)

    def load(self) -> None:
        """Load what searching needs. Raises ConfigError where an encoder cannot be had."""
        _ = self._index

    def search(self, passages: Passages, query: str, count: int) -> Passages:
        """At most `count` passages, nearest first and in their own order where equal; the same for the same query.

        Raises:
            ConfigError: the encoder cannot be loaded.
        """
        return self._ranking(passages, query)[:count]

    def _index_of(self, passages: Passages) -> Score:
        return self._index(passages)

    @cached_property
    def _index(self) -> Index:
        if isinstance(self._config, EncoderRetrieval):
            from haps_search.tasks.retrieval_encoder import EncoderIndex

            return EncoderIndex(self._config)
        from haps_search.tasks.retrieval_tfidf import tfidf_index

        return tfidf_index

    def _rank(self, passages: Passages, query: str) -> Passages:
        if not passages:
            return ()
        scores = self._scores(passages)(query)
        ranked = sorted(range(len(passages)), key=lambda i: -scores[i])
        return tuple(passages[i] for i in ranked if scores[i] > -math.inf)
