"""One kind of features over the questions of a run: computed once, kept on disk, read by reference."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from haps_search.config.features import EncoderFeatures, FeaturesConfig
from haps_search.routing.features.embeddings import named
from haps_search.routing.features.text import Floats, TextFeatures, fit_features, load_features

_ROWS, _FITTED = "rows.npy", "fitted.safetensors"


class FeatureBlock:
    """Rows (n, width) of length 1 (0 for a text in which nothing is known).

    `fitted` is what was learnt from the training texts, by name; empty where nothing was.
    """

    def __init__(self, config: FeaturesConfig, training: Sequence[str], known: Sequence[str], cache: Path) -> None:
        """Fit on `training`; the rows of `known` texts come from `cache`, where an equal block left them.

        Raises:
            CandidateError: an encoder that is not there or cannot be loaded.
        """
        self._config, self._cache = config, cache
        self._place = {text: row for row, text in enumerate(dict.fromkeys(known))}
        folder = cache / "blocks" / _key(config, training, list(self._place))
        if not folder.is_dir():
            with _alone(folder):
                self._make(folder, training)
        # Opened by reference: processes on one machine share the pages.
        self._rows: Floats = np.load(folder / _ROWS, mmap_mode="r")
        self.fitted: Mapping[str, Floats] = load_file(folder / _FITTED)
        self.width = self._rows.shape[1]

    def rows(self, texts: Sequence[str]) -> Floats:
        """(n, width); texts that were not known from the start are read now."""
        found = np.zeros((len(texts), self.width), np.float32)
        new = [i for i, text in enumerate(texts) if text not in self._place]
        old = [i for i, text in enumerate(texts) if text in self._place]
        found[old] = self._rows[[self._place[texts[i]] for i in old]]
        if new:
            found[new] = _scaled(self._features().transform([texts[i] for i in new]))
        return found

    def refit(self, fitted: Mapping[str, Floats]) -> None:
        """Read as another run's block does, which learnt this from its own training texts. Raises ValueError where
        its shape is another."""
        if not self._differs(fitted):
            return
        self.fitted = dict(fitted)
        self._rows = _scaled(self._features().transform(list(self._place)))

    def _differs(self, fitted: Mapping[str, Floats]) -> bool:
        for name, value in self.fitted.items():
            if value.shape != fitted[name].shape:
                raise ValueError(f"{name}: got {fitted[name].shape}, needs {value.shape}")
        return any(not np.array_equal(value, fitted[name]) for name, value in self.fitted.items())

    def _features(self) -> TextFeatures:
        return load_features(self._config, self.fitted, self._cache)

    def _make(self, folder: Path, training: Sequence[str]) -> None:
        if folder.is_dir():
            return  # whoever held the lock before made it
        self.fitted = fit_features(self._config, training)
        rows = _scaled(self._features().transform(list(self._place)))
        aside = Path(tempfile.mkdtemp(prefix="aside-", dir=folder.parent))
        np.save(aside / _ROWS, rows)
        save_file(dict(self.fitted), aside / _FITTED)
        for file in aside.iterdir():
            with file.open("rb") as written:
                os.fsync(written.fileno())
        aside.rename(folder)


def _scaled(rows: Floats) -> Floats:
    """Length 1; a zero row stays."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(lengths, np.finfo(np.float32).tiny), np.float32)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process makes a folder while the others wait: embedding a table takes minutes."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # the system lets go of it with the process
        yield


def _key(config: FeaturesConfig, training: Sequence[str], known: Sequence[str]) -> str:
    described = config.model_dump(mode="json", exclude={"device", "batch_rows"})
    if isinstance(config, EncoderFeatures):
        encoder = named(config)
        described |= {"name": encoder.name, "revision": encoder.revision}
        training = ()  # it learns nothing from them
    hashed = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for texts in (training, known):
        hashed.update(hashlib.sha256(json.dumps(list(texts)).encode()).digest())
    return hashed.hexdigest()[:32]
