"""Keys and values that grow in place."""

from __future__ import annotations

import torch
from made import normal
from transformers import DynamicCache

from haps_search.candidates.decode import give_room


def filled(length: int = 3) -> DynamicCache:
    cache = DynamicCache()
    cache.update(normal(2, 1, length, 4), normal(2, 1, length, 4, seed=1), 0)
    return cache


def test_it_holds_what_a_growing_cache_holds_and_moves_nothing() -> None:
    plain, roomy = filled(), filled()
    give_room(roomy, 2)
    at = roomy.layers[0].keys.data_ptr()
    for step in range(2):
        new = normal(2, 1, 1, 4, seed=2 + step), normal(2, 1, 1, 4, seed=7 + step)
        for wanted, found in zip(plain.update(*new, 0), roomy.update(*new, 0), strict=True):
            torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    assert roomy.layers[0].keys.data_ptr() == at
    assert roomy.get_seq_length() == plain.get_seq_length() == 5


def test_rows_that_leave_take_their_room_with_them() -> None:
    plain, roomy = filled(), filled()
    give_room(roomy, 2)
    rows = torch.tensor([1])
    for cache in (plain, roomy):
        cache.batch_select_indices(rows)
    new = normal(1, 1, 1, 4, seed=2), normal(1, 1, 1, 4, seed=3)
    for wanted, found in zip(plain.update(*new, 0), roomy.update(*new, 0), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)
