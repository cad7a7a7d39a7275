"""Where an encoder comes from, which revision it is, and how it is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.modeling_utils import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from haps_search.candidates.load_errors import explained
from haps_search.candidates.sources import DTYPES
from haps_search.config.candidates import HubSource, PathSource
from haps_search.config.features import EncoderFeatures
from haps_search.routing.features.encoder_revision import OWNER, named


@dataclass(frozen=True)
class Located:
    """An encoder that is there: what `from_pretrained` takes, and what its embeddings are known by.

    `revision` is the commit of a hub model, and otherwise what `encoder_revision.named` says. `width` is H.
    """

    source: HubSource | PathSource
    arguments: dict[str, Any]
    name: str
    revision: str
    width: int


@dataclass(frozen=True)
class LoadedEncoder:
    """A frozen encoder in evaluation mode; its tokenizer can pad."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    device: torch.device


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
    return Located(source, arguments, found.name, commit or found.revision, width)


def load(config: EncoderFeatures, located: Located) -> LoadedEncoder:
    """Load what was located.

    Raises:
        CandidateError: whatever stands in the way.
    """
    auto = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = config.dtype if config.dtype == "auto" else DTYPES[config.dtype]
    with explained(OWNER, located.source):
        device = torch.device(auto if config.device == "auto" else config.device)
        where = _where(located.source)
        tokenizer = AutoTokenizer.from_pretrained(where, padding_side="right", **located.arguments)
        model = AutoModel.from_pretrained(where, dtype=dtype, **located.arguments).eval().to(device)
    if tokenizer.pad_token is None:
        # LMs pad with their end token; the mask keeps it out of the mean.
        tokenizer.pad_token = tokenizer.eos_token
    return LoadedEncoder(model.requires_grad_(False), tokenizer, device)


def _where(source: HubSource | PathSource) -> str:
    return source.repo if isinstance(source, HubSource) else str(Path(source.path).expanduser())
