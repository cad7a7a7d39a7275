"""Splits by the hash of a text: the same for ever, and never through the middle of duplicates."""

from __future__ import annotations

import numpy as np
import pytest

from haps_search.tasks.tables.splits import folds, hash_split

TEXTS = tuple(f"What is {i} plus {i * 7 % 31}?" for i in range(2000))


def test_a_share_is_held_out_and_depends_on_the_text_alone() -> None:
    held = hash_split(TEXTS, 0.2)
    assert abs(held.mean() - 0.2) < 0.02
    assert (hash_split(TEXTS[::-1], 0.2)[::-1] == held).all()
    assert (hash_split(TEXTS[100:200], 0.2) == held[100:200]).all()


def test_where_a_text_falls_is_fixed_for_ever() -> None:
    assert np.flatnonzero(hash_split(TEXTS[:20], 0.3)).tolist() == [1, 2, 10, 12, 14, 16]
    assert folds(TEXTS[:10], 5).tolist() == [3, 3, 2, 3, 2, 4, 0, 3, 3, 1]


@pytest.mark.parametrize("split", [lambda texts: hash_split(texts, 0.5), lambda texts: folds(texts, 5)])
def test_duplicates_never_straddle(split) -> None:
    changed = tuple(f"  what IS the {text[8:-1]} ?!" for text in TEXTS)
    assert (split(TEXTS) == split(changed)).all()


def test_a_smaller_share_lies_within_a_larger_one() -> None:
    assert not (hash_split(TEXTS, 0.1) & ~hash_split(TEXTS, 0.4)).any()


def test_folds_are_even_and_independent_of_the_split_and_of_other_salts() -> None:
    parts, held = folds(TEXTS, 4), hash_split(TEXTS, 0.25)
    assert np.bincount(parts, minlength=4).min() > 440
    within = np.bincount(parts[held], minlength=4) / held.sum()
    assert np.abs(within - 0.25).max() < 0.08
    other = hash_split(TEXTS, 0.25, salt="again")
    assert abs((other & held).mean() - 0.0625) < 0.02


def test_shares_and_folds_without_sense_are_refused() -> None:
    for fraction in (0.0, 1.0, -1.0):
        with pytest.raises(ValueError, match="fraction: got"):
            hash_split(TEXTS, fraction)
    with pytest.raises(ValueError, match="folds: got 1, needs 2"):
        folds(TEXTS, 1)
