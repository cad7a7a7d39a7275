"""Retrieval by a text encoder: cosine similarity of pooled hidden states."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging

from haps_search.config.candidates import HubSource, PathSource
from haps_search.config.hotpotqa import EncoderRetrieval
from haps_search.errors import ConfigError
from haps_search.tasks.passages import Passages, Score

# What transformers, tokenizers, safetensors and the hub client raise on files they cannot use.
_LOAD_ERRORS = (OSError, ValueError, RuntimeError, ImportError, KeyError, TypeError, SafetensorError)


class EncoderIndex:
    """Cosine similarity of pooled hidden states, float32. A text beyond the encoder's positions is read to its limit.

    A question's passages are embedded in one batch and a query alone, so a score never depends on other questions.
    """

    def __init__(self, config: EncoderRetrieval) -> None:
        """Raises ConfigError: it cannot be loaded, is incomplete, or has a decoder."""
        self._config, self._device = config, _device(config.device)
        self._model, self._tokenizer = _load(config)
        self._model.eval().requires_grad_(False).to(self._device)
        positions = getattr(self._model.config, "max_position_embeddings", self._tokenizer.model_max_length)
        self._longest = min(positions, self._tokenizer.model_max_length)

    def __call__(self, passages: Passages) -> Score:
        vectors = self._embed([passage.whole for passage in passages])

        def score(query: str) -> Sequence[float]:
            return [float(each) for each in vectors @ self._embed([query])[0]]

        return score

    @torch.inference_mode()
    def _embed(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors (n, H)."""
        tokens = self._tokenizer(
            list(texts), padding=True, truncation=True, max_length=self._longest, return_tensors="pt"
        ).to(self._device)
        states = self._model(**tokens).last_hidden_state
        if self._config.pooling == "cls":
            pooled = states[:, 0]
        else:
            mask = tokens["attention_mask"].unsqueeze(-1).to(states.dtype)
            pooled = (states * mask).sum(1) / mask.sum(1).clamp_min(1)
        return torch.nn.functional.normalize(pooled.float(), dim=-1).cpu()


def _load(config: EncoderRetrieval) -> tuple[Any, Any]:
    where, way_out, revision = _place(config.source)
    try:
        with _quietly():
            # The first token is CLS only where padding stands behind the text.
            tokenizer = AutoTokenizer.from_pretrained(where, padding_side="right", **revision)
            model, report = AutoModel.from_pretrained(where, dtype=torch.float32, output_loading_info=True, **revision)
    except _LOAD_ERRORS as error:
        reason = " ".join(str(error).split())[:300]
        raise _refusal(where, f"cannot be loaded ({type(error).__name__}: {reason}): {way_out}") from error
    # transformers fills missing weights at random; no pooler is used here.
    lacking = sorted(name for name in report["missing_keys"] if not name.startswith("pooler."))
    if lacking:
        raise _refusal(where, f"lacks {len(lacking)} weights ({', '.join(lacking[:3])}): get a complete checkpoint")
    if model.config.is_encoder_decoder:
        raise _refusal(where, "has a decoder: choose an encoder alone, such as one of the BERT family")
    if tokenizer.pad_token is None:
        raise _refusal(where, "has a tokenizer without padding: set pad_token in its tokenizer_config.json")
    return model, tokenizer


def _place(source: HubSource | PathSource) -> tuple[str, str, dict[str, str]]:
    """What `from_pretrained` takes, and what to do where it fails."""
    if isinstance(source, HubSource):
        return source.repo, "check repository, revision and network", {"revision": source.revision}
    return source.path, "give a folder as save_pretrained writes it", {}


@contextmanager
def _quietly() -> Iterator[None]:
    """Without progress bars and load reports: what is missing is said by `_load`."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def _refusal(where: str, reason: str) -> ConfigError:
    return ConfigError(f"task.retrieval.source: `{where}` {reason}, or use `retrieval: {{type: tfidf}}`")


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"task.retrieval.device: got `{name}`, needs auto, cpu, cuda or cuda:1") from error
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        seen = torch.cuda.device_count()
        raise ConfigError(f"task.retrieval.device: got `{name}`, and this process sees {seen} GPUs: use auto or cpu")
    return place
