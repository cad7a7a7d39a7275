"""The token budget of a forward pass: it grows while it fits, and forgets nothing that did not."""

from __future__ import annotations

import random

from haps_search.candidates.batches import TokenBudget


def test_it_doubles_when_half_of_it_was_filled() -> None:
    budget = TokenBudget(100)
    budget.fitted(40)
    assert budget.tokens == 100
    budget.fitted(51)
    assert budget.tokens == 200
    budget.fitted(300)
    assert budget.tokens == 400


def test_it_is_halved_where_memory_ran_out_and_stays_below_that() -> None:
    budget = TokenBudget(1000)
    budget.failed(800)
    assert budget.tokens == 400
    for _ in range(5):
        budget.fitted(budget.tokens)
    assert budget.tokens == 720
    budget.failed(720)
    budget.failed(1)
    assert budget.tokens == 1


def test_batches_hold_each_place_once_within_rows_and_tokens() -> None:
    chance = random.Random(0)
    lengths = [chance.randint(1, 60) for _ in range(50)]
    batches = list(TokenBudget(100).batches(lengths, rows=6))
    assert sorted(i for batch in batches for i in batch) == list(range(50))
    for batch in batches:
        longest = max(lengths[i] for i in batch)
        assert len(batch) == 1 or len(batch) * longest <= 100
        assert len(batch) <= 6
    flat = [lengths[i] for batch in batches for i in batch]
    assert flat == sorted(flat), "those of like length together"


def test_the_next_batch_is_cut_by_the_budget_of_that_moment() -> None:
    budget = TokenBudget(20)
    batches = budget.batches([10] * 8, rows=64)
    assert len(next(batches)) == 2
    budget.tokens = 40
    assert len(next(batches)) == 4
    budget.tokens = 5
    assert [len(batch) for batch in batches] == [1, 1]
