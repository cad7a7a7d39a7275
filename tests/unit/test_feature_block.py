"""Features of a run's questions: fitted on training texts, computed once, read from disk afterwards."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from haps_search.config.features import HeadingFeatures, TfidfFeatures
from haps_search.routing.features import text
from haps_search.routing.features.block import FeatureBlock
from haps_search.routing.features.text import HashedTfidf

CONFIG = TfidfFeatures(buckets=512, dimensions=6)
TRAIN = [f"{verb} the {noun}" for verb in ("add", "turn", "sort") for noun in ("words", "letters", "numbers")]
OTHERS = ["turn the page", "add numbers", "turn the page", ""]


def test_rows_are_the_features_of_their_texts(tmp_path: Path) -> None:
    block = FeatureBlock(CONFIG, TRAIN, [*TRAIN, *OTHERS[:2]], tmp_path)
    asked = [OTHERS[0], TRAIN[2], "never seen", OTHERS[3]]
    wanted = HashedTfidf.fit(TRAIN, 512, 6).transform(asked)
    np.testing.assert_allclose(block.rows(asked), wanted, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(block.rows(TRAIN), axis=1), 1, atol=1e-5)


def test_the_second_block_computes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = FeatureBlock(CONFIG, TRAIN, TRAIN, tmp_path).rows(TRAIN)

    def computed(*arguments: object) -> None:
        raise AssertionError("it was in the cache")

    monkeypatch.setattr(text, "_counts", computed)
    np.testing.assert_array_equal(FeatureBlock(CONFIG, TRAIN, TRAIN, tmp_path).rows(TRAIN), first)
    for config, train, known in (
        (TfidfFeatures(buckets=512, dimensions=5), TRAIN, TRAIN),
        (TfidfFeatures(buckets=512, dimensions=6, ngrams=1), TRAIN, TRAIN),
        (CONFIG, TRAIN[1:], TRAIN),
        (CONFIG, TRAIN, TRAIN[1:]),
    ):
        with pytest.raises(AssertionError, match="in the cache"):
            FeatureBlock(config, train, known, tmp_path)


def test_width_does_not_depend_on_how_many_texts_there_are(tmp_path: Path) -> None:
    block = FeatureBlock(CONFIG, TRAIN[:2], TRAIN, tmp_path)
    assert block.width == 6
    assert block.rows(OTHERS).shape == (4, 6)
    assert not block.rows(TRAIN)[:, 2:].any()


def test_refitted_it_reads_as_the_other_does(tmp_path: Path) -> None:
    block = FeatureBlock(CONFIG, TRAIN[:7], TRAIN, tmp_path)
    other = FeatureBlock(CONFIG, TRAIN[1:], OTHERS, tmp_path)
    asked = [*TRAIN, *OTHERS]
    assert not np.allclose(block.rows(asked), other.rows(asked))
    block.refit(other.fitted)
    np.testing.assert_allclose(block.rows(asked), other.rows(asked), atol=1e-6)


def test_a_router_over_cached_features_brings_neither_transformers_nor_sklearn(tmp_path: Path) -> None:
    """A replay trial should start in the time that torch takes."""
    program = (
        "import sys\n"
        "import haps_search.search.loop, haps_search.engines.local, haps_search.tasks.replay\n"
        "import haps_search.routing.features.block\n"
        "print(sorted({'transformers', 'sklearn', 'peft'} & set(sys.modules)))"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


def test_a_heading_is_one_hot_among_those_seen_more_than_once(tmp_path: Path) -> None:
    train = ["Task: b\n\nx", "Task: b\n\ny", "Task: b\n\ny", "Task: a\n\nx", "Task: a\n\nz", "Task: a\n\nw", "alone"]
    config = HeadingFeatures(dimensions=3)
    block = FeatureBlock(config, train, train, tmp_path)
    asked = [train[3], train[0], "Task: a\n\nnever seen", "alone", "Task: c\n\nx"]
    wanted = [[1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 0], [0, 0, 0]]
    np.testing.assert_array_equal(block.rows(asked), wanted)
    other = FeatureBlock(config, train[:2], train, tmp_path)
    np.testing.assert_array_equal(other.rows(asked)[1], [1, 0, 0])
    other.refit(block.fitted)
    np.testing.assert_array_equal(other.rows(asked), wanted)
