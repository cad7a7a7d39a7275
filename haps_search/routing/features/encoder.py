"""Any encoder or LM through transformers, frozen, with its embeddings kept on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize
from transformers import AutoConfig
from transformers.modeling_utils import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from haps_search.candidates.load_errors import explained
from haps_search.candidates.sources import load_encoder
from haps_search.config.candidates import HubSource, PathSource
from haps_search.config.features import EncoderFeatures
from haps_search.routing.features.embeddings import OWNER, EmbeddingCache, named

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


@dataclass(frozen=True)
class Located:
    """An encoder that is there, and what its embeddings are known by.

    `revision` is the commit of a hub model, and otherwise what `encoder_revision.named` says. `width` is H.
    """

    source: HubSource | PathSource
    name: str
    revision: str
    width: int


def locate(config: EncoderFeatures) -> Located:
    """Find an encoder without loading its weights.

    Raises:
        CandidateError: a package that is not installed, a folder or repository that is not there.
    """
    found = named(config)
    source = found.source
    arguments: dict[str, Any] = {"trust_remote_code": config.trust_remote_code}
    if isinstance(source, HubSource):
        arguments["revision"] = source.revision
    with explained(OWNER, source):
        described = AutoConfig.from_pretrained(_where(source), **arguments)
    commit = getattr(described, "_commit_hash", None)
    width = int(described.get_text_config().hidden_size)
    return Located(source, found.name, commit or found.revision, width)


def _where(source: HubSource | PathSource) -> str:
    return source.repo if isinstance(source, HubSource) else str(Path(source.path).expanduser())
