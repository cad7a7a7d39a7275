"""Hashed TF-IDF on its main directions: features that need no model and no vocabulary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
from sklearn.preprocessing import normalize

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
        if not texts:
            return np.empty((0, len(self.directions)), np.float32)
        counts = _counts(texts, len(self.idf), self.ngrams)
        counts.data = 1 + np.log(counts.data)
        weighted = normalize(counts.multiply(self.idf).tocsr())
        return np.asarray(normalize(weighted @ self.directions.T), dtype=np.float32)


def _counts(texts: Sequence[str], buckets: int, ngrams: int) -> csr_matrix:
    vectoriser = HashingVectorizer(
        n_features=buckets, token_pattern=TOKEN, ngram_range=(1, ngrams), alternate_sign=False, norm=None
    )
    return vectoriser.transform(texts)
