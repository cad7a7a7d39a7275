"""Prices, and the greedy route of the released code."""

from __future__ import annotations

import pytest
from made import episode, question, said

from haps_search.config.candidates import Price
from haps_search.learning.utility import cost, mean_cost, utilities

PRICES = {"a": Price(read=2.0, written=10.0), "b": Price(read=0.0, written=100.0)}


def test_tokens_are_paid_at_the_price_of_who_spoke() -> None:
    played = episode(question(), ("a", "b"), said(tokens=4), said(tokens=1))  # each read 3 tokens
    assert cost(played, PRICES) == pytest.approx((3 * 2 + 4 * 10 + 1 * 100) / 1e6)
    free = episode(question(), ("a",), said(tokens=0))
    assert mean_cost([played, free], PRICES) == pytest.approx((146 + 6) / 2e6)


def test_the_cost_is_weighted_against_the_reward_and_nothing_changes_without_weight() -> None:
    row = [episode(question(), ("a",), said(tokens=4)), episode(question(), ("b",), said(tokens=2))]
    assert utilities([[1.0, 0.5]], [row], PRICES, 0.0) == [[1.0, 0.5]]
    assert utilities([[1.0, 0.5]], [row], PRICES, 1e4)[0] == pytest.approx([1 - 0.46, 0.5 - 2.0])
