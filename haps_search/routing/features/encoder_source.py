"""Where an encoder comes from, and which revision it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from haps_search.candidates.load_errors import explained
from haps_search.config.candidates import HubSource, PathSource
from haps_search.config.features import EncoderFeatures
from haps_search.routing.features.encoder_revision import OWNER, named


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
