"""A gate between decision and play: who is escalated, what it earns and what it costs."""

from __future__ import annotations

import asyncio

import pytest
from made import NumberTask, ScriptedEngine, question

from haps_search.config.candidates import Price
from haps_search.config.run import SamplingConfig
from haps_search.search.gated import Gate, costs, score_gated

ASKED = [question("q0", "zero"), question("q1", "one")]
ENGINE = ScriptedEngine(
    {"small": {"zero": "0.25", "one": "0.5"}, "large": {"zero": "1", "one": "0.75"}},
    {"zero": ("small",), "one": ("large",)},
)
"""Of each choice the probability is exp(-1), 0.37."""


@pytest.mark.parametrize(
    ("least", "escalated", "rewards", "paid"),
    [(0.36, (False, False), (0.25, 0.75), (5e-6, 50e-6)), (0.37, (True, False), (1.0, 0.75), (50e-6, 50e-6))],
)
def test_below_its_confidence_the_fallback_plays_and_is_paid(
    least: float, escalated: tuple[bool, ...], rewards: tuple[float, ...], paid: tuple[float, ...]
) -> None:
    """Three tokens are read and two written; who would have been the fallback anyway was not escalated."""
    gate = Gate(least, "large")
    found = asyncio.run(score_gated(ENGINE, NumberTask(), ASKED, SamplingConfig(), gate))
    assert found.escalated == escalated
    assert found.share == sum(escalated) / 2
    assert found.scored.rewards == rewards
    price = {"small": Price(read=1, written=1), "large": Price(read=10, written=10)}
    assert costs(found.scored, price) == pytest.approx(paid)
