"""Searching the few passages of one question. Rankings and what they rest on are kept, so a repeated query is free."""

from __future__ import annotations

import math
from functools import cached_property, lru_cache

from haps_search.config.hotpotqa import EncoderRetrieval, Retrieval
from haps_search.tasks.passages import Index, Passages, Score, tfidf_index

KEPT_QUESTIONS = 1024
KEPT_RANKINGS = 16 * KEPT_QUESTIONS


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
        return tfidf_index

    def _rank(self, passages: Passages, query: str) -> Passages:
        if not passages:
            return ()
        scores = self._scores(passages)(query)
        ranked = sorted(range(len(passages)), key=lambda i: -scores[i])
        return tuple(passages[i] for i in ranked if scores[i] > -math.inf)
