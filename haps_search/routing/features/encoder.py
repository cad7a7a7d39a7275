"""Any encoder or LM through transformers, frozen, with its embeddings kept on disk."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize
from transformers.modeling_utils import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from haps_search.candidates.sources import load_encoder
from haps_search.config.features import EncoderFeatures
from haps_search.routing.features.embedding_cache import EmbeddingCache
from haps_search.routing.features.encoder_revision import OWNER
from haps_search.routing.features.encoder_source import Located, locate

CHUNK = 256
"""Texts between two writes to the cache: a kill loses no more."""


class Encoder:
    """Texts to the mean of the last hidden states over their tokens, special ones included, (N, H) float32.

    That is what sentence-transformers does for all-MiniLM-L6-v2 and most of its kin (Reimers and Gurevych, 2019).
    The model is loaded only when a text is met that the cache does not hold.
    """

    def __init__(self, config: EncoderFeatures, cache: Path) -> None:
        """Raises CandidateError for a source that is not there."""
        self._config = config
        self._located: Located = locate(config)
        self._cache = EmbeddingCache(cache, self._identity())

    def transform(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(N, H), from the cache where it has them.

        Raises:
            CandidateError: the model is needed and cannot be loaded.
        """
        missing = self._cache.missing(texts)
        # Texts of one length share a batch without padding.
        missing.sort(key=len)
        for start in range(0, len(missing), CHUNK):
            chunk = missing[start : start + CHUNK]
            self._cache.add(chunk, self._embed(chunk))
        return self._cache.rows(texts, self._located.width)

    @cached_property
    def _loaded(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        config = self._config
        return load_encoder(OWNER, self._located.source, config.dtype, config.device, config.trust_remote_code)

    def _identity(self) -> dict[str, Any]:
        """All that an embedding depends on beside its text."""
        return {
            "model": self._located.name,
            "revision": self._located.revision,
            "max_tokens": self._config.max_tokens,
            "normalise": self._config.normalise,
            "dtype": self._config.dtype,
        }

    def _embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        rows = self._config.batch_rows
        batches = [self._batch(texts[start : start + rows]) for start in range(0, len(texts), rows)]
        return torch.cat(batches).numpy()

    @torch.no_grad()
    def _batch(self, texts: Sequence[str]) -> Tensor:
        model, tokenizer = self._loaded
        batch = tokenizer(
            list(texts), padding=True, truncation=True, max_length=self._config.max_tokens, return_tensors="pt"
        ).to(model.device)
        states = model(**batch).last_hidden_state.float()
        weights = batch["attention_mask"].unsqueeze(-1).float()
        pooled: Tensor = (states * weights).sum(1) / weights.sum(1).clamp(min=1)
        return (normalize(pooled, dim=1) if self._config.normalise else pooled).cpu()
