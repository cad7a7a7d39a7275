"""Texts to the features that the router's own backbone reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from haps_search.config.features import FeaturesConfig, TfidfFeatures
from haps_search.config.routing import FeaturesBackboneConfig, RoutingConfig
from haps_search.evaluation.replay.questions import Featurise
from haps_search.evaluation.routing_metrics.cells import Floats
from haps_search.routing.features.block import FeatureBlock


def read_features(routing: RoutingConfig) -> tuple[FeaturesConfig, ...]:
    """What references read: the features of the router's backbone, or hashed TF-IDF where the backbone is an LM,
    which has none that could be read without training it."""
    backbone = routing.backbone
    return backbone.features if isinstance(backbone, FeaturesBackboneConfig) else (TfidfFeatures(),)


def featurise(features: Sequence[FeaturesConfig], cache: Path) -> Featurise:
    """The blocks side by side, each row of a block of length 1, as the backbone has them.

    What features learn from texts, they learn from the training texts given. Raises CandidateError for an encoder that
    cannot be loaded.
    """

    def read(training: Sequence[str], texts: Sequence[str]) -> Floats:
        return np.concatenate([FeatureBlock(each, training, texts, cache).rows(texts) for each in features], axis=1)

    return read
