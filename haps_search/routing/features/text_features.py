"""Texts to arrays, behind one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from haps_search.config.features import EncoderFeatures, FeaturesConfig, HeadingFeatures

Floats = NDArray[np.float32]


class TextFeatures(Protocol):
    """Reads texts; whatever it had to learn, it learnt from training texts."""

    def transform(self, texts: Sequence[str]) -> Floats:
        """One row per text, (N, D), finite; equal texts give equal rows."""
        ...


def fit_features(config: FeaturesConfig, training: Sequence[str]) -> dict[str, Floats]:
    """What these features learn from training texts, by name; nothing for an encoder."""
    if isinstance(config, EncoderFeatures):
        return {}
    if isinstance(config, HeadingFeatures):
        from haps_search.routing.features.headings import Headings

        return Headings.fit(training, config.dimensions).tensors()
    from haps_search.routing.features.tfidf import HashedTfidf

    learnt = HashedTfidf.fit(training, config.buckets, config.dimensions, config.ngrams)
    # Few training texts give fewer directions than were asked for; heads and checkpoints have one shape all the same.
    lacking = config.dimensions - len(learnt.directions)
    # safetensors writes memory as it lies, and takes it for row-major.
    return {"idf": learnt.idf, "directions": np.ascontiguousarray(np.pad(learnt.directions, ((0, lacking), (0, 0))))}


def load_features(config: FeaturesConfig, learnt: Mapping[str, Floats], cache: Path) -> TextFeatures:
    """The features of a configuration with what they learnt; an encoder keeps its embeddings in `cache`.

    Raises:
        CandidateError: an encoder that cannot be loaded.
    """
    if isinstance(config, EncoderFeatures):
        from haps_search.routing.features.encoder import Encoder

        return Encoder(config, cache)
    if isinstance(config, HeadingFeatures):
        from haps_search.routing.features.headings import Headings

        return Headings.from_tensors(learnt)
    from haps_search.routing.features.tfidf import HashedTfidf

    return HashedTfidf.from_tensors(learnt, config.ngrams)
