"""Embeddings on disk, by model, revision and text."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

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
