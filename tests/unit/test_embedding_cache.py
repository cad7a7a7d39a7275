"""Embeddings on disk: by identity and text, whole whoever is killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from patience import growth, wait_for

from haps_search.routing.features import embeddings
from haps_search.routing.features.embeddings import EmbeddingCache

ONE, OTHER = {"model": "a", "revision": "1"}, {"model": "a", "revision": "2"}


def row(text: str) -> np.ndarray:
    return np.full(3, len(text), np.float32)


def shards(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


def test_what_was_added_is_there_for_the_next_process(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path, ONE)
    assert cache.missing(["b", "a", "b"]) == ["b", "a"]
    cache.add(["b", "a"], np.array([[1, 2], [3, 4]], np.float32))
    again = EmbeddingCache(tmp_path, ONE)
    assert again.missing(["b", "c", "a"]) == ["c"]
    assert again.rows(["a", "b", "a"], 2).tolist() == [[3, 4], [1, 2], [3, 4]]


def test_another_revision_knows_nothing_of_it(tmp_path: Path) -> None:
    EmbeddingCache(tmp_path, ONE).add(["a"], np.ones((1, 2), np.float32))
    assert EmbeddingCache(tmp_path, OTHER).missing(["a"]) == ["a"]
    assert '"revision": "2"' in "".join(p.read_text() for p in tmp_path.rglob("identity.json"))


def test_texts_that_nearly_agree_are_different_texts(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path, ONE)
    cache.add(["a"], np.ones((1, 2), np.float32))
    assert cache.missing(["a", "A", "a ", "\ud800"]) == ["A", "a ", "\ud800"]


def test_two_writers_do_not_meet(tmp_path: Path) -> None:
    one, two = EmbeddingCache(tmp_path, ONE), EmbeddingCache(tmp_path, ONE)
    for cache, texts in ((one, ["a", "b"]), (two, ["b", "c"])):
        cache.add(texts, np.stack([row(t) for t in texts]))
    assert EmbeddingCache(tmp_path, ONE).missing(["a", "b", "c"]) == []


@pytest.mark.parametrize("kept", [0, 5, 60, -1])
def test_a_shard_cut_short_is_embedded_again(tmp_path: Path, kept: int) -> None:
    EmbeddingCache(tmp_path, ONE).add(["a"], np.ones((1, 2), np.float32))
    EmbeddingCache(tmp_path, ONE).add(["b"], np.ones((1, 2), np.float32))
    shard = shards(tmp_path)[0]
    shard.write_bytes(shard.read_bytes()[:kept])
    cache = EmbeddingCache(tmp_path, ONE)
    (lost,) = cache.missing(["a", "b"])
    cache.add([lost], np.ones((1, 2), np.float32))
    assert EmbeddingCache(tmp_path, ONE).missing(["a", "b"]) == []


def test_a_write_that_ends_half_way_leaves_no_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(tensors: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(embeddings, "save_file", half)
    with pytest.raises(KeyboardInterrupt):
        EmbeddingCache(tmp_path, ONE).add(["a"], np.ones((1, 2), np.float32))
    assert shards(tmp_path) == []
    assert EmbeddingCache(tmp_path, ONE).missing(["a"]) == ["a"]


WRITER = """
import sys, numpy as np
from pathlib import Path
from haps_search.routing.features.embeddings import EmbeddingCache
cache = EmbeddingCache(Path(sys.argv[1]), {"model": "a", "revision": "1"})
for n in range(10**6):
    texts = [f"{n}:" + "x" * k for k in range(200)]
    cache.add(texts, np.stack([np.full(3, len(t), np.float32) for t in texts]))
"""


def test_kill_9_leaves_whole_shards(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)]) as writer:
        try:
            wait_for(lambda: len(shards(tmp_path)) >= 5, "no shards", writer, growth(tmp_path), every_s=0.01)
        finally:
            writer.kill()
    found = len(shards(tmp_path))
    assert found >= 5
    cache = EmbeddingCache(tmp_path, ONE)
    texts = [f"{n}:" + "x" * k for n in range(found) for k in range(200)]
    assert cache.missing(texts) == []
    np.testing.assert_array_equal(cache.rows(texts, 3), np.stack([row(t) for t in texts]))
