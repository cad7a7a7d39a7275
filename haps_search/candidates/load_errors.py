"""What went wrong while a model was loaded, said in terms of the candidate, its source and the way out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from huggingface_hub import constants
from huggingface_hub import errors as hub
from safetensors import SafetensorError

from haps_search.config.candidates import GgufSource, HubSource, PathSource, Source
from haps_search.errors import CandidateError, Kind
from haps_search.faults.kinds import chain, kind_of

# The error class of the hub's own HTTP client, which has changed before.
_HTTP_ERROR: type[Exception] = hub.HfHubHTTPError.__bases__[0]

# What transformers, tokenizers, safetensors, gguf and the hub client raise on files and repositories they
# cannot use. The lookups (KeyError to AttributeError) are how their readers stumble over damaged metadata.
LOAD_ERRORS: tuple[type[Exception], ...] = (
    OSError, ValueError, RuntimeError, ImportError, MemoryError,
    KeyError, IndexError, TypeError, AttributeError,
    SafetensorError, _HTTP_ERROR, hub.EntryNotFoundError, hub.StrictDataclassError,
)  # fmt: skip
_LONGEST = 400


def describe(source: Source) -> str:
    """A source in the words of the configuration."""
    match source:
        case HubSource():
            return f"hub `{source.repo}` at `{source.revision}`"
        case PathSource():
            return f"path `{source.path}`"
        case GgufSource():
            return f"gguf `{source.file}`" + (f" of package `{source.package}`" if source.package else "")
        case _:
            return f"zoo `{source.name}`"


def refusal(owner: str, source: Source, reason: str) -> CandidateError:
    """The error that names who, from where and why."""
    return CandidateError(f"`{owner}` from {describe(source)}: {reason}")


@contextmanager
def explained(owner: str, source: Source) -> Iterator[None]:
    """Turns what loading raises into a CandidateError of its kind; leaves every other error alone."""
    try:
        yield
    except LOAD_ERRORS as error:
        raise refusal(owner, source, _reason(error, source)).of_kind(_kind(error)) from error


def _kind(error: BaseException) -> Kind:
    """Readers stumble over a damaged file in their own ways, and again each time; what a device says may be past."""
    kind = kind_of(error)
    unknown = kind is Kind.UNKNOWN and isinstance(error, OSError | RuntimeError)
    return kind if unknown or kind is Kind.TRANSIENT else Kind.PERMANENT


def _reason(error: BaseException, source: Source) -> str:
    links = chain(error)
    for kind, reason in _reasons(source):
        if any(isinstance(link, kind) for link in links):
            return reason
    text = " ".join(str(error).split()) or type(error).__name__
    if "trust_remote_code" in text:
        return (
            "it runs Python code of its authors: read that code, then set `trust_remote_code: true` on this "
            "candidate, or choose a model that transformers supports itself"
        )
    return f"it could not be loaded ({type(error).__name__}: {text[:_LONGEST]}). {_way_out(source)}"


def _reasons(source: Source) -> tuple[tuple[type[BaseException], str], ...]:
    revision = source.revision if isinstance(source, HubSource) else ""
    return (  # subclasses before their bases
        (
            hub.GatedRepoError,
            "it is gated: accept its terms on its hub page, then `hf auth login` or set HF_TOKEN",
        ),
        (
            hub.RevisionNotFoundError,
            f"it has no revision `{revision}`: name a branch, tag or commit that it has",
        ),
        (
            hub.RepositoryNotFoundError,
            "no such repository, or a private one: check the spelling (owner/name), or set HF_TOKEN",
        ),
        (hub.OfflineModeIsEnabled, _offline(source)),
        (hub.LocalEntryNotFoundError, _offline(source)),
        (
            torch.OutOfMemoryError,
            "it does not fit into the device's memory: use `dtype: bfloat16` or a smaller model",
        ),
    )


def _offline(source: Source) -> str:
    repo = source.repo if isinstance(source, HubSource) else "<repo>"
    elsewhere = f"where there is a network, run `hf download {repo} --local-dir DIR` and use `type: path`"
    if constants.HF_HUB_OFFLINE:
        return f"it is not in the local hub cache and HF_HUB_OFFLINE is set: unset it, or {elsewhere}"
    return (
        f"the hub cannot be reached and the model is not in the local cache: {elsewhere} "
        "(HF_HUB_OFFLINE=1 makes this error immediate)"
    )


def _way_out(source: Source) -> str:
    match source:
        case HubSource():
            return "Check that the repository holds config.json, safetensors weights and a tokenizer"
        case PathSource():
            return "The folder must hold config, weights and tokenizer files, as save_pretrained writes them"
        case GgufSource():
            return "Check that the file is a complete GGUF of an architecture that transformers can convert"
        case _:
            return "The zoo's files are damaged: install the package again"
