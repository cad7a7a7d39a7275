"""Texts to arrays, behind one call."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

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
        return Headings.fit(training, config.dimensions).tensors()
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
        return Headings.from_tensors(learnt)
    return HashedTfidf.from_tensors(learnt, config.ngrams)


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


# Punctuation tells tasks apart: multiple choice, code and prose are set differently.
TOKEN = r"\w+|[^\w\s]"
SEED = 0


@dataclass(frozen=True)
class HashedTfidf:
    """Terms hashed into B buckets, tf-idf, its D main directions (latent semantic analysis), each row of length 1.

    Weights are (1 + ln count) * idf with idf = ln((1 + N) / (1 + N_term)) + 1 (scikit-learn's smoothed form), rows
    normalised, then projected by a truncated SVD of the training texts: `idf` (B,), `directions` (D, B). A text
    without any term that the directions know is the zero vector. These two arrays are all that is learnt.
    """

    idf: NDArray[np.float32]
    directions: NDArray[np.float32]
    ngrams: int = 2

    @classmethod
    def fit(cls, texts: Sequence[str], buckets: int, dimensions: int, ngrams: int = 2) -> Self:
        """Learn idf and directions from training texts. D is at most the texts and the buckets there are.

        Raises ValueError without texts.
        """
        # Loaded where texts are fitted or met: a router over cached features starts without scikit-learn.
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfTransformer

        if not texts:
            raise ValueError("tf-idf needs at least one training text")
        counts = _counts(texts, buckets, ngrams)
        weighting = TfidfTransformer(sublinear_tf=True)
        weighted = weighting.fit_transform(counts)
        # The solver is exact to rounding after these iterations, and seeded: the same texts give the same features.
        svd = TruncatedSVD(min(dimensions, *counts.shape), n_iter=7, random_state=SEED).fit(weighted)
        return cls(weighting.idf_.astype(np.float32), svd.components_.astype(np.float32), ngrams)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[np.float32]], ngrams: int = 2) -> Self:
        """What `tensors` gave, again."""
        return cls(tensors["idf"], tensors["directions"], ngrams)

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """All that was learnt, by name."""
        return {"idf": self.idf, "directions": self.directions}

    def transform(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(N, D)."""
        from sklearn.preprocessing import normalize

        if not texts:
            return np.empty((0, len(self.directions)), np.float32)
        counts = _counts(texts, len(self.idf), self.ngrams)
        counts.data = 1 + np.log(counts.data)
        weighted = normalize(counts.multiply(self.idf).tocsr())
        return np.asarray(normalize(weighted @ self.directions.T), dtype=np.float32)


def _counts(texts: Sequence[str], buckets: int, ngrams: int) -> csr_matrix:
    from sklearn.feature_extraction.text import HashingVectorizer

    vectoriser = HashingVectorizer(
        n_features=buckets, token_pattern=TOKEN, ngram_range=(1, ngrams), alternate_sign=False, norm=None
    )
    return vectoriser.transform(texts)
