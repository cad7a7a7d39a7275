"""Texts to arrays, behind one call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from haps_search.config.features import FeaturesConfig, TfidfFeatures


class TextFeatures(Protocol):
    """Reads texts; whatever it had to learn, it learnt from training texts."""

    def transform(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """One row per text, (N, D), finite; equal texts give equal rows."""
        ...


def build_features(config: FeaturesConfig, training_texts: Sequence[str], cache: Path) -> TextFeatures:
    """The features of a configuration, fitted on training texts where they learn; embeddings are kept in `cache`.

    Raises:
        CandidateError: an encoder that cannot be loaded.
    """
    if isinstance(config, TfidfFeatures):
        from haps_search.routing.features.tfidf import HashedTfidf

        return HashedTfidf.fit(training_texts, config.buckets, config.dimensions)
    from haps_search.routing.features.encoder import Encoder

    return Encoder(config, cache)
